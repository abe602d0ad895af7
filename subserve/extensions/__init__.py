"""Extension modules in workers.

`isolate` makes any of them work in a sub-interpreter with its own GIL; `native` leaves them to
CPython and explains its refusals.  A worker calls one of the two, once, before it imports anything
that is not of the standard library.  `loaded` says afterwards what was loaded, and how, `report`
also what was not; `observe` tells while it happens.  See docs/extensions.md.
"""

from subserve.extensions.loader import isolate, native
from subserve.extensions.registry import (
    Failure,
    LoadedExtension,
    Mode,
    Step,
    loaded,
    observe,
    report,
)

__all__ = [
    "Failure",
    "LoadedExtension",
    "Mode",
    "Step",
    "isolate",
    "loaded",
    "native",
    "observe",
    "report",
]
