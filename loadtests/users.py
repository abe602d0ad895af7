"""Users that read and write through an app with a database, and think in between."""

import json
import shlex

from loadtests.bench import Bench, Outcome, Window
from loadtests.contenders import Contender, Launch
from loadtests.environment import ROOT
from loadtests.plans import Users
from loadtests.server import Probe, free_port, pinned, running
from loadtests.tools import output_of


def users(plan: Users, contender: Contender, bench: Bench) -> Outcome:
    """Let them loose on two workers; they share the two cores with the server."""
    port = free_port()
    launch = Launch(plan.app, plan.interface, port, plan.workers)
    serve = pinned(contender.command(bench.programs, launch), bench.cores.two)
    client = [
        str(bench.programs / "python"),
        "-m",
        "loadtests.users_client",
        f"--port={port}",
        f"--users={plan.users}",
        f"--seconds={2 * bench.seconds}",
    ]
    with running(serve, port, Probe(), ROOT) as server, Window(server.pid) as window:
        found = json.loads(output_of(client, 2 * bench.seconds))
    commands = [shlex.join(serve), shlex.join(client)]
    if not found["requests"]:
        return Outcome({}, {**found["errors"], "nothing served": 1}, commands)
    values = {
        **window.values,
        "cpu_us": window.server * 1e6 / found["requests"],
        "per_second": found["requests"] / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
    }
    return Outcome(values, found["errors"], commands, {"requests": found["requests"]})
