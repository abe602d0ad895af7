"""The worker's control thread: passes commands on, and ends when it is told or left alone."""

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from subserve.channel import Channel
from subserve.messages import Drain, Ready
from subserve.worker.control import ControlThread

DEADLINE = 10.0  # s, for what takes milliseconds


class Side:
    """The coordinator's end, the thread, and what the thread was told."""

    def __init__(self) -> None:
        coordinator, worker = socket.socketpair()
        self.coordinator, self.worker = Channel(coordinator), Channel(worker)
        self.drains: queue.SimpleQueue[Drain] = queue.SimpleQueue()
        self.control = ControlThread(self.worker, self.drains.put)

    def thread(self) -> threading.Thread:
        (found,) = [t for t in threading.enumerate() if t.name == "subserve-control"]
        return found


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side()
    yield made
    made.coordinator.close()
    made.worker.close()


def test_drain_commands_are_passed_on(side: Side) -> None:
    side.control.start()
    sent = [Drain(2.5, 0.5), Drain(0.0)]
    for command in sent:
        side.coordinator.send(command)
    assert [side.drains.get(timeout=DEADLINE) for _ in range(2)] == sent
    side.control.stop()
    assert "subserve-control" not in [thread.name for thread in threading.enumerate()]


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
