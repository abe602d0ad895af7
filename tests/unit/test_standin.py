"""The thread that stands in for the loop's, and which calls the loop's thread makes by itself."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import override

import pytest

from subserve.http.wsgi import inline
from subserve.http.wsgi.inline import Inline
from subserve.http.wsgi.pool import Pool
from subserve.worker import standin
from subserve.worker.loops import AsyncioLoop
from subserve.worker.standin import StandIn
from subserve.worker.transport import SocketTransport

DEADLINE = 10.0
THREADS = 2


class Scene:
    """A loop with a connection on it, whose data is an order to call what `calls` holds next."""

    def __init__(self, loop: AsyncioLoop) -> None:
        self.loop = loop
        self.owner = threading.get_ident()
        self.pool = Pool(THREADS, loop)
        self.standin = StandIn(loop)
        self.calls: list[Callable[[], object]] = []
        self.quick: list[bool] = []
        ours, self.client = socket.socketpair()
        scene = self

        class Order(asyncio.Protocol):
            @override
            def data_received(self, data: bytes) -> None:
                assert scene.standin.ready
                scene.quick.append(scene.standin.call(scene.calls.pop(0)))
                # From here on it is the loop's thread again.
                assert asyncio.get_running_loop() is loop
                assert threading.get_ident() == scene.owner

        ours.setblocking(False)
        self.transport = SocketTransport(
            loop, ours.detach(), ours.family, Order(), os.read, os.write
        )

    def order(self, call: Callable[[], object]) -> None:
        self.calls.append(call)
        self.client.send(b"x")


def play(test: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, AsyncioLoop)
        scene = Scene(loop)
        try:
            async with asyncio.timeout(DEADLINE):
                await test(scene)
        finally:
            scene.standin.stop()
            scene.pool.shutdown(cancel_futures=True)
            scene.transport.abort()
            scene.client.close()
            await asyncio.sleep(0)
            scene.standin._thread.join(DEADLINE)
            assert not scene.standin._thread.is_alive()

    with asyncio.Runner(loop_factory=AsyncioLoop) as runner:
        runner.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_quick_call_is_made_in_the_loops_thread_without_a_loop() -> None:
    async def test(scene: Scene) -> None:
        seen: list[int] = []

        def call() -> None:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            assert asyncio.run(asyncio.sleep(0, "another loop runs")) == "another loop runs"
            seen.append(threading.get_ident())

        for _ in range(3):
            scene.order(call)
            await until(lambda: not scene.calls)
        assert seen == [scene.owner] * 3

    play(test)


def test_a_call_may_have_the_loop_for_a_moment() -> None:
    async def test(scene: Scene) -> None:
        release = threading.Event()
        seen: list[object] = []

        def call() -> None:
            seen.append(scene.standin.take_back())  # nothing is held back
            scene.loop.poller.holds = True
            seen.append(scene.standin.take_back())
            time.sleep(3 * standin.PATIENCE)  # nobody stands in, and the other goes to sleep
            seen.append(scene.standin._leads)
            scene.standin.give_again()
            release.wait(DEADLINE)
            seen.append(scene.standin.take_back())

        scene.order(call)
        await until(lambda: scene.standin._leads)
        assert seen == [False, True, False]
        scene.loop.poller.holds = True
        release.set()
        await until(lambda: scene.quick == [False])
        assert seen == [False, True, False, False]

    play(test)


def test_the_loop_goes_on_while_a_call_takes_long() -> None:
    async def test(scene: Scene) -> None:
        release = threading.Event()
        scene.order(lambda: release.wait(DEADLINE))
        await until(lambda: not scene.calls)
        # We are here, so somebody runs the loop.
        assert threading.get_ident() != scene.owner
        assert asyncio.get_running_loop() is scene.loop
        assert not scene.quick
        assert not scene.standin.ready
        assert await asyncio.to_thread(lambda: "threads") == "threads"
        release.set()
        await until(lambda: scene.quick)
        assert scene.quick == [False]
        await asyncio.sleep(0)
        assert threading.get_ident() == scene.owner

    play(test)


def test_it_can_be_done_over_and_over() -> None:
    async def test(scene: Scene) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticker = asyncio.create_task(tick())
        for number in range(30):
            scene.order(lambda number=number: time.sleep(number % 3 * 0.015))
            await until(lambda number=number: len(scene.quick) == number + 1)
        assert {True, False} == set(scene.quick)
        ticker.cancel()
        assert ticks > 100

    play(test)


def test_a_task_that_wants_to_exit_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    async def test(scene: Scene) -> None:
        async def leave() -> None:
            raise SystemExit(3)

        release = threading.Event()
        scene.order(lambda: release.wait(DEADLINE))
        await until(lambda: not scene.calls)
        task = asyncio.create_task(leave())
        with contextlib.suppress(SystemExit):
            await task
        assert threading.get_ident() != scene.owner
        release.set()
        await until(lambda: scene.quick)

    play(test)
    assert "tried to end its worker" in caplog.text


def test_a_loop_that_was_stopped_meanwhile_ends_when_its_thread_is_back() -> None:
    loop = AsyncioLoop()
    release = threading.Event()
    scenes: list[Scene] = []

    async def begin() -> None:
        scene = Scene(loop)
        scenes.append(scene)
        scene.order(lambda: release.wait(DEADLINE))
        await until(lambda: not scene.calls)
        loop.stop()
        threading.Timer(0.05, release.set).start()

    task = loop.create_task(begin())
    begun = time.process_time()
    loop.run_forever()
    assert release.is_set()
    assert time.process_time() - begun < 5, "it waited, it did not spin"
    assert task.done()
    scenes[0].standin.stop()
    scenes[0].pool.shutdown()
    scenes[0].transport.abort()
    scenes[0].client.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# ---- which calls are made here


class FakePool:
    holds_back = False
    free = True

    def hold_back(self) -> None:
        self.holds_back = self.free

    def let_go(self) -> None:
        self.holds_back = False


class FakeCaller:
    ready = True
    quick = True

    def __init__(self) -> None:
        self.made = 0

    def call(self, function: Callable[[], object]) -> bool:
        self.made += 1
        function()
        return self.quick


class Desk:
    """An `Inline` with its surroundings made up, the clocks included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool, self.caller = FakePool(), FakeCaller()
        self.inline = Inline(self.pool, self.caller)  # type: ignore[arg-type]
        self.now = self.used = 0.0
        clocks = {"perf_counter": "now", "monotonic": "now", "thread_time": "used"}
        for clock, name in clocks.items():
            monkeypatch.setattr(inline.time, clock, lambda name=name: getattr(self, name))

    def work(self, busy: float = 1e-6, waits: float = 0.0) -> bool:
        """Have a call made that takes so many seconds; return whether it was made here."""

        def call() -> None:
            self.now += busy + waits
            self.used += busy

        return self.inline.take(call)

    def warm_up(self) -> None:
        while not self.work():
            pass


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def test_the_first_calls_are_the_pools(desk: Desk) -> None:
    assert [desk.work() for _ in range(inline.WARM_UP + 2)] == [
        *[False] * inline.WARM_UP,
        True,
        True,
    ]


