"""An HTTP/2 connection in memory: any frames in any order, and whatever the app does.

A real event loop, the real connection and the real library; only the transport is made up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subserve.http.exchange import ClientGone, Exchanges
from subserve.http.h2 import answers
from subserve.http.h2.connection import Connection, State
from subserve.http.h2.floods import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from subserve.http.h2.frames import PREFACE
from subserve.http.h2.lane import H2Lane
from subserve.options import Config
from subserve.scoreboard import ROW_BYTES, Counter, Row

type App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

TURNS = 200  # of the loop, for what takes a few


connected: ContextVar[str | None] = ContextVar("connected", default=None)
left: ContextVar[str | None] = ContextVar("left", default=None)


class Transport:
    """Takes what is written, or stands still."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = False
        self.aborted = False
        self.reading = True
        self.protocol: Connection | None = None
        self.kept = 0
        """Bytes that the client does not take."""

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.1", 5000), "sockname": ("192.0.2.2", 80)}.get(name)

    def set_protocol(self, protocol: Connection) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data

    def write_eof(self) -> None:
        """Nothing to do."""

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.kept

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    @property
    def frames(self) -> list[tuple[int, int, int, bytes]]:
        found, data = [], bytes(self.written)
        while data:
            length = int.from_bytes(data[:3])
            assert len(data) >= 9 + length, "half a frame"
            found.append((data[3], data[4], int.from_bytes(data[5:9]), data[9 : 9 + length]))
            data = data[9 + length :]
        return found


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def head(method: bytes = b"GET", path: bytes = b"/", *fields: tuple[bytes, bytes]) -> bytes:
    pseudo = [(b"method", method), (b"scheme", b"http"), (b"authority", b"t"), (b"path", path)]
    block = b"".join(
        b"\0" + bytes((len(name) + 1,)) + b":" + name + bytes((len(value),)) + value
        for name, value in pseudo
    )
    return block + b"".join(answers.write_field(*field) for field in fields)


def request(stream: int, block: bytes | None = None, flags: int = END_STREAM) -> bytes:
    return frame(HEADERS, flags | END_HEADERS, stream, head() if block is None else block)


BEGIN = PREFACE + frame(SETTINGS)


class Bench:
    """One connection, and what its app was asked."""

    def __init__(self, app: App, **options: Any) -> None:
        self.transport = Transport()
        self.row = Row(memoryview(bytearray(ROW_BYTES)).cast("Q"))
        self.lane = H2Lane(Exchanges(cast(Any, app), self.row, ""), Config(**options), {}, None)
        self.task = asyncio.ensure_future(
            self.lane.serve(cast(asyncio.Transport, self.transport), b"")
        )

    async def feed(self, *data: bytes) -> None:
        await self.turn()
        for piece in data:
            if self.transport.protocol is not None and not self.transport.aborted:
                self.transport.protocol.data_received(piece)
            await self.turn()

    async def turn(self, count: int = 5) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    @property
    def connection(self) -> Connection:
        assert self.transport.protocol is not None
        return self.transport.protocol

    async def end(self) -> None:
        """Lose the connection; everything has to come to an end then."""
        self.connection.connection_lost(None)
        await asyncio.wait_for(self.task, 10)
        assert self.connection.running == 0
        assert not self.connection.streams
        assert self.connection._outbox.pending_bytes == 0
        started = self.row[Counter.REQUESTS_STARTED]
        assert started == self.row[Counter.REQUESTS_FINISHED]


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send back what comes, and 70,000 bytes more."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
    await send({"type": "http.response.body", "body": b"e" * 70_000})


