"""What every kind of measurement is given, and what it returns."""

import http.client
import os
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from loadtests import processes
from loadtests.server import Probe, Server, ServerFailed, request

WORKERS_SECONDS = 60.0
"""How long all workers of a server have to answer at least one request each."""

SPIN_ROUNDS = 500_000
"""Some 10 ms of a loop."""

SPIN_REPEATS = 5
"""The best of them counts: a core that was idle takes a while to reach its clock."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where servers and load generators run; `two` is for the rows of several workers."""

    server: int
    load: int
    two: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a sample is taken with: programs of the environment, cores, seconds of each sample.

    A sample that others disturb is taken again, up to so many `attempts`.
    """

    programs: Path
    cores: Cores
    seconds: float
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a measurement found; the fields are those of a sample."""

    values: dict[str, float]
    errors: dict[str, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)


class Window:
    """A stretch of time in which a server is watched: CPU time it used, and what others used.

    A context manager; the attributes are final at its end.  `seconds` is how long it was, `server`
    the CPU time of the server's tree, and `others` that of all processes but the server, this one
    and its children, with what the hypervisor took: how far to trust a figure.
    """

    seconds = server = others = 0.0

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cores = os.sched_getaffinity(0)

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        after = self._read()
        self.seconds, self.server, self.others = (
            max(0.0, then - now) for now, then in zip(self._before, after, strict=True)
        )

    def _read(self) -> tuple[float, float, float]:
        stats = processes.read_stats()
        members = processes.family(stats, self._pid)
        ours = processes.family(stats, os.getpid())
        others = processes.other_seconds(stats, {*members, *ours})
        return (
            time.monotonic(),
            processes.cpu_seconds(stats, members),
            others + processes.steal_seconds(self._cores),
        )

    @property
    def values(self) -> dict[str, float]:
        """What each sample keeps: shares of one core that the server and others used."""
        return {
            "cpu_share": self.server / self.seconds,
            "others_share": self.others / self.seconds,
        }


def spin_seconds(core: int) -> float:
    """Return the CPU time of a fixed piece of work on a core: how fast the machine is just now.

    Virtual machines share processors with neighbours, and processors change their clock.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return min(_spin() for _ in range(SPIN_REPEATS))
    finally:
        os.sched_setaffinity(0, allowed)


def _spin() -> float:
    begin = time.thread_time()
    total = 0
    for number in range(SPIN_ROUNDS):
        total += number
    return time.thread_time() - begin


def raise_open_files() -> None:
    """Let this process, and all it starts, open as many files as an administrator permits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def choose_cores(usable: Sequence[int]) -> Cores:
    """Give the server the first core and the load the last one; raises `ValueError` below two."""
    if len(usable) < 2:
        raise ValueError("at least two cores are needed: one for the server, one for the load")
    return Cores(usable[0], usable[-1], (usable[0], usable[1]))


def await_workers(server: Server, path: str, count: int) -> None:
    """Request `path`, which answers with the worker's name, until `count` workers have answered.

    Each request has a connection of its own.  Raises `ServerFailed` at the deadline.
    """
    seen: set[bytes] = set()
    deadline = time.monotonic() + WORKERS_SECONDS
    with ThreadPoolExecutor(2 * count) as pool:
        while len(seen) < count:
            if time.monotonic() > deadline:
                raise ServerFailed(f"of {count} workers only {len(seen)} have answered")
            asked = [pool.submit(request, server.port, Probe(path)) for _ in range(2 * count)]
            for answer in asked:
                try:
                    seen.add(answer.result()[1])
                except OSError, http.client.HTTPException:
                    continue  # a worker that is just starting; the deadline holds
