"""A small fuzzer: inputs that reach code which no other has reached are kept, and mutated further.

Coverage comes from `sys.monitoring` (PEP 669): each branch is reported once and then switched off,
so that code which was seen before runs at full speed.  Runs with one seed try the same inputs, as
long as they are given the same number of them.
"""

import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

import subserve

SOURCES = str(Path(subserve.__file__).parent)

MAX_BYTES = 2048
"""How long an input may get: what takes longer to run than it teaches is no good."""

MINIMISING_SECONDS = 20.0

_EVENTS = (
    sys.monitoring.events.PY_START
    | sys.monitoring.events.BRANCH_LEFT
    | sys.monitoring.events.BRANCH_RIGHT
)

_TOKENS = (b"0", b"1", b"-1", b"\xff", b"\0", b"\n", b"\r\n", b" ", b"\t", b",", b'"', b"9" * 20)


@dataclass(frozen=True)
class Target:
    """What is fuzzed.  `run` takes an input and raises for what must not be."""

    name: str
    run: Callable[[bytes], None]
    tokens: tuple[bytes, ...] = ()
    """What inputs are made of."""


@dataclass
class Finding:
    """An input, as small as could be found, and what it leads to."""

    target: str
    data: bytes
    error: BaseException


@dataclass
class Report:
    """What became of one run."""

    inputs: int = 0
    kept: list[bytes] = field(default_factory=list)
    """Those that reached something new, besides the corpus."""
    finding: Finding | None = None


class Coverage:
    """Tells whether something of subserve ran that had not run before; one at a time."""

    _TOOL = 3  # none of those that have a name: a debugger or coverage.py may be at work, too

    def __init__(self) -> None:
        self._reached = 0

    def __enter__(self) -> Coverage:
        monitoring = sys.monitoring
        monitoring.use_tool_id(self._TOOL, "subserve fuzzing")
        for event in (
            monitoring.events.PY_START,
            monitoring.events.BRANCH_LEFT,
            monitoring.events.BRANCH_RIGHT,
        ):
            monitoring.register_callback(self._TOOL, event, self._take)
        monitoring.set_events(self._TOOL, _EVENTS)
        monitoring.restart_events()
        return self

    def __exit__(self, *_: object) -> None:
        sys.monitoring.set_events(self._TOOL, 0)
        sys.monitoring.free_tool_id(self._TOOL)

    def _take(self, code: CodeType, *_: int) -> object:
        if code.co_filename.startswith(SOURCES):
            self._reached += 1
        return sys.monitoring.DISABLE

    def grew(self) -> bool:
        """Tell whether something new was reached since the last call."""
        reached, self._reached = self._reached, 0
        return reached > 0


def fuzz(
    target: Target, corpus: Sequence[bytes], *, seed: int, seconds: float, inputs: int = sys.maxsize
) -> Report:
    """Run `target` on its `corpus` and on what comes of that, until the time or `inputs` are up."""
    report = Report()
    chance = random.Random(f"{target.name} {seed}")
    pool = list(corpus)
    deadline = time.monotonic() + seconds
    with Coverage() as coverage:
        for data in pool:
            if not _passes(target, data, report):
                return report
        coverage.grew()
        while report.inputs < inputs and time.monotonic() < deadline:
            data = mutated(pool, target.tokens, chance)
            if not _passes(target, data, report):
                return report
            if coverage.grew():
                pool.append(data)
                report.kept.append(data)
    return report


def _passes(target: Target, data: bytes, report: Report) -> bool:
    report.inputs += 1
    try:
        target.run(data)
    except Exception as error:  # noqa: BLE001  whatever it is, it was not to be
        small = minimised(target, data, type(error))
        report.finding = Finding(target.name, small, _error_of(target, small) or error)
        return False
    return True


def _error_of(target: Target, data: bytes) -> BaseException | None:
    try:
        target.run(data)
    except Exception as error:  # noqa: BLE001
        return error
    return None


def mutated(pool: Sequence[bytes], tokens: Iterable[bytes], chance: random.Random) -> bytes:
    """Return an input that has come of one of `pool` by a few changes."""
    data = bytearray(chance.choice(pool) if pool else b"")
    words = (*_TOKENS, *tokens)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8))):
        place = chance.randint(0, len(data))
        size = min(chance.choice((1, 1, 2, 4, 16, 64)), len(data) - place)
        match chance.randrange(8):
            case 0 if size:
                data[place] ^= 1 << chance.randrange(8)
            case 1 if size:
                data[place] = chance.randrange(256)
            case 2:
                del data[place : place + size]
            case 3:
                data[place:place] = data[place : place + size] * chance.choice((1, 1, 3))
            case 4:
                other = chance.choice(pool) if pool else b""
                start = chance.randint(0, len(other))
                data[place:] = other[start:]
            case 5:
                data[place : place + size] = chance.choice(words)
            case 6:
                target = chance.randint(0, len(data))
                data[target:target] = data[place : place + size]
            case _:
                data[place:place] = chance.choice(words)
    return bytes(data[:MAX_BYTES])


def minimised(target: Target, data: bytes, kind: type[BaseException]) -> bytes:
    """Return a shorter input that fails in the same way, as far as one is found in time."""
    deadline = time.monotonic() + MINIMISING_SECONDS
    size = len(data) // 2
    while size:
        place = 0
        while place < len(data) and time.monotonic() < deadline:
            shorter = data[:place] + data[place + size :]
            if isinstance(_error_of(target, shorter), kind):
                data = shorter
            else:
                place += size
        size //= 2
    return data
