"""Any sequence of what may happen to a fleet, with the policy as the only one that acts."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from subserve.identity import WorkerInfo
from subserve.lifecycle import Phase, WorkerEvent, WorkerState, advance, enter
from subserve.policy import (
    Abandon,
    Action,
    Drain,
    Exit,
    Fleet,
    Member,
    Recover,
    Serve,
    Start,
    Stop,
    TakeOut,
    Trouble,
    TurnOver,
    Why,
    after_failure,
    decide,
)

S, E = WorkerState, WorkerEvent

STARTUP, GRACEFUL, HANG, LIFETIME, REQUESTS = 60.0, 30.0, 30.0, 500.0, 100


class Worker:
    """A worker whose life is told by the rules."""

    def __init__(self, info: WorkerInfo, now: float) -> None:
        self.info = info
        self.state = S.STARTING
        self.deadline = now + STARTUP
        self.since: float | None = None
        self.requests = 0
        self.silent = 0.0
        self.stuck = False
        self.failed = False

    def take(self, event: WorkerEvent) -> None:
        self.state = advance(self.state, event)

    def as_member(self) -> Member:
        return Member(
            self.info,
            self.state,
            self.deadline,
            since=self.since or 0.0,
            retire_at=math.inf if self.since is None else self.since + LIFETIME,
            requests_left=REQUESTS - self.requests,
            silent=self.silent,
            served=self.since is not None,
        )


class Server(RuleBasedStateMachine):
    """A coordinator without sockets: it takes what its workers report and does as is decided."""

    @initialize(wanted=st.integers(1, 4))
    def start(self, wanted: int) -> None:
        self.now = 0.0
        self.phase = Phase.STARTING
        self.wanted = wanted
        self.workers: list[Worker] = []
        self.generations: dict[int, int] = {}
        self.troubles: dict[int, Trouble] = {}
        self.left_open = 0
        self.stop_requested = False
        self.stop_by = math.inf
        self.asked_at = -math.inf
        self.why: Why | None = None
        self.exited = False
        self.recycling: WorkerInfo | None = None
        self.turn_overs: list[float] = []
        self.act()

    # ---- what may happen

    def one_in(self, *states: WorkerState, of: int) -> Worker | None:
        found = [worker for worker in self.workers if worker.state in states]
        return found[of % len(found)] if found else None

    @precondition(lambda self: not self.exited)
    @rule(of=st.integers(0, 7))
    def one_is_ready(self, of: int) -> None:
        worker = self.one_in(S.STARTING, of=of)
        if worker is not None:
            worker.take(E.READY)
            worker.since, worker.deadline = self.now, math.inf
            self.act()

    @precondition(lambda self: not self.exited)
    @rule()
    def all_are_ready(self) -> None:
        while (worker := self.one_in(S.STARTING, of=0)) is not None:
            worker.take(E.READY)
            worker.since, worker.deadline = self.now, math.inf
        self.act()

    @precondition(lambda self: not self.exited)
    @rule(of=st.integers(0, 7), left_open=st.booleans())
    def one_fails_to_start(self, of: int, left_open: bool) -> None:
        worker = self.one_in(S.STARTING, of=of)
        if worker is not None:
            worker.take(E.FAILED)
            self.note_failure(worker)
            self.gone(worker, E.THREADS_LEFT if left_open else E.CLOSED)

    @precondition(lambda self: not self.exited)
    @rule(of=st.integers(0, 7), left_open=st.booleans())
    def one_breaks(self, of: int, left_open: bool) -> None:
        worker = self.one_in(S.STARTING, S.READY, S.DRAINING, S.HUNG, of=of)
        if worker is not None:
            if worker.state.staying:
                self.note_failure(worker)
            worker.take(E.BROKE)
            self.gone(worker, None, left_open=left_open)

    @precondition(lambda self: not self.exited)
    @rule(of=st.integers(0, 7), left_open=st.booleans())
    def one_has_drained(self, of: int, left_open: bool) -> None:
        worker = self.one_in(S.DRAINING, of=of)
        if worker is not None:
            self.gone(worker, E.THREADS_LEFT if left_open else E.CLOSED)

    @precondition(lambda self: not self.exited)
    @rule(of=st.integers(0, 7))
    def one_hangs(self, of: int) -> None:
        worker = self.one_in(S.READY, of=of)
        if worker is not None:
            worker.stuck = True

    @precondition(lambda self: not self.exited)
    @rule(of=st.integers(0, 7))
    def one_comes_back(self, of: int) -> None:
        stuck = [worker for worker in self.workers if worker.stuck]
        if stuck:
            worker = stuck[of % len(stuck)]
            worker.stuck, worker.silent = False, 0.0
            self.act()
            if worker.state is S.ABANDONED:
                self.gone(worker, E.CLOSED)

    @precondition(lambda self: not self.exited)
    @rule(of=st.integers(0, 7))
    def one_has_served_its_requests(self, of: int) -> None:
        worker = self.one_in(S.READY, of=of)
        if worker is not None:
            worker.requests = REQUESTS
            self.act()

    @precondition(lambda self: not self.exited)
    @rule(more=st.booleans())
    def more_or_fewer(self, more: bool) -> None:
        self.wanted = self.wanted + 1 if more else max(1, self.wanted - 1)
        self.act()

    @precondition(lambda self: not self.exited)
    @rule(die=st.integers(0, 9))
    def a_stop_is_asked_for(self, die: int) -> None:
        if die == 0:  # most lives are longer
            self.stop_requested = True
            self.act()

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 31.0, 61.0, 501.0]))
    def time_passes(self, seconds: float) -> None:
        """As the coordinator lives it: it is awake whenever something is due, and each second."""
        end = self.now + seconds
        while self.now < end and not self.exited:
            due = decide(self.snapshot(), self.now).wait_until
            assert due > self.now, "it would not sleep"
            tick = min(end, due, self.now + 1.0)
            for worker in self.workers:
                worker.silent = worker.silent + (tick - self.now) if worker.stuck else 0.0
            self.now = tick
            self.act()

    # ---- what the coordinator does

    def note_failure(self, worker: Worker) -> None:
        served_for = 0.0 if worker.since is None else self.now - worker.since
        place = worker.info.index
        self.troubles[place] = after_failure(
            self.troubles.get(place, Trouble()), self.now, served_for
        )

    def gone(
        self, worker: Worker, event: WorkerEvent | None, *, left_open: bool | None = None
    ) -> None:
        if event is not None:
            worker.take(event)
        self.workers.remove(worker)
        self.left_open += event is E.THREADS_LEFT or bool(left_open)
        self.act()

    def snapshot(self) -> Fleet:
        return Fleet(
            self.phase,
            self.wanted,
            [worker.as_member() for worker in self.workers],
            stop_requested=self.stop_requested,
            stop_by=self.stop_by,
            hang_timeout=HANG,
            troubles=self.troubles,
            left_open=self.left_open,
            asked_at=self.asked_at,
        )

    def act(self) -> None:
        for _ in range(100):
            decision = decide(self.snapshot(), self.now)
            for action in decision.actions:
                self.do(action)
            if self.exited or not decision.actions:
                return
        raise AssertionError("it never waits")

    def do(self, action: Action) -> None:
        match action:
            case Serve():
                assert self.ready() >= self.wanted
                self.phase = enter(self.phase, Phase.SERVING)
            case Stop(why):
                self.phase, self.why = enter(self.phase, Phase.DRAINING), why
                self.stop_by = self.now + GRACEFUL
            case Exit():
                assert self.phase is Phase.DRAINING
                self.exited = True
            case Start(place, replaces):
                assert self.phase is not Phase.DRAINING
                self.begin(place, replaces)
            case Drain(info):
                worker = self.worker(info)
                before = self.ready_places()
                worker.take(E.DRAIN_SENT)
                worker.deadline = self.now + GRACEFUL
                # Nobody is asked to go as long as he is needed.
                if self.phase is Phase.SERVING:
                    wanted = set(range(self.wanted))
                    assert self.ready_places() & wanted == before & wanted
                    assert self.ready_places() >= wanted
            case TakeOut(info):
                worker = self.worker(info)
                assert worker.stuck
                worker.take(E.SILENT)
                worker.deadline = self.now + GRACEFUL
            case Recover(info):
                worker = self.worker(info)
                assert not worker.stuck
                worker.take(E.RECOVERED)
            case Abandon(info):
                worker = self.worker(info)
                assert self.now >= worker.deadline
                if worker.state is S.STARTING:
                    self.note_failure(worker)
                worker.take(E.GIVEN_UP)
            case TurnOver():
                assert self.ready_places() >= set(range(self.wanted))
                self.asked_at = self.now
                self.turn_overs.append(self.now)

    def begin(self, place: int, replaces: WorkerInfo | None) -> None:
        assert place < self.wanted
        assert self.now >= self.troubles.get(place, Trouble()).retry_at
        here = [w for w in self.workers if w.info.index == place and w.state.staying]
        if replaces is None:
            assert not here
        else:
            # One recycle at a time, and nothing else on the way.
            assert [worker.info for worker in here] == [replaces]
            assert all(w.state is S.READY for w in self.workers if not w.state.ended)
        generation = self.generations[place] = self.generations.get(place, 0) + 1
        self.workers.append(Worker(WorkerInfo(place, generation, self.wanted), self.now))

    def worker(self, info: WorkerInfo) -> Worker:
        (found,) = [worker for worker in self.workers if worker.info == info]
        return found

    def ready_places(self) -> set[int]:
        return {worker.info.index for worker in self.workers if worker.state is S.READY}

    def ready(self) -> int:
        return len(self.ready_places())

    # ---- what always holds

    @invariant()
    def nobody_lives_in_a_server_that_has_ended(self) -> None:
        if self.exited and self.now < self.stop_by:
            live = {w.state for w in self.workers if not w.state.ended}
            assert live <= {S.STARTING}, "one that imports cannot be interrupted"

    @invariant()
    def each_place_is_filled_or_waits_for_its_next_attempt(self) -> None:
        if self.phase is not Phase.SERVING:
            return
        for place in range(self.wanted):
            staying = [w for w in self.workers if w.info.index == place and w.state.staying]
            assert staying or self.troubles[place].retry_at > self.now

    @invariant()
    def at_most_one_more_than_needed_at_a_place(self) -> None:
        for place in range(self.wanted):
            staying = [w for w in self.workers if w.info.index == place and w.state.staying]
            assert len(staying) <= 2

    @invariant()
    def one_that_hangs_is_not_kept(self) -> None:
        for worker in self.workers:
            if self.phase is Phase.SERVING:
                assert not (worker.state is S.READY and worker.silent >= HANG)

    @invariant()
    def nobody_outlives_his_deadline(self) -> None:
        for worker in self.workers:
            if self.phase is Phase.SERVING and not worker.state.ended:
                assert worker.deadline > self.now

    @invariant()
    def a_worker_is_ready_only_before_the_drain(self) -> None:
        assert self.phase is not Phase.DRAINING or not self.ready() or self.exited

    @invariant()
    def what_is_asked_to_stop_stops_at_once(self) -> None:
        assert not (self.stop_requested and self.phase is Phase.SERVING)

    @invariant()
    def it_stops_for_a_reason(self) -> None:
        if self.why is Why.ASKED:
            assert self.stop_requested
        if self.why is Why.CRASH_LOOP:
            assert all(trouble.failures for trouble in self.troubles.values())

    def teardown(self) -> None:
        """However it went: asked to stop, and given the time, it is gone."""
        if hasattr(self, "workers") and not self.exited:
            self.stop_requested = True
            self.act()
            self.time_passes_until_the_end()
            assert self.exited

    def time_passes_until_the_end(self) -> None:
        for _ in range(20):
            if self.exited:
                return
            self.now = max(
                self.now, min(self.stop_by, decide(self.snapshot(), self.now).wait_until)
            )
            self.act()


TestServer = Server.TestCase
TestServer.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
