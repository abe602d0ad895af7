"""HTTP/2 and WebSocket: Hypercorn's, loaded when a client first asks for them."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from subserve.http.exchange import App, Exchanges
from subserve.http.forwarded import Forwarding
from subserve.options import Config
from subserve.scoreboard import Row

if TYPE_CHECKING:
    from subserve.http.hypercorn_lane import HypercornLane


class OtherProtocols:
    """Stands for the Hypercorn lane until a client needs it: most workers never import it."""

    def __init__(
        self,
        app: App,
        config: Config,
        state: dict[str, Any],
        access: logging.Logger | None,
        row: Row,
    ) -> None:
        self._exchanges = Exchanges(app, row, config.root_path, Forwarding.of(config))
        self._config = config
        self._state = state
        self._access = access
        self._lane: asyncio.Task[HypercornLane] | None = None
        self._draining = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        if self._lane is None:
            self._lane = asyncio.create_task(self._load())
        lane = await asyncio.shield(self._lane)
        await lane.serve(reader, writer)

    async def drain(self) -> None:
        """Let each connection end when its requests are answered."""
        self._draining = True
        self._exchanges.drain()
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
