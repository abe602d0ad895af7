"""Clients that try to wear an HTTP/2 server down; each named after what it once did to others.

Each of them is to be told ENHANCE_YOUR_CALM, without a word in the log, while another client of the
same worker is served as before and the memory of the server stays where it was.
"""

import itertools
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hpack
import pytest

from tests.e2e.clients import Wire
from tests.e2e.http2_raw import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    DEADLINE,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Raw,
    frame,
    head,
    literal,
    number,
    odd,
    request,
    settings,
)

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

MANY = 100_000
"""Of what would be too much: far more than any client is let send."""

MAX_GROWTH = 32 * 1024 * 1024

MIN_SAMPLES = 10

MAX_MEDIAN = 0.020
"""Seconds that another client's request may take while an attack goes on."""


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    made = shared_serve("asgi:app", "--workers", "1", "--loop", request.param)
    with Raw(made.address) as first:
        assert first.alive(1)  # the lane is loaded
    return made


def resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.serving_pid}/status").read_text()
    matched = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert matched
    return int(matched[1]) * 1024


class Neighbour:
    """Another client of the worker, who wants to be served as ever."""

    def __init__(self, server: Server) -> None:
        self._begun, self._over = threading.Event(), threading.Event()
        self._server = server
        self._thread = threading.Thread(target=self._ask)
        self.seconds: list[float] = []
        self.peak = 0

    def _ask(self) -> None:
        with Wire.connect(self._server.address) as wire:
            while not self._over.is_set() or len(self.seconds) < MIN_SAMPLES:
                begun = time.perf_counter()
                assert wire.get("/length/3").answer().status == 200
                self.seconds.append(time.perf_counter() - begun)
                self._begun.set()
                self.peak = max(self.peak, resident_bytes(self._server))
                time.sleep(0.002)  # a client, not a load

    def __enter__(self) -> Neighbour:
        self._thread.start()
        assert self._begun.wait(DEADLINE)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def unharmed(server: Server) -> Iterator[None]:
    """Whatever is done meanwhile harms neither the server nor its other clients."""
    before, log = resident_bytes(server), server.log
    with Neighbour(server) as neighbour:
        yield
    assert neighbour.peak - before < MAX_GROWTH
    assert statistics.median(neighbour.seconds) < MAX_MEDIAN
    new = server.log.removeprefix(log)
    assert "Traceback" not in new
    assert not re.search(r" (warning|error) ", new), new


# ---- floods


def rapid_reset() -> Iterator[bytes]:
    for stream in odd(MANY):
        yield request(stream) + frame(RST_STREAM, stream, number(CANCEL))


def reset_by_overflow() -> Iterator[bytes]:
    """A window of more than 2^31-1 bytes is an error of the stream (RFC 9113, section 6.9.1)."""
    for stream in odd(MANY):
        block = head(b"/wait-for-disconnect")
        yield request(stream, block) + frame(WINDOW_UPDATE, stream, number(2**31 - 1))


def reset_by_data_behind_the_end() -> Iterator[bytes]:
    for stream in odd(MANY):
        yield request(stream, head(b"/wait-for-disconnect")) + frame(DATA, stream, b"x")


def reset_by_malformed_requests() -> Iterator[bytes]:
    for stream in odd(MANY):
        yield request(stream, head(b"/", (b"Upper-Case", b"x")))


def reset_by_body_length() -> Iterator[bytes]:
    for stream in odd(MANY):
        block = head(b"/unread", (b"content-length", b"1"), method=b"POST")
        yield request(stream, block, end=False) + frame(DATA, stream, b"xx", END_STREAM)


def refused_streams() -> Iterator[bytes]:
    """More at a time than are let in: each is refused, and that is counted."""
    for stream in odd(MANY):
        yield request(stream, head(b"/unread-for-ever"), end=False)
        yield frame(RST_STREAM, stream, number(CANCEL))


def continuations_of_nothing() -> Iterator[bytes]:
    yield frame(HEADERS, 1, head(), END_STREAM)
    for _ in range(MANY):
        yield frame(CONTINUATION, 1)


def continuations_that_never_end() -> Iterator[bytes]:
    yield frame(HEADERS, 1, head(), END_STREAM)
    for index in range(MANY):
        yield frame(CONTINUATION, 1, literal(b"x-%d" % index, b"v" * 1000))


def continuations_of_a_byte() -> Iterator[bytes]:
    yield frame(HEADERS, 1, head(), END_STREAM)
    for _ in range(MANY):
        yield frame(CONTINUATION, 1, b"\x82")


