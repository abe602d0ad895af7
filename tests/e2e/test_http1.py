"""HTTP/1.1 on the wire."""

import hashlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.clients import Stopwatch, Wire, gate

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module", params=["asyncio", "uvloop", "asyncio-python"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    loop, _, parser = request.param.partition("-")
    return shared_serve(
        *("asgi:app", "--workers", "1", "--loop", loop, "--http-parser", parser or "auto")
    )


def connect(server: Server) -> Wire:
    return Wire.connect(server.address)


def test_keep_alive(server: Server) -> None:
    with connect(server) as wire:
        first = [wire.get("/").answer() for _ in range(5)]
        assert [answer.status for answer in first] == [200] * 5
        assert wire.get("/", "Connection: close").answer().headers["connection"] == "close"
        assert wire.closed_cleanly()


def test_http10_closes_and_is_answered_without_chunks(server: Server) -> None:
    with connect(server) as wire:
        wire.send(b"GET /stream/100000 HTTP/1.0\r\n\r\n")
        head, _, body = wire.read_to_end().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert len(body) == 100_000


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """All in one packet; the first takes longest."""
    with gate() as held, connect(server) as wire:
        paths = [f"/gate/{held.port}", "/length/5", "/status/204", "/length/7", "/"]
        wire.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode() for path in paths))
        held.wait()
        held.open()
        answers = [wire.answer() for _ in paths]
    assert [answer.body for answer in answers[:4]] == [b"through", b"sssss", b"", b"sssssss"]
    assert [answer.status for answer in answers] == [200, 200, 204, 200, 200]


def test_a_pipelined_request_with_a_body(server: Server) -> None:
    body = b"a" * 100
    digest = hashlib.sha256(body).hexdigest()
    post = b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n" + body
    with connect(server) as wire:
        wire.send(post * 3)
        assert [wire.answer().body.decode() for _ in range(3)] == [f"100 {digest}"] * 3


@pytest.mark.parametrize("path", ["/length/100000", "/stream/100000"])
def test_what_comes_behind_the_last_request_is_ignored(server: Server, path: str) -> None:
    """Regression: it broke the response off; old clients send a line break behind a body."""
    head = f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode()
    for rest in (b"\r\n", head):
        with connect(server) as wire:
            answer = wire.send(head + rest).answer()
            assert (len(answer.body), answer.complete) == (100_000, True)
            assert wire.closed_cleanly()


def test_chunked_request_and_response(server: Server) -> None:
    """Each part comes back before the next is sent: nothing is held back on the way."""
    with connect(server) as wire:
        wire.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, part in enumerate((b"one", b"two" * 10, b"3")):
            chunk = b"%x\r\n%s\r\n" % (len(part), part)
            wire.send(chunk)
            if number == 0:
                head = wire.read_until(b"\r\n\r\n").lower()
                assert b"transfer-encoding: chunked" in head
            assert wire.read_exactly(len(chunk)) == chunk
        assert wire.send(b"0\r\n\r\n").read_exactly(5) == b"0\r\n\r\n"
        assert wire.get("/").answer().status == 200


def test_a_head_that_comes_in_pieces(server: Server) -> None:
    with connect(server) as wire:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /length/3 HTTP/1.1\r\nHost: t\r\n\r\n":
            wire.send(bytes([byte]))
        assert wire.answer().body == b"sss"


@pytest.mark.parametrize("path", ["/length/10", "/stream/10", "/status/200"])
def test_head(server: Server, path: str) -> None:
    """The headers of GET, and no byte of a body: the next response starts right behind."""
    with connect(server) as wire:
        got = wire.get(path).answer().headers
        headed = wire.get(path, method="HEAD").answer(to_head=True)
        assert headed.status == 200
        assert headed.headers.get("content-length") == got.get("content-length")
        assert wire.get("/length/3").answer().body == b"sss"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body(server: Server, status: int) -> None:
    with connect(server) as wire:
        answer = wire.get(f"/status/{status}").answer()
        assert answer.status == status
        assert answer.headers["etag"] == '"1"'
        assert "transfer-encoding" not in answer.headers
        assert wire.get("/length/3").answer().body == b"sss"


