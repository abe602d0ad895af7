"""Requests of a WSGI app that take too long: whom the exception hits, and whom never."""

import logging
import threading
import time
from collections.abc import Callable

import pytest

from subserve.http.wsgi.timeout import RequestTimedOut, Watch, Watched
from subserve.log import TRACEBACK

DEADLINE = 10.0
SHORT = 0.05


class Control:
    """The control thread: looks when it is time to."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            pause = max(0.0, self._watch.look(time.monotonic()) - time.monotonic())


def spin(until: Callable[[], object] = lambda: False) -> str:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if until():
            return "done"
    return "too late"


def request(watch: Watch, answers: list[float], *, answer_interrupts: bool = False) -> Watched:
    return watch.request(
        "GET /slow",
        lambda: answers.append(time.monotonic()),
        answer_interrupts=answer_interrupts,
    )


def test_one_in_time() -> None:
    watch, answers = Watch(DEADLINE), list[float]()
    watched = request(watch, answers)
    with Control(watch):
        assert watched.run(lambda word: f"all {word}", "done") == "all done"
    assert (watched.timed_out, answers, watch.running) == (False, [], set())


def test_one_that_takes_too_long(caplog: pytest.LogCaptureFixture) -> None:
    watch, answers = Watch(SHORT), list[float]()
    watched = request(watch, answers)
    begin = time.monotonic()
    with Control(watch), caplog.at_level(logging.ERROR, "subserve.app"):
        logging.getLogger("subserve").addHandler(caplog.handler)
        try:
            with pytest.raises(RequestTimedOut):
                watched.run(spin)
        finally:
            logging.getLogger("subserve").removeHandler(caplog.handler)
    assert watched.timed_out
    assert len(answers) == 1
    assert SHORT <= answers[0] - begin < DEADLINE / 2
    assert watch.running == set()
    record = caplog.records[0]
    assert "GET /slow has taken longer than --request-timeout (0.05 s)" in record.getMessage()
    assert "in spin" in getattr(record, TRACEBACK)


def test_an_app_that_catches_all_errors_is_interrupted_once() -> None:
    watch, answers = Watch(SHORT), list[float]()
    watched = request(watch, answers)
    caught: list[BaseException] = []

    def app() -> str:
        try:
            spin()
        except BaseException as error:  # noqa: BLE001
            caught.append(error)
        again = time.monotonic() + 4 * SHORT
        return spin(lambda: time.monotonic() > again)

    with Control(watch):
        assert watched.run(app) == "done"
    assert watched.timed_out
    assert [type(error) for error in caught] == [RequestTimedOut]
    assert len(answers) == 1


def test_no_error_that_apps_expect() -> None:
    assert not issubclass(RequestTimedOut, Exception)


def test_a_call_that_blocks_is_answered_in_time_and_interrupted_afterwards() -> None:
    watch, answers = Watch(SHORT), list[float]()
    watched = request(watch, answers)
    begin = time.monotonic()
    with Control(watch), pytest.raises(RequestTimedOut):
        watched.run(time.sleep, 8 * SHORT)
    assert time.monotonic() - begin >= 8 * SHORT
    assert answers[0] - begin < 6 * SHORT


def test_the_server_is_not_interrupted_but_what_comes_behind_it() -> None:
    watch, answers = Watch(SHORT), list[float]()
    watched = request(watch, answers)
    finished: list[str] = []

    def write() -> None:
        until = time.monotonic() + 4 * SHORT
        finished.append(spin(lambda: time.monotonic() > until))

    with Control(watch), pytest.raises(RequestTimedOut):
        watched.run(lambda: (watched.guard(write)(), spin()))
    assert finished == ["done"]
    assert len(answers) == 1


def test_an_answer_that_interrupts_does_not_wait_for_the_server() -> None:
    watch, answers = Watch(SHORT), list[float]()
    watched = request(watch, answers, answer_interrupts=True)

    def read() -> None:
        spin(lambda: answers)

    with Control(watch), pytest.raises(RequestTimedOut):
        watched.run(lambda: (watched.guard(read)(), spin()))
    assert len(answers) == 1


def test_the_server_does_nothing_more_for_one_that_has_timed_out() -> None:
    watch, answers = Watch(SHORT), list[float]()
    watched = request(watch, answers)
    written: list[bytes] = []

    def app() -> None:
        try:
            spin()
        except RequestTimedOut:
            watched.guard(written.append)(b"late")

    with Control(watch), pytest.raises(RequestTimedOut):
        watched.run(app)
    assert written == []


def test_one_that_waits_for_a_lock_is_answered_and_let_be() -> None:
    """And interrupted after it, if it goes on for too long then."""
    watch, answers = Watch(SHORT), list[float]()
    watched = request(watch, answers)
    lock, entered = threading.Lock(), threading.Event()

    def app() -> None:
        with lock:
            entered.set()
        spin()

    def let_go() -> None:
        spin(lambda: answers)
        assert not entered.is_set()
        lock.release()

    lock.acquire()
    helper = threading.Thread(target=let_go)
    helper.start()
    with Control(watch), pytest.raises(RequestTimedOut):
        watched.run(app)
    helper.join()
    assert entered.is_set()
    assert not lock.locked()
    assert len(answers) == 1


def test_a_loop_that_is_closed_is_no_error() -> None:
    watch = Watch(SHORT)

    def answer() -> None:
        raise RuntimeError("Event loop is closed")

    with Control(watch), pytest.raises(RequestTimedOut):
        watch.request("GET /", answer).run(spin)


@pytest.mark.parametrize("server_calls", [0, 3])
def test_nothing_is_raised_outside_of_a_request(server_calls: int) -> None:
    """Thousands of requests that end just when their time is over, one after the other.

    The exception may hit any instruction of theirs, but none between them: those stand for the next
    request, and for the pool.
    """
    watch = Watch(0.0005)
    outcomes = {"in time": 0, "timed out": 0}
    problems: list[str] = []
    end = time.monotonic() + 1.0

    def request_on(number: int) -> None:
        part = 0.0
        try:
            while time.monotonic() < end:
                part = (part + 0.037 + number / 100) % 1.0
                one(0.0002 + part * 0.0006)
        except BaseException as error:  # noqa: BLE001
            problems.append(f"outside of a request: {error!r}")

    def one(seconds: float) -> None:
        answers: list[float] = []
        watched = request(watch, answers)
        held = threading.Lock()

        def write() -> None:
            with held:
                pass

        write_guarded = watched.guard(write)

        def app() -> None:
            over = time.perf_counter() + seconds
            while time.perf_counter() < over:
                for _ in range(server_calls):
                    write_guarded()

        raised = False
        try:
            watched.run(app)
        except RequestTimedOut:
            raised = True
        if held.locked():
            problems.append("a lock of the server is left locked")
        if len(answers) != watched.timed_out or (raised and not watched.timed_out):
            problems.append(f"{len(answers)} answers, {watched.timed_out=}, {raised=}")
        outcomes["timed out" if watched.timed_out else "in time"] += 1

    threads = [threading.Thread(target=request_on, args=(number,)) for number in range(4)]
    logging.getLogger("subserve.app").disabled = True
    try:
        with Control(watch):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        logging.getLogger("subserve.app").disabled = False
    assert problems == []
    assert min(outcomes.values()) > 20, outcomes
    assert watch.running == set()
