"""An open-loop client: requests leave at times fixed beforehand, whatever becomes of earlier ones.

A closed loop waits for a slow answer before it asks again, and so hides how many requests would
have met the stall (coordinated omission).  Here each latency counts from the moment a request was
due, also where it could not leave in time.
"""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

type Connections = Literal["new", "pool", "clients"]
"""How requests are sent: ``new``, on a connection each; ``pool``, on the idle connection that was
used last, or else on a new one, as a proxy does; ``clients``, each on any idle one of connections
that were all opened beforehand, as by so many browsers."""

POOL_SIZE = 32
"""Idle connections that are kept, as with ``keepalive 32`` of nginx; also the number of clients."""

REQUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is due `at` seconds after the begin."""

    at: float
    path: str


@dataclass(slots=True)
class Answers:
    """Latencies in seconds by path, and errors by kind; `lag` is how late the client ever was.

    `opened` connections, and requests that were `retried` since the server had closed an idle one.
    `course` has for each request when it was due, in seconds from the begin, and its latency in
    seconds, or None where it failed.  `bodies` counts what was answered.
    """

    latencies: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    lag: float = 0.0
    opened: int = 0
    retried: int = 0
    course: list[tuple[float, float | None]] = field(default_factory=list)
    bodies: Counter[bytes] = field(default_factory=Counter)


def schedule(
    rate: float, seconds: float, share: float, slow: str, fast: str, seed: int
) -> list[Arrival]:
    """Return Poisson arrivals of `rate` a second, the `share` of them, by chance, for `slow`.

    The same seed gives the same arrivals, so that all contenders meet the same ones.
    """
    chance = random.Random(seed)
    arrivals = []
    at = chance.expovariate(rate)
    while at < seconds:
        arrivals.append(Arrival(at, slow if chance.random() < share else fast))
        at += chance.expovariate(rate)
    return arrivals


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed; 0.0 for none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    # Of 200 values the 99th percentile is the 198th; rounding errors must not make it the next.
    index = next(n for n in itertools.count(1) if n >= share * len(ordered) - 1e-9)
    return ordered[index - 1]


def run(
    port: int, arrivals: Sequence[Arrival], connections: Connections, answers: Answers | None = None
) -> Answers:
    """Make all requests against 127.0.0.1; returns when the last one is answered or given up.

    Who passes `answers` can look into them from another thread meanwhile.
    """
    client = _Client(port, connections, Answers() if answers is None else answers)
    return asyncio.run(client.run(arrivals))


type _Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Client:
    def __init__(self, port: int, connections: Connections, answers: Answers) -> None:
        self._port = port
        self._connections = connections
        self._pooling = connections != "new"
        self._chance = random.Random(len(connections))
        self._idle: list[_Streams] = []
        self._answers = answers

    async def run(self, arrivals: Sequence[Arrival]) -> Answers:
        loop = asyncio.get_running_loop()
        if self._connections == "clients":
            for _ in range(POOL_SIZE):
                self._idle.append(await self._open())
        begin = loop.time() + 0.1
        async with asyncio.TaskGroup() as group:
            for arrival in arrivals:
                due = begin + arrival.at
                await asyncio.sleep(due - loop.time())
                group.create_task(self._request(arrival, due))
        for _, writer in self._idle:
            writer.close()
        return self._answers

    async def _request(self, arrival: Arrival, due: float) -> None:
        loop = asyncio.get_running_loop()
        self._answers.lag = max(self._answers.lag, loop.time() - due)
        if kind := await self._failure(arrival.path):
            self._answers.errors[kind] = self._answers.errors.get(kind, 0) + 1
            self._answers.course.append((arrival.at, None))
            return
        latency = loop.time() - due
        self._answers.latencies.setdefault(arrival.path, []).append(latency)
        self._answers.course.append((arrival.at, latency))

    async def _failure(self, path: str) -> str:
        """Make a request; return what went wrong, "" if nothing did."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return "" if await self._exchange(path) == 200 else "status"
        except TimeoutError:
            return "timeout"
        except OSError, asyncio.IncompleteReadError, ValueError:
            return "connection"

    async def _exchange(self, path: str) -> int:
        """Make one request on a connection from the pool, or on a new one; return the status."""
        while self._idle:
            last = len(self._idle) - 1
            any_one = self._chance.randint(0, last) if self._connections == "clients" else last
            streams = self._idle.pop(any_one)
            try:
                return await self._on(streams, path)
            except ConnectionError, asyncio.IncompleteReadError:
                self._answers.retried += 1
                continue  # closed by the server while it was idle: proxies try the next, too
        return await self._on(await self._open(), path)

    async def _open(self) -> _Streams:
        self._answers.opened += 1
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _on(self, streams: _Streams, path: str) -> int:
        reader, writer = streams
        kept = False
        option = "" if self._pooling else "Connection: close\r\n"
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{option}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            size = int(head.partition("content-length:")[2].split()[0])
            self._answers.bodies[await reader.readexactly(size)] += 1
            kept = self._pooling and "connection: close" not in head
            return int(head.split(maxsplit=2)[1])
        finally:
            if kept and len(self._idle) < POOL_SIZE:
                self._idle.append(streams)
            else:
                writer.close()
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await writer.wait_closed()