def test_expect_100_continue(server: Server) -> None:
    body = b"only when asked"
    with connect(server) as wire:
        wire.send(
            b"POST /digest HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        assert wire.answer().status == 100
        assert wire.send(body).answer().body.endswith(hashlib.sha256(body).hexdigest().encode())
        assert wire.get("/").answer().status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_arrives_as_it_was_sent(server: Server, chunked: bool) -> None:
    body = hashlib.shake_128(b"upload").digest(8 * MEGABYTE)
    content = iter([body[:MEGABYTE], body[MEGABYTE:]]) if chunked else body
    with server.client() as client:
        answer = client.post("/digest", content=content)
    assert answer.text == f"{len(body)} {hashlib.sha256(body).hexdigest()}"


@pytest.mark.parametrize("kind", ["length", "stream"])
def test_a_large_download_arrives_whole(server: Server, kind: str) -> None:
    size = 32 * MEGABYTE + 5
    with connect(server) as wire:
        answer = wire.get(f"/{kind}/{size}").answer()
        assert (len(answer.body), answer.complete) == (size, True)
        assert answer.body.count(b"s") == size


def test_an_upload_that_is_not_read_is_answered_all_the_same(server: Server) -> None:
    """Regression: Hypercorn stopped reading, and waited for its app to read, which had ended.

    A client that sends all before it reads would wait for ever, or, were the connection closed
    under it, get a reset in place of the answer.
    """
    size = 8 * MEGABYTE
    with connect(server) as wire:
        wire.send(b"POST /unread HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % size)
        wire.send(b"x" * size)
        assert wire.answer().body == b"not read"
        assert wire.closed_cleanly()
    with server.client() as client:
        assert client.post("/unread", content=b"x" * size).text == "not read"
        assert client.get("/").status_code == 200


def test_a_request_cannot_be_longer_than_allowed(server: Server) -> None:
    """32 KiB unless configured: in one piece, or without an end."""
    with connect(server) as wire:
        assert wire.get("/", "X-Long: " + "x" * 40_000).answer().status == 431
        assert wire.closed_cleanly()
    with connect(server) as wire:
        wire.send(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 40_000)
        assert wire.answer().status == 431
        assert wire.closed_cleanly()
    with connect(server) as wire:
        assert wire.get("/", "X-Long: " + "x" * 30_000).answer().status == 200


@pytest.mark.parametrize(
    "request_text",
    [
        "nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: abc\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(server: Server, request_text: str) -> None:
    with connect(server) as wire:
        wire.send(request_text.encode())
        assert wire.answer().status == 400
        assert wire.closed_cleanly()
    assert "a connection ended by an error" not in server.log


# ---- what an app sees


def test_the_scope(server: Server) -> None:
    with connect(server) as wire:
        answer = wire.get("/scope/a%20b%2Fc?x=%41&y", "X-Twice: 1", "X-Twice: 2").answer()
    scope = json.loads(answer.body)
    assert scope["type"] == "http"
    assert scope["http_version"] == "1.1"
    assert (scope["method"], scope["scheme"]) == ("GET", "http")
    assert scope["path"] == "/scope/a b/c"
    assert scope["raw_path"] == "/scope/a%20b%2Fc"
    assert scope["query_string"] == "x=%41&y"
    assert scope["headers"] == [["host", "test"], ["x-twice", "1"], ["x-twice", "2"]]
    assert scope["client"][0] == "127.0.0.1"
    assert tuple(scope["server"]) == server.address


def test_an_app_that_waits_sees_the_client_leave(server: Server) -> None:
    before = server.log.count("saw http.disconnect")
    with connect(server) as wire:
        wire.get("/wait-for-disconnect")
        server.wait_for("(?s)" + ".*waiting for the disconnect" * (before + 1))
    server.wait_for("(?s)" + ".*saw http.disconnect" * (before + 1))


def test_a_connection_whose_app_gives_up_is_closed(server: Server) -> None:
    """Regression: one whose client had shut down its side stayed, until the server stopped."""
    before = server.log.count("waiting for the disconnect")
    with connect(server) as wire:
        wire.get("/wait-for-disconnect")
        server.wait_for("(?s)" + ".*waiting for the disconnect" * (before + 1))
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.closed_cleanly()


@pytest.mark.parametrize("path", ["endless", "deaf-events"])
def test_an_app_that_goes_on_sending_is_ended(server: Server, path: str) -> None:
    """Regression: it went on for ever, and filled the log with a line for each write."""
    ended = {"endless": "endless ended", "deaf-events": "deaf events ended"}[path]
    wire = connect(server).get(f"/{path}")
    assert wire.read_until(b"\r\n\r\n")
    wire.reset()
    server.wait_for(ended)
    assert "socket.send() raised exception" not in server.log
    assert f"/{path} failed" not in server.log
    with connect(server) as other:
        assert other.get("/").answer().status == 200


def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(server: Server) -> None:
    with connect(server) as wire:
        wire.send(b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nonly a part")
    server.wait_for("ConnectionResetError: the client left in the middle of its body")


def test_one_fast_reader_does_not_have_the_worker_to_itself(server: Server) -> None:
    """Regression: an app whose client keeps up with it never gave way to the others."""
    with connect(server) as greedy:
        greedy.get("/endless").read_until(b"\r\n\r\n")
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                greedy.receive()

        thread = threading.Thread(target=read)
        thread.start()
        try:
            with connect(server) as other:
                for _ in range(5):
                    assert other.get("/").answer().status == 200
        finally:
            stop.set()
            thread.join()


# ---- time


def test_idle_connections_are_closed_after_the_keep_alive_timeout(serve: Serve) -> None:
    server = serve(
        "asgi:app", "--workers", "1", "--keep-alive-timeout", "300ms", "--header-timeout", "300ms"
    )
    with (
        gate() as held,
        connect(server) as idle,
        connect(server) as silent,
        connect(server) as busy,
    ):
        idle.get("/").answer()
        busy.get(f"/gate/{held.port}")
        held.wait()
        with connect(server) as half, Stopwatch() as watch:
            half.send(b"GET / HTTP/1.1\r\nHost")
            assert half.answer().status == 408
            assert half.closed_cleanly()
            assert idle.closed_cleanly()
            assert silent.closed_cleanly()
        assert watch.seconds < 4.0  # less than any default
        held.open()  # a request in flight is not idle
        assert busy.answer().body == b"through"
    assert server.stop() == 0, server.log


def test_a_client_library(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for _ in range(3):
            assert client.get("/length/1000").content == b"s" * 1000
            assert client.head("/length/1000").headers["content-length"] == "1000"
            assert client.post("/echo", content=b"again").content == b"again"
