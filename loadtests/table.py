"""The tables that are printed at the end: figures by contender, then goals.  Pure."""

from collections.abc import Callable, Sequence
from typing import Literal

from loadtests.contenders import CONTENDERS, OURS
from loadtests.figures import Figure, Verdict, figure, verdict
from loadtests.registry import GROUPS, ROWS
from loadtests.results import Run
from loadtests.rows import Goal, Metric, Row

type Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]
type Paint = Callable[[str, Style], str]

_CODES: dict[Style, int] = {
    "bold": 1,
    "dim": 2,
    "red": 31,
    "green": 32,
    "yellow": 33,
    "cyan": 36,
}

GAP = "  "


def colour(text: str, style: Style) -> str:
    """Return `text` as a terminal shows it in a style."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def plain(text: str, _style: Style) -> str:
    """Return `text` as it is."""
    return text


def amount(value: float, metric: Metric) -> str:
    """Format a figure with its unit: three digits that matter, in the unit they read best in."""
    match metric.unit:
        case "us" if value >= 1e6:
            return f"{_digits(value / 1e6)} s"
        case "us" if value >= 1e3:
            return f"{_digits(value / 1e3)} ms"
        case "us":
            return f"{_digits(value)} µs"
        case "times":
            return f"{value:.2f}x"
        case "count":
            return f"{value:.0f}"
        case unit:
            return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def figures_table(run: Run, paint: Paint) -> list[str]:
    """Return a table per group of rows, with a line per figure and a column per contender.

    Below each median stands how far the rounds lie from it at most; a run with errors is marked.
    """
    lines: list[str] = []
    for group in GROUPS:
        rows = [row for row in ROWS.values() if row.group == group and run.of(row.name)]
        if rows:
            lines += ["", *_group(run, rows, paint)] if lines else _group(run, rows, paint)
    return lines


def columns(run: Run, rows: Sequence[Row]) -> list[str]:
    """Return who was measured in any of the rows, in the order in which contenders are listed."""
    there = {name for row in rows for name in run.of(row.name)}
    known = [name for name in CONTENDERS if name in there]
    return known + [
        name for name in dict.fromkeys(s.contender for s in run.samples) if name in there - {*known}
    ]


def _group(run: Run, rows: Sequence[Row], paint: Paint) -> list[str]:
    names = columns(run, rows)
    label = max(len(_label(row, metric)) for row in rows for metric in (row.metric, *row.also))
    width = {name: max(len(name), 9) for name in names}
    lines = [" " * label + GAP + GAP.join(paint(f"{n:>{width[n]}}", "bold") for n in names)]
    for row in rows:
        samples = run.of(row.name)
        for metric in (row.metric, *row.also):
            found = {name: figure(own, metric) for name, own in samples.items()}
            cells, spreads = [], []
            for name in names:
                value = found.get(name)
                cell = f"{_cell(value, metric, name in samples):>{width[name]}}"
                style: Style | None = None
                if name in samples and (value is None or value.errors):
                    style = "red"
                elif name == OURS:
                    style = "cyan"
                cells.append(paint(cell, style) if style else cell)
                spread = f"±{value.spread:.1%}" if value and value.rounds > 1 else ""
                spreads.append(paint(f"{spread:>{width[name]}}", "dim"))
            lines.append(f"{_label(row, metric):<{label}}{GAP}{GAP.join(cells)}")
            if any(value and value.rounds > 1 for value in found.values()):
                lines.append(" " * label + GAP + GAP.join(spreads))
    return lines


def _label(row: Row, metric: Metric) -> str:
    return f"{row.name}, {metric.label}"


def _cell(value: Figure | None, metric: Metric, measured: bool) -> str:
    if value is None:
        return "failed" if measured else "-"
    return amount(value.median, metric) + ("!" if value.errors else "")


def goals_table(run: Run, paint: Paint) -> list[str]:
    """Return a table with a line per goal: what was reached of it, with the rounds' extremes."""
    head = ("", "compared with", "reached", "rounds", "at least", "aim")
    body: list[tuple[tuple[str, ...], Verdict]] = []
    for row in ROWS.values():
        samples = run.of(row.name)
        for goal in row.goals:
            found = verdict(goal, row.metric, samples)
            if found is not None:
                body.append((_goal_cells(row, goal, found), found))
    if not body:
        return []
    widths = [
        max(len(cells[column]) for cells in (head, *(cells for cells, _ in body)))
        for column in range(len(head))
    ]
    lines = [paint(_line(head, widths), "bold")]
    for cells, found in body:
        word, style = _WORDS[found.reached]
        lines.append(f"{_line(cells, widths)}{GAP}{paint(word, style)}")
    return lines


_WORDS: dict[str, tuple[str, Style]] = {
    "aim": ("aim reached", "green"),
    "goal": ("reached", "yellow"),
    "missed": ("NOT REACHED", "red"),
}


def _goal_cells(row: Row, goal: Goal, found: Verdict) -> tuple[str, ...]:
    sign = "≤" if goal.kind == "share" else "≥"
    compared = "itself" if goal.kind == "value" else found.rival
    if len(goal.against) > 1:
        compared = f"{found.rival}, best of {len(goal.against)}"
    rounds = f"{found.low:.2f}-{found.high:.2f}" if found.low != found.high else ""
    aim = "" if goal.aim is None else f"{sign} {goal.aim:g}"
    return row.name, compared, f"{found.ratio:.2f}x", rounds, f"{sign} {goal.at_least:g}", aim


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(
        f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def report(run: Run, paint: Paint = plain) -> str:
    """Return everything that is printed at the end of a run."""
    machine = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    lines = [
        paint(
            f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}", "dim"
        ),
        paint(versions, "dim"),
        "",
        *figures_table(run, paint),
        "",
        *goals_table(run, paint),
    ]
    marked = [sample for sample in run.samples if sample.errors]
    if marked:
        lines += ["", paint("Samples with errors (marked with ! above):", "red")]
    for sample in marked:
        what = ", ".join(f"{kind} {count}" for kind, count in sample.errors.items())
        why = str(sample.detail.get("why", "")).strip()
        lines.append(f"  {sample.row}, {sample.contender}, round {sample.round}: {what}")
        lines += [f"    {line}" for line in why.splitlines()[:12]]
    return "\n".join([*lines, *conditions(run)])


def conditions(run: Run) -> list[str]:
    """Return what limits the trust in the figures: neighbours, and a machine of changing speed."""
    lines = []
    disturbed = [sample for sample in run.samples if sample.disturbed]
    if disturbed:
        worst = max(sample.others for sample in disturbed)
        lines.append(
            f"{len(disturbed)} of {len(run.samples)} samples were taken while other programs used "
            f"up to {worst:.0%} of a core"
        )
    spins = sorted(s.values["spin_ms"] for s in run.samples if "spin_ms" in s.values)
    if spins:
        slow = spins[len(spins) * 9 // 10] / spins[len(spins) // 10] - 1
        lines.append(f"the machine's own speed varied by {slow:.0%} (a fixed loop, 10th to 90th)")
    return ["", *lines] if lines else []
