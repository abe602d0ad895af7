"""Heads that the accelerator reads, against the Python code that it stands in for.

Whatever it takes, that code must have taken too, with the same result; what it leaves alone needs
no comparison, but must not be what it is there for.
"""

import itertools
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.forwarded import is_about_forwarding
from subserve.http.h1.head import (
    Refused,
    check_version,
    find_end,
    parse_fields,
    parse_request_line,
    parse_target,
)
from tests.unit.h1_accelerated import NAMES, ORDINARY_NAMES, TEXTS, VALUES, parse_head

MAX_BYTES, MAX_COUNT = 4096, 20


def head_in_python(data: bytes, max_bytes: int, max_count: int) -> object:
    """Do what the connection does with a head, and return what the accelerator would."""
    end = find_end(data, 0, max_bytes)
    assert end >= 0, "not complete"
    line_end = data.find(b"\r\n")
    fields = parse_fields(data[line_end + 2 : end - 2], max_count)
    method, target, version = parse_request_line(data[:line_end])
    path, raw_path, query, authority = parse_target(method, target)
    check_version(fields, version)
    assert version == "1.1"
    assert authority is None
    assert not any((fields.chunked, fields.upgrade, fields.expect_continue))
    assert not fields.trailers_accepted
    length = -1 if fields.length is None else fields.length
    headers = list(fields.headers)
    forwarded = any(is_about_forwarding(name) for name, _ in headers)
    return end, method, path, raw_path, query, headers, length, not fields.close, forwarded


def compare_heads(data: bytes, max_bytes: int = MAX_BYTES, max_count: int = MAX_COUNT) -> bool:
    """Compare the two, and return whether the accelerator took it."""
    found = parse_head(data, max_bytes, max_count)
    if found is None:
        return False
    assert found == head_in_python(data, max_bytes, max_count)
    assert [type(part) for part in found] == [int, str, str, bytes, bytes, list, int, bool, bool]
    assert all(type(pair) is tuple for pair in found[5])
    return True


UNREMARKABLE = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /a/b?c=%20&d HTTP/1.1\r\nHOST:a.example:8000\r\n\r\nnext",
    b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 17\r\nContent-Type: text/plain\r\n\r\n{}",
    b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 000000000000000000\r\n\r\n",
    b"PATCH /x HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999999\r\n\r\n",
    b"DELETE //x? HTTP/1.1\r\nHost: 127.0.0.1:\r\nConnection: CLOSE\r\n\r\n",
    b"OPTIONS /*?? HTTP/1.1\r\nHost: a:65536\r\nconnection: Keep-Alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nX-Unknown-Name: \xff\x80\t tab \t\r\nHost: a\r\nEmpty:\r\nY:\t \r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * (MAX_COUNT - 1) + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"n" * 64 + b": long\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: " + b"a" * 255 + b"\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
    b"GET /\"<>[]{}|\\^`' HTTP/1.1\r\nHost: a\r\nUpgrade-Insecure-Requests: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-FORWARDED-For: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=b\r\nX-Forwarded: c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded: b\r\nForwardee: c\r\nY-Forwarded-For: d\r\n\r\n",
]


@pytest.mark.parametrize("data", UNREMARKABLE)
def test_what_it_is_there_for(data: bytes) -> None:
    assert compare_heads(data)
    end = data.index(b"\r\n\r\n") + 4
    assert compare_heads(data, max_bytes=end)
    assert not compare_heads(data, max_bytes=end - 1)
    assert compare_heads(data + bytes(range(256)) * 256)


@pytest.mark.parametrize("data", UNREMARKABLE)
def test_a_head_that_is_not_complete_is_left_alone(data: bytes) -> None:
    end = data.index(b"\r\n\r\n") + 4
    assert not any(compare_heads(data[:size]) for size in range(end))


@pytest.mark.parametrize("data", UNREMARKABLE)
def test_every_byte_in_every_place(data: bytes) -> None:
    """A table with one wrong entry, or a bound that is off by one, shows here."""
    end = data.index(b"\r\n\r\n") + 4
    for place in range(min(end, 130)):
        for value in range(256):
            compare_heads(b"%b%c%b" % (data[:place], value, data[place + 1 :]))
        for value in b"\r\n\t :?#%/\x00\x7f\x80a":
            compare_heads(b"%b%c%b" % (data[:place], value, data[place:]))
        compare_heads(data[:place] + data[place + 1 :])


