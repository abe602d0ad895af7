"""Clients that take their time: each is cut off when its time is over, and no honest one is.

All ways to be slow at the same time, on four servers, so that it takes no longer than the longest.
"""

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.e2e.clients import DEADLINE, Stopwatch, Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

LIMIT = 1.0
"""Seconds: all time-outs of the servers here."""

MARGIN = 3.0
"""Seconds that the end of a connection may come later than its limit: lingering takes two, and the
machine is busy."""

POST = b"POST /digest HTTP/1.1\r\nHost: t\r\n"

type Trickle = Iterator[bytes]
"""What a client sends, piece by piece, a pause behind each."""

PAUSE = 0.1

ATTEMPTS = 5


def nothing() -> Trickle:
    yield b""


def half_a_head() -> Trickle:
    yield b"GET / HTTP/1.1\r\nHo"


def a_head_in_drips() -> Trickle:
    yield b"GET / HTTP/1.1\r\nHost: t\r\nX-Long: "
    while True:
        yield b"x"


def header_lines_in_drips() -> Trickle:
    yield b"GET / HTTP/1.1\r\nHost: t\r\n"
    while True:
        yield b"A: b\r\n"


def idle() -> Trickle:
    yield b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"


def a_second_head_in_drips() -> Trickle:
    yield b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
    yield from a_head_in_drips()


def empty_lines() -> Trickle:
    yield b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
    while True:
        yield b"\r\n"


def no_body() -> Trickle:
    yield POST + b"Content-Length: 100000\r\n\r\n"


def half_a_body() -> Trickle:
    yield POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000


def a_body_in_drips() -> Trickle:
    yield POST + b"Content-Length: 100000\r\n\r\n"
    while True:
        yield b"x"


def chunks_in_drips() -> Trickle:
    yield POST + b"Transfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"1\r\nx\r\n"


def one_endless_chunk_line() -> Trickle:
    yield POST + b"Transfer-Encoding: chunked\r\n\r\n1;a="
    while True:
        yield b"x"


def trailers_in_drips() -> Trickle:
    yield POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    while True:
        yield b"A: b\r\n"


def a_body_that_nobody_wants() -> Trickle:
    yield b"POST /unread HTTP/1.1\r\nHost: t\r\nContent-Length: 60000\r\n\r\n"
    while True:
        yield b"x"


def nonsense_and_more_of_it() -> Trickle:
    yield b"nonsense\r\n\r\n"
    while True:
        yield b"x"


SENDERS: list[Callable[[], Trickle]] = [
    nothing,
    half_a_head,
    a_head_in_drips,
    header_lines_in_drips,
    idle,
    a_second_head_in_drips,
    empty_lines,
    no_body,
    half_a_body,
    a_body_in_drips,
    chunks_in_drips,
    one_endless_chunk_line,
    trailers_in_drips,
    a_body_that_nobody_wants,
    nonsense_and_more_of_it,
]


def lasts(wire: Wire, pieces: Trickle) -> float:
    """Send until the server has closed; return for how many seconds it let us."""
    begun = time.monotonic()
    with contextlib.suppress(OSError):  # a reset, or what TLS makes of one
        for piece in pieces:
            wire.send(piece)
            if _closed_within(wire, PAUSE):
                break
            if time.monotonic() - begun > LIMIT + 3 * MARGIN:
                break
        while not _closed_within(wire, LIMIT + MARGIN):
            if time.monotonic() - begun > LIMIT + 3 * MARGIN:
                break
    return time.monotonic() - begun


def _closed_within(wire: Wire, seconds: float) -> bool:
    """Take in what comes for so long; tell whether that was the end."""
    deadline = time.monotonic() + seconds
    try:
        while (left := deadline - time.monotonic()) > 0:
            wire.sock.settimeout(left)
            if not wire.receive():
                return True
    except TimeoutError:
        pass
    finally:
        wire.sock.settimeout(DEADLINE)
    return False


def does_not_read(wire: Wire) -> bool:
    """Ask for more than anybody can buffer, read nothing; tell whether it was cut off."""
    wire.get("/endless")
    time.sleep(LIMIT + MARGIN)
    return _ends_soon(wire)


def reads_in_drips(wire: Wire) -> bool:
    wire.get("/endless")
    deadline = time.monotonic() + LIMIT + MARGIN
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            if not wire.sock.recv(10):
                return True
            time.sleep(PAUSE)
    return _ends_soon(wire)


