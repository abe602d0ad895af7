"""Raise an exception in another thread of this interpreter, where that does no harm.

CPython raises it between two instructions of the thread, whatever these are.  One place is known to
be bad and easy to meet: a thread that waits for a lock gets the lock first and the exception then,
before the ``with`` or ``try`` that would give it back (seen on 3.14; CPython gh-74174 has the story
of such windows).  A lock that is never given back stops more than one request, so such a thread is
left to wait.
"""

import ctypes
import dis
import sys
import threading
import traceback
from types import FrameType

_ACQUIRING = frozenset({"acquire", "__enter__"})

_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
_set_exception.restype = ctypes.c_int


def interrupt(ident: int, exception: type[BaseException]) -> bool:
    """Have the thread `ident` (`threading.get_ident`) raise `exception` at its next instruction.

    A call of C code that blocks comes first to its end.  Returns False, and does nothing, where the
    thread waits for a lock or has ended.
    """
    frame = sys._current_frames().get(ident)
    if frame is None or waits_for_lock(frame):
        return False
    return bool(_set_exception(ident, id(exception)))


def take_back(ident: int) -> None:
    """Take back what `interrupt` has asked for, unless it was raised already."""
    _set_exception(ident, None)


def waits_for_lock(frame: FrameType) -> bool:
    """Tell whether a thread that is at `frame` may be in the middle of taking a lock."""
    if frame.f_code is _WAIT:
        return False  # it gives back in any case what it takes: conditions, events, queues
    instructions = list(dis.get_instructions(frame.f_code))
    here = next((i for i in instructions if i.offset == frame.f_lasti), None)
    if here is None or not here.opname.startswith("CALL"):
        return False
    return any(
        instruction.opname in {"LOAD_ATTR", "LOAD_SPECIAL"}
        and _name_of(instruction) in _ACQUIRING
        and _beginning(instruction) == _beginning(here)
        for instruction in instructions
        if instruction.offset < here.offset
    )


def _name_of(instruction: dis.Instruction) -> str:
    by_name = instruction.opname == "LOAD_ATTR"  # others have a number, and its meaning as text
    return str(instruction.argval) if by_name else instruction.argrepr


def _beginning(instruction: dis.Instruction) -> tuple[int | None, int | None]:
    """Return where its expression begins; that of ``with lock:`` is ``lock``, for all it does."""
    positions = instruction.positions
    return (None, None) if positions is None else (positions.lineno, positions.col_offset)


_WAIT = threading.Condition.wait.__code__


def stack_of(ident: int) -> str:
    """Return the stack of a thread as text, innermost call last; empty where it has ended."""
    frame = sys._current_frames().get(ident)
    return "" if frame is None else "".join(traceback.format_stack(frame))
