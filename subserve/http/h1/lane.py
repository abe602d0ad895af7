"""What the HTTP/1 connections of a worker share: limits, the clock, the sweep, the drain."""

import asyncio
import contextvars
import logging
import sys
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from subserve.http.access import AccessLog
from subserve.http.exchange import PROXIED
from subserve.http.forwarded import Addresses, Forwarding
from subserve.http.h1 import speed
from subserve.http.h1.connection import Connection
from subserve.http.h1.overdue import check_time
from subserve.http.h1.response import date_line
from subserve.http.h1.states import Request, State, Wishes
from subserve.options import Config
from subserve.scoreboard import Counter, Row

log = logging.getLogger("subserve.http")

LINGER_TIMEOUT: Final = 2.0
"""Seconds a client is given to see that we have answered and to stop sending.  Not measured."""

LAST_REQUEST_GRACE: Final = 0.05
"""Seconds an idle connection stays open at a drain, for a request that is on its way already.
Not measured."""

FIRST_REQUEST_GRACE: Final = 1.0
"""The same for a connection that was accepted but has not sent its first request.  Not measured."""

YEAR: Final = 365 * 24 * 3600.0
"""Seconds; more than any time-out."""

SWEEPS_PER_TIMEOUT: Final = 10
"""How much later than its time-out a connection may be dealt with: by a tenth of the shortest."""

_SHORTEST_SWEEP, _LONGEST_SWEEP = 0.02, 1.0  # s


class MakeRequest(Protocol):
    """Makes what serves one request: `AsgiRequest` or `WsgiRequest`, bound to its app."""

    def __call__(
        self,
        connection: Connection,
        method: str,
        path: str,
        raw_path: bytes,
        query: bytes,
        version: str,
        headers: list[tuple[bytes, bytes]],
        length: int,
        wishes: Wishes,
    ) -> Request:
        """Return a request that has not begun.

        `path` has percent-encoding undone, `raw_path` and `query` are as sent; `headers` belongs to
        the request; `length` is that of its body in bytes, -1 where it is not told beforehand.
        """


