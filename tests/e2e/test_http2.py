"""HTTP/2: by ALPN, by prior knowledge, by upgrade; streams beside each other."""

import hashlib
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from tests.e2e.clients import H2, Wire, gate

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

MEGABYTE = 1024 * 1024

PROTOCOL_ERROR, INTERNAL_ERROR = 1, 2
"""RFC 9113, section 7."""


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    return shared_serve("asgi:app", "--workers", "1", "--loop", request.param)


type Connect = Callable[..., H2]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """A function that connects by prior knowledge."""
    with ExitStack() as stack:

        def make(window: int = 65535) -> H2:
            return H2(stack.enter_context(Wire.connect(server.address)), window)

        yield make


def test_over_tls_by_alpn(serve: Serve, tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(pem)
    )
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    server = serve("asgi:app", "--workers", "1", "--certfile", str(pem))
    with server.client(http1=False, http2=True, verify=context) as client:
        answer = client.get("/scope")
        assert answer.http_version == "HTTP/2"
        scope = answer.json()
        assert (scope["http_version"], scope["scheme"]) == ("2", "https")
        assert client.post("/digest", content=b"x" * MEGABYTE).text.startswith("1048576 ")
    with server.client(verify=context) as client:
        assert client.get("/scope").http_version == "HTTP/1.1"
    assert server.stop() == 0, server.log


def test_by_prior_knowledge(server: Server) -> None:
    with httpx.Client(base_url=server.url, http1=False, http2=True, trust_env=False) as client:
        answers = [client.get("/length/3") for _ in range(3)]
    assert {(answer.http_version, answer.content) for answer in answers} == {("HTTP/2", b"sss")}


