"""Response heads and framing: an app can say no more than one response."""

import re
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.h1 import response, speed
from subserve.http.h1.framing import LARGE_BYTES, Framing
from subserve.http.h1.response import ResponseHead, date_line, error_response
from tests.unit.h1_harness import DATE, Response, read_responses

WHOLE_RESPONSE = speed.choose("python").whole_response  # the accelerator has tests of its own
LINE_BREAKERS = [0x00, 0x0A, 0x0D]


def lines(*headers: tuple[bytes, bytes], status: int = 200) -> bytes:
    return ResponseHead(status, headers).lines


# ---- what an app may say


def test_lines() -> None:
    headers = [(b"X-One", b"1"), (b"set-cookie", b"a=b"), (b"Set-Cookie", b"c=\xe9\t"), (b"e", b"")]
    assert lines(*headers) == (
        b"HTTP/1.1 200 OK\r\nX-One: 1\r\nset-cookie: a=b\r\nSet-Cookie: c=\xe9\t\r\ne: \r\n"
    )


@pytest.mark.parametrize("status", [100, 200, 404, 599, 999])
def test_status_lines(status: int) -> None:
    known = {one.value: one.phrase.encode() for one in HTTPStatus}
    expected = b"HTTP/1.1 %d %b\r\n" % (status, known.get(status, b""))
    assert lines(status=status) == expected


@pytest.mark.parametrize("status", [-200, 0, 99, 1000, 20000])
def test_what_is_no_status(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        ResponseHead(status, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"date", b"now"),
        (b"Date", b"now"),
    ],
)
def test_the_date_may_be_the_apps(name: bytes, value: bytes) -> None:
    head = ResponseHead(200, [(name, value)])
    assert head.dated
    assert head.lines.endswith(name + b": now\r\n")


@pytest.mark.parametrize(
    "name", [b"Transfer-Encoding", b"transfer-encoding", b"Keep-Alive", b"Proxy-Connection"]
)
def test_how_a_response_is_framed_is_not_the_apps_to_say(name: bytes) -> None:
    assert lines((name, b"chunked")) == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("value", "close"),
    [
        (b"close", True),
        (b"Close", True),
        (b"x, close", True),
        (b"keep-alive", False),
        (b"closed", False),
        (b"", False),
    ],
)
def test_connection(value: bytes, close: bool) -> None:
    head = ResponseHead(200, [(b"Connection", value)])
    assert head.close is close
    assert head.lines == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length", b"CONTENT-LENGTH"])
def test_content_length(name: bytes) -> None:
    assert ResponseHead(200, [(name, b"5")]).length == 5
    assert ResponseHead(200, [(name, b"5"), (b"content-length", b"05")]).length == 5
    with pytest.raises(ValueError, match="content-length"):
        ResponseHead(200, [(name, b"5"), (b"content-length", b"6")])


@pytest.mark.parametrize(
    "value", [b"", b" 5", b"5 ", b"+5", b"-5", b"5,5", b"0x5", b"1_0", b"\xb2", b"9" * 5000]
)
def test_a_content_length_that_is_none(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"content-length|integer string"):
        ResponseHead(200, [(b"content-length", value)])


@pytest.mark.parametrize("value", [b"text/event-stream", b"text/event-stream; charset=utf-8"])
def test_event_streams_are_known(value: bytes) -> None:
    assert ResponseHead(200, [(b"Content-Type", value)]).event_stream
    assert not ResponseHead(200, [(b"Content-Type", b"text/plain")]).event_stream


# ---- what an app may not say (CVE-2018-1000164, CVE-2020-7695)


@pytest.mark.parametrize("byte", LINE_BREAKERS)
@pytest.mark.parametrize("value", [b"%b", b"a%b", b"%ba", b"a%bb", b"a\r%b"])
def test_no_line_break_and_no_nul_in_a_value(value: bytes, byte: int) -> None:
    broken = value % bytes([byte])
    for name in (b"X", b"Location", b"Set-Cookie", b"Date", b"Content-Type"):
        with pytest.raises(ValueError, match="line break or a NUL") as caught:
            ResponseHead(200, [(b"a", b"b"), (name, broken), (b"c", b"d")])
        assert "b" not in str(caught.value).split("NUL")[1], "its value may be a secret"


