"""Signals become bytes in a socket, and everything is as before afterwards."""

import signal
import socket
from collections.abc import Iterator

import pytest

from subserve import signals

OURS = signals.STOP_GRACEFULLY | signals.STOP_AT_ONCE


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(10.0)
        yield here, there


def test_each_signal_arrives_as_its_number(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    with signals.delivered_to(there):
        for signum in sorted(OURS):
            signal.raise_signal(signum)
            assert here.recv(16) == bytes([signum])


def test_handlers_are_as_before(ends: tuple[socket.socket, socket.socket]) -> None:
    before = {signum: signal.getsignal(signum) for signum in OURS}

    def be_interrupted() -> None:
        with signals.delivered_to(ends[1]):
            assert all(signal.getsignal(signum) is not before[signum] for signum in OURS)
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        be_interrupted()
    assert {signum: signal.getsignal(signum) for signum in OURS} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_that_come_after_the_end(ends: tuple[socket.socket, socket.socket]) -> None:
    """A second Ctrl-C while the last files were removed ended the server by KeyboardInterrupt."""
    before = {signum: signal.getsignal(signum) for signum in OURS}
    try:
        with signals.delivered_to(ends[1], ignored_after=True):
            pass
        for signum in OURS:
            signal.raise_signal(signum)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def test_more_signals_than_the_socket_takes(ends: tuple[socket.socket, socket.socket]) -> None:
    """They are dropped without a word: what is there says already that it is time to stop."""
    here, there = ends
    with signals.delivered_to(there):
        try:
            while True:
                there.send(bytes(4096))
        except BlockingIOError:
            pass
        signal.raise_signal(signal.SIGTERM)
    assert here.recv(1) == b"\0"


def test_which_signals() -> None:
    assert {signal.SIGTERM, signal.SIGINT} == signals.STOP_GRACEFULLY
    assert {signal.SIGQUIT} == signals.STOP_AT_ONCE
    assert signals.INTERRUPT is signal.SIGINT
    assert signals.STOP_GRACEFULLY.isdisjoint(signals.STOP_AT_ONCE)
