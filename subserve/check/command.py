"""``subserve check`` once its options are known: run, judge, print."""

import os
import sys

from subserve.check import events
from subserve.check.distributions import owners
from subserve.check.findings import judge
from subserve.check.process import Outcome, run
from subserve.check.progress import Progress
from subserve.check.table import as_json, as_text
from subserve.errors import ConfigError
from subserve.options import Config

DEFAULT_WORKERS = 4
"""Two that are measured one after the other, and two that start at once."""


def main(config: Config, paths: list[str], *, json: bool) -> int:
    """Check the app of `config`, requesting `paths`; print what was found, return the exit code.

    Raises `ConfigError` for a path that is none.
    """
    for path in paths:
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ConfigError(f"--get {path}: expected a path such as /health, percent-encoded")
    progress = Progress()
    try:
        outcome = run(config, paths, progress)
    finally:
        progress.end()
    ordinary = run(config, [], ordinary=True) if _is_worth_comparing(outcome) else None
    files = [e.path for e in outcome.told if isinstance(e, (events.Loaded, events.Loading))]
    report = judge(config.app, config.workers, outcome, owners(files), ordinary)
    if json:
        print(as_json(report))
    else:
        print(as_text(report, colours=_wants_colours()))
    return report.exit_code


def _is_worth_comparing(outcome: Outcome) -> bool:
    """Say whether the app did not come up, which may be its own fault."""
    return not any(isinstance(event, events.Finished) for event in outcome.told)


def _wants_colours() -> bool:
    """Honour NO_COLOR, set to anything but nothing, and terminals that know no colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
