"""The worker's connections: taken over from the coordinator, served by a lane, drained."""

import asyncio
import logging
import socket
import ssl
from typing import Protocol

from subserve.scoreboard import Counter, Row
from subserve.tls import HANDSHAKE_TIMEOUT

log = logging.getLogger("subserve.connections")

FD_BYTES = 4
_READ_BYTES = 4096

CUT_OFF_TIMEOUT = 0.3
"""Seconds that an app is given to end after its connection was cut off.  Not measured."""


HANDSHAKE_GRACE = 1.0
"""Seconds that a TLS handshake may still take when the worker drains.  Not measured."""


class Lane(Protocol):
    """What speaks HTTP over a connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""

    async def drain(self) -> None:
        """Let each connection end when its requests are answered."""


class Connections:
    """All connections of one worker.  Lives in the loop's thread."""

    def __init__(
        self, source: socket.socket, lane: Lane, row: Row, tls: ssl.SSLContext | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._source.setblocking(False)
        self._lane = lane
        self._row = row
        self._tls = tls
        self._rest = b""
        self._all_arrived: asyncio.Future[None] = self._loop.create_future()
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter | None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> None:
        """Begin to take connections over."""
        self._loop.add_reader(self._source, self._arrived)

    async def drain(self, deadline: float) -> int:
        """Let the connections end by `deadline` (loop time); cut off the rest and count them."""
        # The coordinator has closed its end; what it had handed over until then is served.
        await self._all_arrived
        await self._lane.drain()
        self._loop.call_later(HANDSHAKE_GRACE, self._drop_handshakes)
        if self._open:
            await asyncio.wait(self._open, timeout=max(0.0, deadline - self._loop.time()))
        return await self._cut_off() if self._open else 0

    def _arrived(self) -> None:
        data = self._source.recv(_READ_BYTES)
        if not data:
            self._loop.remove_reader(self._source)
            self._source.close()
            self._all_arrived.set_result(None)
            return
        data = self._rest + data
        whole = len(data) - len(data) % FD_BYTES
        self._rest = data[whole:]
        for place in range(0, whole, FD_BYTES):
            self._take_over(int.from_bytes(data[place : place + FD_BYTES], "little"))

    def _take_over(self, fd: int) -> None:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        task = self._loop.create_task(self._serve(sock))
        self._open[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        self._row.add(Counter.CONNECTIONS_CLOSED)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.warning("a connection ended by an error", exc_info=error)

    async def _serve(self, sock: socket.socket) -> None:
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol,
                sock,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT if self._tls else None,
            )
        except (OSError, EOFError) as error:  # ssl.SSLError is an OSError
            log.debug("handshake failed: %s", error)
            sock.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._open[task] = writer
        try:
            await self._lane.serve(reader, writer)
        finally:
            transport.close()

    def _drop_handshakes(self) -> None:
        """At a drain, do not wait for clients that have not even finished their TLS handshake."""
        for task, writer in self._open.items():
            if writer is None:
                task.cancel()

    async def _cut_off(self) -> int:
        """Abort what is open, and cancel what then still runs."""
        count = len(self._open)
        for writer in self._open.values():
            if writer is not None:
                writer.transport.abort()
        for task in self._open:
            task.cancel()
        await asyncio.wait(self._open, timeout=CUT_OFF_TIMEOUT)
        return count
