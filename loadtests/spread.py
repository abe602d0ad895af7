"""How evenly connections and requests are spread over workers, and the work over cores."""

import json
import shlex
import threading
import time
from collections.abc import Mapping

from loadtests import processes
from loadtests.bench import Bench, Outcome, Window, await_workers
from loadtests.contenders import Contender, Launch
from loadtests.environment import ROOT
from loadtests.plans import Spread
from loadtests.server import Probe, free_port, pinned, running
from loadtests.tools import output_of

CORE_SECONDS = 0.25
"""How often the cores are looked at."""


def spread(plan: Spread, contender: Contender, bench: Bench) -> Outcome:
    """Open all connections at once against several workers on two cores."""
    port = free_port()
    launch = Launch(plan.app, plan.interface, port, plan.workers, connections=plan.connections)
    serve = pinned(contender.command(bench.programs, launch), bench.cores.two)
    client = [
        str(bench.programs / "python"),
        "-m",
        "loadtests.spread_client",
        f"--port={port}",
        f"--connections={plan.connections}",
        f"--seconds={bench.seconds}",
    ]
    with running(serve, port, Probe(), ROOT) as server:
        await_workers(server, "/worker", plan.workers)
        with Window(server.pid) as window, CoreWatch(bench.cores.two) as cores:
            found = json.loads(output_of(client, bench.seconds))
    errors = {kind: found[kind] for kind in ("unanswered", "lost") if found[kind]}
    values = {
        **window.values,
        "busiest": busiest(found["connections"], plan.workers),
        "busiest_requests": busiest(found["requests"], plan.workers),
        "per_second": sum(found["requests"].values()) / bench.seconds,
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
    }
    detail = {
        "connections": sorted(found["connections"].values(), reverse=True),
        "requests": sorted(found["requests"].values(), reverse=True),
        "cores": cores.busy,
        "core_seconds": CORE_SECONDS,
    }
    return Outcome(values, errors, [shlex.join(serve), shlex.join(client)], detail)


def busiest(counts: Mapping[str, int], workers: int) -> float:
    """Return what the busiest worker has, in fair shares; 1.0 is perfect."""
    total = sum(counts.values())
    return max(counts.values()) * workers / total if total else 0.0


class CoreWatch:
    """Watch cores in a thread, in a ``with`` block; `busy` has a list of shares for each core."""

    def __init__(self, cores: tuple[int, ...]) -> None:
        self.busy: list[list[float]] = [[] for _ in cores]
        self._cores = cores
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-cores")

    def __enter__(self) -> CoreWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        before = self._read()
        while not self._stopped.wait(CORE_SECONDS):
            now = self._read()
            for shares, then, core in zip(self.busy, before[1:], now[1:], strict=True):
                shares.append(round(min(1.0, (core - then) / (now[0] - before[0])), 3))
            before = now

    def _read(self) -> list[float]:
        return [time.monotonic(), *(processes.busy_seconds(core) for core in self._cores)]
