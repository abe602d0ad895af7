"""The charts of what goes on during a sample: spread over workers and cores, events, kinds."""

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from loadtests.charts.style import FAINT, INK, colour_of
from loadtests.contenders import CONTENDERS, OURS
from loadtests.plans import Economics, Life, Spread
from loadtests.registry import ROWS
from loadtests.results import Run, Sample

SHADES = ("#0b5a66", "#2f8c98", "#76bcc4", "#c2e1e5")
"""A worker each, the one with the most first."""


def _first(run: Run, row: str) -> dict[str, Sample]:
    """Return the first sample of each contender that came to an end."""
    found = run.of(row)
    order = [name for name in CONTENDERS if name in found] or list(found)
    return {
        name: whole[0]
        for name in order
        if (whole := [sample for sample in found[name] if "failed" not in sample.errors])
    }


def _rows[T](run: Run, kind: type[T]) -> list[tuple[str, T, dict[str, Sample]]]:
    """Return name, plan and first samples of all measured rows of a kind."""
    return [
        (row.name, row.plan, samples)
        for row in ROWS.values()
        if isinstance(row.plan, kind) and (samples := _first(run, row.name))
    ]


def spread(run: Run) -> Canvas | None:
    """Who holds how many of the connections, in the first round, and how busy the cores were."""
    rows = _rows(run, Spread)
    if not rows:
        return None
    canvas, grid = plt.subplots(
        2, len(rows), figsize=(4.1 * len(rows) + 1, 5.6), squeeze=False, layout="constrained"
    )
    for (above, below), (_, plan, samples) in zip(grid.T, rows, strict=True):
        names = list(reversed(samples))
        for place, name in enumerate(names):
            left = 0.0
            counts = samples[name].detail["connections"]
            for shade, count in zip(SHADES, counts, strict=False):
                above.barh(place, count, left=left, color=shade, edgecolor="white", height=0.7)
                if count > plan.connections * 0.06:
                    ink = "white" if shade in SHADES[:2] else INK
                    above.text(
                        left + count / 2,
                        place,
                        str(count),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color=ink,
                    )
                left += count
        for part in range(1, plan.workers):
            above.axvline(plan.connections * part / plan.workers, color=INK, lw=0.8, ls=":")
        above.set_yticks(range(len(names)), names)
        above.set_xlim(0, plan.connections)
        above.set_title(f"{plan.connections} connections on {plan.workers} workers", fontsize=9)
        above.tick_params(axis="y", length=0)
        for name, sample in samples.items():
            cores: Sequence[Sequence[float]] = sample.detail["cores"]
            step = sample.detail["core_seconds"]
            busy = [sum(shares) / len(cores) for shares in zip(*cores, strict=False)]
            times = [step * (n + 1) for n in range(len(busy))]
            wide = 2.2 if name == OURS else 1.3
            below.plot(times, busy, color=colour_of(name), linewidth=wide, label=name)
        below.set_ylim(0, 1.08)
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        below.set_xlabel("seconds")
        below.grid()
    grid[1][0].set_ylabel("both cores busy")
    grid[1][0].legend(fontsize=7, loc="lower left")
    canvas.suptitle("Connections by worker (dotted: fair shares), and how busy the cores were")
    return canvas


def life(run: Run) -> Canvas | None:
    """Each request of the first round: when it was due, how long it took, whether it failed."""
    rows = _rows(run, Life)
    if not rows:
        return None
    names = [name for name in CONTENDERS if any(name in samples for _, _, samples in rows)]
    canvas, grid = plt.subplots(
        len(rows),
        len(names),
        figsize=(2.9 * len(names) + 1, 1.9 * len(rows) + 0.8),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for line, (_, plan, samples) in zip(grid, rows, strict=True):
        line[0].set_ylabel(plan.event, fontweight="bold")
        for axes, name in zip(line, names, strict=True):
            if name not in samples:
                axes.text(0.5, 0.5, "no figure", transform=axes.transAxes, ha="center", color=FAINT)
                continue
            _course(axes, name, samples[name])
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name)
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    canvas.suptitle("Requests around an event (dotted line); red: failed")
    return canvas


def _course(axes: plt.Axes, name: str, sample: Sample) -> None:
    course = sample.detail["course"]
    served = [(at, took) for at, took in course if took is not None]
    failed = [at for at, took in course if took is None]
    axes.scatter(
        [at for at, _ in served],
        [took for _, took in served],
        s=3,
        color=colour_of(name),
        linewidths=0,
    )
    axes.vlines(failed, 0.5, 2000, color="#c0392b", linewidth=0.6)
    if sample.row != "life-recycle":
        axes.axvline(sample.detail["event_at"], color=INK, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_ylim(0.5, 2000)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))
    axes.grid()
    axes.set_axisbelow(True)


def kinds(run: Run) -> Canvas | None:
    """Memory of all together, and time until all are ready, by the number of workers."""
    rows = _rows(run, Economics)
    if not rows:
        return None
    canvas, grid = plt.subplots(
        2, len(rows), figsize=(2.9 * len(rows) + 1, 5.4), squeeze=False, layout="constrained"
    )
    for (above, below), (name, _, samples) in zip(grid.T, rows, strict=True):
        for kind, sample in samples.items():
            counts: Mapping[str, Mapping[str, float]] = sample.detail["counts"]
            numbers = [int(count) for count in counts]
            for axes, key in ((above, "pss_mb"), (below, "seconds")):
                axes.plot(
                    numbers,
                    [found[key] for found in counts.values()],
                    "o-",
                    markersize=3,
                    color=colour_of(kind),
                    linewidth=2 if kind == "interpreters" else 1.3,
                    label=kind,
                )
        above.set_title(name.removeprefix("kinds-"))
        below.set_xlabel("workers")
        for axes in (above, below):
            axes.set_ylim(bottom=0)
            axes.set_xticks(numbers)
            axes.grid()
    grid[0][0].set_ylabel("PSS, MB")
    grid[1][0].set_ylabel("all ready, seconds")
    grid[0][0].legend(fontsize=7)
    canvas.suptitle("What workers cost before the first request")
    return canvas
