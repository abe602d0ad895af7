"""The app as a lane calls it: one exchange at a time, fenced in.

What an app raises fails its own request and nothing else, requests are counted, and when the
worker drains each kind of exchange is brought to an end that its client understands.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from subserve.scoreboard import Counter, Row

log = logging.getLogger("subserve.app")

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type App = Callable[[Scope, Receive, Send], Awaitable[None]]

SERVICE_RESTART = 1012
"""Close code registered with IANA (RFC 6455, section 11.7): come back, to another worker."""

CLOSE_HANDSHAKE_TIMEOUT = 1.0
"""Seconds that a WebSocket client is given to answer our close frame.  Not measured."""

_INTERNAL_SERVER_ERROR = b"Internal Server Error\n"


class Exchanges:
    """Wraps an ASGI app into one that a lane can call without fear.  Lives in the loop's thread."""

    def __init__(self, app: App, row: Row, root_path: str) -> None:
        self._app = app
        self._row = row
        self._root_path = root_path
        self._drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def drain(self) -> None:
        """End event streams and WebSockets, and let each HTTP/1.1 response close its connection."""
        if not self._drained.done():
            self._drained.set_result(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app for one request or WebSocket; raises nothing but cancellation."""
        self._row.add(Counter.REQUESTS_STARTED)
        if self._root_path:
            _mount(scope, self._root_path)
        kind = _WebSocket if scope["type"] == "websocket" else _Request
        exchange = kind(scope, receive, send, self._drained)
        try:
            await exchange.run(self._app)
        except asyncio.CancelledError, GeneratorExit:
            raise
        except BaseException as error:
            # BaseException: sys.exit() in a handler must not reach the event loop, and end it.
            log.exception(
                "%s %s failed: %s",
                scope.get("method", "WEBSOCKET"),
                scope["path"],
                type(error).__name__,
            )
            await exchange.fail()
        finally:
            self._row.add(Counter.REQUESTS_FINISHED)


def _mount(scope: Scope, root_path: str) -> None:
    """Put the app under `root_path`, whether or not the proxy has stripped it from the path."""
    scope["root_path"] = root_path
    path = scope["path"]
    if path != root_path and not path.startswith(f"{root_path}/"):
        scope["path"] = root_path + path
        scope["raw_path"] = root_path.encode() + scope["raw_path"]


class _Request:
    """One HTTP request and its response."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, drained: asyncio.Future[None]
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._drained = drained
        self._body_read = False
        self._started = False
        self._event_stream = False

    async def run(self, app: App) -> None:
        await app(self._scope, self.receive, self.send)

    async def fail(self) -> None:
        """Answer 500, unless the response has begun: then the lane cuts it short."""
        if self._started:
            return
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(_INTERNAL_SERVER_ERROR)),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": _INTERNAL_SERVER_ERROR})

    async def receive(self) -> Message:
        if not self._body_read:
            message = await self._receive()
            self._body_read = not message.get("more_body", False)
            return message
        # What is left to come is http.disconnect.  An event stream has no end of its own, and its
        # client reconnects by itself: tell the app at the drain, not when its time has run out.
        getter = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((getter, self._drained), return_when=asyncio.FIRST_COMPLETED)
            if getter.done() or not self._event_stream:
                return await getter
        finally:
            getter.cancel()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            headers = list(message.get("headers", ()))
            self._event_stream = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in headers
            )
            if self._drained.done() and self._scope["http_version"] in {"1.0", "1.1"}:
                headers = [pair for pair in headers if pair[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await self._send(message)


class _WebSocket:
    """One WebSocket, from the handshake to its close."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, drained: asyncio.Future[None]
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._drained = drained
        self._answered = False
        self._disconnected = False

    async def run(self, app: App) -> None:
        self._going_away = asyncio.create_task(self._close_at_drain())
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._going_away.cancel()
            raise
        await self._finish()

    async def fail(self) -> None:
        """End it; the lane answers 500, or closes with 1011, for an app that just returns."""
        await self._finish()

    async def _finish(self) -> None:
        """See to it that our close frame is out, and answered, before the lane takes over."""
        if not self._drained.done():
            self._going_away.cancel()
            return
        await self._going_away
        await self._await_close()

    async def receive(self) -> Message:
        if self._drained.done():
            self._disconnected = True
            return {"type": "websocket.disconnect", "code": SERVICE_RESTART}
        getter = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((getter, self._drained), return_when=asyncio.FIRST_COMPLETED)
            if getter.done():
                message = getter.result()
                self._disconnected = message["type"] == "websocket.disconnect"
                return message
        finally:
            getter.cancel()
        return {"type": "websocket.disconnect", "code": SERVICE_RESTART}

    async def send(self, message: Message) -> None:
        if self._drained.done():
            return  # the closing handshake has begun; RFC 6455 section 5.5.1: no data after it
        self._answered = True
        await self._send(message)

    async def _close_at_drain(self) -> None:
        await asyncio.wait((self._drained,))
        if self._answered:
            await self._send({"type": "websocket.close", "code": SERVICE_RESTART})
            return
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await self._send(
            {"type": "websocket.http.response.start", "status": 503, "headers": headers}
        )
        await self._send({"type": "websocket.http.response.body", "body": b""})

    async def _await_close(self) -> None:
        """Let the client answer our close frame: closing on unread data would reset it away."""
        try:
            async with asyncio.timeout(CLOSE_HANDSHAKE_TIMEOUT):
                while (await self._receive())["type"] != "websocket.disconnect":
                    pass
        except TimeoutError:
            log.debug("a WebSocket client did not answer our close frame")