def asks_and_does_not_read(wire: Wire) -> bool:
    """Pipelined requests for as long as they are taken."""
    wire.sock.settimeout(LIMIT)
    request = b"GET /length/100000 HTTP/1.1\r\nHost: t\r\n\r\n"
    with contextlib.suppress(OSError):
        for _ in range(20_000):
            wire.send(request)
    wire.sock.settimeout(LIMIT + MARGIN)
    time.sleep(MARGIN)
    return _ends_soon(wire)


def _ends_soon(wire: Wire) -> bool:
    """Read what is on its way, as fast as we can; an app that still sends never ends."""
    deadline = time.monotonic() + 1.0
    try:
        while time.monotonic() < deadline:
            if not wire.receive():
                return True
    except OSError:
        return True
    return False


READERS: list[Callable[[Wire], bool]] = [does_not_read, reads_in_drips, asks_and_does_not_read]


def uploads_steadily(wire: Wire) -> bool:
    """Slow, but not too slow: 1 KiB every 0.1 s, for three times the limit."""
    wire.send(POST + b"Content-Length: 30720\r\n\r\n")
    for _ in range(30):
        wire.send(b"x" * 1024)
        time.sleep(PAUSE)
    return wire.answer().body.startswith(b"30720 ")


def downloads_steadily(wire: Wire) -> bool:
    """1 MiB at a time, with pauses, for longer than the limit."""
    size = 40 * 2**20
    wire.get(f"/length/{size}").read_until(b"\r\n\r\n")
    got = 0
    while got < size:
        got += (more := len(wire.read_exactly(min(2**20, size - got))))
        if not more:
            return False
        time.sleep(PAUSE / 2)
    return True


HONEST: list[Callable[[Wire], bool]] = [uploads_steadily, downloads_steadily]


@pytest.fixture
def servers(serve: Serve, tmp_path: Path) -> dict[str, tuple[Server, ssl.SSLContext | None]]:
    """By loop and transport."""
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    limits = [f"--{name}-timeout={LIMIT}" for name in ("header", "body", "write", "keep-alive")]
    made = {}
    for loop in ("asyncio", "uvloop"):
        options = ["asgi:app", "--workers", "1", "--loop", loop, *limits]
        made[loop] = serve(*options), None
        made[f"{loop}, TLS"] = serve(*options, "--certfile", str(pem)), context
    return made


def test_none_stays_beyond_its_limit(
    servers: dict[str, tuple[Server, ssl.SSLContext | None]],
) -> None:
    with ThreadPoolExecutor(len(servers)) as pool:
        jobs = {name: pool.submit(complaints, *one) for name, one in servers.items()}
        said = {name: job.result() for name, job in jobs.items() if job.result()}
    assert not said, said
    for name, (server, _) in servers.items():
        # None of them is left over.
        deadline = time.monotonic() + MARGIN
        while server.open_fds().count("socket:[N]") > 16 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.open_fds().count("socket:[N]") <= 16, name
        assert server.stop() == 0, server.log


def complaints(server: Server, context: ssl.SSLContext | None) -> list[str]:
    """Return who was cut off too early or too late."""

    def connect(buffer: int | None = None) -> Wire:
        return Wire.connect(server.address, context, receive_buffer=buffer)

    def send(sender: Callable[[], Trickle]) -> str:
        with connect() as wire:
            seconds = lasts(wire, sender())
        late = seconds > LIMIT + MARGIN
        early = seconds < LIMIT * 0.8 and sender not in {nonsense_and_more_of_it, empty_lines}
        return f"{sender.__name__}: {seconds:.1f} s" if late or early else ""

    def read(reader: Callable[[Wire], bool]) -> str:
        with connect(4096) as wire:
            return "" if reader(wire) else f"{reader.__name__} was not cut off"

    def be_honest(client: Callable[[Wire], bool]) -> str:
        for _ in range(ATTEMPTS):
            begun = time.monotonic()
            with Stopwatch() as watch, contextlib.suppress(OSError), connect() as wire:
                if client(wire):
                    return ""
            # One that the machine holds up is not a client that is steady.
            if time.monotonic() - begun - watch.seconds < LIMIT / 10:
                break
        return f"{client.__name__} was cut off"

    with ThreadPoolExecutor(len(SENDERS) + len(READERS) + len(HONEST)) as pool:
        jobs = [pool.submit(send, sender) for sender in SENDERS]
        jobs += [pool.submit(read, reader) for reader in READERS]
        jobs += [pool.submit(be_honest, client) for client in HONEST]
        return [said for job in jobs if (said := job.result())]
