"""What is not HTTP/1.1: HTTP/2 and WebSocket; and Hypercorn, which speaks all of them, if chosen.

Each is loaded when a client first asks for it: most workers need none of them.
"""

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any, cast

from subserve import tls
from subserve.http.exchange import App, Exchanges
from subserve.http.forwarded import Forwarding
from subserve.http.h1.head import HTTP2_PREFACE, Refused
from subserve.http.h1.response import date_line, error_response
from subserve.options import Config
from subserve.scoreboard import Row

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection
    from subserve.http.h1.lane import Lane
    from subserve.http.h2.fields import Head
    from subserve.http.h2.lane import H2Lane
    from subserve.http.hypercorn_lane import HypercornLane
    from subserve.http.ws.lane import WebSocketLane

    type Upgraded = tuple[Head, bytes]

log = logging.getLogger("subserve.http")


class OtherProtocols:
    """Stands for the other lanes until a client needs one."""

    def __init__(
        self,
        app: App,
        config: Config,
        state: dict[str, Any],
        access: logging.Logger | None,
        row: Row,
    ) -> None:
        self._app = app
        self._row = row
        self._exchanges = Exchanges(app, row, config.root_path, Forwarding.of(config))
        self._config = config
        self._state = state
        self._access = access
        self._http2: asyncio.Task[H2Lane] | None = None
        self._hypercorn: asyncio.Task[HypercornLane] | None = None
        self._websockets: WebSocketLane | None = None
        self._draining = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        if self._config.http == "hypercorn":
            await self._serve_by_hypercorn(reader, writer)
            return
        secured = writer.get_extra_info("ssl_object")
        if secured is not None and tls.has_agreed_on_http2(secured):
            await self._serve_http2(writer, b"")
            return
        # The head of a request, complete, or the beginning of HTTP/2: all of it is there already.
        data = await reader.read(sys.maxsize)
        if data.startswith(HTTP2_PREFACE):
            await self._serve_http2(writer, data)
        else:
            await self._serve_upgraded(writer, data)

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
        """Serve one WebSocket from its handshake on, or return the response that refuses it."""
        if self._websockets is None:
            from subserve.http.ws.lane import WebSocketLane

            self._websockets = WebSocketLane(self._app, self._config, self._state, self._row, lane)
        return self._websockets.open(connection, path, raw_path, query, headers, rest)

    async def drain(self) -> None:
        """Let each connection end when its requests are answered."""
        self._draining = True
        self._exchanges.drain()
        if self._websockets is not None:
            self._websockets.drain()
        if self._http2 is not None and self._http2.done():
            self._http2.result().drain()
        if self._hypercorn is not None and self._hypercorn.done():
            await self._hypercorn.result().drain()

    # ---- HTTP/2

    async def _serve_http2(
        self, writer: asyncio.StreamWriter, data: bytes, upgraded: Upgraded | None = None
    ) -> None:
        if self._http2 is None:
            self._http2 = asyncio.create_task(self._load_http2())
        transport = cast("asyncio.Transport", writer.transport)
        if not self._http2.done():
            transport.pause_reading()  # until there is somebody to read
        lane = await asyncio.shield(self._http2)
        await lane.serve(transport, data, upgraded)

    async def _serve_upgraded(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        from subserve.http.h2 import upgrade

        config = self._config
        try:
            head, settings, rest = upgrade.parse(
                data, config.max_header_bytes, config.max_header_count
            )
        except Refused as refusal:
            log.debug("refused with %d: %s", refusal.status, refusal.reason)
            writer.write(error_response(refusal.status, date_line()))
            return
        await self._serve_http2(writer, rest, (head, settings))

    async def _load_http2(self) -> H2Lane:
        # In a thread: it takes some 0.1 s, in which others want to be served.
        make = await asyncio.to_thread(_import_http2)
        lane = make(self._exchanges, self._config, self._state, self._access)
        if self._draining:
            lane.drain()
        return lane

    # ---- Hypercorn

    async def _serve_by_hypercorn(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._hypercorn is None:
            self._hypercorn = asyncio.create_task(self._load_hypercorn())
        lane = await asyncio.shield(self._hypercorn)
        await lane.serve(reader, writer)

    async def _load_hypercorn(self) -> HypercornLane:
        make = await asyncio.to_thread(_import_hypercorn)
        lane = make(self._exchanges, self._config, self._state, self._access)
        if self._draining:
            await lane.drain()
        return lane


def _import_http2() -> type[H2Lane]:
    from subserve.http.h2.lane import H2Lane

    return H2Lane


def _import_hypercorn() -> type[HypercornLane]:
    from subserve.http.hypercorn_lane import HypercornLane

    return HypercornLane
