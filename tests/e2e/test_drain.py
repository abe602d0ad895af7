"""A drain for each reason there is, with clients in each state, of each interface and protocol.

A state is a generator: it brings a client into the state, and goes on, after the drain has begun,
to check what becomes of it.  All states of a row share a server, so that none holds up another.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from tests.e2e.clients import DEADLINE, H2, Answer, Gate, Stopwatch, Wire
from tests.e2e.conftest import launching, serving

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

GRACEFUL = 2.5
"""Seconds; those who will not end by themselves are cut off then."""

MARGIN = 2.0
"""Seconds more for the end, whatever clients do."""

MAX_REQUESTS = 200

LARGE = 3_000_000
"""Bytes; more than all buffers on the way hold."""


class Rig:
    """A server of one worker, and its clients."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server = server
        self.stack = stack
        self.gate = Gate()
        stack.callback(self.gate.close)

    def wire(self, receive_buffer: int | None = None) -> Wire:
        return self.stack.enter_context(
            Wire.connect(self.server.address, receive_buffer=receive_buffer)
        )


def last_words(wire: Wire, answer: Answer) -> None:
    """The client is told, and the end is an orderly one: behind a proxy nobody sees a reset."""
    assert answer.headers["connection"] == "close"
    assert wire.closed_cleanly()


# ---- clients that behave


def idle(rig: Rig) -> Iterator[None]:
    wire = rig.wire()
    assert wire.get("/").answer().status == 200
    yield
    assert wire.closed_cleanly()


def silent(rig: Rig) -> Iterator[None]:
    """Connected, and nothing sent."""
    wire = rig.wire()
    yield
    assert wire.closed_cleanly()


def half_header(rig: Rig) -> Iterator[None]:
    wire = rig.wire().send(b"GET / HTTP/1.1\r\nHos")
    yield
    assert wire.closed_cleanly()


def half_header_and_the_rest(rig: Rig) -> Iterator[None]:
    wire = rig.wire().send(b"GET /gate/")
    yield
    wire.send(b"0 HTTP/1.1\r\nHost: t\r\n\r\n")  # there is no such gate
    answer = wire.answer()
    assert answer.status == 500
    last_words(wire, answer)


def in_flight(rig: Rig) -> Iterator[None]:
    wire = rig.wire().get(f"/gate/{rig.gate.port}")
    rig.gate.wait()
    yield
    rig.gate.open()
    answer = wire.answer()
    assert (answer.status, answer.body) == (200, b"through")
    last_words(wire, answer)


