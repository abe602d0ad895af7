"""The states of a worker: which there are, and that nothing else can happen to one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.lifecycle import (
    PHASES,
    TRANSITIONS,
    Phase,
    WorkerEvent,
    WorkerState,
    advance,
    enter,
)

ALL = [(state, event) for state in WorkerState for event in WorkerEvent]


@pytest.mark.parametrize(("state", "event"), [row for row in ALL if row not in TRANSITIONS])
def test_what_is_not_in_the_table_raises(state: WorkerState, event: WorkerEvent) -> None:
    with pytest.raises(ValueError, match=f"a {state.name} worker cannot take {event.name}"):
        advance(state, event)


@pytest.mark.parametrize(("row", "after"), TRANSITIONS.items())
def test_what_is_in_the_table(row: tuple[WorkerState, WorkerEvent], after: WorkerState) -> None:
    assert advance(*row) is after


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[WorkerState.CLOSED, WorkerEvent.READY] = WorkerState.READY  # type: ignore[index]


def test_a_life_without_trouble() -> None:
    state = WorkerState.STARTING
    for event in (WorkerEvent.READY, WorkerEvent.DRAIN_SENT, WorkerEvent.CLOSED):
        assert not state.ended
        state = advance(state, event)
    assert state is WorkerState.CLOSED
    assert state.ended


@pytest.mark.parametrize("end", [state for state in WorkerState if state.ended])
def test_nothing_comes_after_an_end(end: WorkerState) -> None:
    later = {after for (state, _), after in TRANSITIONS.items() if state is end}
    if end is WorkerState.ABANDONED:  # its thread may come back and end after all
        assert all(state.ended for state in later)
    else:
        assert later <= {end}


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([WorkerEvent.RECOVERED, WorkerEvent.CLOSED], WorkerState.CLOSED),
        ([WorkerEvent.RECOVERED, WorkerEvent.GIVEN_UP], WorkerState.ABANDONED),
        ([WorkerEvent.CLOSED], WorkerState.CLOSED),
        ([WorkerEvent.GIVEN_UP], WorkerState.ABANDONED),
        ([WorkerEvent.GIVEN_UP, WorkerEvent.CLOSED], WorkerState.CLOSED),
        ([WorkerEvent.BROKE], WorkerState.BROKEN),
    ],
)
def test_one_that_hangs(events: list[WorkerEvent], end: WorkerState) -> None:
    state = WorkerState.STARTING
    for event in (WorkerEvent.READY, WorkerEvent.SILENT, *events):
        state = advance(state, event)
    assert state is end


def test_one_that_is_ready_after_it_was_given_up_serves_nobody() -> None:
    state = advance(WorkerState.STARTING, WorkerEvent.GIVEN_UP)
    assert advance(state, WorkerEvent.READY) is WorkerState.ABANDONED


@pytest.mark.parametrize("state", [state for state in WorkerState if not state.ended])
def test_a_worker_that_lives_can_always_break(state: WorkerState) -> None:
    assert advance(state, WorkerEvent.BROKE) is WorkerState.BROKEN


def test_a_worker_that_failed_stays_failed_however_its_thread_ends() -> None:
    for event in (WorkerEvent.CLOSED, WorkerEvent.THREADS_LEFT, WorkerEvent.BROKE):
        assert advance(WorkerState.FAILED, event) is WorkerState.FAILED


@given(st.lists(st.sampled_from(list(WorkerEvent)), max_size=8))
def test_a_life_that_was_not_drained_is_never_closed(events: list[WorkerEvent]) -> None:
    """CLOSED says that it ended as asked; so it must have been asked."""
    state, lived = WorkerState.STARTING, [WorkerState.STARTING]
    for event in events:
        try:
            state = advance(state, event)
        except ValueError:
            continue
        lived.append(state)
    asked_to_end = {WorkerState.DRAINING, WorkerState.HUNG, WorkerState.ABANDONED}
    if state is WorkerState.CLOSED:
        assert asked_to_end & set(lived)
    if WorkerState.READY in lived:
        assert WorkerState.FAILED not in lived


def test_every_state_can_be_reached() -> None:
    reached = {WorkerState.STARTING}
    for _ in WorkerState:
        reached |= {after for (state, _), after in TRANSITIONS.items() if state in reached}
    assert reached == set(WorkerState)


# ---- the server


@pytest.mark.parametrize("step", [(a, b) for a in Phase for b in Phase])
def test_phases(step: tuple[Phase, Phase]) -> None:
    if step in PHASES:
        assert enter(*step) is step[1]
    else:
        with pytest.raises(ValueError, match=f"{step[1].name} does not come after"):
            enter(*step)


def test_the_server_never_goes_back() -> None:
    order = [Phase.STARTING, Phase.SERVING, Phase.DRAINING]
    assert all(order.index(before) < order.index(after) for before, after in PHASES)