class Elsewhere(Protocol):
    """Serves the connections that do not speak HTTP/1.1."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""

    def open_websocket(
        self,
        lane: Lane,
        connection: Connection,
        path: str,
        raw_path: bytes,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        rest: bytes,
    ) -> bytes:
        """Serve one WebSocket from its handshake on, or return the response that refuses it.

        `rest` is what has come behind the head.
        """

    async def drain(self) -> None:
        """Let each connection end when its requests are answered."""


class Lane:
    """Makes connections, and keeps the time for them.  Lives in the loop's thread."""

    def __init__(
        self,
        config: Config,
        row: Row,
        access: AccessLog | None,
        request: MakeRequest,
        elsewhere: Elsewhere,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.context = contextvars.copy_context()
        """What requests begin in, so that none sees the variables of another."""
        self.request = request
        self.now = self.loop.time()
        """The time of the last sweep: near enough for time-outs, and free of cost to read."""
        self.date = date_line()
        """The Date header: as old as the last sweep, at most a second."""
        self.only_elsewhere = config.http == "hypercorn"
        """Whether none of the connections is served here."""
        self.draining = False
        functions = speed.choose(config.http_parser)
        self.parse_head = functions.parse_head
        self.whole_response = functions.whole_response
        self.receive_now = functions.receive_now
        self.send_now = functions.send_now
        self.wsgi_head = functions.wsgi_head
        self.add_headers = functions.add_headers
        self.access = access
        self.row = row
        self.root_path = config.root_path
        self.forwarding = Forwarding.of(config)
        self.max_header_bytes = config.max_header_bytes
        self.max_header_count = config.max_header_count
        self.max_body_bytes = config.max_body_bytes or sys.maxsize
        self.keep_alive_timeout = config.keep_alive_timeout
        self.header_timeout = config.header_timeout
        self.body_timeout = config.body_timeout
        self.write_timeout = config.write_timeout
        self.seconds_per_byte = 1 / config.min_rate if config.min_rate else YEAR
        """How much time a client buys with each byte; see `Connection.since`."""
        self.linger_timeout = LINGER_TIMEOUT
        self._idle_grace = LAST_REQUEST_GRACE
        self._elsewhere = elsewhere
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        shortest = min(
            self.keep_alive_timeout, self.header_timeout, self.body_timeout, self.write_timeout
        )
        self._interval = min(max(shortest / SWEEPS_PER_TIMEOUT, _SHORTEST_SWEEP), _LONGEST_SWEEP)
        self._timer = self.loop.call_later(self._interval, self._sweep)

    def __len__(self) -> int:
        return len(self._connections)

    def connection(self, proxied: Addresses | None = None) -> Connection:
        """Return the protocol for a connection that was accepted.

        `proxied` are its client and our end where a proxy has told them (PROXY protocol).
        """
        return Connection(self, proxied)

    # ---- what connections tell

    def opened(self, connection: Connection) -> None:
        """Take note of a connection that is ready."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Take note of one that has ended."""
        self._connections.discard(connection)
        self.row.add(Counter.CONNECTIONS_CLOSED)
        self._changed.set()

    def hand_over(self, connection: Connection, data: bytes) -> None:
        """Let the other lane go on with a connection, from `data` on, which was read already."""
        self._connections.discard(connection)
        transport = connection.transport
        reader = asyncio.StreamReader(loop=self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if data:
            reader.feed_data(data)
        writer = asyncio.StreamWriter(transport, protocol, reader, self.loop)
        self.run(self._serve_elsewhere(reader, writer, connection.proxied))

    def open_websocket(
        self,
        connection: Connection,
        path: str,
        raw_path: bytes,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        rest: bytes,
    ) -> bytes:
        """Let the WebSocket lane go on with a connection, or return what refuses its request."""
        refusal = self._elsewhere.open_websocket(
            self, connection, path, raw_path, query, headers, rest
        )
        if not refusal:
            self._connections.discard(connection)
        return refusal

    async def _serve_elsewhere(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        proxied: Addresses | None,
    ) -> None:
        PROXIED.set(proxied)
        try:
            await self._elsewhere.serve(reader, writer)
        except Exception:
            log.warning("a connection ended by an error", exc_info=True)
        finally:
            writer.transport.close()
            self.row.add(Counter.CONNECTIONS_CLOSED)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine` at once, as far as it goes, and then as a task that a drain waits for."""
        context = self.context.copy()
        task = asyncio.Task(coroutine, loop=self.loop, context=context, eager_start=True)
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    # ---- time

    def _sweep(self) -> None:
        """Tell the time to all connections: one timer a worker, however many there are."""
        last, self.now = self.now, self.loop.time()
        now = self.now
        self.date = date_line()
        self._timer = self.loop.call_later(self._interval, self._sweep)
        late = now - last - self._interval
        if late > self._interval:
            # We have not looked, or not run at all (a handler that blocks, SIGSTOP, a machine that
            # slept): what clients have sent meanwhile waits to be read, and is not late.
            for connection in self._connections:
                connection.since += late
                connection.write_since += late
        for connection in list(self._connections):
            check_time(connection, now)

    # ---- the end

    @property
    def busy(self) -> bool:
        """Whether there is anything left to wait for."""
        return bool(self._connections or self._tasks)

    def begin_drain(self, idle_grace: float = 0.0) -> None:
        """Let each connection end when its requests are answered, and the idle ones soon.

        `idle_grace`: seconds after which soon is, where it is longer than usual.
        """
        self.draining = True
        self._idle_grace = max(idle_grace, LAST_REQUEST_GRACE)
        for connection in list(self._connections):
            connection.settle()
            if connection.request is not None:
                connection.request.drain()
        self.run(self._elsewhere.drain())
        self.loop.call_later(self._idle_grace, self._close_idle, 1)
        self.loop.call_later(max(idle_grace, FIRST_REQUEST_GRACE), self._close_idle, 0)

    def close_soon(self, connection: Connection) -> None:
        """Close a connection that became idle in the drain, unless a request is on its way."""
        self.loop.call_later(self._idle_grace, self._close_if_idle, connection)

    def _close_if_idle(self, connection: Connection) -> None:
        if connection.state is State.IDLE:
            connection.close()

    def _close_idle(self, served: int) -> None:
        for connection in list(self._connections):
            idle = connection.state is State.IDLE and connection.served >= served
            if idle or (connection.state is State.HEAD and served == 0):
                connection.close()

    async def ended(self, deadline: float) -> None:
        """Wait until nothing is left, or until `deadline` (loop time)."""
        while self.busy and (left := deadline - self.loop.time()) > 0:
            self._changed.clear()
            waiter = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((waiter,), timeout=left)
            waiter.cancel()

    async def cut_off(self, timeout: float) -> int:
        """Abort what is open and cancel what then still runs; return how many it were."""
        count = len(self._tasks)
        for connection in list(self._connections):
            count += connection.state is State.ACTIVE
            connection.state = State.CLOSING
            connection.transport.abort()
        for task in self._tasks:
            task.cancel()
        await self.ended(self.loop.time() + timeout)
        self._timer.cancel()
        return count
