"""What the coordinator is to do next, decided from values alone.

`decide` looks at a snapshot of the whole fleet and returns what to do now; the coordinator does it
and asks again, until there is nothing but to wait.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from subserve.identity import WorkerInfo
from subserve.lifecycle import Phase, WorkerState

CRASH_LOOP_FAILURES = 5
"""So often in a row has each place to fail, with nobody else serving, for the server to give up.
With the back-off that is some 15 s.  Not measured."""

STABLE_SECONDS = 60.0
"""A worker that breaks after this long is no sign of a crash loop.  Not measured."""

LONGEST_BACKOFF = 30.0
"""Seconds between attempts to fill a place while others serve.  Not measured."""

TURN_OVER_INTERVAL = 300.0
"""Seconds until a turn-over is asked for again, where the reason for it still holds."""

FEWEST_TO_ABANDON = 4
"""How many abandoned interpreters also a small fleet may have; a large one, as many as workers."""

STOP_FACTOR = 4
"""So many times more of them end the process, before it runs out of memory."""


@dataclass(frozen=True, slots=True)
class Member:
    """One worker, as far as there is to decide on it.  Moments are monotonic seconds.

    `since` is when it became ready.  `deadline`: of one that starts, when it has to be ready; of
    one that drains or hangs, when it has to be gone.  `retire_at` and `requests_left` are what is
    left of its planned life.  `silent` is how long its event loop has missed its heartbeat.
    `gone`: its thread is about to say how it ended.
    """

    info: WorkerInfo
    state: WorkerState
    deadline: float = math.inf
    since: float = 0.0
    retire_at: float = math.inf
    requests_left: float = math.inf
    silent: float = 0.0
    served: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """What has happened at a place: failures in a row, and when the next attempt may be made."""

    failures: int = 0
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """A snapshot of all there is to decide on.

    `members` are the workers whose threads have not been joined, `left_open` is the number of
    interpreters that others have left behind.  `stop_by` is when a drain has to be over.
    `hang_timeout` is infinite where it is off.  `over_memory` says, in words, that the process is
    too large, or nothing.  `asked_at`: when a turn-over was asked for last.
    """

    phase: Phase
    wanted: int
    members: Sequence[Member]
    stop_requested: bool = False
    stop_by: float = math.inf
    hang_timeout: float = math.inf
    troubles: Mapping[int, Trouble] = field(default_factory=dict)
    left_open: int = 0
    over_memory: str = ""
    asked_at: float = -math.inf

    def staying(self, place: int) -> list[Member]:
        """Return who starts or serves at a place, the oldest first."""
        found = [m for m in self.members if m.info.index == place and m.state.staying]
        return sorted(found, key=lambda member: member.info.generation)

    def trouble(self, place: int) -> Trouble:
        """Return what has happened at a place."""
        return self.troubles.get(place, Trouble())

    @property
    def complete(self) -> bool:
        """Whether somebody is ready at each place that is wanted."""
        ready = {m.info.index for m in self.members if m.state is WorkerState.READY}
        return ready >= set(range(self.wanted))

    @property
    def abandoned(self) -> int:
        """How many interpreters are there that cannot be closed."""
        return self.left_open + sum(m.state is WorkerState.ABANDONED for m in self.members)

    @property
    def may_abandon(self) -> int:
        """How many of these there may be before something has to be done about them."""
        return max(FEWEST_TO_ABANDON, self.wanted)


class Why(Enum):
    """Why the server stops."""

    ASKED = auto()
    FAILED = auto()
    """A worker failed, or broke, before all were ready for the first time."""
    OVERDUE = auto()
    """A worker was not ready in time then."""
    CRASH_LOOP = auto()
    """Nobody serves, and nobody can be started."""
    TOO_MANY_ABANDONED = auto()


@dataclass(frozen=True, slots=True)
class Serve:
    """All workers are ready: print the banner and accept."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Close the listeners and let the workers finish."""

    why: Why


@dataclass(frozen=True, slots=True)
class Exit:
    """Nothing is left to wait for."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker; `replaces` is the one that is to retire once it is ready."""

    place: int
    replaces: WorkerInfo | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """Have a worker finish what it has, and end."""

    worker: WorkerInfo


@dataclass(frozen=True, slots=True)
class TakeOut:
    """A worker hangs: find out where, hand it no more connections, have it drain if it can."""

    worker: WorkerInfo


@dataclass(frozen=True, slots=True)
class Recover:
    """The event loop of one that hung has come back."""

    worker: WorkerInfo


@dataclass(frozen=True, slots=True)
class Abandon:
    """A worker was not ready, or not gone, in time: do not wait for it any longer."""

    worker: WorkerInfo


@dataclass(frozen=True, slots=True)
class TurnOver:
    """Ask for a new process in the place of this one."""

    reason: str


