"""The kinds of measurement, as values: what each needs to know."""

from dataclasses import dataclass

from loadtests.contenders import Event, Floor, Interface
from loadtests.openloop import Connections
from loadtests.server import Probe

ANY = Probe()


@dataclass(frozen=True, slots=True)
class Load:
    """wrk in a closed loop against one worker on one core: CPU time per request."""

    app: str
    interface: Interface = "asgi"
    path: str = "/"
    connections: int = 32
    script: str = "report.lua"
    arguments: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    floor: Floor | None = None
    probe: Probe = ANY


@dataclass(frozen=True, slots=True)
class Http2:
    """h2load in a closed loop against one worker on one core: CPU time per request."""

    app: str
    path: str = "/"
    connections: int = 8
    streams: int = 16
    probe: Probe = ANY
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class WebSocket:
    """Messages over WebSockets in a closed loop; in a room everyone gets each of them."""

    app: str
    connections: int
    room: bool = False
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Proxied:
    """The CPU time per request of one worker behind nginx, which keeps connections to it."""

    app: str
    unix: bool
    connections: int = 32
    probe: Probe = ANY
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Idle:
    """Memory of `connections` that are kept alive and do nothing, and how fast others are."""

    app: str
    connections: int
    active: int = 16
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Spread:
    """How so many keep-alive connections, and the requests on them, spread over the workers."""

    app: str
    connections: int
    workers: int
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Scaling:
    """Requests a second of two workers on two cores, divided by those of one on one."""

    app: str
    worker_path: str = "/worker"
    connections: int = 16
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Memory:
    """What each worker adds to the PSS of the tree between two numbers of `workers`."""

    app: str
    workers: tuple[int, int]
    path: str
    script: str
    arguments: tuple[str, ...]
    worker_path: str = "/worker"
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of fast requests at a `rate` a second, a share of which is slow."""

    app: str
    connections: Connections
    rate: float
    slow_share: float
    workers: int
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Users:
    """So many users of the FastAPI example, who read, write and think."""

    app: str
    users: int
    workers: int = 2
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Life:
    """What clients notice of an event in the life of a server, at a fixed rate."""

    app: str
    event: Event
    rate: float = 200.0
    workers: int = 4
    interface: Interface = "asgi"


@dataclass(frozen=True, slots=True)
class Economics:
    """Time and memory of so many workers of a kind, with what `load` imports, and no server."""

    load: str
    counts: tuple[int, ...] = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class KindScaling:
    """How CPU-bound work of two workers of a kind scales on two cores, with no server."""


type Plan = (
    Load
    | Http2
    | WebSocket
    | Proxied
    | Idle
    | Spread
    | Scaling
    | Memory
    | Latency
    | Users
    | Life
    | Economics
    | KindScaling
)
