"""Processes that ask to be replaced, under load: no request is lost by that."""

import re
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from loadtests.keepalive import Client, Load
from tests.e2e.clients import DEADLINE, Wire, gate

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server


def wait_until(condition: Callable[[], object], server: Server) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, server.log
        time.sleep(0.02)


def clients(server: Server) -> list[Client]:
    """Busy, with pauses, with new connections."""
    return [
        Client(server.address, pause=0.005),
        Client(server.address, pause=0.2),
        Client(server.address, pause=0.01, keep=1),
        Client(server.address, pause=0.01, keep=1),
    ]


def test_an_app_that_grows(serve: Serve) -> None:
    """`--max-rss`: each process is replaced once it is too large, and the load goes on."""
    server = serve("growing:app", "--max-rss", "110MiB")
    first = server.serving_pid
    with Load(clients(server)) as load:
        server.wait_for(
            r"resident memory is \d+\.\d MiB, above 110.0 MiB; asking for a new process"
        )
        wait_until(lambda: "turned over in" in server.log, server)
        wait_until(lambda: first not in server.serving_pids(), server)
        served = load.answered
        wait_until(lambda: load.answered > served + 100, server)
    assert load.failures == []
    assert server.stop() == 0, server.log
    assert not re.search(r" error |cut off", server.log), server.log


def test_a_worker_that_hangs_for_good(serve: Serve) -> None:
    """It is abandoned and its process replaced; what it had taken in is the only loss."""
    server = serve("hanging:app", "--hang-timeout", "1500ms", "--graceful-timeout", "2s")
    first = server.serving_pid
    before, after = Load(clients(server)), Load(clients(server))
    with gate() as held, Wire.connect(server.address) as wire, before:
        wait_until(lambda: before.answered > 100, server)
        wire.get(f"/spin/{held.port}")
        held.wait()
        server.wait_for(r"worker \d\.1 hangs")
        with after:
            server.wait_for(
                r"worker \d\.1: its event loop has not come back within 2 s, it is aban"
            )
            wait_until(lambda: "turned over in" in server.log, server)
            wait_until(lambda: first not in server.serving_pids(), server)
            served = after.answered
            wait_until(lambda: after.answered > served + 100, server)
    # Those that came when it was known to hang never noticed.
    assert after.failures == []
    # Of the others, those who had a connection to it lost the one request they had sent over it.
    assert all(len(client.failures) <= 1 for client in before.clients), before.failures
    assert server.stop() == 0, server.log


def test_a_worker_is_added_and_removed_under_load(serve: Serve) -> None:
    """TTIN and TTOU, ten times."""
    server = serve("asgi:app", "--workers", "1")
    with Load(clients(server)) as load:
        for generation in range(1, 11):
            server.send(signal.SIGTTIN)
            server.wait_for(rf"worker 1\.{generation} ready")
            server.send(signal.SIGTTOU)
            server.wait_for(rf"app 1\.{generation}: lifespan.shutdown")
    assert load.failures == []
    assert load.answered > 100
    assert server.stop() == 0, server.log
