"""Request heads: each rule, each limit at its edge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.h1 import head
from subserve.http.h1.head import (
    Fields,
    Refused,
    check_version,
    find_end,
    parse_fields,
    parse_lines,
    parse_request_line,
    parse_target,
)

LIMIT = 1000
CONTROLS = [*range(0x20), 0x7F]


def refusal(function, *arguments) -> int:
    """Return the status that `function` refuses with."""
    with pytest.raises(Refused) as caught:
        function(*arguments)
    assert caught.value.reason.isprintable()
    return caught.value.status


def fields(*lines: bytes) -> Fields:
    return parse_fields(b"".join(line + b"\r\n" for line in lines), 100)


def refused_fields(*lines: bytes) -> int:
    return refusal(fields, *lines)


# ---- where a head ends


def test_the_end_is_behind_the_first_empty_line() -> None:
    assert find_end(b"GET / HTTP/1.1\r\nA: b\r\n\r\nGET", 0, LIMIT) == 24
    assert find_end(b"GET / HTTP/1.1\r\n\r\n\r\n", 0, LIMIT) == 18


@pytest.mark.parametrize("size", range(1, 18))
def test_a_head_in_pieces_is_not_judged(size: int) -> None:
    assert find_end(b"GET / HTTP/1.1\r\n\r\n"[:size], 0, LIMIT) == -1


def test_the_search_goes_on_where_it_stopped() -> None:
    class Searched(bytes):
        """Knows from where on it was looked through for the end."""

        starts: tuple[int, ...] = ()

        def find(self, *arguments):  # type: ignore[no-untyped-def]
            if arguments[0] == b"\r\n\r\n":
                self.starts += (arguments[1],)
            return bytes.find(self, *arguments)

    data = Searched(b"GET / HTTP/1.1\r\nA: " + b"b" * 500)
    assert find_end(data, 400, LIMIT) == -1
    assert data.starts == (400,)


@pytest.mark.parametrize("split", [0, 5, 900, 996, 999, 1000, 1001])
@pytest.mark.parametrize("behind", [b"", b"more"])
def test_a_head_of_exactly_the_limit_is_taken(split: int, behind: bytes) -> None:
    beginning = b"GET / HTTP/1.1\r\nA: "
    data = beginning + b"b" * (LIMIT - len(beginning) - 4) + b"\r\n\r\n"
    assert len(data) == LIMIT
    assert find_end(data + behind, 0, LIMIT) == LIMIT
    if split < LIMIT:
        assert split == 0 or find_end(data[:split], 0, LIMIT) == -1
    longer = data.replace(b"A: ", b"A:  ") + behind
    assert refusal(find_end, longer, 0, LIMIT) == 431
    assert refusal(find_end, longer[:LIMIT], 0, LIMIT) == 431, "known without the last byte"


def test_a_request_line_beyond_the_limit_is_414() -> None:
    data = b"GET /" + b"x" * LIMIT
    assert find_end(data[: LIMIT - 1], 0, LIMIT) == -1
    assert refusal(find_end, data[:LIMIT], 0, LIMIT) == 414
    assert refusal(find_end, data, 0, LIMIT) == 414
    whole = data + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert refusal(find_end, whole, 0, LIMIT) == 414, "decided by the first bytes alone"


@pytest.mark.parametrize(
    "beginning",
    [
        b"\x16\x03\x01\x02\x00",  # TLS
        b"\n",
        b" GET",
        b"\x00",
        b"\x7f",
        b"\x80",
        b'"',
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"G\n",
    ],
)
def test_what_can_become_no_request_is_refused_at_once(beginning: bytes) -> None:
    assert refusal(find_end, beginning, 0, LIMIT) == 400
    assert refusal(find_end, beginning + b"x" * 2 * LIMIT, 0, LIMIT) == 400, "whatever follows"


@given(st.binary(max_size=60))
def test_what_is_refused_at_once_is_no_request_line_either(data: bytes) -> None:
    """Why it makes no difference how much has come when it is refused."""
    try:
        find_end(data + b"x", 0, LIMIT)
        return
    except Refused as caught:
        early = caught.status
    line = (data + b"\r\n").partition(b"\r\n")[0]
    assert refusal(parse_request_line, line) == early == 400


# ---- the request line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/1.1", ("GET", b"/", "1.1")),
        (b"GET / HTTP/1.0", ("GET", b"/", "1.0")),
        (b"M-SEARCH * HTTP/1.1", ("M-SEARCH", b"*", "1.1")),
        (b"VERSION_CONTROL1 /x HTTP/1.1", ("VERSION_CONTROL1", b"/x", "1.1")),
        (b"X" * 32 + b" / HTTP/1.1", ("X" * 32, b"/", "1.1")),
        (b'G /!~"<>\\^`{|}%zz HTTP/1.1', ("G", b'/!~"<>\\^`{|}%zz', "1.1")),
    ],
)
def test_request_lines(line: bytes, expected: tuple[str, bytes, str]) -> None:
    assert parse_request_line(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"GET",
        b"GET ",
        b"GET /",
        b"GET / ",
        b"GET  HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"get / HTTP/1.1",
        b"GeT / HTTP/1.1",
        b"-GET / HTTP/1.1",
        b"1GET / HTTP/1.1",
        b"GET: / HTTP/1.1",
        b"GE(T / HTTP/1.1",
        b"X" * 33 + b" / HTTP/1.1",
        b"GET / http/1.1",
        b"GET / Http/1.1",
        b"GET / HTTP/1",
        b"GET / HTTP/1.",
        b"GET / HTTP/.1",
        b"GET / HTTP/11",
        b"GET / HTTP/1.10",
        b"GET / HTTP/01.1",
        b"GET / HTTP/1,1",
        b"GET / HTTP/+1.1",
        b"GET / HTTP /1.1",
        b"GET / HTTPS/1.1",
        b"GET / RTSP/1.0",
        b"GET / ICE/1.0",
        "GET /\u00e9 HTTP/1.1".encode(),
        "GET / HTTP/\u0661.1".encode(),
        b"HTTP/1.1 200 OK",
    ],
)
def test_what_is_no_request_line(line: bytes) -> None:
    assert refusal(parse_request_line, line) == 400


@pytest.mark.parametrize("place", [0, 1, 3, 4, 5, 6, 9, 14])
def test_no_control_character_anywhere_in_a_request_line(place: int) -> None:
    line = b"GET /a HTTP/1.1"
    for control in [*CONTROLS, *range(0x80, 0x100)]:
        broken = line[:place] + bytes([control]) + line[place:]
        assert refusal(parse_request_line, broken) == 400, broken


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"1.9", b"2.0", b"3.0", b"9.9", b"0.0"])
def test_other_versions(version: bytes) -> None:
    assert refusal(parse_request_line, b"GET / HTTP/" + version) == 505


def test_connect_is_for_proxies() -> None:
    assert refusal(parse_request_line, b"CONNECT a:443 HTTP/1.1") == 501


# ---- the target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", ("/", b"/", b"", None)),
        (b"/a%20b%2Fc?d=%20&e", ("/a b/c", b"/a%20b%2Fc", b"d=%20&e", None)),
        (b"/%C3%A9", ("/\u00e9", b"/%C3%A9", b"", None)),
        (b"/%ff%zz%", ("/\ufffd%zz%", b"/%ff%zz%", b"", None)),
        (b"//evil//x/../y", ("//evil//x/../y", b"//evil//x/../y", b"", None)),
        (b"/a?b?c", ("/a", b"/a", b"b?c", None)),
        (b"/?", ("/", b"/", b"", None)),
        (b"/a;b=c:d@e", ("/a;b=c:d@e", b"/a;b=c:d@e", b"", None)),
        (b"http://a", ("/", b"/", b"", b"a")),
        (b"HTTPS://a:1/b?c", ("/b", b"/b", b"c", b"a:1")),
        (b"http://a?b@c", ("/", b"/", b"b@c", b"a")),
        (b"http://a:/x@y", ("/x@y", b"/x@y", b"", b"a:")),
        (b"http://[::1]:80/", ("/", b"/", b"", b"[::1]:80")),
    ],
)
def test_targets(target: bytes, expected: tuple[str, bytes, bytes, bytes | None]) -> None:
    assert parse_target("GET", target) == expected


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"a",
        b"a/b",
        b"a:80",
        b"?a",
        b"#",
        b"/#",
        b"/a#b",
        b"/?a#b",
        b"http:/a",
        b"http:a",
        b"http://",
        b"http:///a",
        b"http://:80/",
        b"http://?a",
        b"http://u@a/",
        b"http://u:p@a/",
        b"http://a#b",
        b"http://a/#b",
        b"http://a\\b/",
        b"http://a:b/",
        b"http://a:123456/",
        b"http://[::1/",
        b"http://[1.2.3.4]/",
        b"http://a%2fb/",
        b"ftp://a/",
        b"ws://a/",
        b"\\a",
    ],
)
def test_targets_that_are_refused(target: bytes) -> None:
    assert refusal(parse_target, "GET", target) == 400


def test_the_target_for_a_server_as_a_whole() -> None:
    assert parse_target("OPTIONS", b"*") == ("*", b"*", b"", None)
    assert parse_target("OPTIONS", b"http://a:80") == ("*", b"*", b"", b"a:80")
    assert parse_target("OPTIONS", b"http://a/") == ("/", b"/", b"", b"a")
    assert refusal(parse_target, "OPTIONS", b"**") == 400


# ---- header lines


def test_names_are_lower_case_and_values_without_white_space_around_them() -> None:
    lines = [b"Host: a", b"X-Some:\t b\tc \t", b"x-SOME:", b"X_y:d:e", b"!#$%&'*+-.^_`|~9: f"]
    assert fields(*lines).headers == (
        (b"host", b"a"),
        (b"x-some", b"b\tc"),
        (b"x-some", b""),
        (b"x_y", b"d:e"),
        (b"!#$%&'*+-.^_`|~9", b"f"),
    )


def test_values_may_hold_bytes_beyond_ascii() -> None:
    value = bytes(range(0x80, 0x100))
    assert fields(b"Host: a", b"X: " + value).headers[1] == (b"x", value)


@pytest.mark.parametrize("control", [byte for byte in CONTROLS if byte != 0x09])
@pytest.mark.parametrize("line", [b"X%b: a", b"%bX: a", b"X: %b", b"X: a%bb", b"X: a%b"])
def test_no_control_character_anywhere_in_a_header(line: bytes, control: int) -> None:
    assert refused_fields(b"Host: a", line % bytes([control])) == 400


@pytest.mark.parametrize(
    "line",
    [
        b"X : a",
        b"X\t: a",
        b" X: a",
        b"\tX: a",
        b" folded",
        b": a",
        b":",
        b"no colon",
        b"X y: a",
        b"X\x80: a",
        b"\xc3\xa9: a",
        b"X(y): a",
        b"X,y: a",
        b"X/y: a",
        b"X;y: a",
        b"X=y: a",
        b'"X": a',
        b"[X]: a",
        b"{X}: a",
        b"X@y: a",
        b"X?y: a",
        b"X\\y: a",
        b"<X>: a",
        b"Content_Length: 1",
        b"TRANSFER_ENCODING: x",
    ],
)
def test_what_is_no_header(line: bytes) -> None:
    assert refused_fields(b"Host: a", line) == 400
    assert refused_fields(line, b"Host: a") == 400


@pytest.mark.parametrize("name", [b"X-Bare", b"Host", b"Content-Length", b"Transfer-Encoding"])
def test_a_line_without_a_colon_is_refused_though_its_name_is_known(name: bytes) -> None:
    """Regression: a name that had been seen before was not looked at again, nor was its colon."""
    value = {b"Content-Length": b"0", b"Transfer-Encoding": b"chunked"}.get(name, b"a")
    fields(name + b": " + value)
    assert refused_fields(name) == 400


def test_names_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_names", names := {})
    parse_lines(b"".join(b"N%d: a\r\n" % number for number in range(3000)), 3000)
    parse_lines(b"L" * 65 + b": a\r\n", 1)
    assert len(names) == 1024
    assert max(map(len, names)) <= 64
    assert fields(b"New: a", b"Host: b").headers == ((b"new", b"a"), (b"host", b"b"))


def test_the_number_of_fields_is_bounded() -> None:
    block = b"A: b\r\n" * 100
    assert len(parse_lines(block, 100)[0]) == 100
    assert refusal(parse_lines, block, 99) == 431
    assert parse_fields(b"", 0).headers == ()


# ---- fields that say how the request is to be read


@pytest.mark.parametrize(
    "name", [b"Host", b"Content-Length", b"Transfer-Encoding", b"Content-Type"]
)
@pytest.mark.parametrize("same", [True, False])
def test_two_of_one_are_two_opinions(name: bytes, same: bool) -> None:
    values = {
        b"Content-Length": (b"5", b"6"),
        b"Transfer-Encoding": (b"chunked", b"gzip"),
    }.get(name, (b"a", b"b"))
    first, second = name + b": " + values[0], name.upper() + b": " + values[not same]
    assert refused_fields(first, b"X: y", second) == 400


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a",
        b"a:80",
        b"a:",
        b"A-b_c.d~e",
        b"127.0.0.1:65535",
        b"0.0.0.0=5000",
        b"[::1]",
        b"[::1]:80",
        b"[::ffff:1.2.3.4]",
        b"!$&'()*+,;=",
        b"x" * 255,
    ],
)
def test_hosts(host: bytes) -> None:
    assert fields(b"Host: " + host).host == host


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"a/b",
        b"a?b",
        b"a#b",
        b"a@b",
        b"u:p@a",
        b"a:b",
        b"a:-1",
        b"a:123456",
        b"a:80:80",
        b"::1",
        b"[]",
        b"[::1",
        b"::1]",
        b"[::1]x",
        b"[:::1]",
        b"[1.2.3.4]",
        b"[::1%25eth0]",
        b"[v1.a]",
        b"a%41",
        b"a\\b",
        b'"a"',
        b"<a>",
        b"{a}",
        b"a|b",
        b"a^b",
        b"\xe9",
        b"x" * 256,
        b"example.com/abc?bar=",
    ],
)
def test_hosts_that_are_refused(host: bytes) -> None:
    assert refused_fields(b"Host: " + host) == 400


@pytest.mark.parametrize(
    ("text", "length"),
    [(b"0", 0), (b"5", 5), (b"003", 3), (b"9" * 18, 10**18 - 1), (b" 7\t", 7)],
)
def test_content_length(text: bytes, length: int) -> None:
    made = fields(b"Host: a", b"Content-Length:" + text)
    assert made.length == length


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"+1",
        b"-1",
        b"-0",
        b"1_0",
        b"0x10",
        b"1e3",
        b"1.0",
        b"1 0",
        b"1,1",
        b"1, 1",
        b"1;a",
        b"a",
        b"\xb2",
        b"\xd9\xa1",
        b"\xef\xbc\x91",
        b"0" * 19,
        b"9" * 5000,
    ],
)
def test_a_content_length_that_is_none(text: bytes) -> None:
    assert refused_fields(b"Host: a", b"Content-Length: " + text) == 400


@pytest.mark.parametrize("text", [b"chunked", b"Chunked", b"CHUNKED", b"\tchunked "])
def test_transfer_encoding(text: bytes) -> None:
    assert fields(b"Host: a", b"Transfer-Encoding:" + text).chunked


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"", 400),
        (b"identity", 400),
        (b"gzip", 400),
        (b"x", 400),
        (b"chunked,", 400),
        (b",chunked", 400),
        (b"chunked, chunked", 400),
        (b"chunked, gzip", 400),
        (b"identity, chunked", 400),
        (b"x, chunked", 400),
        (b"gzip chunked", 400),
        (b"chunked;a=b", 400),
        (b'"chunked"', 400),
        (b"'chunked'", 400),
        (b"chunkedchunked", 400),
        (b"chun\xebed", 400),
        (b"\xa0chunked", 400),
        (b"gzip, chunked", 501),
        (b"Deflate,x-gzip ,\tCHUNKED", 501),
    ],
)
def test_a_transfer_encoding_that_is_not_chunked(text: bytes, status: int) -> None:
    assert refused_fields(b"Host: a", b"Transfer-Encoding: " + text) == status


def test_content_length_with_transfer_encoding() -> None:
    lines = [b"Content-Length: 5", b"Host: a", b"Transfer-Encoding: chunked"]
    assert refused_fields(*lines) == 400
    assert refused_fields(*reversed(lines)) == 400


@pytest.mark.parametrize(
    ("text", "close", "keep_alive"),
    [
        (b"close", True, False),
        (b"Keep-Alive", False, True),
        (b"x,\tCLOSE ,y", True, False),
        (b"keep-alive, close", True, True),
        (b"closed", False, False),
        (b"", False, False),
    ],
)
def test_connection(text: bytes, close: bool, keep_alive: bool) -> None:
    made = fields(b"Host: a", b"Connection: " + text)
    assert (made.close, made.keep_alive) == (close, keep_alive)


def test_connection_in_several_lines() -> None:
    made = fields(b"Connection: keep-alive", b"Connection: close", b"Connection: x")
    assert (made.close, made.keep_alive) == (True, True)


@pytest.mark.parametrize(
    ("lines", "wish"),
    [
        ([b"Connection: Upgrade", b"Upgrade: WebSocket"], b"websocket"),
        ([b"Upgrade: h2c", b"Connection: x, upgrade"], b"h2c"),
        ([b"Upgrade: h2c"], b""),
        ([b"Connection: upgraded", b"Upgrade: h2c"], b""),
        ([b"Connection: upgrade"], b""),
        ([b"Connection: upgrade", b"Upgrade: h2c", b"Upgrade: websocket"], b"h2c,websocket"),
    ],
)
def test_upgrade(lines: list[bytes], wish: bytes) -> None:
    assert fields(b"Host: a", *lines).upgrade == wish


@pytest.mark.parametrize("text", [b"100-continue", b"100-Continue"])
def test_expect(text: bytes) -> None:
    assert fields(b"Host: a", b"Expect: " + text).expect_continue


@pytest.mark.parametrize("text", [b"", b"100", b"100-continue, x", b"x", b"100-continue;q=1"])
def test_other_expectations(text: bytes) -> None:
    assert refused_fields(b"Host: a", b"Expect: " + text) == 417


@pytest.mark.parametrize(
    ("text", "accepted"),
    [(b"trailers", True), (b"gzip;q=1,\tTrailers", True), (b"xtrailers", False), (b"", False)],
)
def test_te(text: bytes, accepted: bool) -> None:
    assert fields(b"Host: a", b"TE: " + text).trailers_accepted is accepted


def test_the_host_of_the_target_counts() -> None:
    """RFC 9112, section 3.2.2."""
    made = fields(
        b"X: y", b"Host: a", b"Content-Length: 5", b"Expect: 100-continue", b"TE: trailers"
    )
    other = made.with_host(b"b:1")
    assert other.host == b"b:1"
    assert other.headers[:2] == ((b"host", b"b:1"), (b"x", b"y"))
    assert [name for name, _ in other.headers].count(b"host") == 1
    assert (other.length, other.chunked) == (5, False)
    assert (other.expect_continue, other.trailers_accepted) == (True, True)
    assert made.headers[1] == (b"host", b"a"), "the other one stays as it was"


# ---- what depends on the version


def test_http11_has_a_host() -> None:
    check_version(fields(b"Host: a"), "1.1")
    check_version(fields(b"Host:"), "1.1")
    assert refusal(check_version, fields(b"X: y"), "1.1") == 400
    check_version(fields(b"X: y"), "1.0")


def test_http10_has_no_transfer_encoding() -> None:
    chunked = fields(b"Host: a", b"Transfer-Encoding: chunked")
    check_version(chunked, "1.1")
    assert refusal(check_version, chunked, "1.0") == 400


# ---- time


@pytest.mark.parametrize(
    "line",
    [
        b"X: " + b"x" * 50_000 + b"\x10",
        b"X" * 50_000 + b"\x10: y",
        b"Host: " + b"a" * 50_000 + b"/",
        b"Host: [" + b":" * 50_000,
        b"Transfer-Encoding: " + b"gzip," * 10_000,
        b"Transfer-Encoding: " + b" ," * 20_000,
        b"Expect: " + b"1" * 50_000,
        b"Content-Length: " + b"0" * 50_000,
    ],
    ids=lambda line: line[:30].decode("latin-1").strip("\x10"),
)
def test_long_lines_are_refused_without_going_back_and_forth(line: bytes) -> None:
    """CVE-2020-5236: fields of 50,000 bytes.  Were it quadratic, this would take minutes."""
    assert refused_fields(line) in {400, 417}


def test_long_request_lines_are_refused_without_going_back_and_forth() -> None:
    for line in (b"G" * 50_000, b"GET " * 10_000, b"GET " + b"/" * 50_000, b"GET / HTTP/1." * 4000):
        assert refusal(parse_request_line, line) == 400
    for target in (b"http://" + b"a" * 50_000 + b"@", b"http://" + b"a/" * 20_000 + b"#"):
        assert refusal(parse_target, "GET", target) == 400


def test_ten_thousand_times_the_same_header() -> None:
    """CVE-2025-67725: joined as they came, each would copy all before it."""
    headers, _ = parse_lines(b"X: y\r\n" * 10_000, 10_000)
    assert headers == [(b"x", b"y")] * 10_000
    assert headers[0][0] is headers[-1][0], "names are kept once"
