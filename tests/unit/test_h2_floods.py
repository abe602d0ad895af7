"""The budgets of an HTTP/2 connection: frames and times in, a verdict out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.h2.floods import (
    ALLOWED,
    CONTINUATION,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    FrameBudget,
    Kind,
    kind_of,
)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ((HEADERS, 0, 0, 0), None),
        ((DATA, 0, 1, 0), None),
        ((DATA, 0, 0, 0), Kind.EMPTY),
        ((DATA, END_STREAM, 0, 0), None),
        ((DATA, PADDED, 6, 5), Kind.EMPTY),
        ((DATA, PADDED | END_STREAM, 6, 5), None),
        ((DATA, PADDED, 7, 5), None),
        ((CONTINUATION, 0, 0, 0), Kind.EMPTY),
        ((CONTINUATION, 0, 1, 0), None),
        ((PRIORITY, 0, 5, 0), Kind.PRIORITY),
        ((PRIORITY_UPDATE, 0, 7, 0), Kind.PRIORITY),
        ((RST_STREAM, 0, 4, 0), Kind.RESET),
        ((SETTINGS, 0, 6, 0), Kind.SETTINGS),
        ((PUSH_PROMISE, 0, 6, 0), None),
        ((PING, 0, 8, 0), Kind.PING),
        ((GOAWAY, 0, 8, 0), Kind.OTHER),
        ((WINDOW_UPDATE, 0, 4, 0), Kind.WINDOW_UPDATE),
        ((0xBE, 0, 100, 0), Kind.OTHER),
    ],
)
def test_what_a_frame_counts_as(frame: tuple[int, int, int, int], expected: Kind | None) -> None:
    assert kind_of(*frame) is expected


@pytest.mark.parametrize("kind", Kind)
def test_the_burst_and_no_more(kind: Kind) -> None:
    budget = FrameBudget(100.0)
    assert all(budget.spend(kind, 100.0) for _ in range(ALLOWED[kind].burst))
    assert not budget.spend(kind, 100.0)


@pytest.mark.parametrize("kind", Kind)
def test_the_rate_for_long(kind: Kind) -> None:
    budget = FrameBudget(0.0)
    assert budget.spend(kind, 0.0, ALLOWED[kind].burst)
    interval = 1 / ALLOWED[kind].per_second
    for number in range(1, 1000):
        assert budget.spend(kind, number * interval * 1.001)
    assert not budget.spend(kind, 1000 * interval * 1.001, 5)


def test_kinds_have_budgets_of_their_own() -> None:
    budget = FrameBudget(0.0)
    while budget.spend(Kind.PING, 0.0):
        pass
    assert all(budget.spend(kind, 0.0) for kind in Kind if kind is not Kind.PING)


def test_what_was_earned_can_be_spent_up_to_the_burst() -> None:
    budget = FrameBudget(0.0)
    burst = ALLOWED[Kind.PRIORITY].burst
    assert budget.spend(Kind.PRIORITY, 0.0, burst)
    budget.earn(Kind.PRIORITY, 2)
    assert budget.spend(Kind.PRIORITY, 0.0, 2)
    assert not budget.spend(Kind.PRIORITY, 0.0)
    budget.earn(Kind.PRIORITY, 10 * burst)
    assert budget.spend(Kind.PRIORITY, 0.0, burst)
    assert not budget.spend(Kind.PRIORITY, 0.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Kind)), st.floats(0, 5), st.integers(1, 50)), max_size=100
    )
)
def test_nobody_gets_more_than_burst_and_rate(steps: list[tuple[Kind, float, int]]) -> None:
    """Whatever comes when: what was let through is never more than the bucket could hold."""
    budget, now = FrameBudget(0.0), 0.0
    allowed = dict.fromkeys(Kind, 0)
    for kind, pause, count in steps:
        now += pause
        if budget.spend(kind, now, count):
            allowed[kind] += count
        limit = ALLOWED[kind].burst + ALLOWED[kind].per_second * now
        assert allowed[kind] <= limit + 1e-6
