"""The worker's connections: taken over from the coordinator, given to a lane, drained."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial

from subserve.assignment import HANDED
from subserve.http.h1.lane import Lane
from subserve.scoreboard import Counter, Row
from subserve.worker.door import Door
from subserve.worker.loops import AsyncioLoop
from subserve.worker.proxied import ProxyProtocol
from subserve.worker.transport import Names, SocketTransport

log = logging.getLogger("subserve.worker")

_READ_BYTES = 4096

CUT_OFF_TIMEOUT = 0.3
"""Seconds that an app is given to end after its connection was cut off.  Not measured."""

HANDSHAKE_GRACE = 1.0
"""Seconds that a TLS handshake may still take when the worker drains.  Not measured."""


class Connections:
    """All connections of one worker.  Lives in the loop's thread."""

    def __init__(
        self,
        source: socket.socket,
        lane: Lane,
        row: Row,
        context: ssl.SSLContext | None,
        proxy_protocol: ProxyProtocol | None,
        resign: Callable[[], object],
    ) -> None:
        self.door = Door(row, self._take_over, resign)
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._source.setblocking(False)
        self._lane = lane
        self._row = row
        self._context = context
        self._proxy_protocol = proxy_protocol
        self._rest = b""
        self._all_arrived: asyncio.Future[None] = self._loop.create_future()
        self._handshakes: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return self._row.connections

    def start(self) -> None:
        """Begin to take connections over."""
        self._loop.add_reader(self._source, self._arrived)

    async def drain(self, deadline: float, idle_grace: float = 0.0) -> int:
        """Let the connections end by `deadline` (loop time); cut off the rest and count them."""
        self.door.close_for_good(last=not idle_grace)
        self._lane.draining = True
        log.info("draining %d connections, %d requests", len(self), self._row.requests)
        # The coordinator has closed its end; what it had handed over until then is served.
        await self._all_arrived
        self._lane.begin_drain(idle_grace)
        self._loop.call_later(HANDSHAKE_GRACE, self._drop_handshakes)
        if self._handshakes:
            left = max(0.0, deadline - self._loop.time())
            await asyncio.wait(self._handshakes, timeout=left)
        await self._lane.ended(deadline)
        return await self._lane.cut_off(CUT_OFF_TIMEOUT)

    def _arrived(self) -> None:
        data = self._source.recv(_READ_BYTES)
        if not data:
            self._loop.remove_reader(self._source)
            self._source.close()
            self._all_arrived.set_result(None)
            return
        data = self._rest + data
        whole = len(data) - len(data) % HANDED.size
        self._rest = data[whole:]
        for fd, family in HANDED.iter_unpack(data[:whole]):
            self._take_over(fd, family)

    def _take_over(self, fd: int, family: int, names: Names = (None, None)) -> None:
        os.set_blocking(fd, False)
        plain = self._context is None and self._proxy_protocol is None
        if plain and isinstance(self._loop, AsyncioLoop):
            lane = self._lane
            SocketTransport(
                self._loop, fd, family, lane.connection(), lane.receive_now, lane.send_now, names
            )
            return
        sock = socket.socket(family, socket.SOCK_STREAM, fileno=fd)
        task = asyncio.Task(self._connect(sock), loop=self._loop, eager_start=True)
        if not task.done():
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _connect(self, sock: socket.socket) -> None:
        timeout = self._lane.header_timeout if self._context is not None else None
        try:
            make = self._lane.connection
            if self._proxy_protocol is not None:
                make = partial(make, await self._proxy_protocol.read(sock))
            await self._loop.connect_accepted_socket(
                make, sock, ssl=self._context, ssl_handshake_timeout=timeout
            )
        except (OSError, EOFError, asyncio.CancelledError) as error:  # ssl.SSLError is an OSError
            log.debug("handshake failed: %s", error)
            sock.close()
            self._row.add(Counter.CONNECTIONS_CLOSED)
            if isinstance(error, asyncio.CancelledError):
                raise

    def _drop_handshakes(self) -> None:
        """At a drain, do not wait for clients that have not even finished their TLS handshake."""
        for task in self._handshakes:
            task.cancel()
