"""The worker's control thread: waits for commands, and beats while it does.

Interpreter: the worker's.  It shares only what it is given: a channel of its own end, a callback
that is safe to call from another thread, and one counter of the scoreboard that is its own.

It can do what the event loop cannot while a call blocks it.  Where its own heart stops, too, C
code holds the interpreter's GIL.
"""

import logging
import math
import threading
import time
from collections.abc import Callable

from subserve import log as subserve_log
from subserve.channel import Channel
from subserve.messages import (
    Accept,
    Drain,
    DumpStacks,
    Message,
    ReopenLogs,
    StopAccepting,
)
from subserve.scoreboard import Counter, Row
from subserve.worker.stacks import stacks_of_threads

log = logging.getLogger("subserve.worker")


class ControlThread:
    """Obeys each command as it arrives; `heartbeat` is the interval in seconds, 0 for none.

    `look` is called at first, and when the moment (monotonic) has come that it returned the last
    time.
    """

    def __init__(
        self,
        channel: Channel,
        on_command: Callable[[Drain | Accept | StopAccepting], object],
        row: Row,
        heartbeat: float,
        look: Callable[[float], float] = lambda _: math.inf,
    ) -> None:
        self._channel = channel
        self._on_command = on_command
        self._row = row
        self._heartbeat = heartbeat or math.inf
        self._beat_at = -math.inf if heartbeat else math.inf
        self._look = look
        self._look_at = -math.inf
        self._thread = threading.Thread(target=self._run, name="subserve-control", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; it holds no lock and runs none of the app's code."""
        self._channel.shutdown()
        self._thread.join()

    def _run(self) -> None:
        while (command := self._next()) is not None:
            self._obey(command)

    def _next(self) -> Message | None:
        while (pause := self._do_what_is_due(time.monotonic())) < math.inf:
            if self._channel.wait(pause):
                break
        return self._channel.receive()

    def _do_what_is_due(self, now: float) -> float:
        """Do it, and return in how many seconds more will be."""
        if now >= self._beat_at:
            self._row.add(Counter.CONTROL_BEATS)
            self._beat_at = now + self._heartbeat
        if now >= self._look_at:
            self._look_at = self._look(now)
        return max(0.0, min(self._beat_at, self._look_at) - now)

    def _obey(self, command: Message) -> None:
        match command:
            case Drain() | Accept() | StopAccepting():
                self._on_command(command)
            case DumpStacks():
                stacks = {subserve_log.TRACEBACK: stacks_of_threads()}
                log.warning("its threads are where the stacks above say", extra=stacks)
            case ReopenLogs():
                _reopen_logs()
            case _:
                raise AssertionError(f"not a command: {command}")


def _reopen_logs() -> None:
    try:
        subserve_log.reopen_access()
    except OSError as error:
        log.warning(
            "the access log cannot be opened anew: %s: %s; it goes on to the file it had, mend "
            "this and send USR1 again",
            error.filename,
            error.strerror,
        )