type Action = Serve | Stop | Exit | Start | Drain | TakeOut | Recover | Abandon | TurnOver


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, in this order; or, if that is nothing, until when to wait at most."""

    actions: Sequence[Action]
    wait_until: float = math.inf


def decide(fleet: Fleet, now: float) -> Decision:
    """Return what to do now."""
    match fleet.phase:
        case Phase.STARTING:
            actions = _while_starting(fleet, now)
        case Phase.SERVING:
            actions = _while_serving(fleet, now)
        case Phase.DRAINING:
            actions = _while_draining(fleet, now)
    return Decision(actions) if actions else Decision((), _next_moment(fleet, now))


def after_failure(trouble: Trouble, now: float, served_for: float = 0.0) -> Trouble:
    """Return the trouble of a place whose worker has failed, or broken after `served_for` seconds.

    The first failure is no reason to wait; from the second on the pause doubles, from 1 s.
    """
    failures = 1 if served_for >= STABLE_SECONDS else trouble.failures + 1
    pause = 0.0 if failures == 1 else min(LONGEST_BACKOFF, 2.0 ** (failures - 2))
    return Trouble(failures, now + pause)


def heartbeat_interval(hang_timeout: float) -> float:
    """Return how often hearts beat and are listened to, in seconds; 0 where nobody listens."""
    return min(1.0, hang_timeout / 4)


def _while_starting(fleet: Fleet, now: float) -> Sequence[Action]:
    if fleet.stop_requested:
        return (Stop(Why.ASKED),)
    if any(trouble.failures for trouble in fleet.troubles.values()):
        return (Stop(Why.FAILED),)
    if any(m.state is WorkerState.STARTING and now >= m.deadline for m in fleet.members):
        return (Stop(Why.OVERDUE),)
    if starts := _missing(fleet, now):
        return starts
    return (Serve(),) if fleet.complete else ()


def _while_serving(fleet: Fleet, now: float) -> Sequence[Action]:
    # Each step is decided on what the one before it has led to.
    if fleet.stop_requested:
        return (Stop(Why.ASKED),)
    if _in_crash_loop(fleet):
        return (Stop(Why.CRASH_LOOP),)
    if fleet.abandoned >= STOP_FACTOR * fleet.may_abandon:
        return (Stop(Why.TOO_MANY_ABANDONED),)
    return (
        _changes_of_state(fleet, now)
        or _missing(fleet, now)
        or [Drain(member.info) for member in _superfluous(fleet)]
        or _recycling(fleet, now)
        or _turning_over(fleet, now)
    )


def _while_draining(fleet: Fleet, now: float) -> Sequence[Action]:
    # One that still imports cannot be interrupted, and has served nobody: leave it.
    live = (m for m in fleet.members if not m.state.ended)
    if now >= fleet.stop_by or all(m.state is WorkerState.STARTING for m in live):
        return (Exit(),)
    return [
        Drain(m.info) for m in fleet.members if m.state is WorkerState.READY
    ] or _changes_of_state(fleet, now)


def _in_crash_loop(fleet: Fleet) -> bool:
    return not any(m.state is WorkerState.READY for m in fleet.members) and all(
        fleet.trouble(place).failures >= CRASH_LOOP_FAILURES for place in range(fleet.wanted)
    )


def _changes_of_state(fleet: Fleet, now: float) -> list[Action]:
    changes: list[Action] = []
    for member in fleet.members:
        hangs = member.silent >= fleet.hang_timeout
        match member.state:
            case WorkerState.READY if hangs and not member.gone:
                changes.append(TakeOut(member.info))
            case WorkerState.HUNG if not hangs:
                changes.append(Recover(member.info))
            case WorkerState.HUNG | WorkerState.DRAINING if now >= member.deadline:
                changes.append(Abandon(member.info))
            case WorkerState.STARTING if now >= member.deadline and fleet.phase is Phase.SERVING:
                changes.append(Abandon(member.info))
    return changes


def _missing(fleet: Fleet, now: float) -> list[Action]:
    return [
        Start(place)
        for place in range(fleet.wanted)
        if not fleet.staying(place) and now >= fleet.trouble(place).retry_at
    ]


def _superfluous(fleet: Fleet) -> list[Member]:
    """Return who is ready and not needed: it was replaced, or its place is not wanted any more.

    Nobody, while another place is empty: whoever can serve is needed then.
    """
    found: list[Member] = []
    if not fleet.complete:
        return found
    for place in {member.info.index for member in fleet.members}:
        ready = [m for m in fleet.staying(place) if m.state is WorkerState.READY]
        found += ready[:-1] if place < fleet.wanted else ready
    return found


def _recycling(fleet: Fleet, now: float) -> list[Action]:
    """Begin with the one that is due and has served longest, if nothing else goes on."""
    here = [m for m in fleet.members if not m.state.ended]
    calm = len(here) == fleet.wanted and fleet.complete
    if not calm or fleet.abandoned >= fleet.may_abandon:
        return []  # in the second case, recycling has given back nothing so far
    due = [
        m
        for m in here
        if (m.requests_left <= 0 or m.retire_at <= now)
        and not m.gone
        and now >= fleet.trouble(m.info.index).retry_at
    ]
    if not due:
        return []
    oldest = min(due, key=lambda member: member.since)
    return [Start(oldest.info.index, replaces=oldest.info)]


def _turning_over(fleet: Fleet, now: float) -> list[Action]:
    if now < fleet.asked_at + TURN_OVER_INTERVAL or not fleet.complete:
        return []  # whoever serves has to be up to it first
    stuck = sum(m.state is WorkerState.ABANDONED and m.served for m in fleet.members)
    if fleet.over_memory:
        reason = fleet.over_memory
    elif stuck:
        reason = f"{_count(stuck, 'worker')} that would not end had to be abandoned"
    elif fleet.abandoned >= fleet.may_abandon:
        reason = (
            f"{_count(fleet.abandoned, 'interpreter')} of ended workers could not be closed, "
            "for threads of the app live on in them"
        )
    else:
        return []
    return [TurnOver(reason)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _next_moment(fleet: Fleet, now: float) -> float:
    """Return the next moment at which time alone may change what is decided."""
    moments = [fleet.stop_by, fleet.asked_at + TURN_OVER_INTERVAL]
    moments += [m.deadline for m in fleet.members if not m.state.ended]
    moments += [m.retire_at for m in fleet.members if m.state is WorkerState.READY]
    moments += [trouble.retry_at for trouble in fleet.troubles.values()]
    return min(_after(now, moments), default=math.inf)


def _after(now: float, moments: Iterable[float]) -> Iterable[float]:
    return (moment for moment in moments if moment > now)


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
