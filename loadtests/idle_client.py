"""Open many keep-alive connections, use each once, and hold them until the standard input ends.

``python -m loadtests.idle_client --port 8000 --connections 10000`` prints ``ready`` as soon as all
of them are open and idle, and at the end how many of them the server had closed by then.
"""

import argparse
import asyncio
import sys

AT_ONCE = 100
OPEN_SECONDS = 60.0
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Idle(asyncio.Protocol):
    """A connection that makes one request, and then nothing."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._answer = b""
        self.answered = asyncio.get_running_loop().create_future()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the request."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the answer."""
        self._answer += data
        if self._answer.endswith(self._body) and not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember."""
        self.lost = True
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("closed without an answer"))


async def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--body", default="Hello, world!", help="what each answer ends with")
    options = parser.parse_args()
    body = options.body.encode()
    loop = asyncio.get_running_loop()
    held: list[Idle] = []
    turns = asyncio.Semaphore(AT_ONCE)

    async def open_one() -> None:
        async with turns:
            _, idle = await loop.create_connection(lambda: Idle(body), "127.0.0.1", options.port)
            held.append(idle)
            await idle.answered

    async with asyncio.timeout(OPEN_SECONDS), asyncio.TaskGroup() as group:
        for _ in range(options.connections):
            group.create_task(open_one())
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(sum(idle.lost for idle in held), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
