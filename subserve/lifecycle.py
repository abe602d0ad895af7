"""The states of a worker, and the only ways from one to the next.

::

    STARTING -> READY -> DRAINING -> CLOSED
       |          |          |
       v          v          +----> ABANDONED
     FAILED     BROKEN <-----+
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
    DRAINING = auto()
    """It is handed no more connections and finishes those it has."""
    CLOSED = auto()
    """It ended as asked and its interpreter is closed."""
    ABANDONED = auto()
    """It ended as asked, but a thread lives on in its interpreter, which is left as it is:
    closing it would crash the process (CPython gh-127041 and others)."""
    FAILED = auto()
    """The app could not be imported or started."""
    BROKEN = auto()
    """It ended without being asked to."""

    @property
    def ended(self) -> bool:
        """Whether nothing of the worker runs any more, save threads of an abandoned one."""
        return self not in {WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING}


class WorkerEvent(Enum):
    """What happens to a worker."""

    READY = auto()
    FAILED = auto()
    DRAIN_SENT = auto()
    CLOSED = auto()
    THREADS_LEFT = auto()
    BROKE = auto()


TRANSITIONS: Mapping[tuple[WorkerState, WorkerEvent], WorkerState] = MappingProxyType(
    {
        (WorkerState.STARTING, WorkerEvent.READY): WorkerState.READY,
        (WorkerState.STARTING, WorkerEvent.FAILED): WorkerState.FAILED,
        (WorkerState.STARTING, WorkerEvent.BROKE): WorkerState.BROKEN,
        (WorkerState.READY, WorkerEvent.DRAIN_SENT): WorkerState.DRAINING,
        (WorkerState.READY, WorkerEvent.BROKE): WorkerState.BROKEN,
        (WorkerState.DRAINING, WorkerEvent.CLOSED): WorkerState.CLOSED,
        (WorkerState.DRAINING, WorkerEvent.THREADS_LEFT): WorkerState.ABANDONED,
        (WorkerState.DRAINING, WorkerEvent.BROKE): WorkerState.BROKEN,
        # A worker that failed still closes its interpreter, or cannot; it stays FAILED.
        (WorkerState.FAILED, WorkerEvent.CLOSED): WorkerState.FAILED,
        (WorkerState.FAILED, WorkerEvent.THREADS_LEFT): WorkerState.FAILED,
        (WorkerState.FAILED, WorkerEvent.BROKE): WorkerState.FAILED,
    }
)


def advance(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """Return the state after `event`; raise `ValueError` where the table has no such row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a {state.name} worker cannot take {event.name}") from None