def empty_data() -> Iterator[bytes]:
    yield request(1, head(b"/unread-for-ever", method=b"POST"), end=False)
    for _ in range(MANY):
        yield frame(DATA, 1)


def padding_only() -> Iterator[bytes]:
    yield request(1, head(b"/unread-for-ever", method=b"POST"), end=False)
    for _ in range(MANY):
        yield frame(DATA, 1, b"\x05" + b"\0" * 5, PADDED)


def pings() -> Iterator[bytes]:
    yield from itertools.repeat(frame(PING, payload=b"12345678"), MANY)


def settings_over_and_over() -> Iterator[bytes]:
    yield from itertools.repeat(settings(window=65535), MANY)


def settings_acknowledged() -> Iterator[bytes]:
    yield from itertools.repeat(frame(SETTINGS, flags=ACK), MANY)


def unknown_settings() -> Iterator[bytes]:
    """Whoever keeps them keeps 65,536 of them."""
    for first in range(256, 65536, 2000):
        pairs = (n.to_bytes(2) + b"\0\0\0\1" for n in range(first, min(first + 2000, 65536)))
        yield frame(SETTINGS, payload=b"".join(pairs))
    yield from settings_over_and_over()


def priorities() -> Iterator[bytes]:
    for stream in odd(MANY, first=3):
        yield frame(PRIORITY, stream, number(0) + b"\x10")


def priority_updates() -> Iterator[bytes]:
    for stream in odd(MANY):
        yield frame(0x10, payload=number(stream) + b"u=1")


def window_updates() -> Iterator[bytes]:
    yield from itertools.repeat(frame(WINDOW_UPDATE, payload=number(1)), MANY)


def window_updates_of_a_stream() -> Iterator[bytes]:
    """A byte of a response for each of them."""
    yield settings(window=0)
    yield request(1, head(b"/length/1000000"))
    yield from itertools.repeat(frame(WINDOW_UPDATE, 1, number(1)), MANY)


def unknown_frames() -> Iterator[bytes]:
    yield from itertools.repeat(frame(0xBE, 1, b"x"), MANY)


def hpack_bomb() -> Iterator[bytes]:
    """A field of 4,000 bytes, put into the table once and then named by a byte each time."""
    field = b"\x40\x01x" + hpack.hpack.encode_integer(3900, 7) + b"v" * 3900
    yield request(1, head() + field)
    for stream in odd(MANY, first=3):
        yield request(stream, head() + b"\xbe" * 8000)


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "CVE-2023-44487": rapid_reset,
    "CVE-2025-8671-window": reset_by_overflow,
    "CVE-2025-8671-data": reset_by_data_behind_the_end,
    "CVE-2025-8671-malformed": reset_by_malformed_requests,
    "CVE-2025-8671-length": reset_by_body_length,
    "CVE-2019-9514": refused_streams,
    "CVE-2019-9518-headers": continuations_of_nothing,
    "CVE-2024-27316": continuations_that_never_end,
    "CVE-2024-27316-byte": continuations_of_a_byte,
    "CVE-2019-9518-data": empty_data,
    "CVE-2019-9518-padding": padding_only,
    "CVE-2019-9512": pings,
    "CVE-2019-9515": settings_over_and_over,
    "CVE-2019-9515-ack": settings_acknowledged,
    "CVE-2019-9515-unknown": unknown_settings,
    "CVE-2019-9513-CVE-2016-6580": priorities,
    "CVE-2019-9513-update": priority_updates,
    "window-updates": window_updates,
    "CVE-2019-9511": window_updates_of_a_stream,
    "unknown-frames": unknown_frames,
    "CVE-2016-6581": hpack_bomb,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood(server: Server, name: str) -> None:
    with unharmed(server), Raw(server.address) as client:
        sent = client.send_all(FLOODS[name]())
        assert client.goaway == ENHANCE_YOUR_CALM
        client.sock.shutdown(1)
        client.until_closed()
        assert sent < MANY
    with Raw(server.address) as client:
        assert client.alive(1)


def test_quart_28(server: Server) -> None:
    """A client that reads nothing of what its PINGs are answered with."""
    with unharmed(server), Raw(server.address) as client:
        client.sock.settimeout(10)
        try:
            for _ in range(300):
                client.sock.sendall(frame(PING, payload=b"12345678") * 100)
        except OSError:
            pass  # closed: all the better
        assert client.goaway == ENHANCE_YOUR_CALM


# ---- what is kept for a client


