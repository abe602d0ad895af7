"""From listeners to workers: real sockets, workers that are none."""

import errno
import math
import os
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from subserve.coordinator import acceptor as module
from subserve.coordinator.acceptor import ACCEPTS_PER_TURN, Acceptor
from subserve.listener import Listener, listen

DEADLINE = 10.0  # s, for what takes milliseconds


class Worker:
    """What a `WorkerHandle` is to the acceptor."""

    def __init__(self, load: tuple[int, int] | None = (0, 0)) -> None:
        self.load = load
        self.blocked = False
        self.may_accept = False
        self.limits: tuple[float, float] | None = None
        self.given: list[socket.socket] = []

    def let_accept(
        self, listeners: list[socket.socket], max_connections: float, max_descriptor: float
    ) -> bool:
        if not self.may_accept:
            return False
        assert self.limits is None
        self.limits = (max_connections, max_descriptor)
        return True

    def stop_accepting(self) -> None:
        assert self.limits is not None
        self.limits = None

    def hand_over(self, connection: socket.socket) -> bool:
        if self.blocked:
            return False
        assert self.load is not None
        self.given.append(socket.socket(fileno=connection.detach()))
        self.load = (self.load[0] + 1, self.load[1])
        return True


class Refusing:
    """A listening socket where accept(2) fails."""

    def __init__(self, sock: socket.socket, code: int) -> None:
        self._sock = sock
        self._code = code
        self.asked = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        raise OSError(self._code, os.strerror(self._code))

    def close(self) -> None:
        self._sock.close()


class Rig:
    """An acceptor on two listeners, and its selector."""

    def __init__(self, stack: ExitStack, clock: list[float]) -> None:
        self.stack = stack
        self.clock = clock
        self.listeners = listen(("127.0.0.1:0", "127.0.0.2:0"), backlog=256, tls=False)
        self.selector = stack.enter_context(selectors.DefaultSelector())
        self.acceptor: Acceptor | None = None

    def start(
        self, *workers: Worker, max_connections: float = math.inf, descriptors: float = math.inf
    ) -> Acceptor:
        self.acceptor = Acceptor(self.listeners, workers, max_connections)  # type: ignore[arg-type]
        self.acceptor.start(self.selector, descriptors)
        for worker in workers:
            self.stack.callback(lambda w=worker: [sock.close() for sock in w.given])
        self.stack.callback(self.acceptor.stop)
        return self.acceptor

    def connect(self, count: int = 1, listener: int = 0) -> list[socket.socket]:
        address = self.listeners[listener].sock.getsockname()
        clients = [socket.create_connection(address, DEADLINE) for _ in range(count)]
        for client in clients:
            self.stack.callback(client.close)
        return clients

    def turn(self, timeout: float = DEADLINE) -> int:
        """Do what the coordinator does once its selector wakes; return how many were ready."""
        ready = self.selector.select(timeout)
        for key, _ in ready:
            callback, argument = key.data
            callback(argument)
        return len(ready)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    clock = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with ExitStack() as stack:
        yield Rig(stack, clock)


def test_connections_go_to_the_least_loaded(rig: Rig) -> None:
    idle, busy = Worker((0, 0)), Worker((2, 0))
    rig.start(busy, idle)
    rig.connect(2)
    rig.turn()
    assert (len(idle.given), len(busy.given)) == (2, 0)


def test_equal_workers_take_turns(rig: Rig) -> None:
    workers = [Worker(), Worker(), Worker()]
    rig.start(*workers)
    for _ in range(6):
        rig.connect()
        rig.turn()
        for worker in workers:
            worker.load = (0, 0)
    assert [len(worker.given) for worker in workers] == [2, 2, 2]


def test_what_is_handed_over_is_the_connection(rig: Rig) -> None:
    worker = Worker()
    rig.start(worker)
    (client,) = rig.connect()
    rig.turn()
    worker.given[0].sendall(b"hello")
    assert client.recv(5) == b"hello"


def test_a_worker_that_takes_none_is_passed_by(rig: Rig) -> None:
    starting, full, ready = Worker(None), Worker((0, 0)), Worker((9, 9))
    full.blocked = True
    rig.start(starting, full, ready)
    rig.connect()
    rig.turn()
    assert len(ready.given) == 1


def test_a_turn_is_bounded(rig: Rig) -> None:
    worker = Worker()
    rig.start(worker)
    rig.connect(ACCEPTS_PER_TURN + 1)
    rig.turn()
    assert len(worker.given) == ACCEPTS_PER_TURN
    rig.turn()
    assert len(worker.given) == ACCEPTS_PER_TURN + 1


# ---- nobody to give it to


