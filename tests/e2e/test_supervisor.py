"""Crashes, turn-overs and ends, as clients and operators experience them."""

import contextlib
import os
import random
import re
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadtests.hup import HELLO
from loadtests.keepalive import Client, Load, mixed
from tests.e2e.clients import Wire, gate, wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

CRASHING = """\
import asgi, os, signal, time
async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)  # it may be another thread that takes the signal
    if scope["type"] == "http" and scope["path"] == "/exit":
        os._exit(7)
    await asgi.app(scope, receive, send)
"""

ENV = {"PYTHONPATH": str(Path(__file__).parent / "apps")}


def ask(server: Server, path: str = "/") -> bytes:
    with Wire.connect(server.address) as wire:
        return wire.get(path, "Connection: close").answer().body


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def turn_over(server: Server) -> None:
    """Send HUP, and wait until the old process has been told, and accepts no more."""
    turned, drained = server.log.count("turned over in"), server.log.count(" draining ")
    server.send(signal.SIGHUP)
    wait_until(lambda: server.log.count("turned over in") > turned, server.log)
    wait_until(lambda: server.log.count(" draining ") > drained, server.log)


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(HELLO)
    return tmp_path


@pytest.fixture
def crashing(tmp_path: Path) -> Path:
    (tmp_path / "crashing.py").write_text(CRASHING)
    return tmp_path


# ---- crashes


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/segfault", r"crashed: it was killed by SIGSEGV \(a crash in C code"),
        ("/exit", "crashed: it ended with exit code 7"),
    ],
)
def test_a_crash(serve: Serve, crashing: Path, path: str, cause: str) -> None:
    """Who asks meanwhile waits in the kernel's queue and is served by the next process."""
    server = serve("crashing:app", "--workers", "1", app_dir=crashing, env=ENV)
    first = server.serving_pid
    with Wire.connect(server.address) as wire:
        assert wire.get(path).receive() == b""
    assert ask(server) == b"hello 1"
    assert server.serving_pid != first
    server.wait_for(rf"serving process 0\.1 \(pid {first}\) {cause}")
    if path == "/segfault":
        assert "Fatal Python error: Segmentation fault" in server.log
    assert server.stop() == 0, server.log


def test_the_first_answer_after_a_crash(serve: Serve, hello: Path) -> None:
    """It takes at most 0.3 s longer than a start does; a busy machine has three tries."""

    def start_and_crash() -> float:
        begin = time.monotonic()
        server = serve("hello:app", "--workers", "1", app_dir=hello)
        ask(server)
        start = time.monotonic() - begin
        os.kill(server.serving_pid, signal.SIGKILL)
        begin = time.monotonic()
        ask(server)
        longer = time.monotonic() - begin - start
        assert server.stop() == 0, server.log
        return longer

    assert any(start_and_crash() < 0.3 for _ in range(3))


@pytest.mark.parametrize("seed", range(4))
def test_crashes_at_random_moments(serve: Serve, hello: Path, seed: int) -> None:
    """20 of them under load: no connection is refused, and each time it is back.

    5 at a time, for with each one more the back-off gets longer.
    """
    server = serve("hello:app", "--workers", "2", "--crash-limit", "1000", app_dir=hello)
    choose = random.Random(seed)
    clients = [Client(server.address, keep=1, pause=0.01) for _ in range(3)]
    clients.append(Client(server.address, pause=0.01))
    with Load(clients) as load:
        for number in range(1, 6):
            served = load.answered
            wait_until(lambda served=served: load.answered > served, "it is not back")  # type: ignore[misc]
            time.sleep(choose.uniform(0.0, 0.3))
            os.kill(server.serving_pid, choose.choice([signal.SIGKILL, signal.SIGSEGV]))
            wait_until(lambda n=number: server.log.count(" crashed: ") == n, server.log)  # type: ignore[misc]
            wait_until(server.serving_pids, "nobody serves")
        served = load.answered
        wait_until(lambda: load.answered > served + 10, "it is not back")
    assert not [failure for failure in load.failures if "connecting" in failure]
    # In flight on the dead: at most one for each client and crash.
    assert len(load.failures) <= 5 * len(clients)
    assert server.stop() == 0, server.log


