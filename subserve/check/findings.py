"""From what the process told to what a user needs to know: a table of modules, and findings.

A function of values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from subserve import crash
from subserve.check import events
from subserve.check.process import Outcome
from subserve.signals import name_of


class Severity(StrEnum):
    """What a finding means: the app will break, it works at a price, or it is good to know."""

    BREAKS = "breaks"
    COSTS = "costs"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that matters in a worker: what, what to do about it, and where it was seen."""

    severity: Severity
    what: str
    advice: str = ""
    where: tuple[str, ...] = ()


class Verdict(StrEnum):
    """What became of an extension module."""

    WORKS = "works"
    REFUSED = "refused"
    CRASHES = "crashes"
    UNKNOWN = "not finished"


@dataclass(frozen=True, slots=True)
class Module:
    """A row of the table.  `memory` (bytes) and `threads` are what each worker adds, if known."""

    name: str
    path: str
    distribution: str
    version: str
    loaded: str
    memory: int | None
    threads: int | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a check.  `memory_per_worker` and `left_bytes` are in bytes, None if unknown.

    `exit_code` is 0, 1 for findings that will break the app in workers, 3 where it cannot be loaded
    or started anywhere.
    """

    app: str
    workers: int
    interface: str
    modules: tuple[Module, ...]
    findings: tuple[Finding, ...]
    memory_per_worker: int | None
    left_bytes: int | None
    requests: int
    exit_code: int
    traceback: str = field(default="")


LEFT_WORTH_TELLING = 4 * 2**20
"""Bytes left behind by a recycled worker; less is noise.  Not measured."""

_KINDS = {
    ("native", 2): "own GIL",
    ("copy", 2): "private copy",
    ("copy", 1): "private copy, single-phase",
}


def judge(
    app: str,
    workers: int,
    outcome: Outcome,
    owners: Mapping[str, tuple[str, str]],
    ordinary: Outcome | None = None,
) -> Report:
    """Judge what a process told.

    `owners` are the distributions by file; `ordinary` is how the app was loaded by an ordinary
    process, if that was tried.
    """
    told = outcome.told
    findings = [
        *_crash(outcome, ordinary),
        *_not_up(told, ordinary),
        *_gone(told),
        *_not_loaded(told),
        *_answers(told),
        *_notes(told),
    ]
    finished = next((e for e in told if isinstance(e, events.Finished)), None)
    left = finished.left_bytes if finished is not None else None
    if left is not None and left > LEFT_WORTH_TELLING:
        findings.append(
            Finding(
                Severity.COSTS,
                f"a worker that is recycled leaves {left / 2**20:.1f} MiB behind",
                "extension modules keep objects, and those keep their interpreter's memory; the "
                "variable PYTHONMALLOC=malloc gives most of it back, --max-rss bounds it",
            )
        )
    ups = [e for e in told if isinstance(e, events.Up)]
    alone = [e.memory for e in ups if e.memory is not None]
    failure = next((e for e in told if isinstance(e, events.NotUp)), None)
    return Report(
        app=app,
        workers=workers,
        interface=ups[0].interface if ups else "",
        modules=_modules(told, outcome, owners),
        findings=_merged(findings),
        memory_per_worker=alone[1] if len(alone) > 1 else None,
        left_bytes=left,
        requests=sum(isinstance(e, events.Answered) for e in told),
        exit_code=_exit_code(findings, failure, ordinary),
        traceback="" if failure is None else failure.traceback,
    )


def _exit_code(
    findings: Iterable[Finding], failure: events.NotUp | None, ordinary: Outcome | None
) -> int:
    if failure is not None and (failure.exit_code == 2 or _fails(ordinary)):
        return failure.exit_code
    return int(any(finding.severity is Severity.BREAKS for finding in findings))


def _fails(ordinary: Outcome | None) -> bool:
    return ordinary is not None and not any(
        isinstance(event, events.Finished) for event in ordinary.told
    )


def unfinished(told: Iterable[events.Event]) -> list[events.Loading]:
    """Return what workers were loading at the end, the innermost of each first."""
    open_by_worker: dict[str, list[events.Loading]] = {}
    for event in told:
        match event:
            case events.Loading():
                open_by_worker.setdefault(event.worker, []).append(event)
            case events.Loaded() | events.NotLoaded():
                stack = open_by_worker.get(event.worker, [])
                stack[:] = [loading for loading in stack if loading.name != event.name]
    return [loading for stack in open_by_worker.values() for loading in reversed(stack)]


def culprits(outcome: Outcome) -> list[str]:
    """Return the files of the extension modules that a crash points to, the likeliest first."""
    seen = crash.read(outcome.crash, outcome.output).libraries
    return list(dict.fromkeys([*seen, *(loading.path for loading in unfinished(outcome.told))]))


def _crash(outcome: Outcome, ordinary: Outcome | None) -> Iterable[Finding]:
    for event in outcome.told:
        if isinstance(event, events.Hangs):
            seen = crash.read(outcome.crash, outcome.output)
            yield Finding(
                Severity.BREAKS,
                f"worker {event.worker} did not {event.doing} within {event.seconds:g} s",
                "the stacks say where it hangs",
                seen.frames or tuple(outcome.crash.splitlines()[-20:]),
            )
            return
    if outcome.killed:
        yield Finding(Severity.BREAKS, "the process did nothing any more and was killed")
        return
    finished = any(isinstance(event, events.Finished) for event in outcome.told)
    if outcome.code == 0 and (finished or _ended_in_order(outcome.told)):
        return
    yield _crash_finding(outcome, ordinary)


def _ended_in_order(told: Iterable[events.Event]) -> bool:
    return any(isinstance(event, (events.NotUp, events.Gone)) for event in told)


def _crash_finding(outcome: Outcome, ordinary: Outcome | None) -> Finding:
    stages = [e.text for e in outcome.told if isinstance(e, events.Stage)]
    when = f" ({stages[-1]})" if stages else ""
    how = f"by {name_of(-outcome.code)}" if outcome.code < 0 else f"with exit code {outcome.code}"
    seen = crash.read(outcome.crash, outcome.output)
    loading = unfinished(outcome.told)
    who = ""
    if loading:
        who = f" while {loading[0].name} was loaded"
    elif seen.libraries:
        who = f" with {seen.libraries[0]} on the stack"
    advice = "leave it out, or report it to its authors"
    if any(isinstance(event, events.Up) for event in outcome.told):
        advice = "the app loads, and crashes in use: report it with the stack, or leave it out"
    elif ordinary is not None and ordinary.code < 0:
        advice = "an ordinary Python crashes with it, too"
    elif ordinary is not None and not _fails(ordinary):
        advice = "it works in an ordinary process: report it to its authors, or leave it out"
    where = (*seen.words, *seen.frames[:12])
    return Finding(Severity.BREAKS, f"the process ended {how}{who}{when}", advice, where)


def _not_up(told: Iterable[events.Event], ordinary: Outcome | None) -> Iterable[Finding]:
    for event in told:
        if isinstance(event, events.NotUp):
            advice = ""
            if _fails(ordinary):
                advice = "it cannot be loaded by an ordinary Python either: see to that first"
            elif ordinary is not None:
                advice = "it can be loaded by an ordinary Python, only workers cannot"
            yield Finding(Severity.BREAKS, event.reason, advice)
            return


def _gone(told: Iterable[events.Event]) -> Iterable[Finding]:
    for event in told:
        if isinstance(event, events.Gone) and event.broken:
            last = event.broken.strip().rpartition("\n")[2]
            yield Finding(Severity.BREAKS, f"a worker broke: {last}", "", (event.broken,))
        if isinstance(event, events.Gone) and event.threads:
            yield Finding(
                Severity.COSTS,
                f"threads that do not end with their worker: {event.threads}",
                "stop them in the lifespan shutdown or an atexit hook; until then a recycled "
                "worker is abandoned, and the process replaced in time",
            )


def _not_loaded(told: Iterable[events.Event]) -> Iterable[Finding]:
    for event in told:
        if isinstance(event, events.NotLoaded):
            yield Finding(
                Severity.COSTS,
                f"{event.name} could not be loaded, and the app goes on without: {event.error}",
                "a slower replacement in Python may have taken its place",
            )


def _answers(told: Iterable[events.Event]) -> Iterable[Finding]:
    for event in told:
        if isinstance(event, events.Answered) and (event.error or event.status >= 500):
            what = event.error or f"status {event.status}"
            yield Finding(Severity.BREAKS, f"GET {event.path}: {what}")


def _notes(told: Iterable[events.Event]) -> Iterable[Finding]:
    for event in told:
        if isinstance(event, events.Noted):
            severity, what, advice = _MEANINGS[event.what]
            yield Finding(severity, what.format(event.detail), advice, (event.where,))


_MEANINGS = {
    "fork": (
        Severity.BREAKS,
        "{}: a worker cannot fork, it raises RuntimeError",
        "use subprocess, or multiprocessing with the spawn start method",
    ),
    "process": (
        Severity.COSTS,
        "{}: acts on all workers at once",
        "leave it to the program that starts the server",
    ),
    "signal": (
        Severity.COSTS,
        "{}: raises ValueError, signals reach only the main interpreter",
        "what should happen at a stop belongs in the lifespan shutdown or an atexit hook",
    ),
    "locale": (
        Severity.COSTS,
        "{}: the locale belongs to the process, all workers share it",
        "set it by LC_ALL before the start",
    ),
    "chdir": (
        Severity.COSTS,
        "chdir({}): the current folder belongs to the process, all workers share it",
        "use absolute paths",
    ),
    "setrlimit": (
        Severity.COSTS,
        "setrlimit({}): acts on all workers at once",
        "leave it to the program that starts the server",
    ),
    "atexit": (
        Severity.NOTE,
        "atexit.{}: runs when the worker ends, in a thread, for a second at most",
        "",
    ),
    "main thread": (
        Severity.NOTE,
        "threading.{}: it is the thread of the worker, not that of the process",
        "",
    ),
    "thread": (
        Severity.NOTE,
        "thread {}: has to end when the worker does, or the worker is abandoned",
        "",
    ),
    "daemon thread": (
        Severity.NOTE,
        "daemon thread {}: has to end when the worker does, or the worker is abandoned",
        "",
    ),
}


def _merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return each finding once, though several workers had it; the worst first."""
    merged: dict[tuple[Severity, str], Finding] = {}
    for finding in findings:
        key = (finding.severity, finding.what)
        where = dict.fromkeys([*(merged[key].where if key in merged else ()), *finding.where])
        merged[key] = Finding(finding.severity, finding.what, finding.advice, tuple(where))
    order = list(Severity)
    return tuple(sorted(merged.values(), key=lambda finding: order.index(finding.severity)))