def half_body_and_the_rest(rig: Rig) -> Iterator[None]:
    wire = rig.wire()
    wire.send(b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 8\r\n\r\nhalf")
    yield
    answer = wire.send(b"half").answer()
    assert answer.body.startswith(b"8 ")
    last_words(wire, answer)


def slow_reader(rig: Rig) -> Iterator[None]:
    wire = rig.wire(receive_buffer=4096).get(f"/stream/{LARGE}")
    yield
    answer = wire.answer()
    assert (len(answer.body), answer.complete) == (LARGE, True)
    assert wire.closed_cleanly()


def websocket(rig: Rig) -> Iterator[None]:
    url = rig.server.url.replace("http", "ws")
    chat = rig.stack.enter_context(
        websockets.sync.client.connect(f"{url}/ws/echo", proxy=None, open_timeout=DEADLINE)
    )
    chat.send("hello")
    assert chat.recv() == "hello"
    yield
    with pytest.raises(ConnectionClosed) as closed:
        chat.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def http2_idle(rig: Rig) -> Iterator[None]:
    client = H2(rig.wire())
    assert client.get("/").status == 200
    yield
    client.until(lambda: client.goaway is not None)
    assert client.goaway == 0


def http2_in_flight(rig: Rig) -> Iterator[None]:
    client = H2(rig.wire())
    slow = client.open(f"/gate/{rig.gate.port}")
    rig.gate.wait()
    yield
    rig.gate.open()
    stream = client.finish(slow)
    assert (stream.status, bytes(stream.body), stream.ended) == (200, b"through", True)
    client.until(lambda: client.goaway is not None)
    assert client.goaway == 0


# ---- clients that do not: they are cut off


def cut_off(wire: Wire) -> None:
    with contextlib.suppress(ConnectionResetError):
        wire.read_to_end()


def stalled_body(rig: Rig) -> Iterator[None]:
    wire = rig.wire()
    wire.send(b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nhalf of it")
    yield
    cut_off(wire)


def deaf_reader(rig: Rig) -> Iterator[None]:
    wire = rig.wire(receive_buffer=4096).get("/stream/100000000")
    wire.read_until(b"\r\n\r\n")
    yield  # and is checked by the time that the server takes


def http2_without_window(rig: Rig) -> Iterator[None]:
    client = H2(rig.wire(), window=0)
    stream = client.open("/stream/1000000")
    client.until(lambda: client.streams[stream].status)
    yield
    cut_off(client.wire)
    assert not client.streams[stream].ended


def http2_stalled_body(rig: Rig) -> Iterator[None]:
    client = H2(rig.wire())
    stream = client.open("/digest", method="POST")
    client.send(stream, b"half of it")
    yield
    cut_off(client.wire)
    assert not client.streams[stream].ended


type State = Callable[[Rig], Iterator[None]]

STATES: list[State] = [
    in_flight,
    http2_in_flight,
    half_header_and_the_rest,
    half_body_and_the_rest,
    slow_reader,
    idle,
    silent,
    half_header,
    http2_idle,
    stalled_body,
    deaf_reader,
    http2_without_window,
    http2_stalled_body,
]

INTERFACES: dict[str, list[State]] = {"asgi": [websocket, *STATES], "wsgi": STATES}


# ---- reasons


def term(server: Server) -> None:
    server.send(signal.SIGTERM)


def hup(server: Server) -> None:
    server.send(signal.SIGHUP)


def recycle(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        for _ in range(MAX_REQUESTS):
            assert wire.get("/").answer().status == 200


REASONS: dict[str, Callable[[Server], None]] = {
    reason.__name__: reason for reason in (term, hup, recycle)
}


def served_by(server: Server) -> str:
    """Return who serves a new client: the process, by its number, and the worker."""
    with Wire.connect(server.address) as wire:
        answer = wire.get("/", "Connection: close").answer()
    return f"{server.serving_pids()[-1]} {answer.headers['x-worker']}"


def drain(serve: Serve, reason: Callable[[Server], None], interface: str) -> None:
    server = serve(
        *(f"{interface}:app", "--workers", "1", "--threads", "8"),
        *("--graceful-timeout", f"{GRACEFUL}s"),
        *(("--max-requests", f"{MAX_REQUESTS}") if reason is recycle else ()),
    )
    old = served_by(server)
    with ExitStack() as stack:
        rig = Rig(server, stack)
        clients = [state(rig) for state in INTERFACES[interface]]
        for client in clients:
            next(client)
        reason(server)
        server.wait_for(r"worker 0\.1  draining \d+ connections")
        with Stopwatch() as watch:
            if reason is term:
                with pytest.raises(ConnectionRefusedError):
                    rig.wire()
            else:
                assert served_by(server) != old
            for client in clients:
                with pytest.raises(StopIteration):
                    next(client)
            # Of those that are cut off not one keeps it for longer.
            if reason is term:
                assert server.wait() == 0, server.log
            else:
                server.wait_for(r"worker 0\.1  \d+ connections were cut off when the graceful")
                server.wait_for(r"worker 0\.1  stopped; it served")
        assert watch.seconds < GRACEFUL + MARGIN, server.log
    if reason is not term:
        assert server.stop() == 0, server.log


@pytest.fixture(scope="module")
def rows(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[None]]]:
    """The rows that are asked for, running beside each other: mostly they wait."""
    asked = [
        (item.callspec.params["reason"], item.callspec.params["interface"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "rows" in item.fixturenames
    ]
    with launching(tmp_path_factory.mktemp("cwd")) as launch, ThreadPoolExecutor(3) as executor:
        serve = serving(launch)
        yield {
            (reason, interface): executor.submit(drain, serve, REASONS[reason], interface)
            for reason, interface in asked
        }


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("reason", REASONS)
def test_a_drain(rows: dict[tuple[str, str], Future[None]], reason: str, interface: str) -> None:
    """See `drain`, and the states."""
    rows[reason, interface].result()
