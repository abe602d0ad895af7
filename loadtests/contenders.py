"""Who is compared, and how each is started: with the settings its own documentation has for speed.

Access logs are off everywhere.  Where a choice was not documented it was tried, and the better one
kept; README.md says what was tried.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

type Interface = Literal["asgi", "wsgi"]
type Event = Literal["reload", "kill", "recycle", "grow"]
"""What may happen to a server under load: new code, the death of a process that serves, workers
that are replaced after so many requests, one more worker."""

type Protocol = Literal["http1", "http2", "websocket"]

THREADS = 4
"""Threads per worker that run a WSGI app, for each contender."""

KEEP_ALIVE_SECONDS = 75
"""For those whose default would close connections that a client means to keep."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What the floor answers: bytes of each response, bytes of each request's body."""

    answer: int = 13
    body: int = 0
    close: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """What is to be served, and where.

    `app` is ``module:attribute``, `connections` how many there may be at once, per worker.  `uds`
    is a unix socket to listen on instead of the port; after `max_requests` a worker is replaced.
    """

    app: str
    interface: Interface
    port: int
    workers: int = 1
    floor: Floor | None = None
    protocol: Protocol = "http1"
    connections: int = 1024
    uds: Path | None = None
    max_requests: int | None = None

    @property
    def bind(self) -> str:
        """The address to listen on."""
        return f"unix:{self.uds}" if self.uds else f"127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server: what it can do, and the command that serves a `Launch` from an environment."""

    name: str
    interfaces: frozenset[Interface]
    protocols: frozenset[Protocol]
    command: Callable[[Path, Launch], list[str]]
    events: frozenset[Event] = frozenset()


def _subserve(*options: str) -> Callable[[Path, Launch], list[str]]:
    def command(programs: Path, launch: Launch) -> list[str]:
        return [
            str(programs / "python"),
            "-m",
            "subserve",
            launch.app,
            f"--bind={launch.bind}",
            f"--workers={launch.workers}",
            f"--threads={THREADS}",
            *([f"--max-requests={launch.max_requests}"] if launch.max_requests else []),
            *options,
        ]

    return command


def _floor(programs: Path, launch: Launch) -> list[str]:
    assert launch.floor is not None
    return [
        str(programs / "python"),
        "-m",
        "loadtests.floor",
        f"--port={launch.port}",
        f"--answer={launch.floor.answer}",
        f"--body={launch.floor.body}",
        *(["--close"] if launch.floor.close else []),
    ]


def _uvicorn(loop: str, parser: str) -> Callable[[Path, Launch], list[str]]:
    def command(programs: Path, launch: Launch) -> list[str]:
        return [
            str(programs / "uvicorn"),
            launch.app,
            f"--uds={launch.uds}" if launch.uds else f"--port={launch.port}",
            f"--workers={launch.workers}",
            f"--loop={loop}",
            f"--http={parser}",
            "--no-access-log",
            "--log-level=warning",
            "--no-proxy-headers",
            *([f"--limit-max-requests={launch.max_requests}"] if launch.max_requests else []),
            f"--timeout-keep-alive={KEEP_ALIVE_SECONDS}",
        ]

    return command


def _granian(programs: Path, launch: Launch) -> list[str]:
    return [
        str(programs / "granian"),
        launch.app,
        f"--interface={launch.interface}",
        f"--uds={launch.uds}" if launch.uds else f"--port={launch.port}",
        f"--workers={launch.workers}",
        # Not "auto": it is said to be faster to know.
        f"--http={2 if launch.protocol == 'http2' else 1}",
        "--ws" if launch.protocol == "websocket" else "--no-ws",
        "--no-access-log",
        "--log-level=warning",
        # Off by default; without it a worker that dies ends the server.
        "--respawn-failed-workers",
        # Its own benchmarks raise the backlog; the other counts connections, idle ones included.
        "--backlog=2048",
        f"--backpressure={max(2048 // launch.workers, launch.connections)}",
        *(
            ["--loop=uvloop", "--runtime-mode=st"]
            if launch.interface == "asgi"
            else [f"--blocking-threads={THREADS}"]
        ),
    ]


def _gunicorn(programs: Path, launch: Launch) -> list[str]:
    return [
        str(programs / "gunicorn"),
        launch.app,
        f"--bind={launch.bind}",
        f"--workers={launch.workers}",
        "--log-level=warning",
        "--no-control-socket",
        f"--keep-alive={KEEP_ALIVE_SECONDS}",
        f"--worker-connections={launch.connections}",
        *([f"--max-requests={launch.max_requests}"] if launch.max_requests else []),
        *(
            ["--worker-class=asgi", "--asgi-loop=uvloop"]
            if launch.interface == "asgi"
            else ["--worker-class=gthread", f"--threads={THREADS}"]
        ),
    ]


def _hypercorn(programs: Path, launch: Launch) -> list[str]:
    return [
        str(programs / "hypercorn"),
        launch.app,
        f"--bind={launch.bind}",
        f"--workers={launch.workers}",
        "--worker-class=uvloop",
        "--log-level=warning",
        f"--keep-alive={KEEP_ALIVE_SECONDS}",
    ]


def _waitress(programs: Path, launch: Launch) -> list[str]:
    return [
        str(programs / "waitress-serve"),
        f"--unix-socket={launch.uds}" if launch.uds else f"--listen={launch.bind}",
        f"--threads={THREADS}",
        launch.app,
    ]


_ASGI: frozenset[Interface] = frozenset({"asgi"})
_WSGI: frozenset[Interface] = frozenset({"wsgi"})
_HTTP1: frozenset[Protocol] = frozenset({"http1"})
_WEBSOCKET: frozenset[Protocol] = _HTTP1 | {"websocket"}
_HTTP2: frozenset[Protocol] = _WEBSOCKET | {"http2"}
_DEATH: frozenset[Event] = frozenset({"reload", "kill"})
_LIFE: frozenset[Event] = _DEATH | {"recycle", "grow"}

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("floor", _ASGI | _WSGI, _HTTP1, _floor),
        Contender("subserve", _ASGI | _WSGI, _HTTP2, _subserve(), _LIFE),
        Contender("subserve+uvloop", _ASGI | _WSGI, _HTTP2, _subserve("--loop=uvloop"), _LIFE),
        # Its HTTP/2 needs another parser, gunicorn's needs TLS.
        Contender("uvicorn", _ASGI, _WEBSOCKET, _uvicorn("uvloop", "httptools"), _LIFE),
        # Alpha versions, by the author of uvicorn, that it has options for.
        Contender("uvicorn+zig", _ASGI, _WEBSOCKET, _uvicorn("zuvloop", "zttp"), _LIFE),
        Contender("granian", _ASGI | _WSGI, _HTTP2, _granian, _DEATH),
        Contender("gunicorn", _ASGI | _WSGI, _WEBSOCKET, _gunicorn, _LIFE),
        Contender("hypercorn", _ASGI, _HTTP2, _hypercorn),
        Contender("waitress", _WSGI, _HTTP1, _waitress),
    )
}

OURS = "subserve"
"""The contender that the goals are about."""
