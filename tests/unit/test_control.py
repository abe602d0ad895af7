"""The worker's control thread: obeys commands, beats, and ends when it is told or left alone."""

import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from subserve import log as subserve_log
from subserve.channel import Channel
from subserve.messages import Drain, DumpStacks, Ready, ReopenLogs
from subserve.scoreboard import Counter, Scoreboard
from subserve.worker.control import ControlThread

DEADLINE = 10.0  # s, for what takes milliseconds

HEARTBEAT = 0.01
"""Seconds."""


class Side:
    """The coordinator's end, the thread, and what the thread was told."""

    def __init__(self) -> None:
        coordinator, worker = socket.socketpair()
        self.coordinator, self.worker = Channel(coordinator), Channel(worker)
        self.drains: queue.SimpleQueue[Drain] = queue.SimpleQueue()
        self.board = Scoreboard.create(1)
        self.row = self.board.row(0)
        self.control = ControlThread(self.worker, self.drains.put, self.row, HEARTBEAT)

    def thread(self) -> threading.Thread:
        (found,) = [t for t in threading.enumerate() if t.name == "subserve-control"]
        return found


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side()
    yield made
    made.coordinator.close()
    made.worker.close()
    made.board.close()


def until(records: list[logging.LogRecord], word: str) -> logging.LogRecord:
    """Wait for a record with `word` in its message."""
    deadline = time.monotonic() + DEADLINE
    while True:
        for record in records:
            if word in record.getMessage():
                return record
        assert time.monotonic() < deadline, f"no {word!r} in {records}"
        time.sleep(0.005)


def test_drain_commands_are_passed_on(side: Side) -> None:
    side.control.start()
    commands = [Drain(2.5, 1.0), Drain(0.0)]
    for command in commands:
        side.coordinator.send(command)
    assert [side.drains.get(timeout=DEADLINE) for _ in commands] == commands
    side.control.stop()
    assert "subserve-control" not in [thread.name for thread in threading.enumerate()]


def test_commands_that_come_in_one_piece_are_all_obeyed(side: Side) -> None:
    side.coordinator.send(Drain(1.0))
    side.coordinator.send(Drain(2.0))
    side.control.start()
    assert [side.drains.get(timeout=DEADLINE) for _ in range(2)] == [Drain(1.0), Drain(2.0)]
    side.control.stop()


def test_stop_ends_a_thread_that_waits(side: Side) -> None:
    side.control.start()
    thread = side.thread()
    side.control.stop()
    assert not thread.is_alive()


@pytest.mark.parametrize("unread", [False, True])
def test_it_ends_with_the_coordinator(side: Side, unread: bool) -> None:
    side.control.start()
    thread = side.thread()
    if unread:
        side.worker.send(Ready("asgi"))
    side.coordinator.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    side.control.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_report_is_no_command(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.put(args.exc_value))
    side.control.start()
    side.coordinator.send(Ready("asgi"))
    assert str(raised.get(timeout=DEADLINE)) == "not a command: Ready(interface='asgi')"
    side.control.stop()


def test_it_does_not_keep_the_process_alive(side: Side) -> None:
    side.control.start()
    assert side.thread().daemon
    side.control.stop()


# ---- heartbeat


def test_its_heart_beats_while_it_waits(side: Side) -> None:
    side.control.start()
    deadline = time.monotonic() + DEADLINE
    while side.row[Counter.CONTROL_BEATS] < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    side.control.stop()
    assert side.row[Counter.LOOP_BEATS] == 0


def test_without_a_heartbeat_it_only_waits(side: Side) -> None:
    side.control = ControlThread(side.worker, side.drains.put, side.row, 0.0)
    side.control.start()
    side.coordinator.send(Drain(1.0))
    assert side.drains.get(timeout=DEADLINE) == Drain(1.0)
    side.control.stop()
    assert side.row[Counter.CONTROL_BEATS] == 0


# ---- stacks


def where_it_waits(proceed: threading.Event) -> None:
    proceed.wait(DEADLINE)


def test_stacks_of_all_threads_in_one_record(side: Side, records: list[logging.LogRecord]) -> None:
    proceed = threading.Event()
    thread = threading.Thread(target=where_it_waits, args=(proceed,), name="pool-7")
    thread.start()
    side.control.start()
    side.coordinator.send(DumpStacks())
    record = until(records, "its threads are where the stacks above say")
    proceed.set()
    thread.join()
    side.control.stop()
    stacks = getattr(record, subserve_log.TRACEBACK)
    assert "thread pool-7:\n" in stacks
    assert "in where_it_waits\n    proceed.wait(DEADLINE)\n" in stacks
    assert "thread MainThread:\n" in stacks
    assert "thread subserve-control:" not in stacks, "of itself it says nothing"


# ---- logs


def test_logs_are_reopened(side: Side, tmp_path: Path) -> None:
    path = tmp_path / "access"
    logger = subserve_log.configure_access(str(path))
    assert logger is not None
    logger.info("before")
    path.rename(tmp_path / "access.1")
    side.control.start()
    side.coordinator.send(ReopenLogs())
    deadline = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    side.control.stop()
    logger.info("after")
    assert (tmp_path / "access.1").read_text() == "before\n"
    assert path.read_text() == "after\n"


def test_logs_that_cannot_be_reopened_go_on(
    side: Side, tmp_path: Path, records: list[logging.LogRecord]
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access"
    logger = subserve_log.configure_access(str(path))
    assert logger is not None
    folder.rename(tmp_path / "moved")
    side.control.start()
    side.coordinator.send(ReopenLogs())
    warning = until(records, "cannot be opened anew")
    assert f"{path}: No such file or directory; it goes on to the file it had" in (
        warning.getMessage()
    )
    side.control.stop()
    logger.info("goes on")
    assert (tmp_path / "moved" / "access").read_text() == "goes on\n"