def test_it_needs_a_place_in_the_app_and_somebody_who_watches(desk: Desk) -> None:
    desk.pool.free = False
    assert not any(desk.work() for _ in range(2 * inline.WARM_UP))
    desk.pool.holds_back = True  # a thread has become free
    assert desk.work()
    desk.caller.ready = False
    assert not desk.work()
    desk.caller.ready = True
    assert desk.work()


def test_a_call_that_held_others_up_ends_it_for_a_while_that_grows(desk: Desk) -> None:
    desk.warm_up()
    pauses = []
    for _ in range(8):
        desk.now += 0.5
        desk.caller.quick = False
        assert desk.work()
        desk.caller.quick = True
        begun = desk.now
        while not desk.work():
            desk.now += 0.125
        pauses.append(round(desk.now - begun))
    assert pauses[0] in {1, 2}
    assert pauses == sorted(pauses)
    assert pauses[-1] == inline.LONGEST_PAUSE
    desk.now += 1000
    desk.caller.quick = False
    assert desk.work()
    desk.caller.quick = True
    desk.now += inline.FIRST_PAUSE + 0.1
    assert desk.work(), "after a good while it begins with the first one again"


def test_an_app_that_waits_is_found_out(desk: Desk) -> None:
    desk.warm_up()
    made = 0
    while desk.work(waits=2 * inline.LONG_WAIT):
        made += 1
        assert made < 10 * inline.SAMPLE
    assert not desk.work()
    assert not desk.pool.holds_back


def test_one_that_computes_as_long_is_not(desk: Desk) -> None:
    desk.warm_up()
    assert all(desk.work(busy=20 * inline.LONG_WAIT) for _ in range(100 * inline.SAMPLE))


def test_nor_one_that_was_held_up_now_and_then(desk: Desk) -> None:
    """By other processes, say."""
    desk.warm_up()
    for number in range(100 * inline.SAMPLE):
        sampled = number // inline.SAMPLE % 10 == 0
        assert desk.work(waits=1.0 if sampled else 0.0)
