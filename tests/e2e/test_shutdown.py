"""The drain, with a client in each state that one can be in.

Clients that behave let the server go at once: they are tested with a graceful timeout that nobody
would wait for.  The others hold it up until a short one is over, and no longer.  The waiting is
done beside each other: see `Stubborn`.
"""

import re
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from tests.e2e.clients import DEADLINE, H2, Gate, Stopwatch, Wire
from tests.e2e.conftest import APPS, launching, serving

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

LOOPS = ["asyncio", "uvloop"]

PATIENCE = "120s"
"""A graceful timeout that no test waits for; still waiting when it is over fails `DEADLINE`."""

BRIEF = 1.0
"""Seconds of graceful timeout for those who will not end by themselves."""

MARGIN = 2.0
"""Seconds past the graceful timeout in which the server has to be gone, whatever clients do."""


def check_steps(server: Server, workers: int = 1, *, lifespan: bool = True) -> None:
    """Each worker has logged each step of the drain, under its own name, in order."""
    assert server.log.count("server  stopping: requests in flight have ") == 1
    for index in range(workers):
        mine = re.findall(rf"worker {index}\.1  (.*)", server.log)
        steps = [re.sub(r"\d+", "N", line) for line in mine]
        expected = ["draining N connections, N requests", "all requests finished"]
        expected += ["lifespan shutdown complete"] if lifespan else []
        expected += ["stopped; it served N requests over N connections"]
        assert steps[-len(expected) :] == expected, server.log
    if lifespan:
        assert server.log.count(": lifespan.shutdown\n") == workers


# ---- clients that behave


@pytest.fixture(params=LOOPS)
def patient(request: pytest.FixtureRequest, serve: Serve) -> Server:
    return serve(
        *("asgi:app", "--workers", "1", "--loop", request.param, "--graceful-timeout", PATIENCE)
    )


@pytest.fixture
def held() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.close()


def test_every_kind_of_client_at_once(patient: Server, held: Gate) -> None:
    """One server, so that none of them holds up another one's end."""
    with ExitStack() as stack:

        def client() -> Wire:
            return stack.enter_context(Wire.connect(patient.address))

        idle, silent, half = client(), client(), client()
        assert idle.get("/").answer().headers.get("connection") is None
        half.send(b"GET / HTTP/1.1\r\nHos")
        waiting, streaming, piped, events, http2, idle2 = (client() for _ in range(6))
        waiting.get(f"/gate/{held.port}")
        streaming.get(f"/gated-body/{held.port}")
        piped.get(f"/gate/{held.port}").get("/length/3")
        events.get("/events").read_until(b"data: 1\n\n")
        multiplexed = H2(http2)
        slow = multiplexed.open(f"/gate/{held.port}")
        held.wait(4)
        unused = H2(idle2)
        assert unused.get("/").status == 200
        url = patient.url.replace("http", "ws")
        chat = stack.enter_context(
            websockets.sync.client.connect(f"{url}/ws/echo", proxy=None, open_timeout=DEADLINE)
        )
        chat.send("hello")
        assert chat.recv() == "hello"

        patient.send(15)
        patient.wait_for("draining 10 connections, 6 requests")
        # New ones are refused by the kernel, while those in flight go on.
        with pytest.raises(ConnectionRefusedError):
            client()
        assert idle.closed_cleanly()
        assert silent.closed_cleanly()
        assert half.closed_cleanly()
        # Event streams end at once: their clients come back, to another server.
        assert b"data" not in events.read_to_end()
        patient.wait_for("app 0.1: events ended")
        with pytest.raises(ConnectionClosed) as closed:
            chat.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        patient.wait_for("websocket closed with 1012")
        unused.until(lambda: unused.goaway is not None)
        assert (unused.goaway, unused.closed) == (0, False)
        # A stream opened now was not processed, and the client is told so: REFUSED_STREAM.
        late = multiplexed.finish(multiplexed.open("/"))
        assert late.reset == 7

        held.open()
        answer = waiting.answer()
        assert (answer.status, answer.body) == (200, b"through")
        assert answer.headers["connection"] == "close"
        assert waiting.closed_cleanly()
        answer = streaming.answer()
        assert (answer.body, answer.complete) == (b"before behind", True)
        assert streaming.closed_cleanly()
        assert piped.answer().body == b"through"
        through = multiplexed.finish(slow)
        assert (through.status, bytes(through.body), through.ended) == (200, b"through", True)
        multiplexed.until(lambda: multiplexed.goaway is not None)
        assert multiplexed.goaway == 0
    assert patient.wait() == 0, patient.log
    check_steps(patient)


