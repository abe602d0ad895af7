"""The coordinator while it serves: workers that come and go, break, hang, and are replaced."""

import logging
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from subserve.assignment import HANDED
from subserve.coordinator import size as module
from subserve.coordinator.stacks import ForeignStacks
from subserve.errors import WorkerError
from subserve.lifecycle import Phase, WorkerEvent, WorkerState
from subserve.messages import Drain, DumpStacks, Failed, ReopenLogs
from subserve.policy import CRASH_LOOP_FAILURES
from subserve.scoreboard import Counter
from tests.unit.test_server import Rig, Worker, errors, stack

__all__ = ["stack"]  # a fixture

DEADLINE = 10.0  # s, for what takes milliseconds


def names(rig: Rig) -> list[str]:
    return [str(worker.info) for worker in rig.coordinator._crew]


def close(rig: Rig, name: str) -> None:
    """Have a worker that was asked to drain end."""
    worker = rig.worker(name)
    assert isinstance(worker.command(), Drain)
    rig.coordinator._post(worker.ended(WorkerEvent.CLOSED))
    rig.until(lambda: worker.handle.state is WorkerState.CLOSED)
    rig.act()


# ---- more and fewer


def test_a_worker_is_added_and_removed(stack: ExitStack) -> None:
    rig = Rig(stack).serving()
    rig.signal(signal.SIGTTIN)
    rig.until(lambda: len(rig.workers) == 3)
    rig.ready("2.1")
    assert rig.worker("2.1").info.workers == 3
    rig.signal(signal.SIGTTOU)
    rig.until(lambda: rig.worker("2.1").handle.state is WorkerState.DRAINING)
    close(rig, "2.1")
    assert names(rig) == ["0.1", "1.1"]
    rig.signal(signal.SIGTTIN)
    rig.until(lambda: len(rig.workers) == 4)
    assert names(rig) == ["0.1", "1.1", "2.2"], "generations count on"


def test_the_last_worker_stays(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack, 1).serving()
    rig.signal(signal.SIGTTOU)
    rig.coordinator._woken(None)
    rig.act()
    assert errors(records, "WARNING") == ["the last worker is not removed"]
    assert rig.workers[0].handle.state is WorkerState.READY


# ---- recycling


def test_a_recycle(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack, max_requests=10).serving()
    rig.worker("1.1").row.add(Counter.REQUESTS_FINISHED, 10)
    rig.act()
    assert names(rig) == ["0.1", "1.1", "1.2"]
    assert rig.worker("1.1").handle.load is not None, "it serves on meanwhile"
    rig.ready("1.2")
    rig.act()
    assert rig.worker("1.1").handle.state is WorkerState.DRAINING
    close(rig, "1.1")
    assert names(rig) == ["0.1", "1.2"]
    told = errors(records, "INFO")
    assert "worker 1.1 is to be replaced by 1.2: it has served 10 requests in 0 s" in told
    assert any(line.startswith("worker 1.2 has taken the place of 1.1; resident") for line in told)


def test_rows_and_descriptors_are_given_back(stack: ExitStack) -> None:
    """50 recycles: the numbers of rows in use stay below 2, and the handles' sockets are closed."""
    rig = Rig(stack, 1, max_requests=1).serving()
    for generation in range(1, 51):
        old = rig.worker(f"0.{generation}")
        assert old.handle.number < 2
        old.row.add(Counter.REQUESTS_FINISHED)
        rig.act()
        rig.ready(f"0.{generation + 1}")
        rig.act()
        close(rig, f"0.{generation}")
        assert old.handle.control.fileno() == -1
        assert old.handle._connections.fileno() == -1
        assert old.handle._undelivered is None
    assert names(rig) == ["0.51"]
    assert len(rig.coordinator._selector.get_map()) == 2  # the wake-up, and the one worker


def test_jitter_spreads_the_recycles(stack: ExitStack) -> None:
    rig = Rig(stack, 8, max_requests=100, max_requests_jitter=1_000_000)
    limits = {worker.handle.as_member().requests_left for worker in rig.workers}
    assert len(limits) > 1
    assert min(limits) >= 100


