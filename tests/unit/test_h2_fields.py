"""The head of an HTTP/2 request, and of a response, as values."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.h1.head import Refused
from subserve.http.h2 import answers, upgrade
from subserve.http.h2.fields import Malformed, check_fields, parse

type Fields = list[tuple[bytes, bytes]]

PSEUDO: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.org"),
    (b":path", b"/a%20b?c=%64"),
]
LIMITS = (32768, 100)


def with_pseudo(**values: bytes | None) -> Fields:
    pairs = {**dict(PSEUDO), **{b":" + name.encode(): value for name, value in values.items()}}
    return [(name, value) for name, value in pairs.items() if value is not None]


def test_a_request() -> None:
    head = parse([*PSEUDO, (b"x-a", b"1"), (b"x-a", b"\xe4\t2")], *LIMITS)
    assert (head.method, head.path, head.raw_path) == ("GET", "/a b", b"/a%20b")
    assert (head.query, head.length) == (b"c=%64", -1)
    assert head.headers == [(b"host", b"example.org"), (b"x-a", b"1"), (b"x-a", b"\xe4\t2")]


def test_a_host_that_says_the_same() -> None:
    fields = [*PSEUDO, (b"x", b"y"), (b"host", b"example.org")]
    assert parse(fields, *LIMITS).headers == [(b"host", b"example.org"), (b"x", b"y")]


def test_a_host_in_place_of_an_authority() -> None:
    fields = [*with_pseudo(authority=None), (b"host", b"h:8000")]
    assert parse(fields, *LIMITS).headers == [(b"host", b"h:8000")]


def test_cookies_are_put_together() -> None:
    fields = [*PSEUDO, (b"a", b"1"), (b"cookie", b"x=1"), (b"b", b"2"), (b"cookie", b"y=2")]
    assert parse(fields, *LIMITS).headers[1:] == [
        (b"a", b"1"),
        (b"cookie", b"x=1; y=2"),
        (b"b", b"2"),
    ]


def test_what_few_ask_for() -> None:
    fields = [(b"te", b"trailers"), (b"expect", b"100-continue"), (b"content-length", b"12")]
    head = parse([*PSEUDO, *fields], *LIMITS)
    assert (head.trailers, head.expect_continue, head.length) == (True, True, 12)


def test_options_of_the_server() -> None:
    head = parse(with_pseudo(method=b"OPTIONS", path=b"*"), *LIMITS)
    assert (head.path, head.raw_path) == ("*", b"*")


MALFORMED: dict[str, Fields] = {
    "no-method": with_pseudo(method=None),
    "no-path": with_pseudo(path=None),
    "no-scheme": with_pseudo(scheme=None),
    "no-authority": with_pseudo(authority=None),
    "empty-path": with_pseudo(path=b""),
    "empty-authority": with_pseudo(authority=b""),
    "lower-case-method": with_pseudo(method=b"get"),
    "method-with-a-space": with_pseudo(method=b"GET /"),
    "path-without-a-slash": with_pseudo(path=b"a"),
    "path-with-a-space": with_pseudo(path=b"/a b"),
    "path-with-a-line-break": with_pseudo(path=b"/a\r\nx: y"),
    "path-with-a-fragment": with_pseudo(path=b"/a#b"),
    "path-that-is-a-url": with_pseudo(path=b"http://example.org/"),
    "star-with-get": with_pseudo(path=b"*"),
    "authority-with-userinfo": with_pseudo(authority=b"user@example.org"),
    "CVE-2026-48710": with_pseudo(authority=b"example.org/abc?bar="),
    "authority-with-a-line-break": with_pseudo(authority=b"a\r\nb"),
    "unknown-pseudo": [*PSEUDO, (b":what", b"x")],
    "status": [*PSEUDO, (b":status", b"200")],
    "protocol": [*with_pseudo(method=b"CONNECT"), (b":protocol", b"websocket")],
    "pseudo-twice": [*PSEUDO, (b":path", b"/a")],
    "pseudo-behind-a-field": [*PSEUDO[:3], (b"x", b"y"), PSEUDO[3]],
    "upper-case": [*PSEUDO, (b"X-A", b"b")],
    "empty-name": [*PSEUDO, (b"", b"b")],
    "CVE-2025-57804-name": [*PSEUDO, (b"a\r\nb", b"c")],
    "CVE-2025-57804-cr": [*PSEUDO, (b"a", b"b\rc")],
    "CVE-2025-57804-lf": [*PSEUDO, (b"a", b"b\nc")],
    "CVE-2025-57804-nul": [*PSEUDO, (b"a", b"b\0c")],
    "control-character": [*PSEUDO, (b"a", b"b\x0bc")],
    "space-before": [*PSEUDO, (b"a", b" b")],
    "space-behind": [*PSEUDO, (b"a", b"b\t")],
    "space-in-a-name": [*PSEUDO, (b"a b", b"c")],
    "colon-in-a-name": [*PSEUDO, (b"a:", b"c")],
    "connection": [*PSEUDO, (b"connection", b"close")],
    "keep-alive": [*PSEUDO, (b"keep-alive", b"1")],
    "proxy-connection": [*PSEUDO, (b"proxy-connection", b"close")],
    "transfer-encoding": [*PSEUDO, (b"transfer-encoding", b"chunked")],
    "upgrade": [*PSEUDO, (b"upgrade", b"websocket")],
    "te": [*PSEUDO, (b"te", b"gzip")],
    "h2-4.4.0-length": [*PSEUDO, (b"content-length", b"1"), (b"content-length", b"2")],
    "h2-4.4.1-length": [*PSEUDO, (b"content-length", b"+5")],
    "CVE-2022-24761": [*PSEUDO, (b"content-length", b"1_0")],
    "negative-length": [*PSEUDO, (b"content-length", b"-1")],
    "empty-length": [*PSEUDO, (b"content-length", b"")],
    "length-of-19-digits": [*PSEUDO, (b"content-length", b"1" * 19)],
    "h2-4.4.1-host": [*PSEUDO, (b"host", b"example.org"), (b"host", b"example.org")],
    "host-that-differs": [*PSEUDO, (b"host", b"other.example")],
    "content-type-twice": [*PSEUDO, (b"content-type", b"a/b"), (b"content-type", b"c/d")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request(name: str) -> None:
    with pytest.raises(Malformed):
        parse(MALFORMED[name], *LIMITS)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (with_pseudo(method=b"CONNECT", path=None, scheme=None), 501),  # hypercorn#277
        ([*PSEUDO, (b"expect", b"tea")], 417),
        ([*PSEUDO, *[(b"a", b"")] * 101], 431),
        ([*PSEUDO, (b"a", b"b" * 33000)], 431),
        ([*PSEUDO, *[(b"a", b"b" * 9000)] * 4], 431),
    ],
)
def test_what_is_answered_in_the_apps_place(fields: Fields, status: int) -> None:
    with pytest.raises(Refused) as refused:
        parse(fields, *LIMITS)
    assert refused.value.status == status


@given(
    st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=5),
    st.dictionaries(
        st.sampled_from(["method", "scheme", "authority", "path"]),
        st.one_of(st.none(), st.binary(max_size=12)),
    ),
)
def test_nothing_else_comes_of_anything(headers: Fields, pseudo: dict[str, bytes | None]) -> None:
    """Any bytes are a request without line breaks, or one of the two errors."""
    try:
        head = parse([*with_pseudo(**pseudo), *headers], *LIMITS)
    except Malformed, Refused:
        return
    text = head.method.encode() + head.raw_path + head.query
    text += b"".join(name + value for name, value in head.headers)
    assert not {0, 10, 13} & set(text)
    assert head.headers[0][0] == b"host"


def test_trailers() -> None:
    check_fields([(b"x-digest", b"abc")])
    with pytest.raises(Malformed):
        check_fields([(b":path", b"/")])


# ---- responses

DATE = answers.write_field(b"date", b"now")


def decoded(block: bytes) -> list[tuple[str, str]]:
    return [(name, value) for name, value in hpack.Decoder().decode(block)]


def test_the_head_of_a_response() -> None:
    headers = [(b"Content-Type", b"text/plain"), (b"X-A", b" 1 "), (b"Content-Length", b"5")]
    for _ in range(2):  # written, and looked up
        block = answers.Block(200, headers, DATE)
        assert block.length == 5
        assert decoded(block.data + answers.length_field(5)) == [
            (":status", "200"),
            ("content-type", "text/plain"),
            ("x-a", "1"),
            ("date", "now"),
            ("content-length", "5"),
        ]


def test_what_belongs_to_a_connection_is_left_out() -> None:
    names = (b"Connection", b"keep-alive", b"Transfer-Encoding", b"upgrade", b"proxy-connection")
    block = answers.Block(418, [(name, b"x") for name in names], DATE)
    assert decoded(block.data) == [(":status", "418"), ("date", "now")]


def test_the_apps_own_date() -> None:
    assert decoded(answers.Block(200, [(b"date", b"then")], DATE).data)[1:] == [("date", "then")]


@given(
    st.from_regex(rb"[a-z0-9-]{1,300}", fullmatch=True),
    st.binary(max_size=700).map(lambda v: v.translate(None, bytes(range(32)) + b"\x7f ")),
)
def test_fields_are_read_as_they_were_written(name: bytes, value: bytes) -> None:
    block = answers.write_field(name, value)
    assert hpack.Decoder().decode(block, raw=True) == [(name, value)]


@pytest.mark.parametrize("status", [100, 200, 204, 304, 404, 500, 299, 999])
def test_a_status(status: int) -> None:
    assert decoded(answers.status_field(status)) == [(":status", str(status))]


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: stolen"),  # CVE-2018-1000164
        (b"x", b"a\0b"),
        (b"x\r\ny", b"a"),
        (b"", b"a"),
        (b":status", b"200"),
        (b"x y", b"a"),
        (b"content-length", b"five"),
    ],
)
def test_a_header_that_is_none(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="the app sent") as raised:
        answers.Block(200, [header], DATE)
    assert "stolen" not in str(raised.value)
    if header[0] != b"content-length":
        with pytest.raises(ValueError, match="the app sent"):
            answers.trailers([header])


@pytest.mark.parametrize("status", [0, 99, 1000, -1])
def test_a_status_that_is_none(status: int) -> None:
    with pytest.raises(ValueError, match="a status that is none"):
        answers.Block(status, (), DATE)


# ---- the upgrade from HTTP/1.1

UPGRADE = (
    b"GET /a?b HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nX-A: b\r\nHTTP2-Settings: %b\r\n\r\n"
)


def test_an_upgrade() -> None:
    head, settings, rest = upgrade.parse(UPGRADE % b"AAMAAABkAAQAAP__AQAAAAAB" + b"PRI", *LIMITS)
    assert (head.method, head.path, head.query, rest) == ("GET", "/a", b"b", b"PRI")
    assert head.headers == [(b"host", b"test"), (b"x-a", b"b")]
    assert settings == b"AAMAAABkAAQAAP__", "without the unknown one"


@pytest.mark.parametrize("settings", [b"?", b"AAMAAABk\r\nHTTP2-Settings: AAMAAABk", b"AAMAAA"])
def test_an_upgrade_with_settings_that_are_none(settings: bytes) -> None:
    with pytest.raises(Refused) as refused:
        upgrade.parse(UPGRADE % settings, *LIMITS)
    assert refused.value.status == 400
