"""What tests change and a process has only once: its current folder, its environment, its end.

With several interpreters in a process, tests that change them would meet those of others.
Interpreter: one that runs tests; to be called by its host thread before the suite is imported.
"""

import _posixsubprocess
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

_OF_FORK_EXEC, _OF_POSIX_SPAWN = 5, 2
"""The place of the environment among their arguments (CPython 3.14 and 3.15)."""


def own_folder() -> bool:
    """Give this thread, and those it starts, a current folder and a umask of their own.

    Returns whether the system allows it: some containers do not (unshare(2), CLONE_FS).
    """
    try:
        os.unshare(os.CLONE_FS)
    except AttributeError, OSError:
        return False
    return True


def own_environment() -> None:
    """Keep what is changed in `os.environ` in this interpreter and in the processes it starts.

    Each has an `os.environ` already, but changing it changes the process's as well.  That is also
    unsafe: threads with GILs of their own would call setenv(3) while others call getenv(3).
    """

    def only_here(*name_and_value: object) -> None:
        """Leave the environment of the process alone."""

    for name in ("putenv", "unsetenv"):  # which `os.environ` calls
        setattr(os, name, only_here)
    # `subprocess` starts processes by the one or the other, `multiprocessing` by the first.
    for module, name, place in (
        (_posixsubprocess, "fork_exec", _OF_FORK_EXEC),
        (subprocess, "_fork_exec", _OF_FORK_EXEC),
        (os, "posix_spawn", _OF_POSIX_SPAWN),
    ):
        setattr(module, name, _with_environment(getattr(module, name), place))


def _with_environment(start: Callable[..., Any], place: int) -> Callable[..., Any]:
    """Return `start` with the interpreter's environment for None, which means the process's.

    It is the argument at `place`: for ``fork_exec`` a list of ``KEY=value``, else a mapping.
    """

    def with_environment(*args: Any, **options: Any) -> Any:
        if args[place] is None:
            environment: Any = os.environ
            if place == _OF_FORK_EXEC:
                environment = [key + b"=" + value for key, value in os.environb.items()]
            args = (*args[:place], environment, *args[place + 1 :])
        return start(*args, **options)

    return with_environment


def announce_exit(announce: Callable[[str], object]) -> None:
    """Have ``os._exit`` call `announce` first, with a text that says from where it was called."""
    really = os._exit

    def _exit(status: int) -> NoReturn:
        announce(f"os._exit({status}) was called here:\n\n{_stacks(sys._getframe(1))}")
        really(status)

    os._exit = _exit


def _stacks(caller: FrameType) -> str:
    """Return the stack of the caller, and those of other threads: a watchdog ends what they do."""
    texts = ["".join(traceback.format_stack(caller))]
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            stack = "".join(traceback.format_stack(frame))
            texts.append(f"At that time, thread {ident:#x}:\n\n{stack}")
    return "\n".join(texts)
