"""An HTTP/1.1 lane in memory: what a client sends goes in, in pieces; what came of it comes out.

A real event loop and the real connections, requests and framing; only the transport is made up.
Nothing waits for a time: a piece is followed by the next one when the loop has nothing left to do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any, Self, cast, override

from subserve.http.h1.asgi import AsgiRequest
from subserve.http.h1.connection import Connection
from subserve.http.h1.lane import Lane
from subserve.http.h1.states import State
from subserve.options import Config
from subserve.scoreboard import ROW_BYTES, Counter, Row

type App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
SWITCHED = "handed over"
MAX_TURNS = 100_000  # of the loop, for what takes a few


@dataclass
class Seen:
    """What the app was given: its scope, and the body as far as it came."""

    scope: dict[str, Any]
    body: bytes = b""
    complete: bool = False
    disconnected: bool = False

    @property
    def target(self) -> bytes:
        query = self.scope["query_string"]
        return cast("bytes", self.scope["raw_path"]) + (b"?" + query if query else b"")

    @property
    def summary(self) -> tuple[object, ...]:
        """What has to be the same, however the bytes came."""
        scope = self.scope
        return (
            scope["method"],
            scope["path"],
            self.target,
            scope["http_version"],
            tuple(scope["headers"]),
            self.body,
        )


@dataclass
class Response:
    """One response, as a client reads it that goes by the rules."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    complete: bool = True

    def header(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"more than one {name!r}"
        return values[0] if values else None


@dataclass
class Outcome:
    """What came of the bytes that were sent."""

    written: bytes
    closed: bool
    """Whether we have said that no more comes from us, or have closed."""
    aborted: bool
    state: State
    """Before the client left."""
    seen: list[Seen] = field(default_factory=list)
    handed_over: bytes | None = None
    """What another lane was given; of a WebSocket what came behind its head."""
    websocket: tuple[str, bytes, bytes, list[tuple[bytes, bytes]]] | None = None
    """Path, raw path, query and headers of a request that asked for one."""

    @property
    def responses(self) -> list[Response]:
        return list(read_responses(self.written, [one.scope["method"] for one in self.seen]))

    @property
    def statuses(self) -> list[int]:
        return [response.status for response in self.responses]

    @property
    def completed(self) -> list[Seen]:
        """The requests that came whole."""
        return [one for one in self.seen if one.complete]

    @property
    def refused(self) -> int | None:
        """The status with which the connection was refused; None if it was not."""
        responses = self.responses
        if responses and responses[-1].status >= 400 and self.closed:
            return responses[-1].status
        return None

    @property
    def summary(self) -> tuple[object, ...]:
        """What has to be the same, however the bytes came."""
        # Whether there is more to come is known when it has come: it decides how long we linger.
        over = self.state in {State.LINGERING, State.CLOSING}
        # So does `100 Continue`: it is not sent to a client that has not waited for it.
        return (
            [response for response in self.responses if response.status != 100],
            self.closed,
            over or self.state,
            self.handed_over,
            self.websocket,
            [one.summary for one in self.completed],
        )


def read_responses(data: bytes, methods: Sequence[str]) -> Iterator[Response]:
    """Read responses to requests with these `methods`, and fail on a byte that belongs to none.

    Answers to what was no request come behind those, and count as answers to GET.
    """
    number = 0
    while data:
        head, found, rest = data.partition(b"\r\n\r\n")
        assert found, f"half a head: {data!r}"
        status_line, *lines = head.split(b"\r\n")
        version, _, rest_of_line = status_line.partition(b" ")
        assert version == b"HTTP/1.1", status_line
        status = int(rest_of_line[:3])
        headers = []
        for line in lines:
            name, colon, value = line.partition(b": ")
            assert colon, line
            headers.append((name.lower(), value))
        response = Response(status, headers, b"")
        if status < 200:
            data = rest
            yield response
            continue
        method = methods[number] if number < len(methods) else "GET"
        number += 1
        length, coding = response.header(b"content-length"), response.header(b"transfer-encoding")
        assert length is None or coding is None, "two opinions about the length"
        if method == "HEAD" or status in {204, 304}:
            data = rest
        elif coding is not None:
            assert coding == b"chunked"
            response.body, response.complete, data = read_chunks(rest)
        elif length is not None:
            response.body, data = rest[: int(length)], rest[int(length) :]
            response.complete = len(response.body) == int(length)
        else:
            assert response.header(b"connection") == b"close", "a response without an end"
            response.body, data = rest, b""
        yield response


def read_chunks(data: bytes) -> tuple[bytes, bool, bytes]:
    """Return the body, whether it is complete, and what comes behind it."""
    body = b""
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if size == 0:
            trailers, found, rest = (b"\r\n" + data).partition(b"\r\n\r\n")
            assert found, f"no end of trailers: {trailers!r}"
            return body, True, rest
        body += data[:size]
        assert data[size : size + 2] in {b"\r\n", b""}, data[size : size + 2]
        data = data[size + 2 :]
    return body, False, b""


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the body, once it has come whole."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Transport(asyncio.Transport):
    """A socket whose client reads all at once, unless it is `stalled`."""

    HIGH_WATER = 64 * 1024
    MAX_READ = 256 * 1024  # a packet, as asyncio reads them

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__(
            {
                "peername": ("192.0.2.7", 40000),
                "sockname": ("192.0.2.1", 8000),
                "socket": SimpleNamespace(fileno=lambda: -1),  # there is no kernel to ask
            }
        )
        self._loop = loop
        self.protocol = protocol
        self.sent = bytearray()
        """What the client has read."""
        self.unsent = bytearray()
        self.incoming = bytearray()
        """What waits because reading is paused."""
        self.stalled = False
        self.ended = False  # by write_eof()
        self.aborted = False
        self._reading = True
        self._closing = False
        self._lost = False
        self._writing_paused = False
        self._high_water = self.HIGH_WATER

    # ---- what protocols use

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "a write behind write_eof()"
        assert not self._closing, "a write behind close()"
        self.unsent += data
        self._flush()

    @override
    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    @override
    def write_eof(self) -> None:
        self.ended = True

    @override
    def can_write_eof(self) -> bool:
        return True

    @override
    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_water = self.HIGH_WATER if high is None else high
        self._flush()

    @override
    def is_closing(self) -> bool:
        return self._closing

    @override
    def close(self) -> None:
        self._closing = True
        self._flush()

    @override
    def abort(self) -> None:
        self.aborted = self._closing = True
        self.unsent.clear()
        self._lose()

    @override
    def pause_reading(self) -> None:
        assert not self._closing
        self._reading = False

    @override
    def resume_reading(self) -> None:
        assert not self._closing
        self._reading = True
        if self.incoming:
            self._loop.call_soon(self._deliver)

    @override
    def is_reading(self) -> bool:
        return self._reading

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast("asyncio.Protocol", protocol)

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    # ---- the client's side

    def feed(self, data: bytes) -> None:
        """Bring in what the client has sent."""
        self.incoming += data
        self._deliver()

    def feed_eof(self) -> None:
        """The client sends no more."""
        if not self._closing and self.protocol.eof_received() is not True:
            self.close()

    def resume(self) -> None:
        """The client reads again."""
        self.stalled = False
        self._flush()

    def lose(self) -> None:
        """The client has gone."""
        self._closing = True
        self._lose()

    def _deliver(self) -> None:
        if self.incoming and self._reading and not self._closing:
            data = bytes(self.incoming[: self.MAX_READ])
            del self.incoming[: self.MAX_READ]
            self.protocol.data_received(data)
            if self.incoming:
                self._loop.call_soon(self._deliver)

    def _flush(self) -> None:
        if not self.stalled:
            self.sent += self.unsent
            self.unsent.clear()
        waits = len(self.unsent) > self._high_water
        if waits and not self._writing_paused:
            self._writing_paused = True
            self.protocol.pause_writing()
        elif not waits and self._writing_paused:
            self._writing_paused = False
            self.protocol.resume_writing()
        if self._closing and not self.unsent:
            self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self.protocol.connection_lost, None)


