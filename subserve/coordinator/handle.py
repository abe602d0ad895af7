"""The coordinator's side of one worker.

Threads: a `WorkerHandle` belongs to the coordinator's main thread; only `_host` runs in the
worker's OS thread, and it touches nothing but its own arguments and `post`.
"""

import logging
import math
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from subserve.assignment import HANDED, Assignment
from subserve.channel import Channel
from subserve.coordinator.pulse import Pulse
from subserve.errors import WorkerError
from subserve.identity import WorkerInfo
from subserve.interpreter import Interpreter
from subserve.lifecycle import WorkerEvent, WorkerState, advance
from subserve.messages import Accept, Drain, DumpStacks, Message, StopAccepting
from subserve.options import Config
from subserve.policy import Member
from subserve.scoreboard import Counter, Row, Scoreboard

log = logging.getLogger("subserve")

# The worker's side is named by text: the coordinator never imports it.
_ENTER = "from subserve.worker.bootstrap import main; main(assignment)"

EXIT_MARGIN = 1.5
"""Seconds past the graceful timeout after which a worker is left alone with what still runs."""

_READ_BYTES = 4096


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
    """A worker as the coordinator sees it: state, channels, load, heartbeats, what it may do yet.

    `number` is that of its row of the scoreboard.  `deadline` is when it has to be ready, or gone
    once it has been asked to go (monotonic seconds).
    """

    def __init__(
        self,
        info: WorkerInfo,
        config: Config,
        row: Row,
        control: Channel,
        out: socket.socket,
        number: int = 0,
    ) -> None:
        self.info = info
        self.number = number
        self.state = WorkerState.STARTING
        self.control = control
        self.deadline = time.monotonic() + config.startup_timeout
        self.ready_at: float | None = None
        self.gone = False
        self.pulse = Pulse(row)
        self._row = row
        self._connections = out
        self._undelivered: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._lifetime = config.max_worker_lifetime or math.inf
        self._request_limit = math.inf
        if config.max_requests:
            self._request_limit = config.max_requests + random.randint(
                0, config.max_requests_jitter
            )

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

        It has a row of the scoreboard, which is to be taken back when all of it has ended.  `post`
        is called once, in the worker's thread, as its last act.
        """
        control_here, control_there = socket.socketpair()
        connections_here, connections_there = socket.socketpair()
        connections_here.setblocking(False)
        number = scoreboard.lend()
        handle = cls(
            info, config, scoreboard.row(number), Channel(control_here), connections_here, number
        )
        handle._undelivered = connections_there.dup()
        assignment = Assignment(
            worker=info,
            config=config,
            control_fd=control_there.detach(),
            connections_fd=connections_there.detach(),
            scoreboard_fd=scoreboard.fd,
            row=number,
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
        if self.state is not WorkerState.READY or self.gone:
            return None
        return self._row.connections, self._row.requests

    @property
    def requests(self) -> int:
        """How many requests it has answered."""
        return self._row[Counter.REQUESTS_FINISHED]

    @property
    def thread(self) -> int | None:
        """The `ident` of its OS thread while that lives."""
        assert self._thread is not None
        return self._thread.ident if self._thread.is_alive() else None

    def as_member(self) -> Member:
        """Return what there is to decide on."""
        served = self.ready_at is not None
        return Member(
            info=self.info,
            state=self.state,
            deadline=self.deadline,
            since=self.ready_at or 0.0,
            retire_at=math.inf if self.ready_at is None else self.ready_at + self._lifetime,
            requests_left=self._request_limit - self.requests,
            silent=self.pulse.loop_silent,
            served=served,
            gone=self.gone,
        )

    def take(self, event: WorkerEvent) -> None:
        """Advance the state."""
        self.state = advance(self.state, event)
        if self.state is WorkerState.READY:
            self.ready_at, self.deadline = time.monotonic(), math.inf

    def hand_over(self, connection: socket.socket) -> bool:
        """Give a connection away; False, and it stays the caller's, where the way is blocked."""
        try:
            self._connections.send(HANDED.pack(connection.fileno(), connection.family))
        except OSError:  # its buffer is full, or the worker is gone
            return False
        connection.detach()
        self._row.add(Counter.CONNECTIONS_ASSIGNED)
        return True

    def let_accept(
        self, listeners: Iterable[socket.socket], max_connections: float, max_descriptor: float
    ) -> bool:
        """Have it accept by itself, from duplicates of `listeners`; False where that cannot be."""
        doors: list[int] = []
        try:
            # Not by `socket.dup`: it makes the original block, too, if that was inherited.
            for listener in listeners:
                doors.append(os.dup(listener.fileno()))  # noqa: PERF401  kept if one fails
        except OSError as error:  # there are no more descriptors
            log.debug("worker %s cannot accept: %s", self.info, error)
        else:
            most, highest = (int(min(m, sys.maxsize)) for m in (max_connections, max_descriptor))
            if self.control.send(Accept(doors, most, highest)):
                return True  # they are the worker's now
        for door in doors:
            os.close(door)
        return False

    def stop_accepting(self) -> None:
        """Have it leave that to the coordinator again."""
        self.control.send(StopAccepting())

    def take_back(self) -> list[socket.socket]:
        """Return the connections that were handed over and that the worker has not taken in.

        That is safe at any time: the kernel gives each number to one reader.
        """
        data = b""
        if self._undelivered is not None:
            try:
                while more := self._undelivered.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                    data += more
            except BlockingIOError:
                pass  # that was all
        handed = list(HANDED.iter_unpack(data))
        self._row.add(Counter.CONNECTIONS_ASSIGNED, -len(handed))
        return [socket.socket(family, fileno=fd) for fd, family in handed]

    def drain(self, timeout: float, idle_grace: float = 0.0) -> None:
        """Ask the worker to finish within `timeout` seconds; see `Drain` for `idle_grace`.

        The end of the connection channel tells it that all connections have been handed over.
        """
        self.take(WorkerEvent.DRAIN_SENT)
        self._send_drain(timeout, idle_grace)

    def take_out(self, timeout: float) -> None:
        """Ask a worker that hangs where it does, and to drain should its loop come back."""
        self.take(WorkerEvent.SILENT)
        self.control.send(DumpStacks())
        self._send_drain(timeout)

    def refuse(self) -> None:
        """Have one end that is ready too late."""
        self._send_drain(0.0)

    def _send_drain(self, timeout: float, idle_grace: float = 0.0) -> None:
        self.deadline = time.monotonic() + timeout + EXIT_MARGIN
        self._connections.close()
        self.control.send(Drain(timeout, idle_grace))

    def receive(self) -> list[Message] | None:
        """Return the reports that have arrived, None once the worker has closed its end."""
        return self.control.receive_ready()

    def join(self, timeout: float) -> bool:
        """Wait for the worker's OS thread and free the channels; return whether it has ended.

        Idempotent.
        """
        assert self._thread is not None
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self.control.close()
        self._connections.close()
        for connection in self.take_back():
            connection.close()
        if self._undelivered is not None:
            self._undelivered.close()
            self._undelivered = None
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
