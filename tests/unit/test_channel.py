"""A control channel over real sockets."""

import socket
import threading
from collections.abc import Iterator

import pytest

from subserve.channel import Channel
from subserve.errors import ChannelError
from subserve.messages import Drain, Failed, Message, Ready

DEADLINE = 10.0  # s, for what takes milliseconds

type Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = map(Channel, socket.socketpair())
    yield here, there
    here.close()
    there.close()


def receive_in_thread(channel: Channel) -> tuple[threading.Thread, list[Message | None]]:
    """Begin to receive one message in a thread that can be joined."""
    received: list[Message | None] = []
    thread = threading.Thread(target=lambda: received.append(channel.receive()))
    thread.start()
    return thread, received


def test_both_ways(pair: Pair) -> None:
    here, there = pair
    assert here.send(Drain(2.5))
    assert there.send(Ready("asgi"))
    assert there.receive() == Drain(2.5)
    assert here.receive() == Ready("asgi")


def test_several_that_arrive_together_come_one_at_a_time(pair: Pair) -> None:
    here, there = pair
    for timeout in (1, 2, 3):
        here.send(Drain(timeout))
    assert [there.receive() for _ in range(3)] == [Drain(1), Drain(2), Drain(3)]


def test_receive_waits(pair: Pair) -> None:
    here, there = pair
    thread, received = receive_in_thread(there)
    here.send(Drain(1))
    thread.join(DEADLINE)
    assert received == [Drain(1)]


def test_receive_ends_with_the_other_side(pair: Pair) -> None:
    here, there = pair
    here.send(Drain(1))
    here.close()
    assert there.receive() == Drain(1)
    assert there.receive() is None
    assert there.receive() is None


def test_receive_ends_with_an_other_side_that_had_not_read_all(pair: Pair) -> None:
    # Closing with unread data resets a unix socket: the control thread of a worker whose reports
    # the coordinator had not read ended with a traceback on standard error.
    here, there = pair
    there.send(Ready("asgi"))
    here.send(Drain(1))
    here.close()
    assert there.receive() == Drain(1)
    assert there.receive() is None


def test_shutdown_ends_a_receive_in_another_thread(pair: Pair) -> None:
    _, there = pair
    thread, received = receive_in_thread(there)
    there.shutdown()
    thread.join(DEADLINE)
    assert received == [None]
    there.shutdown()


def test_what_came_before_a_shutdown_is_still_received(pair: Pair) -> None:
    here, there = pair
    here.send(Drain(1))
    there.shutdown()
    assert there.receive() == Drain(1)
    assert there.receive() is None


def test_shutdown_after_the_end(pair: Pair) -> None:
    here, there = pair
    here.close()
    there.shutdown()
    there.close()
    there.shutdown()
    there.close()


def test_receive_ready_does_not_wait(pair: Pair) -> None:
    here, there = pair
    assert there.receive_ready() == []
    here.send(Drain(1))
    here.send(Drain(2))
    assert there.receive_ready() == [Drain(1), Drain(2)]
    assert there.receive_ready() == []
    here.close()
    assert there.receive_ready() is None


def test_receive_ready_after_a_reset(pair: Pair) -> None:
    here, there = pair
    there.send(Ready("asgi"))
    here.close()
    assert there.receive_ready() is None


def test_receive_ready_takes_a_long_message_in_parts(pair: Pair) -> None:
    here, there = pair
    message = Failed("x", "y" * 300_000, 3)
    sender = threading.Thread(target=here.send, args=(message,))
    sender.start()
    received: list[Message] = []
    while not received:
        part = there.receive_ready()
        assert part is not None
        received += part
    sender.join(DEADLINE)
    assert received == [message]


def test_send_tells_that_nobody_is_there(pair: Pair) -> None:
    here, there = pair
    there.close()
    assert here.send(Drain(1)) is False
    here.close()
    assert here.send(Drain(1)) is False


def test_nonsense(pair: Pair) -> None:
    raw, other = socket.socketpair()
    with raw:
        channel = Channel(other)
        raw.sendall(b"\xff" * 8)
        with pytest.raises(ChannelError):
            channel.receive()
        raw.sendall(b"\xff" * 8)
        with pytest.raises(ChannelError):
            channel.receive_ready()
        channel.close()


def test_messages_of_several_threads_do_not_mix(pair: Pair) -> None:
    here, there = pair
    text = "z" * 50_000
    threads = [
        threading.Thread(target=here.send, args=(Failed(str(number), text, 3),))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    received = [there.receive() for _ in threads]
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(m.reason for m in received if isinstance(m, Failed)) == [*"01234567"]
    assert all(isinstance(m, Failed) and m.traceback == text for m in received)


def test_fileno_is_the_sockets() -> None:
    here, there = socket.socketpair()
    with there:
        channel = Channel(here)
        assert channel.fileno() == here.fileno()
        channel.close()
        assert channel.fileno() == -1
