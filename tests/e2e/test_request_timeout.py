"""`--request-timeout`: what clients get, and that the worker goes on."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import DEADLINE, H2, Gate, Stopwatch, Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

TIMEOUT = 0.5

OPTIONS = ("--workers", "1", "--threads", "2", "--request-timeout", f"{TIMEOUT}s")

LATE = TIMEOUT + 5.0
"""Seconds; later than that, something else has brought the answer about."""


@pytest.fixture(scope="module")
def wsgi(shared_serve: Serve) -> Server:
    return shared_serve("wsgi:app", *OPTIONS, "--access-log", "-", "--write-timeout", "2s")


@pytest.fixture(scope="module")
def asgi(shared_serve: Serve) -> Server:
    return shared_serve("asgi:app", *OPTIONS)


@pytest.fixture
def held() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.close()


def lines(server: Server, path: str, count: int = 1) -> None:
    """The log says which request it was, once for each."""
    line = rf"error +worker 0.1 +GET {path} has taken longer than --request-timeout"
    server.wait_for(rf"(?s)(?:{line}.*?){{{count}}}")
    assert server.log.count(f" GET {path} has taken ") == count, server.log


@pytest.mark.parametrize("path", ["/spin", "/spin-for-ever"])
def test_python_code(wsgi: Server, path: str) -> None:
    """More of them than there are threads, which are all free again afterwards."""
    for _ in range(3):
        begin = time.monotonic()
        with Wire.connect(wsgi.address) as wire, Stopwatch() as watch:
            answer = wire.get(path).answer()
            assert (answer.status, answer.headers["connection"]) == (504, "close")
            assert wire.closed_cleanly()
        assert time.monotonic() - begin >= TIMEOUT
        assert watch.seconds < LATE
    lines(wsgi, path, 3)
    assert "in _spin\n    while time.monotonic() < deadline" in wsgi.log
    assert "goes on after" not in wsgi.log
    assert "failed" not in wsgi.log
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.connect(wsgi.address)) for _ in range(4)]
        for wire in wires:
            wire.get("/pause/0.01")
        assert [wire.answer().status for wire in wires] == [200] * 4


def test_a_call_that_blocks(wsgi: Server, held: Gate) -> None:
    """The client is answered in time, and its thread serves others once the call returns."""
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.connect(wsgi.address)) for _ in range(2)]
        with Stopwatch() as watch:
            for wire in wires:
                wire.get(f"/gate/{held.port}")
            held.wait(2)
            assert [wire.answer().status for wire in wires] == [504, 504]
        assert watch.seconds < LATE
        assert all(wire.closed_cleanly() for wire in wires)
        after = stack.enter_context(Wire.connect(wsgi.address)).get("/")
        held.open()
        assert after.answer().body == b"hello"
    lines(wsgi, f"/gate/{held.port}", 2)


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_response_that_has_begun(wsgi: Server, framing: str) -> None:
    """It is cut short, the app cleans up, and the client sees that it is not complete."""
    before = wsgi.log.count("cleaned up")
    with Wire.connect(wsgi.address) as wire:
        answer = wire.get(f"/begin-then-spin/{framing}").answer()
    assert (answer.status, answer.body, answer.complete) == (200, b"the beginning", False)
    lines(wsgi, f"/begin-then-spin/{framing}")
    deadline = time.monotonic() + DEADLINE
    while wsgi.log.count("cleaned up") == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_response_that_only_its_end_delimits(wsgi: Server) -> None:
    """HTTP/1.0: an orderly end would look like a complete response."""
    with Wire.connect(wsgi.address) as wire:
        wire.send(b"GET /begin-then-spin/1.0 HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            wire.read_to_end()


def test_requests_that_end_when_their_time_is_over(wsgi: Server) -> None:
    """Each is answered 200 or 504, and none is hit by the time-out of the one before."""
    statuses: dict[int, int] = {}
    over = time.monotonic() + 2.5

    def ask(seed: int) -> None:
        number = seed
        while time.monotonic() < over:
            number += 1
            seconds = TIMEOUT - 0.006 + (number * 7 % 12) / 1000
            with Wire.connect(wsgi.address) as wire:
                status = wire.get(f"/pause/{seconds:.3f}").answer().status
                statuses[status] = statuses.get(status, 0) + 1
                if status == 200:
                    answer = wire.get("/").answer()
                    assert (answer.status, answer.body) == (200, b"hello")

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert statuses.keys() <= {200, 504}
    assert sum(statuses.values()) >= 4
    assert " failed" not in wsgi.log
    assert "Traceback" not in wsgi.log


# ---- HTTP/2


def test_http2_python_code(wsgi: Server) -> None:
    with Wire.connect(wsgi.address) as wire, Stopwatch() as watch:
        client = H2(wire)
        slow, quick = client.open("/spin"), client.open("/")
        assert client.finish(quick).status == 200
        stream = client.finish(slow)
        assert (stream.status, stream.ended) == (504, True)
        assert client.get("/").status == 200, "the connection goes on"
    assert watch.seconds < LATE


def test_http2_a_call_that_blocks(wsgi: Server, held: Gate) -> None:
    with Wire.connect(wsgi.address) as wire:
        client = H2(wire)
        stream = client.finish(client.open(f"/gate/{held.port}"))
        assert stream.status == 504
        held.open()
        assert client.get("/").status == 200
    lines(wsgi, f"/gate/{held.port}")


def test_http2_a_response_that_has_begun(wsgi: Server) -> None:
    with Wire.connect(wsgi.address) as wire:
        client = H2(wire)
        stream = client.finish(client.open("/begin-then-spin/2"))
        assert (stream.status, bytes(stream.body)) == (200, b"the beginning")
        assert not stream.ended
        assert stream.reset is not None
        assert client.get("/").status == 200


def test_http2_a_body_that_does_not_come(wsgi: Server) -> None:
    """The app waits for it in the server's code, where nothing is raised."""
    with Wire.connect(wsgi.address) as wire, Stopwatch() as watch:
        client = H2(wire)
        stalled = client.open("/digest", method="POST")
        client.send(stalled, b"half of it")
        assert client.finish(stalled).status == 504
        assert client.get("/").status == 200
    assert watch.seconds < LATE


