"""What connections cost that are kept alive and do nothing."""

import shlex
import subprocess
import time

from loadtests import processes, wrk
from loadtests.bench import Bench, Outcome, Window
from loadtests.contenders import Contender, Launch
from loadtests.environment import ROOT
from loadtests.plans import Idle
from loadtests.server import Probe, free_port, pinned, running
from loadtests.tools import GRACE_SECONDS, ToolFailed

QUIET_SECONDS = 2.0
SPARE = 100
"""Connections beside the idle ones that a server has to have room for."""


def idle(plan: Idle, contender: Contender, bench: Bench) -> Outcome:
    """Weigh the server with and without the connections; then load it with them open."""
    port = free_port()
    launch = Launch(plan.app, plan.interface, port, connections=plan.connections + SPARE)
    serve = pinned(contender.command(bench.programs, launch), [bench.cores.server])
    client = [
        str(bench.programs / "python"),
        "-m",
        "loadtests.idle_client",
        f"--port={port}",
        f"--connections={plan.connections}",
    ]
    client = pinned(client, [bench.cores.load])
    argv = wrk.command(f"http://127.0.0.1:{port}/", bench.seconds, plan.active)
    argv = pinned(argv, [bench.cores.load])
    with running(serve, port, Probe(), ROOT) as server:
        alone = wrk.run(argv, bench.seconds)  # which also is the warm-up
        before = processes.pss_bytes(server.pid)
        with subprocess.Popen(
            client, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            try:
                assert holder.stdout is not None
                if holder.stdout.readline() != "ready\n":
                    raise ToolFailed("the connections could not all be opened")
                with Window(server.pid) as quiet:
                    time.sleep(QUIET_SECONDS)
                after = processes.pss_bytes(server.pid)
                with Window(server.pid) as window:
                    counted = wrk.run(argv, bench.seconds)
                lost = int(holder.communicate("", GRACE_SECONDS)[0])
            finally:
                holder.kill()
    errors = dict(counted.errors) | ({"lost connections": lost} if lost else {})
    values = {
        **window.values,
        "connection_kb": (after - before) / plan.connections / 1e3,
        "idle_cpu_share": quiet.server / quiet.seconds,
        "p50_us": counted.values["p50_us"],
        "p99_us": counted.values["p99_us"],
        "p99_us_alone": alone.values["p99_us"],
    }
    if counted.requests:
        values["cpu_us"] = window.server * 1e6 / counted.requests
    return Outcome(values, errors, [shlex.join(serve), shlex.join(client), shlex.join(argv)])
