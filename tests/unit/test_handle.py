"""The coordinator's side of one worker, without the worker."""

import os
import socket
from collections.abc import Iterator

import pytest

from subserve.channel import Channel
from subserve.coordinator.handle import WorkerHandle
from subserve.identity import WorkerInfo
from subserve.messages import Accept, StopAccepting
from subserve.options import Config
from subserve.scoreboard import Scoreboard

type Rig = tuple[WorkerHandle, Channel, socket.socket]


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A handle, the worker's end of its control channel, and a listening socket."""
    here, there = socket.socketpair()
    out, far = socket.socketpair()
    row = Scoreboard.create(1).row(0)
    handle = WorkerHandle(WorkerInfo(0, 1, 1), Config(), row, Channel(here), out)
    worker = Channel(there)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield handle, worker, listener
    handle.control.close()
    worker.close()
    out.close()
    far.close()


def test_listeners_that_are_lent_go_on_not_to_block(rig: Rig) -> None:
    """Also inherited ones: `socket.dup` takes those for blocking, and makes them so."""
    handle, worker, listener = rig
    os.set_blocking(listener.fileno(), False)
    inherited = socket.socket(fileno=os.dup(listener.fileno()))
    with inherited:
        assert handle.let_accept([inherited], 7, float("inf"))
        command = worker.receive()
        assert isinstance(command, Accept)
        assert command.max_connections == 7
        (door,) = command.listeners
        assert os.path.sameopenfile(door, listener.fileno())
        assert not os.get_blocking(door)
        os.close(door)
        handle.stop_accepting()
        assert worker.receive() == StopAccepting()


def test_what_cannot_be_lent_is_not(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is left over, be there none any more or nobody to take them."""
    handle, worker, listener = rig
    made: list[int] = []

    def dup(fd: int, real: object = os.dup) -> int:
        if made:
            raise OSError("no more")
        made.append(real(fd))  # type: ignore[operator]
        return made[-1]

    monkeypatch.setattr(os, "dup", dup)
    assert not handle.let_accept([listener, listener], 7, 7)
    monkeypatch.undo()
    worker.close()
    assert not handle.let_accept([listener], 7, 7)
    free = os.dup(0)
    os.close(free)
    assert free <= made[0]
