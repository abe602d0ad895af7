"""The chunked coding: each rule, each limit at its edge, however the bytes come."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.h1 import chunked
from subserve.http.h1.chunked import MAX_SIZE_LINE_BYTES, ChunkedDecoder
from subserve.http.h1.head import Refused

MAX_TRAILER_BYTES = 200
MAX_TRAILERS = 4


def decode(*pieces: bytes) -> tuple[bytes, bytes | None]:
    """Return the body, and what comes behind it; None while it is not complete."""
    decoder = ChunkedDecoder(MAX_TRAILER_BYTES, MAX_TRAILERS)
    body: list[bytes] = []
    rest = b""
    for piece in pieces:
        if decoder.complete:
            rest += piece
            continue
        parts, rest = decoder.feed(piece)
        body += parts
    return b"".join(body), rest if decoder.complete else None


def decode_bytewise(data: bytes) -> tuple[bytes, bytes | None]:
    return decode(*(data[i : i + 1] for i in range(len(data))))


def outcome(*pieces: bytes) -> object:
    """Return the same as `decode`, or the status of a refusal."""
    try:
        return decode(*pieces)
    except Refused as refusal:
        return refusal.status


def everywhere(data: bytes) -> object:
    """Return what comes of `data`, and fail if that depends on how it is cut."""
    whole = outcome(data)
    assert outcome(*(data[i : i + 1] for i in range(len(data)))) == whole, "byte by byte"
    for place in range(1, len(data)):
        assert outcome(data[:place], data[place:]) == whole, f"split at {place}"
    return whole


# ---- what is taken


@pytest.mark.parametrize(
    ("data", "body", "rest"),
    [
        (b"0\r\n\r\n", b"", b""),
        (b"000\r\n\r\n", b"", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world", b""),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b""),
        (b"00A\r\n0123456789\r\n0\r\n\r\nGET /", b"0123456789", b"GET /"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n\r\n", b"\r\n\r\n", b"\r\n"),
        (b"3\r\n0\r\n\r\n0\r\n\r\n0\r\n\r\n", b"0\r\n", b"0\r\n\r\n"),
        (b"000000000000001\r\nx\r\n0\r\n\r\n", b"x", b""),
    ],
)
def test_bodies(data: bytes, body: bytes, rest: bytes) -> None:
    assert everywhere(data) == (body, rest)


@pytest.mark.parametrize(
    "extension",
    [
        b";a",
        b";a=b",
        b";a;b;c=d",
        b"; a=b",
        b";\ta \t= \tb",
        b';a="b"',
        b';a=""',
        b';a="b c;d=\\"e\\\\\x80";f',
        b";!#$%&'*+-.^_`|~9=!#$%&'*+-.^_`|~9",
        b';a ;b\t;c="d" ; e',
    ],
)
def test_extensions_are_dropped(extension: bytes) -> None:
    data = b"1%b\r\nx\r\n0%b\r\n\r\n" % (extension, extension)
    assert everywhere(data) == (b"x", b"")


@pytest.mark.parametrize(
    "trailers",
    [b"A: b\r\n", b"A:\r\nA: b\r\n", b"Digest: \x80\t.\r\n", b"Vary: *\r\nX-Checksum: 5\r\n"],
)
def test_trailers_are_dropped(trailers: bytes) -> None:
    assert everywhere(b"1\r\nx\r\n0\r\n" + trailers + b"\r\nGET") == (b"x", b"GET")


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.binary(max_size=10),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_bodies_come_back_however_they_are_cut(
    parts: list[bytes], behind: bytes, cuts: list[int]
) -> None:
    data = b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n" + behind
    places = sorted({0, *(cut % len(data) for cut in cuts), len(data)})
    pieces = [data[start:stop] for start, stop in pairwise(places)]
    assert decode(*pieces) == (b"".join(parts), behind)


def test_what_comes_is_handed_on_at_once_and_in_one_piece() -> None:
    decoder = ChunkedDecoder(MAX_TRAILER_BYTES, MAX_TRAILERS)
    assert decoder.feed(b"a\r\n0123") == ([b"0123"], b"")
    assert decoder.feed(b"45") == ([b"45"], b"")
    assert decoder.feed(b"6789\r") == ([b"6789"], b"")
    assert decoder.feed(b"\n1;a") == ([], b"")
    assert decoder.feed(b"\r\nx\r\n2\r\nyz\r\n3;b\r\nabc\r\n0") == ([b"xyzabc"], b"")
    assert not decoder.complete
    assert decoder.feed(b"\r\n\r\n") == ([], b"")
    assert decoder.complete


# ---- what is refused


@pytest.mark.parametrize(
    "size",
    [
        b"",
        b" ",
        b" 1",
        b"1 ",
        b"1\t",
        b"1 ;a",
        b"+1",
        b"-1",
        b"0x1",
        b"1_0",
        b"1h",
        b"g",
        b"1.0",
        b"1,1",
        b"1\x00",
        b"1\r",
        b"\n1",
        b"1\n",
        b"1\n;a",
        b"\xef\xbc\x91",
        b"0" * 16,
        b"F" * 16,
        b"1;",
        b"1; ",
        b"1;;a",
        b"1;a;",
        b"1;a b",
        b"1;=b",
        b"1;a=",
        b"1;a= ",
        b"1;a=b=c",
        b"1;a=b c",
        b'1;a="b',
        b'1;a=b"',
        b'1;"a"',
        b'1;a="b"c',
        b'1;a="\\"',
        b"1;a\nb",
        b"1;a\rb",
        b"1;a=b\x00",
        b"1;a=\x07",
        b'1;a="\n"',
        b'1;a="\x7f"',
        b'1;a="\\\x00"',
        b"1;\x80",
        b"1;a=b ",
        b"1 a",
    ],
)
def test_size_lines_that_are_refused(size: bytes) -> None:
    assert everywhere(size + b"\r\nx\r\n0\r\n\r\n") == 400
    assert everywhere(b"1\r\nx\r\n" + size + b"\r\nx\r\n0\r\n\r\n") == 400


@pytest.mark.parametrize(
    "end", [b"\n", b"\r", b"", b"\r\r\n", b"\n\r\n", b" \r\n", b"y\r\n", b"XX"]
)
def test_a_chunk_ends_in_a_line_break_and_nothing_else(end: bytes) -> None:
    """CVE-2025-43859: h11 took any two bytes."""
    assert everywhere(b"1\r\nx" + end + b"0\r\n\r\n") == 400


@pytest.mark.parametrize("line", [b"1\n", b"1;a\n", b"\n", b"0\n", b"x" * 500 + b"\n"])
def test_a_line_without_a_cr_is_refused_at_once(line: bytes) -> None:
    """It may be the end of the body, as somebody else reads it: nothing would come any more."""
    assert outcome(line) == 400
    assert outcome(line + b"x\r\n") == 400


@pytest.mark.parametrize("byte", [b"\n", b" ", b"\t", b"\x00", b":", b"\x80", b"\r\r", b"\rX"])
def test_what_begins_no_trailer_is_refused_at_once(byte: bytes) -> None:
    assert outcome(b"0\r\n" + byte) == 400
    assert outcome(b"0\r\n" + byte + b"x" * 2 * MAX_TRAILER_BYTES) == 400


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length",
        b"Transfer-Encoding",
        b"Host",
        b"content-type",
        b"Content-Encoding",
        b"Connection",
        b"Authorization",
        b"COOKIE",
        b"TE",
        b"Trailer",
        b"Upgrade",
        b"Expect",
    ],
)
@pytest.mark.parametrize("value", [b"1", b"chunked", b"x"])
def test_trailers_that_would_have_been_read_before_the_body(name: bytes, value: bytes) -> None:
    assert outcome(b"0\r\nA: b\r\n" + name + b": " + value + b"\r\n\r\n") == 400


@pytest.mark.parametrize(
    "line", [b"no colon", b"A : b", b" A: b", b"A: b\x00", b"A: b\n", b"A: b\r", b"A\n: b"]
)
def test_trailers_that_are_none(line: bytes) -> None:
    assert everywhere(b"0\r\nX: y\r\n" + line + b"\r\n\r\n") == 400
    assert everywhere(b"0\r\n" + line + b"\r\n\r\n") == 400


@pytest.mark.parametrize("end", range(1, 14))
def test_a_body_that_is_cut_short_is_not_complete(end: int) -> None:
    data = b"5\r\nhello\r\n0\r\n\r\n"
    assert decode(data[:end])[1] is None
    assert decode_bytewise(data[:end])[1] is None


# ---- limits


def test_the_size_line_is_bounded() -> None:
    """CVE-2024-21647: megabytes of an extension."""
    longest = b"1;" + b"a" * (MAX_SIZE_LINE_BYTES - 2)
    assert outcome(longest) == (b"", None)
    assert everywhere(longest + b"\r\nx\r\n0\r\n\r\n") == (b"x", b"")
    assert outcome(longest + b"a\r\nx\r\n0\r\n\r\n") == 400
    assert outcome(longest + b"aa") == 400, "without its end"
    assert outcome(b"1;" + b"a" * 10_000_000) == 400


def test_trailers_are_bounded_in_bytes() -> None:
    """CVE-2026-22815."""
    lines = b"A: " + b"b" * (MAX_TRAILER_BYTES - 5) + b"\r\n"
    assert len(lines) == MAX_TRAILER_BYTES
    assert everywhere(b"0\r\n" + lines + b"\r\nGET") == (b"", b"GET")
    assert everywhere(b"0\r\n" + lines.replace(b"A", b"AA") + b"\r\nGET") == 431
    assert outcome(b"0\r\n" + b"A" * (MAX_TRAILER_BYTES + 1)) == (b"", None)
    assert outcome(b"0\r\n" + b"A" * (MAX_TRAILER_BYTES + 2)) == 431, "without an end"


def test_trailers_are_bounded_in_number() -> None:
    assert everywhere(b"0\r\n" + b"A: b\r\n" * MAX_TRAILERS + b"\r\n") == (b"", b"")
    assert everywhere(b"0\r\n" + b"A: b\r\n" * (MAX_TRAILERS + 1) + b"\r\n") == 431


# ---- time


class Counting(bytes):
    """Counts the bytes that are copied out of it."""

    copied = 0

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        part = bytes.__getitem__(self, key)
        if isinstance(part, bytes):
            Counting.copied += len(part)
        return part


@pytest.mark.parametrize("size", [1, 2, 100])
def test_the_work_grows_with_the_bytes_and_not_faster(size: int) -> None:
    """CVE-2025-69229: many small chunks in one packet."""
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    data = Counting(chunk * 20_000)
    Counting.copied = 0
    pieces, _ = ChunkedDecoder(MAX_TRAILER_BYTES, MAX_TRAILERS).feed(data)
    assert pieces == [b"x" * 20_000 * size]
    assert Counting.copied <= 2 * len(data)


def test_what_is_kept_of_a_packet_is_what_has_no_end_yet() -> None:
    """A byte a packet: were all of a body kept until its end, each would cost a copy of it."""
    decoder = ChunkedDecoder(MAX_TRAILER_BYTES, MAX_TRAILERS)
    for byte in b"fff;a=b\r\n" + b"x" * 0xFFF + b"\r\n5;c":
        decoder.feed(bytes([byte]))
        assert len(decoder._rest) <= len(b"fff;a=b\r")


@pytest.mark.parametrize(
    "line",
    [
        b"1" + b" " * 50_000,
        b"1" + b";a" * 25_000 + b" ",
        b"1;" + b" " * 50_000 + b"\x00",
        b"1;a" + b" " * 50_000 + b"=",
        b"1;a" + b" ;a" * 17_000 + b" \x00",
        b'1;a="' + b"b" * 50_000,
        b'1;a="' + b"\\" * 50_001 + b'"',
        b'1;a="' + b'\\"' * 25_000,
        b"1" + b';a="b"' * 8_000 + b"=",
    ],
    ids=range(9),
)
def test_the_grammar_of_size_lines_does_not_go_back_and_forth(line: bytes) -> None:
    """Lines far beyond the limit, on the expression alone.  Quadratic, it would take minutes."""
    assert chunked._SIZE_LINE.fullmatch(line) is None
