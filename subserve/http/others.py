"""HTTP/2, which is Hypercorn's, and WebSocket: loaded when a client first asks for them."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from subserve.http.exchange import App, Exchanges
from subserve.http.forwarded import Forwarding
from subserve.options import Config
from subserve.scoreboard import Row

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection
    from subserve.http.h1.lane import Lane
    from subserve.http.hypercorn_lane import HypercornLane
    from subserve.http.ws.lane import WebSocketLane


class OtherProtocols:
    """Stands for the other lanes until a client needs one: most workers never import them."""

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
        self._lane: asyncio.Task[HypercornLane] | None = None
        self._websockets: WebSocketLane | None = None
        self._draining = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        if self._lane is None:
            self._lane = asyncio.create_task(self._load())
        lane = await asyncio.shield(self._lane)
        await lane.serve(reader, writer)

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
        if self._lane is not None and self._lane.done():
            await self._lane.result().drain()

    async def _load(self) -> HypercornLane:
        # In a thread: it takes some 0.1 s, in which others want to be served.
        make = await asyncio.to_thread(_import)
        lane = make(self._exchanges, self._config, self._state, self._access)
        if self._draining:
            await lane.drain()
        return lane


def _import() -> type[HypercornLane]:
    from subserve.http.hypercorn_lane import HypercornLane

    return HypercornLane
