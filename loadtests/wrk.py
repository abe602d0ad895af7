"""Run wrk, the load generator for HTTP/1.1, and read what it counted."""

import json
from collections.abc import Sequence
from pathlib import Path

from loadtests.tools import Counted, ToolFailed, output_of

SCRIPTS = Path(__file__).parent / "wrk_scripts"

MARK = "loadtests {"
"""What ``report.lua`` puts before its line of JSON."""

REQUEST_TIMEOUT = 20
"""Seconds after which wrk counts a request as failed; its own default of 2 is short for uploads."""

ERRORS = ("connect", "read", "write", "timeout", "status")
TIMES = ("p50_us", "p90_us", "p99_us", "max_us")


def parse(output: str) -> Counted:
    """Read the line that ``report.lua`` prints; raise `ToolFailed` where there is none."""
    for line in output.splitlines():
        if line.startswith(MARK):
            found = json.loads(line[len(MARK) - 1 :])
            errors = {kind: found[kind] for kind in ERRORS if found[kind]}
            values = {name: found[name] for name in TIMES}
            return Counted(found["requests"], found["seconds"], found["bytes"], errors, values)
    raise ToolFailed(f"wrk did not report:\n{output}")


def command(
    url: str,
    seconds: float,
    connections: int,
    script: str = "report.lua",
    arguments: Sequence[str] = (),
    headers: Sequence[str] = (),
) -> list[str]:
    """Return the command line of wrk; it takes whole seconds only, at least one."""
    return [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        f"--timeout={REQUEST_TIMEOUT}s",
        f"--script={SCRIPTS / script}",
        *(f"--header={header}" for header in headers),
        url,
        *(("--", *arguments) if arguments else ()),
    ]


def run(argv: Sequence[str], seconds: float) -> Counted:
    """Run a command line made by `command`, pinned or not; raises `ToolFailed`."""
    return parse(output_of(argv, seconds))
