"""Responses that wait for those of other connections in the same turn of the loop."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import override

import pytest

from subserve.worker import poller
from subserve.worker.loops import AsyncioLoop
from subserve.worker.poller import HOLD_TIME
from subserve.worker.standin import StandIn
from subserve.worker.transport import HOLD_BYTES, SocketTransport

DEADLINE = 10.0

type Acts = Callable[[SocketTransport], object]


class Actor(asyncio.Protocol):
    """Does once what it is told, when something comes."""

    def __init__(self, act: Acts) -> None:
        self.act = act
        self.lost = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SocketTransport)
        self.transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        self.act(self.transport)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Scene:
    """Clients, and connections of a loop that all hear of them in one turn, in their order."""

    def __init__(self, loop: AsyncioLoop, *acts: Acts) -> None:
        self.loop = loop
        self.actors = [Actor(act) for act in acts]
        self.clients: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            for actor in self.actors:
                client = socket.create_connection(server.getsockname())
                sock, _ = server.accept()
                sock.setblocking(False)
                client.setblocking(False)
                self.clients.append(client)
                SocketTransport(loop, sock.detach(), sock.family, actor, os.read, os.write)

    def turn(self) -> None:
        """Have each client send something, and the loop make one turn."""
        for client in self.clients:
            client.send(b"?")
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def got(self, number: int) -> bytes:
        """Return what has come to a client."""
        try:
            return self.clients[number].recv(1 << 20)
        except BlockingIOError:
            return b"(nothing)"

    def closed(self, number: int) -> bool:
        """Tell whether a client has been told of the end, within a moment."""
        self.clients[number].settimeout(DEADLINE)
        return self.clients[number].recv(1) == b""


@pytest.fixture
def loop() -> Iterator[AsyncioLoop]:
    loop = AsyncioLoop()
    loop.poller._each = 2 * poller.HOLD_FROM  # as if there had been a turn already
    yield loop
    loop.close()


@contextmanager
def scene(loop: AsyncioLoop, *acts: Acts) -> Iterator[Scene]:
    """Set one up, and see that all is closed in the end."""
    made = Scene(loop, *acts)
    try:
        yield made
    finally:
        for client, actor in zip(made.clients, made.actors, strict=True):
            actor.transport.abort()
            client.close()
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        assert all(actor.lost for actor in made.actors)


def write(data: bytes) -> Acts:
    return lambda transport: transport.write(data)


def test_it_waits_for_the_others_of_its_turn(
    loop: AsyncioLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "HOLD_TIME", DEADLINE)  # however slow the machine is
    seen: list[bytes] = []
    with scene(loop, write(b"one"), lambda _: seen.append(stage.got(0)), write(b"three")) as stage:
        stage.turn()
        assert seen == [b"(nothing)"]
        assert (stage.got(0), stage.got(2)) == (b"one", b"three")
        assert stage.actors[0].transport.get_write_buffer_size() == 0


def test_one_that_is_alone_does_not_wait(loop: AsyncioLoop) -> None:
    seen: list[bytes] = []

    def act(transport: SocketTransport) -> None:
        transport.write(b"at once")
        seen.append(stage.got(0))

    with scene(loop, act) as stage:
        stage.turn()
        assert seen == [b"at once"]


def test_nobody_waits_where_all_are_very_quick(
    loop: AsyncioLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a turn with several connections tells of the next one."""
    monkeypatch.setattr(poller, "HOLD_FROM", DEADLINE)
    seen: list[bytes] = []
    with scene(loop, write(b"one"), lambda _: seen.append(stage.got(0))) as stage:
        stage.turn()
        monkeypatch.setattr(poller, "HOLD_FROM", 0.0)
        monkeypatch.setattr(poller, "HOLD_TIME", DEADLINE)
        stage.turn()
        assert seen == [b"one", b"(nothing)"]


def test_a_large_one_does_not_wait(loop: AsyncioLoop) -> None:
    seen: list[int] = []
    large = bytes(HOLD_BYTES + 1)
    with scene(loop, write(large), lambda _: seen.append(len(stage.got(0)))) as stage:
        stage.turn()
        assert seen == [len(large)]


def test_what_follows_it_does_not_overtake_it(loop: AsyncioLoop) -> None:
    def act(transport: SocketTransport) -> None:
        transport.write(b"1")
        transport.write(b"2")
        transport.writelines([b"3", b"4"])
        transport.write(b"5")
        transport.writelines([b"6", b"7"])
        transport.write(b"8")

    with scene(loop, act, write(b"")) as stage:
        stage.turn()
        assert stage.got(0) == b"12345678"


