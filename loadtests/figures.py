"""From samples to figures: medians, spread, ratios, and whether a goal is reached.  All pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from loadtests.contenders import OURS
from loadtests.results import Sample
from loadtests.rows import Goal, Metric

type Reached = Literal["aim", "goal", "missed"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A contender's median over the rounds, the extremes, and errors of all rounds together."""

    median: float
    low: float
    high: float
    rounds: int
    errors: int

    @property
    def spread(self) -> float:
        """How far the rounds lie from the median at most, as a share of it."""
        if not self.median:
            return 0.0
        return max(self.high - self.median, self.median - self.low) / abs(self.median)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a goal is reached: the ratio of medians, and the extremes of the rounds' ratios.

    `rival` is the best of those compared with; "" where the figure stands for itself.
    """

    goal: Goal
    rival: str
    ratio: float
    low: float
    high: float
    reached: Reached


def figure(samples: Sequence[Sample], metric: Metric) -> Figure | None:
    """Sum up the samples of one contender; None if none has the metric."""
    values = [sample.values[metric.key] for sample in samples if metric.key in sample.values]
    if not values:
        return None
    errors = sum(sum(sample.errors.values()) for sample in samples)
    return Figure(statistics.median(values), min(values), max(values), len(values), errors)


def best(names: Sequence[str], figures: Mapping[str, Figure], metric: Metric) -> str | None:
    """Return which of `names` has the best median; None if none of them was measured."""
    there = [name for name in names if name in figures]
    pick = min if metric.lower_is_better else max
    return pick(there, key=lambda name: figures[name].median, default=None)


def verdict(goal: Goal, metric: Metric, samples: Mapping[str, Sequence[Sample]]) -> Verdict | None:
    """Judge a goal; None where subserve, or all of those to compare with, were not measured."""
    figures = {
        name: found for name, own in samples.items() if (found := figure(own, metric)) is not None
    }
    if OURS not in figures:
        return None
    ours = _by_round(samples[OURS], metric)
    if goal.kind == "value":
        found = figures[OURS]
        reached = judge(goal, found.median)
        return Verdict(goal, "", found.median, found.low, found.high, reached)
    rival = best(goal.against, figures, metric)
    if rival is None:
        return None
    theirs = _by_round(samples[rival], metric)
    ratio = _ratio(goal, metric, figures[OURS].median, figures[rival].median)
    # Rounds are interleaved: those of the same number were measured seconds apart.
    rounds = [_ratio(goal, metric, ours[n], theirs[n]) for n in ours.keys() & theirs.keys()]
    low, high = min(rounds, default=ratio), max(rounds, default=ratio)
    return Verdict(goal, rival, ratio, low, high, judge(goal, ratio))


def _by_round(samples: Sequence[Sample], metric: Metric) -> dict[int, float]:
    return {
        sample.round: sample.values[metric.key] for sample in samples if metric.key in sample.values
    }


def _ratio(goal: Goal, metric: Metric, ours: float, theirs: float) -> float:
    """Return what the goal is about; infinite where there is nothing to divide by."""
    share = goal.kind == "share"
    above, below = (ours, theirs) if share or not metric.lower_is_better else (theirs, ours)
    return above / below if below else math.inf


def judge(goal: Goal, ratio: float) -> Reached:
    """Say whether a ratio reaches a goal, or its aim."""
    sign = -1 if goal.kind == "share" else 1
    if goal.aim is not None and sign * ratio >= sign * goal.aim:
        return "aim"
    return "goal" if sign * ratio >= sign * goal.at_least else "missed"
