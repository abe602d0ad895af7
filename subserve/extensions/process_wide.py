"""Built-in modules that belong to the process, but may be imported in a worker.

`faulthandler` and `tracemalloc` do not declare own-GIL support, with reason: they keep objects of
the interpreter that called them in variables of the process, and calls from two interpreters crash
it (``free(): invalid size`` in CPython 3.14 and 3.15).  Yet apps import them, and some call
``faulthandler.enable()`` when they start.  So workers have the modules, and of their functions
those that only look.
"""

import warnings
from collections.abc import Callable
from types import ModuleType


def tame() -> None:
    """Make the functions that act on the process do nothing, and say so, in this interpreter.

    To be called after `_imp._override_multi_interp_extensions_check`, and before the app is
    imported.
    """
    import _tracemalloc
    import faulthandler

    for name in (
        "disable",
        "register",
        "unregister",
        "dump_traceback_later",
        "cancel_dump_traceback_later",
    ):
        _replace(faulthandler, name)
    # Nothing to say if the server has done it: tracebacks of a crash are what the app asked for.
    _replace(faulthandler, "enable", unless=faulthandler.is_enabled)
    for name in ("start", "stop", "clear_traces", "reset_peak"):
        _replace(_tracemalloc, name)


def _replace(module: ModuleType, name: str, unless: Callable[[], bool] = lambda: False) -> None:
    def nothing(*args: object, **kwargs: object) -> None:
        if not unless():
            warnings.warn(
                f"{module.__name__.lstrip('_')}.{name}() does nothing in a worker: "
                "it acts on the whole process",
                RuntimeWarning,
                stacklevel=2,
            )

    if hasattr(module, name):  # Windows has fewer
        setattr(module, name, nothing)
