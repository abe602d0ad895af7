"""Requests of a WSGI app, over real sockets, by the loop's thread and by those of the pool."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from subserve.http.h1.lane import Lane
from subserve.http.h1.wsgi import WsgiService
from subserve.http.wsgi.inline import Inline
from subserve.http.wsgi.pool import Pool
from subserve.options import Config
from subserve.scoreboard import ROW_BYTES, Row
from subserve.worker.loops import AsyncioLoop
from subserve.worker.standin import StandIn
from subserve.worker.transport import SocketTransport

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

DEADLINE = 10.0

KEPT = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


@pytest.fixture(params=["loop", "pool"])
def exchange(request: pytest.FixtureRequest) -> Callable[..., bytes]:
    """Send requests, in one piece, to an app, and return all that comes back."""

    def run(app: Any, data: bytes, *, sends_at_once: int | None = None, parser: str = "c") -> bytes:
        return run_app(app, data, sends_at_once, parser, inline=request.param == "loop")

    return run


def run_app(
    app: WSGIApplication, data: bytes, sends_at_once: int | None, parser: Any, *, inline: bool
) -> bytes:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, AsyncioLoop)
        pool = Pool(2, loop)
        standin = StandIn(loop)
        here = Inline(pool, standin)
        here._warming = 0
        service = WsgiService(app, pool, here if inline else None, multiprocess=False, max_queue=9)
        nowhere = cast("Any", SimpleNamespace(drain=nothing))
        cells = memoryview(bytearray(ROW_BYTES)).cast("Q")
        lane = Lane(Config(http_parser=parser), Row(cells), None, service.request, nowhere)
        if sends_at_once is not None:
            lane.send_now = stingy(lane.send_now, sends_at_once)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        SocketTransport(
            loop, ours.detach(), ours.family, lane.connection(), lane.receive_now, lane.send_now
        )
        try:
            async with asyncio.timeout(DEADLINE):
                while len(pool._idle) < 2:
                    await asyncio.sleep(0.001)
                await loop.sock_sendall(theirs, data)
                answer = b""
                while piece := await loop.sock_recv(theirs, 65536):
                    answer += piece
                assert (here._calls > 0) == inline
                return answer
        finally:
            theirs.close()
            await lane.cut_off(DEADLINE)
            standin.stop()
            pool.shutdown(cancel_futures=True)
            standin._thread.join(DEADLINE)

    async def nothing() -> None:
        pass

    with asyncio.Runner(loop_factory=AsyncioLoop) as runner:
        return runner.run(main())


def stingy(send: Callable[[int, bytes], int], most: int) -> Callable[[int, bytes], int]:
    """Take `most` bytes at a time, and every other time nothing."""
    turns = iter([True, False] * 10_000)

    def send_some(fd: int, data: bytes) -> int:
        if not next(turns):
            raise BlockingIOError
        return send(fd, data[:most])

    return send_some


def answers(data: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Split what came into responses with a Content-Length."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        length = int(headers[b"content-length"])
        found.append((int(first.split()[1]), headers, data[:length]))
        data = data[length:]
    return found


def plain(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-A", "1")])
    return [environ["PATH_INFO"].encode() * 1000]


@pytest.mark.parametrize("parser", ["c", "python"])
@pytest.mark.parametrize("sends_at_once", [None, 1, 99])
def test_the_end_of_a_response_is_not_overtaken(
    exchange: Callable[..., bytes], sends_at_once: int | None, parser: str
) -> None:
    """Where the kernel does not take all of it, and the next requests are there already."""
    data = exchange(plain, KEPT * 5 + LAST, sends_at_once=sends_at_once, parser=parser)
    found = answers(data)
    assert [(status, body) for status, _, body in found] == [(200, b"/" * 1000)] * 6
    assert [b"connection" in headers for _, headers, _ in found] == [False] * 5 + [True]


def test_what_frameworks_make(exchange: Callable[..., bytes]) -> None:
    """An iterator, a length, one part; it is asked to its end, and closed."""
    done: list[str] = []

    class Parts:
        def __init__(self, *parts: bytes) -> None:
            self.parts = parts

        def __iter__(self) -> Iterator[bytes]:
            yield from self.parts
            done.append("exhausted")

        def close(self) -> None:
            done.append("closed")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5"), ("Date", "today")])
        return Parts(b"", b"hello")

    (answer,) = answers(exchange(app, LAST))
    assert answer[2] == b"hello"
    assert answer[1][b"date"] == b"today"
    assert done == ["exhausted", "closed"]


@pytest.mark.parametrize("parts", [(b"hello", b" and more"), (b"hel", b"lo"), (b"", b"hel", b"lo")])
def test_other_parts(exchange: Callable[..., bytes], parts: tuple[bytes, ...]) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return iter(parts)

    (answer,) = answers(exchange(app, LAST))
    assert answer[2] == b"hello"


@pytest.mark.parametrize(
    ("body", "status"),
    [([], 500), (["text"], 500), (iter(["text"]), 500), (iter([None]), 500), ((b"12345",), 200)],
)
def test_what_is_not_as_promised(exchange: Callable[..., bytes], body: Any, status: int) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return cast("Iterable[bytes]", body)

    (answer,) = answers(exchange(app, LAST))
    assert answer[0] == status


def test_write_and_an_error_after_start_response(exchange: Callable[..., bytes]) -> None:
    """The fast way is left, with what was taken in on it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Length", "10"), ("X-A", "b")])
        if environ["QUERY_STRING"]:
            start_response("404 Not Found", [("X-A", "c")], (ValueError, ValueError(), None))  # type: ignore[arg-type]
            return [b"nothing"]
        write(b"hello")
        return [b" you!"]

    data = KEPT + LAST.replace(b"GET /", b"GET /?x")
    first, second = answers(exchange(app, data))
    assert (first[0], first[1][b"x-a"], first[2]) == (200, b"b", b"hello you!")
    assert (second[0], second[1][b"x-a"], second[2]) == (404, b"c", b"nothing")


def test_head_and_statuses_without_a_body(exchange: Callable[..., bytes]) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status = {"GET": "204 No Content", "HEAD": "200 OK"}[environ["REQUEST_METHOD"]]
        start_response(status, [("Content-Length", "5")])
        return [b"hello"] if environ["REQUEST_METHOD"] == "HEAD" else []

    data = exchange(app, KEPT + LAST.replace(b"GET", b"HEAD"))
    no_content, _, head = data.partition(b"\r\n\r\n")
    assert no_content.startswith(b"HTTP/1.1 204 ")
    assert b"content-length" not in no_content
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncontent-length: 5\r\n" in head
    assert head.endswith(b"\r\n\r\n")


def test_an_error_in_close(exchange: Callable[..., bytes]) -> None:
    """Nothing has gone out yet, so the client is told."""

    class Parts(list[bytes]):
        def close(self) -> None:
            raise ValueError("from close()")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Parts([b"hello"])

    data = exchange(app, LAST)
    assert data.count(b"HTTP/1.1") == 1