def test_what_was_pipelined_before_the_drain_is_answered(patient: Server, held: Gate) -> None:
    """The first response began without a word of the connection being closed."""
    with Wire.connect(patient.address) as wire:
        wire.get(f"/gated-body/{held.port}").get("/length/3")
        held.wait()
        patient.send(15)
        patient.wait_for("draining 1 connections")
        held.open()
        assert wire.answer().body == b"before behind"
        second = wire.answer()
        assert (second.body, second.headers["connection"]) == (b"sss", "close")
        assert wire.closed_cleanly()
    assert patient.wait() == 0, patient.log


def test_what_is_pipelined_behind_a_failure_holds_nobody_up(patient: Server) -> None:
    """Regression: Hypercorn waited for ever for leave to parse it; the drain waited for that."""
    with Wire.connect(patient.address) as wire:
        wire.send(b"GET /raise/RuntimeError?after=1 HTTP/1.1\r\nHost: t\r\n\r\n" * 2)
        assert not wire.answer().complete
        assert wire.closed_cleanly()
    assert patient.stop() == 0, patient.log


def test_what_the_kernel_accepted_before_the_drain_is_served(serve: Serve) -> None:
    """The server is stopped for a moment: the connections are open, for their clients."""
    server = serve("asgi:app", "--workers", "2", "--graceful-timeout", PATIENCE)
    count = 200  # more than the coordinator accepts in one turn
    server.send(19)  # SIGSTOP
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.connect(server.address)) for _ in range(count)]
        for wire in wires:
            wire.get("/length/3")
        server.send(15)
        server.send(18)  # SIGCONT
        answers = [wire.answer() for wire in wires]
        assert {(answer.status, answer.body) for answer in answers} == {(200, b"sss")}
        assert all(wire.closed_cleanly() for wire in wires)
    assert server.wait() == 0, server.log


def test_tls_clients_that_do_not_say_good_bye(serve: Serve, tmp_path: Path) -> None:
    """asyncio waits 30 s for the other side's close_notify; a pool of idle connections sleeps."""
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = serve(
        *("asgi:app", "--workers", "1", "--certfile", str(pem), "--graceful-timeout", PATIENCE)
    )
    only_http1 = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with (
        Wire.connect(server.address, only_http1) as idle,
        Wire.connect(server.address, context) as http2,
        Wire.connect(server.address),  # never even begins its handshake
    ):
        assert idle.get("/").answer().status == 200
        assert H2(http2).get("/").status == 200
        with Stopwatch() as watch:
            assert server.stop() == 0, server.log
        # Below the 10 s that a handshake may take, far above the second it has at a drain.
        assert watch.seconds < 8.0
        assert idle.closed_cleanly()
    check_steps(server)


def test_every_worker_shuts_its_lifespan_down_once(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "4")
    assert server.stop() == 0, server.log
    check_steps(server, workers=4)
    for index in range(4):
        assert server.log.count(f"app {index}.1: lifespan.shutdown\n") == 1


