"""Raising in another thread: where it is done, and where it would do harm."""

import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest

from subserve.interrupt import interrupt, stack_of, take_back, waits_for_lock

DEADLINE = 10.0


class Stop(BaseException):
    pass


class Thread:
    """Runs a function in a thread; `raised` is what it ended by."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.raised: BaseException | None = None
        self._function = function
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.thread.ident is not None
        self.ident = self.thread.ident

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # noqa: BLE001
            self.raised = error

    def frame(self) -> FrameType:
        return sys._current_frames()[self.ident]

    def join(self) -> None:
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_python_code_is_interrupted() -> None:
    def spin() -> None:
        while True:
            pass

    thread = Thread(spin)
    until(lambda: thread.frame().f_code.co_name == "spin")
    assert "in spin" in stack_of(thread.ident)
    assert interrupt(thread.ident, Stop)
    thread.join()
    assert isinstance(thread.raised, Stop)
    assert not interrupt(thread.ident, Stop)
    assert stack_of(thread.ident) == ""


def test_what_has_not_come_can_be_taken_back() -> None:
    go = threading.Event()

    def wait() -> None:
        go.wait(DEADLINE)

    thread = Thread(wait)
    until(lambda: thread.frame().f_code is threading.Condition.wait.__code__)
    assert interrupt(thread.ident, Stop)
    take_back(thread.ident)
    go.set()
    thread.join()
    assert thread.raised is None


LOCK, RLOCK = threading.Lock(), threading.RLock()
CONDITION = threading.Condition(LOCK)


def with_lock() -> None:
    with LOCK:
        pass


def with_rlock() -> None:
    with RLOCK:
        pass


def second_of_two() -> None:
    with memoryview(b""), LOCK:
        pass


def by_method() -> None:
    LOCK.acquire()
    LOCK.release()


def with_condition() -> None:
    with CONDITION:
        pass


@pytest.mark.parametrize(
    "take",
    [with_lock, with_rlock, second_of_two, by_method, with_condition],
)
def test_a_thread_that_waits_for_a_lock_is_left_alone(take: Callable[[], object]) -> None:
    """It would get the lock first, and the exception before the `try` that gives it back."""
    with LOCK, RLOCK:
        thread = Thread(take)
        until(lambda: waits_for_lock(thread.frame()))
        assert not interrupt(thread.ident, Stop)
    thread.join()
    assert thread.raised is None
    assert not LOCK.locked()


def hold(lock: threading.Lock, wait: Callable[[], object]) -> None:
    with lock: wait()  # noqa: E701  # fmt: skip


def test_a_thread_that_has_a_lock_gives_it_back() -> None:
    lock, go = threading.Lock(), threading.Event()

    def sleep() -> None:
        while not go.is_set():
            time.sleep(0.001)

    thread = Thread(lambda: hold(lock, sleep))
    until(lambda: lock.locked() and thread.frame().f_code is sleep.__code__)
    interrupt(thread.ident, Stop)
    thread.join()
    assert isinstance(thread.raised, Stop)
    assert not lock.locked()


def test_a_thread_that_waits_for_an_event_is_interrupted_after_it() -> None:
    event = threading.Event()
    thread = Thread(lambda: event.wait(DEADLINE))
    until(lambda: thread.frame().f_code is threading.Condition.wait.__code__)
    assert interrupt(thread.ident, Stop)
    event.set()
    thread.join()
    assert isinstance(thread.raised, Stop)
    assert event._cond.acquire(blocking=False)  # type: ignore[attr-defined]
