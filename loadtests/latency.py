"""How long fast requests take while slow ones keep workers busy, at a fixed rate."""

import shlex

from loadtests import openloop
from loadtests.bench import Bench, Outcome, Window, await_workers
from loadtests.contenders import Contender, Launch
from loadtests.environment import ROOT
from loadtests.plans import Latency
from loadtests.server import Probe, free_port, pinned, running

STRETCH = 5
"""A sample lasts so many times longer than one of throughput: a percentile needs many requests."""


def latency(plan: Latency, contender: Contender, turn: int, bench: Bench) -> Outcome:
    """Serve with several workers on two cores; the client, idle most of the time, shares them.

    Each turn has arrivals of its own, which are the same for all contenders.
    """
    port = free_port()
    launch = Launch(plan.app, plan.interface, port, plan.workers)
    serve = pinned(contender.command(bench.programs, launch), bench.cores.two)
    seconds = STRETCH * bench.seconds
    arrivals = openloop.schedule(plan.rate, seconds, plan.slow_share, "/slow", "/fast", seed=turn)
    with running(serve, port, Probe("/fast"), ROOT) as server:
        await_workers(server, "/worker", plan.workers)
        with Window(server.pid) as window:
            answers = openloop.run(port, arrivals, plan.connections)
    fast = answers.latencies.get("/fast", [])
    values = {
        **window.values,
        "p99_ms": openloop.percentile(fast, 0.99) * 1e3,
        "p90_ms": openloop.percentile(fast, 0.9) * 1e3,
        "p50_ms": openloop.percentile(fast, 0.5) * 1e3,
        "slow_p50_ms": openloop.percentile(answers.latencies.get("/slow", []), 0.5) * 1e3,
    }
    detail = {
        "requests": len(arrivals),
        "fast": len(fast),
        "opened": answers.opened,
        "client_lag_ms": answers.lag * 1e3,
        "latencies_ms": sorted(round(value * 1e3, 2) for value in fast),
    }
    return Outcome(values if fast else {}, answers.errors, [shlex.join(serve)], detail)
