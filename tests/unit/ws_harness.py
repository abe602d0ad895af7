"""What the tests of the WebSocket lane share: frames, and connections over a transport of paper."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from subserve.http.access import AccessLog
from subserve.http.h1.asgi import AsgiRequest
from subserve.http.h1.lane import Lane
from subserve.http.others import OtherProtocols
from subserve.http.ws import speed
from subserve.http.ws.connection import Connection
from subserve.http.ws.deflate import Agreement, Inflater, Settings, agree
from subserve.http.ws.frames import unmask
from subserve.http.ws.messages import PART, Event, Reader
from subserve.options import Config
from subserve.scoreboard import ROW_BYTES, Counter, Row
from tests.unit.h1_harness import Transport

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455, section 1.3."""

REQUEST = (
    b"GET /chat?a=b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

MASK = b"\x01\x82\x40\xff"


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = MASK
) -> bytes:
    """Return a client's frame; `rsv` are the reserved bits, 4 for compressed."""
    size = len(payload)
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += bytes((0xFE,)) + size.to_bytes(2)
    else:
        head += bytes((0xFF,)) + size.to_bytes(8)
    return head + mask + unmask(payload, 0, size, mask)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2) + reason)


def server_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield first byte and payload of each of a server's frames."""
    while data:
        assert data[1] < 0x80, "a server does not mask"
        begin, size = 2, data[1]
        if size > 125:
            begin += 2 if size == 126 else 8
            size = int.from_bytes(data[2:begin])
        assert len(data) >= begin + size, "a part of a frame"
        yield data[0], data[begin : begin + size]
        data = data[begin + size :]


def agreement(offer: bytes = b"permessage-deflate", **settings: Any) -> Agreement:
    agreed = agree(offer, Settings(**settings))
    assert agreed is not None
    return agreed


def reader(
    parser: Any = "python", max_bytes: int = 1 << 24, compressed: Agreement | None = None
) -> Reader:
    inflater = None if compressed is None else Inflater(compressed)
    return Reader(max_bytes, inflater, *speed.choose(parser))


def read(made: Reader, *pieces: bytes) -> Iterator[Event]:
    """Yield the events of `pieces`, but for those that complete nothing."""
    for piece in pieces:
        made.feed(piece)
        while (event := made.next_event()) is not None:
            if event is not PART:
                yield event


def events(made: Reader, *pieces: bytes) -> list[Event]:
    """Return what `read` yields."""
    return list(read(made, *pieces))


class Chat:
    """One connection and its client; `log` are the lines of the access log."""

    def __init__(self, app: Any, options: dict[str, Any]) -> None:
        config = Config(app="app", **options)
        self.row = Row(memoryview(bytearray(ROW_BYTES)).cast("Q"))
        self.log: list[str] = []
        logger = logging.Logger("access")  # noqa: LOG001  one for each
        logger.addHandler(_Lines(self.log))
        others = OtherProtocols(app, config, {"given": 1}, logger, self.row)

        def request(*arguments: Any) -> AsgiRequest:
            return AsgiRequest(app, {}, *arguments)

        access = AccessLog(logger, "%(h)s %(m)s %(Uq)s %(s)s %(b)s")
        self.lane = Lane(config, self.row, access, request, others)
        http = self.lane.connection()
        self.transport = Transport(self.lane.loop, http)
        http.connection_made(self.transport)

    @property
    def connection(self) -> Connection:
        protocol = self.transport.protocol
        assert isinstance(protocol, Connection)
        return protocol

    async def settle(self) -> None:
        """Let the loop run until it has nothing to do but to wait."""
        ready = self.lane.loop._ready  # type: ignore[attr-defined]
        for _ in range(10_000):
            await asyncio.sleep(0)
            if not ready:
                return
        raise AssertionError("it never comes to rest")

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.transport.feed(piece)
            await self.settle()

    async def open(self, request: bytes = REQUEST) -> bytes:
        """Ask for a WebSocket, and return the head of the answer."""
        await self.send(request)
        head = self.transport.sent.partition(b"\r\n\r\n")[0]
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), head
        del self.transport.sent[: len(head) + 4]
        return bytes(head)

    def taken(self) -> list[tuple[int, bytes]]:
        """Return the frames that have come since the last time."""
        frames = list(server_frames(bytes(self.transport.sent)))
        self.transport.sent.clear()
        return frames

    def wait(self, seconds: float) -> None:
        """Have the sweep look at it as if so much time had gone by since now."""
        self.connection.check_time(self.lane.loop.time() + seconds)

    async def end(self) -> None:
        """Leave; everything has to come to its end then."""
        self.transport.lose()
        await self.settle()
        assert not self.lane.busy, "something of the connection is left"
        assert self.row[Counter.REQUESTS_STARTED] == self.row[Counter.REQUESTS_FINISHED]
        assert self.row[Counter.CONNECTIONS_CLOSED] == 1
        self.lane._timer.cancel()


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def run[T](script: Callable[[Chat], Awaitable[T]], app: Any, **options: Any) -> T:
    """Run `script` with a client that has just connected; afterwards it leaves."""

    async def main() -> T:
        chat = Chat(app, options)
        try:
            return await script(chat)
        finally:
            await chat.end()

    return asyncio.run(main())
