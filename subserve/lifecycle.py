"""The states of a worker and of the server, and the only ways from one to the next.

::

    STARTING ---> READY -----> DRAINING ---> CLOSED
     |    |       |   |          ^  | |         ^
     |    |       |   +-> HUNG --+  | |         | (it ends after all)
     |    |       |        |        | |         |
     |    +-------|--------+--------+-|--> ABANDONED
     v            v        v          |
    FAILED      BROKEN <--------------+
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType


class WorkerState(Enum):
    """Where a worker is in its life; the last four are ends."""

    STARTING = auto()
    """Its interpreter is made, the app imported, lifespan startup run."""
    READY = auto()
    """It is handed connections."""
    HUNG = auto()
    """Its event loop has missed its heartbeat for too long.  It is handed no more connections and
    told to drain, which it does should its loop come back."""
    DRAINING = auto()
    """It is handed no more connections and finishes those it has."""
    CLOSED = auto()
    """It ended as asked and its interpreter is closed."""
    ABANDONED = auto()
    """It was asked to end, but a thread lives on in its interpreter, which is left as it is:
    closing it would crash the process (CPython gh-127041 and others).  That thread may be the
    worker's own, stuck in the app; it may come back yet, and the worker ends then."""
    FAILED = auto()
    """The app could not be imported or started."""
    BROKEN = auto()
    """It ended without being asked to."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing of the worker to wait for any more."""
        return self not in _LIVE

    @property
    def staying(self) -> bool:
        """Whether the worker is there to serve, now or as soon as it has started."""
        return self in {WorkerState.STARTING, WorkerState.READY}


_LIVE = frozenset({WorkerState.STARTING, WorkerState.READY, WorkerState.HUNG, WorkerState.DRAINING})


class WorkerEvent(Enum):
    """What happens to a worker."""

    READY = auto()
    FAILED = auto()
    SILENT = auto()
    """Its loop has missed its heartbeat for the hang timeout."""
    RECOVERED = auto()
    """Its loop has come back."""
    DRAIN_SENT = auto()
    GIVEN_UP = auto()
    """It was not ready, or not gone, by its deadline."""
    CLOSED = auto()
    THREADS_LEFT = auto()
    BROKE = auto()


_S, _E = WorkerState, WorkerEvent

TRANSITIONS: Mapping[tuple[WorkerState, WorkerEvent], WorkerState] = MappingProxyType(
    {
        (_S.STARTING, _E.READY): _S.READY,
        (_S.STARTING, _E.FAILED): _S.FAILED,
        (_S.STARTING, _E.BROKE): _S.BROKEN,
        (_S.STARTING, _E.GIVEN_UP): _S.ABANDONED,
        (_S.READY, _E.DRAIN_SENT): _S.DRAINING,
        (_S.READY, _E.SILENT): _S.HUNG,
        (_S.READY, _E.BROKE): _S.BROKEN,
        (_S.HUNG, _E.RECOVERED): _S.DRAINING,
        (_S.HUNG, _E.GIVEN_UP): _S.ABANDONED,
        # Back and gone before anybody has seen its heart beat again.
        (_S.HUNG, _E.CLOSED): _S.CLOSED,
        (_S.HUNG, _E.THREADS_LEFT): _S.ABANDONED,
        (_S.HUNG, _E.BROKE): _S.BROKEN,
        (_S.DRAINING, _E.CLOSED): _S.CLOSED,
        (_S.DRAINING, _E.THREADS_LEFT): _S.ABANDONED,
        (_S.DRAINING, _E.GIVEN_UP): _S.ABANDONED,
        (_S.DRAINING, _E.BROKE): _S.BROKEN,
        # One that was given up and comes back does what it was told to, too late to count.
        (_S.ABANDONED, _E.READY): _S.ABANDONED,
        (_S.ABANDONED, _E.FAILED): _S.ABANDONED,
        (_S.ABANDONED, _E.CLOSED): _S.CLOSED,
        (_S.ABANDONED, _E.THREADS_LEFT): _S.ABANDONED,
        (_S.ABANDONED, _E.BROKE): _S.BROKEN,
        # A worker that failed still closes its interpreter, or cannot; it stays FAILED.
        (_S.FAILED, _E.CLOSED): _S.FAILED,
        (_S.FAILED, _E.THREADS_LEFT): _S.FAILED,
        (_S.FAILED, _E.BROKE): _S.FAILED,
    }
)


def advance(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """Return the state after `event`; raise `ValueError` where the table has no such row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a {state.name} worker cannot take {event.name}") from None


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = auto()
    """The first workers start; nothing is accepted yet."""
    SERVING = auto()
    DRAINING = auto()
    """The listeners are closed, the workers finish."""


PHASES = frozenset(
    {
        (Phase.STARTING, Phase.SERVING),
        (Phase.STARTING, Phase.DRAINING),
        (Phase.SERVING, Phase.DRAINING),
    }
)
"""The steps there are; the process ends after the last."""


def enter(phase: Phase, following: Phase) -> Phase:
    """Return `following`; raise `ValueError` where it does not come after `phase`."""
    if (phase, following) not in PHASES:
        raise ValueError(f"{following.name} does not come after {phase.name}")
    return following
