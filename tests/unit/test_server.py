"""The coordinator's loop, with workers that are two sockets: what it hears, and how it ends.

The tests call what the loop calls, so that they can choose what comes first.
"""

import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self

import pytest

from subserve import log as subserve_log
from subserve.channel import Channel
from subserve.coordinator import coordinator as module
from subserve.coordinator.banner import banner
from subserve.coordinator.coordinator import Coordinator
from subserve.coordinator.handle import HostEnded, WorkerHandle
from subserve.errors import AppLoadError, WorkerError
from subserve.identity import WorkerInfo
from subserve.lifecycle import Phase, WorkerEvent, WorkerState
from subserve.messages import Accept, Drain, Failed, Message, Ready, StopAccepting, TurnOver
from subserve.options import Config
from subserve.scoreboard import Scoreboard

DEADLINE = 10.0  # s, for what takes milliseconds


class Worker:
    """The worker's side of a handle."""

    def __init__(
        self, stack: ExitStack, info: WorkerInfo, config: Config, board: Scoreboard
    ) -> None:
        control_here, control_there = socket.socketpair()
        out, self.connections = socket.socketpair()
        for sock in (control_here, control_there, out, self.connections):
            stack.callback(sock.close)
        self.info = info
        self.channel = Channel(control_there)
        number = board.lend()
        self.row = board.row(number)
        self.handle = WorkerHandle(info, config, self.row, Channel(control_here), out, number)
        self.handle._undelivered = self.connections.dup()
        stack.callback(self.handle._undelivered.close)
        self.lives = threading.Event()
        self.handle._thread = threading.Thread(target=self.lives.wait, daemon=True)
        self.handle._thread.start()
        stack.callback(self.lives.set)

    def command(self) -> Message | None:
        """Return the next command that has been sent to it, but who is to accept."""
        while True:
            assert self.channel.wait(DEADLINE), "no command"
            command = self.channel.receive()
            if not isinstance(command, Accept | StopAccepting):
                return command

    def ended(self, event: WorkerEvent, detail: str = "", *, left_open: bool = False) -> HostEnded:
        """End its thread and return what that posts."""
        self.channel.close()
        self.lives.set()
        return HostEnded(self.info, event, detail, left_open)


