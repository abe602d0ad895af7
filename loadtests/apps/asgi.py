"""Plain ASGI apps, one per kind of work; none of them does more than that work needs."""

import os
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]

HELLO = b"Hello, world!"
LARGE = bytes(range(32, 96)) * (100 * 1024 // 64)
CHUNK = bytes(range(32, 96)) * (64 * 1024 // 64)
STREAM_CHUNKS = 160
"""Chunks of 64 KiB in a streamed response: 10 MiB."""

CPU_ROUNDS = 40_000
"""Rounds of the CPU-bound handler; some milliseconds."""

SLOW_SECONDS = 0.2
WORKER_SECONDS = 0.02
WORK_SECONDS = 0.001

WORKER = secrets.token_hex(4)
"""Drawn by each worker that imports this module."""

_START = {"type": "http.response.start", "status": 200}


class NoLifespan(Exception):
    """These apps speak HTTP only; servers take this answer to mean that there is no lifespan."""


def _start(size: int) -> Message:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % size)]
    return {**_START, "headers": headers}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 13 bytes."""
    if scope["type"] != "http":
        raise NoLifespan
    await send(_start(len(HELLO)))
    await send({"type": "http.response.body", "body": HELLO})


async def browser(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path and the session of the cookie, which differ with each request."""
    if scope["type"] != "http":
        raise NoLifespan
    cookie = b""
    for name, value in scope["headers"]:
        if name == b"cookie":
            cookie = value
    body = scope["path"].encode() + b" " + cookie.partition(b";")[0]
    await send(_start(len(body)))
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's body."""
    if scope["type"] != "http":
        raise NoLifespan
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    await send(_start(len(body)))
    await send({"type": "http.response.body", "body": body})


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 100 KiB in one message."""
    if scope["type"] != "http":
        raise NoLifespan
    await send(_start(len(LARGE)))
    await send({"type": "http.response.body", "body": LARGE})


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 10 MiB in chunks of 64 KiB, of a length that is not told beforehand."""
    if scope["type"] != "http":
        raise NoLifespan
    await send({**_START, "headers": [(b"content-type", b"application/octet-stream")]})
    for _ in range(STREAM_CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request's body as it comes and answer how many bytes it had."""
    if scope["type"] != "http":
        raise NoLifespan
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"%d" % size
    await send(_start(len(body)))
    await send({"type": "http.response.body", "body": body})


async def compute(scope: Scope, receive: Receive, send: Send) -> None:
    """Work on the CPU for some milliseconds, in Python, then answer; ``/worker`` says who works."""
    if scope["type"] != "http":
        raise NoLifespan
    body = b"%d" % checksum(CPU_ROUNDS)
    if scope["path"] == "/worker":
        body = worker_name()
    await send(_start(len(body)))
    await send({"type": "http.response.body", "body": body})


async def mixed(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, or after some time on the CPU.

    ``/slow`` takes 200 ms; ``/worker``, 20 ms, and ``/work``, 1 ms, name the worker.
    """
    if scope["type"] != "http":
        raise NoLifespan
    body = HELLO
    match scope["path"]:
        case "/slow":
            burn(SLOW_SECONDS)
        case "/worker":
            burn(WORKER_SECONDS)
            body = worker_name()
        case "/work":
            burn(WORK_SECONDS)
            body = worker_name()
    await send(_start(len(body)))
    await send({"type": "http.response.body", "body": body})


def checksum(rounds: int) -> int:
    """Return a number that takes `rounds` turns of a Python loop to find."""
    value = 1
    for _ in range(rounds):
        value = value * 1_103_515_245 + 12_345 & 0x7FFFFFFF
    return value


def burn(seconds: float) -> None:
    """Use so many seconds of CPU time in this thread, however long that takes."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        checksum(1_000)


def worker_name() -> bytes:
    """Return what tells this worker from all others, be they processes or interpreters."""
    return f"{os.getpid()}-{WORKER}".encode()