FRAMES = st.one_of(
    st.builds(
        request,
        st.integers(0, 12),
        st.sampled_from(
            [
                head(),
                head(b"POST"),
                head(b"POST", b"/", (b"content-length", b"4")),
                head(b"CONNECT"),
                head(b"GET", b"/", (b"connection", b"close")),
                b"",
                b"\xff",
            ]
        ),
        st.sampled_from([0, END_STREAM]),
    ),
    st.builds(
        frame,
        st.sampled_from([DATA, HEADERS, CONTINUATION]),
        st.sampled_from([0, 1, 4, 5, 8, 9]),
        st.integers(0, 12),
        st.binary(max_size=20),
    ),
    st.builds(
        frame,
        st.just(WINDOW_UPDATE),
        st.just(0),
        st.integers(0, 12),
        st.sampled_from([0, 1, 100, 65_535, 2**31 - 1]).map(lambda n: n.to_bytes(4)),
    ),
    st.builds(frame, st.just(RST_STREAM), st.just(0), st.integers(0, 12), st.just(b"\0\0\0\x08")),
    st.builds(
        frame,
        st.just(SETTINGS),
        st.just(0),
        st.just(0),
        st.sampled_from([0, 1, 100, 65_535, 2**31 - 1, 2**32 - 1]).flatmap(
            lambda n: st.sampled_from([1, 3, 4, 5, 9]).map(lambda i: i.to_bytes(2) + n.to_bytes(4))
        ),
    ),
    st.just(frame(PING, payload=b"12345678")),
    st.just(frame(PRIORITY, 0, 3, b"\0\0\0\0\x10")),
    st.builds(frame, st.integers(0, 20), st.integers(0, 255), st.integers(0, 12), st.binary()),
)


@settings(deadline=None)
@given(st.lists(FRAMES, max_size=25), st.integers(1, 400), st.sampled_from([1, 3, 128]))
def test_any_frames_in_any_order(frames: list[bytes], cut: int, streams: int) -> None:
    """Nothing but frames comes out, nothing is raised, nothing is left when it is over."""

    async def main() -> None:
        bench = Bench(echo, h2_max_concurrent_streams=streams)
        data = BEGIN + b"".join(frames)
        await bench.feed(*(data[at : at + cut] for at in range(0, len(data), cut)))
        bench.lane._sweep()
        assert bench.transport.frames[0][0] == SETTINGS
        await bench.end()

    asyncio.run(main())


def test_settings_with_a_flag_that_is_not_theirs() -> None:
    """Regression: it was taken for padding, of a payload of which nothing was left."""

    async def main() -> None:
        bench = Bench(echo)
        await bench.feed(PREFACE + frame(SETTINGS, 0x8, payload=bytes(12)) + request(1))
        assert any(kind == HEADERS for kind, *_ in bench.transport.frames)
        await bench.end()

    asyncio.run(main())


@pytest.mark.parametrize("window", [0, 1000, 2**31 - 1])
def test_what_waits_is_counted(window: int) -> None:
    async def main() -> None:
        bench = Bench(echo)
        first = frame(SETTINGS, payload=b"\0\4" + window.to_bytes(4))
        await bench.feed(PREFACE + first, *(request(stream) for stream in (1, 3, 5)))
        sent = sum(len(payload) for kind, _, _, payload in bench.transport.frames if kind == DATA)
        assert sent == min(3 * 70_000, 3 * window, 65_535)
        assert bench.connection._outbox.pending_bytes == 3 * 70_000 - sent
        await bench.feed(frame(WINDOW_UPDATE, 0, 0, (10**6).to_bytes(4)))
        for stream in (1, 3, 5):
            if window < 2**31 - 1:
                await bench.feed(frame(WINDOW_UPDATE, 0, stream, (10**6).to_bytes(4)))
        assert bench.connection._outbox.pending_bytes == 0
        assert not bench.connection.streams
        await bench.end()

    asyncio.run(main())


def test_streams_take_turns() -> None:
    """A frame each: the last one does not wait for all of the first."""

    async def main() -> None:
        bench = Bench(echo)
        wide = frame(SETTINGS, payload=b"\0\4" + (2**31 - 1).to_bytes(4))
        shut = frame(SETTINGS, payload=b"\0\4" + bytes(4))
        await bench.feed(PREFACE + shut + request(1) + request(3))
        await bench.feed(frame(WINDOW_UPDATE, 0, 0, (10**6).to_bytes(4)) + wide)
        order = [stream for kind, _, stream, _ in bench.transport.frames if kind == DATA]
        assert order == [1, 3] * 5
        await bench.end()

    asyncio.run(main())


