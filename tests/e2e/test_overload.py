"""More clients than there is room for, and an environment that fails: serving goes on."""

import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import DEADLINE, Wire, gate
from tests.e2e.conftest import APPS

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve


def until(condition: Callable[[], object], seconds: float = DEADLINE) -> float:
    """Wait for `condition` and return how long it took; fail after `seconds`."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it has not come to pass"
        time.sleep(0.01)
    return time.monotonic() - begun


def is_served(address: tuple[str, int]) -> bool:
    with Wire.connect(address) as wire:
        return wire.get("/", "Connection: close").answer().status == 200


def has_answer(wire: Wire, seconds: float = 0.0) -> bool:
    return bool(select.select([wire.sock], [], [], seconds)[0])


def test_max_connections(serve: Serve) -> None:
    """Two workers of three: the seventh waits in the kernel, and is served when one ends."""
    server = serve("asgi:app", "--max-connections", "3", "--keep-alive-timeout", "60s")
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.connect(server.address)) for _ in range(6)]
        assert {wire.get("/").answer().status for wire in wires} == {200}
        waiting = [stack.enter_context(Wire.connect(server.address)).get("/") for _ in range(10)]
        server.wait_for("all workers have as many connections as --max-connections lets them")
        before = server.cpu_seconds()
        assert not any(has_answer(wire, 0.05) for wire in waiting)
        assert server.cpu_seconds() - before < 0.2, "it waits, and does not ask all the time"
        # Those that are served are served on.
        assert wires[0].get("/").answer().status == 200
        for number, wire in enumerate(waiting):
            (wires[number] if number < 6 else waiting[number - 6]).close()
            assert wire.answer().status == 200
    assert server.log.count("--max-connections lets them") <= 3
    assert server.stop() == 0, server.log


def test_a_drain_while_all_are_busy(serve: Serve) -> None:
    """Who was accepted before the stop is answered; a handler at a gate holds the only place."""
    server = serve("asgi:app", "--workers", "1", "--max-connections", "1")
    with gate() as held, Wire.connect(server.address) as first:
        first.get(f"/gate/{held.port}")
        held.wait()
        with Wire.connect(server.address) as second:
            second.get("/")
            server.wait_for("--max-connections lets them")
            server.send(signal.SIGTERM)
            assert second.answer().status == 200
        held.open()
        assert first.answer().body == b"through"
    assert server.wait() == 0, server.log


def test_too_few_descriptors_for_max_connections(serve: Serve) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = str(max(limit, 2**20) + 1)
    server = serve("asgi:app", "--workers", "1", "--max-connections", wanted)
    server.wait_for("will not be reached with .* file descriptors; raise ulimit -n")


def test_descriptors_run_out(launch: Serve) -> None:
    """64 descriptors, 192 connections: no busy loop, no storm in the log, and soon back again."""
    server = launch(
        *("asgi:app", "--app-dir", str(APPS), "--bind", "127.0.0.1:0", "--workers", "2"),
        *("--header-timeout", "60s"),
        max_descriptors=64,
    ).wait_ready()
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.connect(server.address)) for _ in range(192)]
        for wire in wires:
            wire.get("/")
        server.wait_for("the kernel queues meanwhile")
        assert wires[0].answer().status == 200
        cpu, begun, lines = server.cpu_seconds(), time.monotonic(), server.log.count("\n")
        while time.monotonic() - begun < 5:
            assert server.process.poll() is None
            time.sleep(0.1)
        assert server.cpu_seconds() - cpu < 0.3
        assert server.log.count("\n") - lines <= 50
        # The app can still open what it needs: some are kept for it.
        assert wires[1].answer().status == 200
    assert until(lambda: is_served(server.address), 2.0) < 2.0
    assert "Traceback" not in server.log
    assert server.stop() == 0, server.log


@pytest.mark.parametrize("app", ["asgi:app", "wsgi:app"])
def test_the_devices_of_the_logs_are_full(app: str, tmp_path: Path) -> None:
    """Nothing can be said any more, and nothing else is wrong."""
    path = str(tmp_path / "s")
    with open("/dev/full", "wb", buffering=0) as full:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "subserve", app, "--app-dir", str(APPS), "--workers", "2"),
                *("--bind", f"unix:{path}", "--access-log", "-", "--log-level", "debug"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
            cwd=tmp_path,
        )
    try:
        until(lambda: Path(path).is_socket() and _connects(path))
        for _ in range(20):
            with Wire.connect(path) as wire:
                assert wire.get("/").answer().status == 200
                assert wire.get("/raise/ValueError").answer().status == 500
            with Wire.connect(path) as wire:
                assert wire.send(b"nonsense\r\n\r\n").answer().status == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


def _connects(path: str) -> bool:
    try:
        Wire.connect(path).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("app", ["asgi:app", "wsgi:app"])
def test_a_client_resets_at_any_byte(serve: Serve, app: str) -> None:
    """Of what it sends, and of what it reads: nothing is kept, nobody else notices."""
    server = serve(app, "--workers", "1")
    body = b"x" * 20
    sent = b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 20\r\n\r\n" + body
    with Wire.connect(server.address) as wire:
        size = len(wire.send(sent + b"GET").read_until(b"\r\n\r\n")) + 67
    until(lambda: "socket:[N]" in server.open_fds())
    before = server.open_fds()
    with Wire.connect(server.address) as other:
        for count in range(len(sent) + 1):
            Wire.connect(server.address).send(sent[:count]).reset()
        for count in range(size):
            wire = Wire.connect(server.address).send(sent)
            wire.read_exactly(count)
            wire.reset()
            if count % 20 == 0:
                assert other.get("/").answer().status == 200
        for count in (1, 100, 70_000, 1_000_000):
            wire = Wire.connect(server.address, receive_buffer=4096).get("/stream/3000000")
            wire.read_exactly(count)
            wire.reset()
        assert other.get("/").answer().status == 200
    until(lambda: len(server.open_fds()) <= len(before))
    # The app is told where its client left in the middle of a body, and says so; no more.
    surprises = [
        line
        for line in server.log.splitlines()
        if " error " in line and "ConnectionResetError" not in line
    ]
    assert not surprises
    assert server.stop() == 0, server.log


CLOCK_THAT_JUMPS = """
import itertools, time
_real, _steps = time.time, itertools.cycle((0.0, 86400.0, -86400.0, 3e8, -1e9))
time.time = lambda: _real() + next(_steps)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_clock_jumps(serve: Serve, tmp_path: Path, loop: str) -> None:
    """In all interpreters, forward and back at each look: no time-out goes by it."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK_THAT_JUMPS)
    server = serve(
        *("asgi:app", "--loop", loop, "--keep-alive-timeout", "30s", "--hang-timeout", "500ms"),
        env={"PYTHONPATH": str(tmp_path)},
    )
    with Wire.connect(server.address) as idle, Wire.connect(server.address) as slow:
        slow.send(b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 15\r\n\r\n")
        for _ in range(15):
            assert idle.get("/").answer().status == 200
            slow.send(b"x")
            time.sleep(0.1)  # in which sweeps and heartbeats look at the time
        assert slow.answer().body.startswith(b"15 ")
    assert "hangs" not in server.log
    assert "replaced" not in server.log
    assert server.stop() == 0, server.log


STOPPED_SECONDS = float(os.environ.get("STOPPED_SECONDS", "2.5"))


@pytest.mark.parametrize(("loop", "whom"), [("asyncio", "all"), ("uvloop", "serving")])
def test_stopped_and_continued(serve: Serve, loop: str, whom: str) -> None:
    """A laptop that sleeps, a debugger, a frozen container: longer than any time-out.

    Regression: what had come meanwhile was found to have come too late.
    """
    server = serve(
        *("asgi:app", "--loop", loop, "--hang-timeout", "1s", "--header-timeout", "1s"),
        *("--body-timeout", "1s", "--write-timeout", "1s", "--keep-alive-timeout", "1s"),
    )
    pids = [server.serving_pid, *([server.process.pid] if whom == "all" else [])]
    with ExitStack() as stack:
        connect = lambda: stack.enter_context(Wire.connect(server.address))  # noqa: E731
        head, body, reader, idle = connect(), connect(), connect(), connect()
        assert idle.get("/").answer().status == 200
        head.send(b"GET / HTTP/1.1\r\nHo")
        body.send(b"POST /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx")
        reader.get("/length/20000000").receive()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            late = connect().get("/")  # the kernel takes it
            head.send(b"st: t\r\n\r\n")
            body.send(b"x")
            idle.get("/")
            time.sleep(STOPPED_SECONDS)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert head.answer().status == 200
        assert body.answer().body.startswith(b"2 ")
        assert idle.answer().status == 200
        assert late.answer().status == 200
        assert len(reader.read_exactly(10_000_000)) == 10_000_000
    until(lambda: is_served(server.address))
    assert "hangs" not in server.log
    assert "replaced" not in server.log
    assert server.stop() == 0, server.log


def test_max_queue_says_when_to_come_again(serve: Serve) -> None:
    server = serve("wsgi:app", "--workers", "1", "--threads", "1", "--max-queue", "1")
    with gate() as held, ExitStack() as stack:
        wires = [stack.enter_context(Wire.connect(server.address)) for _ in range(3)]
        wires[0].get(f"/gate/{held.port}")
        held.wait()
        wires[1].get("/")
        refused = None
        for _ in range(100):  # the one that waits has to be counted first
            wire = stack.enter_context(Wire.connect(server.address)).get("/")
            if has_answer(wire, 0.2):
                refused = wire.answer()
                break
        assert refused is not None
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        held.open()
        assert wires[0].answer().status == 200
        assert wires[1].answer().status == 200
    assert server.stop() == 0, server.log
