"""What an app does that means another thing in a worker than in a process of its own.

Runs in a worker, before the app is there.  Functions are replaced by ones that tell and then do as
before, in this interpreter only; what has an audit event is heard by that (sys.addaudithook).
Who does it is told by the first frame outside the standard library and this package.
"""

import atexit
import locale
import os
import signal
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import subserve

type Tell = Callable[[str, str, str], None]
"""Called with what was done, to or with what, and where (``file:line``)."""

_OURS = os.path.dirname(subserve.__file__) + os.sep
_STDLIB = (*(sysconfig.get_path(n) + os.sep for n in ("stdlib", "platstdlib")), "<frozen ")
_PACKAGES = (sysconfig.get_path("purelib") + os.sep, sysconfig.get_path("platlib") + os.sep)

_FORKS = ("fork", "forkpty")
_OF_THE_PROCESS = ("umask", "setuid", "setgid", "nice", "_exit", "abort")
_AUDITED = {"os.chdir": "chdir", "resource.setrlimit": "setrlimit"}
_THREADS = {"_thread.start_new_thread", "_thread.start_joinable_thread"}


def watch(tell: Tell) -> None:
    """Tell from now on, in the thread that does it; to be called once in an interpreter."""
    replaced = [
        *(("fork", os, name) for name in _FORKS),
        *(("process", os, name) for name in _OF_THE_PROCESS),
        ("signal", signal, "signal"),
        ("signal", signal, "set_wakeup_fd"),
        ("signal", signal, "setitimer"),
        ("signal", signal, "alarm"),
        ("locale", locale, "setlocale"),
        ("atexit", atexit, "register"),
        ("main thread", threading, "main_thread"),
    ]
    for what, module, name in replaced:
        if hasattr(module, name):
            setattr(module, name, _telling(tell, what, name, getattr(module, name)))

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _THREADS:
            _tell_thread(tell, arguments)
        elif (what := _AUDITED.get(event)) is not None and (place := _place()) is not None:
            tell(what, ", ".join(map(repr, arguments[:2])), place)

    sys.addaudithook(hear)


def _telling(tell: Tell, what: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def telling(*args: Any, **kwargs: Any) -> Any:
        place = _place()
        # setlocale(LC_ALL) and setlocale(LC_ALL, None) only look.
        looks = name == "setlocale" and not any(a is not None for a in args[1:])
        if place is not None and not looks:
            tell(what, _call_text(name, args), place)
        return function(*args, **kwargs)

    return telling


def _call_text(name: str, args: tuple[Any, ...]) -> str:
    shown = [_short(argument) for argument in args[:2]]
    return f"{name}({', '.join(shown)})"


def _short(value: Any) -> str:
    if isinstance(value, signal.Signals):
        return value.name
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    return repr(value)[:60] if isinstance(value, (int, str, float)) else type(value).__name__


def _tell_thread(tell: Tell, arguments: tuple[Any, ...]) -> None:
    thread = getattr(arguments[0], "__self__", None)
    if not isinstance(thread, threading.Thread):
        if (place := _place()) is not None:
            tell("thread", "_thread", place)
        return
    if thread.name.startswith(("subserve-", "wsgi_")):
        return
    if (place := _place()) is not None:
        tell("daemon thread" if thread.daemon else "thread", thread.name, place)


def _place() -> str | None:
    """Return where the caller of the caller is, None if it is neither the app's nor a package's.

    A call by the standard library counts as that of the module which called it.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_OURS):
            if frame.f_globals.get("__name__") != __name__:
                return None
        elif path.startswith(_PACKAGES) or not path.startswith(_STDLIB):
            return f"{_shown(path)}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def _shown(path: str) -> str:
    """Return a path as a reader knows it: below site-packages, or below the current folder."""
    for folder in _PACKAGES:
        if path.startswith(folder):
            return path.removeprefix(folder)
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
