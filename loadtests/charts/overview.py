"""The charts of all rows: figures, goals, latencies."""

from collections.abc import Sequence
from functools import partial

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from loadtests import openloop
from loadtests.charts.style import FAINT, INK, colour_of
from loadtests.contenders import OURS
from loadtests.figures import Figure, figure, verdict
from loadtests.plans import Economics, Latency, Life, Spread
from loadtests.registry import ROWS
from loadtests.results import Run
from loadtests.rows import CPU, Row
from loadtests.table import amount

OWN_CHARTS = (Latency, Life, Spread, Economics)
"""Kinds of rows that are drawn in other ways than as bars."""


def _figures(run: Run, row: Row) -> dict[str, Figure]:
    found = {name: figure(own, row.metric) for name, own in run.of(row.name).items()}
    return {name: value for name, value in found.items() if value is not None}


def bars(axes: Axes, row: Row, found: dict[str, Figure]) -> None:
    """Draw the medians of a row, best first, with the extremes of the rounds."""
    names = sorted(found, key=lambda name: found[name].median, reverse=row.metric.lower_is_better)
    values = [found[name].median for name in names]
    errors = [
        [found[name].median - found[name].low for name in names],
        [found[name].high - found[name].median for name in names],
    ]
    axes.barh(names, values, color=[colour_of(name) for name in names], height=0.68)
    axes.errorbar(values, names, xerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    limit = max(found[name].high for name in names) * 1.28
    axes.set_xlim(0, limit)
    for name, value in zip(names, values, strict=True):
        axes.text(
            found[name].high + limit * 0.015,
            name,
            amount(value, row.metric) + (" !" if found[name].errors else ""),
            va="center",
            fontsize=8,
            fontweight="bold" if name == OURS else "normal",
        )
    axes.set_title(row.title, fontsize=9)
    axes.set_ylim(len(names) - max(len(names), 3) - 0.6, len(names) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.spines["bottom"].set_visible(False)


def costs(run: Run) -> Canvas | None:
    """All rows of CPU time per request, a small chart each, each with a scale of its own."""
    rows = [row for row in ROWS.values() if row.metric.key == CPU.key and _figures(run, row)]
    return _grid(run, rows, "CPU time per request: less is better")


def others(run: Run) -> Canvas | None:
    """All other rows but those that have charts of their own."""
    rows = [
        row
        for row in ROWS.values()
        if row.metric.key != CPU.key and not isinstance(row.plan, OWN_CHARTS) and _figures(run, row)
    ]
    return _grid(run, rows, "Scaling, memory, connections")


def _grid(run: Run, rows: Sequence[Row], title: str) -> Canvas | None:
    if not rows:
        return None
    columns = min(2, len(rows))
    lines = -(-len(rows) // columns)
    canvas, grid = plt.subplots(
        lines,
        columns,
        figsize=(5.2 * columns, 2.0 * lines + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, rows, strict=False):
        bars(axes, row, _figures(run, row))
    canvas.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return canvas


def goals(run: Run) -> Canvas | None:
    """Each goal's ratio with the extremes of the rounds, beside what was asked for and aimed at."""
    found = [
        (row, goal, judged)
        for row in ROWS.values()
        for goal in row.goals
        if (judged := verdict(goal, row.metric, run.of(row.name))) is not None
    ]
    if not found:
        return None
    canvas, axes = plt.subplots(figsize=(8.6, 0.34 * len(found) + 1.3), layout="constrained")
    labels = []
    for place, (row, goal, judged) in enumerate(reversed(found)):
        # A share is good where it is small: turned round, right is good for all of them.
        turned = partial(pow, exp=-1 if goal.kind == "share" else 1)
        ratio, ends = turned(judged.ratio), sorted((turned(judged.low), turned(judged.high)))
        colour = {"aim": "#2f8f4e", "goal": "#c99a1a", "missed": "#c0392b"}[judged.reached]
        axes.plot(ends, [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(ratio, place, "o", color=colour, markersize=6, zorder=3)
        axes.plot(turned(goal.at_least), place, "|", color=INK, markersize=13, markeredgewidth=1.6)
        if goal.aim is not None:
            axes.plot(turned(goal.aim), place, "|", color=FAINT, markersize=13, markeredgewidth=2)
        labels.append(f"{row.name} ({judged.rival or 'itself'})")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color=FAINT, linewidth=1, zorder=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_title(
        "Goals: how many times better than the rival in brackets\n"
        "dark mark: at least; light mark: aim; line: lowest and highest round",
        fontsize=9,
    )
    return canvas


def latencies(run: Run) -> Canvas | None:
    """How many of the fast requests took how long, over all rounds."""
    rows = [row for row in ROWS.values() if isinstance(row.plan, Latency) and run.of(row.name)]
    if not rows:
        return None
    canvas, grid = plt.subplots(
        1,
        len(rows),
        figsize=(4.2 * len(rows) + 0.6, 3.6),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    shares = [n / 1000 for n in range(1000)]
    for axes, row in zip(grid.flat, rows, strict=True):
        for name, samples in run.of(row.name).items():
            values = [v for sample in samples for v in sample.detail.get("latencies_ms", [])]
            if not values:
                continue
            ordered = sorted(values)
            axes.plot(
                [1 / (1 - share) for share in shares],
                [openloop.percentile(ordered, share) for share in shares],
                color=colour_of(name),
                linewidth=2.2 if name == OURS else 1.3,
                label=name,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([1, 2, 10, 100, 1000], ["all", "p50", "p90", "p99", "p99.9"])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))
        axes.grid()
        axes.set_axisbelow(True)
        axes.set_title(row.title.replace(", ", ",\n", 1), fontsize=8)
    grid.flat[0].legend(loc="upper left", fontsize=8)
    return canvas
