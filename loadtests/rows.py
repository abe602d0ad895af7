"""What a row of the benchmark is: what is measured, in which unit, what has to be reached."""

from dataclasses import dataclass
from typing import Literal

from loadtests.plans import Plan


@dataclass(frozen=True, slots=True)
class Metric:
    """A number per sample: `key` finds it there, `unit` tells how it is printed."""

    key: str
    label: str
    unit: Literal["us", "KB", "MB", "ms", "times", "count"]
    lower_is_better: bool = True


CPU = Metric("cpu_us", "CPU per request", "us")
MESSAGE = Metric("cpu_us", "CPU per message", "us")
DELIVERY = Metric("cpu_us", "CPU per delivery", "us")
CONNECTION = Metric("connection_kb", "PSS per connection", "KB")
BUSIEST = Metric("busiest", "busiest worker's connections", "times")
BUSIEST_REQUESTS = Metric("busiest_requests", "busiest worker's requests", "times")
SCALING = Metric("scaling", "throughput ratio", "times", lower_is_better=False)
ADDED = Metric("added_mb", "PSS per worker", "MB")
WORKER_MB = Metric("pss_mb_per_worker", "PSS per further worker", "MB")
START_MS = Metric("start_ms", "all 16 ready", "ms")
FAILED = Metric("failed", "failed requests", "count")
RETRIED = Metric("retried", "requests made twice", "count")
WORST = Metric("worst_ms", "slowest request", "ms")
P99 = Metric("p99_ms", "p99", "ms")


@dataclass(frozen=True, slots=True)
class Goal:
    """What subserve has to reach.

    ``times``: the best of `against` divided by ours (ours divided by theirs where more is better)
    is at least so much.  ``share``: ours divided by the best of `against` is at most so much.
    ``value``: our figure itself is at least so much.
    """

    kind: Literal["times", "share", "value"]
    against: tuple[str, ...]
    at_least: float
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    `max_rounds` is set where samples take long and differ little; `quick` says whether ``--quick``
    measures it.  Rows are also chosen by their `group`.  `also` are metrics that are
    printed besides the one that the goals are about.
    """

    name: str
    title: str
    plan: Plan
    goals: tuple[Goal, ...] = ()
    metric: Metric = CPU
    max_rounds: int = 99
    quick: bool = True
    group: str = "goals"
    also: tuple[Metric, ...] = ()
