"""Connections through Hypercorn: HTTP/1.1, HTTP/2 by ALPN, prior knowledge and h2c, WebSocket.

The one module that touches Hypercorn.  It takes one connection at a time, so that a lane of our own
can stand in front of it and pass on what it does not speak.
"""

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any, cast, override

from h2.exceptions import ProtocolError
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.logging import AccessLogAtoms
from hypercorn.logging import Logger as HypercornLogger
from hypercorn.protocol.h2 import H2Protocol

from subserve.http.exchange import Exchanges
from subserve.log import write_access
from subserve.options import Config

log = logging.getLogger("subserve.http")

LAST_REQUEST_GRACE = 0.05
"""Seconds an idle connection stays open at a drain, for a request that is on its way already.
Not measured."""

FIRST_REQUEST_GRACE = 1.0
"""The same for a connection that was accepted but has not sent its first request.  Not measured."""


class HypercornLane:
    """Serves connections with Hypercorn's protocol classes.  Lives in the loop's thread."""

    def __init__(
        self,
        exchanges: Exchanges,
        config: Config,
        state: Mapping[str, Any],
        access: logging.Logger | None,
    ) -> None:
        self._app = ASGIWrapper(cast(Any, exchanges))
        self._config = _hypercorn_config(config, access)
        self._context = WorkerContext(None)
        self._state = dict(state)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end.  Raises what Hypercorn lets through."""
        loop = asyncio.get_running_loop()
        await _Connection(
            self._app, loop, self._config, self._context, self._state, reader, writer
        ).run()

    async def drain(self) -> None:
        """Close idle connections, and each other one once its requests are answered."""
        await self._context.terminated.set()


class _Connection(TCPServer):
    """Hypercorn's connection, mended where it keeps a connection too long or ends it too soon."""

    @override
    async def _read_data(self) -> None:
        await super()._read_data()
        # Hypercorn would keep what the client has closed until the keep-alive timeout.
        await self.idle_task.stop()

    @override
    async def _idle_timeout(self) -> None:
        terminated = asyncio.ensure_future(self.context.terminated.wait())
        try:
            async with asyncio.timeout(self.config.keep_alive_timeout):
                await terminated
            await asyncio.sleep(self._grace())
        except TimeoutError:
            pass  # the keep-alive timeout: close below, as for a drain
        finally:
            terminated.cancel()
        await asyncio.shield(self._initiate_server_close())

    def _grace(self) -> float:
        served = getattr(self.protocol.protocol, "keep_alive_requests", 0)
        return LAST_REQUEST_GRACE if served else FIRST_REQUEST_GRACE

    @override
    async def _initiate_server_close(self) -> None:
        protocol = self.protocol.protocol
        if isinstance(protocol, H2Protocol):
            try:
                protocol.connection.close_connection()  # GOAWAY, RFC 9113 section 6.8
                await protocol._flush()
            except ProtocolError as error:
                log.debug("no GOAWAY: %s", error)
        await super()._initiate_server_close()


class _Logger(HypercornLogger):
    """Sends Hypercorn's records where subserve's go."""

    def __init__(self, config: HypercornConfig) -> None:
        self.access_log_format = config.access_log_format
        self.access_logger = cast("logging.Logger | None", config.accesslog)
        self.error_logger = log

    @override
    async def access(self, request: Any, response: Any, request_time: float) -> None:
        if self.access_logger is not None:
            atoms = AccessLogAtoms(request, response, request_time)
            write_access(self.access_logger, self.access_log_format, atoms)


def _hypercorn_config(config: Config, access: logging.Logger | None) -> HypercornConfig:
    made = HypercornConfig()
    made.accesslog = access
    made.access_log_format = config.access_log_format
    made.logger_class = _Logger
    made.include_server_header = False
    made.keep_alive_timeout = config.keep_alive_timeout
    # Hypercorn's default of 1000 ends an HTTP/2 connection together with its open streams.
    made.keep_alive_max_requests = sys.maxsize
    made.h11_max_incomplete_size = config.max_header_bytes
    made.h2_max_header_list_size = config.max_header_bytes
    made.websocket_max_message_size = config.ws_max_message_bytes
    return made
