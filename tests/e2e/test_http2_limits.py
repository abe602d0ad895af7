"""HTTP/2: limits and time-outs, the errors of a stream, and that they are no one else's."""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import H2, Wire, gate
from tests.e2e.http2_raw import (
    CANCEL,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Raw,
    frame,
    head,
    number,
    odd,
    request,
    settings,
)

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

NO_ERROR = 0
MAX_BODY = 100_000
STREAMS = 8


@pytest.fixture(scope="module")
def server(shared_serve: Serve) -> Server:
    """One whose clients may take half a second for anything."""
    timeouts = ("header", "body", "write", "keep-alive")
    return shared_serve(
        *("asgi:app", "--workers", "1"),
        *(f"--{kind}-timeout=0.5s" for kind in timeouts),
        *(f"--max-body-bytes={MAX_BODY}", f"--h2-max-concurrent-streams={STREAMS}"),
    )


@pytest.fixture
def client(server: Server) -> Iterator[Raw]:
    with Raw(server.address) as made:
        yield made


def post(path: bytes, *fields: tuple[bytes, bytes]) -> bytes:
    return head(path, *fields, method=b"POST")


# ---- limits


def test_a_body_that_is_announced_as_too_large(client: Raw, server: Server) -> None:
    length = b"%d" % (MAX_BODY + 1)
    client.send(request(1, post(b"/digest", (b"content-length", length)), end=False))
    assert client.status_of(1) == 413
    assert client.reset_of(1) == NO_ERROR
    assert client.alive(3)


def test_a_body_that_becomes_too_large(client: Raw) -> None:
    """The app sees no more of it than the limit, and is told that it will not get the rest."""
    client.send(request(1, post(b"/digest"), end=False))
    sent, part = 0, 10_000
    while sent <= MAX_BODY:
        client.send(frame(DATA, 1, b"x" * part))
        sent += part
        if sent == 60_000:  # as far as the window goes
            assert client.until(WINDOW_UPDATE, 1) is not None
    assert client.status_of(1) == 413
    assert client.reset_of(1) == NO_ERROR
    assert client.alive(3)


