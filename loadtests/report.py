"""One HTML file that holds a whole run: goals, figures, charts, conditions, commands."""

import base64
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from loadtests.contenders import OURS
from loadtests.environment import ROOT
from loadtests.figures import Verdict, figure, verdict
from loadtests.registry import GROUPS, ROWS
from loadtests.results import Run
from loadtests.rows import Metric, Row
from loadtests.table import amount, columns, conditions

DRAW_SECONDS = 120.0

STYLE = """
:root { --ink: #1f2933; --soft: #5f6c79; --line: #e1e6ea; --paper: #fff; --ours: #e3f3f5; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p.where, td small { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } td small { display: block; }
.ours { background: var(--ours); font-weight: 600; } .bad { color: #b3261e; }
.badge { border-radius: .8rem; padding: .1rem .6rem; color: #fff; font-size: .8rem; }
.aim { background: #2f8f4e; } .goal { background: #a67c00; } .missed { background: #b3261e; }
img { max-width: 100%; height: auto; } pre { white-space: pre-wrap; font-size: .8rem; }
"""

WORDS = {"aim": "aim reached", "goal": "reached", "missed": "not reached"}


class DrawingFailed(Exception):
    """The charts could not be made."""


def draw(programs: Path, source: Path, folder: Path, module: str = "") -> list[Path]:
    """Make the charts with the Python of the environment; raises `DrawingFailed`.

    They are those of a run, or what another `module` of the charts makes of its own file.
    """
    name = f"loadtests.charts.{module}" if module else "loadtests.charts"
    argv = [str(programs / "python"), "-m", name, str(source), str(folder)]
    try:
        done = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, timeout=DRAW_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DrawingFailed(str(error)) from error
    if done.returncode != 0:
        raise DrawingFailed(done.stderr)
    return [Path(line) for line in done.stdout.splitlines()]


def html(run: Run, charts: Sequence[Path]) -> str:
    """Return the page; the charts are in it."""
    machine = run.machine
    where = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_mib'] // 1024} GB, "
        f"Linux {machine['kernel']}, {run.started}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>subserve under load, {escape(run.started)}</title><style>{STYLE}</style>",
        "<h1>subserve under load</h1>",
        f"<p class=where>{escape(where)}<br>{escape(versions)}<br>",
        f"<code>{escape(shlex.join(run.options.get('command', [])))}</code></p>",
        *_goals(run),
        *_figures(run),
        *(_picture(path) for path in charts),
        *_conditions(run),
        *_commands(run),
    ]
    return "\n".join(parts) + "\n"


def _table(head: Iterable[str], lines: Iterable[str]) -> list[str]:
    cells = "".join(f"<th>{cell}" for cell in head)
    return ["<div class=wide><table>", f"<tr>{cells}", *lines, "</table></div>"]


def _goals(run: Run) -> list[str]:
    lines = [
        _goal(row, found)
        for row in ROWS.values()
        for goal in row.goals
        if (found := verdict(goal, row.metric, run.of(row.name))) is not None
    ]
    if not lines:
        return []
    head = ("Work", "Compared with", "Ratio", "Rounds", "At least", "Aim", "")
    return ["<h2>Goals</h2>", *_table(head, lines)]


def _goal(row: Row, found: Verdict) -> str:
    goal = found.goal
    sign = "&le;" if goal.kind == "share" else "&ge;"
    aim = "" if goal.aim is None else f"{sign} {goal.aim:g}"
    return (
        f"<tr><td>{escape(row.title)}<small>{row.name}, {row.metric.label}</small>"
        f"<td>{found.rival or 'itself'}<td><b>{found.ratio:.2f}&times;</b>"
        f"<td>{found.low:.2f}&ndash;{found.high:.2f}<td>{sign} {goal.at_least:g}<td>{aim}"
        f"<td><span class='badge {found.reached}'>{WORDS[found.reached]}</span>"
    )


def _figures(run: Run) -> list[str]:
    parts = ["<h2>Medians of the rounds</h2>"]
    for group in GROUPS:
        rows = [row for row in ROWS.values() if row.group == group and run.of(row.name)]
        if rows:
            names = columns(run, rows)
            lines = [
                _figure_line(run, row, metric, names)
                for row in rows
                for metric in (row.metric, *row.also)
            ]
            parts += [f"<h3>{group}</h3>", *_table(["", *names], lines)]
    return parts


def _figure_line(run: Run, row: Row, metric: Metric, names: Sequence[str]) -> str:
    samples = run.of(row.name)
    cells = [f"<tr><td>{escape(row.title)}<small>{row.name}, {metric.label}</small>"]
    for name in names:
        kind = " class=ours" if name == OURS else ""
        found = figure(samples.get(name, ()), metric)
        if found is None:
            word = "<span class=bad>failed</span>" if name in samples else "&ndash;"
            cells.append(f"<td{kind}>{word}")
            continue
        mark = " <span class=bad>errors</span>" if found.errors else ""
        spread = f"<small>&plusmn;{found.spread:.1%}</small>" if found.rounds > 1 else ""
        cells.append(f"<td{kind}>{amount(found.median, metric)}{mark}{spread}")
    return "".join(cells)


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<p><img alt='{escape(path.stem)}' src='data:image/png;base64,{data}'></p>"


def _conditions(run: Run) -> list[str]:
    lines = [f"<li>{escape(line)}" for line in conditions(run) if line]
    for sample in run.samples:
        if sample.errors:
            what = ", ".join(f"{kind} {count}" for kind, count in sample.errors.items())
            why = str(sample.detail.get("why", "")).strip()
            lines.append(
                f"<li class=bad>{sample.row}, {sample.contender}, round {sample.round}: "
                f"{escape(what)}" + (f"<pre>{escape(why)}</pre>" if why else "")
            )
    return ["<h2>Conditions</h2><ul>", *lines, "</ul>"] if lines else []


def _commands(run: Run) -> list[str]:
    seen: dict[tuple[str, str], list[str]] = {}
    for sample in run.samples:
        seen.setdefault((sample.row, sample.contender), sample.commands)
    lines = [
        f"<b>{row}, {contender}</b>\n" + escape("\n".join(commands))
        for (row, contender), commands in seen.items()
        if commands
    ]
    body = "\n\n".join(lines)
    return [f"<details><summary>Commands, of the first rounds</summary><pre>{body}</pre></details>"]