@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
def test_an_end_lets_it_out_first(loop: AsyncioLoop, how: str) -> None:
    def act(transport: SocketTransport) -> None:
        transport.write(b"last words")
        getattr(transport, how)()
        seen.append(stage.got(0))

    seen: list[bytes] = []
    with scene(loop, act, write(b"")) as stage:
        stage.turn()
        assert seen == [b"last words"]
        assert stage.closed(0)


def test_a_slow_neighbour_ends_the_waiting_for_a_while(loop: AsyncioLoop) -> None:
    """Whoever was before it is let out after it; from then on, nobody waits for the like of it."""
    seen: list[bytes] = []

    def slow(_: SocketTransport) -> None:
        time.sleep(50 * HOLD_TIME)

    acts = write(b"first"), slow, lambda _: seen.append(stage.got(0))
    with scene(loop, *acts) as stage:
        stage.turn()
        assert seen == [b"first"]
        stage.actors[1].act = lambda _: seen.append(stage.got(0))
        stage.turn()
        assert seen[1] == b"first"  # not held at all

        def held_again() -> bool:
            loop.poller._each = 2 * poller.HOLD_FROM
            del seen[:]
            stage.turn()
            stage.got(0)
            return seen[0] == b"(nothing)"

        wait_until(held_again)


def test_many_quick_ones_let_it_out_in_between(loop: AsyncioLoop) -> None:
    """None takes long, all of them do."""
    seen: list[bytes] = []

    def look(transport: SocketTransport) -> None:
        time.sleep(HOLD_TIME / 3)
        transport.write(b"mine")
        if (got := stage.got(0)) != b"(nothing)":
            seen.append(got)

    with scene(loop, write(b"first"), *[look] * 12) as stage:
        stage.turn()
        assert seen == [b"first"]


def test_a_client_that_has_gone_harms_nobody(loop: AsyncioLoop) -> None:
    def leave(_: SocketTransport) -> None:
        stage.actors[0].transport._socket().shutdown(socket.SHUT_RDWR)

    with scene(loop, write(b"to nobody"), leave, write(b"to somebody")) as stage:
        stage.turn()
        assert stage.got(2) == b"to somebody"
        wait_until(lambda: stage.actors[0].lost or stage.turn())


def test_what_the_kernel_does_not_take_follows(loop: AsyncioLoop) -> None:
    answer = bytes(range(256))
    with scene(loop, write(answer), write(b"")) as stage:
        sent: list[int] = []

        def one_byte(fd: int, data: bytes) -> int:
            sent.append(os.write(fd, data[:1]))
            return sent[-1]

        transport = stage.actors[0].transport
        transport._send = one_byte
        stage.turn()
        assert sent == [1]
        assert transport.get_write_buffer_size() == 255
        got = stage.got(0)
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
        assert got + stage.got(0) == answer


def test_flow_control_counts_it(loop: AsyncioLoop) -> None:
    told: list[str] = []

    def act(transport: SocketTransport) -> None:
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x")

    with scene(loop, act, write(b"")) as stage:
        actor = stage.actors[0]
        actor.pause_writing = lambda: told.append("pause")  # type: ignore[method-assign]
        actor.resume_writing = lambda: told.append("resume")  # type: ignore[method-assign]
        stage.turn()
        assert told == ["pause", "resume"]


def test_a_flaw_behind_it_ends_its_own_connection_only(loop: AsyncioLoop) -> None:
    errors: list[object] = []
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))

    def act(transport: SocketTransport) -> None:
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x")

    def fail() -> None:
        raise ArithmeticError("a flaw")

    with scene(loop, act, write(b"other")) as stage:
        stage.actors[0].resume_writing = fail  # type: ignore[method-assign]
        stage.turn()
        assert [type(error) for error in errors] == [ArithmeticError]
        assert stage.got(1) == b"other"
        wait_until(lambda: stage.actors[0].lost or stage.turn())


def test_who_stands_in_lets_it_out(loop: AsyncioLoop) -> None:
    """The loop's thread is in a call that takes long: what it had held back is not lost."""
    standin = StandIn(loop)
    came = threading.Event()
    seen: list[bool] = []

    def listen() -> None:
        client = stage.clients[0]
        client.settimeout(DEADLINE)
        if client.recv(10) == b"quick":
            came.set()

    def block(_: SocketTransport) -> None:
        standin.call(lambda: seen.append(came.wait(DEADLINE)))

    with scene(loop, write(b"quick"), block) as stage:
        listener = threading.Thread(target=listen)
        listener.start()
        stage.turn()
        listener.join()
        assert seen == [True]
    standin.stop()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
