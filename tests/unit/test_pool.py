"""The threads that run a WSGI app: who is woken, and when."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from subserve.http.wsgi.pool import Pool

DEADLINE = 10.0


def run(test: Callable[[Pool], Awaitable[None]], threads: int) -> None:
    async def main() -> None:
        pool = Pool(threads, asyncio.get_running_loop())
        try:
            await asyncio.wait_for(test(pool), DEADLINE)
        finally:
            pool.shutdown(cancel_futures=True)

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_all_calls_are_made_in_order_by_one_thread() -> None:
    async def test(pool: Pool) -> None:
        made: list[int] = []
        for number in range(1000):
            pool.put(lambda number=number: made.append(number))
        assert pool.depth == 1000
        await until(lambda: len(made) == 1000)
        assert made == list(range(1000))
        assert pool.depth == 0

    run(test, threads=1)


def test_calls_that_wait_get_a_thread_each() -> None:
    """None of them ends before all have begun."""

    async def test(pool: Pool) -> None:
        barrier = threading.Barrier(5, timeout=DEADLINE)
        for _ in range(4):
            pool.put(barrier.wait)
        await asyncio.to_thread(barrier.wait)

    run(test, threads=4)


def test_a_call_behind_one_that_blocks_is_made() -> None:
    """It comes when a thread rests that nobody has woken: the one that was woken is held up."""

    async def test(pool: Pool) -> None:
        held, begun, made = threading.Event(), threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            held.wait(DEADLINE)

        pool.put(block)
        await until(begun.is_set)
        pool.put(made.set)
        await until(made.is_set)
        held.set()

    run(test, threads=2)


def test_nobody_looks_while_all_threads_are_at_work() -> None:
    """They look for more by themselves: a timer would only take the GIL from them."""

    async def test(pool: Pool) -> None:
        release = threading.Event()
        made: list[int] = []
        for _ in range(2):
            pool.put(lambda: release.wait(DEADLINE))
        pool.put(lambda: made.append(1))
        await until(lambda: not pool._idle and pool.depth == 1)
        await until(lambda: pool._look is None)
        pool.put(lambda: made.append(2))
        await asyncio.sleep(0.02)
        assert pool._look is None
        assert not made
        release.set()
        await until(lambda: made == [1, 2])

    run(test, threads=2)


def test_quick_calls_share_a_thread() -> None:
    async def test(pool: Pool) -> None:
        threads: set[str] = set()
        for _ in range(20):
            done = threading.Event()
            for _ in range(3):
                pool.put(lambda: threads.add(threading.current_thread().name))
            pool.put(done.set)
            await until(done.is_set)
        assert len(threads) < 4, "they were all woken for nothing"

    run(test, threads=4)


def test_calls_known_to_be_long_are_not_kept_waiting() -> None:
    """All threads are woken at once then, without the looks in between."""

    async def test(pool: Pool) -> None:
        pool._average = 1.0
        begun = threading.Barrier(4, timeout=DEADLINE)
        await until(lambda: len(pool._idle) == 3)
        for _ in range(3):
            pool.put(begun.wait)
        pool._flush()
        assert pool._look is None
        await asyncio.to_thread(begun.wait)

    run(test, threads=3)


@pytest.mark.parametrize("busy", [False, True])
def test_a_thread_that_is_held_back(busy: bool) -> None:
    """One that rests, or the next one that would."""

    async def test(pool: Pool) -> None:
        release, began = threading.Event(), threading.Semaphore(0)

        def block() -> None:
            began.release()
            release.wait(DEADLINE)

        if busy:
            for _ in range(3):
                pool.put(block)
            for _ in range(3):
                await asyncio.to_thread(began.acquire, timeout=DEADLINE)
        else:
            await until(lambda: len(pool._idle) == 3)
        pool.hold_back()
        pool.hold_back()
        assert pool.holds_back != busy
        release.set()
        await until(lambda: pool.holds_back)
        release.clear()
        for _ in range(3):
            pool.put(block)
        for _ in range(2):
            await asyncio.to_thread(began.acquire, timeout=DEADLINE)
        await asyncio.sleep(0.02)
        assert pool.depth == 1
        pool.let_go()
        assert not pool.holds_back
        await asyncio.to_thread(began.acquire, timeout=DEADLINE)
        pool.hold_back()
        pool.let_go()  # before one was free
        release.set()
        await until(lambda: len(pool._idle) == 3)

    run(test, threads=3)


def test_futures() -> None:
    async def test(pool: Pool) -> None:
        assert await asyncio.wrap_future(pool.submit(divmod, 7, 2)) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(pool.submit(divmod, 7, 0))
        future = pool.submit(time.sleep, 0)
        future.cancel()

    run(test, threads=1)


def test_the_end() -> None:
    async def test(pool: Pool) -> None:
        held, begun = threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            held.wait(DEADLINE)

        pool.put(block)
        await until(begun.is_set)
        never = pool.submit(time.sleep, 0)
        pool.shutdown(wait=False, cancel_futures=True)
        pool.shutdown(wait=False)
        held.set()
        pool.shutdown(wait=True)
        assert not any(thread.is_alive() for thread in pool._threads)
        assert not never.done()
        with pytest.raises(RuntimeError):
            pool.submit(time.sleep, 0)

    run(test, threads=2)
