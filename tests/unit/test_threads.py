"""Ending the threads of a worker.  What the real exit hooks do is in tests/interpreters."""

import _thread
import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from subserve.worker import threads
from subserve.worker.threads import wind_down

DEADLINE = 10.0  # s, for what takes milliseconds


class Hooks:
    """Exit hooks of ours in place of those of this process."""

    def __init__(self) -> None:
        self.for_threads: list[Callable[[], object]] = []
        self.at_exit: list[Callable[[], object]] = []

    def run_at_exit(self) -> None:
        for hook in self.at_exit:
            hook()


@pytest.fixture(autouse=True)
def hooks(monkeypatch: pytest.MonkeyPatch) -> Hooks:
    made = Hooks()
    monkeypatch.setattr(threading, "_threading_atexits", made.for_threads)
    monkeypatch.setattr(atexit, "_run_exitfuncs", made.run_at_exit)
    return made


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What threads of the test wait for; it is set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def wind_down_within(seconds: float) -> None:
    wind_down(time.monotonic() + seconds)


def messages(records: list[logging.LogRecord], level: str = "WARNING") -> list[str]:
    return [record.getMessage() for record in records if record.levelname == level]


def test_nothing_to_do(records: list[logging.LogRecord]) -> None:
    wind_down_within(DEADLINE)
    assert records == []


def test_hooks_run_in_the_order_of_cpython(hooks: Hooks) -> None:
    """Those of threads first, the last registered first; then those of atexit."""
    done: list[str] = []
    hooks.for_threads += [lambda: done.append("pool"), lambda: done.append("later pool")]
    hooks.at_exit.append(lambda: done.append("report"))
    wind_down_within(DEADLINE)
    assert done == ["later pool", "pool", "report"]
    assert hooks.for_threads == []


def test_hooks_do_not_run_in_the_thread_of_the_loop(hooks: Hooks) -> None:
    seen: list[threading.Thread] = []
    hooks.for_threads.append(lambda: seen.append(threading.current_thread()))
    hooks.at_exit.append(lambda: seen.append(threading.current_thread()))
    wind_down_within(DEADLINE)
    assert threading.current_thread() not in seen
    assert all(not thread.is_alive() for thread in seen)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_hook_that_fails_does_not_keep_others_from_running(
    hooks: Hooks, error: type[BaseException], records: list[logging.LogRecord]
) -> None:
    done: list[str] = []

    def fail() -> None:
        raise error

    hooks.for_threads += [lambda: done.append("other"), fail]
    hooks.at_exit.append(lambda: done.append("at exit"))
    wind_down_within(DEADLINE)
    assert done == ["other", "at exit"]
    assert messages(records, "ERROR") == ["an exit hook failed"]


def test_a_busy_thread_of_a_pool_does_not_keep_exit_hooks_from_running(
    hooks: Hooks, release: threading.Event, records: list[logging.LogRecord]
) -> None:
    # Both ran in one thread: a stuck request kept an error reporter from sending its reports.
    reported = threading.Event()
    hooks.for_threads.append(release.wait)
    hooks.at_exit.append(reported.set)
    wind_down_within(0.2)
    assert reported.is_set()
    assert messages(records) == ["threads of a pool are still busy, they are left alone"]


def test_exit_hooks_that_take_too_long(
    hooks: Hooks, release: threading.Event, records: list[logging.LogRecord]
) -> None:
    hooks.at_exit.append(release.wait)
    wind_down_within(0.1)
    assert messages(records) == ["the exit hooks of the app take too long, they are left alone"]


def test_a_thread_that_ends_is_waited_for() -> None:
    proceed = threading.Event()
    thread = threading.Thread(target=proceed.wait)
    thread.start()
    winder = threading.Thread(target=wind_down_within, args=(DEADLINE,))
    winder.start()
    proceed.set()
    winder.join(DEADLINE)
    assert not thread.is_alive()


def test_a_thread_that_does_not_end_is_left(release: threading.Event) -> None:
    thread = threading.Thread(target=release.wait, daemon=True)
    thread.start()
    began = time.monotonic()
    wind_down_within(0.1)
    assert thread.is_alive()
    assert time.monotonic() - began < DEADLINE


def test_a_thread_that_a_library_did_not_start_through_threading(
    release: threading.Event, records: list[logging.LogRecord]
) -> None:
    # Once it has asked for `current_thread()`, as each log record does, it is in the list, but
    # cannot be joined: the RuntimeError of that "broke" the worker, with exit code 1.
    known, ended = threading.Event(), threading.Event()

    def run() -> None:
        threading.current_thread()
        known.set()
        release.wait()
        ended.set()

    _thread.start_new_thread(run, ())
    assert known.wait(DEADLINE)
    wind_down_within(0.1)
    (line,) = messages(records, "DEBUG")
    assert line.endswith("cannot join a dummy thread")
    release.set()
    assert ended.wait(DEADLINE)


def test_logs_go_where_the_workers_go() -> None:
    assert threads.log.name == "subserve.worker"
