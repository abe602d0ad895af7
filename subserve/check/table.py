"""A report as text for people, and as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from subserve.check.findings import Finding, Module, Report, Severity, Verdict
from subserve.memory import in_mib

_COLOURS = {"red": "31", "yellow": "33", "green": "32", "dim": "2", "bold": "1"}
_VERDICT_COLOURS = {Verdict.WORKS: "green", Verdict.UNKNOWN: "yellow"}
_HEADINGS = {
    Severity.BREAKS: ("will break", "red"),
    Severity.COSTS: ("works, but", "yellow"),
    Severity.NOTE: ("good to know", "bold"),
}

MAX_PLACES = 3
"""How many places of a note or a warning are shown; all of them are in the JSON."""


class Painter:
    """Puts text in colours, or leaves it."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, text: str, colour: str) -> str:
        """Return `text` in a colour."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._colours else text


def as_json(report: Report) -> str:
    """Return the whole report as an indented JSON object."""
    return json.dumps(asdict(report), indent=2)


def as_text(report: Report, *, colours: bool) -> str:
    """Return the report as tables and paragraphs, without a newline at its end."""
    paint = Painter(colours=colours)
    parts = [_modules(report.modules, paint), *_findings(report.findings, paint)]
    if report.traceback:
        parts.insert(0, report.traceback.rstrip())
    parts.append(_verdict(report, paint))
    return "\n\n".join(part for part in parts if part)


def _modules(modules: Sequence[Module], paint: Painter) -> str:
    if not modules:
        return "no extension modules but those of the standard library"
    rows = [_row(group) for group in _by_distribution(modules).values()]
    head = ("extension modules", "distribution", "loaded", "memory", "threads", "verdict")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [paint(_line(head, widths), "bold")]
    for row in rows:
        verdict = Verdict(row[-1])
        colour = _VERDICT_COLOURS.get(verdict, "red")
        lines.append(_line(row[:-1], widths) + "  " + paint(row[-1], colour))
    return "\n".join(lines)


def _by_distribution(modules: Sequence[Module]) -> Mapping[object, list[Module]]:
    """Put modules in one row that come with one distribution and fare alike."""
    groups: dict[object, list[Module]] = {}
    for module in modules:
        owner = module.distribution or module.name
        groups.setdefault((owner, module.loaded, module.verdict), []).append(module)
    return groups


def _row(group: Sequence[Module]) -> tuple[str, ...]:
    first = group[0]
    name = first.name if len(group) == 1 else f"{first.name} and {len(group) - 1} more"
    memory = [m.memory for m in group if m.memory is not None]
    threads = [m.threads for m in group if m.threads is not None]
    return (
        name,
        f"{first.distribution} {first.version}".strip() or "-",
        first.loaded or "-",
        in_mib(max(0, sum(memory))) if memory else "-",
        str(sum(threads)) if threads else "-",
        str(first.verdict),
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.ljust(width) for cell, width in zip(cells, widths[: len(cells)], strict=True)
    ).rstrip(" " if len(cells) == len(widths) else "")


def _findings(findings: Sequence[Finding], paint: Painter) -> list[str]:
    parts = []
    for severity, (heading, colour) in _HEADINGS.items():
        these = [finding for finding in findings if finding.severity is severity]
        if these:
            lines = [paint(heading, colour)]
            for finding in these:
                lines += _finding(finding, paint)
            parts.append("\n".join(lines))
    return parts


def _finding(finding: Finding, paint: Painter) -> list[str]:
    places = [line for place in finding.where for line in place.splitlines()]
    breaks = finding.severity is Severity.BREAKS
    shown = places if breaks else places[:MAX_PLACES]
    lines = [f"  {finding.what}"]
    if finding.advice:
        lines.append(f"    {finding.advice}")
    lines += [paint(f"      {place}", "dim") for place in shown]
    if len(places) > len(shown):
        lines.append(paint(f"      and {len(places) - len(shown)} more places", "dim"))
    return lines


def _verdict(report: Report, paint: Painter) -> str:
    parts = [f"{report.app} in {report.workers} workers"]
    if report.interface:
        parts.append(report.interface.upper())
    if report.requests:
        parts.append(f"{report.requests} requests")
    if report.memory_per_worker is not None:
        parts.append(f"{in_mib(report.memory_per_worker)} for each worker")
    if report.left_bytes is not None:
        parts.append(f"{in_mib(report.left_bytes)} left when one is recycled")
    match report.exit_code:
        case 0:
            verdict = paint("works in sub-interpreters", "green")
        case 1:
            verdict = paint("does not work in sub-interpreters as it is", "red")
        case _:
            verdict = paint("could not be loaded", "red")
    return f"{', '.join(parts)}: {verdict}"
