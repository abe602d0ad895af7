"""Connections through Hypercorn: HTTP/1.1, HTTP/2 by ALPN, prior knowledge and h2c, WebSocket.

With `hypercorn_mended` the only module that touches Hypercorn.  It takes one connection at a time,
so that a lane of our own can stand in front of it and pass on what it does not speak.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Mapping
from typing import Any, cast, override

import h11
from h2.exceptions import ProtocolError
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.logging import AccessLogAtoms
from hypercorn.logging import Logger as HypercornLogger
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection

from subserve.http import hypercorn_mended
from subserve.http.exchange import Exchanges
from subserve.http.sockets import unsent_bytes
from subserve.log import write_access
from subserve.options import Config

log = logging.getLogger("subserve.http")

LINGER_TIMEOUT = 2.0
"""Seconds a client is given to see that we have answered and to stop sending.  Not measured."""

_READ_BYTES = 65536

TLS_CLOSE_INTERVAL = 0.1
"""Seconds between looks whether a TLS client has got all before its connection is closed."""

WRITES_PER_TURN = 16
"""How often in a row the apps of a connection may write without a turn of the event loop."""

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
        hypercorn_mended.put_in_place()
        self._app = cast(Any, exchanges)
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
    """Hypercorn's connection, mended where it keeps a connection too long or ends it too soon.

    The connection's own task reads; the tasks of its apps write, and may be the ones to close it.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reader_task = asyncio.current_task()
        self._input_over = asyncio.Event()
        self._closing = False
        self._is_tls = self.writer.get_extra_info("ssl_object") is not None
        self._writes = 0

    @override
    async def _read_data(self) -> None:
        # Hypercorn's own would go on after it has closed: the transport reads no more then.
        try:
            while not self._closing and (data := await self.reader.read(_READ_BYTES)):
                await self.protocol.handle(RawData(data))
            await self._discard()
        except OSError as error:  # ssl.SSLError is one
            log.debug("a connection broke: %s", error)
        self._input_over.set()
        await self.protocol.handle(Closed())
        # Hypercorn would keep what the client has closed until the keep-alive timeout.
        await self.idle_task.stop()

    async def _discard(self) -> None:
        while not self.reader.at_eof():
            await self.reader.read(_READ_BYTES)

    @override
    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Closed) and not self._closing:
            await self._close_in_stages()
            return
        if isinstance(event, Updated) and self._input_over.is_set():
            return  # an app that ends after its client has gone does not begin an idle time
        if isinstance(event, hypercorn_mended.BrokenOff):
            self._reset()
            return
        await super().protocol_send(event)
        if isinstance(event, RawData):
            # A client that reads as fast as an app writes would have the loop for itself; and
            # uvloop does not even notice, without a turn, that a TLS connection is gone.
            self._writes += 1
            if self._writes % WRITES_PER_TURN == 0:
                await asyncio.sleep(0)

    def _reset(self) -> None:
        if self.writer.is_closing():
            return
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _close_in_stages(self) -> None:
        """Let a client that still sends see our last words (RFC 9112, section 9.6).

        Closing on what is unread, the body of an upload that was refused say, would reset the
        connection, and take with it what the client has not read yet.
        """
        self._closing = True
        still_sends = True
        protocol = self.protocol.protocol
        if isinstance(protocol, H11Protocol):
            # Without half-closed connections, as with TLS, a WebSocket client that has answered
            # our close frame would wait for us, and we for it.
            is_websocket = isinstance(protocol.connection, H11WSConnection)
            still_sends = not (is_websocket and self._is_tls) and _still_sends(protocol.connection)
            protocol.connection = cast(Any, _NothingMore())
        if still_sends:
            # TLS has no half-closed state here, and uvloop objects where the client has gone.
            with contextlib.suppress(NotImplementedError, RuntimeError, OSError):
                self.writer.write_eof()
            with contextlib.suppress(OSError):  # TimeoutError is one
                async with asyncio.timeout(LINGER_TIMEOUT):
                    await self._until_input_is_over()
        await self._close()

    async def _until_input_is_over(self) -> None:
        if asyncio.current_task() is self._reader_task:
            await self._discard()
        else:
            await self._input_over.wait()

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
        await self.protocol.handle(Closed())
        self.writer.close()
        await self._until_closed()

    @override
    async def _close(self) -> None:
        self.writer.close()
        await self._until_closed()
        await self.idle_task.stop()

    async def _until_closed(self) -> None:
        """Wait until all is sent; do not wait for a TLS client to say good-bye, too.

        asyncio would, for 30 s, and clients with a pool of idle connections do not even look.
        RFC 8446, section 6.1: there is no need to wait for the other side's close_notify.
        """
        closed = asyncio.ensure_future(self.writer.wait_closed())
        while self._is_tls and not closed.done():
            await asyncio.wait((closed,), timeout=TLS_CLOSE_INTERVAL)
            if not closed.done() and not unsent_bytes(self.writer.transport):
                self.writer.transport.abort()
        try:
            await closed
        except OSError as error:
            log.debug("a connection broke: %s", error)


def _still_sends(connection: h11.Connection | H11WSConnection) -> bool:
    """Tell whether more may come than the requests that have been answered."""
    requests_over = connection.their_state in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}
    return not requests_over or bool(connection.trailing_data[0])


class _NothingMore:
    """Takes the place of the parser when a connection closes: nothing more comes in or goes out.

    Hypercorn would wait for ever for leave to parse a pipelined request.
    """

    our_state = None
    their_state = h11.CLOSED
    they_are_waiting_for_100_continue = False
    trailing_data = (b"", True)

    def receive_data(self, data: bytes) -> None:
        """Drop it."""

    def next_event(self) -> type[h11.NEED_DATA]:
        return h11.NEED_DATA

    def send(self, event: object) -> bytes:
        return b""


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
