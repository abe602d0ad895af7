"""Which worker gets a connection, and what becomes of connections in the end."""

import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import websockets.sync.client

from tests.e2e.clients import DEADLINE, H2, Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

WORKERS = 4

PATIENTLY: dict[str, Any] = {"proxy": None, "open_timeout": DEADLINE}


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve("asgi:app", "--workers", str(WORKERS))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def open_one(server: Server, stack: ExitStack) -> tuple[str, Wire]:
    """Open a connection and leave it open; also return who has it."""
    wire = stack.enter_context(Wire.connect(server.address))
    return wire.get("/").answer().headers["x-worker"], wire


def test_connections_pile_up_evenly_and_ties_take_turns(server: Server, stack: ExitStack) -> None:
    order = [open_one(server, stack)[0] for _ in range(10 * WORKERS)]
    assert set(order[:WORKERS]) == {f"{index}.1" for index in range(WORKERS)}
    for start in range(0, len(order), WORKERS):
        assert order[start : start + WORKERS] == order[:WORKERS]


def test_the_least_loaded_worker_is_chosen(server: Server, stack: ExitStack) -> None:
    piled = [open_one(server, stack) for _ in range(5 * WORKERS)]
    relieved = piled[0][0]
    mine = [wire for worker, wire in piled if worker == relieved]
    assert len(mine) == 5
    for wire in mine[:4]:
        wire.close()
    for _ in range(30):  # as good as a clock: its event loop has its turns, and counts the closed
        mine[4].get("/").answer()
    order = [open_one(server, stack)[0] for _ in range(4 + WORKERS)]
    # It had one connection, the others five each; then all have five, and take turns.
    assert order[:4] == [relieved] * 4
    assert len(set(order[4:])) == WORKERS


def test_who_holds_connections_is_spared(serve: Serve, stack: ExitStack) -> None:
    """Requests over connections of their own go where nobody is connected."""
    server = serve("asgi:app", "--workers", "2")
    busy, _ = open_one(server, stack)
    seen = Counter[str]()
    with server.client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        for _ in range(20):
            seen[client.get("/").headers["x-worker"]] += 1
    # The other one has to have been told of a close before it counts; it mostly is.
    assert seen[busy] <= 10
    assert sum(seen.values()) == 20


def test_running_out_of_descriptors_is_a_pause_not_an_end(serve: Serve) -> None:
    """Two listeners that are ready in the same turn were too much for the coordinator once."""
    server = serve(
        *("asgi:app", "--workers", "2", "--bind", "127.0.0.1:0", "--bind", "[::1]:0"),
    )
    open_now = len(server.open_fds())
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Wire.connect(server.address)).get("/").answer()
        limit = open_now + 6
        before = server.cpu_seconds()
        soft, hard = resource.prlimit(server.serving_pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.serving_pid, resource.RLIMIT_NOFILE, (limit, hard))
        ipv6 = ("::1", int(server.log.rpartition("http://[::1]:")[2].split()[0]))
        waiting = [
            stack.enter_context(Wire.connect(address)).get("/")
            for _ in range(20)
            for address in (server.address, ipv6)
        ]
        server.wait_for("cannot accept from .*: Too many open files; raise ulimit -n")
        assert server.cpu_seconds() - before < 1.0, "it spins"
        resource.prlimit(server.serving_pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert {wire.answer().status for wire in waiting} == {200}
    assert server.stop() == 0, server.log


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connections_of_all_kinds_leave_no_descriptor_behind(serve: Serve, loop: str) -> None:
    server = serve("asgi:app", "--loop", loop)
    url = server.url.replace("http", "ws")

    def plain() -> None:
        with Wire.connect(server.address) as wire:
            assert wire.get("/", "Connection: close").answer().status == 200

    def keep_alive() -> None:
        with Wire.connect(server.address) as wire:
            wire.get("/").answer()

    def nothing_sent() -> None:
        Wire.connect(server.address).close()

    def half_a_head() -> None:
        Wire.connect(server.address).send(b"GET / HTTP/1.1\r\nHo").close()

    def nonsense() -> None:
        with Wire.connect(server.address) as wire:
            assert wire.send(b"\x16\x03\x01\x00\r\n\r\n").answer().status == 400

    def half_a_body() -> None:
        wire = Wire.connect(server.address)
        wire.send(b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nx").close()

    def unread_response() -> None:
        Wire.connect(server.address).get("/stream/10000000").reset()

    def gone_while_waiting() -> None:
        wire = Wire.connect(server.address).get("/wait-for-disconnect")
        wire.reset()

    def refused_upload() -> None:
        with Wire.connect(server.address) as wire:
            wire.send(b"POST /unread HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n")
            wire.send(b"x" * 100_000)
            assert wire.answer().status == 200

    def http2() -> None:
        with Wire.connect(server.address) as wire:
            assert H2(wire).get("/").status == 200

    def http2_without_window() -> None:
        with Wire.connect(server.address) as wire:
            client = H2(wire, window=0)
            stream = client.open("/stream/1000000")
            client.until(lambda: client.streams[stream].status)

    def websocket() -> None:
        with websockets.sync.client.connect(f"{url}/ws/echo", **PATIENTLY) as chat:
            chat.send("x")
            chat.recv()

    def lost_websocket() -> None:
        with websockets.sync.client.connect(f"{url}/ws/push", **PATIENTLY) as chat:
            chat.recv()
            chat.socket.shutdown(socket.SHUT_RDWR)

    kinds = (
        *(plain, keep_alive, nothing_sent, half_a_head, nonsense, half_a_body, unread_response),
        *(gone_while_waiting, refused_upload, http2, http2_without_window, websocket),
        lost_websocket,
    )
    for kind in kinds:
        kind()  # what is opened once, and kept
    wait_for_descriptors(server, None)
    before = server.open_fds()
    for _ in range(500 // len(kinds)):
        for kind in kinds:
            kind()
    wait_for_descriptors(server, before)
    assert server.stop() == 0, server.log


def wait_for_descriptors(server: Server, before: list[str] | None) -> None:
    """Wait until the descriptors are what they were; with None, until no connection is open."""
    deadline = time.monotonic() + DEADLINE
    idle = None
    while True:
        now = server.open_fds()
        if before is None:
            settled, idle = now == idle, now
        else:
            settled = len(now) <= len(before)
        if settled:
            return
        assert time.monotonic() < deadline, f"was {before}, is {now}"
        time.sleep(0.3)
