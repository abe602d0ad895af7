"""What the coordinator does next, and which worker a connection goes to."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.identity import WorkerInfo
from subserve.lifecycle import Phase, WorkerState
from subserve.policy import (
    CRASH_LOOP_FAILURES,
    FEWEST_TO_ABANDON,
    LONGEST_BACKOFF,
    STABLE_SECONDS,
    STOP_FACTOR,
    TURN_OVER_INTERVAL,
    Abandon,
    Action,
    Decision,
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
    heartbeat_interval,
    least_loaded,
)

S = WorkerState
NOW = 1000.0
HANG = 30.0


def info(place: int, generation: int = 1) -> WorkerInfo:
    return WorkerInfo(place, generation, 2)


def member(place: int, state: WorkerState, generation: int = 1, **values: object) -> Member:
    return replace(Member(info(place, generation), state), **values)  # type: ignore[arg-type]


def fleet(phase: Phase, *members: Member, wanted: int = 2, **values: object) -> Fleet:
    return replace(Fleet(phase, wanted, members, hang_timeout=HANG), **values)  # type: ignore[arg-type]


def actions(phase: Phase, *members: Member, wanted: int = 2, **values: object) -> list[Action]:
    return list(decide(fleet(phase, *members, wanted=wanted, **values), NOW).actions)


def wait(phase: Phase, *members: Member, wanted: int = 2, **values: object) -> float:
    decision = decide(fleet(phase, *members, wanted=wanted, **values), NOW)
    assert not decision.actions
    return decision.wait_until


READY = member(0, S.READY), member(1, S.READY)


# ---- STARTING


def test_all_places_are_filled_at_once() -> None:
    assert actions(Phase.STARTING) == [Start(0), Start(1)]
    assert actions(Phase.STARTING, member(0, S.STARTING)) == [Start(1)]


def test_it_serves_when_all_are_ready() -> None:
    starting = member(1, S.STARTING, deadline=NOW + 5)
    assert wait(Phase.STARTING, READY[0], starting) == NOW + 5
    assert actions(Phase.STARTING, *READY) == [Serve()]


def test_a_failure_before_it_serves_stops_it() -> None:
    troubles = {1: Trouble(1, NOW)}
    assert actions(Phase.STARTING, READY[0], member(1, S.FAILED), troubles=troubles) == [
        Stop(Why.FAILED)
    ]
    assert actions(Phase.STARTING, READY[0], troubles=troubles) == [Stop(Why.FAILED)]


def test_a_start_that_takes_too_long() -> None:
    late = member(1, S.STARTING, deadline=NOW)
    assert actions(Phase.STARTING, READY[0], late) == [Stop(Why.OVERDUE)]


def test_a_stop_while_starting() -> None:
    assert actions(Phase.STARTING, *READY, stop_requested=True) == [Stop(Why.ASKED)]


# ---- SERVING: workers that fail


def test_serving() -> None:
    assert wait(Phase.SERVING, *READY) == math.inf
    assert actions(Phase.SERVING, *READY, stop_requested=True) == [Stop(Why.ASKED)]


def test_one_that_broke_is_replaced_at_once_and_later_not_so_soon() -> None:
    trouble = after_failure(Trouble(), NOW)
    assert actions(Phase.SERVING, READY[0], troubles={1: trouble}) == [Start(1)]
    trouble = after_failure(trouble, NOW)
    assert wait(Phase.SERVING, READY[0], troubles={1: trouble}) == trouble.retry_at > NOW


def test_pauses_grow_and_are_bounded() -> None:
    trouble, pauses = Trouble(), []
    for _ in range(10):
        trouble = after_failure(trouble, NOW)
        pauses.append(trouble.retry_at - NOW)
    assert pauses[:5] == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_BACKOFF


def test_one_that_has_served_well_is_forgiven() -> None:
    assert after_failure(Trouble(7, NOW), NOW, STABLE_SECONDS) == Trouble(1, NOW)
    assert after_failure(Trouble(7, NOW), NOW, STABLE_SECONDS - 1).failures == 8


def test_a_crash_loop_ends_the_server_once_nobody_serves() -> None:
    broken = {place: Trouble(CRASH_LOOP_FAILURES, NOW + 9) for place in (0, 1)}
    assert actions(Phase.SERVING, troubles=broken) == [Stop(Why.CRASH_LOOP)]
    assert actions(Phase.SERVING, READY[0], troubles=broken) == []
    fewer = {**broken, 1: Trouble(CRASH_LOOP_FAILURES - 1, NOW + 9)}
    assert actions(Phase.SERVING, troubles=fewer) == []


def test_a_replacement_that_is_not_ready_in_time_is_left_alone() -> None:
    late = member(1, S.STARTING, 2, deadline=NOW)
    assert actions(Phase.SERVING, READY[0], late) == [Abandon(late.info)]


# ---- SERVING: more and fewer


def test_more_are_wanted() -> None:
    assert actions(Phase.SERVING, *READY, wanted=4) == [Start(2), Start(3)]


def test_fewer_are_wanted() -> None:
    assert actions(Phase.SERVING, *READY, wanted=1) == [Drain(info(1))]


def test_nobody_is_let_go_while_another_place_is_empty() -> None:
    starting = member(0, S.STARTING, 2, deadline=NOW + 5)
    assert wait(Phase.SERVING, starting, READY[1], wanted=1) == NOW + 5


def test_one_that_is_not_wanted_any_more_is_let_go_when_it_has_started() -> None:
    starting = member(1, S.STARTING, deadline=NOW + 5)
    assert actions(Phase.SERVING, READY[0], starting, wanted=1) == []


# ---- SERVING: recycling

OLD = member(0, S.READY, requests_left=-1)


def test_the_replacement_is_ready_before_the_old_one_drains() -> None:
    assert actions(Phase.SERVING, OLD, READY[1]) == [Start(0, replaces=info(0))]
    starting = member(0, S.STARTING, 2, deadline=NOW + 5)
    assert actions(Phase.SERVING, OLD, READY[1], starting) == []
    assert actions(Phase.SERVING, OLD, READY[1], member(0, S.READY, 2)) == [Drain(info(0))]


def test_the_old_one_stays_while_another_place_is_empty() -> None:
    broken = member(1, S.STARTING, 2, deadline=NOW + 5)
    assert actions(Phase.SERVING, OLD, member(0, S.READY, 2), broken) == []


def test_one_at_a_time_the_longest_serving_first() -> None:
    younger = member(0, S.READY, requests_left=0, since=20.0)
    older = member(1, S.READY, retire_at=NOW, since=10.0)
    assert actions(Phase.SERVING, younger, older) == [Start(1, replaces=info(1))]
    draining = member(1, S.DRAINING, deadline=NOW + 5)
    assert actions(Phase.SERVING, younger, draining, member(1, S.READY, 2)) == []


def test_a_lifetime_is_waited_for() -> None:
    younger = member(0, S.READY, retire_at=NOW + 7)
    assert wait(Phase.SERVING, younger, READY[1]) == NOW + 7


def test_a_replacement_that_failed_is_tried_again_later() -> None:
    troubles = {0: Trouble(2, NOW + 1)}
    assert wait(Phase.SERVING, OLD, READY[1], troubles=troubles) == NOW + 1
    troubles = {0: Trouble(2, NOW)}
    assert actions(Phase.SERVING, OLD, READY[1], troubles=troubles) == [Start(0, info(0))]


def test_recycling_that_gives_nothing_back_ends() -> None:
    """The app's threads keep each interpreter open: a new process is the only way."""
    left = {"left_open": FEWEST_TO_ABANDON}
    (action,) = actions(Phase.SERVING, OLD, READY[1], **left)
    assert isinstance(action, TurnOver)
    assert "4 interpreters of ended workers could not be closed" in action.reason
    assert actions(Phase.SERVING, OLD, READY[1], asked_at=NOW, **left) == []