def test_a_replacement_that_fails_leaves_the_old_one_serving(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack, 1, max_requests=1).serving()
    rig.worker("0.1").row.add(Counter.REQUESTS_FINISHED)
    rig.act()
    failing = rig.worker("0.2")
    failing.channel.send(Failed("mend this", "Traceback of the app", 3))
    rig.coordinator._post(failing.ended(WorkerEvent.CLOSED))
    rig.until(lambda: len(rig.workers) == 3)
    assert rig.worker("0.1").handle.load is not None
    (line,) = errors(records)
    assert line == (
        "worker 0.2: mend this; worker 0.1 goes on meanwhile, the next attempt is made at once"
    )
    assert names(rig) == ["0.1", "0.3"]
    failing = rig.worker("0.3")
    failing.channel.send(Failed("mend this", "", 3))
    rig.coordinator._post(failing.ended(WorkerEvent.CLOSED))
    rig.until(lambda: failing.handle.state is WorkerState.FAILED)
    rig.act()
    assert names(rig) == ["0.1"], "the second time it waits"
    assert errors(records)[-1].endswith("worker 0.1 goes on meanwhile, next attempt in 1 s")


# ---- workers that break


def test_a_worker_that_breaks_is_replaced(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack).serving()
    rig.broke("0.1")
    rig.act()
    assert names(rig) == ["1.1", "0.2"]
    assert errors(records) == ["worker 0.1 broke: LookupError: x; the next attempt is made at once"]
    rig.ready("0.2")
    rig.signal(signal.SIGTERM)
    rig.steps(Phase.DRAINING)
    for name in ("0.2", "1.1"):
        rig.coordinator._post(rig.worker(name).ended(WorkerEvent.CLOSED))
    assert rig.to_the_end() == (0, True), "it was made good"


def test_a_worker_whose_channel_has_ended_is_handed_nothing(stack: ExitStack) -> None:
    """Its thread may take seconds to say how it ended; its buffer would take connections on."""
    rig = Rig(stack).serving()
    worker = rig.worker("0.1")
    worker.channel.close()
    rig.until(lambda: worker.handle.gone)
    assert worker.handle.load is None


