"""An ASGI server in memory, for one request at a time, to drive the WSGI adapter with."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from subserve.http.wsgi import WsgiApp

DEADLINE = 10.0  # s, for what takes milliseconds

Headers = list[tuple[bytes, bytes]]


def http_scope(**changes: Any) -> dict[str, Any]:
    """Return the scope of ``GET /`` over HTTP/1.1, with `changes`."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.com")],
        "client": ("192.0.2.7", 40000),
        "server": ("192.0.2.1", 8000),
        "extensions": {},
    }
    return scope | changes


def post_scope(**changes: Any) -> dict[str, Any]:
    """Return the scope of a chunked ``POST /``, with `changes`."""
    headers = [(b"host", b"example.com"), (b"transfer-encoding", b"chunked")]
    return http_scope(**({"method": "POST", "headers": headers} | changes))


class Connection:
    """The server's side of one request: what `receive` gives and what `send` takes.

    The body comes in `chunks`; if it is `open_ended`, more never comes after them.  The client
    leaves when `leave()` is called.  While `taking` is cleared, `send` blocks.
    """

    def __init__(self, chunks: Iterable[bytes] = (), *, open_ended: bool = False) -> None:
        parts = list(chunks) if open_ended else [*chunks, b""]
        self._incoming = [
            {"type": "http.request", "body": part, "more_body": open_ended or i < len(parts) - 1}
            for i, part in enumerate(parts)
        ]
        self._left = asyncio.Event()
        self.taking = asyncio.Event()
        self.taking.set()
        self.send_entered = asyncio.Event()
        self.received = 0
        self.sent: list[dict[str, Any]] = []

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        if self._incoming:
            self.received += 1
            return self._incoming.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.send_entered.set()
        await self.taking.wait()
        self.sent.append(message)

    # What the client has seen.

    @property
    def status(self) -> int:
        start = self.sent[0]
        assert start["type"] == "http.response.start"
        return int(start["status"])

    @property
    def headers(self) -> Headers:
        return list(self.sent[0]["headers"])

    def header(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2
        return values[0] if values else None

    @property
    def chunks(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def complete(self) -> bool:
        """Whether the response has an end, and only one."""
        ends = [not message["more_body"] for message in self.sent[1:]]
        return ends != [] and ends[-1] and not any(ends[:-1])


def serve(
    app: Callable[..., Any],
    scope: dict[str, Any] | None = None,
    chunks: Iterable[bytes] = (),
    *,
    connections: list[Connection] | None = None,
) -> Connection:
    """Run `app` for one request to its end and return what happened; raises what it raises.

    The connection is added to `connections` before that, for those who expect it to raise.
    """

    async def main() -> Connection:
        connection = Connection(chunks)
        if connections is not None:
            connections.append(connection)
        async with asyncio.timeout(DEADLINE):
            await WsgiApp(app, pool)(scope or http_scope(), connection.receive, connection.send)
        return connection

    with ThreadPoolExecutor(1) as pool:
        return asyncio.run(main())


async def happens(event: threading.Event) -> None:
    """Wait for `event` without blocking the loop; fails after `DEADLINE`."""
    # No assertion: with `python -O` it would not even wait.
    if not await asyncio.to_thread(event.wait, DEADLINE):
        raise TimeoutError(f"not within {DEADLINE:g} s")


async def settle() -> None:
    """Let everything run that can run without help from outside of the loop."""
    for _ in range(50):
        await asyncio.sleep(0)
