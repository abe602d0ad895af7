"""The supervisor's loop, with serving processes that are a socket and a pipe.

What real processes do is tested end to end; here is what comes at a moment that cannot be chosen
there, and the commands that a serving process gets.
"""

import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from subserve import log as subserve_log
from subserve.channel import Channel
from subserve.errors import ConfigError
from subserve.listener import Listener
from subserve.messages import Message, Retire, Serving, Signal, TurnOver
from subserve.options import Config
from subserve.supervisor import server as module
from subserve.supervisor.policy import Phase
from subserve.supervisor.server import Epoch, Request, Supervisor


class Process:
    """Stands for a `ServingProcess`; a pipe stands for its pidfd."""

    made: list[Process]

    def __init__(self, name: str, config: Config) -> None:
        ours, its = socket.socketpair()
        self.name, self.config, self.pid, self.uid = name, config, 4711, os.geteuid()
        self.control, self.itself = Channel(ours), Channel(its)
        self._ended, self._end = os.pipe()
        self.app = config.app
        self.code: int | None = None
        self.reaped = False

    @classmethod
    def start(
        cls,
        name: str,
        config: Config,
        listeners: Sequence[Listener],
        environ: Mapping[str, str],
        folder: str,
    ) -> Process:
        cls.made.append(cls(name, config))
        return cls.made[-1]

    def fileno(self) -> int:
        return self._ended

    def receive(self) -> list[Message] | None:
        return self.control.receive_ready()

    def kill(self) -> None:
        self.end(-9)

    def end(self, code: int) -> None:
        self.code = code
        self.itself.close()
        os.close(self._end)

    def reap(self) -> tuple[int, str]:
        assert self.code is not None
        self.reaped = True
        os.close(self._ended)
        self.control.close()
        return self.code, ""

    def close(self) -> None:
        if self.code is None:
            self.end(0)
        if not self.reaped:
            self.reap()

    def commands(self) -> list[Message]:
        return self.itself.receive_ready() or []


class Rig:
    """A supervisor whose loop does not run by itself."""

    def __init__(self, stack: ExitStack, **options: int) -> None:
        self.config = Config(app="shop:app", bind=("127.0.0.1:0",), **options)  # type: ignore[arg-type]
        self.supervisor = Supervisor(self.config, lambda: self.config)
        listeners = self.supervisor._sockets.bind(self.config)
        self.supervisor._epochs[1] = Epoch(self.config, listeners, 0.0)
        self.supervisor._selector.register(
            self.supervisor._wake_out, 1, (self.supervisor._woken, None)
        )
        stack.callback(self.supervisor._close)

    def signal(self, number: int) -> None:
        """Do what a signal does: its number arrives as a byte."""
        self.supervisor._wake_in.send(bytes([number]))

    def steps(self) -> None:
        """Go on for as long as there is something to do."""
        for _ in range(50):
            if self.supervisor._done:
                return
            actions = module.policy.decide(
                self.supervisor._plan.snapshot(), module.time.monotonic()
            )
            if not actions and not self.supervisor._selector.select(0):
                return
            self.supervisor._step()
        raise AssertionError("it never comes to rest")

    def up(self) -> Rig:
        self.steps()
        for process in Process.made:
            process.itself.send(Serving("asgi"))
        self.steps()
        assert self.supervisor._plan.phase is Phase.SERVING
        return self


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(subserve_log, "announce", lambda text: None)
    monkeypatch.setattr(subserve_log, "configure", lambda *arguments: None)
    monkeypatch.setattr(module, "ServingProcess", Process)
    Process.made = []
    with ExitStack() as made:
        yield made
        for process in Process.made:
            process.close()


def lines(records: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records]


def test_a_life_without_trouble(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack).up()
    (process,) = Process.made
    rig.signal(signal.SIGTERM)
    rig.steps()
    assert process.commands() == [Signal(signal.SIGTERM)]
    process.end(0)
    rig.steps()
    assert rig.supervisor._done
    assert rig.supervisor._plan.exit_code == 0


