"""WebSocket clients that mean no good: what they cost, and that the others are served."""

import contextlib
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Wire
from tests.e2e.test_websocket import UPGRADE

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

MESSAGE_BYTES = 4 * 1024 * 1024
GROWTH_BYTES = 32 * 1024 * 1024

MASK = b"\0\0\0\0"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    return shared_serve(
        *("asgi:app", "--workers", "1", "--loop", request.param, "--no-supervisor"),
        *("--ws-max-message-bytes", str(MESSAGE_BYTES), "--write-timeout", "1s"),
    )


def resident_bytes(server: Server) -> int:
    """Return the resident memory of the one process there is."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.fixture
def modest(server: Server) -> Iterator[None]:
    """Whatever a test does: little memory, and others are answered while it does."""
    others: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.01):
            begin = time.monotonic()
            with Wire.connect(server.address) as wire:
                assert wire.get("/length/3").answer().status == 200
            others.append(time.monotonic() - begin)

    before = resident_bytes(server)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()
    assert resident_bytes(server) - before < GROWTH_BYTES
    # Far above what it is: other tests run on the same cores.
    assert sorted(others)[len(others) // 2] < 0.5


@contextlib.contextmanager
def chatting(server: Server, path: str, *headers: str) -> Iterator[Wire]:
    with Wire.connect(server.address) as wire:
        wire.get(path, *UPGRADE, *headers).read_until(b"\r\n\r\n")
        yield wire


def close_code(wire: Wire) -> int:
    """Read frames until the server closes, and return its code."""
    while True:
        first, size = wire.read_exactly(2)
        payload = wire.read_exactly(size)
        if first == 0x88:
            return int.from_bytes(payload[:2])


@pytest.mark.usefixtures("modest")
def test_cve_2018_1000518(server: Server) -> None:
    """A frame of 509 KB that inflates to 500 MB: 586 MB and 14 s in Hypercorn."""
    stream = zlib.compressobj(wbits=-15)
    bomb = (stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)) * 500
    with chatting(server, "/ws/echo", DEFLATE) as wire:
        with contextlib.suppress(OSError):  # it need not take all of it
            wire.send(b"\xc2\xff" + len(bomb).to_bytes(8) + MASK + bomb)
        assert close_code(wire) == 1009


def test_cve_2021_21419(server: Server) -> None:
    """A frame that says that it has 2 to the 60 bytes."""
    with chatting(server, "/ws/echo") as wire:
        wire.send(b"\x82\xff" + (1 << 60).to_bytes(8) + MASK)
        assert close_code(wire) == 1009


@pytest.mark.usefixtures("modest")
def test_cve_2026_48779(server: Server) -> None:
    """A million fragments of one byte, which are one message."""
    count = 1_000_000
    fragment = b"\x00\x81" + MASK + b"x"
    with chatting(server, "/ws/echo") as wire:
        wire.send(b"\x02\x81" + MASK + b"x")
        for _ in range(1000):
            wire.send(fragment * (count // 1000))
        wire.send(b"\x80\x80" + MASK)
        first, size = wire.read_exactly(2)
        assert (first, size) == (0x82, 127)
        assert int.from_bytes(wire.read_exactly(8)) == count + 1
        assert set(wire.read_exactly(count + 1)) == {ord("x")}


@pytest.mark.usefixtures("modest")
def test_pings_without_end(server: Server) -> None:
    """Nothing of the answers is read: a client that takes nothing is cut off in the end."""
    ping = b"\x89\xfd" + MASK + b"p" * 125
    with Wire.connect(server.address, receive_buffer=4096) as wire:
        wire.get("/ws/echo", *UPGRADE).read_until(b"\r\n\r\n")
        wire.sock.settimeout(5)
        with contextlib.suppress(OSError):  # it is cut off, or the way is full
            for _ in range(200):
                wire.send(ping * 1000)


@pytest.mark.usefixtures("modest")
def test_messages_that_nobody_receives(server: Server) -> None:
    """The app does not receive: the client is held up, and not the memory filled."""
    message = b"\x82\xfe\xff\xff" + MASK + bytes(65535)
    with chatting(server, "/ws/push") as wire:
        wire.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            wire.send(message * 1000)


def test_a_client_that_reads_nothing_is_cut_off(server: Server) -> None:
    before = server.log.count("push ended")
    with Wire.connect(server.address, receive_buffer=4096) as wire:
        wire.get(f"/ws/push?text={'x' * 20_000}", *UPGRADE).read_until(b"\r\n\r\n")
        server.wait_for("(?s)" + ".*push ended" * (before + 1))


@pytest.mark.parametrize("protocol", [b"\x80\xff", b"a\x85b", b"a b"])
def test_cve_2026_42544(server: Server, protocol: bytes) -> None:
    """A subprotocol that is no text ended the worker of granian."""
    head = b"\r\n".join(
        (b"GET /ws/echo HTTP/1.1", b"Host: a", *(line.encode() for line in UPGRADE))
    )
    with Wire.connect(server.address) as wire:
        wire.send(head + b"\r\nSec-WebSocket-Protocol: " + protocol + b"\r\n\r\n")
        assert wire.answer().status == 400
        assert wire.closed_cleanly()


@pytest.mark.parametrize("byte", [b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\0", b"\r"])
def test_cve_2026_44546(server: Server, byte: bytes) -> None:
    """What str.splitlines() takes for the end of a line, in a header of a handshake."""
    head = b"\r\n".join(
        (b"GET /ws/echo HTTP/1.1", b"Host: a", *(line.encode() for line in UPGRADE))
    )
    with Wire.connect(server.address) as wire:
        wire.send(head + b"\r\nX: a" + byte + b"Y: b\r\n\r\n")
        assert wire.answer().status == 400


def test_another_version_is_told_which_one_we_speak(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        headers = [line.replace("Version: 13", "Version: 8") for line in UPGRADE]
        answer = wire.get("/ws/echo", *headers).answer()
        assert (answer.status, answer.headers["sec-websocket-version"]) == (426, "13")


def test_a_request_by_url(server: Server) -> None:
    """The target in absolute form, as for a proxy (RFC 9112, section 3.2.2)."""
    lines = "\r\n".join(("GET http://b:1/ws/echo HTTP/1.1", "Host: b:1", *UPGRADE))
    with Wire.connect(server.address) as wire:
        wire.send(lines.encode() + b"\r\n\r\n")
        assert b" 101 " in wire.read_until(b"\r\n\r\n")
