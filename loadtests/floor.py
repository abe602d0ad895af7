"""The floor: an asyncio protocol that answers each request with the same bytes, parsing nothing.

What a server in pure asyncio costs at least, for the socket calls and the event loop alone.  It is
started like the contenders are: ``python -m loadtests.floor --port 8000``.
"""

import argparse
import asyncio
import signal
import socket

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n"
    b"date: Mon, 04 May 2026 10:00:00 GMT\r\nserver: floor\r\n"
)
END_OF_HEAD = b"\r\n\r\n"


class Constant(asyncio.Protocol):
    """Answer whatever comes; one read is taken for one request, unless a body has to follow it.

    `answer` is sent for each request, `body_bytes` is the length of each request's body, and
    `close` says whether the connection ends with the first answer.
    """

    def __init__(self, answer: bytes, body_bytes: int, close: bool) -> None:
        self._answer = answer
        self._body_bytes = body_bytes
        self._close = close
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer once the request is there in full."""
        if self._body_bytes:
            if self._missing == 0:
                head = data.find(END_OF_HEAD) + len(END_OF_HEAD)
                self._missing = self._body_bytes + head
            self._missing -= len(data)
            if self._missing > 0:
                return
        self._transport.write(self._answer)
        if self._close:
            self._transport.close()


async def serve(port: int, answer: bytes, body_bytes: int, close: bool) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    server = await loop.create_server(lambda: Constant(answer, body_bytes, close), sock=listener)
    async with server:
        await stopped.wait()
        server.close_clients()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", type=int, default=13, help="bytes of each response's body [13]")
    parser.add_argument("--body", type=int, default=0, help="bytes of each request's body [0]")
    parser.add_argument("--close", action="store_true", help="close after one answer")
    options = parser.parse_args()
    head = HEAD % options.answer + (b"connection: close\r\n" if options.close else b"")
    answer = head + b"\r\n" + b"x" * options.answer
    asyncio.run(serve(options.port, answer, options.body, options.close))


if __name__ == "__main__":
    main()
