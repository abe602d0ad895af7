"""Load in a closed loop: CPU time per request of one worker, and what a second worker brings."""

import json
import shlex
from collections.abc import Callable

from loadtests import h2load, processes, wrk
from loadtests.bench import Bench, Outcome, Window, await_workers
from loadtests.contenders import Contender, Launch
from loadtests.environment import ROOT
from loadtests.plans import Http2, Load, Scaling, WebSocket
from loadtests.server import Probe, Server, free_port, pinned, running
from loadtests.tools import Counted, output_of

WARM_UP_SECONDS = 1.0

type Generator = Callable[[Server, float], tuple[list[str], Counted]]
"""Runs a load generator against a server for so many seconds; returns its command, too."""


def load(plan: Load, contender: Contender, bench: Bench) -> Outcome:
    """Measure requests over HTTP/1.1."""

    def generate(server: Server, seconds: float) -> tuple[list[str], Counted]:
        argv = wrk.command(
            server.url + plan.path,
            seconds,
            plan.connections,
            plan.script,
            plan.arguments,
            plan.headers,
        )
        argv = pinned(argv, [bench.cores.load])
        return argv, wrk.run(argv, seconds)

    launch = Launch(plan.app, plan.interface, free_port(), floor=plan.floor)
    return _closed_loop(launch, contender, bench, plan.probe, generate)


def http2(plan: Http2, contender: Contender, bench: Bench) -> Outcome:
    """Measure requests over HTTP/2, several at once on each connection."""

    def generate(server: Server, seconds: float) -> tuple[list[str], Counted]:
        argv = h2load.command(server.url + plan.path, seconds, plan.connections, plan.streams)
        argv = pinned(argv, [bench.cores.load])
        return argv, h2load.run(argv, seconds)

    launch = Launch(plan.app, plan.interface, free_port(), protocol="http2")
    return _closed_loop(launch, contender, bench, plan.probe, generate)


def websocket(plan: WebSocket, contender: Contender, bench: Bench) -> Outcome:
    """Measure messages that clients got over WebSockets; a message counts as a request."""

    def generate(server: Server, seconds: float) -> tuple[list[str], Counted]:
        argv = [
            str(bench.programs / "python"),
            "-m",
            "loadtests.websocket_client",
            f"--port={server.port}",
            f"--connections={plan.connections}",
            f"--seconds={seconds}",
            *(["--room"] if plan.room else []),
        ]
        argv = pinned(argv, [bench.cores.load])
        found = json.loads(output_of(argv, seconds))
        errors = {"websocket": found["errors"]} if found["errors"] else {}
        return argv, Counted(found["messages"], found["seconds"], 0, errors)

    launch = Launch(plan.app, plan.interface, free_port(), protocol="websocket")
    return _closed_loop(launch, contender, bench, Probe(answer=13), generate)


def _closed_loop(
    launch: Launch, contender: Contender, bench: Bench, probe: Probe, generate: Generator
) -> Outcome:
    """Measure one worker on one core, with the load generator on another."""
    serve = pinned(contender.command(bench.programs, launch), [bench.cores.server])
    # The floor answers without reading, so there is nothing to see in its answer.
    if contender.name == "floor":
        probe = Probe(connect=True)
    with running(serve, launch.port, probe, ROOT) as server:
        generate(server, WARM_UP_SECONDS)
        with Window(server.pid) as window:
            argv, counted = generate(server, bench.seconds)
        pss = processes.pss_bytes(server.pid)
    commands = [shlex.join(serve), shlex.join(argv)]
    errors = dict(counted.errors)
    if counted.requests == 0 or counted.seconds == 0:
        return Outcome({}, {**errors, "nothing served": 1}, commands)
    if 0 < counted.bytes < counted.requests * (probe.answer or 0):
        errors["short answers"] = counted.requests
    values = {
        **window.values,
        **counted.values,
        "cpu_us": window.server * 1e6 / counted.requests,
        "per_second": counted.requests / counted.seconds,
        "per_cpu_second": counted.requests / window.server,
        "pss_mb": pss / 1e6,
    }
    detail = {"requests": counted.requests, "seconds": counted.seconds, "bytes": counted.bytes}
    return Outcome(values, errors, commands, detail)


def scaling(plan: Scaling, contender: Contender, bench: Bench) -> Outcome:
    """Measure one worker on one core, then two on two; the load generator costs next to nothing."""
    values: dict[str, float] = {}
    errors: dict[str, int] = {}
    commands = []
    for workers in (1, 2):
        port = free_port()
        launch = Launch(plan.app, plan.interface, port, workers)
        cores = bench.cores.two[:workers]
        serve = pinned(contender.command(bench.programs, launch), cores)
        with running(serve, port, Probe(), ROOT) as server:
            await_workers(server, plan.worker_path, workers)
            for seconds in (WARM_UP_SECONDS, bench.seconds):
                argv = wrk.command(server.url, seconds, plan.connections)
                with Window(server.pid) as window:
                    counted = wrk.run(argv, seconds)
        commands += [shlex.join(serve), shlex.join(argv)]
        for kind, count in counted.errors.items():
            errors[kind] = errors.get(kind, 0) + count
        for name, share in window.values.items():
            values[name] = max(values.get(name, 0.0), share)
        values[f"per_second_{workers}"] = counted.requests / counted.seconds
    if values["per_second_1"]:
        values["scaling"] = values["per_second_2"] / values["per_second_1"]
    return Outcome(values, errors, commands)
