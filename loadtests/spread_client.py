"""Load a server whose answers name the worker, and count connections and requests by worker.

``python -m loadtests.spread_client --port 8000 --connections 64 --seconds 3`` opens all connections
at once, keeps a request under way on each of them, and prints what it counted as JSON.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter

from loadtests import openloop

OPEN_SECONDS = 30.0
REQUEST = b"GET /work HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Looping(asyncio.Protocol):
    """A connection that makes one request after the other; `worker` is who answered last."""

    def __init__(self) -> None:
        self._buffer = b""
        self._asked = 0.0
        self.requests: Counter[str] = Counter()
        self.worker = ""
        self.latencies: list[float] = []
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        """Note who answered, and ask again."""
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0]) if end else 0
        if not end or len(body) < size:
            return
        self._buffer = b""
        self.worker = body.decode()
        self.requests[self.worker] += 1
        self.latencies.append(time.perf_counter() - self._asked)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember."""
        self.lost = True


async def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(OPEN_SECONDS):
        opened = await asyncio.gather(
            *(
                loop.create_connection(Looping, "127.0.0.1", options.port)
                for _ in range(options.connections)
            )
        )
    await asyncio.sleep(options.seconds)
    connections = [connection for _, connection in opened]
    requests: Counter[str] = Counter()
    for connection in connections:
        requests += connection.requests
    latencies = [value for connection in connections for value in connection.latencies]
    found = {
        "connections": Counter(c.worker for c in connections if c.worker),
        "requests": requests,
        "unanswered": sum(not connection.worker for connection in connections),
        "lost": sum(connection.lost for connection in connections),
        "p50_ms": openloop.percentile(latencies, 0.5) * 1e3,
        "p99_ms": openloop.percentile(latencies, 0.99) * 1e3,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
