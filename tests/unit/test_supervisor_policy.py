"""What the supervisor does next: rows of the table, and random lives under a clock of their own."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from subserve.supervisor import policy
from subserve.supervisor.lifecycle import TRANSITIONS, ProcessEvent, ProcessState, advance
from subserve.supervisor.plan import Plan
from subserve.supervisor.policy import Phase, Process, Snapshot, decide, wake_at

S = ProcessState
NOW = 1000.0


def snapshot(*processes: Process, **fields: object) -> Snapshot:
    defaults: dict[str, object] = {
        "phase": Phase.SERVING,
        "wanted": (1,),
        "good": (1,),
        "crash_limit": 10,
    }
    return Snapshot(processes=processes, **(defaults | fields))  # type: ignore[arg-type]


def process(
    number: int, state: ProcessState = S.READY, *, place: int = 0, epoch: int = 1
) -> Process:
    return Process(number, place, epoch, state)


# ---- the states


def test_what_is_not_listed_raises() -> None:
    for state in ProcessState:
        for event in ProcessEvent:
            if (state, event) in TRANSITIONS:
                assert advance(state, event) is TRANSITIONS[state, event]
            else:
                with pytest.raises(ValueError, match=f"a {state.name} serving process cannot"):
                    advance(state, event)


def test_nothing_leads_out_of_an_end() -> None:
    assert {state for state, _ in TRANSITIONS} == {state for state in S if not state.ended}


# ---- starting


def test_the_first_start() -> None:
    begin = snapshot(phase=Phase.STARTING, wanted=(1, 1), good=())
    assert decide(begin, NOW) == [policy.Start(0, 1), policy.Start(1, 1)]
    half = snapshot(
        process(1), process(2, S.STARTING, place=1), phase=Phase.STARTING, wanted=(1, 1), good=()
    )
    assert decide(half, NOW) == []
    whole = snapshot(process(1), process(2, place=1), phase=Phase.STARTING, wanted=(1, 1), good=())
    assert decide(whole, NOW) == [policy.Settle()]


def test_a_first_start_that_fails_is_not_tried_again() -> None:
    failed = snapshot(phase=Phase.STARTING, good=(), failed=True)
    assert decide(failed, NOW) == [policy.Stop(crash_loop=False)]


def test_a_first_start_that_fails_while_the_code_is_watched() -> None:
    """The next change may mend it."""
    failed = snapshot(phase=Phase.STARTING, good=(), failed=True, reloading=True)
    assert decide(failed, NOW) == [policy.Hold()]
    held = snapshot(phase=Phase.STARTING, good=(), reloading=True, held=True)
    assert decide(held, NOW) == []
    assert wake_at(held, NOW) is None


# ---- crashes


@pytest.mark.parametrize(
    ("crashes", "delay"),
    [
        ([], 0.0),
        ([NOW], 0.0),
        ([NOW - 61.0, NOW], 0.0),
        ([NOW - 1.0, NOW], 0.1),
        ([NOW - 2.0, NOW - 1.0, NOW], 0.2),
        ([NOW - n for n in range(8, -1, -1)], 2.0),
    ],
)
def test_back_off(crashes: list[float], delay: float) -> None:
    empty = snapshot(crashes=crashes)
    if delay:
        assert decide(empty, NOW) == []
        assert wake_at(empty, NOW) == pytest.approx(NOW + delay)
    assert decide(empty, NOW + delay) == [policy.Start(0, 1)]


@pytest.mark.parametrize(
    ("reloading", "action"), [(False, policy.Stop(crash_loop=True)), (True, policy.Hold())]
)
def test_a_crash_loop(reloading: bool, action: policy.Action) -> None:
    crashes = [NOW - 3.0, NOW - 2.0, NOW]
    assert decide(snapshot(crashes=crashes, crash_limit=3, reloading=reloading), NOW) == [action]
    assert decide(snapshot(crashes=crashes, crash_limit=4), NOW) == []


# ---- turn-overs


def test_the_old_serves_until_all_new_ones_are_ready() -> None:
    old = [process(1), process(2, place=1)]
    new = [process(3, epoch=2), process(4, S.STARTING, place=1, epoch=2)]
    turning = {"wanted": (2, 2), "good": (1, 1)}
    assert decide(snapshot(*old, **turning), NOW) == [policy.Start(0, 2), policy.Start(1, 2)]
    assert decide(snapshot(*old, *new, **turning), NOW) == []
    new[1] = process(4, place=1, epoch=2)
    assert decide(snapshot(*old, *new, **turning), NOW) == [
        policy.Settle(),
        policy.Retire(1),
        policy.Retire(2),
    ]


def test_back_off_does_not_hold_up_new_code() -> None:
    crashing = snapshot(wanted=(2,), good=(1,), crashes=[NOW, NOW, NOW])
    assert decide(crashing, NOW) == [policy.Start(0, 2)]


def test_newer_code_while_new_code_starts() -> None:
    """What has not served yet, and is outdated, is not waited for."""
    fleet = [process(1), process(2, S.STARTING, epoch=2)]
    actions = decide(snapshot(*fleet, wanted=(3,), good=(1,)), NOW)
    assert actions == [policy.Retire(2), policy.Start(0, 3)]


def test_new_code_that_does_not_start() -> None:
    turning = {"wanted": (2, 2), "good": (1, 1)}
    old = [process(1), process(2, place=1)]
    assert decide(snapshot(*old, failed=True, **turning), NOW) == [policy.GiveUp()]
    # Then the ones that did start go.
    given_up = snapshot(*old, process(3, epoch=2), wanted=(1, 1), good=(1, 1))
    assert decide(given_up, NOW) == [policy.Retire(3)]


def test_fewer_processes() -> None:
    fleet = [process(1), process(2, place=1), process(3, epoch=2)]
    actions = decide(snapshot(*fleet, wanted=(2,), good=(1, 1)), NOW)
    assert actions == [policy.Settle(), policy.Retire(1), policy.Retire(2)]


def test_one_that_asks_to_be_replaced() -> None:
    asking = snapshot(process(1), asking=frozenset({0}))
    assert decide(asking, NOW) == [policy.Replace(frozenset({0}))]
    later = snapshot(process(1), asking=frozenset({0}), leave_alone_until=NOW + 5.0)
    assert decide(later, NOW) == []
    assert wake_at(later, NOW) == NOW + 5.0
    during = snapshot(
        process(1), process(2, S.STARTING, epoch=2), wanted=(2,), asking=frozenset({0})
    )
    assert decide(during, NOW) == []


# ---- the end


def test_stopping() -> None:
    fleet = [process(1), process(2, S.STARTING), process(3, S.RETIRING)]
    assert decide(snapshot(*fleet, phase=Phase.STOPPING), NOW) == [
        policy.Retire(1),
        policy.Retire(2),
    ]
    assert decide(snapshot(phase=Phase.STOPPING), NOW) == [policy.Exit()]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("state", [S.STARTING, S.RETIRING])
def test_who_is_overdue_is_killed(phase: Phase, state: ProcessState) -> None:
    late = Process(1, 0, 1, state, deadline=NOW)
    assert policy.Kill(1) in decide(snapshot(late, phase=phase), NOW)
    soon = Process(1, 0, 1, state, deadline=NOW + 1.0)
    assert policy.Kill(1) not in decide(snapshot(soon, phase=phase), NOW)
    assert wake_at(snapshot(soon, phase=phase), NOW) == NOW + 1.0


# ---- the memory


def started(places: int = 1, **options: int) -> tuple[Plan, list[int]]:
    plan = Plan(places, crash_limit=options.get("crash_limit", 10))
    numbers = [plan.started(place, 1, NOW + 60.0) for place in range(places)]
    for number in numbers:
        plan.ready(number)
    plan.settled()
    return plan, numbers


@pytest.mark.parametrize(("code", "exit_code"), [(3, 3), (2, 2), (-11, 3), (0, 0)])
def test_the_exit_code_of_a_start_that_failed(code: int, exit_code: int) -> None:
    plan = Plan(1, crash_limit=10)
    assert plan.ended(plan.started(0, 1, NOW), code, NOW) is S.FAILED
    plan.stop()
    assert plan.exit_code == (exit_code or 3)


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (1, 1), (3, 3), (-9, 1)])
def test_the_exit_code_of_a_stop(code: int, exit_code: int) -> None:
    plan, (number,) = started()
    plan.stop()
    plan.told_to_end(number, NOW + 30.0)
    assert plan.ended(number, code, NOW) is S.CLOSED
    assert plan.exit_code == exit_code


def test_a_crash_of_an_outdated_process_is_no_crash_of_the_new() -> None:
    plan, (number,) = started()
    plan.turn_over(1)
    assert plan.ended(number, -11, NOW) is S.CRASHED
    assert plan.snapshot().crashes == ()
    assert not plan.snapshot().failed


def test_a_crash_before_the_turn_over_is_complete_fails_it() -> None:
    plan, _ = started(2)
    epoch = plan.turn_over(2)
    new = plan.started(0, epoch, NOW)
    plan.ready(new)
    assert plan.ended(new, -11, NOW) is S.CRASHED
    assert plan.snapshot().failed
    plan.given_up(NOW)
    assert plan.wanted == (1, 1)
    assert plan.snapshot().leave_alone_until == NOW + policy.TURN_OVER_PAUSE


def test_a_hurry_makes_a_deadline_earlier_and_never_later() -> None:
    plan, (number,) = started()
    plan.told_to_end(number, NOW + 30.0)
    plan.told_to_end(number, NOW + 2.0)
    plan.told_to_end(number, NOW + 60.0)
    assert plan.process(number).deadline == NOW + 2.0


# ---- random lives


class Lives(RuleBasedStateMachine):
    """The plan and the policy with processes that do as they like, and a clock.

    `actual` are the processes that there are: number -> (place, epoch, ready, told, killed).
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.plan = Plan(2, crash_limit=4)
        self.actual: dict[int, dict[str, bool]] = {}
        self.over = False
        self.stopped = False
        self.served_once = False
        self.proven: set[int] = set()
        self.settle()

    def settle(self) -> None:
        """Do what the policy wants until it wants nothing; it must come to rest."""
        for _ in range(30):
            actions = decide(self.plan.snapshot(), self.now)
            if not actions:
                moment = wake_at(self.plan.snapshot(), self.now)
                assert moment is None or moment > self.now
                return
            for action in actions:
                self.do(action)
            if self.over:
                return
        raise AssertionError(f"it never comes to rest: {self.plan.snapshot()}")

    def do(self, action: policy.Action) -> None:
        match action:
            case policy.Start(place, epoch):
                assert not self.stopped, "started after the stop"
                number = self.plan.started(place, epoch, self.now + 60.0)
                self.actual[number] = {"ready": False, "told": False, "killed": False}
            case policy.Retire(number):
                assert not self.actual[number]["told"], "told twice"
                self.actual[number]["told"] = True
                good = self.plan.process(number).epoch in self.proven
                if good and self.actual[number]["ready"] and not self.stopped:
                    assert self.all_are_served(), "nobody good goes before its successor is ready"
                self.plan.told_to_end(number, self.now + 30.0)
            case policy.Kill(number):
                self.actual[number]["killed"] = True
                self.plan.killed(number)
            case policy.Settle():
                self.plan.settled()
                self.served_once = True
                self.proven |= set(self.plan.wanted)
            case policy.GiveUp():
                self.plan.given_up(self.now)
            case policy.Replace(places):
                self.plan.turn_over(len(self.plan.wanted), places)
            case policy.Stop(crash_loop):
                assert crash_loop or not self.served_once
                self.plan.stop(1 if crash_loop else None)
                assert self.plan.exit_code != 0
                self.stopped = True
            case policy.Exit():
                assert not self.actual, "left somebody behind"
                self.over = True
            case _:
                raise AssertionError(action)

    def all_are_served(self) -> bool:
        fleet = self.plan.snapshot()
        ready = {(p.place, p.epoch) for p in fleet.processes if self.actual[p.number]["ready"]}
        return ready >= set(enumerate(fleet.wanted))

    def choose(self, data: st.DataObject, **wanted: bool) -> int | None:
        fitting = [
            number
            for number, actual in self.actual.items()
            if all(actual[name] is value for name, value in wanted.items())
        ]
        return data.draw(st.sampled_from(fitting)) if fitting else None

    @precondition(lambda self: not self.over)
    @rule(data=st.data())
    def gets_ready(self, data: st.DataObject) -> None:
        if (number := self.choose(data, ready=False)) is not None:
            self.actual[number]["ready"] = True
            self.plan.ready(number)
            self.settle()

    @precondition(lambda self: not self.over)
    @rule(data=st.data(), code=st.sampled_from([0, 1, 3, -9, -11]))
    def ends(self, data: st.DataObject, code: int) -> None:
        if (number := self.choose(data)) is not None:
            actual = self.actual.pop(number)
            state = self.plan.ended(number, code, self.now)
            told = actual["told"]
            assert (state is S.CLOSED) == told
            self.settle()

    @precondition(lambda self: not self.over)
    @rule(data=st.data())
    def drains(self, data: st.DataObject) -> None:
        if (number := self.choose(data, told=True)) is not None:
            del self.actual[number]
            self.plan.ended(number, 0, self.now)
            self.settle()

    @precondition(lambda self: not self.over and not self.stopped)
    @rule(places=st.integers(1, 3))
    def hup(self, places: int) -> None:
        self.plan.turn_over(places)
        self.settle()

    @precondition(lambda self: not self.over)
    @rule(data=st.data())
    def asks(self, data: st.DataObject) -> None:
        if (number := self.choose(data, ready=True)) is not None:
            self.plan.asks(number)
            self.settle()

    @precondition(lambda self: not self.over)
    @rule()
    def stop(self) -> None:
        self.plan.stop()
        self.stopped = True
        self.settle()

    @rule(seconds=st.floats(0.01, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if not self.over:
            self.settle()

    @invariant()
    def each_place_is_seen_to(self) -> None:
        """Somebody serves or is about to, unless the server stops or waits for its back-off."""
        if self.over or self.stopped:
            return
        fleet = self.plan.snapshot()
        for place, epoch in enumerate(fleet.wanted):
            if not any(p.place == place and p.epoch == epoch for p in fleet.processes):
                assert wake_at(fleet, self.now) is not None

    @invariant()
    def who_was_told_to_end_has_a_deadline_or_was_killed(self) -> None:
        for number, actual in self.actual.items():
            if actual["told"] and not actual["killed"]:
                assert self.plan.process(number).deadline is not None


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
