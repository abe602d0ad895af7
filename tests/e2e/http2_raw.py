"""An HTTP/2 client that sends whatever it is told to, and reads frames as they are."""

import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 5, 6, 7, 8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11

DEADLINE = 30.0
"""Seconds for anything that is waited for."""


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">BHBBL", 0, len(payload), kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    numbers = {"table": 1, "streams": 3, "window": 4, "frame": 5}
    return frame(
        SETTINGS, payload=b"".join(struct.pack(">HL", numbers[n], v) for n, v in values.items())
    )


def number(value: int) -> bytes:
    return struct.pack(">L", value)


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field as a literal without indexing, whatever it holds."""
    return (
        b"\0"
        + hpack.hpack.encode_integer(len(name), 7)
        + name
        + (hpack.hpack.encode_integer(len(value), 7) + value)
    )


def head(
    path: bytes = b"/length/3",
    *fields: tuple[bytes, bytes],
    method: bytes = b"GET",
    pseudo: tuple[tuple[bytes, bytes], ...] | None = None,
) -> bytes:
    """Return a header block; `pseudo` takes the place of the pseudo-header fields."""
    if pseudo is None:
        pseudo = (
            (b":method", method),
            (b":scheme", b"http"),
            (b":authority", b"test"),
            (b":path", path),
        )
    return b"".join(literal(name, value) for name, value in (*pseudo, *fields))


def request(stream: int, block: bytes | None = None, *, end: bool = True) -> bytes:
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(HEADERS, stream, head() if block is None else block, flags)


class Raw:
    """A connection over which HTTP/2 has begun.  `frames` is what has come so far."""

    def __init__(self, address: tuple[str, int], first: bytes | None = None) -> None:
        self.sock = socket.create_connection(address, DEADLINE)
        self.frames: list[Frame] = []
        self.closed = False
        self._rest = b""
        self._decoder = hpack.Decoder()
        self._decoder.max_header_list_size = 2**20
        self.send(PREFACE + (settings() if first is None else first))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *data: bytes) -> None:
        """Send all of it, reading meanwhile; stop where the server has closed."""
        self.send_all(data)

    def send_all(self, chunks: Iterable[bytes]) -> int:
        """Do the same for many; return how many were sent."""
        deadline = time.monotonic() + DEADLINE
        self.sock.setblocking(False)
        count = 0
        for chunk in chunks:
            view = memoryview(chunk)
            while view and not self.closed:
                assert time.monotonic() < deadline, "the server takes no more"
                readable, writable, _ = select.select([self.sock], [self.sock], [], 1.0)
                if readable:
                    self._receive()
                if writable and not self.closed:
                    try:
                        view = view[self.sock.send(view) :]
                    except BlockingIOError:
                        continue
                    except OSError:
                        self.closed = True
            if self.closed:
                break
            count += 1
        self.sock.setblocking(True)
        return count

    def _receive(self) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
        self._rest += data
        while len(self._rest) >= 9:
            length = int.from_bytes(self._rest[:3])
            if len(self._rest) < 9 + length:
                break
            kind, flags, stream = self._rest[3], self._rest[4], int.from_bytes(self._rest[5:9])
            self.frames.append(Frame(kind, flags, stream, self._rest[9 : 9 + length]))
            self._rest = self._rest[9 + length :]

    def until(self, kind: int, stream: int | None = None, flag: int = 0) -> Frame | None:
        """Wait for a frame, of a stream, with a flag; None where the server closes before."""
        deadline = time.monotonic() + DEADLINE
        while True:
            for one in self.frames:
                right = one.kind == kind and one.flags & flag == flag
                if right and (stream is None or one.stream == stream):
                    return one
            if self.closed:
                return None
            left = deadline - time.monotonic()
            assert left > 0, f"no frame of type {kind}: {self.frames[-5:]}"
            if select.select([self.sock], [], [], left)[0]:
                self._receive()

    def until_closed(self) -> None:
        """Read until the server closes."""
        deadline = time.monotonic() + DEADLINE
        while not self.closed:
            assert time.monotonic() < deadline, "the server does not close"
            if select.select([self.sock], [], [], 1.0)[0]:
                self._receive()

    @property
    def goaway(self) -> int | None:
        """Wait for a GOAWAY and return its code; None where there was none."""
        found = self.until(GOAWAY)
        return None if found is None else int.from_bytes(found.payload[4:8])

    def reset_of(self, stream: int) -> int | None:
        """Wait for the end of a stream by RST_STREAM and return its code."""
        found = self.until(RST_STREAM, stream)
        return None if found is None else int.from_bytes(found.payload)

    def status_of(self, stream: int) -> int:
        """Wait for the head of a response and return its status."""
        found = self.until(HEADERS, stream)
        assert found is not None, f"closed without an answer: {self.frames}"
        return int(dict(self._decoder.decode(found.payload))[":status"])

    def body_of(self, stream: int) -> bytes:
        """Wait for the end of a response and return its body."""
        self.until_over(stream)
        return b"".join(f.payload for f in self.frames if (f.kind, f.stream) == (DATA, stream))

    def until_over(self, stream: int) -> bool:
        """Wait for the end of a stream; return whether it was a response."""
        deadline = time.monotonic() + DEADLINE
        while True:
            for one in self.frames:
                if one.stream == stream and one.kind == RST_STREAM:
                    return False
                if one.stream == stream and one.kind in {DATA, HEADERS} and one.flags & END_STREAM:
                    return True
            assert not self.closed, self.frames
            assert time.monotonic() < deadline, "it does not end"
            if select.select([self.sock], [], [], 1.0)[0]:
                self._receive()

    def alive(self, stream: int) -> bool:
        """Tell whether the connection serves a request, over a stream that was not used."""
        self.send(request(stream))
        return self.body_of(stream) == b"sss"


def odd(count: int, first: int = 1) -> Iterator[int]:
    """Yield the numbers of streams that a client opens."""
    yield from range(first, first + 2 * count, 2)
