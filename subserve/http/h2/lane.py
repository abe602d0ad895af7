"""What the HTTP/2 connections of a worker share: limits, the clock, the sweep, the drain."""

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from subserve.http.access import AccessLog
from subserve.http.exchange import Exchanges
from subserve.http.h2 import answers, fields
from subserve.http.h2.connection import Connection
from subserve.options import Config

log = logging.getLogger("subserve.http")

LINGER_TIMEOUT: Final = 2.0
"""Seconds a client is given to see that we have answered and to stop sending.  Not measured."""

LAST_REQUEST_GRACE: Final = 0.05
"""Seconds in which a drain still takes requests that are on their way already.  Not measured."""

FIRST_REQUEST_GRACE: Final = 1.0
"""The same for a connection that has not sent its first request.  Not measured."""

SWEEPS_PER_TIMEOUT: Final = 10
"""How much later than its time-out something may be dealt with: by a tenth of the shortest."""

_SHORTEST_SWEEP, _LONGEST_SWEEP = 0.02, 1.0  # s

BLOCK_MARGIN_BYTES: Final = 4096
"""How much larger than the limit a header block may be as it is sent: it is decoded, and answered
with 431."""


class H2Lane:
    """Serves connections, and keeps the time for them.  Lives in the loop's thread."""

    def __init__(
        self,
        exchanges: Exchanges,
        config: Config,
        state: Mapping[str, Any],
        access: logging.Logger | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.exchanges = exchanges
        self.state = dict(state)
        self.now = self.loop.time()
        """The time of the last sweep: near enough for time-outs, and free of cost to read.

        It stands still while we do not run: what clients have sent meanwhile is not late.
        """
        self._stood_still = 0.0  # s
        self.date = answers.date_field()
        self.access = AccessLog(access, config.access_log_format) if access is not None else None
        self.logs_headers = access is not None and "}o" in config.access_log_format
        self.max_streams = config.h2_max_concurrent_streams
        self.max_header_bytes = config.max_header_bytes
        self.max_header_count = config.max_header_count
        self.max_block_bytes = config.max_header_bytes + BLOCK_MARGIN_BYTES
        self.max_body_bytes = config.max_body_bytes or sys.maxsize
        self.keep_alive_timeout = config.keep_alive_timeout
        self.header_timeout = config.header_timeout
        self.body_timeout = config.body_timeout
        self.write_timeout = config.write_timeout
        self.linger_timeout = LINGER_TIMEOUT
        self._draining = False
        self._connections: set[Connection] = set()
        shortest = min(
            self.keep_alive_timeout, self.header_timeout, self.body_timeout, self.write_timeout
        )
        self._interval = min(max(shortest / SWEEPS_PER_TIMEOUT, _SHORTEST_SWEEP), _LONGEST_SWEEP)
        self._timer: asyncio.TimerHandle | None = None

    async def serve(
        self,
        transport: asyncio.Transport,
        data: bytes,
        upgraded: tuple[fields.Head, bytes] | None = None,
    ) -> None:
        """Serve one connection to its end, beginning with `data`, which was read already.

        `upgraded` is a request in HTTP/1.1 that asked for it, and the settings in it.
        """
        if self._timer is None:
            self._tell_time()
            self._timer = self.loop.call_later(self._interval, self._sweep)
        connection = Connection(self, transport)
        self._connections.add(connection)
        transport.set_protocol(connection)
        try:
            if upgraded is None:
                connection.begin()
            else:
                connection.begin_upgraded(*upgraded)
            transport.resume_reading()
            if data:
                connection.data_received(data)
            if self._draining:
                self._drain(connection)
            await connection.ended
        except asyncio.CancelledError:
            connection.abort()
            for task in connection.tasks:
                task.cancel()
            raise
        finally:
            self._connections.discard(connection)
            if connection.tasks:
                # The drain waits for what runs, though its client has gone.
                await asyncio.wait(connection.tasks)

    def drain(self) -> None:
        """Let each connection end when its requests are answered, and the idle ones soon."""
        self._draining = True
        for connection in list(self._connections):
            self._drain(connection)

    def _drain(self, connection: Connection) -> None:
        connection.announce()
        grace = LAST_REQUEST_GRACE if connection.served else FIRST_REQUEST_GRACE
        self.loop.call_later(grace, connection.leave)

    def _tell_time(self) -> float:
        self.date = answers.date_field()
        self.now = self.loop.time() - self._stood_still
        return self.now

    def _sweep(self) -> None:
        """Tell the time to all connections, as long as there are any."""
        last, now = self.now, self._tell_time()
        late = now - last - self._interval
        if late > self._interval:
            # A handler that blocks, SIGSTOP, a machine that slept.
            self._stood_still += late
            now = self._tell_time()
        for connection in list(self._connections):
            connection.check_time(now)
        self._timer = None
        if self._connections:
            self._timer = self.loop.call_later(self._interval, self._sweep)
