"""Run h2load, the load generator for HTTP/2, and read what it counted."""

import re
from collections.abc import Sequence

from loadtests.tools import Counted, ToolFailed, output_of

_FINISHED = re.compile(r"finished in ([\d.]+)(us|ms|s|m)?, ([\d.]+) req/s")
_REQUESTS = re.compile(
    r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, "
    r"(\d+) timeout"
)
_STATUS = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")
_TRAFFIC = re.compile(r"traffic: \S+ \((\d+)\) total")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, None: 1.0}


def parse(output: str) -> Counted:
    """Read the report of h2load; raises `ToolFailed` where it is not one."""
    finished, requests = _FINISHED.search(output), _REQUESTS.search(output)
    status, traffic = _STATUS.search(output), _TRAFFIC.search(output)
    if finished is None or requests is None or status is None or traffic is None:
        raise ToolFailed(f"h2load did not report:\n{output}")
    found = {
        "failed": int(requests[3]),
        "errored": int(requests[4]),
        "timeout": int(requests[5]),
        "status": int(status[3]) + int(status[4]),
    }
    errors = {kind: count for kind, count in found.items() if count}
    seconds = float(finished[1]) * _UNITS[finished[2]]
    return Counted(int(requests[2]), seconds, int(traffic[1]), errors)


def command(url: str, seconds: float, connections: int, streams: int) -> list[str]:
    """Return the command line: HTTP/2 without TLS, known beforehand (RFC 9113, section 3.3)."""
    return [
        "h2load",
        f"--clients={connections}",
        f"--max-concurrent-streams={streams}",
        f"--duration={max(1, round(seconds))}",
        url,
    ]


def run(argv: Sequence[str], seconds: float) -> Counted:
    """Run a command line made by `command`, pinned or not; raises `ToolFailed`."""
    return parse(output_of(argv, seconds))
