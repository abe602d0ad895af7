"""What a handler raises fails its own request, and nothing else."""

import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Wire, gate

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    return shared_serve("asgi:app", "--workers", "1", "--loop", request.param)


ERRORS = [
    "RuntimeError",
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "BaseException",
    "CancelledError",
    "StopIteration",
    "StopAsyncIteration",
    "MemoryError",
    "TimeoutError",
    "ConnectionResetError",
]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_before_the_response(server: Server, error: str) -> None:
    """500, over a connection that goes on; the traceback once, with the request in front."""
    with gate() as held, Wire.connect(server.address) as wire, Wire.connect(server.address) as by:
        by.get(f"/gate/{held.port}")
        held.wait()
        answer = wire.get(f"/raise/{error}").answer()
        assert (answer.status, answer.body) == (500, b"Internal Server Error\n")
        assert wire.get("/").answer().headers["x-worker"] == "0.1"
        held.open()
        assert by.answer().body == b"through"
    raised = "RuntimeError" if error == "StopIteration" else error  # PEP 479
    server.wait_for(f"GET /raise/{error} failed: {raised}$")
    assert server.log.count(f"GET /raise/{error} failed: ") == 1


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_the_middle_of_the_response(server: Server, error: str) -> None:
    """The client sees that it has broken off."""
    with Wire.connect(server.address) as wire:
        answer = wire.get(f"/raise/{error}/late?after=1").answer()
        assert (answer.status, answer.body, answer.complete) == (200, b"the beginning", False)
    with Wire.connect(server.address) as wire:
        assert wire.get("/").answer().headers["x-worker"] == "0.1"


def test_an_error_in_the_middle_of_a_response_without_an_end_of_its_own(server: Server) -> None:
    """HTTP/1.0: only a reset tells such a response from a complete one."""
    with Wire.connect(server.address) as wire:
        wire.send(b"GET /raise/RuntimeError?after=1 HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            wire.read_to_end()


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_an_error_in_a_task_that_a_handler_left_behind(server: Server, error: str) -> None:
    """It would end the event loop, and with it all that the worker has in flight."""
    with gate() as held, Wire.connect(server.address) as wire, Wire.connect(server.address) as by:
        by.get(f"/gate/{held.port}")
        held.wait()
        assert wire.get(f"/background/{error}").answer().body == b"left behind"
        assert wire.get("/").answer().headers["x-worker"] == "0.1"
        held.open()
        assert by.answer().body == b"through"
    if error != "GeneratorExit":
        server.wait_for(f"a task of the app raised {error}")


@pytest.mark.parametrize("path", ["never-started", "unfinished"])
def test_an_app_that_returns_too_early(server: Server, path: str) -> None:
    with Wire.connect(server.address) as wire:
        answer = wire.get(f"/{path}").answer()
        if path == "never-started":
            assert (answer.status, answer.body) == (500, b"Internal Server Error\n")
        else:
            assert (answer.status, answer.complete) == (200, False)
    server.wait_for(f"GET /{path}: the app returned too early")


@pytest.mark.parametrize("path", ["bad-header", "bad-name", "bad-type"])
def test_a_header_that_is_none(server: Server, path: str) -> None:
    """A line break in a value would be a header of the attacker's."""
    with Wire.connect(server.address) as wire:
        answer = wire.get(f"/{path}").answer()
    assert answer.status == 500
    assert "set-cookie" not in answer.headers
    server.wait_for(f"GET /{path} failed: ")
    assert "stolen" not in server.log


def test_the_log_cannot_be_forged_by_a_path(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        assert wire.get("/raise/ValueError/%0d%0aforged%1b[31m").answer().status == 500
    server.wait_for(re.escape(r"GET /raise/ValueError/\x0d\x0aforged\x1b[31m failed"))


def test_a_loop_that_the_app_stops_goes_on(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        assert wire.get("/stop-loop").answer().body == b"stopped"
        assert wire.get("/").answer().status == 200
    server.wait_for("the app stopped the event loop, which goes on")


def test_nothing_of_it_is_left_when_the_server_stops(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1", "--log-level", "debug")
    for error in ("SystemExit", "CancelledError"):
        with Wire.connect(server.address) as wire:
            assert wire.get(f"/raise/{error}").answer().status == 500
    assert server.stop() == 0, server.log
    assert "worker 0.1: interpreter closed" in server.log
    assert "stopped; it served 2 requests over 2 connections" in server.log


def test_a_crash_says_where_it_was(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1", "--no-supervisor")
    assert server.stop(signal.SIGSEGV) == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in server.log
