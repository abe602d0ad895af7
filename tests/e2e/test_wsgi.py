"""WSGI through the whole server; the adapter itself is tested beside it."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.apps.bad_heads import BAD
from tests.e2e.clients import H2, Wire, gate

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

THREADS = 3
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module", params=["asyncio", "uvloop", "asyncio-python"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    loop, _, parser = request.param.partition("-")
    return shared_serve(
        *("wsgi:app", "--workers", "1", "--threads", str(THREADS), "--root-path", "/shop"),
        *("--loop", loop, "--http-parser", parser or "auto"),
    )


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire.connect(server.address) as connected:
        yield connected


def test_the_environ(server: Server, wire: Wire) -> None:
    environ = json.loads(wire.get("/shop/environ/a%20b?x=1", "X-Name: v").answer().body)
    assert environ["SCRIPT_NAME"] == "/shop"
    assert environ["PATH_INFO"] == "/environ/a b"
    assert environ["QUERY_STRING"] == "x=1"
    assert environ["HTTP_X_NAME"] == "v"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["SERVER_PORT"] == str(server.address[1])
    assert environ["wsgi.multithread"] is True
    assert environ["thread"].startswith("wsgi")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_an_empty_iterable(wire: Wire, method: str, status: int) -> None:
    answer = wire.get(f"/shop/status/{status}", method=method).answer(to_head=method == "HEAD")
    assert (answer.status, answer.headers["etag"]) == (status, '"1"')
    assert wire.get("/shop/").answer().body == b"hello"


def test_bodies_in_both_directions(server: Server, wire: Wire) -> None:
    body = hashlib.shake_128(b"wsgi").digest(4 * MEGABYTE)
    with server.client() as client:
        answer = client.post("/shop/digest", content=iter([body[:1000], body[1000:]]))
    assert answer.text == f"{len(body)} {hashlib.sha256(body).hexdigest()}"
    answer = wire.get(f"/shop/stream/{8 * MEGABYTE}").answer()
    assert (len(answer.body), answer.complete) == (8 * MEGABYTE, True)


def test_over_http2(wire: Wire) -> None:
    client = H2(wire)
    assert len(client.get("/shop/stream/300000").body) == 300_000
    assert client.post("/shop/digest", b"x" * 300_000).body.startswith(b"300000 ")
    assert client.get("/shop/raise/ValueError").status == 500


def test_as_many_requests_at_once_as_threads(server: Server) -> None:
    """And the others wait for their turn."""
    with gate() as held, ExitStack() as stack:
        wires = [
            stack.enter_context(Wire.connect(server.address)).get(f"/shop/gate/{held.port}")
            for _ in range(2 * THREADS)
        ]
        held.wait(THREADS)
        assert held.nobody_waits()
        held.open()
        held.wait(THREADS)
        held.open()
        assert {wire.answer().body for wire in wires} == {b"through"}


def warm_up(wire: Wire) -> bool:
    """Make requests until the loop's thread serves them; return False if it never does."""
    for _ in range(1000):
        environ = json.loads(wire.get("/shop/environ").answer().body)
        if not environ["thread"].startswith("wsgi"):
            return True
    return False


def test_quick_requests_are_served_by_the_loops_thread(server: Server, wire: Wire) -> None:
    """Not with uvloop, whose loop no other thread could go on with."""
    assert warm_up(wire) == (", uvloop" not in server.log)


def test_one_that_blocks_the_loops_thread_holds_up_nobody(serve: Serve) -> None:
    """Another thread stands in for it, and it counts as one of the app's."""
    server = serve("wsgi:app", *("--workers", "1", "--threads", "3", "--root-path", "/shop"))
    with Wire.connect(server.address) as wire, gate() as held, ExitStack() as stack:
        assert warm_up(wire)
        wires = [stack.enter_context(Wire.connect(server.address)) for _ in range(5)]
        wires[0].get(f"/shop/gate/{held.port}")
        held.wait()
        environ = json.loads(wire.get("/shop/environ").answer().body)
        assert environ["thread"].startswith("wsgi")
        for blocked in wires[1:]:
            blocked.get(f"/shop/gate/{held.port}")
        held.wait(2)
        assert held.nobody_waits(), "more than --threads at once"
        held.open()
        held.wait(2)
        held.open()
        assert {blocked.answer().body for blocked in wires} == {b"through"}
        assert wire.get("/shop/").answer().body == b"hello"


