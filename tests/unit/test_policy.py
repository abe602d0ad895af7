"""What the coordinator does next, and which worker a connection goes to."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from subserve.lifecycle import TRANSITIONS, WorkerEvent, WorkerState, advance
from subserve.policy import Action, Fleet, Phase, decide, least_loaded

S = WorkerState
NOW = 1000.0


def decided(
    phase: Phase, *workers: WorkerState, stop: bool = False, deadline: float | None = None
) -> Action:
    return decide(Fleet(phase, workers, stop, deadline), NOW)


# ---- STARTING


@pytest.mark.parametrize(
    ("workers", "action"),
    [
        ((S.READY,), Action.SERVE),
        ((S.READY, S.READY), Action.SERVE),
        ((S.STARTING, S.READY), Action.WAIT),
        ((S.STARTING, S.STARTING), Action.WAIT),
        ((S.READY, S.FAILED), Action.DRAIN),
        ((S.STARTING, S.FAILED), Action.DRAIN),
        ((S.READY, S.BROKEN), Action.DRAIN),
    ],
)
def test_starting(workers: tuple[WorkerState, ...], action: Action) -> None:
    assert decided(Phase.STARTING, *workers, deadline=NOW + 1) is action


def test_a_start_that_takes_too_long() -> None:
    assert decided(Phase.STARTING, S.STARTING, deadline=NOW) is Action.DRAIN
    assert decided(Phase.STARTING, S.STARTING, deadline=NOW + 0.001) is Action.WAIT


def test_a_stop_while_starting() -> None:
    assert decided(Phase.STARTING, S.READY, S.READY, stop=True) is Action.DRAIN


# ---- SERVING


@pytest.mark.parametrize("state", [S.BROKEN, S.FAILED])
def test_a_worker_that_broke_ends_the_service(state: WorkerState) -> None:
    assert decided(Phase.SERVING, S.READY, state) is Action.DRAIN


def test_serving() -> None:
    assert decided(Phase.SERVING, S.READY, S.READY) is Action.WAIT
    assert decided(Phase.SERVING, S.READY, S.READY, stop=True) is Action.DRAIN


# ---- DRAINING


@pytest.mark.parametrize(
    ("workers", "action"),
    [
        ((S.CLOSED, S.CLOSED), Action.EXIT),
        ((S.CLOSED, S.ABANDONED), Action.EXIT),
        ((S.FAILED, S.BROKEN), Action.EXIT),
        ((S.CLOSED, S.DRAINING), Action.WAIT),
        ((S.READY, S.CLOSED), Action.WAIT),
        # One that still imports cannot be interrupted, and has served nobody.
        ((S.STARTING, S.CLOSED), Action.EXIT),
    ],
)
def test_draining(workers: tuple[WorkerState, ...], action: Action) -> None:
    assert decided(Phase.DRAINING, *workers, stop=True, deadline=NOW + 1) is action


def test_a_drain_that_takes_too_long() -> None:
    assert decided(Phase.DRAINING, S.DRAINING, deadline=NOW) is Action.EXIT


# ---- any server


class Server(RuleBasedStateMachine):
    """A coordinator without sockets: it takes what its workers report and does as is decided."""

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        self.now = 0.0
        self.phase = Phase.STARTING
        self.deadline: float | None = 60.0
        self.workers = [S.STARTING] * count
        self.stop = False
        self.done: list[Action] = []
        self.exited = False

    @precondition(lambda self: not self.exited)
    @rule(place=st.integers(0, 3), event=st.sampled_from(list(WorkerEvent)))
    def something_happens_to_a_worker(self, place: int, event: WorkerEvent) -> None:
        place %= len(self.workers)
        # DRAIN_SENT is the coordinator's own doing.
        if event is WorkerEvent.DRAIN_SENT or (self.workers[place], event) not in TRANSITIONS:
            return
        self.workers[place] = advance(self.workers[place], event)
        if self.workers[place] is S.READY and self.phase is Phase.DRAINING:
            self.workers[place] = advance(S.READY, WorkerEvent.DRAIN_SENT)
        self.act()

    @precondition(lambda self: not self.exited)
    @rule()
    def a_signal_arrives(self) -> None:
        self.stop = True
        self.act()

    @rule(seconds=st.floats(0.0, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if not self.exited:
            self.act()

    def act(self) -> None:
        for _ in range(10):
            action = decide(Fleet(self.phase, self.workers, self.stop, self.deadline), self.now)
            if action is Action.WAIT:
                return
            self.done.append(action)
            match action:
                case Action.SERVE:
                    assert all(state is S.READY for state in self.workers)
                    self.phase, self.deadline = Phase.SERVING, None
                case Action.DRAIN:
                    self.phase, self.deadline = Phase.DRAINING, self.now + 30.0
                    self.workers = [
                        S.DRAINING if state is S.READY else state for state in self.workers
                    ]
                case Action.EXIT:
                    self.exited = True
                    return
        raise AssertionError(f"it never waits: {self.done}")

    @invariant()
    def each_step_is_taken_once_and_in_order(self) -> None:
        order = [Action.SERVE, Action.DRAIN, Action.EXIT]
        places = [order.index(action) for action in self.done]
        assert places == sorted(set(places))

    @invariant()
    def it_never_exits_without_a_drain(self) -> None:
        assert Action.EXIT not in self.done or Action.DRAIN in self.done

    @invariant()
    def a_worker_is_ready_only_before_the_drain(self) -> None:
        assert self.phase is not Phase.DRAINING or S.READY not in self.workers

    @invariant()
    def what_is_asked_to_stop_stops_serving_at_once(self) -> None:
        assert not (self.stop and self.phase is Phase.SERVING)

    def teardown(self) -> None:
        """However it went: asked to stop, and given the time, it is gone."""
        if hasattr(self, "workers") and not self.exited:
            self.stop = True
            self.act()
            self.now += 30.0
            self.act()
            assert self.exited


TestServer = Server.TestCase


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