def test_http2_a_client_without_window(wsgi: Server) -> None:
    with Wire.connect(wsgi.address) as wire:
        client = H2(wire, window=0)
        stalled = client.open("/stream/1000000")
        stream = client.finish(stalled)
        assert (stream.status, stream.ended) == (200, False)
    with Wire.connect(wsgi.address) as wire:
        assert wire.get("/").answer().status == 200


# ---- ASGI


def test_asgi(asgi: Server, held: Gate) -> None:
    with Wire.connect(asgi.address) as wire:
        answer = wire.get(f"/gate/{held.port}").answer()
        assert answer.status == 504
        assert wire.get("/").answer().status == 200, "the connection goes on"
    lines(asgi, f"/gate/{held.port}")
    assert "in passage" in asgi.log


def test_asgi_a_response_that_has_begun(asgi: Server, held: Gate) -> None:
    with Wire.connect(asgi.address) as wire:
        answer = wire.get(f"/gated-body/{held.port}").answer()
    assert (answer.status, answer.body, answer.complete) == (200, b"before ", False)


def test_asgi_over_http2(asgi: Server, held: Gate) -> None:
    with Wire.connect(asgi.address) as wire:
        client = H2(wire)
        assert client.finish(client.open(f"/gate/{held.port}")).status == 504
        begun = client.finish(client.open(f"/gated-body/{held.port}"))
        assert (begun.status, begun.ended) == (200, False)
        assert client.get("/").status == 200


def test_asgi_an_event_stream_goes_on(asgi: Server) -> None:
    with Wire.connect(asgi.address) as wire:
        wire.get("/deaf-events")
        over = time.monotonic() + 3 * TIMEOUT
        while time.monotonic() < over:
            assert b"tick" in wire.read_until(b"tick\n\n")


def test_a_time_out_of_the_apps_own_is_an_error_of_the_app(asgi: Server) -> None:
    with Wire.connect(asgi.address) as wire:
        assert wire.get("/raise/TimeoutError").answer().status == 500


def test_it_ends_in_time(serve: Serve, held: Gate) -> None:
    """A thread that is stuck in a call holds nothing up but itself, as without a time-out."""
    server = serve("wsgi:app", *OPTIONS, "--graceful-timeout", "30s")
    with Wire.connect(server.address) as wire:
        assert wire.get(f"/gate/{held.port}").answer().status == 504
        with Stopwatch() as watch:
            assert server.stop() == 0, server.log
        assert watch.seconds < 10.0