def test_threads_that_end_do_not_keep_an_interpreter_open(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1", "--log-level", "debug")
    with server.client() as client:
        assert client.get("/block-thread/0").status_code == 500  # answers nothing; what counts is
    assert server.stop() == 0, server.log  # the thread of the loop's executor
    assert "worker 0.1: interpreter closed" in server.log


# ---- clients, and apps, that do not

type Setup = Callable[["Stubborn"], object]


@dataclass
class Outcome:
    """How a server ended that had been asked to."""

    code: int
    seconds: float
    log: str


class Stubborn:
    """A scenario: a server with a brief graceful timeout, and what holds it up.

    Mostly it waits, so several run at a time.
    """

    def __init__(self, serve: Serve, app: str, loop: str) -> None:
        self.stack = ExitStack()
        self.server: Server = serve(
            *(app, "--workers", "1", "--threads", "1", "--loop", loop),
            *("--graceful-timeout", f"{BRIEF}s"),
        )

    def wire(self, receive_buffer: int | None = None) -> Wire:
        return self.stack.enter_context(
            Wire.connect(self.server.address, receive_buffer=receive_buffer)
        )

    def end(self) -> Outcome:
        with self.stack:
            with Stopwatch() as watch:
                code = self.server.stop()
            return Outcome(code, watch.seconds, self.server.log)


def stalled_body(s: Stubborn) -> None:
    s.wire().send(b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nhalf of it")
    s.wire().send(b"POST /digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha")


def slow_reader(s: Stubborn) -> None:
    """The response is larger than all buffers on its way."""
    wire = s.wire(receive_buffer=4096)
    wire.get("/stream/100000000").read_until(b"\r\n\r\n")


def deaf_websocket(s: Stubborn) -> None:
    """Open, and its client neither answers nor ends."""
    wire = s.wire()
    wire.get("/ws/echo", *UPGRADE).read_until(b"\r\n\r\n")


def flooded_websocket(s: Stubborn) -> None:
    """The close frame has to queue behind what its client does not read."""
    wire = s.wire(receive_buffer=4096)
    wire.get("/ws/flood", *UPGRADE)
    s.server.wait_for("flood begun")


def http2_without_window(s: Stubborn) -> None:
    client = H2(s.wire(), window=0)
    stream = client.open("/stream/1000000")
    client.until(lambda: client.streams[stream].status)


def http2_stalled_body(s: Stubborn) -> None:
    client = H2(s.wire())
    stream = client.open("/digest", method="POST")
    client.send(stream, b"half of it")


def deaf_event_stream(s: Stubborn) -> None:
    s.wire().get("/deaf-events").read_until(b"data")


def loop_blocked(s: Stubborn) -> None:
    """For longer than the graceful timeout: nothing of the worker runs in that time."""
    s.wire().get("/block-loop/30")
    s.server.wait_for("loop blocked")


def thread_blocked(s: Stubborn) -> None:
    s.wire().get("/block-thread/30")
    s.server.wait_for("thread blocked")


def not_cancellable(s: Stubborn) -> None:
    s.wire().get("/stubborn")
    s.server.wait_for("stubborn begun")


def thread_left_behind(s: Stubborn) -> None:
    """Not a daemon: Python would wait for it for ever when it exits."""
    assert s.wire().get("/stubborn-thread").answer().status == 200


def wsgi_stalled_body(s: Stubborn) -> None:
    s.wire().send(b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nhalf of it")


def wsgi_slow_reader(s: Stubborn) -> None:
    s.wire(receive_buffer=4096).get("/stream/100000000").read_until(b"\r\n\r\n")


def wsgi_asleep(s: Stubborn) -> None:
    s.wire().get("/sleep/30")
    s.wire().get("/")  # waits for the only thread
    s.server.wait_for("asleep")


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

SCENARIOS: dict[str, Setup] = {
    scenario.__name__: scenario
    for scenario in (
        stalled_body,
        slow_reader,
        deaf_websocket,
        flooded_websocket,
        http2_without_window,
        http2_stalled_body,
        deaf_event_stream,
        loop_blocked,
        thread_blocked,
        not_cancellable,
        thread_left_behind,
        wsgi_stalled_body,
        wsgi_slow_reader,
        wsgi_asleep,
    )
}

IN_TIME = {"thread_left_behind"}
"""Here no client is cut off: it is its thread that does not end."""

NO_LIFESPAN = {"loop_blocked"}
"""Here the process ends with the worker as it is."""


def run_scenario(serve: Serve, name: str, loop: str) -> Outcome:
    stubborn = Stubborn(serve, "wsgi:app" if name.startswith("wsgi") else "asgi:app", loop)
    SCENARIOS[name](stubborn)
    return stubborn.end()


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[Outcome]]]:
    """The scenarios that are asked for, running beside each other."""
    asked = [
        (item.callspec.params["scenario"], item.callspec.params["loop"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "outcomes" in item.fixturenames
    ]
    with launching(tmp_path_factory.mktemp("cwd")) as launch, ThreadPoolExecutor(3) as executor:
        serve = serving(launch)
        yield {key: executor.submit(run_scenario, serve, *key) for key in asked}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nobody_holds_the_server_up(
    outcomes: dict[tuple[str, str], Future[Outcome]], scenario: str, loop: str
) -> None:
    outcome = outcomes[scenario, loop].result()
    log = outcome.log
    assert outcome.code == 0, log
    assert outcome.seconds < BRIEF + MARGIN, log
    cut_off = "connections were cut off when the graceful timeout was over" in log
    ended = "it is cut off" in log
    assert (cut_off or ended) is (scenario not in IN_TIME), log
    if scenario.startswith("wsgi"):
        return
    assert log.count(": lifespan.shutdown\n") == (0 if scenario in NO_LIFESPAN else 1), log


def test_threads_are_named_when_they_keep_an_interpreter_open(serve: Serve) -> None:
    """An interpreter is not closed under a live thread: that would crash the process."""
    server = serve("asgi:app", "--workers", "1", "--graceful-timeout", "1s")
    with server.client() as client:
        assert client.get("/stubborn-thread").text == "left behind"
    assert server.stop() == 0, server.log
    assert "its interpreter is left open, these threads would not end: left-behind" in server.log


def test_a_lifespan_shutdown_that_hangs_is_cut_off(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text(
        "import asyncio, asgi\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'lifespan':\n"
        "        return await asgi.app(scope, receive, send)\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()\n"
        "    await asyncio.sleep(3600)\n"
    )
    server = serve(
        *("hang:app", "--workers", "1", "--graceful-timeout", f"{BRIEF}s"),
        app_dir=tmp_path,
        env={"PYTHONPATH": str(APPS)},
    )
    with Stopwatch() as watch:
        assert server.stop() == 0, server.log
    assert watch.seconds < BRIEF + MARGIN
    assert "the app's lifespan shutdown is cut off" in server.log
