"""A WebSocket client that loads a server: echo, or a room in which everyone hears each message.

A program of its own, so that it can be pinned to a core:
``python -m loadtests.websocket_client --port 8000 --connections 32 [--room]`` prints what it
counted as JSON.  It speaks just enough of RFC 6455: text frames, all alike, each below 126 bytes.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import time

TEXT = b"0123456789abcdef" * 4
FRAME_BYTES = 2 + len(TEXT)
"""A server's frame: not masked, its length in one byte."""

CONNECT_SECONDS = 20.0


def client_frame(text: bytes) -> bytes:
    """Return a text frame as a client has to send it, masked (RFC 6455, section 5.2)."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(text))
    return bytes((0x81, 0x80 | len(text))) + mask + masked


class Connection(asyncio.Protocol):
    """One connection; calls `heard` with the number of messages that have arrived in full."""

    def __init__(self, load: Load, port: int) -> None:
        self._load = load
        self._port = port
        self._buffer = b""
        self._open = False
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def send(self) -> None:
        """Send one message."""
        self._transport.write(self._load.frame)

    def data_received(self, data: bytes) -> None:
        """Count messages; first of all, wait for the answer to the upgrade."""
        self._buffer += data
        if not self._open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self._load.errors += 1
                self._transport.abort()
                return
            self._open, self._buffer = True, rest
            self.ready.set_result(None)
        count = len(self._buffer) // FRAME_BYTES
        if count:
            if self._buffer[: 2 + len(TEXT)] != b"\x81" + bytes((len(TEXT),)) + TEXT:
                self._load.errors += 1
            self._buffer = self._buffer[count * FRAME_BYTES :]
            self._load.heard(self, count)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a loss in the middle of it as an error."""
        if not self._load.ending:
            self._load.errors += 1
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("no upgrade"))

    def close(self) -> None:
        """End without the closing handshake: this is about load."""
        self._transport.abort()


class Load:
    """All connections together: `messages` that were heard, `errors`."""

    def __init__(self, room: bool) -> None:
        self.frame = client_frame(TEXT)
        self.messages = 0
        self.errors = 0
        self.ending = False
        self._room = room
        self._awaited = 0
        self._connections: list[Connection] = []

    async def open(self, port: int, count: int) -> None:
        """Open all connections; raises `OSError` or `TimeoutError`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            for _ in range(count):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, port), "127.0.0.1", port
                )
                self._connections.append(connection)
                await connection.ready

    async def run(self, seconds: float) -> float:
        """Keep the server busy and return how long that was."""
        begin = time.perf_counter()
        if self._room:
            self._speak()
        else:
            for connection in self._connections:
                connection.send()
        await asyncio.sleep(seconds)
        self.ending = True
        for connection in self._connections:
            connection.close()
        return time.perf_counter() - begin

    def heard(self, connection: Connection, count: int) -> None:
        """Count, and answer: in a room once everyone has heard the message."""
        self.messages += count
        if self.ending:
            return
        if not self._room:
            connection.send()
            return
        self._awaited -= count
        if self._awaited <= 0:
            self._speak()

    def _speak(self) -> None:
        self._awaited = len(self._connections)
        self._connections[0].send()


async def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--room", action="store_true", help="everyone hears each message")
    options = parser.parse_args()
    load = Load(options.room)
    seconds = 0.0
    with contextlib.suppress(OSError, TimeoutError):  # which are counted
        await load.open(options.port, options.connections)
        seconds = await load.run(options.seconds)
    print(json.dumps({"messages": load.messages, "seconds": seconds, "errors": load.errors}))


if __name__ == "__main__":
    asyncio.run(main())