def test_a_transport_that_is_full_gets_no_more_of_a_body() -> None:
    async def main() -> None:
        bench = Bench(echo)
        wide = frame(SETTINGS, payload=b"\0\4" + (2**31 - 1).to_bytes(4))
        await bench.feed(PREFACE + wide)
        bench.connection.pause_writing()
        await bench.feed(request(1))
        assert not any(kind == DATA for kind, *_ in bench.transport.frames)
        bench.connection.resume_writing()
        await bench.turn()
        assert any(kind == DATA for kind, *_ in bench.transport.frames)
        await bench.end()

    asyncio.run(main())


def test_a_transport_that_overflows_stops_the_reading() -> None:
    """Else a client that reads nothing would have us keep what it is answered with."""

    async def main() -> None:
        bench = Bench(echo)
        await bench.feed(BEGIN)
        bench.connection.pause_writing()
        bench.transport.kept = 10**6
        await bench.feed(frame(PING, payload=b"12345678"))
        before = len(bench.transport.frames)
        assert not bench.transport.reading
        bench.transport.kept = 0
        bench.connection.resume_writing()
        await bench.turn()
        assert len(bench.transport.frames) == before + 1
        assert bench.transport.reading
        await bench.end()

    asyncio.run(main())


def test_requests_begin_in_the_context_of_their_connection() -> None:
    """Not of another connection, nor of a request before, nor of the turn that begins them."""
    seen = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append((connected.get(), left.get()))
        left.set("by a request")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def main() -> None:
        benches = []
        for name in ("one", "two"):
            connected.set(name)
            benches.append(Bench(app))
        connected.set("neither")
        for bench in benches:
            await bench.feed(BEGIN, b"".join(request(stream) for stream in range(1, 41, 2)))
            await bench.end()

    asyncio.run(main())
    assert seen == [("one", None)] * 20 + [("two", None)] * 20


def test_a_time_in_which_we_did_not_run_counts_for_nobody() -> None:
    """Regression: after SIGSTOP clients were told that they were late."""

    async def main() -> None:
        bench = Bench(echo)
        await bench.feed(BEGIN, request(1, head(b"POST"), flags=0))
        now = bench.lane.now
        bench.lane._stood_still -= 1000.0  # as good as 1000 seconds
        bench.lane._sweep()
        assert bench.connection.streams
        assert bench.lane.now < now + 10
        await bench.end()

    asyncio.run(main())


def test_the_library_does_not_remember_all_streams() -> None:
    async def main() -> None:
        bench = Bench(echo)
        await bench.feed(BEGIN)
        for stream in range(1, 6001, 2):
            await bench.feed(request(stream), frame(RST_STREAM, 0, stream, bytes(4)))
            bench.connection._budget.earn(cast(Any, 2), 10)
        assert len(bench.connection._engine._closed_streams) <= 1024
        assert len(bench.connection._engine.streams) < 10
        assert bench.connection.state is State.OPEN
        await bench.end()

    asyncio.run(main())


def test_a_table_that_a_client_sizes_is_never_filled() -> None:
    """Regression: the library's encoder keeps all that fits into what the client asks for."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        value = scope["path"].encode()
        headers: Iterable[tuple[bytes, bytes]] = [(b"x-id", value)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    async def main() -> None:
        bench = Bench(app)
        await bench.feed(PREFACE + frame(SETTINGS, payload=b"\0\1\0\0\0\0"))
        await bench.feed(request(1, head(path=b"/a")), request(3, head(path=b"/b")))
        blocks = [payload for kind, _, _, payload in bench.transport.frames if kind == HEADERS]
        assert [block[:1] for block in blocks] == [b"\x20", b"\x88"], "the table is given up, once"
        await bench.end()

    asyncio.run(main())