def test_a_crash_loop(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(stack, 1).serving()
    for generation in range(1, CRASH_LOOP_FAILURES + 1):
        rig.broke(f"0.{generation}")
        trouble = rig.coordinator._crew.troubles[0]
        if generation < CRASH_LOOP_FAILURES:
            monkeypatch.setattr(time, "monotonic", lambda at=trouble.retry_at: at)
            rig.act()
            rig.ready(f"0.{generation + 1}")
    assert rig.to_the_end() == (WorkerError.exit_code, True)


# ---- workers that hang


def hang(rig: Rig, worker: Worker, *, gil_held: bool = False) -> None:
    """Let time pass in which a heart does not beat."""
    for _ in range(5):
        for other in rig.workers:
            if other is not worker:
                other.row.add(Counter.LOOP_BEATS)
            if other is not worker or not gil_held:
                other.row.add(Counter.CONTROL_BEATS)
        rig.coordinator._crew.tick(0.25, time.monotonic())
    rig.act()


def test_one_that_hangs_is_asked_where_and_replaced(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack, hang_timeout=1.0).serving()
    worker = rig.worker("1.1")
    hang(rig, worker)
    assert worker.handle.state is WorkerState.HUNG
    assert worker.handle.load is None
    assert worker.command() == DumpStacks()
    assert isinstance(worker.command(), Drain)
    assert worker.connections.recv(1) == b"", "no more connections"
    assert names(rig) == ["0.1", "1.1", "1.2"]
    (line,) = errors(records)
    assert line.startswith("worker 1.1 hangs: its event loop has not run for 1.")


def test_connections_it_has_not_taken_in_go_to_others(stack: ExitStack) -> None:
    rig = Rig(stack, hang_timeout=1.0).serving()
    rig.coordinator._acceptor.start(rig.coordinator._selector)
    hanging, other = rig.worker("1.1"), rig.worker("0.1")
    client, server = socket.socketpair()
    stack.enter_context(client)
    number = server.fileno()
    assert hanging.handle.hand_over(server)
    hang(rig, hanging)
    assert HANDED.unpack(other.connections.recv(16)) == (number, socket.AF_UNIX)
    with socket.socket(fileno=number) as served:
        served.sendall(b"at last")
        assert client.recv(16) == b"at last"


def test_one_that_comes_back_drains(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack, hang_timeout=1.0).serving().supervised()
    worker = rig.worker("1.1")
    hang(rig, worker)
    worker.row.add(Counter.LOOP_BEATS)
    rig.coordinator._crew.tick(0.25, time.monotonic())
    rig.act()
    assert worker.handle.state is WorkerState.DRAINING
    rig.coordinator._post(worker.ended(WorkerEvent.CLOSED))
    rig.until(lambda: worker.handle.state is WorkerState.CLOSED)
    assert "worker 1.1: its event loop runs again; it drains and ends" in errors(records, "INFO")
    assert rig.asked == []


def test_one_that_does_not_is_abandoned(stack: ExitStack, records: list[logging.LogRecord]) -> None:
    rig = Rig(stack, hang_timeout=1.0).serving().supervised()
    worker = rig.worker("1.1")
    hang(rig, worker)
    worker.handle.deadline = time.monotonic()
    rig.act()
    assert worker.handle.state is WorkerState.ABANDONED
    assert rig.asked == [], "not before others have taken the load"
    rig.ready("1.2")
    rig.act()
    assert rig.asked == ["1 worker that would not end had to be abandoned"]
    rig.act()
    assert len(rig.asked) == 1
    # It ends after all.
    rig.coordinator._post(worker.ended(WorkerEvent.CLOSED))
    rig.until(lambda: worker.handle.state is WorkerState.CLOSED)
    assert names(rig) == ["0.1", "1.2"]


def test_an_abandoned_one_does_not_hold_up_the_end(stack: ExitStack) -> None:
    rig = Rig(stack, hang_timeout=1.0).serving()
    worker = rig.worker("1.1")
    hang(rig, worker)
    rig.ready("1.2")
    worker.handle.deadline = time.monotonic()
    rig.signal(signal.SIGTERM)
    rig.steps(Phase.DRAINING)
    for name in ("0.1", "1.2"):
        rig.coordinator._post(rig.worker(name).ended(WorkerEvent.CLOSED))
    assert rig.to_the_end() == (0, False), "the process must not be finalised"


@pytest.mark.parametrize("text", ["File x, line 1 in spin", ""])
def test_one_that_holds_its_gil(
    stack: ExitStack,
    records: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ForeignStacks, "ask", lambda _, thread: asked.append(thread) or True)
    monkeypatch.setattr(ForeignStacks, "take", lambda _: text)
    rig = Rig(stack, hang_timeout=1.0).serving()
    worker = rig.worker("1.1")
    hang(rig, worker, gil_held=True)
    assert asked == [worker.handle._thread.ident]  # type: ignore[union-attr]
    rig.coordinator._crew.tick(0.25, time.monotonic() + 60.0)
    line = errors(records)[-1]
    assert line.startswith("worker 1.1 holds its GIL in C code")
    assert ("no Python stack to be had" in line) is (text == "")


def test_a_process_that_was_stopped_blames_nobody(stack: ExitStack) -> None:
    """SIGSTOP, a suspended laptop: one long tick, in which no heart beat."""
    rig = Rig(stack, hang_timeout=1.0).serving()
    for _ in range(3):
        rig.coordinator._crew.tick(0.25, time.monotonic())
        for worker in rig.workers:
            worker.row.add(Counter.LOOP_BEATS)
    rig.coordinator._crew.tick(20.0, time.monotonic())
    rig.act()
    assert {worker.handle.state for worker in rig.workers} == {WorkerState.READY}


def test_without_a_hang_timeout_nobody_listens(stack: ExitStack) -> None:
    rig = Rig(stack, hang_timeout=0.0).serving()
    assert rig.coordinator._tick_interval == 0.0
    rig.coordinator._crew.tick(1e6, time.monotonic())
    rig.act()
    assert {worker.handle.state for worker in rig.workers} == {WorkerState.READY}


# ---- memory


def test_a_process_that_has_grown_too_large(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [90 * 2**20]
    monkeypatch.setattr(module, "resident_bytes", lambda: sizes[0])
    rig = Rig(stack, max_rss=100 * 2**20).serving().supervised()
    rig.coordinator._tick(time.monotonic())
    rig.act()
    assert rig.asked == []
    sizes[0] = 150 * 2**20
    rig.coordinator._tick(time.monotonic() + module.MEMORY_INTERVAL)
    rig.act()
    assert rig.asked == ["resident memory is 150.0 MiB, above 100.0 MiB"]


def test_without_a_supervisor_it_only_says_so(
    stack: ExitStack, records: list[logging.LogRecord]
) -> None:
    rig = Rig(stack).serving()
    rig.coordinator._turn_over_hook = None
    rig.coordinator._size.excess = "resident memory is 2.0 GiB"
    rig.act()
    (warning,) = errors(records, "WARNING")
    assert warning.startswith("resident memory is 2.0 GiB; there is no supervisor")


# ---- logs


def test_logs_are_reopened_by_all_that_live(stack: ExitStack) -> None:
    rig = Rig(stack).serving()
    rig.signal(signal.SIGTTIN)
    rig.until(lambda: len(rig.workers) == 3)
    rig.signal(signal.SIGUSR1)
    rig.coordinator._woken(None)
    for worker in rig.workers:
        assert worker.command() == ReopenLogs(), "also one that has opened them and starts"


def test_resident_memory_is_that_of_this_process() -> None:
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    resident = module.resident_bytes()
    assert resident is not None
    assert resident == pytest.approx(int(line.split()[1]) * 1024, rel=0.2)
