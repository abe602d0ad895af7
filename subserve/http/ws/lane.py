"""What the WebSockets of a worker share: the app, limits, the sweep, the drain."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from subserve.http.exchange import CLOSE_HANDSHAKE_TIMEOUT, App
from subserve.http.ws import speed
from subserve.http.ws.asgi import Exchange, make_scope
from subserve.http.ws.connection import Connection
from subserve.http.ws.deflate import Settings
from subserve.http.ws.handshake import BAD_REQUEST, Handshake, Headers, Rejected
from subserve.options import Config
from subserve.scoreboard import Counter, Row

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection as HttpConnection
    from subserve.http.h1.lane import Lane

log = logging.getLogger("subserve.http")

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a client is given to answer our close frame; less in a drain.  Not measured."""

UNAVAILABLE: Final = 503

SWEEPS_PER_TIMEOUT: Final = 10
"""How much later than its time-out a connection may be dealt with: by a tenth of the shortest."""

_SHORTEST_SWEEP, _LONGEST_SWEEP = 0.02, 1.0  # s


class WebSocketLane:
    """Takes connections over from the HTTP/1.1 lane.  Lives in the loop's thread."""

    def __init__(
        self, app: App, config: Config, state: dict[str, Any], row: Row, lane: Lane
    ) -> None:
        self.loop = lane.loop
        self.context = lane.context
        self.app = app
        self.row = row
        self.max_message_bytes = config.ws_max_message_bytes
        self.ping_interval = config.ws_ping_interval
        self.ping_timeout = config.ws_ping_timeout
        self.write_timeout = config.write_timeout
        self.linger_timeout = lane.linger_timeout
        self.close_timeout = CLOSE_TIMEOUT
        self.take_message, self.unmask = speed.choose(config.http_parser)
        self._state = state
        self._settings: Settings | None = None
        if config.ws_compression == "on":
            self._settings = Settings(
                config.ws_window_bits, context_takeover=config.ws_context_takeover == "on"
            )
        self.lane = lane
        """Where the connections come from."""
        self._connections: set[Connection] = set()
        timeouts = (self.ping_interval, self.ping_timeout, self.write_timeout, self.linger_timeout)
        shortest = min(timeout for timeout in timeouts if timeout) / SWEEPS_PER_TIMEOUT
        self._interval = min(max(shortest, _SHORTEST_SWEEP), _LONGEST_SWEEP)
        self._timer: asyncio.TimerHandle | None = None

    def open(
        self,
        http: HttpConnection,
        path: str,
        raw_path: bytes,
        query: bytes,
        headers: Headers,
        rest: bytes,
    ) -> bytes:
        """Serve a connection whose request asks for a WebSocket, and return nothing.

        `path` has percent-encoding undone, `raw_path` and `query` are as sent, `rest` is what has
        come behind the head.  Where there is to be no WebSocket, return the response that says so.
        """
        scope = make_scope(http, self._state, path, raw_path, query, headers)
        try:
            handshake = Handshake(headers, self._settings)
            if rest:
                raise Rejected(BAD_REQUEST, "a client that speaks before the handshake is over")
            if self.lane.draining:
                raise Rejected(UNAVAILABLE, "the worker drains")
        except Rejected as rejected:
            log.debug("refused with %d: %s", rejected.status, rejected.reason)
            self.log_access(scope, time.monotonic(), rejected.status, b"", 0)
            return rejected.response(self.lane.date)
        connection = Connection(self, http, scope)
        self._connections.add(connection)
        http.transport.set_protocol(connection)
        if self._timer is None:
            self._timer = self.loop.call_later(self._interval, self._sweep)
        self.lane.run(Exchange(self.app, connection, handshake, scope).run())
        return b""

    def lost(self, connection: Connection) -> None:
        """Take note of a connection that has ended."""
        self._connections.discard(connection)
        self.row.add(Counter.CONNECTIONS_CLOSED)

    def drain(self) -> None:
        """Close all connections, so that their clients come back to whoever serves next."""
        self.close_timeout = CLOSE_HANDSHAKE_TIMEOUT
        for connection in list(self._connections):
            connection.restart()

    def _sweep(self) -> None:
        """Tell the time to all connections; there is no timer where there are none."""
        now = self.loop.time()
        for connection in list(self._connections):
            connection.check_time(now)
        self._timer = None
        if self._connections:
            self._timer = self.loop.call_later(self._interval, self._sweep)

    def log_access(
        self, scope: dict[str, Any], started_at: float, status: int, head: bytes, size: int
    ) -> None:
        """Write the line of a handshake that has been answered."""
        if (access := self.lane.access) is not None:
            seconds = time.monotonic() - started_at
            access.write({**scope, "method": "GET"}, status, head, size, seconds)