def test_by_upgrade(server: Server) -> None:
    settings = "HTTP2-Settings: AAMAAABkAAQAAP__"
    with Wire.connect(server.address) as wire:
        wire.get("/length/5", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", settings)
        assert wire.answer().status == 101
        client = H2(wire, upgraded=True)
        first = client.finish(1)
        assert (first.status, bytes(first.body)) == (200, b"sssss")
        assert client.get("/length/3").body == b"sss"


def test_the_scope(connect: Connect) -> None:
    client = connect()
    stream = client.finish(client.open("/scope/a%20b?x=%41", ("x-twice", "1"), ("x-twice", "2")))
    scope = json.loads(bytes(stream.body))
    assert (scope["type"], scope["http_version"], scope["method"]) == ("http", "2", "GET")
    assert (scope["path"], scope["raw_path"]) == ("/scope/a b", "/scope/a%20b")
    assert scope["query_string"] == "x=%41"
    assert scope["headers"] == [["host", "test"], ["x-twice", "1"], ["x-twice", "2"]]


def test_many_streams_at_once(connect: Connect) -> None:
    """All are in the app at the same time, and each gets its own answer."""
    client = connect()
    with gate() as held:
        waiting = [client.open(f"/gate/{held.port}") for _ in range(40)]
        held.wait(40)
        sized = [client.open(f"/stream/{size}") for size in range(0, 40_000, 1000)]
        for size, stream in zip(range(0, 40_000, 1000), sized, strict=True):
            assert len(client.finish(stream).body) == size
        held.open()
        for stream in waiting:
            assert client.finish(stream).body == b"through"


def test_a_large_body_goes_through_the_windows(connect: Connect) -> None:
    body = hashlib.shake_128(b"upload").digest(2 * MEGABYTE)
    client = connect()
    digest = client.post("/digest", body)
    assert digest.body.decode() == f"{len(body)} {hashlib.sha256(body).hexdigest()}"
    assert len(client.get(f"/stream/{4 * MEGABYTE}").body) == 4 * MEGABYTE


def test_nothing_is_sent_beyond_the_clients_window(connect: Connect) -> None:
    client = connect(window=1000)
    client.window = 0  # do not acknowledge by itself
    stream = client.open("/stream/5000")
    client.until(lambda: len(client.streams[stream].body) == 1000)
    client.connection.increment_flow_control_window(4000, stream)
    client.flush()
    assert len(client.finish(stream).body) == 5000


def test_a_stream_that_does_not_take_its_body_holds_up_no_other(connect: Connect) -> None:
    """Regression: Hypercorn read nothing of the connection until the app read, or ended."""
    client = connect()
    with gate() as held:
        stuck = client.open(f"/gate/{held.port}", method="POST")
        held.wait()
        for _ in range(60):
            client.connection.send_data(stuck, b"x" * 1000)
        client.flush()
        assert client.get("/length/3").body == b"sss"
        assert client.post("/digest", b"y" * 300_000).body.startswith(b"300000 ")
        held.open()
        client.send(stuck, b"x" * 200_000, end=True)
        assert client.finish(stuck).body == b"through"
    # What was not read is given back to the connection's window, or it would run dry.
    for _ in range(30):
        assert client.post("/unread", b"z" * 60_000).body == b"not read"
    assert client.post("/digest", b"y" * 300_000).body.startswith(b"300000 ")


def test_an_answer_before_the_body_is_over(connect: Connect) -> None:
    """Regression: what came of the body then broke the connection, with all its streams."""
    client = connect()
    with gate() as held:
        other = client.open(f"/gate/{held.port}")
        held.wait()
        stream = client.open("/unread", method="POST")
        client.send(stream, b"x" * 1000)
        assert client.finish(stream).body == b"not read"
        client.connection.send_data(stream, b"more of it", end_stream=True)
        client.flush()
        held.open()
        assert client.finish(other).body == b"through"


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit"])
def test_an_app_that_fails_in_its_response_resets_the_stream(connect: Connect, error: str) -> None:
    """Regression: the stream stayed open, and the client waited for the rest of the response."""
    client = connect()
    stream = client.get(f"/raise/{error}?after=1")
    assert (stream.status, stream.ended, stream.reset) == (200, False, INTERNAL_ERROR)
    assert client.get("/length/3").body == b"sss"


def test_an_app_that_fails_before_its_response(connect: Connect) -> None:
    client = connect()
    assert client.get("/raise/ValueError").status == 500
    assert client.get("/never-started").status == 500
    assert client.get("/length/3").body == b"sss"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body(connect: Connect, status: int) -> None:
    client = connect()
    stream = client.get(f"/status/{status}")
    assert (stream.status, stream.ended, bytes(stream.body)) == (status, True, b"")


def test_a_head_that_is_too_long(connect: Connect) -> None:
    client = connect()
    headers = [(f"x-{number}", "v" * 9000) for number in range(4)]
    assert client.finish(client.open("/", *headers)).status == 431
    assert client.finish(client.open("/length/3", *headers[:2])).body == b"sss"


def test_a_stream_that_the_client_resets(connect: Connect, server: Server) -> None:
    client = connect()
    before = server.log.count("saw http.disconnect")
    stream = client.open("/wait-for-disconnect")
    server.wait_for("(?s)" + ".*waiting for the disconnect" * (before + 1))
    client.connection.reset_stream(stream)
    client.flush()
    server.wait_for("(?s)" + ".*saw http.disconnect" * (before + 1))
    assert client.get("/length/3").body == b"sss"


def test_an_app_whose_client_has_gone_is_ended(connect: Connect, server: Server) -> None:
    """Regression: it waited for room in the window of a connection that was no more."""
    client = connect(window=0)
    stream = client.open("/endless")
    client.until(lambda: client.streams[stream].status)
    before = server.log.count("endless ended")
    client.wire.close()
    server.wait_for("(?s)" + ".*endless ended" * (before + 1))


def test_what_is_not_http2_ends_its_connection_only(connect: Connect, server: Server) -> None:
    client = connect()
    assert client.get("/length/3").body == b"sss"
    client.wire.send(b"\0\0\1" + b"\0" + b"\0" + b"\0\0\0\0" + b"x")  # DATA on stream 0
    client.until(lambda: client.goaway is not None)
    assert client.goaway == PROTOCOL_ERROR
    assert "a connection ended by an error" not in server.log
    with Wire.connect(server.address) as wire:
        assert wire.get("/length/3").answer().body == b"sss"


def test_an_app_waits_for_a_client_that_makes_no_room(connect: Connect, server: Server) -> None:
    """Regression: all of the response went into memory, as fast as the app could make it."""
    client = connect(window=0)
    stream = client.open("/parts/20")
    client.until(lambda: client.streams[stream].status)
    for _ in range(50):  # as good as a clock: the app has its turns in between
        assert client.get("/status/204").status == 204
    assert "part 4 is taken" not in server.log
    client.connection.increment_flow_control_window(20 * 65536)
    client.connection.increment_flow_control_window(20 * 65536, stream)
    client.flush()
    assert len(client.finish(stream).body) == 20 * 65536
    server.wait_for("part 20 is taken")
