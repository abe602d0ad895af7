"""Accept connections and hand each to the least loaded worker."""

import errno
import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from selectors import EVENT_READ, BaseSelector

from subserve.coordinator.handle import WorkerHandle
from subserve.listener import (
    ACCEPTS_PER_TURN,
    ERRORS_OF_ONE_CONNECTION,
    LAST_TURNS,
    Listener,
)
from subserve.policy import least_loaded

log = logging.getLogger("subserve.acceptor")

PAUSE_SECONDS = 0.1
"""How long to let the kernel queue when there is nothing to accept with.  Not measured."""

FULL_PAUSE_SECONDS = 0.01
"""The same when all workers have as many connections as they may: the next one may end any time.
A hundred looks a second take some 0.5 % of a core."""

RETRY_SECONDS = 1.0
"""How long the coordinator accepts after a worker could not go on.  Not measured."""

COMPLAINT_INTERVAL = 5.0
"""Seconds between two warnings of the same reason to pause."""

_NOBODY = (
    "no worker takes a connection in: none is ready, or all have too many new ones waiting; "
    "the kernel queues meanwhile"
)

_FULL = (
    "all workers have as many connections as --max-connections lets them; "
    "the kernel queues meanwhile"
)

_SCARCE = (
    "the file descriptors that are left are kept for the app; the kernel queues meanwhile; "
    "raise ulimit -n, or limit --max-connections"
)

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""accept(2): the connection stays queued and the listener readable, so trying again at once would
only burn the CPU."""


class Acceptor:
    """Turns readable listeners into connections of workers.  Lives in the main thread.

    `workers` may change while it runs.  As long as none of them takes connections in, the kernel
    queues; the same while each has `max_connections`.

    Where there is one worker only, nothing is to be chosen: it accepts by itself, until there is
    another one or something is in its way.  For a moment both may accept, which does no harm.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        workers: Sequence[WorkerHandle],
        max_connections: float = math.inf,
    ) -> None:
        self._listeners = listeners
        self._workers = workers
        self._max_connections = max_connections
        self._descriptors: float = math.inf
        self._turn = 0
        self._resume_at: float | None = None
        self._undelivered: deque[socket.socket] = deque()
        self._selector: BaseSelector | None = None
        self._obstacle = _NOBODY
        self._complaints: dict[str, float] = {}
        self._listening = False
        self._deputy: WorkerHandle | None = None
        self._appoint_at = -math.inf

    def start(self, selector: BaseSelector, descriptors: float = math.inf) -> None:
        """Begin to accept, woken by `selector`, whose keys carry `accept_from` as data.

        File descriptors from the number `descriptors` on are not for connections.
        """
        self._selector = selector
        self._descriptors = descriptors
        self._listen()

    def stop(self) -> None:
        """Accept no more, and stop listening.  Idempotent."""
        self._ignore()
        self._resume_at = self._selector = self._deputy = None
        self._max_connections = self._descriptors = math.inf
        self._deliver()  # one more is better than one that is cut off
        while self._undelivered:
            self._undelivered.popleft().close()
        for listener in self._listeners:
            listener.close()

    @property
    def resume_at(self) -> float | None:
        """The monotonic moment at which `resume` is due; None while nothing is paused."""
        return self._resume_at

    def resume(self) -> None:
        """End a pause, unless there are connections that still find no worker."""
        if not self._deliver():
            self._resume_at = time.monotonic() + self._pause_seconds
            return
        self._resume_at = None
        self._listen()
        self.review()

    def review(self) -> None:
        """Leave it to a worker that is the only one, or take it back; call it after a change."""
        # With another one that starts, or ends, it will soon not be, or was not until now.
        only = self._workers[0] if len(self._workers) == 1 else None
        if only is not None and only.load is None:
            only = None
        if self._selector is None or (self._deputy is not None and self._deputy is only):
            return
        if self._deputy is not None:
            if self._deputy.load is not None:  # else it drains, which ends it as well
                self._deputy.stop_accepting()
            self._deputy = None
            self._listen()
        if only is not None and self._listening and time.monotonic() >= self._appoint_at:
            self._appoint_at = -math.inf
            socks = [listener.sock for listener in self._listeners]
            if only.let_accept(socks, self._max_connections, self._descriptors):
                self._ignore()
                self._deputy = only

    def resigned(self, worker: WorkerHandle) -> None:
        """Take it back from a worker that has met with an obstacle; it is met with here, too."""
        if worker is self._deputy:
            self._deputy = None
            self._appoint_at = time.monotonic() + RETRY_SECONDS
            if self._selector is not None:
                self._listen()

    def give_back(self, connections: Iterable[socket.socket]) -> None:
        """Take connections that a worker has not taken in, and hand them to others."""
        self._undelivered.extend(connections)
        if self._selector is None:  # nobody will take them any more
            while self._undelivered:
                self._undelivered.popleft().close()
        elif self._resume_at is None and not self._deliver():
            self._pause(self._obstacle)

    def accept_from(self, listener: Listener) -> None:
        """Accept what waits, at most `ACCEPTS_PER_TURN`."""
        if self._resume_at is not None:
            return  # another listener has met with a reason to pause in this same turn
        if -math.inf < self._appoint_at <= time.monotonic():
            self.review()
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, _ = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in ERRORS_OF_ONE_CONNECTION:
                    continue
                advice = "; raise ulimit -n" if error.errno in _OUT_OF_RESOURCES else ""
                self._obstacle = ""
                self._pause(f"cannot accept from {listener.url}: {error.strerror}{advice}")
                return
            if not self._dispatch(connection):
                self._undelivered.append(connection)
                self._pause(self._obstacle)
                return

    def accept_rest(self) -> None:
        """Accept what the kernel has queued: `stop` would reset what its clients hold for open."""
        if self._resume_at is not None:
            self.resume()
        for _ in range(LAST_TURNS):
            for listener in self._listeners:
                self.accept_from(listener)

    def _deliver(self) -> bool:
        """Hand over what is left; return whether nothing is, now."""
        while self._undelivered:
            if not self._dispatch(self._undelivered[0]):
                return False
            self._undelivered.popleft()
        return True

    def _dispatch(self, connection: socket.socket) -> bool:
        """Hand a connection over; where that cannot be, return False and note the obstacle."""
        loads = [worker.load for worker in self._workers]
        self._obstacle = _NOBODY
        if connection.fileno() >= self._descriptors and self._is_short(connection, loads):
            self._obstacle = _SCARCE
            return False
        if self._max_connections < math.inf:
            for full, load in enumerate(loads):
                if load is not None and load[0] >= self._max_connections:
                    loads[full], self._obstacle = None, _FULL
        while (place := least_loaded(loads, self._turn)) is not None:
            if self._workers[place].hand_over(connection):
                self._turn = (place + 1) % len(loads)
                return True
            loads[place] = None
        return False

    def _is_short(self, connection: socket.socket, loads: Iterable[tuple[int, int] | None]) -> bool:
        """Tell whether no descriptor is left that is for a connection, but others that will end."""
        if not any(load is not None and load[0] for load in loads):
            return False  # all are the app's, and nothing would ever change
        try:
            number = os.dup(connection.fileno())
        except OSError:
            return True
        os.close(number)
        return number >= self._descriptors

    def _listen(self) -> None:
        assert self._selector is not None
        if not self._listening:
            self._listening = True
            for listener in self._listeners:
                self._selector.register(listener.sock, EVENT_READ, (self.accept_from, listener))

    def _ignore(self) -> None:
        if self._listening and self._selector is not None:
            self._listening = False
            for listener in self._listeners:
                self._selector.unregister(listener.sock)

    @property
    def _pause_seconds(self) -> float:
        return FULL_PAUSE_SECONDS if self._obstacle is _FULL else PAUSE_SECONDS

    def _pause(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._complaints.get(reason, -math.inf) >= COMPLAINT_INTERVAL:
            log.warning("%s", reason)
            self._complaints[reason] = now
        self._ignore()
        self._resume_at = now + self._pause_seconds
