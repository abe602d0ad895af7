"""One ASGI app with a route for everything that a server can be asked to do with one."""

import asyncio
import builtins
import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qsl

from websockets_app import tell, websocket

import subserve

type Scope = dict[str, Any]
type Receive = Callable[[], Awaitable[dict[str, Any]]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]

worker = subserve.current_worker()
left_behind: ContextVar[str | None] = ContextVar("left_behind", default=None)
served = 0
SECRET = "stolen"
kept_alive: set[asyncio.Task[Any]] = set()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    match scope["type"]:
        case "lifespan":
            await lifespan(scope, receive, send)
        case "http":
            query = dict(parse_qsl(scope["query_string"].decode()))
            _, name, *rest = scope["path"].removeprefix(scope["root_path"]).split("/")
            await ROUTES[name](Exchange(scope, receive, send, rest, query))
        case "websocket":
            await websocket(scope, receive, send)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"] |= {"worker": str(worker), "list": [], "count": 0}
    while True:
        message = await receive()
        tell(message["type"])
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


class Exchange:
    def __init__(
        self, scope: Scope, receive: Receive, send: Send, path: list[str], query: dict[str, str]
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.path = path
        self.query = query

    async def start(self, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        pairs = [(n.encode(), v.encode()) for n, v in {"x-worker": str(worker), **named}.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})

    async def body(self, data: bytes = b"", *, more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, data: bytes | str, status: int = 200, **headers: str) -> None:
        data = data.encode() if isinstance(data, str) else data
        await self.start(status, content_length=str(len(data)), **headers)
        await self.body(data)

    async def chunks(self) -> Any:
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("the client left in the middle of its body")
            yield message["body"]
            if not message["more_body"]:
                return


async def hello(x: Exchange) -> None:
    global served
    served += 1
    await x.answer(f"hello {served}", x_served=str(served))


async def scope_(x: Exchange) -> None:
    def plain(value: object) -> Any:
        match value:
            case bytes():
                return value.decode("latin-1")
            case dict():
                return {k: plain(v) for k, v in value.items()}
            case list() | tuple():
                return [plain(v) for v in value]
        return value

    await x.answer(json.dumps(plain(x.scope)))


async def digest(x: Exchange) -> None:
    """Say how long the body is and what its SHA-256 is."""
    size, sha = 0, hashlib.sha256()
    async for chunk in x.chunks():
        size += len(chunk)
        sha.update(chunk)
    await x.answer(f"{size} {sha.hexdigest()}")


async def echo(x: Exchange) -> None:
    """Send each part of the body back as soon as it is here."""
    await x.start()
    async for chunk in x.chunks():
        await x.body(chunk, more=True)
    await x.body()


async def unread(x: Exchange) -> None:
    """Answer without a look at the body."""
    await x.answer("not read")


async def length(x: Exchange) -> None:
    """``/length/N``: N bytes, announced."""
    size = int(x.path[0])
    await x.start(content_length=str(size))
    for position in range(0, size, 65536):
        await x.body(b"s" * min(65536, size - position), more=True)
    await x.body()


async def leak(x: Exchange) -> None:
    """``/leak/PORT?as=NAME``: leave NAME wherever it can be left, and tell what was there."""

    def found() -> list[str | None]:
        return [left_behind.get(), x.scope.get("left"), x.scope["state"].get("left")]

    before = found()
    left_behind.set(x.query["as"])
    x.scope["left"] = x.scope["state"]["left"] = x.query["as"]
    x.scope["headers"].append((b"left", b"behind"))
    if x.path[0] != "0":
        await passage(x.path[0])
    await x.answer(json.dumps({"before": before, "after": found()}))


async def whole(x: Exchange) -> None:
    """``/whole/N``: N bytes, at once."""
    await x.answer(b"w" * int(x.path[0]))


async def unread_for_ever(x: Exchange) -> None:
    """Neither read nor answer."""
    await asyncio.Event().wait()


async def stream(x: Exchange) -> None:
    """``/stream/N``: N bytes in parts, not announced."""
    await x.start()
    for position in range(0, int(x.path[0]), 65536):
        await x.body(b"s" * min(65536, int(x.path[0]) - position), more=True)
    await x.body()
    tell("stream finished")


async def parts(x: Exchange) -> None:
    """``/parts/N``: N parts of 64 KiB, each told of when the server has taken it."""
    await x.start()
    for number in range(1, int(x.path[0]) + 1):
        await x.body(b"p" * 65536, more=True)
        tell(f"part {number} is taken")
    await x.body()


async def endless(x: Exchange) -> None:
    """Send for ever, without ever asking whether there still is a client."""
    await x.start()
    tell("endless begun")
    try:
        while True:
            await x.body(b"e" * 65536, more=True)
    finally:
        tell("endless ended")


async def status(x: Exchange) -> None:
    """``/status/N``: with a body, which the server must drop where N has none."""
    await x.start(int(x.path[0]), etag='"1"')
    await x.body(b"not for 204 and 304")


async def state(x: Exchange) -> None:
    found = x.scope["state"]
    x.scope["state"]["count"] += 1
    found["list"].append(len(found["list"]))
    await x.answer(json.dumps(found))


async def gate(x: Exchange) -> None:
    """``/gate/PORT``: wait until the test opens the gate it has at that port."""
    await passage(x.path[0])
    await x.answer("through")


async def gated_body(x: Exchange) -> None:
    """The same in the middle of a response."""
    await x.start()
    await x.body(b"before ", more=True)
    await passage(x.path[0])
    await x.body(b"behind")


async def passage(port: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    try:
        await reader.read()
    finally:
        writer.close()


async def events(x: Exchange) -> None:
    """Server-sent events, until the server says that the client is gone."""
    await x.start(content_type="text/event-stream")
    await x.body(b"data: 1\n\n", more=True)
    await x.receive()
    while (await x.receive())["type"] != "http.disconnect":
        pass
    tell("events ended")


async def deaf_events(x: Exchange) -> None:
    """Server-sent events by a handler that never asks whether there still is a client."""
    await x.start(content_type="text/event-stream")
    try:
        while True:
            await x.body(b"data: tick\n\n", more=True)
            await asyncio.sleep(0.02)
    finally:
        tell("deaf events ended")


async def wait_for_disconnect(x: Exchange) -> None:
    async for _ in x.chunks():
        pass
    tell("waiting for the disconnect")
    message = await x.receive()
    tell(f"saw {message['type']}")


async def raise_(x: Exchange) -> None:
    """``/raise/NAME``: raise the built-in exception of that name, ``?after`` the start."""
    error = getattr(builtins, x.path[0], None) or getattr(asyncio, x.path[0])
    if "after" in x.query:
        await x.start()
        await x.body(b"the beginning", more=True)
    raise error("from the handler")


async def background(x: Exchange) -> None:
    """``/background/NAME``: the same, in a task that the handler leaves behind."""

    async def fail() -> None:
        raise getattr(builtins, x.path[0])("from the background")

    task = asyncio.create_task(fail())
    kept_alive.add(task)
    await asyncio.wait([task])
    await x.answer("left behind")


async def bad_header(x: Exchange) -> None:
    await x.start(x_evil=f"a\r\nset-cookie: {SECRET}")
    await x.body(b"never")


async def bad_name(x: Exchange) -> None:
    await x.start(**{"x evil\r\nset-cookie": SECRET})


async def bad_type(x: Exchange) -> None:
    await x.send({"type": "http.response.start", "status": 200, "headers": [("x-text", SECRET)]})


async def unfinished(x: Exchange) -> None:
    """Return in the middle of the response."""
    await x.start()
    await x.body(b"the beginning", more=True)


async def stop_loop(x: Exchange) -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    await x.answer("stopped")


async def never_started(x: Exchange) -> None:
    """Return without a response."""


async def block_loop(x: Exchange) -> None:
    """``/block-loop/SECONDS``: what no async handler should do."""
    tell("loop blocked")
    time.sleep(float(x.path[0]))
    await x.answer("late")


async def block_thread(x: Exchange) -> None:
    """``/block-thread/SECONDS``: keep a thread that cannot be interrupted."""
    tell("thread blocked")
    await asyncio.to_thread(time.sleep, float(x.path[0]))


async def stubborn(x: Exchange) -> None:
    """Take no notice of being cancelled."""
    tell("stubborn begun")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            tell("cancelled in vain")


async def stubborn_thread(x: Exchange) -> None:
    """Leave a thread behind that is not a daemon, and never ends."""
    threading.Thread(target=time.sleep, args=(3600,), name="left-behind").start()
    await x.answer("left behind")


ROUTES: dict[str, Callable[[Exchange], Awaitable[None]]] = {
    "": hello,
    "scope": scope_,
    "digest": digest,
    "echo": echo,
    "unread": unread,
    "length": length,
    "leak": leak,
    "whole": whole,
    "unread-for-ever": unread_for_ever,
    "stream": stream,
    "parts": parts,
    "endless": endless,
    "status": status,
    "state": state,
    "gate": gate,
    "gated-body": gated_body,
    "events": events,
    "deaf-events": deaf_events,
    "wait-for-disconnect": wait_for_disconnect,
    "raise": raise_,
    "background": background,
    "bad-header": bad_header,
    "bad-name": bad_name,
    "bad-type": bad_type,
    "unfinished": unfinished,
    "stop-loop": stop_loop,
    "never-started": never_started,
    "block-loop": block_loop,
    "block-thread": block_thread,
    "stubborn": stubborn,
    "stubborn-thread": stubborn_thread,
}