# ---- SERVING: hangs

HUNG = member(1, S.READY, silent=HANG)


def test_one_that_hangs_is_taken_out_then_replaced() -> None:
    assert actions(Phase.SERVING, READY[0], replace(HUNG, silent=HANG - 1)) == []
    assert actions(Phase.SERVING, READY[0], HUNG) == [TakeOut(info(1))]
    taken_out = replace(HUNG, state=S.HUNG, deadline=NOW + 5)
    assert actions(Phase.SERVING, READY[0], taken_out) == [Start(1)]


def test_one_that_comes_back_drains() -> None:
    back = member(1, S.HUNG, deadline=NOW + 5, silent=0.0)
    assert actions(Phase.SERVING, READY[0], back, member(1, S.READY, 2)) == [Recover(info(1))]


def test_one_that_does_not_is_abandoned_and_a_new_process_asked_for() -> None:
    lost = member(1, S.HUNG, deadline=NOW, silent=99.0, served=True)
    assert actions(Phase.SERVING, READY[0], lost) == [Abandon(info(1))]
    gone = replace(lost, state=S.ABANDONED)
    assert actions(Phase.SERVING, READY[0], gone) == [Start(1)]
    starting = member(1, S.STARTING, 2, deadline=NOW + 5)
    assert actions(Phase.SERVING, READY[0], gone, starting) == [], "the others first"
    (action,) = actions(Phase.SERVING, READY[0], gone, member(1, S.READY, 2))
    assert action == TurnOver("1 worker that would not end had to be abandoned")


def test_a_start_that_was_abandoned_is_no_reason_for_a_new_process() -> None:
    """It would not start there, either."""
    stuck = member(1, S.ABANDONED, 2)
    assert actions(Phase.SERVING, *READY, stuck) == []


