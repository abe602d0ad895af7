"""What clients notice when something happens to a server: failed requests, slow ones."""

import os
import shlex
import signal
import threading

from loadtests import openloop
from loadtests.bench import Bench, Outcome, Window, await_workers
from loadtests.contenders import Contender, Event, Launch
from loadtests.environment import ROOT
from loadtests.plans import Life
from loadtests.server import Probe, Server, free_port, pinned, running

SECONDS = 12.0
EVENT_AT = 3.0
MAX_REQUESTS = 300
"""After which a worker is replaced, where that is the event: several times in a sample each."""


def life(plan: Life, contender: Contender, turn: int, bench: Bench) -> Outcome:
    """Serve clients that keep their connections, at a fixed rate, and let it happen."""
    port = free_port()
    limit = MAX_REQUESTS if plan.event == "recycle" else None
    launch = Launch(plan.app, plan.interface, port, plan.workers, max_requests=limit)
    serve = pinned(contender.command(bench.programs, launch), bench.cores.two)
    arrivals = openloop.schedule(plan.rate, SECONDS, 0.0, "", "/work", seed=turn)
    with running(serve, port, Probe("/fast"), ROOT) as server:
        await_workers(server, "/worker", plan.workers)
        answers = openloop.Answers()
        trigger = threading.Timer(EVENT_AT, _happen, (plan.event, server, answers))
        with Window(server.pid) as window:
            trigger.start()
            openloop.run(port, arrivals, "clients", answers)
        trigger.join()
    taken = answers.latencies.get("/work", [])
    values = {
        **window.values,
        "failed": float(sum(answers.errors.values())),
        "worst_ms": max(taken, default=0.0) * 1e3,
        "p99_ms": openloop.percentile(taken, 0.99) * 1e3,
        "retried": float(answers.retried),
    }
    detail = {
        "failures": answers.errors,
        "event_at": EVENT_AT,
        "course": [
            (round(at, 3), None if latency is None else round(latency * 1e3, 2))
            for at, latency in sorted(answers.course)
        ],
    }
    # Failed requests are what this measures, so they are not errors of the measurement.
    return Outcome(values, commands=[shlex.join(serve)], detail=detail)


def _happen(event: Event, server: Server, answers: openloop.Answers) -> None:
    match event:
        case "reload":
            os.kill(server.pid, signal.SIGHUP)
        case "grow":
            os.kill(server.pid, signal.SIGTTIN)
        case "kill":
            # The one that most requests were answered by; the names of workers begin with the
            # number of their process.
            (name, _), *_ = answers.bodies.most_common(1)
            os.kill(int(name.split(b"-")[0]), signal.SIGKILL)
        case "recycle":
            return  # it comes by itself
