"""Signals as bytes in a socket, so that one selector waits for everything.

Only the main interpreter's main thread may have signal handlers; workers never see a signal.
"""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

STOP_GRACEFULLY = frozenset({signal.SIGTERM, signal.SIGINT})
STOP_AT_ONCE = frozenset({signal.SIGQUIT})
INTERRUPT = signal.SIGINT


def _written_to_wakeup_fd(signum: int, frame: object) -> None:
    """Do nothing: a handler must exist for CPython to write the number to the wake-up fd."""


@contextmanager
def delivered_to(sock: socket.socket, *, ignored_after: bool = False) -> Iterator[None]:
    """Have the number of each signal arrive as a byte at the other end of `sock`.

    Afterwards handlers are as before; or, `ignored_after`, the signals are ignored: the process is
    about to end then, with an exit code that a second Ctrl-C during the last steps must not change.
    """
    sock.setblocking(False)
    before = {s: signal.signal(s, _written_to_wakeup_fd) for s in STOP_GRACEFULLY | STOP_AT_ONCE}
    fd_before = signal.set_wakeup_fd(sock.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_IGN if ignored_after else handler)
