"""What the coordinator is to do next, decided from values alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from subserve.lifecycle import WorkerState


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()


class Action(Enum):
    """The next step."""

    WAIT = auto()
    SERVE = auto()
    """All workers are ready: print the banner and accept."""
    DRAIN = auto()
    """Close the listeners and let the workers finish."""
    EXIT = auto()
    """Nothing is left to wait for."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A snapshot of all there is to decide on.

    `deadline` is the moment, on the monotonic clock in seconds, at which the phase has to be over;
    None where it has no end of its own.
    """

    phase: Phase
    workers: Sequence[WorkerState]
    stop_requested: bool
    deadline: float | None


def decide(fleet: Fleet, now: float) -> Action:
    """Return the one thing to do now."""
    overdue = fleet.deadline is not None and now >= fleet.deadline
    broken = any(state in {WorkerState.BROKEN, WorkerState.FAILED} for state in fleet.workers)
    match fleet.phase:
        case Phase.STARTING:
            if fleet.stop_requested or broken or overdue:
                return Action.DRAIN
            ready = all(state is WorkerState.READY for state in fleet.workers)
            return Action.SERVE if ready else Action.WAIT
        case Phase.SERVING:
            return Action.DRAIN if fleet.stop_requested or broken else Action.WAIT
        case Phase.DRAINING:
            # One that still imports cannot be interrupted, and has served nobody: leave it.
            done = all(state.ended or state is WorkerState.STARTING for state in fleet.workers)
            return Action.EXIT if done or overdue else Action.WAIT


def least_loaded(loads: Sequence[tuple[int, int] | None], turn: int) -> int | None:
    """Return the place of the smallest load, None where no place can take a connection.

    A load is (open connections, requests in flight), None for a worker that takes none.  Equal
    loads are taken in turn: `turn` is the place after the one chosen last.
    """
    count = len(loads)
    best: tuple[tuple[int, int], int] | None = None
    for step in range(count):
        place = (turn + step) % count
        load = loads[place]
        if load is not None and (best is None or load < best[0]):
            best = (load, place)
    return None if best is None else best[1]