def test_cve_2019_9517_a_window_that_stays_shut(server: Server) -> None:
    """Regression: 2 KB of requests for large responses cost Hypercorn 1.5 GB."""
    with unharmed(server), Raw(server.address, first=settings(window=0)) as client:
        client.send_all(request(stream, head(b"/length/100000000")) for stream in odd(100))
        assert client.status_of(199) == 200
        time.sleep(0.3)  # the time in which it would grow
        assert not any(one.kind == DATA for one in client.frames)
        client.send(frame(PING, payload=b"12345678"))
        assert client.until(PING) is not None


def test_cve_2019_9517_a_socket_that_is_not_read(server: Server) -> None:
    with unharmed(server), Raw(server.address, first=settings(window=2**31 - 1)) as client:
        client.sock.sendall(frame(WINDOW_UPDATE, payload=number(2**30)))
        for stream in odd(100):
            client.sock.sendall(request(stream, head(b"/length/100000000")))
        time.sleep(0.5)  # the time in which it would grow


def test_whole_responses_that_nobody_takes_hold_up_the_next(server: Server) -> None:
    """An app that makes its body at once has it in memory: then its client's next has to wait."""
    with unharmed(server), Raw(server.address, first=settings(window=0)) as client:
        block = head(b"/whole/2000000")
        client.send_all(request(stream, block) for stream in odd(100))
        assert client.status_of(1) == 200
        client.send(frame(PING, payload=b"12345678"))
        assert client.until(PING) is not None
        assert sum(one.kind == HEADERS for one in client.frames) == 5
        client.send(frame(RST_STREAM, 1, number(CANCEL)))
        assert client.status_of(11) == 200


def test_cve_2026_49975_a_byte_of_window_now_and_then(serve: Serve) -> None:
    """Single bytes are no progress: the stream ends when the write time-out is over."""
    server = serve("asgi:app", "--workers", "1", "--write-timeout", "0.5s")
    with Raw(server.address, first=settings(window=0)) as client:
        client.send(request(1, head(b"/length/100000")))
        assert client.status_of(1) == 200
        begun = time.monotonic()
        while not any(one.kind == RST_STREAM for one in client.frames):
            client.send(frame(WINDOW_UPDATE, 1, number(1)))
            assert time.monotonic() - begun < 10.0
            time.sleep(0.02)
            client.send(frame(PING, payload=b"12345678"))
        assert client.reset_of(1) == CANCEL


def test_a_frame_that_is_too_large_is_not_waited_for(server: Server) -> None:
    with Raw(server.address) as client:
        client.send(b"\xff\xff\xff" + frame(DATA, 1)[3:])
        assert client.goaway == FRAME_SIZE_ERROR


def test_unread_bodies_are_bounded_by_the_windows(server: Server) -> None:
    with unharmed(server), Raw(server.address) as client:
        for stream in odd(20):
            client.send(request(stream, head(b"/unread-for-ever", method=b"POST"), end=False))
        for stream in odd(20):
            for _ in range(4):
                client.send(frame(DATA, stream, b"x" * 16000))
        client.send(frame(DATA, 1, b"x" * 16000))  # beyond its window
        assert client.goaway in {3, PROTOCOL_ERROR}


# ---- heads


@pytest.mark.parametrize(
    "fields",
    [
        [(b"x-%d" % index, b"") for index in range(101)],
        [(b"x-%d" % index, b"v" * 4000) for index in range(9)],
    ],
    ids=["count", "bytes"],
)
def test_a_head_beyond_the_limit_is_answered(
    server: Server, fields: list[tuple[bytes, bytes]]
) -> None:
    with Raw(server.address) as client:
        block = head(b"/", *fields)
        parts = [block[at : at + 16000] for at in range(0, len(block), 16000)]
        flags = END_STREAM if len(parts) > 1 else END_STREAM | END_HEADERS
        client.send(frame(HEADERS, 1, parts[0], flags))
        for index, part in enumerate(parts[1:], 2):
            client.send(frame(CONTINUATION, 1, part, END_HEADERS if index == len(parts) else 0))
        assert client.status_of(1) == 431
        assert client.alive(3)


def test_a_head_that_drips(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1", "--header-timeout", "0.5s")
    with Raw(server.address) as client:
        client.send(frame(HEADERS, 1, head(), END_STREAM))
        for _ in range(500):
            client.send(frame(CONTINUATION, 1, b""))
            time.sleep(0.02)
            if any(one.kind == GOAWAY for one in client.frames) or client.closed:
                break
        assert client.goaway == 0
