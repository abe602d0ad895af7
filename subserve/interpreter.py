"""The one module that touches CPython's interpreters API (PEP 684, PEP 734).

It uses the private `_interpreters` where the public `concurrent.interpreters` falls short: that one
forbids daemon threads, which Sentry, OpenTelemetry and many database drivers start.
"""

import _interpreters
import threading

from subserve.errors import WorkerError

_birth_and_death = threading.Lock()
"""Interpreters are made and closed one at a time: where CPython's own crashes were (gh-148929)."""

FIRST_IMPORTS = "import asyncio, ctypes, fcntl, json, mmap, ssl"
"""The C modules of the standard library that a worker needs before its own loader takes turns.

They are imported one interpreter at a time as well: ctypes fills tables of the process when it is
first imported, and doing that in two interpreters at once crashed it (seen in CPython 3.14.8).
"""

_LIVE_THREADS = """
import _thread, threading
if _thread._count():
    raise RuntimeError(', '.join(
        t.name for t in threading.enumerate()
        if t not in (threading.main_thread(), threading.current_thread())
    ) or 'a thread without a name')
"""

_LET_GO = """
pending = type.__subclasses__(type)
while pending:
    metaclass = pending.pop()
    pending += type.__subclasses__(metaclass)
    if type(metaclass) is metaclass:
        metaclass.__class__ = metaclass.__base__
import warnings
warnings.filters[:] = [
    row for row in warnings.filters
    if row[2].__module__ == 'builtins' and not hasattr(row[1], 'match')
    and not hasattr(row[3], 'match')
]
"""
"""Breaks what CPython cannot: after it the interpreter gives its memory back, 4 to 9 MiB of it.

Classes that are their own metaclass, as those of h11 are, hold a reference to themselves that the
garbage collector cannot take away.  And the filters of warnings are let go of after its last run:
a pattern in them, or a class, keeps its module, which keeps whatever it can reach.  (CPython 3.14
and 3.15.)
"""


class Interpreter:
    """A sub-interpreter with its own GIL.  All its methods block the thread that calls them.

    Raises `WorkerError` where it cannot be made, for want of memory for instance.
    """

    def __init__(self) -> None:
        config = _interpreters.new_config("isolated", allow_daemon_threads=True)
        try:
            with _birth_and_death:
                self._id = _interpreters.create(config)
                self.run(FIRST_IMPORTS)
        except (_interpreters.InterpreterError, MemoryError) as error:
            raise WorkerError(f"no interpreter could be made: {error}") from error

    def run(self, code: str, **shared: str | int) -> None:
        """Run `code` in this thread, `shared` being its global names.

        Raises `WorkerError` with the traceback where the code raised.
        """
        failure = _interpreters.exec(self._id, code, shared)
        if failure is not None:
            raise WorkerError(failure.errdisplay or failure.formatted)

    def live_threads(self) -> str | None:
        """Return the names of threads that live in it besides the caller, or None."""
        failure = _interpreters.exec(self._id, _LIVE_THREADS, {})
        return None if failure is None else str(failure.msg)

    def close(self) -> None:
        """Finalise it; no thread but the caller's may live in it (see `live_threads`)."""
        _interpreters.exec(self._id, _LET_GO, {})
        with _birth_and_death:
            _interpreters.destroy(self._id)