def test_a_body_up_to_the_limit(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        assert H2(wire).post("/digest", b"x" * MAX_BODY).body.startswith(b"%d " % MAX_BODY)


def test_more_streams_than_announced_are_refused(client: Raw) -> None:
    """Each by itself: before it has read our SETTINGS a client does not know."""
    with gate() as held:
        path = b"/gate/%d" % held.port
        client.send(*(request(stream, head(path)) for stream in odd(STREAMS + 3)))
        held.wait(STREAMS)
        for stream in odd(3, first=2 * STREAMS + 1):
            assert client.reset_of(stream) == REFUSED_STREAM
        assert held.nobody_waits()
        held.open()
        for stream in odd(STREAMS):
            assert client.body_of(stream) == b"through"
    assert client.alive(99)


def test_apps_that_still_run_count(client: Raw) -> None:
    """CVE-2023-44487: a stream that was reset is over for the client, but not for us."""
    with gate() as held:
        path = b"/gate/%d" % held.port
        for stream in odd(STREAMS):
            client.send(request(stream, head(path)), frame(RST_STREAM, stream, number(CANCEL)))
        held.wait(STREAMS)
        client.send(request(101, head(path)))
        assert client.reset_of(101) == REFUSED_STREAM
        held.open()
    deadline = time.monotonic() + 10
    for stream in odd(1000, first=103):  # once they have ended
        client.send(request(stream))
        if client.until_over(stream):
            break
        assert time.monotonic() < deadline


# ---- time


def test_no_preface(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        wire.send(PREFACE[:-6])
        begun = time.monotonic()
        while wire.receive():
            pass
        assert 0.3 < time.monotonic() - begun < 10


def test_half_a_frame(client: Raw) -> None:
    client.send(request(1)[:12])
    assert client.goaway == NO_ERROR


def test_an_idle_connection(client: Raw) -> None:
    """PINGs do not keep it open."""
    assert client.alive(1)
    begun = time.monotonic()
    while not any(one.kind == GOAWAY for one in client.frames):
        client.send(frame(PING, payload=b"12345678"))
        time.sleep(0.05)
        assert time.monotonic() - begun < 10
    assert client.goaway == NO_ERROR
    client.sock.shutdown(1)
    client.until_closed()


def test_a_body_that_stands_still(client: Raw) -> None:
    client.send(request(1, post(b"/digest"), end=False), frame(DATA, 1, b"x"))
    assert client.status_of(1) == 408
    assert client.reset_of(1) == NO_ERROR
    assert client.alive(3)


def test_a_body_that_goes_on_slowly(client: Raw) -> None:
    client.send(request(1, post(b"/digest"), end=False))
    for _ in range(10):
        client.send(frame(DATA, 1, b"x"))
        time.sleep(0.1)
    client.send(frame(DATA, 1, b"x", END_STREAM))
    assert client.status_of(1) == 200


def test_an_app_that_takes_its_time_with_a_body(client: Raw) -> None:
    """It is not the client that is waited for."""
    with gate() as held:
        client.send(request(1, post(b"/gate/%d" % held.port), end=False))
        client.send(frame(DATA, 1, b"x" * 1000))
        held.wait()
        time.sleep(1.0)  # twice the time-out
        held.open()
        assert client.body_of(1) == b"through"


def test_a_window_that_stays_shut(server: Server) -> None:
    with Raw(server.address, first=settings(window=0)) as client:
        client.send(request(1, head(b"/length/100000")))
        assert client.status_of(1) == 200
        assert client.reset_of(1) == CANCEL
        client.send(settings(window=65535))
        assert client.alive(3)


def test_a_client_that_does_not_read(server: Server) -> None:
    before = server.log.count("endless ended")
    with Raw(server.address, first=settings(window=2**31 - 1)) as client:
        client.sock.sendall(frame(WINDOW_UPDATE, payload=number(2**30)))
        client.sock.sendall(request(1, head(b"/endless")))
        server.wait_for("(?s)" + ".*endless ended" * (before + 1))


# ---- errors of one stream


@pytest.mark.parametrize(
    "block",
    [
        head(b"/", (b"X-A", b"b")),
        head(b"/", (b"x-a", b"b\r\nc: d")),
        head(b"/", (b"connection", b"close")),
        head(b"/", (b"host", b"other")),
        head(b"/", (b"content-length", b"5")),
        head(b"/", pseudo=((b":method", b"GET"), (b":path", b"/"), (b":scheme", b"http"))),
        head(b"/", pseudo=((b":method", b"CONNECT"), (b":authority", b"a"), (b":protocol", b"b"))),
    ],
    ids=["upper-case", "CVE-2025-57804", "connection", "host", "length", "authority", "rfc8441"],
)
def test_what_is_no_request(client: Raw, block: bytes) -> None:
    client.send(request(1, block))
    assert client.reset_of(1) == PROTOCOL_ERROR
    assert client.alive(3)


def test_hypercorn_277(client: Raw) -> None:
    pseudo = ((b":method", b"CONNECT"), (b":authority", b"example.org:443"))
    client.send(request(1, head(pseudo=pseudo)))
    assert client.status_of(1) == 501
    assert client.alive(3)


@pytest.mark.parametrize("body", [b"123", b"123456"])
def test_a_body_that_is_not_as_long_as_announced(client: Raw, body: bytes) -> None:
    block = post(b"/digest", (b"content-length", b"5"))
    client.send(request(1, block, end=False), frame(DATA, 1, body, END_STREAM))
    assert client.reset_of(1) == PROTOCOL_ERROR
    assert client.alive(3)


def test_trailers_that_are_none(client: Raw) -> None:
    client.send(request(1, post(b"/digest"), end=False), frame(DATA, 1, b"x"))
    client.send(request(1, head()))  # pseudo-header fields
    assert client.reset_of(1) == PROTOCOL_ERROR
    assert client.alive(3)


def test_trailers(client: Raw) -> None:
    client.send(request(1, post(b"/digest"), end=False), frame(DATA, 1, b"x"))
    client.send(request(1, head(b"", (b"x-sum", b"1"), pseudo=())))
    assert client.body_of(1).startswith(b"1 ")


def test_websockets_are_not_offered(client: Raw) -> None:
    """RFC 8441: a client may ask for one only where we have said so."""
    found = client.until(SETTINGS)
    assert found is not None
    text = found.payload
    values = {text[at : at + 2]: text[at + 2 : at + 6] for at in range(0, len(text), 6)}
    assert values.get(b"\0\x08", bytes(4)) == bytes(4)
    assert values[b"\0\x03"] == number(STREAMS)


# ---- the app's part


@pytest.mark.parametrize("path", ["bad-header", "bad-name", "bad-type"])
def test_cve_2018_1000164(client: Raw, path: str) -> None:
    client.send(request(1, head(b"/" + path.encode())))
    assert client.status_of(1) == 500
    assert b"stolen" not in b"".join(one.payload for one in client.frames)
    assert client.alive(3)


def test_continue_when_the_app_asks(client: Raw) -> None:
    client.send(request(1, post(b"/digest", (b"expect", b"100-continue")), end=False))
    assert client.status_of(1) == 100
    client.send(frame(DATA, 1, b"x", END_STREAM))
    assert client.body_of(1).startswith(b"1 ")


def test_a_response_to_head(client: Raw) -> None:
    client.send(request(1, head(b"/length/5", method=b"HEAD")))
    found = client.until(HEADERS, 1)
    assert found is not None
    assert client.body_of(1) == b""
    assert client.alive(3)


# ---- nothing of one reaches another


def test_cve_2020_35681(server: Server) -> None:
    """What one request leaves behind in its context, scope and state no other one finds."""
    with Wire.connect(server.address) as wire:
        client = H2(wire)
        with gate() as held:
            streams = [client.open(f"/leak/{held.port}?as={name}") for name in "abcdef"]
            held.wait(6)
            held.open()
            seen = [json.loads(bytes(client.finish(stream).body)) for stream in streams]
        assert seen == [{"before": [None, None, None], "after": [name] * 3} for name in "abcdef"]
        again = json.loads(bytes(client.get("/leak/0?as=g").body))
        assert again == {"before": [None, None, None], "after": ["g"] * 3}


# ---- the drain


def test_goaway_at_a_drain(serve: Serve) -> None:
    """First a notice, then which stream is the last; what is open finishes."""
    server = serve("asgi:app", "--workers", "1", "--graceful-timeout", "60s")
    with gate() as held, Raw(server.address) as client, Raw(server.address) as unused:
        client.send(request(1, head(b"/gate/%d" % held.port)))
        held.wait()
        server.send(15)
        assert client.goaway == NO_ERROR
        server.wait_for("draining")
        deadline = time.monotonic() + 10
        while sum(one.kind == GOAWAY for one in client.frames) < 2:
            client.send(frame(PING, payload=b"12345678"))
            assert time.monotonic() < deadline
            time.sleep(0.01)
        first, last = (one.payload for one in client.frames if one.kind == GOAWAY)
        assert (first[:4], last[:4]) == (number(2**31 - 1), number(1))
        client.send(request(3))
        assert client.reset_of(3) == REFUSED_STREAM
        held.open()
        assert client.body_of(1) == b"through"
        client.sock.shutdown(1)
        client.until_closed()
        assert unused.goaway == NO_ERROR
    assert server.wait() == 0, server.log
