"""The app as a lane calls it: one exchange at a time, fenced in.

What an app raises fails its own request and nothing else, requests are counted, and when the
worker drains each kind of exchange is brought to an end that its client understands.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

from subserve.http.forwarded import Addresses, Forwarding, is_about_forwarding
from subserve.scoreboard import Counter, Row

log = logging.getLogger("subserve.app")

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type App = Callable[[Scope, Receive, Send], Awaitable[None]]

SERVICE_RESTART = 1012
"""Close code registered with IANA (RFC 6455, section 11.7): come back, to another worker."""

_RESTART_DISCONNECT = {"type": "websocket.disconnect", "code": SERVICE_RESTART, "reason": ""}

CLOSE_HANDSHAKE_TIMEOUT = 1.0
"""Seconds that a WebSocket client is given to answer our close frame.  Not measured."""

PROXIED: ContextVar[Addresses | None] = ContextVar("PROXIED", default=None)
"""The ends of the connection that is served in this context where a proxy has told them; a lane
that is not HTTP/1.1's knows the proxy's only."""

_INTERNAL_SERVER_ERROR = b"Internal Server Error\n"

_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A token (RFC 9110, section 5.6.2)."""
_FORBIDDEN_IN_VALUE = re.compile(rb"[\0\r\n]")
"""What would end the header, and begin one of an attacker's (RFC 9110, section 5.5)."""


class ClientGone(OSError):
    """There is nobody left to send to (ASGI 3: `send` raises an `OSError`).

    A lane raises it.  The app may let it through: the request is then over, not failed.
    """


class Exchanges:
    """Wraps an ASGI app into one that a lane can call without fear.  Lives in the loop's thread."""

    def __init__(
        self, app: App, row: Row, root_path: str, forwarding: Forwarding | None = None
    ) -> None:
        self._app = app
        self._forwarding = forwarding
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
        root_path = self._root_path
        if self._forwarding is not None:
            told = hear_proxies(scope, self._forwarding)
            root_path = root_path if told is None else told
        if root_path:
            mount(scope, root_path)
        kind = _WebSocket if scope["type"] == "websocket" else _Request
        exchange = kind(scope, receive, send, self._drained)
        task = asyncio.current_task()
        try:
            await exchange.run(self._app)
        except BaseException as error:
            # BaseException: sys.exit() in a handler must not reach the event loop, and end it.
            if ends_task(error, task):
                raise
            if is_client_gone(error):
                log.debug("%s: the client has gone", scope["path"])
                return
            log.exception(
                "%s %s failed: %s",
                scope.get("method", "WEBSOCKET"),
                scope["path"],
                type(error).__name__,
            )
            with contextlib.suppress(ClientGone):
                await exchange.fail()
        finally:
            self._row.add(Counter.REQUESTS_FINISHED)


def ends_task(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Tell whether the server ends `task` by this error, rather than the app raising it."""
    match error:
        case asyncio.CancelledError():
            return task is None or task.cancelling() > 0
        case GeneratorExit():
            # Whoever closes a coroutine does so from outside of its task.
            try:
                return asyncio.current_task() is not task
            except RuntimeError:
                return True  # no loop runs any more
    return False


def is_client_gone(error: BaseException) -> bool:
    """Tell whether `error` is a `ClientGone`, a group of them, or was raised because of one."""
    seen: set[int] = set()  # a chain may be a ring
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, ClientGone):
            return True
        if isinstance(link, BaseExceptionGroup):
            return all(map(is_client_gone, link.exceptions))
        seen.add(id(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False


def _checked(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return `headers`; raise `ValueError` for one that would be something else on the wire."""
    pairs = [(name, value) for name, value in headers]
    for name, value in pairs:
        if not _HEADER_NAME.fullmatch(name) or _FORBIDDEN_IN_VALUE.search(value):
            # Its value may be a secret, such as a cookie.
            raise ValueError(f"the app sent a header that is not valid: {name!r}")
    return pairs


def hear_proxies(scope: Scope, forwarding: Forwarding) -> str | None:
    """Change `scope` to what the proxies in front of us say; return the prefix they name, if any.

    The HTTP/1.1 lane does the same by itself.
    """
    client, server = PROXIED.get() or (scope["client"], scope["server"])
    if client is not None and client[1] is None:
        client = None  # a unix socket, as Hypercorn tells it
    scope["client"], scope["server"] = client, server
    if not any(is_about_forwarding(name) for name, _ in scope["headers"]):
        return None
    told = forwarding.read(list(scope["headers"]), client, scope["scheme"], server)
    scope["client"], scope["scheme"], scope["server"] = told.client, told.scheme, told.server
    scope["headers"] = told.headers
    return told.root_path


def is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether a response with `headers` is one of server-sent events, which has no end."""
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in headers
    )


def mount(scope: Scope, root_path: str) -> None:
    """Put the app under `root_path`, whether or not the proxy has stripped it from the path."""
    scope["root_path"] = root_path
    path = scope["path"]
    if path != root_path and not path.startswith(f"{root_path}/"):
        scope["path"] = root_path + path
        scope["raw_path"] = quote(root_path).encode() + scope["raw_path"]


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
        self._finished = False
        self._disconnected = False
        self._event_stream = False
        self._ended_at_drain = False

    async def run(self, app: App) -> None:
        await app(self._scope, self.receive, self.send)
        if self._ended_at_drain and not self._finished:
            # To the app its client has gone; to the client this is the end, not a broken response.
            await self.send({"type": "http.response.body"})
        elif not self._finished and not self._disconnected:
            scope = self._scope
            log.error("%s %s: the app returned too early", scope["method"], scope["path"])
            await self.fail()

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
            self._disconnected = message["type"] == "http.disconnect"
            return message
        # What is left to come is http.disconnect.  An event stream has no end of its own, and its
        # client reconnects by itself: tell the app at the drain, not when its time has run out.
        getter = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((getter, self._drained), return_when=asyncio.FIRST_COMPLETED)
            if getter.done() or not self._event_stream:
                await getter
                self._disconnected = True
            else:
                self._ended_at_drain = True
        finally:
            getter.cancel()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = _checked(message.get("headers", ()))
            self._started = True
            self._event_stream = is_event_stream(headers)
            if self._drained.done() and self._scope["http_version"] in {"1.0", "1.1"}:
                headers = [pair for pair in headers if pair[0].lower() != b"connection"]
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message["type"] in {"http.response.body", "http.response.trailers"}:
            more = message.get("more_body", False) or message.get("more_trailers", False)
            self._finished = self._started and not more
        try:
            await self._send(message)
        except ClientGone:
            self._disconnected = True
            raise


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
        if not self._disconnected:
            await self._await_close()

    async def receive(self) -> Message:
        if self._drained.done():
            return dict(_RESTART_DISCONNECT)
        getter = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((getter, self._drained), return_when=asyncio.FIRST_COMPLETED)
            if getter.done():
                message = getter.result()
                self._disconnected = message["type"] == "websocket.disconnect"
                return message
        finally:
            getter.cancel()
        return dict(_RESTART_DISCONNECT)

    async def send(self, message: Message) -> None:
        if self._drained.done():
            # The closing handshake has begun; RFC 6455 section 5.5.1: no data after it.
            raise ClientGone
        if "headers" in message:
            message = {**message, "headers": _checked(message["headers"])}
        self._answered = True
        await self._send(message)

    async def _close_at_drain(self) -> None:
        await asyncio.wait((self._drained,))
        with contextlib.suppress(ClientGone):
            await self._send_close()

    async def _send_close(self) -> None:
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