class _Collecting(asyncio.Protocol):
    """Takes the place of a WebSocket, whose lane counts connections, too."""

    def __init__(self, received: bytearray, row: Row) -> None:
        self._received = received
        self._row = row

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._row.add(Counter.CONNECTIONS_CLOSED)


class Elsewhere:
    """Takes the place of the lane for HTTP/2 and WebSocket, and keeps what it is given."""

    def __init__(self) -> None:
        self.received: bytearray | None = None
        self.websocket: tuple[str, bytes, bytes, list[tuple[bytes, bytes]]] | None = None
        self.refusal = b""

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
        self.websocket = path, raw_path, query, headers
        if not self.refusal:
            self.received = bytearray(rest)
            connection.transport.set_protocol(_Collecting(self.received, lane.row))
        return self.refusal

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = bytearray()
        while data := await reader.read(65536):
            self.received += data

    async def drain(self) -> None:
        """Nothing to bring to an end."""


class Client:
    """One connection and its client.  `seen` is what came to the app."""

    def __init__(self, bench: Bench, app: App, options: dict[str, Any]) -> None:
        self._bench = bench
        self._elsewhere = Elsewhere()
        self._app = app
        self.seen: list[Seen] = []
        self.row = Row(memoryview(bytearray(ROW_BYTES)).cast("Q"))
        request = partial(AsgiRequest, self._watched, {})
        self.lane = Lane(Config(app="app", **options), self.row, None, request, self._elsewhere)
        self.lane.date = DATE  # makes responses comparable
        self.connection = bench.connection_type(self.lane)
        self.transport = Transport(self.lane.loop, self.connection)
        self.connection.connection_made(self.transport)

    async def _watched(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen = Seen(scope)
        self.seen.append(seen)

        async def watching() -> dict[str, Any]:
            message: dict[str, Any] = await receive()
            if message["type"] == "http.request":
                seen.body += message["body"]
                seen.complete = not message["more_body"]
            else:
                seen.disconnected = True
            return message

        await self._app(scope, watching, send)

    async def settle(self) -> None:
        """Let the loop run until it has nothing to do but to wait."""
        ready = self.lane.loop._ready  # type: ignore[attr-defined]
        for _ in range(MAX_TURNS):
            await asyncio.sleep(0)
            if not ready:
                return
        raise AssertionError("it never comes to rest")

    async def send(self, *pieces: bytes) -> None:
        """Send `pieces`, each as a packet of its own."""
        for piece in pieces:
            self.transport.feed(piece)
            await self.settle()

    async def end(self) -> Outcome:
        """Leave, and return what happened until then."""
        transport = self.transport
        closed = transport.is_closing() or transport.ended
        outcome = Outcome(
            bytes(transport.sent), closed, transport.aborted, self.connection.state, self.seen
        )
        transport.feed_eof()
        await self.settle()
        transport.lose()
        await self.settle()
        if self._elsewhere.received is not None:
            outcome.handed_over = bytes(self._elsewhere.received)
            outcome.websocket = self._elsewhere.websocket
        self.lane._timer.cancel()
        assert not self.lane.busy, "something of the connection is left"
        assert self.row[Counter.REQUESTS_STARTED] == self.row[Counter.REQUESTS_FINISHED]
        assert self.row[Counter.CONNECTIONS_CLOSED] == 1
        return outcome


class Bench:
    """Keeps an event loop for many connections, one after the other.

    `options` are of the configuration, and hold unless a connection has others.
    """

    def __init__(self, connection_type: type[Connection] = Connection, **options: Any) -> None:
        self.connection_type = connection_type
        self._options = options
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._runner.close()

    def run[T](
        self, script: Callable[[Client], Awaitable[T]], app: App = echo, **options: Any
    ) -> T:
        """Run `script` with a client that has just connected; it has to end with `end()`."""

        async def main() -> T:
            return await script(Client(self, app, self._options | options))

        return self._runner.run(main())

    def exchange(self, *pieces: bytes, app: App = echo, **options: Any) -> Outcome:
        """Send `pieces`, each as a packet of its own, and return what came of it."""

        async def script(client: Client) -> Outcome:
            await client.send(*pieces)
            return await client.end()

        return self.run(script, app, **options)

    def exchange_bytewise(self, data: bytes, app: App = echo, **options: Any) -> Outcome:
        """Send `data` a byte a packet."""
        return self.exchange(*(data[i : i + 1] for i in range(len(data))), app=app, **options)

    def split_everywhere(self, data: bytes, **options: Any) -> Outcome:
        """Return what comes of `data`, and fail if that depends on how it is cut in two."""
        whole = self.exchange(data, **options)
        expected = whole.summary
        assert self.exchange_bytewise(data, **options).summary == expected, "byte by byte"
        for place in range(1, len(data)):
            split = self.exchange(data[:place], data[place:], **options)
            assert split.summary == expected, f"split at {place}"
        return whole
