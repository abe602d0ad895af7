"""The coordinator's side of one worker.

Threads: a `WorkerHandle` belongs to the coordinator's main thread; only `_host` runs in the
worker's OS thread, and it touches nothing but its own arguments and `post`.
"""

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from subserve.assignment import Assignment
from subserve.channel import Channel
from subserve.errors import WorkerError
from subserve.identity import WorkerInfo
from subserve.interpreter import Interpreter
from subserve.lifecycle import WorkerEvent, WorkerState, advance
from subserve.messages import Drain, Message
from subserve.options import Config
from subserve.scoreboard import Counter, Row, Scoreboard

# The worker's side is named by text: the coordinator never imports it.
_ENTER = "from subserve.worker.bootstrap import main; main(assignment)"


@dataclass(frozen=True, slots=True)
class HostEnded:
    """The OS thread of a worker is about to end; `detail` says what broke or which threads live.

    `left_open`: its interpreter could not be closed, for threads live in it.
    """

    worker: WorkerInfo
    event: WorkerEvent
    detail: str = ""
    left_open: bool = False


class WorkerHandle:
    """A worker as the coordinator sees it: state, channels, load."""

    def __init__(self, info: WorkerInfo, row: Row, control: Channel, out: socket.socket) -> None:
        self.info = info
        self.state = WorkerState.STARTING
        self.control = control
        self._row = row
        self._connections = out
        self._thread: threading.Thread | None = None

    @classmethod
    def start(
        cls,
        info: WorkerInfo,
        config: Config,
        scoreboard: Scoreboard,
        scratch: str,
        sys_path: list[str],
        post: Callable[[HostEnded], None],
    ) -> WorkerHandle:
        """Make the channels and the thread, and let the worker begin; it reports when ready.

        `post` is called once, in the worker's thread, as its last act.
        """
        control_here, control_there = socket.socketpair()
        connections_here, connections_there = socket.socketpair()
        connections_here.setblocking(False)
        handle = cls(info, scoreboard.row(info.index), Channel(control_here), connections_here)
        assignment = Assignment(
            worker=info,
            config=config,
            control_fd=control_there.detach(),
            connections_fd=connections_there.detach(),
            scoreboard_fd=scoreboard.fd,
            scratch=scratch,
            sys_path=sys_path,
        )
        # A daemon: one that cannot be stopped must not keep the process from ending.
        handle._thread = threading.Thread(
            target=_host, args=(assignment, post), name=f"worker-{info}", daemon=True
        )
        handle._thread.start()
        return handle

    @property
    def load(self) -> tuple[int, int] | None:
        """Open connections and requests in flight; None where it takes no connection."""
        if self.state is not WorkerState.READY:
            return None
        return self._row.connections, self._row.requests

    def take(self, event: WorkerEvent) -> None:
        """Advance the state."""
        self.state = advance(self.state, event)

    def hand_over(self, connection: socket.socket) -> bool:
        """Give a connection away; False, and it stays the caller's, where the way is blocked."""
        try:
            self._connections.send(connection.fileno().to_bytes(4, "little"))
        except OSError:  # its buffer is full, or the worker is gone
            return False
        connection.detach()
        self._row.add(Counter.CONNECTIONS_ASSIGNED)
        return True

    def drain(self, timeout: float, idle_grace: float = 0.0) -> None:
        """Ask the worker to finish within `timeout` seconds; see `Drain` for `idle_grace`.

        The end of the connection channel tells it that all connections have been handed over.
        """
        self.take(WorkerEvent.DRAIN_SENT)
        self._connections.close()
        self.control.send(Drain(timeout, idle_grace))

    def receive(self) -> list[Message] | None:
        """Return the reports that have arrived, None once the worker has closed its end."""
        return self.control.receive_ready()

    def join(self, timeout: float) -> bool:
        """Wait for the worker's OS thread and free the channels; return whether it has ended."""
        assert self._thread is not None
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self.control.close()
        self._connections.close()
        return True


def _host(assignment: Assignment, post: Callable[[HostEnded], None]) -> None:
    """Hold an interpreter for as long as the worker lives.  Runs in the worker's OS thread."""
    info = assignment.worker
    try:
        interpreter = Interpreter()
    except WorkerError as error:
        os.close(assignment.control_fd)
        os.close(assignment.connections_fd)
        post(HostEnded(info, WorkerEvent.BROKE, str(error)))
        return
    broken = ""
    try:
        interpreter.run(_ENTER, assignment=assignment.to_json())
    except WorkerError as error:
        broken = str(error)
    threads = interpreter.live_threads()
    if threads is None:
        interpreter.close()
    if broken:
        post(HostEnded(info, WorkerEvent.BROKE, broken, left_open=threads is not None))
    elif threads is not None:
        post(HostEnded(info, WorkerEvent.THREADS_LEFT, threads, left_open=True))
    else:
        post(HostEnded(info, WorkerEvent.CLOSED))