def test_idle_connections_take_no_threads(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(5 * THREADS):
            idle = stack.enter_context(Wire.connect(server.address))
            assert idle.get("/shop/").answer().status == 200
        with Wire.connect(server.address) as wire:
            assert wire.get("/shop/").answer().status == 200


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit", "KeyboardInterrupt"])
def test_an_app_that_fails_fails_alone(server: Server, wire: Wire, error: str) -> None:
    for _ in range(2 * THREADS):  # no thread is lost
        answer = wire.get(f"/shop/raise/{error}").answer()
        assert answer.status == 500
    broken = Wire.connect(server.address)
    with broken:
        answer = broken.get(f"/shop/raise/{error}?after").answer()
        assert (answer.body, answer.complete) == (b"the beginning", False)
    assert wire.get("/shop/").answer().headers["x-worker"] == "0.1"
    server.wait_for(f"{error}: from the handler")


@pytest.mark.parametrize("name", BAD)
def test_a_head_that_is_none_is_answered_500(server: Server, wire: Wire, name: str) -> None:
    """CVE-2018-1000164 and others: nothing of what the app said goes out."""
    wire.get(f"/shop/bad/{name}", "Connection: close")
    answer = wire.read_to_end()
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert answer.endswith(b"\r\n\r\nInternal Server Error\n")
    assert b"njected" not in answer
    assert b"HTTP/1.1 200" not in answer
    server.wait_for(f"GET /bad/{name} failed|GET /shop/bad/{name} failed")
    with Wire.connect(server.address) as other:
        assert other.get("/shop/").answer().status == 200


def test_a_client_that_leaves_closes_the_iterable(server: Server) -> None:
    before = server.log.count("stream closed")
    wire = Wire.connect(server.address).get("/shop/stream/500000000")
    wire.read_until(b"\r\n\r\n")
    wire.reset()
    server.wait_for("(?s)" + ".*stream closed" * (before + 1))
    assert "/stream/500000000 failed" not in server.log


def test_a_websocket_is_refused(wire: Wire) -> None:
    wire.get(
        *("/shop/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert wire.answer().status == 403


def test_a_request_in_flight_finishes_at_the_drain(serve: Serve) -> None:
    """The one that has a thread, and the one that waits for it."""
    server = serve(
        *("wsgi:app", "--workers", "1", "--threads", "1", "--graceful-timeout", "120s"),
    )
    with (
        gate() as held,
        Wire.connect(server.address) as running,
        Wire.connect(server.address) as queued,
    ):
        running.get(f"/gate/{held.port}")
        held.wait()
        queued.get("/")
        server.send(15)
        server.wait_for("draining 2 connections")
        held.open()
        for wire, body in ((running, b"through"), (queued, b"hello")):
            answer = wire.answer()
            assert (answer.status, answer.body) == (200, body)
            assert answer.headers["connection"] == "close"
            assert wire.closed_cleanly()
    assert server.wait() == 0, server.log
    assert "all requests finished" in server.log


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with gate() as held, Wire.connect(server.address) as wire:
        paths = [f"/shop/gate/{held.port}", "/shop/status/204", "/shop/stream/5", "/shop/"]
        wire.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode() for path in paths))
        held.wait()
        held.open()
        answers = [wire.answer() for _ in paths]
    assert [answer.status for answer in answers] == [200, 204, 200, 200]
    assert [answer.body for answer in answers] == [b"through", b"", b"sssss", b"hello"]


def test_slow_uploads_hold_no_thread(server: Server) -> None:
    half = b"POST /shop/digest HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nab"
    with ExitStack() as stack:
        slow = [stack.enter_context(Wire.connect(server.address)) for _ in range(2 * THREADS)]
        for wire in slow:
            wire.send(half)
        with Wire.connect(server.address) as wire:
            assert wire.get("/shop/").answer().body == b"hello"
        for wire in slow:
            assert wire.send(b"cd").answer().body.startswith(b"4 ")


def test_a_client_that_is_asked_to_go_on_sends_its_body(wire: Wire) -> None:
    head = b"POST /shop/digest HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n"
    wire.send(head + b"Expect: 100-continue\r\n\r\n")
    assert wire.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.send(b"abcd").answer().body.startswith(b"4 ")


def test_more_than_may_wait_are_turned_away(serve: Serve) -> None:
    server = serve("wsgi:app", "--workers", "1", "--threads", "1", "--max-queue", "1")
    with gate() as held, ExitStack() as stack:
        wires = [stack.enter_context(Wire.connect(server.address)) for _ in range(4)]
        wires[0].get(f"/gate/{held.port}")
        held.wait()
        wires[1].get("/")
        server.wait_for("worker 0.1 ready")
        for wire in wires[2:]:
            answer = wire.get("/").answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert wire.closed_cleanly()
        held.open()
        assert wires[0].answer().body == b"through"
        assert wires[1].answer().body == b"hello"
    assert server.stop() == 0, server.log
    assert server.log.count("answering 503") == 1, "once, not for each"