class Rig:
    """A coordinator whose loop does not run by itself, and whose workers are the test.

    `workers` are all that have been started, the first ones first.
    """

    def __init__(self, stack: ExitStack, count: int = 2, **options: float) -> None:
        config = Config(app="shop:app", workers=count, **options)  # type: ignore[arg-type]
        self._asked: list[str] = []
        self._stack = stack
        self.workers: list[Worker] = []

        def start(info: WorkerInfo, config: Config, board: Scoreboard, *_: object) -> WorkerHandle:
            self.workers.append(Worker(stack, info, config, board))
            return self.workers[-1].handle

        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(WorkerHandle, "start", start)
        self.coordinator = Coordinator(config, [], "/no/scratch")
        self.coordinator._selector.register(
            self.coordinator._wake_out, selectors.EVENT_READ, (self.coordinator._woken, None)
        )
        stack.callback(self.coordinator._crew.close)
        stack.callback(self.coordinator._selector.close)
        stack.callback(self.coordinator._wake_in.close)
        stack.callback(self.coordinator._wake_out.close)
        self.coordinator._step()
        assert len(self.workers) == count

    def supervised(self) -> Self:
        """Go on as if a supervisor watched over the process: see `asked`."""
        here, there = socket.socketpair()
        self.coordinator._supervisor, self._supervisor = Channel(here), Channel(there)
        self._stack.callback(here.close)
        self._stack.callback(there.close)
        return self

    @property
    def asked(self) -> list[str]:
        """Why a new process was asked for, each time it was."""
        for message in self._supervisor.receive_ready() or ():
            assert isinstance(message, TurnOver)
            self._asked.append(message.reason)
        return self._asked

    def worker(self, name: str) -> Worker:
        (found,) = [worker for worker in self.workers if str(worker.info) == name]
        return found

    def ready(self, name: str) -> None:
        self.worker(name).channel.send(Ready("asgi"))
        self.until(lambda: self.worker(name).handle.state is WorkerState.READY)

    def broke(self, name: str) -> None:
        worker = self.worker(name)
        detail = "Traceback\n  in f\nLookupError: x\n"
        self.coordinator._post(worker.ended(WorkerEvent.BROKE, detail))
        self.until(lambda: worker.handle.state is WorkerState.BROKEN)

    def until(self, condition: Callable[[], object]) -> None:
        """Go on until `condition` is fulfilled."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline
            assert self.coordinator._step()

    def act(self) -> None:
        """Do all there is to do now, without waiting for more, up to the end."""
        self.coordinator._changed = True
        while self.coordinator._changed and self.coordinator._decide(time.monotonic()):
            pass

    def serving(self) -> Rig:
        for worker in self.workers:
            worker.channel.send(Ready("asgi"))
        self.steps(Phase.SERVING)
        return self

    def draining(self) -> Rig:
        self.serving()
        self.signal(signal.SIGTERM)
        self.steps(Phase.DRAINING)
        return self

    def signal(self, signum: int) -> None:
        """Do what a signal does: its number arrives as a byte."""
        self.coordinator._wake_in.send(bytes([signum]))

    def steps(self, until: Phase) -> None:
        self.until(lambda: self.coordinator._phase is until)
        self.act()

    def to_the_end(self) -> tuple[int, bool]:
        """Go on until there is nothing left to do; return what `run` returns."""
        deadline = time.monotonic() + DEADLINE
        while not self.coordinator._at_once and self.coordinator._step():
            assert time.monotonic() < deadline, "never done"
        quiet = self.coordinator._join()
        return self.coordinator._outcome.exit_code, quiet


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(subserve_log, "announce", lambda text: None)
    with ExitStack() as made:
        yield made


def errors(records: list[logging.LogRecord], level: str = "ERROR") -> list[str]:
    return [record.getMessage() for record in records if record.levelname == level]


# ---- from start to end


def test_a_life_without_trouble(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack).draining()
    for worker in rig.workers:
        assert worker.command() == Drain(pytest.approx(30.0, abs=5.0))
        assert worker.connections.recv(1) == b"", "no more connections"
        rig.coordinator._post(worker.ended(WorkerEvent.CLOSED))
    assert rig.to_the_end() == (0, True)
    assert errors(records) == []


def test_the_banner_waits_for_all_workers(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(subserve_log, "announce", shown.append)
    rig = Rig(stack)
    rig.ready("1.1")
    rig.act()
    assert shown == []
    rig.workers[0].channel.send(Ready("wsgi"))
    rig.steps(Phase.SERVING)
    (text,) = shown
    assert "shop:app (WSGI)" in text
    assert "2 sub-interpreters x 4 threads" in text
    assert f"pid        {os.getpid()}" in text


def test_a_banner_that_cannot_be_written_stops_nothing(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With standard error on a full disk, or a pipe that nobody reads, the server did not start.
    monkeypatch.undo()
    full = os.open("/dev/full", os.O_WRONLY)
    stack.callback(os.close, full)
    monkeypatch.setattr(subserve_log, "STDERR", full)
    Rig(stack).serving()


def test_the_banner() -> None:
    text = banner(Config(app="shop:app", workers=1), "asgi", ["http://a:1", "http://b:2"])
    lines = [line.split() for line in text.splitlines()]
    assert lines[1:5] == [
        ["app", "shop:app", "(ASGI)"],
        ["listening", "http://a:1"],
        ["http://b:2"],
        ["workers", "1", "sub-interpreter,", "asyncio,", "extensions:", "isolate"],
    ]


# ---- the end of a worker, heard of twice


def test_both_signs_of_an_end_in_the_same_turn(stack: ExitStack) -> None:
    # The note of its thread was taken first, and its closed channel, in the same turn of the
    # selector, was met again: a KeyError ended the coordinator.
    rig = Rig(stack).draining()
    for worker in rig.workers:
        rig.coordinator._post(worker.ended(WorkerEvent.CLOSED))
        rig.coordinator._woken(None)
        rig.coordinator._hear(worker.handle)
    assert rig.to_the_end() == (0, True)


def test_a_report_that_comes_with_the_end_is_heard_first(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack, 1)
    rig.workers[0].channel.send(Failed("mend this", "Traceback of the app", 3))
    rig.coordinator._post(rig.workers[0].ended(WorkerEvent.CLOSED))
    rig.coordinator._woken(None)
    assert rig.workers[0].handle.state is WorkerState.FAILED
    assert rig.to_the_end() == (3, True)
    assert errors(records) == ["worker 0.1: mend this"]


# ---- failures


def test_the_first_failure_is_told_and_its_code_kept(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack)
    for worker, code in zip(rig.workers, (2, 3), strict=True):
        worker.channel.send(Failed(f"code {code}", "", code))
        rig.coordinator._hear(worker.handle)
    for worker in rig.workers:
        rig.coordinator._post(worker.ended(WorkerEvent.CLOSED))
    assert rig.to_the_end() == (2, True)
    assert errors(records) == ["worker 0.1: code 2"]


def test_one_that_fails_stops_those_that_are_ready(stack: ExitStack) -> None:
    rig = Rig(stack)
    rig.workers[0].channel.send(Ready("asgi"))
    rig.workers[1].channel.send(Failed("mend this", "", 3))
    rig.steps(Phase.DRAINING)
    assert rig.workers[0].command() == Drain(pytest.approx(30.0, abs=5.0))
    for worker in rig.workers:
        rig.coordinator._post(worker.ended(WorkerEvent.CLOSED))
    assert rig.to_the_end() == (AppLoadError.exit_code, True)


def test_a_worker_that_breaks_before_all_are_ready_stops_the_server(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack)
    rig.ready("1.1")
    rig.broke("0.1")
    rig.steps(Phase.DRAINING)
    rig.coordinator._post(rig.workers[1].ended(WorkerEvent.CLOSED))
    assert rig.to_the_end() == (WorkerError.exit_code, True)
    assert errors(records) == ["worker 0.1 broke: LookupError: x"]


def test_a_start_that_takes_too_long(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack)
    rig.ready("0.1")
    rig.workers[1].handle.deadline = time.monotonic()
    rig.act()
    rig.steps(Phase.DRAINING)
    rig.coordinator._post(rig.workers[0].ended(WorkerEvent.CLOSED))
    assert rig.to_the_end() == (AppLoadError.exit_code, False)
    (line,) = errors(records)
    assert line.startswith("worker 1.1 not ready within 60 s; ")


def test_one_that_is_ready_only_during_the_drain_is_drained(stack: ExitStack) -> None:
    rig = Rig(stack)
    rig.ready("0.1")
    rig.signal(signal.SIGINT)
    rig.steps(Phase.DRAINING)
    rig.ready("1.1")
    rig.act()
    assert isinstance(rig.workers[1].command(), Drain)


# ---- interpreters that are left open: the process must not be finalised


@pytest.mark.parametrize("event", [WorkerEvent.THREADS_LEFT, WorkerEvent.BROKE])
def test_an_interpreter_left_open(stack: ExitStack, event: WorkerEvent) -> None:
    # Of one that had broken, or had failed to start, nobody took note: CPython then closed the
    # interpreter under its live thread, as the process ended.
    rig = Rig(stack).draining()
    rig.coordinator._post(rig.workers[0].ended(event, "Thread-1", left_open=True))
    rig.coordinator._post(rig.workers[1].ended(WorkerEvent.CLOSED))
    assert rig.to_the_end()[1] is False


def test_an_interpreter_left_open_by_a_worker_that_did_not_start(stack: ExitStack) -> None:
    rig = Rig(stack, 1)
    worker = rig.workers[0]
    worker.channel.send(Failed("mend this", "", 3))
    rig.steps(Phase.DRAINING)
    assert rig.to_the_end() == (3, False), "nothing to wait for"
    # Only now does its thread end.
    rig.coordinator._post(worker.ended(WorkerEvent.THREADS_LEFT, "Thread-1", left_open=True))
    assert rig.coordinator._join() is False


def test_a_worker_that_does_not_end_in_time(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack, 1).draining()
    rig.act()
    rig.coordinator._stop_by = time.monotonic()
    rig.coordinator._changed = True
    assert rig.to_the_end() == (0, False)
    assert errors(records, "WARNING") == ["worker 0.1 did not end in time, it is cut off"]


# ---- signals


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)],
)
def test_signals_that_stop_at_once(stack: ExitStack, signals: tuple[int, ...]) -> None:
    rig = Rig(stack).serving()
    for signum in signals:
        rig.signal(signum)
    assert rig.to_the_end() == (0, False)


@pytest.mark.parametrize("signals", [(signal.SIGTERM,) * 3, (signal.SIGINT, signal.SIGTERM)])
def test_signals_that_do_not(
    stack: ExitStack, signals: tuple[int, ...], records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack).serving()
    for signum in signals:
        rig.signal(signum)
    rig.steps(Phase.DRAINING)
    assert rig.coordinator._at_once is False
    stopping = [line for line in errors(records, "INFO") if line.startswith("stopping")]
    assert stopping == ["stopping: requests in flight have 30 s"]


def test_more_notes_than_the_socket_takes(stack: ExitStack) -> None:
    rig = Rig(stack, 1).draining()
    rig.coordinator._wake_in.setblocking(False)
    try:
        while True:
            rig.coordinator._wake_in.send(bytes(4096))
    except BlockingIOError:
        pass
    rig.coordinator._post(rig.workers[0].ended(WorkerEvent.CLOSED))
    rig.coordinator._woken(None)
    assert rig.workers[0].handle.state is WorkerState.CLOSED


@pytest.mark.parametrize("signum", [signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1])
def test_signals_for_the_fleet_stop_nothing(stack: ExitStack, signum: int) -> None:
    rig = Rig(stack).serving()
    rig.signal(signum)
    rig.coordinator._woken(None)
    rig.act()
    assert rig.coordinator._phase is Phase.SERVING


# ---- waiting


def test_a_wait_of_a_year(stack: ExitStack) -> None:
    # epoll_wait(2) counts milliseconds in an int: from 25 days on that was an OverflowError.
    rig = Rig(stack, graceful_timeout=365 * 24 * 3600.0).draining()
    rig.signal(signal.SIGTERM)
    rig.coordinator._wait(time.monotonic())
    assert rig.coordinator._phase is Phase.DRAINING
    assert module.LONGEST_WAIT < 2**31 / 1000
