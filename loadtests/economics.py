"""What workers of different kinds cost: memory and time to start, and how their work scales."""

import contextlib
import json
import shlex
import subprocess
import tempfile
from collections.abc import Iterator

from loadtests import processes
from loadtests.bench import Bench, Outcome
from loadtests.environment import ROOT
from loadtests.plans import Economics
from loadtests.server import pinned
from loadtests.tools import ToolFailed

KINDS = ("threads", "interpreters", "spawned", "forked")
WORK_TURNS = 3


def economics(plan: Economics, kind: str, bench: Bench) -> Outcome:
    """Start each number of workers on two cores, in a host of its own each time."""
    counts = {}
    for count in plan.counts:
        with _Host.running(kind, plan.load, count, bench) as host:
            counts[count] = {"seconds": host.seconds, "pss_mb": host.pss_bytes() / 1e6}
    few, many = min(counts), max(counts)
    added = counts[many]["pss_mb"] - counts[few]["pss_mb"]
    values = {
        "pss_mb_per_worker": added / (many - few),
        "start_ms": counts[many]["seconds"] * 1e3,
    }
    detail = {"counts": {str(count): found for count, found in counts.items()}}
    return Outcome(
        values, commands=[shlex.join(_command(kind, plan.load, many, bench))], detail=detail
    )


def scaling(kind: str, bench: Bench) -> Outcome:
    """Let one worker work, then one per core at once; who scales needs no more time for it."""
    seconds = {}
    for count in (1, 2):
        with _Host.running(kind, "asyncio", count, bench) as host:
            seconds[count] = min(host.work() for _ in range(WORK_TURNS))
    values = {"scaling": 2 * seconds[1] / seconds[2]}
    command = shlex.join(_command(kind, "asyncio", 2, bench))
    return Outcome(values, commands=[command], detail={"seconds": seconds})


def _command(kind: str, load: str, count: int, bench: Bench) -> list[str]:
    python = str(bench.programs / "python")
    argv = [python, "-m", "loadtests.economics_host", kind, load, str(count)]
    return pinned(argv, bench.cores.two)


class _Host:
    """A host whose workers are ready; `seconds` is how long they took for that."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seconds: float = json.loads(self._line())["seconds"]

    @classmethod
    @contextlib.contextmanager
    def running(cls, kind: str, load: str, count: int, bench: Bench) -> Iterator[_Host]:
        """Run a host to the end of the block.  Raises `ToolFailed`."""
        with (
            tempfile.TemporaryDirectory() as scratch,
            subprocess.Popen(
                _command(kind, load, count, bench),
                cwd=ROOT,
                env={"PYTHONPATH": str(ROOT), "TMPDIR": scratch, "PATH": "/usr/bin:/bin"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            try:
                yield cls(process)
            finally:
                process.kill()

    def pss_bytes(self) -> int:
        """Return the memory of the host and all its processes."""
        return processes.pss_bytes(self._process.pid)

    def work(self) -> float:
        """Let all workers work at once, and return the seconds until the last one is done."""
        assert self._process.stdin is not None
        self._process.stdin.write("work\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ToolFailed("the workers did not all start")
        return line
