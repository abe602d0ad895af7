"""Write docs/compatibility.md from what came of the suite."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.compat.runner import ROOT, Result

PATH = ROOT / "docs" / "compatibility.md"

KNOWN = {
    "ddtrace": (
        "works.  While its agent cannot be reached, its exit hook tries again for 3 to 5 seconds, "
        "longer than the second that a worker has for its exit hooks: a worker that is recycled "
        "then is left open, and the process is replaced in time."
    ),
    "time-machine": (
        "it exchanges functions in the method table of the standard library's `datetime`, of which "
        "there is one for all workers: when one worker comes back from its travel, the others do, "
        "too.  Travel in one worker at a time works.  Nothing the loader can change; it is a tool "
        "for tests."
    ),
}
"""What is known not to work, or not in all respects, and why."""

_HEAD = """# Compatibility

<!-- Made by `make compat`; do not edit. -->

Distributions with extension modules that web projects use, each doing a piece of its real work in
four workers of one process at once, three rounds of workers one after the other (created, loaded,
used, closed), and the end of the process.  Last run on {date}, on {system}.

- **loaded** counts the extension modules that the distribution and what it needs bring along: *own
  GIL* are loaded by CPython as they are, a *copy* is private to its worker; see
  [extensions.md](extensions.md).
- **memory** is what one more worker adds (MiB), Python modules and objects included, on the first
  Python in the table that has it; **left** is what stays behind for each worker that is recycled.
  The interpreter itself is a part of that:
  [one object keeps all of its memory](extensions.md#what-is-different).
- An empty place: there is no wheel for that Python.
"""


def write(by_version: Mapping[str, Sequence[Result]], path: Path = PATH) -> None:
    """Write the page; results are by version of Python."""
    versions = list(by_version)
    table = {r.distribution: {} for results in by_version.values() for r in results}  # type: ignore[var-annotated]
    for version, results in by_version.items():
        for result in results:
            table[result.distribution][version] = result
    titles = ["distribution", "version", *(f"Python {v}" for v in versions)]
    titles += ["loaded", "memory", "left", "what it does here"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [_row(table[name], versions) for name in sorted(table)]
    count = len(table)
    works = sum(all(not r.problem for r in row.values()) for row in table.values())
    head = _HEAD.format(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        system=f"{platform.system()} {platform.machine()}",
    )
    text = f"{head}\n{works} of {count} work.\n\n" + "\n".join(lines) + "\n" + _known(table)
    path.write_text(text, encoding="utf-8")


def _row(results: Mapping[str, Result], versions: Sequence[str]) -> str:
    first = next(iter(results.values()))
    verdicts = [_verdict(results[v]) if v in results else "" for v in versions]
    ways = ", ".join(f"{count} {way}" for way, count in sorted(first.ways.items()))
    cells = [first.distribution, first.version, *verdicts, ways]
    cells += [_mib(first.memory), _mib(first.left), first.does]
    return f"| {' | '.join(cells)} |"


def _verdict(result: Result) -> str:
    if result.problem:
        return "**no**"
    return "works, threads stay" if result.threads else "works"


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.1f}"


def _known(table: Mapping[str, Mapping[str, Result]]) -> str:
    lines = []
    for name, by_version in sorted(table.items()):
        seen = dict.fromkeys(r.problem for r in by_version.values() if r.problem)
        threads = dict.fromkeys(r.threads for r in by_version.values() if r.threads)
        if name in KNOWN:
            lines.append(f"- **{name}**: {KNOWN[name]}")
        elif seen:
            lines.append(f"- **{name}**: {'; '.join(seen)} (not yet looked into)")
        elif threads:
            lines.append(
                f"- **{name}**: threads that do not end by themselves: {'; '.join(threads)}"
            )
    return (
        "\n## What is not as it should be, and why\n\n" + "\n".join(lines) + "\n" if lines else ""
    )
