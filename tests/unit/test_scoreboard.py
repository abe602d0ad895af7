"""Counters that interpreters share: one block of memory, opened twice by its descriptor."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.scoreboard import FIELD_BYTES, LINE_BYTES, ROW_BYTES, Counter, Scoreboard


def test_all_counters_begin_at_0() -> None:
    board = Scoreboard.create(3)
    counts = [board.row(number)[counter] for number in range(3) for counter in Counter]
    assert set(counts) == {0}
    board.close()


def test_rows_are_lent_and_come_back_empty() -> None:
    board = Scoreboard.create(2)
    numbers = [board.lend(), board.lend()]
    assert sorted(numbers) == [0, 1]
    for counter in Counter:
        board.row(numbers[0]).add(counter, 7)
    board.take_back(numbers[0])
    assert board.lend() == numbers[0]
    assert {board.row(numbers[0])[counter] for counter in Counter} == {0}
    board.close()


def test_the_block_grows_under_those_who_use_it() -> None:
    """A worker that was started before counts on, seen from the larger mapping."""
    board = Scoreboard.create(1)
    first = board.lend()
    worker = Scoreboard(board.fd, first + 1).row(first)
    ours = board.row(first)
    more = [board.lend() for _ in range(9)]
    assert len({first, *more}) == 10
    worker.add(Counter.LOOP_BEATS)
    assert ours[Counter.LOOP_BEATS] == board.row(first)[Counter.LOOP_BEATS] == 1
    late = Scoreboard(board.fd, more[-1] + 1).row(more[-1])
    late.add(Counter.REQUESTS_STARTED)
    assert board.row(more[-1]).requests == 1
    assert {board.row(number).requests for number in [first, *more[:-1]]} == {0}
    board.close()


def test_a_mapping_takes_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    board = Scoreboard.create(1)
    workers = [Scoreboard(board.fd, 1) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(workers) == 5
    board.close()


def test_what_one_side_counts_the_other_sees() -> None:
    board = Scoreboard.create(2)
    other = Scoreboard(board.fd, 2)
    board.row(1).add(Counter.CONNECTIONS_ASSIGNED)
    board.row(1).add(Counter.CONNECTIONS_ASSIGNED)
    other.row(1).add(Counter.CONNECTIONS_CLOSED)
    other.row(1).add(Counter.REQUESTS_STARTED)
    for side in (board, other):
        assert (side.row(1).connections, side.row(1).requests) == (1, 1)
        assert (side.row(0).connections, side.row(0).requests) == (0, 0)
    other.row(1).add(Counter.REQUESTS_FINISHED)
    assert board.row(1).requests == 0
    board.close()


def test_a_row_outlives_the_descriptor() -> None:
    board = Scoreboard.create(1)
    row = board.row(0)
    board.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(board.fd)
    row.add(Counter.REQUESTS_STARTED)
    assert row.requests == 1


def test_rows_do_not_share_cache_lines() -> None:
    """Nor do the fields of the two writers of a row."""
    assert ROW_BYTES % LINE_BYTES == 0
    offsets = {counter: counter * FIELD_BYTES for counter in Counter}
    ours = offsets.pop(Counter.CONNECTIONS_ASSIGNED)
    assert {offset // LINE_BYTES for offset in offsets.values()} == {1}
    assert ours // LINE_BYTES == 0
    assert max(offsets.values()) + FIELD_BYTES <= ROW_BYTES


def test_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the platform has none, as macOS.
    monkeypatch.delattr(os, "memfd_create")
    board = Scoreboard.create(2)
    other = Scoreboard(board.fd, 2)
    board.row(1).add(Counter.REQUESTS_STARTED)
    assert other.row(1).requests == 1
    board.close()


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(list(Counter))), max_size=50))
def test_every_count_is_its_own(adds: list[tuple[int, Counter]]) -> None:
    board = Scoreboard.create(4)
    for index, counter in adds:
        board.row(index).add(counter)
    for index in range(4):
        for counter in Counter:
            assert board.row(index)[counter] == adds.count((index, counter))
    board.close()