def test_a_connection_that_no_worker_takes_is_kept_for_later(rig: Rig) -> None:
    worker = Worker()
    worker.blocked = True
    acceptor = rig.start(worker)
    (client,) = rig.connect()
    rig.turn()
    assert acceptor.resume_at == rig.clock[0] + module.PAUSE_SECONDS
    rig.connect()
    assert rig.turn(timeout=0) == 0  # the kernel queues meanwhile

    acceptor.resume()
    assert acceptor.resume_at is not None
    worker.blocked = False
    rig.clock[0] += 1
    acceptor.resume()
    assert acceptor.resume_at is None
    worker.given[0].sendall(b"at last")
    assert client.recv(7) == b"at last"
    rig.turn()
    assert len(worker.given) == 2


def test_two_listeners_that_are_ready_while_no_worker_takes_any(rig: Rig) -> None:
    # The second one of the turn accepted, too: the connection that was kept was lost, and
    # unregistering the listeners again was a KeyError that ended the coordinator.
    worker = Worker()
    worker.blocked = True
    acceptor = rig.start(worker)
    clients = [*rig.connect(listener=0), *rig.connect(listener=1)]
    assert rig.turn() == 2
    worker.blocked = False
    acceptor.resume()
    rig.turn()
    for server in worker.given:
        server.sendall(b"!")
    assert [client.recv(1) for client in clients] == [b"!", b"!"]


@pytest.mark.parametrize(
    "code",
    # EINVAL: another process that shares the listener has shut it down.
    [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL],
)
def test_an_error_that_will_come_again(rig: Rig, code: int) -> None:
    """The listener stays readable: asking again at once would only burn the CPU."""
    refusing = [Refusing(listener.sock, code) for listener in rig.listeners]
    rig.listeners = [Listener(sock, "") for sock in refusing]  # type: ignore[arg-type]
    acceptor = rig.start(Worker())
    for sock in refusing:
        rig.stack.enter_context(socket.create_connection(sock._sock.getsockname(), DEADLINE))
    assert rig.turn() == 2
    assert sum(sock.asked for sock in refusing) == 1
    assert acceptor.resume_at == rig.clock[0] + module.PAUSE_SECONDS
    assert rig.turn(timeout=0) == 0
    acceptor.resume()
    assert rig.turn() == 2


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EPERM])
def test_an_error_of_one_connection_is_passed_by(rig: Rig, code: int) -> None:
    refusing = Refusing(rig.listeners[0].sock, code)
    rig.listeners = [Listener(refusing, ""), rig.listeners[1]]  # type: ignore[arg-type]
    acceptor = rig.start(Worker())
    rig.stack.enter_context(socket.create_connection(refusing._sock.getsockname(), DEADLINE))
    rig.turn()
    assert refusing.asked == ACCEPTS_PER_TURN
    assert acceptor.resume_at is None


# ---- limits


