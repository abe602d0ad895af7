"""What all load generators have in common: they are run, and they count."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.environment import ROOT

GRACE_SECONDS = 60.0
"""How much longer than told a load generator may take before it is ended."""


class ToolFailed(Exception):
    """A load generator could not be run, or did not report."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One run: `requests` or messages served, how long it took, bytes read, errors by kind.

    `values` is what else it knows, such as how long responses took, by metric.
    """

    requests: int
    seconds: float
    bytes: int
    errors: dict[str, int] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)


def output_of(argv: Sequence[str], seconds: float) -> str:
    """Run a load generator that should take `seconds`; raises `ToolFailed`."""
    try:
        done = subprocess.run(
            argv,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolFailed(str(error)) from error
    if done.returncode != 0:
        raise ToolFailed(f"{argv[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
