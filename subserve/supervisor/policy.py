"""What the supervisor is to do next, decided from values alone.

An *epoch* is a number for one loading of the code and the configuration: the first start is epoch
1, each turn-over is the next.  A *place* holds one serving process at a time, save during a
turn-over; there are ``--processes`` of them.  So a rolling restart is one condition: whoever has
another epoch than its place wants is outdated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from subserve.supervisor.lifecycle import ProcessState

CRASH_WINDOW = 60.0
"""Seconds for which a crash counts, both for the back-off and for `crash_limit`."""

BACKOFF_FIRST = 0.1
BACKOFF_LONGEST = 2.0
"""Seconds to wait before the second replacement within the window, doubled for each one after it.
Not measured: long enough not to burn a core, short enough for a crash now and then."""

TURN_OVER_PAUSE = 60.0
"""Seconds to leave a serving process alone that asked to be turned over, when that has failed."""


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = auto()
    SERVING = auto()
    STOPPING = auto()


@dataclass(frozen=True, slots=True)
class Process:
    """One serving process that has not ended.

    `deadline` is the moment, on the monotonic clock in seconds, by which its state has to be over;
    None where it may last.
    """

    number: int
    place: int
    epoch: int
    state: ProcessState
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All there is to decide on.

    `wanted` is the epoch that each place is to have, `good` the one that it last had in full: they
    differ during a turn-over.  `failed` says that the epoch that is wanted has not started.
    `crashes` are moments at which a process ended unasked, the oldest first; `crash_limit` of them
    within the window are a loop.  `held`: start nothing until the code changes.  `asking` are the
    places whose process asks to be turned over, not before `leave_alone_until`.
    """

    phase: Phase
    processes: Sequence[Process] = ()
    wanted: Sequence[int]
    good: Sequence[int] = ()
    failed: bool = False
    reloading: bool = False
    held: bool = False
    crashes: Sequence[float] = ()
    crash_limit: int
    asking: frozenset[int] = frozenset()
    leave_alone_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start a serving process."""

    place: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Let a serving process finish what it has."""

    number: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a serving process that has had its time."""

    number: int


@dataclass(frozen=True, slots=True)
class Settle:
    """All places have what they want: the first time, the server is up."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The wanted epoch does not start: go back to the one before."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Neither the wanted epoch nor one before it can be had: wait for a change of the code."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Begin a turn-over of places whose processes have asked for it."""

    places: frozenset[int]


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the server: `crash_loop`, or else because it could not be started."""

    crash_loop: bool


@dataclass(frozen=True, slots=True)
class Exit:
    """Nothing is left to wait for."""


type Action = Start | Retire | Kill | Settle | GiveUp | Hold | Replace | Stop | Exit


def decide(fleet: Snapshot, now: float) -> Sequence[Action]:
    """Return what is to be done now; nothing where it is to be waited for."""
    overdue = [Kill(p.number) for p in fleet.processes if _due(p.deadline, now)]
    if fleet.phase is Phase.STOPPING:
        if not fleet.processes:
            return [Exit()]
        return [*overdue, *(Retire(p.number) for p in fleet.processes if _is_live(p))]
    return [*overdue, *_keep_up(fleet, now)]


def _keep_up(fleet: Snapshot, now: float) -> Sequence[Action]:
    if fleet.failed:
        if fleet.good:
            return [GiveUp()]
        return [Hold()] if fleet.reloading else [Stop(crash_loop=False)]
    if not fleet.held and len(_recent(fleet, now)) >= fleet.crash_limit:
        return [Hold()] if fleet.reloading else [Stop(crash_loop=True)]
    current, outdated = _sorted_out(fleet)
    missing = set(range(len(fleet.wanted))) - {p.place for p in current}
    complete = not missing and all(p.state is ProcessState.READY for p in current)
    actions: list[Action] = []
    if complete and fleet.good != fleet.wanted:
        actions.append(Settle())
    actions += [Retire(p.number) for p in outdated if complete or _is_superseded(p, fleet)]
    if not fleet.held:
        start_at = _start_at(fleet, now)
        for place in sorted(missing):
            if not _is_proven(fleet, place) or now >= start_at:
                actions.append(Start(place, fleet.wanted[place]))
    if not actions and complete and fleet.asking and now >= fleet.leave_alone_until:
        actions.append(Replace(fleet.asking))
    return actions


def wake_at(fleet: Snapshot, now: float) -> float | None:
    """Return the next moment at which `decide` may want something without anything happening."""
    moments = [p.deadline for p in fleet.processes if p.deadline is not None]
    if fleet.phase is not Phase.STOPPING and not fleet.held:
        current, _ = _sorted_out(fleet)
        if len({p.place for p in current}) < len(fleet.wanted):
            moments.append(_start_at(fleet, now))
        if fleet.asking:
            moments.append(fleet.leave_alone_until)
    return min((moment for moment in moments if moment > now), default=None)


def _sorted_out(fleet: Snapshot) -> tuple[list[Process], list[Process]]:
    """Return the live processes that have the epoch their place wants, and those that have not."""
    current: list[Process] = []
    outdated: list[Process] = []
    for process in fleet.processes:
        if _is_live(process):
            wants = fleet.wanted[process.place] if process.place < len(fleet.wanted) else None
            (current if process.epoch == wants else outdated).append(process)
    return current, outdated


def _is_superseded(process: Process, fleet: Snapshot) -> bool:
    """Tell whether an outdated process is of no use even while its successor starts.

    It has not served yet, or its epoch was given up.
    """
    return process.state is ProcessState.STARTING or process.epoch not in fleet.good


def _is_proven(fleet: Snapshot, place: int) -> bool:
    """Tell whether what the place wants has served before: if it is empty, that was a crash."""
    return place < len(fleet.good) and fleet.good[place] == fleet.wanted[place]


def _is_live(process: Process) -> bool:
    return process.state in {ProcessState.STARTING, ProcessState.READY}


def _due(deadline: float | None, now: float) -> bool:
    return deadline is not None and now >= deadline


def _recent(fleet: Snapshot, now: float) -> Sequence[float]:
    return [moment for moment in fleet.crashes if now - moment < CRASH_WINDOW]


def _start_at(fleet: Snapshot, now: float) -> float:
    """Return when a crashed process may be replaced."""
    recent = _recent(fleet, now)
    if len(recent) < 2:
        return now
    # The exponent is bounded, too: 2.0 ** 2000 is an OverflowError.
    delay = min(BACKOFF_FIRST * 2.0 ** min(len(recent) - 2, 10), BACKOFF_LONGEST)
    return recent[-1] + delay
