"""The states of a serving process, as the supervisor sees it, and the only ways between them.

::

    STARTING -> READY -> RETIRING -> CLOSED
       |  |       |                     ^
       |  |       v                     |
       |  |    CRASHED                  |
       v  +-------> RETIRING -----------+
     FAILED
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType


class ProcessState(Enum):
    """Where a serving process is in its life; the last three are ends."""

    STARTING = auto()
    """Python starts, the app is imported, lifespan startup runs."""
    READY = auto()
    """It accepts connections."""
    RETIRING = auto()
    """It was told to end, and finishes what it has."""
    CLOSED = auto()
    """It ended after it was told to, however it did."""
    CRASHED = auto()
    """It ended although nobody had told it to."""
    FAILED = auto()
    """It ended before it was ready."""

    @property
    def ended(self) -> bool:
        """Whether there is no such process any more."""
        return self in {ProcessState.CLOSED, ProcessState.CRASHED, ProcessState.FAILED}


class ProcessEvent(Enum):
    """What happens to a serving process."""

    READY = auto()
    TOLD_TO_END = auto()
    ENDED = auto()


TRANSITIONS: Mapping[tuple[ProcessState, ProcessEvent], ProcessState] = MappingProxyType(
    {
        (ProcessState.STARTING, ProcessEvent.READY): ProcessState.READY,
        (ProcessState.STARTING, ProcessEvent.TOLD_TO_END): ProcessState.RETIRING,
        (ProcessState.STARTING, ProcessEvent.ENDED): ProcessState.FAILED,
        (ProcessState.READY, ProcessEvent.TOLD_TO_END): ProcessState.RETIRING,
        (ProcessState.READY, ProcessEvent.ENDED): ProcessState.CRASHED,
        # Its report was on the way when it was told to end.
        (ProcessState.RETIRING, ProcessEvent.READY): ProcessState.RETIRING,
        # In a hurry now: a second INT.
        (ProcessState.RETIRING, ProcessEvent.TOLD_TO_END): ProcessState.RETIRING,
        (ProcessState.RETIRING, ProcessEvent.ENDED): ProcessState.CLOSED,
    }
)


def advance(state: ProcessState, event: ProcessEvent) -> ProcessState:
    """Return the state after `event`; raise `ValueError` where the table has no such row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a {state.name} serving process cannot take {event.name}") from None