@pytest.mark.parametrize(
    "line",
    [
        *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"TE: trailers", b"Upgrade: x"),
        *(b"Content_Length: 1", b"transfer_encoding: chunked"),
        *(b"Connection: close, x", b"Connection: upgrade", b"Host: a", b"Content-Length: x"),
    ],
)
def test_what_says_more_about_the_request_is_left_alone(line: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n"
    assert not compare_heads(head % line)
    assert compare_heads(head % (b"X-" + line))


LINES = [
    *(b"Host: a", b"host:b.example:80", b"Host:", b"Host: [::1]", b"Host: a:", b"Host: a:123456"),
    *(b"Host: a b", b"Host: " + b"a" * 256, b"Host: a%41", b"Host: a@b", b"Host : a", b" Host: a"),
    *(b"Content-Length: 0", b"Content-Length: 18", b"Content-Length: +1", b"Content-Length:"),
    *(b"content-length: 1, 1", b"Content-Length: 1234567890123456789", b"Content-Length: -1"),
    *(b"Content-Type: a/b", b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: close, x", b"Connection:"),
    *(b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"HTTP2-Settings: AA"),
    *(b"Expect: 100-continue", b"Expect: x", b"TE: trailers", b"TE:", b"Te : x"),
    *(
        b"X: y",
        b"X:",
        b"X",
        b": y",
        b"",
        b"X: a\x00b",
        b"X: a\nb",
        b"X: a\rb",
        b"X:  \t",
        b"\tX: y",
    ),
    *(b"x" * 65 + b": y", b"X: " + b"y" * 100, b"X\x80: y", b"X: \x7f", b"X: \xe9", b"X(: y"),
]


def test_all_pairs_of_header_lines() -> None:
    taken = 0
    for first, second in itertools.product(LINES, repeat=2):
        data = b"GET / HTTP/1.1\r\n%b\r\n%b\r\n\r\n" % (first, second)
        taken += compare_heads(data)
        compare_heads(data.replace(b"\r\n\r\n", b"\r\nHost: c\r\n\r\n"), max_count=3)
    assert taken >= 60


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
@pytest.mark.parametrize("limit", [-1, 0, 1, 128, 129, 2000])
def test_number_of_fields(count: int, limit: int) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * (count - 1) + b"\r\n"
    taken = compare_heads(data, max_bytes=10_000, max_count=limit)
    assert taken == (max(count, 1) <= min(limit, 128))


def test_limits_of_any_size() -> None:
    data = UNREMARKABLE[0]
    assert compare_heads(data, sys.maxsize, sys.maxsize)
    assert not compare_heads(data, 0)
    assert not compare_heads(data, -1)
    assert not compare_heads(data, -sys.maxsize - 1, -sys.maxsize - 1)
    for limits in ((sys.maxsize + 1, 1), (1, -sys.maxsize - 2)):
        with pytest.raises(OverflowError):
            parse_head(data, *limits)


METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"]
OTHERS = [b"get", b"TRACE", b"CONNECT", b"PRI", b"G", b""]
targets = st.sampled_from(
    [b"/", b"/a/b", b"/a?b", b"/%41", b"/?%41", b"*", b"http://a/b", b"/#", b""]
)
targets |= st.binary(max_size=20).map(lambda tail: b"/" + tail)
lines = st.sampled_from(LINES) | st.builds(lambda name, value: name + b": " + value, NAMES, VALUES)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    line = b"%b %b %b" % (
        draw(st.sampled_from(METHODS * 3 + OTHERS)),
        draw(targets),
        draw(st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b""])),
    )
    head = b"\r\n".join([line, b"Host: a", *draw(st.lists(lines, max_size=6)), b"", b""])
    return head + draw(st.binary(max_size=10))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = draw(heads())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        new = draw(
            st.sampled_from([b"", b"\r\n", b"\r", b"\n", b" ", b":"]) | st.binary(max_size=3)
        )
        data = data[:place] + new + data[place + draw(st.integers(0, 3)) :]
    return data


@given(heads() | damaged(), st.integers(20, 200), st.integers(0, 6))
def test_heads_of_any_kind(data: bytes, max_bytes: int, max_count: int) -> None:
    compare_heads(data)
    try:
        compare_heads(data, max_bytes, max_count)
    except Refused as refusal:
        pytest.fail(f"only the accelerator took it: {refusal}")


@given(st.binary())
def test_bytes_of_any_kind(data: bytes) -> None:
    compare_heads(data)


@given(
    st.sampled_from(METHODS),
    st.text([chr(c) for c in range(0x21, 0x7F) if chr(c) not in "#%?"], max_size=20),
    st.lists(
        st.tuples(ORDINARY_NAMES, TEXTS.map(lambda text: text.encode("latin-1"))), max_size=10
    ),
)
def test_nothing_unremarkable_is_left_alone(
    method: bytes, path: str, fields: list[tuple[bytes, bytes]]
) -> None:
    rows = b"".join(b"%b: %b\r\n" % pair for pair in fields)
    assert compare_heads(b"%b /%b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, path.encode(), rows))


def test_each_head_gets_a_list_of_its_own_and_shares_common_names() -> None:
    one, other = (parse_head(UNREMARKABLE[2], MAX_BYTES, MAX_COUNT) for _ in range(2))
    assert one is not None
    assert other is not None
    assert one[5] == other[5]
    assert one[5] is not other[5]
    assert all(a[0] is b[0] for a, b in zip(one[5], other[5], strict=True))
    assert one[1] is sys.intern("POST")


@pytest.mark.parametrize("data", [bytearray(UNREMARKABLE[0]), memoryview(b""), "", None])
def test_what_is_no_bytes_is_left_alone(data: Any) -> None:
    assert parse_head(data, MAX_BYTES, MAX_COUNT) is None


@pytest.mark.parametrize("arguments", [(), (b"", 1), (b"", 1, 1, 1), (b"", 1.0, 1), (b"", 1, None)])
def test_a_call_that_is_wrong_is_an_error(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        parse_head(*arguments)
