"""Headers of the PROXY protocol: whole, cut in two anywhere, and damaged."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.forwarded import Addresses
from subserve.http.proxy_protocol import (
    MAX_V1_BYTES,
    SIGNATURE,
    Header,
    NotProxied,
    parse_header,
)

TWO: Addresses = (("203.0.113.5", 40000), ("192.0.2.1", 443))
SIX: Addresses = (("2001:db8::5", 40000), ("2001:db8::1", 443))


def v2(command: int, family: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, size) + payload


FOUR_PAYLOAD = bytes([203, 0, 113, 5, 192, 0, 2, 1]) + struct.pack("!HH", 40000, 443)
SIX_PAYLOAD = bytes.fromhex(
    "20010db800000000000000000000000520010db8000000000000000000000001"
) + struct.pack("!HH", 40000, 443)
UNIX_PAYLOAD = b"/client".ljust(108, b"\0") + b"/run/app.sock".ljust(108, b"\0")
TLVS = b"\x01\0\2h2" + b"\x04\0\0" + b"\x20\0\5\1\0\0\0\0"

GOOD: list[tuple[bytes, Addresses | None]] = [
    (b"PROXY TCP4 203.0.113.5 192.0.2.1 40000 443\r\n", TWO),
    (b"PROXY TCP6 2001:db8::5 2001:DB8::1 40000 443\r\n", SIX),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n",
     (("255.255.255.255", 65535), ("255.255.255.255", 0))),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"f" * (MAX_V1_BYTES - 16) + b"\r\n", None),
    (v2(0x21, 0x11, FOUR_PAYLOAD), TWO),
    (v2(0x21, 0x11, FOUR_PAYLOAD + TLVS), TWO),
    (v2(0x21, 0x21, SIX_PAYLOAD), SIX),
    (v2(0x21, 0x21, SIX_PAYLOAD + b"\xee" + struct.pack("!H", 9000) + b"x" * 9000), SIX),
    (v2(0x21, 0x31, UNIX_PAYLOAD), (None, ("/run/app.sock", None))),
    (v2(0x21, 0x00, b""), None),
    (v2(0x21, 0x00, TLVS), None),
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0x11, FOUR_PAYLOAD), None),
    (v2(0x20, 0x42, b"whatever"), None),
]  # fmt: skip


@pytest.mark.parametrize(("data", "addresses"), GOOD)
def test_what_is_read(data: bytes, addresses: Addresses | None) -> None:
    for rest in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", data):
        assert parse_header(data + rest) == Header(len(data), addresses)


@pytest.mark.parametrize("data", [data for data, _ in GOOD])
def test_every_split(data: bytes) -> None:
    assert all(parse_header(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"\r\n\r\n\0\r\nQUIT\r",
        b"proxy TCP4 203.0.113.5 192.0.2.1 40000 443\r\n",
        b"PROXY  TCP4 203.0.113.5 192.0.2.1 40000 443\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 40000 443 \r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 40000 443\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 40000\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 040000 443\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 00 443\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 65536 443\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 -1 443\r\n",
        b"PROXY TCP4 203.0.113.256 192.0.2.1 40000 443\r\n",
        b"PROXY TCP4 2001:db8::5 2001:db8::1 40000 443\r\n",
        b"PROXY TCP6 203.0.113.5 192.0.2.1 40000 443\r\n",
        b"PROXY UDP4 203.0.113.5 192.0.2.1 40000 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN " + b"f" * MAX_V1_BYTES,
        b"PROXY TCP4 " + b"1" * MAX_V1_BYTES + b"\r\n",
        v2(0x22, 0x11, FOUR_PAYLOAD),
        v2(0x11, 0x11, FOUR_PAYLOAD),
        v2(0x21, 0x12, FOUR_PAYLOAD),
        v2(0x21, 0x99, FOUR_PAYLOAD),
        v2(0x21, 0x11, FOUR_PAYLOAD[:-1]),
        v2(0x21, 0x21, FOUR_PAYLOAD),
        v2(0x21, 0x31, UNIX_PAYLOAD[:-1]),
    ],
)
def test_what_is_dropped(data: bytes) -> None:
    with pytest.raises(NotProxied):
        parse_header(data)


def outcome(data: bytes) -> Header | str | None:
    try:
        return parse_header(data)
    except NotProxied:
        return "dropped"


BEGINNINGS = st.sampled_from([data for data, _ in GOOD]) | st.binary(max_size=300)


@given(
    BEGINNINGS,
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3),
    st.binary(max_size=40),
)
def test_whatever_comes_and_however_it_is_cut(
    data: bytes, damage: list[tuple[int, int]], rest: bytes
) -> None:
    """What is decided once does not depend on what comes later, and is decided in bounded space."""
    damaged = bytearray(data)
    for place, value in damage:
        if place < len(damaged):
            damaged[place] = value
    whole = bytes(damaged) + rest
    final = outcome(whole)
    for size in range(len(whole)):
        early = outcome(whole[:size])
        assert early in {None, final} if not isinstance(early, Header) else early == final
    if isinstance(final, Header):
        assert 0 < final.size <= len(whole)
    if final is None:
        assert len(whole) < 16 + 65535
