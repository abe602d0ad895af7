"""The WebSocket side of `asgi`: a path for everything that can happen to one."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import subserve

type Scope = dict[str, Any]
type Receive = Callable[[], Awaitable[dict[str, Any]]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]

worker = subserve.current_worker()


def tell(text: str) -> None:
    """Write a line to standard error, for a test to wait for."""
    os.write(2, f"app {worker}: {text}\n".encode())


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    query = dict(parse_qsl(scope["query_string"].decode()))
    assert (await receive())["type"] == "websocket.connect"
    await PATHS[scope["path"].removeprefix("/ws/")](scope, query, receive, send)


async def accept(send: Send, **more: Any) -> None:
    headers = [(b"x-worker", str(worker).encode())]
    await send({"type": "websocket.accept", "headers": headers, **more})


async def echo(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    await accept(send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    tell(f"websocket closed with {message.get('code')} {message.get('reason')!r}")


async def subprotocol(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    """Choose what ``?choose=`` says, whether or not the client has offered it."""
    await accept(send, subprotocol=query["choose"])
    await send({"type": "websocket.send", "text": ",".join(scope["subprotocols"])})
    await receive()


async def close(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    await accept(send)
    await send(
        {"type": "websocket.close", "code": int(query["code"]), "reason": query.get("reason", "")}
    )
    tell(f"after close: {(await receive())['type']}")


async def reject(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close"})


async def deny(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    """Answer with a response of its own (the extension `websocket.http.response`)."""
    assert "websocket.http.response" in scope["extensions"]
    body = b"too many of you"
    headers = [(b"content-length", b"%d" % len(body)), (b"retry-after", b"7")]
    await send({"type": "websocket.http.response.start", "status": 429, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def fail(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    if query["when"] == "after":
        await accept(send)
        await receive()
    raise getattr(__import__("builtins"), query.get("what", "RuntimeError"))("from the handler")


async def push(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    """Send without ever asking whether there still is a client."""
    await accept(send)
    try:
        while True:
            await send({"type": "websocket.send", "text": query.get("text", "tick")})
            await asyncio.sleep(0.02)
    finally:
        tell("push ended")


async def flood(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    """Send more than a client that does not read can take."""
    await accept(send)
    tell("flood begun")
    while True:
        await send({"type": "websocket.send", "bytes": b"f" * 65536})


async def never_accept(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    tell("handshake pending")
    tell(f"handshake pending, then {(await receive())['type']}")


PATHS = {
    "echo": echo,
    "subprotocol": subprotocol,
    "close": close,
    "reject": reject,
    "deny": deny,
    "fail": fail,
    "push": push,
    "flood": flood,
    "never-accept": never_accept,
}
