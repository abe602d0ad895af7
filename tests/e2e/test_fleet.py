"""Workers that come and go while the others serve: recycling, TTIN and TTOU, USR1, respawn."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from loadtests.load import Load
from tests.e2e.clients import DEADLINE, H2, Wire, gate

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

TTIN, TTOU, USR1 = signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1


def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def worker_of(server: Server) -> str:
    """Return the name of the worker that answers a new connection."""
    with Wire.connect(server.address) as wire:
        return wire.get("/", "Connection: close").answer().headers["x-worker"]


def settled(server: Server) -> tuple[list[str], int]:
    """Return the descriptors and the number of threads, once nothing goes on any more."""
    same, seen = 0, ([""], 0)
    deadline = time.monotonic() + DEADLINE
    while same < 10:
        assert time.monotonic() < deadline, f"it does not settle: {seen}"
        time.sleep(0.03)
        now = server.open_fds(), len(os.listdir(f"/proc/{server.process.pid}/task"))
        same, seen = same + 1 if now == seen else 0, now
    return seen


# ---- recycling


@pytest.mark.parametrize(
    ("loop", "allocator"), [("asyncio", ""), ("uvloop", ""), ("asyncio", "mimalloc")]
)
def test_no_request_fails_while_workers_are_recycled(
    serve: Serve, loop: str, allocator: str
) -> None:
    options = ("--max-worker-lifetime", "100ms", "--loop", loop)
    server = serve("asgi:app", *options, env={"PYTHONMALLOC": allocator})
    with Load(server.address, clients=4, per_connection=50, pause=0.002) as load:
        until(lambda: server.log.count(" has taken the place of ") >= 20, lambda: server.log)
    tally = load.tally
    assert tally.failures == []
    assert tally.answered > 100
    assert server.stop() == 0, server.log
    assert not re.search(r" (warning|error) ", server.log), server.log


def test_a_recycle_as_its_clients_see_it(serve: Serve) -> None:
    """The replacement serves before the old one drains, and that one finishes what it has."""
    server = serve("asgi:app", "--workers", "1", "--max-requests", "5", "--hang-timeout", "2s")
    with (
        gate() as held,
        Wire.connect(server.address) as wire,
        Wire.connect(server.address) as idle,
        Wire.connect(server.address) as http2,
        websockets.sync.client.connect(
            f"{server.url.replace('http', 'ws')}/ws/echo", proxy=None, open_timeout=DEADLINE
        ) as chat,
    ):
        chat.send("hello")
        assert chat.recv() == "hello"
        multiplexed = H2(http2)
        assert multiplexed.get("/").headers["x-worker"] == "0.1"
        wire.get(f"/gate/{held.port}")
        held.wait()
        for _ in range(4):
            assert idle.get("/").answer().headers["x-worker"] == "0.1"
        server.wait_for("worker 0.1 is to be replaced by 0.2: it has served 5 requests")
        server.wait_for("draining 4 connections")
        assert worker_of(server) == "0.2"
        with pytest.raises(ConnectionClosed) as closed:
            chat.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert idle.closed_cleanly()
        multiplexed.until(lambda: multiplexed.goaway is not None)
        held.open()
        answer = wire.answer()
        assert (answer.headers["x-worker"], answer.body) == ("0.1", b"through")
        assert answer.headers["connection"] == "close"
        assert wire.closed_cleanly()
    server.wait_for(r"worker 0.2 has taken the place of 0.1; resident memory was \d+\.\d MiB")
    assert server.log.count("app 0.1: lifespan.shutdown\n") == 1
    assert server.stop() == 0, server.log


def test_a_replacement_that_does_not_start(serve: Serve, tmp_path: Path) -> None:
    """The old worker serves on; once the app is mended, the next attempt succeeds."""
    app = tmp_path / "shop.py"
    text = "import asgi\napp = asgi.app\n"
    app.write_text(text)
    env = {"PYTHONPATH": str(Path(__file__).parent / "apps"), "PYTHONDONTWRITEBYTECODE": "1"}
    server = serve(
        *("shop:app", "--workers", "1", "--max-requests", "1", "--hang-timeout", "2s"),
        app_dir=tmp_path,
        env=env,
    )
    app.write_text("raise LookupError('no settings')\n")
    assert worker_of(server) == "0.1"
    server.wait_for(r"worker 0.3: the app could not be loaded: .*; worker 0.1 goes on meanwhile")
    assert "LookupError: no settings" in server.log
    assert worker_of(server) == "0.1"
    app.write_text(text)
    server.wait_for(r"has taken the place of 0.1")
    assert worker_of(server) not in {"0.1", "0.2", "0.3"}
    assert server.stop() == 0, server.log


# ---- more and fewer workers


def test_workers_are_added_and_removed(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1")
    server.send(TTIN)
    server.wait_for("worker 1.1 ready")
    with Wire.connect(server.address) as first, Wire.connect(server.address) as second:
        assert {w.get("/").answer().headers["x-worker"] for w in (first, second)} == {"0.1", "1.1"}
        server.send(TTOU)
        server.wait_for("app 1.1: lifespan.shutdown")
    assert worker_of(server) == "0.1"
    server.send(TTOU)
    server.wait_for("the last worker is not removed")
    assert worker_of(server) == "0.1"
    assert server.stop() == 0, server.log


def test_what_a_worker_takes_up_is_given_back(serve: Serve) -> None:
    """50 workers come and go: descriptors and threads are as before."""
    server = serve("asgi:app", "--workers", "1", "--log-level", "debug")
    before = [""], 0
    for generation in range(1, 52):
        server.send(TTIN)
        server.wait_for(rf"worker 1\.{generation} ready")
        server.send(TTOU)
        server.wait_for(rf"worker 1\.{generation}: interpreter closed")
        if generation == 1:  # libraries that are loaded once are there now
            before = settled(server)
    assert settled(server) == before
    assert server.stop() == 0, server.log


# ---- logs


def test_the_access_log_is_reopened(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access"
    server = serve(
        "asgi:app", "--access-log", str(path), "--access-log-format", "%(Uq)s", "--workers", "2"
    )

    def request(text: str) -> None:
        for _ in range(4):  # of both workers
            with Wire.connect(server.address) as wire:
                wire.get(f"/length/1?{text}", "Connection: close").answer()

    request("before")
    # What is logged of a request may be written a moment after its answer.
    until(lambda: path.read_text() == "/length/1?before\n" * 4, path.read_text)
    path.rename(folder / "access.1")
    server.send(USR1)
    until(path.exists)
    # Each worker has a descriptor of its own.
    rotated = str(folder / "access.1")
    until(lambda: rotated not in [os.readlink(p) for p in fds(server)])
    request("after")
    until(lambda: path.read_text() == "/length/1?after\n" * 4, path.read_text)
    assert (folder / "access.1").read_text() == "/length/1?before\n" * 4

    moved = tmp_path / "moved"
    folder.rename(moved)
    server.send(USR1)
    server.wait_for(r"worker 0.1 +the access log cannot be opened anew: .*No such file")
    server.wait_for(r"worker 1.1 +the access log cannot be opened anew: .*No such file")
    request("lost")
    until(lambda: (moved / "access").read_text().endswith("/length/1?lost\n" * 4))
    assert server.stop() == 0, server.log


def fds(server: Server) -> list[Path]:
    return list(Path(f"/proc/{server.process.pid}/fd").iterdir())


# ---- workers that break


def test_a_worker_that_breaks_is_replaced(serve: Serve) -> None:
    server = serve("hanging:app", "--workers", "2")
    with Wire.connect(server.address) as wire, Wire.connect(server.address) as other:
        broken = wire.get("/").answer().headers["x-worker"]
        kept = other.get("/").answer().headers["x-worker"]
        wire.get("/break")
        server.wait_for(rf"worker {broken} broke: .*CancelledError.*; the next attempt is made at")
        assert other.get("/").answer().headers["x-worker"] == kept
        replacement = f"{broken[0]}.2"
        server.wait_for(f"worker {replacement} ready")
        with Wire.connect(server.address) as new:
            assert new.get("/").answer().headers["x-worker"] == replacement
    assert server.stop() == 0, server.log
