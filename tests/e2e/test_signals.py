"""What each signal does, in each phase of the server's life."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Wire, gate

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve

PATIENCE = "120s"
"""A graceful timeout that no test waits for: the fixture's patience ends before."""

TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT


@pytest.mark.parametrize("signum", [TERM, INT])
def test_one_signal_lets_requests_finish(serve: Serve, signum: signal.Signals) -> None:
    server = serve("asgi:app", "--graceful-timeout", PATIENCE)
    with gate() as held, Wire.connect(server.address) as wire:
        wire.get(f"/gate/{held.port}")
        held.wait()
        server.send(signum)
        server.wait_for("draining 1 connections, 1 requests")
        assert server.process.poll() is None
        held.open()
        answer = wire.answer()
    assert (answer.status, answer.body) == (200, b"through")
    assert server.wait() == 0, server.log


@pytest.mark.parametrize("signums", [(INT, INT), (TERM, INT), (INT, QUIT), (QUIT,)])
def test_stopping_at_once(
    serve: Serve, tmp_path: Path, signums: tuple[signal.Signals, ...]
) -> None:
    """A second INT, or QUIT: exit code 0, whatever runs; the socket's file is gone all the same."""
    path = tmp_path / "app.sock"
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    server = serve(
        *("asgi:app", "--workers", "1", "--graceful-timeout", PATIENCE),
        *("--bind", f"unix:{path}"),
        env={"TMPDIR": str(scratch)},
    )
    with gate() as held, Wire.connect(str(path)) as wire:
        wire.get(f"/gate/{held.port}")
        held.wait()
        server.send(signums[0])
        if len(signums) > 1:
            server.wait_for("draining 1 connections, 1 requests")
            server.send(signums[1])
        assert server.wait() == 0, server.log
        assert wire.read_to_end() == b""
    assert server.log.count("stopping at once") == 1
    assert "lifespan.shutdown" not in server.log
    assert not path.exists()
    assert list(scratch.iterdir()) == []


def test_a_second_term_changes_nothing(serve: Serve) -> None:
    """Some service managers send it twice."""
    server = serve("asgi:app", "--graceful-timeout", PATIENCE)
    with gate() as held, Wire.connect(server.address) as wire:
        wire.get(f"/gate/{held.port}")
        held.wait()
        server.send(TERM)
        server.wait_for("draining 1 connections, 1 requests")
        server.send(TERM)
        held.open()
        assert wire.answer().body == b"through"
    assert server.wait() == 0, server.log


@pytest.mark.parametrize("signums", [(TERM,), (INT,), (INT, INT), (QUIT,)])
def test_while_the_app_is_imported(
    launch: Serve, tmp_path: Path, signums: tuple[signal.Signals, ...]
) -> None:
    """It has served nobody: there is nothing to wait for, least of all the import."""
    path = tmp_path / "app.sock"
    with gate() as held:
        (tmp_path / "slow.py").write_text(
            "import socket\n"
            f"with socket.create_connection(('127.0.0.1', {held.port})) as gate:\n"
            "    gate.recv(1)\n"
        )
        server = launch("slow:app", "--bind", f"unix:{path}", "--workers", "2")
        held.wait(2)
        for signum in signums:
            server.send(signum)
        assert server.wait() == 0, server.log
    assert "Traceback" not in server.log
    assert "  pid " not in server.log
    assert not path.exists()


def test_while_the_lifespan_starts(launch: Serve, tmp_path: Path) -> None:
    """One worker is ready and shuts down in order; the other is in the middle of its startup."""
    with gate() as held:
        (tmp_path / "slow.py").write_text(
            "import asgi, subserve\n"
            "async def app(scope, receive, send):\n"
            "    if scope['type'] == 'lifespan' and subserve.current_worker().index == 1:\n"
            f"        await asgi.passage('{held.port}')\n"
            "    await asgi.app(scope, receive, send)\n"
        )
        env = {"PYTHONPATH": str(Path(__file__).parent / "apps")}
        server = launch("slow:app", "--bind", "127.0.0.1:0", "--workers", "2", env=env)
        held.wait()
        server.wait_for("worker 0.1 +ready")
        server.send(TERM)
        assert server.wait() == 0, server.log
    assert server.log.count("lifespan.shutdown\n") == 1
    assert "Traceback" not in server.log