def _modules(
    told: Iterable[events.Event], outcome: Outcome, owners: Mapping[str, tuple[str, str]]
) -> tuple[Module, ...]:
    loaded: dict[str, list[events.Loaded]] = {}
    refused: dict[str, events.NotLoaded] = {}
    for event in told:
        if isinstance(event, events.NotLoaded):
            refused[event.name] = event
        if isinstance(event, events.Loaded) and _is_theirs(event):
            loaded.setdefault(event.name, []).append(event)
    crashed = culprits(outcome) if outcome.code < 0 else []
    rows = []
    for name, seen in loaded.items():
        last = seen[-1]
        verdict = Verdict.CRASHES if last.path in crashed[:1] else Verdict.WORKS
        verdict = Verdict.REFUSED if name in refused else verdict
        # The second worker's: the first one pays for what all share.
        measured = [e for e in seen if e.memory is not None][-1:]
        rows.append(
            Module(
                name,
                last.path,
                *owners.get(last.path, ("", "")),
                _KINDS.get((last.mode, last.phases), last.mode),
                round(median(e.memory or 0 for e in measured)) if measured else None,
                max((e.threads or 0 for e in measured), default=None),
                verdict,
            )
        )
    pending = {e.name: e for e in unfinished(told)} | refused
    for name, event in pending.items():
        if name in loaded:
            continue
        verdict = Verdict.REFUSED if name in refused else Verdict.UNKNOWN
        if event.path in crashed[:1]:
            verdict = Verdict.CRASHES
        owner = owners.get(event.path, ("", ""))
        rows.append(Module(name, event.path, *owner, "", None, None, verdict))
    return tuple(rows)


def _is_theirs(event: events.Loaded) -> bool:
    return event.mode != "stdlib" and not event.name.startswith("subserve.")
