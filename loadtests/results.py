"""What was measured, and how it is kept: one JSON file a run, written anew with each sample."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.environment import ROOT

FORMAT = 1
"""Raised when files of before can no longer be read."""

DISTURBED = 0.1
"""Share of a core that others may use; the kernel's own threads take 0.03."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender measured once.

    `values` are the numbers by metric, `errors` counts of what went wrong, `commands` what was run
    and `detail` whatever helps to understand the numbers.
    """

    row: str
    contender: str
    round: int
    values: dict[str, float]
    errors: dict[str, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others of a run."""
        return self.row, self.contender, self.round

    @property
    def others(self) -> float:
        """How much of a core others used meanwhile, as a share."""
        return self.values.get("others_share", 0.0)

    @property
    def disturbed(self) -> bool:
        """Whether others used enough of the machine to be seen in the figures."""
        return self.others > DISTURBED


@dataclass(slots=True)
class Run:
    """A whole run: where, when, with what, and the samples so far."""

    machine: dict[str, Any]
    versions: dict[str, str]
    options: dict[str, Any]
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    samples: list[Sample] = field(default_factory=list)

    def of(self, row: str) -> dict[str, list[Sample]]:
        """Return the samples of a row by contender, in the order of the rounds."""
        found: dict[str, list[Sample]] = {}
        for sample in sorted(self.samples, key=lambda sample: sample.round):
            if sample.row == row:
                found.setdefault(sample.contender, []).append(sample)
        return found

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")
        partial.replace(path)


class NotARun(Exception):
    """A file does not hold a run that can be read."""


def load(path: Path) -> Run:
    """Read a file that `Run.save` wrote; raises `NotARun`."""
    try:
        raw = json.loads(path.read_text())
        if raw.pop("format") != FORMAT:
            raise NotARun(f"{path} was written by another version of the load tests")
        samples = [Sample(**sample) for sample in raw.pop("samples")]
        return Run(samples=samples, **raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotARun(f"{path}: {error}") from error


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, kernel."""
    return {
        "processor": _processor(Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "usable_cores": sorted(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "kernel": platform.release(),
        "architecture": platform.machine(),
    }


def _processor(text: str) -> str:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return "unknown"


def describe_checkout() -> str:
    """Return the commit of this checkout, with a plus sign where it was changed.

    It also says whether the part that can be compiled was; the servers run from this checkout.
    """
    commit = _git("rev-parse", "--short=12", "HEAD") or "without git"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "subserve")
    compiled = any((ROOT / "subserve").rglob("*.so"))
    return f"{commit}{'+' if changed else ''} ({'compiled' if compiled else 'pure Python'})"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
    except OSError, subprocess.SubprocessError:
        return ""
    return done.stdout.strip()


def missing(wanted: Iterable[tuple[str, str, int]], run: Run) -> list[tuple[str, str, int]]:
    """Return those of the wanted samples that a run does not have yet, in their order."""
    there = {sample.key for sample in run.samples}
    return [key for key in wanted if key not in there]