def test_too_many_of_them_end_the_process() -> None:
    count = STOP_FACTOR * FEWEST_TO_ABANDON
    assert actions(Phase.SERVING, *READY, left_open=count) == [Stop(Why.TOO_MANY_ABANDONED)]


def test_hang_timeout_off() -> None:
    silent = member(1, S.READY, silent=1e9)
    assert actions(Phase.SERVING, READY[0], silent, hang_timeout=math.inf) == []


@pytest.mark.parametrize(("timeout", "interval"), [(0.0, 0.0), (1.0, 0.25), (30.0, 1.0)])
def test_heartbeats(timeout: float, interval: float) -> None:
    assert heartbeat_interval(timeout) == interval


# ---- SERVING: memory


def test_too_much_memory() -> None:
    large = {"over_memory": "resident memory is 2 GiB"}
    assert actions(Phase.SERVING, *READY, **large) == [TurnOver("resident memory is 2 GiB")]
    again = NOW + TURN_OVER_INTERVAL
    assert wait(Phase.SERVING, *READY, asked_at=NOW, **large) == again
    assert len(actions(Phase.SERVING, *READY, asked_at=NOW - TURN_OVER_INTERVAL, **large)) == 1


# ---- DRAINING


def drained(*states: WorkerState, stop_by: float = NOW + 1) -> Decision:
    members = [member(place, state, deadline=NOW + 9) for place, state in enumerate(states)]
    return decide(fleet(Phase.DRAINING, *members, stop_requested=True, stop_by=stop_by), NOW)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), [Exit()]),
        ((S.CLOSED, S.CLOSED), [Exit()]),
        ((S.CLOSED, S.ABANDONED), [Exit()]),
        ((S.FAILED, S.BROKEN), [Exit()]),
        ((S.CLOSED, S.DRAINING), []),
        ((S.HUNG, S.CLOSED), [Recover(info(0))]),
        ((S.READY, S.CLOSED), [Drain(info(0))]),
        # One that still imports cannot be interrupted, and has served nobody.
        ((S.STARTING, S.CLOSED), [Exit()]),
        ((S.STARTING, S.DRAINING), []),
    ],
)
def test_draining(states: tuple[WorkerState, ...], expected: list[Action]) -> None:
    assert list(drained(*states).actions) == expected


def test_a_drain_that_takes_too_long() -> None:
    assert list(drained(S.DRAINING, stop_by=NOW).actions) == [Exit()]


def test_nobody_is_started_any_more() -> None:
    assert wait(Phase.DRAINING, member(0, S.DRAINING, deadline=NOW + 9), stop_by=NOW + 1) == NOW + 1


# ---- least loaded

loads = st.lists(st.none() | st.tuples(st.integers(-1, 5), st.integers(0, 5)), max_size=8)


@pytest.mark.parametrize(
    ("given_loads", "turn", "place"),
    [
        ([], 0, None),
        ([None, None], 1, None),
        ([(0, 0)], 0, 0),
        ([(2, 0), (1, 9)], 0, 1),  # connections first
        ([(1, 2), (1, 1)], 0, 1),  # then requests in flight
        ([(0, 0), (0, 0), (0, 0)], 1, 1),
        ([(0, 0), None, (0, 0)], 1, 2),
        ([(0, 0), (1, 0), (1, 0)], 1, 0),
        ([(0, 0), (0, 0)], 7, 1),
    ],
)
def test_least_loaded(
    given_loads: list[tuple[int, int] | None], turn: int, place: int | None
) -> None:
    assert least_loaded(given_loads, turn) == place


@given(loads, st.integers(0, 8))
def test_no_worker_has_less_to_do(given_loads: list[tuple[int, int] | None], turn: int) -> None:
    place = least_loaded(given_loads, turn)
    able = [load for load in given_loads if load is not None]
    if place is None:
        assert not able
    else:
        assert given_loads[place] == min(able)


@given(st.integers(1, 8), st.integers(0, 7), st.integers(0, 50))
def test_equal_workers_are_taken_in_turn(count: int, turn: int, rounds: int) -> None:
    """With connections so short that nobody ever has one, nobody is chosen more often."""
    chosen: Counter[int] = Counter()
    for _ in range(count * rounds):
        place = least_loaded([(0, 0)] * count, turn % count)
        assert place is not None
        chosen[place] += 1
        turn = place + 1
    assert all(chosen[place] == rounds for place in range(count))


@given(st.integers(1, 8), st.lists(st.booleans(), max_size=60), st.randoms())
def test_open_connections_never_differ_by_more_than_one_while_none_close(
    count: int, new: list[bool], random: object
) -> None:
    connections, turn = [0] * count, 0
    for _ in new:
        place = least_loaded([(number, 0) for number in connections], turn)
        assert place is not None
        connections[place] += 1
        turn = (place + 1) % count
        assert max(connections) - min(connections) <= 1
