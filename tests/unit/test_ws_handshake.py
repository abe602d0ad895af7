"""The opening handshake: what is refused, and what the answer holds."""

import pytest

from subserve.http.ws.deflate import Settings
from subserve.http.ws.handshake import Handshake, Rejected
from tests.unit.ws_harness import ACCEPT, KEY

DATE = b"date: now\r\n"
VERSION = (b"sec-websocket-version", b"13")
NONCE = (b"sec-websocket-key", KEY)
type Headers = list[tuple[bytes, bytes]]


def handshake(*more: tuple[bytes, bytes], settings: Settings | None = None) -> Handshake:
    return Handshake([VERSION, NONCE, *more], settings)


def rejected(headers: Headers, settings: Settings | None = None) -> Rejected:
    with pytest.raises(Rejected) as refusal:
        Handshake(headers, settings)
    return refusal.value


@pytest.mark.parametrize(
    "headers",
    [
        [VERSION],
        [NONCE],
        [VERSION, NONCE, NONCE],
        [VERSION, (b"sec-websocket-key", b"")],
        [VERSION, (b"sec-websocket-key", KEY[:-1])],
        [VERSION, (b"sec-websocket-key", KEY[:-4])],
        [VERSION, (b"sec-websocket-key", KEY + b"=")],
        [VERSION, (b"sec-websocket-key", KEY.replace(b"d", b"\xff"))],
        [VERSION, (b"sec-websocket-key", KEY[:-3] + b"B==")],
    ],
)
def test_what_is_no_handshake(headers: Headers) -> None:
    refusal = rejected(headers)
    assert refusal.status == 400
    assert refusal.response(DATE).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("version", [b"8", b"", b"14", b"013", b"13, 8", b"\xff"])
def test_another_version(version: bytes) -> None:
    """RFC 6455, section 4.4."""
    refusal = rejected([NONCE, (b"sec-websocket-version", version)])
    head, _, rest = refusal.response(DATE).partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    assert (status, rest) == (b"HTTP/1.1 426 Upgrade Required", b"")
    assert {b"sec-websocket-version: 13", b"upgrade: websocket"} < set(lines)
    assert b"connection: upgrade, close" in lines


def test_two_versions() -> None:
    assert rejected([NONCE, VERSION, VERSION]).status == 426


@pytest.mark.parametrize(
    "protocol",
    [b"\x80\xff", b"a b", b"a;b", b'"a"', b"a\x85b", "ü".encode(), b"a, \xff", b"a, b, a", b"a\tb"],
)
def test_cve_2026_42544(protocol: bytes) -> None:
    """A subprotocol of bytes that are no text ended granian's worker."""
    assert rejected([VERSION, NONCE, (b"sec-websocket-protocol", protocol)]).status == 400


def test_subprotocols() -> None:
    name = b"sec-websocket-protocol"
    made = handshake((name, b"b, a"), (name, b" c\t,,"))
    assert made.subprotocols == ["b", "a", "c"]
    assert b"sec-websocket-protocol: a\r\n" in made.response("a", (), DATE)
    assert b"protocol" not in made.response(None, (), DATE)
    with pytest.raises(ValueError, match="not offered"):
        made.response("d", (), DATE)


def test_the_answer() -> None:
    lines = handshake().response(None, [(b"X-Own", b"1"), (b"x-own", b"2")], DATE).split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert set(lines[1:-2]) == {
        *(b"upgrade: websocket", b"connection: Upgrade", b"date: now"),
        *(b"sec-websocket-accept: " + ACCEPT, b"X-Own: 1", b"x-own: 2"),
    }
    assert lines[-2:] == [b"", b""]


@pytest.mark.parametrize(
    "pair",
    [
        (b"x", b"a\r\nb: c"),
        (b"x", b"a\nb"),
        (b"x", b"a\0"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"", b"a"),
        (b"Sec-WebSocket-Protocol", b"a"),
        (b"sec-websocket-accept", b"a"),
        (b"sec-websocket-extensions", b"a"),
        (b"upgrade", b"a"),
    ],
)
def test_headers_of_the_app_that_are_not_sent(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="the app sen"):
        handshake().response(None, [pair], DATE)


def test_headers_of_the_app_that_are_the_servers() -> None:
    own: Headers = [(b"Connection", b"close"), (b"Transfer-Encoding", b"x"), (b"date", b"then")]
    answer = handshake().response(None, own, DATE)
    assert answer.lower().count(b"connection:") == 1
    assert b"transfer-encoding" not in answer.lower()
    assert answer.count(b"date") == 1


def test_compression() -> None:
    offer = (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits")
    assert b"extensions" not in handshake(offer).response(None, (), DATE)
    made = handshake((b"sec-websocket-extensions", b"x"), offer, settings=Settings())
    expected = b"sec-websocket-extensions: permessage-deflate; client_max_window_bits=12\r\n"
    assert expected in made.response(None, (), DATE)
    empty = handshake((b"sec-websocket-extensions", b""), settings=Settings())
    assert empty.agreement is None
    broken = (b"sec-websocket-extensions", b"permessage-deflate;")
    assert rejected([VERSION, NONCE, broken], Settings()).status == 400
