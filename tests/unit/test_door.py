"""A worker that accepts by itself: real sockets, and nobody behind it."""

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from subserve.messages import Accept
from subserve.scoreboard import Counter, Scoreboard
from subserve.worker.door import ACCEPTS_PER_TURN, Door
from subserve.worker.loops import AsyncioLoop

DEADLINE = 10.0


class Scene:
    """A door, what came through it, and how often it has resigned."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.listener = socket.socket(family)
        self.listener.bind(address)
        self.listener.listen(2 * ACCEPTS_PER_TURN)
        self.listener.setblocking(False)
        self.row = Scoreboard.create(1).row(0)
        self.came: list[tuple[int, int, tuple[object, object]]] = []
        self.resigned = 0
        self.door = Door(self.row, lambda *came: self.came.append(came), self.resign)
        self.clients: list[socket.socket] = []

    def resign(self) -> None:
        self.resigned += 1

    def open(self, max_connections: int = 1000, max_descriptor: int = 100_000) -> None:
        fd = os.dup(self.listener.fileno())
        self.door.open(Accept([fd], max_connections, max_descriptor))

    def connect(self, count: int = 1) -> None:
        for _ in range(count):
            client = socket.socket(self.listener.family)
            client.connect(self.listener.getsockname())
            self.clients.append(client)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.came) < count:
                await asyncio.sleep(0.001)

    def end(self) -> None:
        self.door.close()
        self.listener.close()
        for fd, _, _ in self.came:
            os.close(fd)
        for client in self.clients:
            client.close()


def play(
    test: Callable[[Scene], Awaitable[None]], address: str | tuple[str, int] = ("127.0.0.1", 0)
) -> None:
    async def main() -> None:
        scene = Scene(address)
        try:
            await test(scene)
        finally:
            scene.end()

    with asyncio.Runner(loop_factory=AsyncioLoop) as runner:
        runner.run(main())


def test_connections_come_in_and_are_counted() -> None:
    async def test(scene: Scene) -> None:
        scene.open()
        scene.connect(3)
        await scene.until(3)
        assert scene.row.connections == scene.row[Counter.CONNECTIONS_ACCEPTED] == 3
        names = {(client.getsockname(), client.getpeername()) for client in scene.clients}
        assert {came[2] for came in scene.came} == names
        assert {came[1] for came in scene.came} == {socket.AF_INET}
        assert scene.resigned == 0

    play(test)


def test_our_end_has_many_addresses() -> None:
    async def test(scene: Scene) -> None:
        scene.open()
        client = socket.create_connection(("127.0.0.2", scene.listener.getsockname()[1]))
        await scene.until(1)
        assert scene.came[0][2] == (client.getsockname(), None), "the kernel has to be asked"
        client.close()

    play(test, ("0.0.0.0", 0))


def test_a_unix_socket(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.open()
        scene.connect()
        await scene.until(1)
        assert scene.came[0][1:] == (socket.AF_UNIX, ("", str(tmp_path / "s")))

    play(test, str(tmp_path / "s"))


def test_more_than_may_come_are_the_coordinators() -> None:
    async def test(scene: Scene) -> None:
        scene.open(max_connections=2)
        scene.connect(3)
        await scene.until(2)
        await asyncio.sleep(0.01)
        assert len(scene.came) == 2
        assert scene.resigned == 1
        connection, _ = scene.listener.accept()
        connection.close()
        scene.open()
        scene.connect()
        await scene.until(3)

    play(test)


def test_descriptors_that_are_kept_for_the_app() -> None:
    async def test(scene: Scene) -> None:
        scene.open(max_descriptor=0)
        scene.connect(2)
        await scene.until(1)
        await asyncio.sleep(0.01)
        assert len(scene.came) == 1, "this one was accepted: it is served"
        assert scene.resigned == 1

    play(test)


@pytest.mark.parametrize(("code", "resigns"), [(errno.EMFILE, 1), (errno.ECONNABORTED, 0)])
def test_errors(code: int, resigns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(scene: Scene) -> None:
        failures = [OSError(code, os.strerror(code))]
        accept = socket.socket._accept  # type: ignore[attr-defined]

        def fail_once(sock: socket.socket) -> tuple[int, object]:
            if failures:
                raise failures.pop()
            return accept(sock)

        monkeypatch.setattr(socket.socket, "_accept", fail_once)
        scene.open()
        scene.connect()
        async with asyncio.timeout(DEADLINE):
            while failures or len(scene.came) + scene.resigned == 0:
                await asyncio.sleep(0.001)
        assert scene.resigned == resigns
        assert len(scene.came) == 1 - resigns

    play(test)


def test_the_last_ones_are_taken_in() -> None:
    """All that the kernel has queued: closing would reset them."""

    async def test(scene: Scene) -> None:
        scene.open()
        scene.connect(ACCEPTS_PER_TURN + 5)
        scene.door.close_for_good(last=True)
        assert len(scene.came) == ACCEPTS_PER_TURN + 5
        scene.open()  # a command that comes too late
        scene.connect()
        await asyncio.sleep(0.01)
        assert len(scene.came) == ACCEPTS_PER_TURN + 5

    play(test)


def test_one_that_is_replaced_leaves_what_is_queued() -> None:
    async def test(scene: Scene) -> None:
        scene.open()
        scene.connect()
        scene.door.close_for_good(last=False)
        await asyncio.sleep(0.01)
        assert not scene.came
        connection, _ = scene.listener.accept()
        connection.close()

    play(test)


def test_it_can_be_closed_and_opened() -> None:
    async def test(scene: Scene) -> None:
        scene.open()
        scene.door.close()
        scene.door.close()
        scene.connect()
        await asyncio.sleep(0.01)
        assert not scene.came
        scene.open()
        await scene.until(1)

    play(test)