def test_a_crash_loop(serve: Serve, crashing: Path) -> None:
    path = crashing / "app.sock"
    server = serve(
        *("crashing:app", "--crash-limit", "3", "--workers", "1", "--bind", f"unix:{path}"),
        app_dir=crashing,
        env=ENV,
    )
    for _ in range(3):
        with contextlib.suppress(ConnectionResetError), Wire.connect(str(path)) as wire:
            wire.get("/exit").receive()
    assert server.wait() == 1, server.log
    assert "giving up: 3 crashes within 60 s" in server.log
    assert server.log.count(" crashed: ") == 3
    assert not path.exists()


def test_a_crash_while_the_app_starts(launch: Serve, tmp_path: Path) -> None:
    """The first start is not tried again."""
    (tmp_path / "dying.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    server = launch("dying:app", "--bind", "127.0.0.1:0")
    assert server.wait() == 3, server.log
    assert len(re.findall(r"serving process 0\.1 .* did not start: .*SIGSEGV", server.log)) == 1


def test_what_a_killed_process_leaves_is_removed(serve: Serve, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    server = serve("asgi:app", "--loop", "uvloop", env={"TMPDIR": str(scratch)})
    (before,) = scratch.iterdir()
    os.kill(server.serving_pid, signal.SIGKILL)
    ask(server)
    (after,) = scratch.iterdir()
    assert after != before
    assert server.stop() == 0, server.log
    assert list(scratch.iterdir()) == []


def test_several_processes(serve: Serve, hello: Path) -> None:
    """They share the addresses; when one crashes, the others serve."""
    server = serve("hello:app", "--processes", "3", "--workers", "1", app_dir=hello)
    assert "workers    3 processes x 1 sub-interpreter, " in server.log
    pids = server.serving_pids()
    assert len(pids) == 3
    clients = [Client(server.address, keep=1) for _ in range(6)]
    with Load(clients) as load:
        everybody = {str(pid).encode() for pid in pids}
        wait_until(lambda: load.bodies >= everybody, "not all of them serve")
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: len(load.bodies) == 4, "it is not replaced")
    assert not [failure for failure in load.failures if "connecting" in failure]
    turn_over(server)
    assert server.stop() == 0, server.log


# ---- turn-overs


def test_turn_overs_under_load(serve: Serve, hello: Path) -> None:
    """5 of them, over TCP and a unix socket, with clients of all kinds: no request is lost."""
    unix = f"{hello}/app.sock"
    server = serve(*("hello:app", "--bind", "127.0.0.1:0", "--bind", f"unix:{unix}"), app_dir=hello)
    with Load(mixed([server.address, unix])) as load:
        for number in range(1, 6):
            served = load.answered
            wait_until(lambda served=served: load.answered > served + 500, "no load")  # type: ignore[misc]
            turn_over(server)
            wait_until(lambda n=number: len(load.bodies) == n + 1, "it is not the new one")  # type: ignore[misc]
    assert load.failures == []
    assert server.stop() == 0, server.log


def test_new_code_and_configuration(serve: Serve, tmp_path: Path) -> None:
    """The environment and the command line are as they were, files are read anew."""
    app = tmp_path / "shop.py"
    app.write_text(f"{HELLO}\nBODY = b'old'\nHEADERS = [(b'content-length', b'3')]\n")
    config = tmp_path / "subserve.toml"
    config.write_text("workers = 1\n")
    server = serve("shop:app", "--workers", "2", app_dir=tmp_path, cwd=tmp_path)
    assert ask(server) == b"old"
    app.write_text(f"{HELLO}\nBODY = b'new'\nHEADERS = [(b'content-length', b'3')]\n")
    config.write_text('workers = 1\nlog-format = "json"\n')
    turn_over(server)
    assert ask(server) == b"new"
    server.wait_for(r'"message": "turned over')


@pytest.mark.parametrize("broken", ["def app(:\n", "import no_such_module\n", "1 / 0\n"])
def test_new_code_that_does_not_start(serve: Serve, hello: Path, broken: str) -> None:
    server = serve("hello:app", app_dir=hello)
    pid = str(server.serving_pid).encode()
    (hello / "hello.py").write_text(broken)
    server.send(signal.SIGHUP)
    server.wait_for("the new code does not start; the old goes on serving")
    assert re.search(r"error +server +worker [01]\.1: ", server.log), "which says why"
    assert ask(server) == pid
    # And what is mended can be loaded.
    (hello / "hello.py").write_text(HELLO)
    turn_over(server)
    assert ask(server) != pid
    assert server.stop() == 0, server.log


def test_new_configuration_that_is_wrong(serve: Serve, hello: Path) -> None:
    server = serve("hello:app", app_dir=hello, cwd=hello)
    pid = str(server.serving_pid).encode()
    (hello / "subserve.toml").write_text('graceful-timeout = "soon"\nwrokers = 2\n')
    server.send(signal.SIGHUP)
    server.wait_for("nothing is changed: .*wrokers: unknown key.*; .*expected a duration")
    assert ask(server) == pid


def test_addresses_that_change(launch: Serve, hello: Path) -> None:
    """New ones are bound, removed ones closed; what cannot be had changes nothing."""

    def binds(*names: str) -> None:
        listed = ", ".join(f'"unix:{hello}/{name}.sock"' for name in names)
        (hello / "subserve.toml").write_text(f"bind = [{listed}]\n")

    def served() -> dict[str, bool]:
        return {path.stem: answers(path) for path in hello.glob("*.sock")}

    def answers(path: Path) -> bool:
        with Wire.connect(str(path)) as wire:
            return wire.get("/").answer().status == 200

    binds("stays", "goes")
    server = launch("hello:app", "--workers", "1", cwd=hello).wait_ready()
    assert served() == {"stays": True, "goes": True}
    inode = (hello / "stays.sock").stat().st_ino
    binds("stays", "comes")
    turn_over(server)
    assert served() == {"stays": True, "comes": True}
    assert (hello / "stays.sock").stat().st_ino == inode
    binds("stays", "no/such/folder")
    server.send(signal.SIGHUP)
    server.wait_for("nothing is changed: cannot listen on unix:.*its directory does not exist")
    assert served() == {"stays": True, "comes": True}
    assert server.stop() == 0, server.log
    assert list(hello.glob("*.sock")) == []


def test_a_link_to_a_release(launch: Serve, tmp_path: Path) -> None:
    """A deployment that moves a link: the working directory is what the link is now."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        body = f"BODY = b'{name}'\nHEADERS = [(b'content-length', b'3')]\n"
        (tmp_path / name / "shop.py").write_text(HELLO + body)
    link = tmp_path / "current"
    link.symlink_to("one")
    server = launch(
        *("shop:app", "--bind", "127.0.0.1:0", "--workers", "1"), cwd=link, env={"PWD": str(link)}
    ).wait_ready()
    assert ask(server) == b"one"
    link.unlink()
    link.symlink_to("two")
    turn_over(server)
    assert ask(server) == b"two"


def test_a_request_in_flight_is_finished_by_the_old(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1")
    first = server.serving_pid
    with gate() as held, Wire.connect(server.address) as wire:
        wire.get(f"/gate/{held.port}")
        held.wait()
        turn_over(server)
        assert ask(server) == b"hello 1"
        assert not gone(first)
        held.open()
        answer = wire.answer()
        assert (answer.status, answer.body) == (200, b"through")
        assert answer.headers["connection"] == "close"
        assert wire.closed_cleanly()
    wait_until(lambda: gone(first), server.log)


def test_hup_while_hup(serve: Serve, hello: Path) -> None:
    """Newer code does not wait for new code that hangs."""
    server = serve("hello:app", app_dir=hello)
    with gate() as held:
        (hello / "hello.py").write_text(
            f"import socket\nsocket.create_connection(('127.0.0.1', {held.port})).recv(1)\n"
        )
        server.send(signal.SIGHUP)
        held.wait()
        (hello / "hello.py").write_text(HELLO)
        turn_over(server)
        ask(server)
    assert server.stop() == 0, server.log


# ---- ends


def test_the_supervisor_is_killed(serve: Serve, tmp_path: Path) -> None:
    """Nobody is left behind, and what is in flight is finished."""
    path = tmp_path / "app.sock"
    server = serve("asgi:app", "--bind", f"unix:{path}", "--graceful-timeout", "120s")
    pid = server.serving_pid
    with gate() as held, Wire.connect(str(path)) as wire:
        wire.get(f"/gate/{held.port}")
        held.wait()
        server.send(signal.SIGKILL)
        server.wait_for("the supervisor is gone: finishing what is in flight")
        server.wait_for("draining 1 connections, 1 requests")
        held.open()
        assert wire.answer().body == b"through"
    wait_until(lambda: gone(pid), "the orphan lives")
    # The next one finds the socket's file, and that nobody listens there.
    again = serve("asgi:app", "--bind", f"unix:{path}")
    with Wire.connect(str(path)) as wire:
        assert wire.get("/").answer().status == 200
    assert again.stop() == 0


def test_ctrl_c_reaches_all_processes_and_counts_once(serve: Serve) -> None:
    """A terminal sends it to the whole group: it must not be taken for a second one."""
    server = serve("asgi:app", "--workers", "1", "--graceful-timeout", "120s")
    with gate() as held, Wire.connect(server.address) as wire:
        wire.get(f"/gate/{held.port}")
        held.wait()
        for pid in (server.serving_pid, server.process.pid):
            os.kill(pid, signal.SIGINT)
        server.wait_for("draining 1 connections, 1 requests")
        held.open()
        assert wire.answer().body == b"through"
    assert server.wait() == 0, server.log
    assert "at once" not in server.log


def test_a_hangup_of_the_terminal_is_one_turn_over(serve: Serve, hello: Path) -> None:
    server = serve("hello:app", app_dir=hello)
    for pid in (server.serving_pid, server.process.pid):
        os.kill(pid, signal.SIGHUP)
    server.wait_for("turned over in")
    assert server.log.count("HUP: ") == 1


def test_hup_without_a_supervisor(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1", "--no-supervisor")
    assert server.serving_pids() == []
    server.send(signal.SIGHUP)
    server.wait_for("HUP loads new code with a supervisor only")
    assert ask(server) == b"hello 1"
    assert server.stop() == 0, server.log


def test_a_stop_during_a_turn_over(serve: Serve, hello: Path) -> None:
    server = serve("hello:app", app_dir=hello)
    with gate() as held:
        (hello / "hello.py").write_text(
            f"import socket\nsocket.create_connection(('127.0.0.1', {held.port})).recv(1)\n"
        )
        server.send(signal.SIGHUP)
        held.wait()
        pids = server.serving_pids()
        assert server.stop() == 0, server.log
    assert all(gone(pid) for pid in pids)


def test_a_serving_process_that_does_not_end(serve: Serve) -> None:
    """It is stopped as a whole, so it cannot even count its own time."""
    server = serve("asgi:app", "--workers", "1", "--graceful-timeout", "100ms")
    os.kill(server.serving_pid, signal.SIGSTOP)
    assert server.stop() == 1, server.log
    assert "serving process 0.1 does not end: killing it" in server.log


def test_descriptors_and_threads_of_the_supervisor_stay_level(serve: Serve, hello: Path) -> None:
    """Also under a tight limit: what is taken for a process is given back at its end."""
    server = serve("hello:app", "--crash-limit", "1000", "--workers", "1", app_dir=hello)
    supervisor = Path(f"/proc/{server.process.pid}")

    def held() -> tuple[int, int]:
        return len(list((supervisor / "fd").iterdir())), len(list((supervisor / "task").iterdir()))

    before = held()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (before[0] + 12, before[0] + 12))
    for _ in range(4):
        turn_over(server)
        old = server.serving_pids()
        os.kill(old[-1], signal.SIGKILL)
        ask(server)
        wait_until(lambda: len(server.serving_pids()) == 1, server.log)
    assert held() == before
    assert server.stop() == 0, server.log


def test_the_extra_process_costs_little(serve: Serve, hello: Path) -> None:
    """The median of several starts; loose, for a machine that does other things, too."""

    def start(*options: str) -> float:
        begin = time.monotonic()
        server = serve("hello:app", "--workers", "1", *options, app_dir=hello)
        taken = time.monotonic() - begin
        server.stop()
        return taken

    with_one = sorted(start() for _ in range(5))
    without = sorted(start("--no-supervisor") for _ in range(5))
    assert with_one[2] - without[2] < 0.5


def test_connections_queue_while_nobody_serves(serve: Serve, crashing: Path) -> None:
    """Also those of clients that connect between a crash and the next start."""
    server = serve("crashing:app", "--workers", "1", app_dir=crashing, env=ENV)
    os.kill(server.serving_pid, signal.SIGKILL)
    answers: list[bytes] = []
    clients = [threading.Thread(target=lambda: answers.append(ask(server))) for _ in range(20)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(answers) == 20
    with socket.create_connection(server.address):
        pass
