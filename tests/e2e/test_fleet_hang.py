"""Workers whose event loop does not run any more, while the others serve."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Gate, Stopwatch, Wire, wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

HANG = "1500ms"
"""Long enough for a busy machine."""


@pytest.fixture
def held() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.close()


def hang_one(server: Server, stack: ExitStack, held: Gate, way: str) -> tuple[Wire, str]:
    """Have a worker hang; return the connection that waits for it, and its name."""
    wire = stack.enter_context(Wire.connect(server.address))
    name = wire.get("/").answer().headers["x-worker"]
    wire.get(f"/{way}/{held.port}")
    held.wait()
    return wire, name


def workers_of(server: Server, count: int) -> set[str]:
    """Return the names of the workers that answer `count` new connections."""
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.connect(server.address)) for _ in range(count)]
        return {wire.get("/").answer().headers["x-worker"] for wire in wires}


STACKS = {
    "spin": r"in spin\n    while not select\.select",
    "block": r"in block\n    gate\.recv\(1\)",
    "hold-gil": r'hanging\.py", line \d+ in hold_gil',
}
"""Where the log says that each of them hangs."""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("way", STACKS)
def test_one_that_comes_back(serve: Serve, held: Gate, way: str, loop: str) -> None:
    """It is replaced, found out, and answers what it has once it can."""
    server = serve("hanging:app", "--hang-timeout", HANG, "--loop", loop)
    with ExitStack() as stack:
        wire, name = hang_one(server, stack, held, way)
        server.wait_for(rf"error +server +worker {name} hangs: its event loop has not run for")
        server.wait_for(f"worker {name[0]}.2 ready")
        assert name not in workers_of(server, 4)
        if way == "hold-gil":
            server.wait_for(f"worker {name} holds its GIL in C code; its threads are where")
        else:
            server.wait_for(f"worker {name}  its threads are where the stacks above say")
        assert re.search(STACKS[way], server.log), server.log
        held.open(b"!")
        answer = wire.answer()
        assert (answer.body, answer.headers["x-worker"]) == (b"late", name)
        assert wire.closed_cleanly()
        server.wait_for(f"app {name}: lifespan.shutdown")
    assert "abandoned" not in server.log
    assert server.stop() == 0, server.log
    assert "stopping at once" not in server.log


@pytest.mark.parametrize("way", STACKS)
def test_one_that_does_not(serve: Serve, held: Gate, way: str) -> None:
    """It is abandoned, a new process is called for, and the server ends in time all the same."""
    server = serve(
        *("hanging:app", "--hang-timeout", HANG, "--graceful-timeout", "1s", "--no-supervisor")
    )
    with ExitStack() as stack:
        _, name = hang_one(server, stack, held, way)
        server.wait_for(f"worker {name}: its event loop has not come back within 1 s, it is aban")
        server.wait_for("1 worker that would not end had to be abandoned; there is no supervisor")
        assert name not in workers_of(server, 4)
        with Stopwatch() as watch:
            assert server.stop() == 0, server.log
        assert watch.seconds < 1.0 + 2.0


def test_the_supervisor_replaces_the_process_of_one_that_does_not(serve: Serve, held: Gate) -> None:
    server = serve("hanging:app", "--hang-timeout", HANG, "--graceful-timeout", "1s")
    first = server.serving_pid
    with ExitStack() as stack:
        hang_one(server, stack, held, "spin")
        server.wait_for("is to be replaced: 1 worker that would not end had to be abandoned")
        server.wait_for("turned over in")
        # The old one may take a connection more before it hears of that.
        wait_until(lambda: first not in server.serving_pids(), server.log, seconds=10)
        assert workers_of(server, 2) == {"0.1", "1.1"}
    assert server.stop() == 0, server.log


def test_connections_it_has_not_taken_in_are_served_by_others(serve: Serve, held: Gate) -> None:
    """The coordinator cannot know yet that it hangs, and hands it some more."""
    server = serve("hanging:app", "--hang-timeout", HANG)
    with ExitStack() as stack:
        _, name = hang_one(server, stack, held, "block")
        wires = [stack.enter_context(Wire.connect(server.address)) for _ in range(8)]
        for wire in wires:
            wire.get("/")
        with Stopwatch() as watch:
            names = {wire.answer().headers["x-worker"] for wire in wires}
        assert name not in names
        assert watch.seconds > 0.5, "it was handed none: nothing is shown"
        server.wait_for(f"worker {name} hangs")


def test_the_only_worker_hangs(serve: Serve, held: Gate) -> None:
    """Connections wait in the kernel, and are served by its replacement."""
    server = serve("hanging:app", "--workers", "1", "--hang-timeout", HANG)
    with ExitStack() as stack:
        hang_one(server, stack, held, "spin")
        with Wire.connect(server.address) as wire:
            assert wire.get("/").answer().headers["x-worker"] == "0.2"


def test_a_process_that_is_stopped_does_not_hang(serve: Serve) -> None:
    """kill -STOP, a frozen container: all hearts stop, and nobody is to blame."""
    server = serve("hanging:app", "--hang-timeout", "500ms")
    for _ in range(3):
        server.send(signal.SIGSTOP)
        time.sleep(2.0)
        server.send(signal.SIGCONT)
        assert workers_of(server, 4) == {"0.1", "1.1"}
    assert server.stop() == 0, server.log
    assert "hangs" not in server.log


def test_it_can_be_turned_off(serve: Serve, held: Gate) -> None:
    server = serve("hanging:app", "--hang-timeout", "off")
    with ExitStack() as stack:
        wire, name = hang_one(server, stack, held, "block")
        before = server.cpu_seconds()
        time.sleep(2.0)
        assert server.cpu_seconds() - before < 0.5
        held.open(b"!")
        assert wire.answer().headers["x-worker"] == name
    assert server.stop() == 0, server.log
    assert "hangs" not in server.log