def test_two_headers_cannot_make_up_for_each_other() -> None:
    """The check counts line breaks of all lines together."""
    for values in ((b"a\r\nb", b"c"), (b"a\r", b"\nb"), (b"\r\n\r\n", b""), (b"a\n", b"\rb")):
        with pytest.raises(ValueError, match="line break"):
            ResponseHead(200, [(b"x", value) for value in values])


@pytest.mark.parametrize("byte", [*range(0x21), *b'"(),/:;<=>?@[\\]{}', *range(0x7F, 0x100)])
def test_no_separator_in_a_name(byte: int) -> None:
    for name in (b"%b", b"a%b", b"%ba", b"a%bb"):
        broken = name % bytes([byte])
        for _ in range(2):  # not taken for known the second time
            with pytest.raises(ValueError, match="not valid"):
                ResponseHead(200, [(broken, b"x")])


def test_a_name_is_needed() -> None:
    with pytest.raises(ValueError, match="not valid"):
        ResponseHead(200, [(b"", b"x")])


def test_headers_are_bytes() -> None:
    for header in (("x", b"y"), (b"x", "y"), (b"x", None), (b"x", 5)):
        with pytest.raises((TypeError, ValueError)):
            ResponseHead(200, [header])  # type: ignore[list-item]


def test_names_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "_kinds", kinds := dict(response._kinds))
    for number in range(3000):
        ResponseHead(200, [(b"N%d" % number, b"x")])
    assert len(kinds) == 1024
    assert ResponseHead(200, [(b"Content-LENGTH", b"3")]).length == 3


