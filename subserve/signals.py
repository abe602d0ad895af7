"""Signals as bytes in a socket, so that one selector waits for everything.

Only the main interpreter's main thread may have signal handlers; workers never see a signal.
"""

import faulthandler
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

STOP_GRACEFULLY = frozenset({signal.SIGTERM, signal.SIGINT})
STOP_AT_ONCE = frozenset({signal.SIGQUIT})
INTERRUPT = signal.SIGINT
REOPEN_LOGS = signal.SIGUSR1
ONE_MORE, ONE_LESS = signal.SIGTTIN, signal.SIGTTOU
FOR_THE_FLEET = frozenset({REOPEN_LOGS, ONE_MORE, ONE_LESS})
"""What the supervisor passes on to its serving processes."""
TERMINATE = signal.SIGTERM
QUIT = signal.SIGQUIT
TURN_OVER = signal.SIGHUP
CHILD = signal.SIGCHLD

FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGHUP})
"""What a terminal sends to all processes at once: the supervisor tells the others what to do."""


def name_of(number: int) -> str:
    """Return the name of a signal, ``SIGTERM``; real-time signals have only a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _written_to_wakeup_fd(signum: int, frame: object) -> None:
    """Do nothing: a handler must exist for CPython to write the number to the wake-up fd."""


@contextmanager
def delivered_to(
    sock: socket.socket,
    also: Iterable[signal.Signals] = (),
    *,
    ignored_after: bool = False,
) -> Iterator[None]:
    """Have the number of each signal that stops, and of `also`, arrive at the end of `sock`.

    Afterwards handlers are as before; or, `ignored_after`, the signals are ignored: the process is
    about to end then, with an exit code that a second Ctrl-C during the last steps must not change.
    """
    sock.setblocking(False)
    wanted = STOP_GRACEFULLY | STOP_AT_ONCE | frozenset(also)
    before = {s: signal.signal(s, _written_to_wakeup_fd) for s in wanted}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_TERMINAL)  # see `held_back`
    fd_before = signal.set_wakeup_fd(sock.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_IGN if ignored_after else handler)


_STACKS = getattr(signal, "SIGRTMAX", 1) - 1
"""A real-time signal, which nobody else sends: SIGUSR2 would be one for operators."""


def stacks_are_written_to(fd: int) -> bool:
    """Prepare `ask_for_stacks`; return whether the platform has what that takes.

    For the rest of the process: without a handler, a signal that comes late would end it.
    """
    if not hasattr(signal, "SIGRTMAX"):
        return False
    # Not a file object: workers that import faulthandler would have their GC visit it.
    faulthandler.register(_STACKS, fd, all_threads=True)
    return True


def ask_for_stacks(thread: int) -> None:
    """Have a live thread, named by its `ident`, write the stacks of all threads of its interpreter.

    It is the one way to those of an interpreter whose GIL is held by C code, since the handler
    runs on the thread itself and takes no lock.  A system call that the thread waits in may end
    early, with EINTR (signal(7)); so this is for threads that are given up on.
    """
    signal.pthread_kill(thread, _STACKS)


@contextmanager
def held_back() -> Iterator[None]:
    """Have a process that is started here see no Ctrl-C before it has handlers: `delivered_to`.

    It inherits what is blocked (sigprocmask(2)); meant for the main thread, harmless in others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_interrupts_to_others() -> None:
    """Do nothing on Ctrl-C, which a terminal sends to all processes at once.

    With a handler, not ignored: what is ignored stays ignored in the processes that we start.
    """
    signal.signal(INTERRUPT, _written_to_wakeup_fd)