@pytest.mark.parametrize("signum", [signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1])
def test_signals_that_are_passed_on(stack: ExitStack, signum: signal.Signals) -> None:
    """As messages, also to one that has no handlers yet and would die of a real one."""
    rig = Rig(stack, processes=2)
    rig.steps()
    Process.made[0].itself.send(Serving("asgi"))
    rig.signal(signum)
    rig.steps()
    assert [process.commands() for process in Process.made] == [[Signal(signum)]] * 2


def test_one_that_asks_to_be_replaced(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack, processes=2).up()
    first, second = Process.made
    first.itself.send(TurnOver("its resident memory is over 1 GiB"))
    rig.steps()
    third = Process.made[2]
    assert third.name == "0.2", "at the same place"
    assert first.commands() == []
    third.itself.send(Serving("asgi"))
    rig.steps()
    assert first.commands() == [Retire()]
    assert second.commands() == []
    assert "serving process 0.1 is to be replaced: its resident memory is over 1 GiB" in lines(
        records
    )


def test_a_report_that_comes_with_the_end_is_heard_first(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    """Else a crash right after the start was taken for a start that failed."""
    rig = Rig(stack)
    rig.steps()
    Process.made[0].itself.send(Serving("asgi"))
    Process.made[0].end(-11)
    rig.supervisor._ended(1)
    assert any("crashed: it was killed by SIGSEGV" in line for line in lines(records))


def test_a_second_int_is_passed_on_as_quit(stack: ExitStack) -> None:
    rig = Rig(stack).up()
    for _ in range(2):
        rig.signal(signal.SIGINT)
        rig.steps()
    assert Process.made[0].commands() == [Signal(signal.SIGTERM), Signal(signal.SIGQUIT)]


def test_two_signals_in_one_turn(stack: ExitStack) -> None:
    rig = Rig(stack).up()
    rig.signal(signal.SIGTERM)
    rig.signal(signal.SIGQUIT)
    rig.steps()
    assert Signal(signal.SIGQUIT) in Process.made[0].commands()
    Process.made[0].end(0)
    rig.steps()
    assert rig.supervisor._done


def test_hup_while_stopping_changes_nothing(stack: ExitStack) -> None:
    rig = Rig(stack).up()
    rig.signal(signal.SIGTERM)
    rig.signal(signal.SIGHUP)
    rig.steps()
    assert len(Process.made) == 1


def test_a_configuration_that_is_wrong(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack).up()

    def wrong() -> Config:
        raise ConfigError("one\ntwo")

    rig.supervisor._reconfigure = wrong
    rig.signal(signal.SIGHUP)
    rig.steps()
    assert len(Process.made) == 1
    assert lines(records)[-1] == "nothing is changed: one; two"


def test_options_that_stay(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack).up()
    rig.config = Config(app="shop:app", bind=rig.config.bind, pid_file="/run/other.pid")
    rig.signal(signal.SIGHUP)
    rig.steps()
    assert "--pid-file: another value takes effect at the next start" in lines(records)
    assert len(Process.made) == 2


def test_the_number_of_processes_may_change(stack: ExitStack) -> None:
    rig = Rig(stack, processes=2).up()
    rig.config = Config(app="shop:app", bind=rig.config.bind, processes=1)
    rig.signal(signal.SIGHUP)
    rig.steps()
    assert [process.name for process in Process.made] == ["0.1", "1.1", "0.2"]
    Process.made[2].itself.send(Serving("asgi"))
    rig.steps()
    assert [process.commands() for process in Process.made] == [[Retire()], [Retire()], []]


def test_requests_that_come_too_late(stack: ExitStack) -> None:
    rig = Rig(stack)
    rig.supervisor._close()
    rig.supervisor.ask(Request.STOP)
