"""The selector of a worker's loop, as asyncio sees it."""

import asyncio
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from selectors import EVENT_READ, EVENT_WRITE

import pytest

from subserve.worker.loops import AsyncioLoop
from subserve.worker.poller import READ, WRITE, Poller

DEADLINE = 10.0

type Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_it_acts_as_asyncios_usual_one(pair: Pair) -> None:
    """The same calls, the same answers."""
    ours, theirs = pair
    with Poller() as mine, selectors.EpollSelector() as usual:
        for selector in (mine, usual):
            key = selector.register(ours, EVENT_READ, "data")
            assert key == (ours, ours.fileno(), EVENT_READ, "data")
            assert selector.get_map()[ours] is key
            assert selector.get_map()[ours.fileno()] is key
            assert selector.get_map().get(theirs) is None
            assert len(selector.get_map()) == 1
            assert [*selector.get_map()] == [ours.fileno()]
            with pytest.raises(KeyError):
                selector.register(ours.fileno(), EVENT_READ)
            with pytest.raises(KeyError):
                selector.unregister(theirs)
            with pytest.raises(KeyError):
                selector.modify(theirs, EVENT_READ)
            assert selector.select(0) == []
            key = selector.modify(ours, EVENT_READ | EVENT_WRITE, "other")
            assert selector.select(0) == [(key, EVENT_WRITE)]
            theirs.send(b"x")
            assert selector.select(None) == [(key, EVENT_READ | EVENT_WRITE)]
            key = selector.modify(ours, EVENT_READ, "third")
            assert selector.select(-1) == [(key, EVENT_READ)]
            assert ours.recv(1) == b"x"
            assert selector.select(0.001) == []
            assert selector.unregister(ours) is key
            assert selector.select(0) == []
            assert len(selector.get_map()) == 0


def test_both_are_told_of_the_other_sides_end(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    with Poller() as mine, selectors.EpollSelector() as usual:
        for selector in (mine, usual):
            for events in (EVENT_READ, EVENT_WRITE, EVENT_READ | EVENT_WRITE):
                key = selector.register(ours, events)
                assert selector.select(0) == [(key, events)]
                selector.unregister(ours)


def test_what_was_closed_can_be_taken_out(poller: Poller, pair: Pair) -> None:
    ours, _ = pair
    poller.register(ours, EVENT_READ)
    ours.close()
    assert ours in poller.get_map()
    poller.unregister(ours)
    assert ours not in poller.get_map()


def test_connections_are_served_within_select(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    seen: list[tuple[int, bool]] = []
    poller.watch(ours.fileno(), lambda events: seen.append((events, poller.serving)))
    assert poller.select(0) == []
    theirs.send(b"x")
    assert poller.select(0) == []
    assert seen == [(READ, True)]
    assert not poller.serving
    poller.change(ours.fileno(), READ, WRITE)
    poller.select(0)
    assert seen.pop() == (WRITE, True)
    poller.change(ours.fileno(), WRITE, 0)
    theirs.close()
    poller.select(0)
    assert len(seen) == 1
    poller.change(ours.fileno(), 0, READ)
    poller.select(0)
    assert seen.pop()[0] & READ
    poller.change(ours.fileno(), READ, 0)
    poller.forget(ours.fileno())


def test_one_that_another_has_closed_is_passed_over(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    served: list[int] = []

    def end_all(events: int) -> None:
        served.append(events)
        for ours, _ in pairs:
            poller.change(ours.fileno(), READ, 0)
            poller.forget(ours.fileno())

    for ours, theirs in pairs:
        poller.watch(ours.fileno(), end_all)
        theirs.send(b"x")
    assert poller.select(0) == []
    assert len(served) == 1
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_a_turn_that_was_overtaken_says_that_nothing_is_ready(poller: Poller, pair: Pair) -> None:
    """Another thread has asked, and seen to it, while a connection was served."""
    ours, theirs = pair
    mine, other = socket.socketpair()
    with mine, other:
        key = poller.register(mine, EVENT_READ)
        inner: list[object] = []

        def serve(events: int) -> None:
            ours.recv(1)
            inner.append(poller.select(0))

        poller.watch(ours.fileno(), serve)
        for sock in (other, theirs):
            sock.send(b"x")
        assert poller.select(0) == []
        assert inner == [[(key, EVENT_READ)]]


def test_a_loop_on_it_runs_asyncios_own_things() -> None:
    async def main() -> bytes:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read())
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(echo, "127.0.0.1") as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x" * 1_000_000)
            writer.write_eof()
            data = await asyncio.wait_for(reader.read(), DEADLINE)
            writer.close()
            await writer.wait_closed()
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        assert await asyncio.to_thread(int, "7") == 7
        return data

    with asyncio.Runner(loop_factory=AsyncioLoop) as runner:
        assert runner.run(main()) == b"x" * 1_000_000


def chat(loop: AsyncioLoop, seconds: float, heard: Callable[[], object]) -> int:
    """Have a client send and get something over and over; return how often."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(DEADLINE)
    count = 0

    def answer(_: int) -> None:
        ours.send(ours.recv(1))
        heard()

    def talk() -> None:
        nonlocal count
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            theirs.send(b"?")
            assert theirs.recv(1) == b"?"
            count += 1
        loop.call_soon_threadsafe(loop.stop)

    loop.poller.watch(ours.fileno(), answer)
    client = threading.Thread(target=talk)
    client.start()
    loop.run_forever()
    client.join()
    loop.poller.change(ours.fileno(), READ, 0)
    loop.poller.forget(ours.fileno())
    ours.close()
    theirs.close()
    return count


@pytest.fixture
def loop() -> Iterator[AsyncioLoop]:
    loop = AsyncioLoop()
    yield loop
    loop.close()


def test_asyncio_is_left_alone_while_it_has_nothing_to_do(loop: AsyncioLoop) -> None:
    heard: list[int] = []
    count = chat(loop, 0.1, lambda: heard.append(loop.poller._turns))
    assert len(heard) == count > 10
    assert heard[-1] - heard[0] <= 1


def test_asyncio_has_its_turn_once_it_has_something_to_do(loop: AsyncioLoop) -> None:
    done: list[float] = []
    count = chat(loop, 0.1, lambda: loop.call_soon(lambda: done.append(1)))
    assert len(done) == count > 10


def test_timers_are_on_time_beside_a_busy_connection(loop: AsyncioLoop) -> None:
    begin = loop.time()
    rang: list[float] = []

    def again() -> None:
        rang.append(loop.time() - begin)
        loop.call_at(begin + 0.02 * (len(rang) + 1), again)

    loop.call_at(begin + 0.02, again)
    count = chat(loop, 0.5, lambda: None)
    assert count > 50
    assert len(rang) > 12  # of 25


def test_a_timer_that_a_connection_sets_is_heeded(loop: AsyncioLoop) -> None:
    rang: list[int] = []
    count = chat(loop, 0.2, lambda: rang or loop.call_later(0.01, rang.append, 1))
    assert count > 10
    assert rang
