"""What a worker adds to the memory of a server: PSS of the whole tree with few and more workers."""

import shlex

from loadtests import processes, wrk
from loadtests.bench import Bench, Outcome, await_workers
from loadtests.contenders import Contender, Launch
from loadtests.environment import ROOT
from loadtests.plans import Memory
from loadtests.server import Probe, free_port, pinned, running

LOAD_SECONDS = 2.0
CONNECTIONS = 64


def memory(plan: Memory, contender: Contender, bench: Bench) -> Outcome:
    """Start with each number of workers, let all of them work, and weigh the tree."""
    values: dict[str, float] = {}
    errors: dict[str, int] = {}
    commands = []
    for workers in plan.workers:
        port = free_port()
        launch = Launch(plan.app, "asgi", port, workers)
        serve = pinned(contender.command(bench.programs, launch), bench.cores.two)
        with running(serve, port, Probe(plan.worker_path), ROOT) as server:
            await_workers(server, plan.worker_path, workers)
            # New connections all the time, so that each worker gets its share.
            argv = wrk.command(
                server.url + plan.path,
                LOAD_SECONDS,
                CONNECTIONS,
                plan.script,
                plan.arguments,
                ["Connection: close"],
            )
            report = wrk.run(argv, LOAD_SECONDS)
            await_workers(server, plan.worker_path, workers)
            values[f"pss_mb_{workers}"] = processes.pss_bytes(server.pid) / 1e6
        commands += [shlex.join(serve), shlex.join(argv)]
        for kind, count in report.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    few, many = plan.workers
    added = values[f"pss_mb_{many}"] - values[f"pss_mb_{few}"]
    values["added_mb"] = added / (many - few)
    return Outcome(values, errors, commands)
