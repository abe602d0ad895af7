"""Take one sample: one contender, one row, once."""

from loadtests import economics
from loadtests.bench import Bench, Outcome, spin_seconds
from loadtests.contenders import CONTENDERS, OURS, Protocol
from loadtests.economics import KINDS
from loadtests.idle import idle
from loadtests.latency import latency
from loadtests.life import life
from loadtests.memory import memory
from loadtests.plans import (
    Economics,
    Http2,
    Idle,
    KindScaling,
    Latency,
    Life,
    Load,
    Memory,
    Plan,
    Proxied,
    Scaling,
    Spread,
    Users,
    WebSocket,
)
from loadtests.proxied import proxied
from loadtests.results import Sample
from loadtests.rows import Row
from loadtests.server import ServerFailed
from loadtests.spread import spread
from loadtests.throughput import http2, load, scaling, websocket
from loadtests.tools import ToolFailed
from loadtests.users import users


def contenders_of(row: Row) -> list[str]:
    """Return who can do what a row asks for."""
    plan = row.plan
    if isinstance(plan, Economics | KindScaling):
        return list(KINDS)
    has_floor = isinstance(plan, Load) and plan.floor is not None
    protocol = protocol_of(plan)
    return [
        contender.name
        for contender in CONTENDERS.values()
        if plan.interface in contender.interfaces
        and protocol in contender.protocols
        and (contender.name != "floor" or has_floor)
        and (not isinstance(plan, Life) or plan.event in contender.events)
    ]


def protocol_of(plan: Plan) -> Protocol:
    """Return what a plan speaks with the server."""
    match plan:
        case Http2():
            return "http2"
        case WebSocket():
            return "websocket"
    return "http1"


def named_by_goals(row: Row) -> set[str]:
    """Return subserve and those that the goals of a row compare it with."""
    return {OURS, *(name for goal in row.goals for name in goal.against)}


def take(row: Row, contender: str, turn: int, bench: Bench) -> Sample:
    """Measure; what goes wrong is in the sample's errors.

    A sample during which others used the cores is taken again, and the least disturbed one kept:
    a choice that does not look at the result.
    """
    samples: list[Sample] = []
    while not samples or (samples[-1].disturbed and len(samples) < bench.attempts):
        samples.append(_take(row, contender, turn, bench))
    sample = min(samples, key=lambda sample: (bool(sample.errors), sample.others))
    sample.detail["attempts"] = len(samples)
    return sample


def _take(row: Row, contender: str, turn: int, bench: Bench) -> Sample:
    try:
        found = _measure(row, contender, turn, bench)
    except (ServerFailed, ToolFailed) as error:
        found = Outcome({}, {"failed": 1}, detail={"why": str(error)})
    # While the core still runs at the clock that it had under load.
    spin = spin_seconds(bench.cores.server)
    return Sample(
        row.name,
        contender,
        turn,
        {**found.values, "spin_ms": spin * 1e3},
        found.errors,
        found.commands,
        found.detail,
    )


def _measure(row: Row, name: str, turn: int, bench: Bench) -> Outcome:
    match row.plan:
        case Economics() as plan:
            return economics.economics(plan, name, bench)
        case KindScaling():
            return economics.scaling(name, bench)
        case Load() as plan:
            return load(plan, CONTENDERS[name], bench)
        case Http2() as plan:
            return http2(plan, CONTENDERS[name], bench)
        case WebSocket() as plan:
            return websocket(plan, CONTENDERS[name], bench)
        case Proxied() as plan:
            return proxied(plan, CONTENDERS[name], bench)
        case Idle() as plan:
            return idle(plan, CONTENDERS[name], bench)
        case Spread() as plan:
            return spread(plan, CONTENDERS[name], bench)
        case Scaling() as plan:
            return scaling(plan, CONTENDERS[name], bench)
        case Memory() as plan:
            return memory(plan, CONTENDERS[name], bench)
        case Users() as plan:
            return users(plan, CONTENDERS[name], bench)
        case Life() as plan:
            return life(plan, CONTENDERS[name], turn, bench)
        case Latency() as plan:
            return latency(plan, CONTENDERS[name], turn, bench)