def test_no_more_than_max_connections(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    workers = [Worker(), Worker()]
    acceptor = rig.start(*workers, max_connections=2)
    clients = rig.connect(8)
    rig.turn()
    assert [len(worker.given) for worker in workers] == [2, 2]
    assert acceptor.resume_at == rig.clock[0] + module.FULL_PAUSE_SECONDS
    assert rig.turn(timeout=0) == 0
    for _ in range(3):
        acceptor.resume()
        assert acceptor.resume_at is not None
    workers[1].load = (1, 0)  # one has ended
    acceptor.resume()
    rig.turn()
    assert [len(worker.given) for worker in workers] == [2, 3]
    # All are served in the end, in the order in which they came.
    for worker in workers:
        worker.load = (0, 0)
    while acceptor.resume_at is not None:
        acceptor.resume()
        rig.turn()
        for worker in workers:
            worker.load = (0, 0)
    for worker in workers:
        for server in worker.given:
            server.sendall(b"!")
    assert [client.recv(1) for client in clients] == [b"!"] * 8
    assert len(caplog.records) == 1, "not at each attempt"


def test_complaints_are_rate_limited(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    acceptor = rig.start(Worker((1, 0)), max_connections=1)
    rig.connect()
    rig.turn()
    for _ in range(300):
        rig.clock[0] += module.FULL_PAUSE_SECONDS
        acceptor.resume()
        rig.turn(timeout=0)
    assert len(caplog.records) == 1
    assert "--max-connections" in caplog.text


def test_what_was_accepted_is_served_at_the_end(rig: Rig) -> None:
    worker = Worker((1, 0))
    acceptor = rig.start(worker, max_connections=1)
    (client,) = rig.connect()
    rig.turn()
    assert not worker.given
    acceptor.stop()
    worker.given[0].sendall(b"!")
    assert client.recv(1) == b"!"


def test_descriptors_that_are_kept_for_the_app(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    first = os.dup(0)
    os.close(first)
    # The client's and the server's ends are descriptors of one process here.
    acceptor = rig.start(worker, descriptors=first + 5)
    clients = rig.connect(1)
    rig.turn()
    assert len(worker.given) == 1
    clients += rig.connect(3)
    rig.turn()
    assert acceptor.resume_at is not None
    assert "kept for the app" in caplog.text
    had = len(worker.given)
    acceptor.resume()
    assert len(worker.given) == had
    while worker.given:
        worker.given.pop().close()
    for client in clients[:2]:
        client.close()
    acceptor.resume()
    assert acceptor.resume_at is None
    assert worker.given


def test_an_app_that_has_all_descriptors_is_served_all_the_same(rig: Rig) -> None:
    """Where no connection is open, none will end: waiting would be for ever."""
    worker = Worker()
    rig.start(worker, descriptors=0)
    rig.connect()
    rig.turn()
    assert len(worker.given) == 1


# ---- stop


def test_stop_closes_the_listeners(rig: Rig) -> None:
    acceptor = rig.start(Worker())
    address = rig.listeners[0].sock.getsockname()
    acceptor.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, DEADLINE)
    assert not rig.selector.get_map()
    acceptor.stop()


def test_stop_while_paused_lets_go_of_what_was_kept(rig: Rig) -> None:
    worker = Worker()
    worker.blocked = True
    acceptor = rig.start(worker)
    (client,) = rig.connect()
    rig.turn()
    acceptor.stop()
    assert acceptor.resume_at is None
    assert client.recv(1) == b""
    acceptor.stop()


def test_stop_before_start() -> None:
    listeners = listen(("127.0.0.1:0",), backlog=1, tls=False)
    acceptor = Acceptor(listeners, [])
    acceptor.stop()
    assert listeners[0].sock.fileno() == -1


# ---- a worker that is the only one


def accepting(rig: Rig, *workers: Worker, **limits: float) -> tuple[Acceptor, list[Worker]]:
    for worker in workers:
        worker.may_accept = True
    present = list(workers)
    rig.acceptor = Acceptor(rig.listeners, present, **limits)  # type: ignore[arg-type]
    rig.acceptor.start(rig.selector)
    rig.stack.callback(rig.acceptor.stop)
    return rig.acceptor, present


def test_the_only_worker_accepts_by_itself(rig: Rig) -> None:
    worker = Worker()
    acceptor, _ = accepting(rig, worker, max_connections=7)
    acceptor.review()
    acceptor.review()
    assert worker.limits == (7, math.inf)
    rig.connect()
    assert rig.turn(0.05) == 0, "it is the worker's to accept"


def test_two_workers_do_not(rig: Rig) -> None:
    first, second = Worker(), Worker()
    acceptor, _ = accepting(rig, first, second)
    acceptor.review()
    assert first.limits is second.limits is None
    rig.connect()
    rig.turn()
    assert len(first.given) + len(second.given) == 1
    for worker in (first, second):
        rig.stack.callback(lambda w=worker: [sock.close() for sock in w.given])


def test_it_is_taken_back_when_another_one_comes(rig: Rig) -> None:
    """While that one only starts; and it is nobody's until the old one has gone."""
    old, new = Worker(), Worker(load=None)
    acceptor, present = accepting(rig, old)
    new.may_accept = True
    acceptor.review()
    assert old.limits is not None
    present.append(new)
    acceptor.review()
    assert old.limits is new.limits is None
    rig.connect()
    rig.turn()
    rig.stack.callback(lambda: [sock.close() for sock in (*old.given, *new.given)])
    assert len(old.given) == 1
    new.load, old.load = (0, 0), None
    acceptor.review()
    rig.connect()
    rig.turn()
    assert len(new.given) == 1
    present.remove(old)
    acceptor.review()
    assert new.limits is not None


def test_one_that_drains_is_not_told(rig: Rig) -> None:
    """The drain ends it as well, and the command would come too late."""
    old = Worker()
    acceptor, _ = accepting(rig, old)
    acceptor.review()
    old.load = None
    acceptor.review()
    assert old.limits is not None
    rig.connect()
    assert rig.turn() == 1, "the coordinator accepts again"
    assert acceptor.resume_at is not None


def test_one_that_meets_an_obstacle_leaves_it_for_a_while(rig: Rig) -> None:
    worker = Worker()
    acceptor, _ = accepting(rig, worker)
    acceptor.review()
    worker.limits = None
    acceptor.resigned(worker)
    acceptor.review()
    assert worker.limits is None
    rig.connect()
    rig.turn()
    assert len(worker.given) == 1
    rig.clock[0] += module.RETRY_SECONDS
    rig.connect()
    rig.turn()
    assert worker.limits is not None
    rig.stack.callback(lambda: [sock.close() for sock in worker.given])
    acceptor.resigned(Worker())  # of one that had been relieved before
    assert rig.turn(0.05) == 0


def test_what_is_queued_at_the_end_is_accepted_here(rig: Rig) -> None:
    worker = Worker()
    acceptor, _ = accepting(rig, worker)
    acceptor.review()
    rig.connect(3)
    acceptor.accept_rest()
    assert len(worker.given) == 3
    rig.stack.callback(lambda: [sock.close() for sock in worker.given])