@given(
    st.integers(200, 999),
    st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=5),
)
def test_what_is_let_through_is_read_as_it_was_meant(
    status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    try:
        head = ResponseHead(status, headers)
    except ValueError:
        return
    first, *read = head.lines.removesuffix(b"\r\n").split(b"\r\n")
    assert int(first.split(b" ")[1]) == status
    assert [tuple(line.split(b": ", 1)) for line in read] == headers


# ---- framing


def frame(
    method: str, version: str, status: int, parts: list[bytes], *headers: tuple[bytes, bytes]
) -> tuple[Response, Framing]:
    """Send a response in parts, and read it as a client."""
    framing = Framing(method, version, WHOLE_RESPONSE)
    framing.start(status, headers)
    sent = b""
    for number, part in enumerate(parts):
        more = number < len(parts) - 1
        sent += b"".join(framing.part(part, more=more, keep_alive=True, date=DATE))
    assert framing.finished
    [read] = read_responses(sent, [method])
    return read, framing


def whole(method: str, version: str, status: int, body: bytes, *headers: tuple[bytes, bytes]):
    framing = Framing(method, version, WHOLE_RESPONSE)
    framing.start(status, headers)
    sent = b"".join(framing.whole(body, keep_alive=True, date=DATE))
    assert framing.finished
    [read] = read_responses(sent, [method])
    return read, framing


@pytest.mark.parametrize("size", [0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_whole_response_says_how_long_it_is(size: int, version: str) -> None:
    read, framing = whole("GET", version, 200, b"x" * size)
    assert (len(read.body), read.header(b"content-length")) == (size, b"%d" % size)
    assert read.header(b"connection") == (b"keep-alive" if version == "1.0" else None)
    assert (framing.size, framing.close) == (size, False)


@pytest.mark.parametrize("parts", [[b"a", b"b"], [b"", b"ab", b""], [b"x" * LARGE_BYTES, b""]])
def test_parts_are_chunks_and_an_empty_one_does_not_end_them(parts: list[bytes]) -> None:
    read, framing = frame("GET", "1.1", 200, parts)
    assert read.header(b"transfer-encoding") == b"chunked"
    assert (read.body, read.complete) == (b"".join(parts), True)
    assert framing.self_delimiting


def test_http10_ends_with_the_connection() -> None:
    read, framing = frame("GET", "1.0", 200, [b"a", b"b"])
    assert read.body == b"ab"
    assert framing.close
    assert not framing.self_delimiting


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_length_that_is_announced_is_kept(version: str) -> None:
    read, framing = frame("GET", version, 200, [b"a", b"bc"], (b"Content-Length", b"3"))
    assert (read.body, read.header(b"transfer-encoding"), framing.close) == (b"abc", None, False)


@pytest.mark.parametrize("parts", [[b"ab"], [b"abcd"], [b"a", b"b"], [b"a", b"bcd"], [b""]])
def test_a_length_that_is_announced_and_not_kept(parts: list[bytes]) -> None:
    for send in (frame, whole) if len(parts) == 1 else (frame,):
        with pytest.raises(RuntimeError, match="content-length says 3"):
            send("GET", "1.1", 200, parts if send is frame else parts[0], (b"content-length", b"3"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("parts", [[b""], [b"x"], [b"x", b"y"]])
@pytest.mark.parametrize("header", [(), ((b"content-length", b"5"),)])
def test_a_status_without_a_body(
    method: str, status: int, parts: list[bytes], header: tuple[tuple[bytes, bytes], ...]
) -> None:
    """RFC 9110, sections 8.6, 15.3.5 and 15.4.5; RFC 9112, section 6.1."""
    reads = [frame(method, "1.1", status, parts, *header)[0]]
    if len(parts) == 1:
        reads.append(whole(method, "1.1", status, parts[0], *header)[0])
    for read in reads:
        assert read.body == b""
        assert read.header(b"transfer-encoding") is None
        length = b"5" if header and status == 304 else None
        assert read.header(b"content-length") == length


@pytest.mark.parametrize("parts", [[b"abc"], [b"a", b"bc"], [b"abc", b""]])
def test_head_is_answered_like_get_without_the_body(parts: list[bytes]) -> None:
    read, _ = frame("HEAD", "1.1", 200, parts, (b"content-length", b"3"))
    assert (read.body, read.header(b"content-length")) == (b"", b"3")
    read, _ = whole("HEAD", "1.1", 200, b"abc")
    assert (read.body, read.header(b"content-length")) == (b"", b"3")
    read, _ = whole("HEAD", "1.1", 200, b"", (b"content-length", b"3"))
    assert (read.body, read.header(b"content-length")) == (b"", b"3")


def test_trailers() -> None:
    framing = Framing("GET", "1.1", WHOLE_RESPONSE)
    framing.start(200, [], trailers=True)
    sent = b"".join(framing.part(b"a", more=False, keep_alive=True, date=DATE))
    assert not framing.finished
    assert framing.trailers([(b"X", b"1")], more=True) == b""
    with pytest.raises(ValueError, match="line break"):
        framing.trailers([(b"X", b"1\r\n\r\nHTTP/1.1 200 OK")], more=False)
    sent += framing.trailers([(b"Y", b"2"), (b"Content-Length", b"9")], more=False)
    assert sent.endswith(b"\r\n\r\n1\r\na\r\n0\r\nX: 1\r\nY: 2\r\n\r\n")
    with pytest.raises(RuntimeError):
        framing.trailers([], more=False)


def test_out_of_turn() -> None:
    framing = Framing("GET", "1.1", WHOLE_RESPONSE)
    with pytest.raises(RuntimeError):
        framing.part(b"", more=True, keep_alive=True, date=DATE)
    with pytest.raises(RuntimeError):
        framing.whole(b"", keep_alive=True, date=DATE)
    with pytest.raises(ValueError, match="101"):
        framing.start(101, [])
    framing.start(200, [])
    with pytest.raises(RuntimeError):
        framing.start(200, [])
    framing.whole(b"", keep_alive=True, date=DATE)
    with pytest.raises(RuntimeError):
        framing.part(b"x", more=False, keep_alive=True, date=DATE)


# ---- what the server says by itself


def test_the_date_is_now() -> None:
    line = date_line()
    found = re.fullmatch(rb"date: (.{29})\r\n", line)
    assert found
    assert abs(parsedate_to_datetime(found[1].decode()).timestamp() - time.time()) < 5


def test_a_date_as_http_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response.time, "time", lambda: 1e9)
    assert date_line() == b"date: Sun, 09 Sep 2001 01:46:40 GMT\r\n"


@pytest.mark.parametrize("status", [400, 408, 413, 414, 417, 431, 501, 505])
def test_refusals_are_whole_and_say_no_more_than_their_status(status: int) -> None:
    for method in ("GET", "HEAD"):
        [read] = read_responses(error_response(status, DATE), [method])
        assert (read.status, read.body, read.complete) == (status, b"", True)
        assert read.headers == [
            (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
            (b"content-length", b"0"),
            (b"connection", b"close"),
        ]
