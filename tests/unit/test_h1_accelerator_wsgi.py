"""What the accelerator does for WSGI, against the Python code; and reading from a socket."""

import socket
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.wsgi import environ as environ_module
from subserve.http.wsgi.environ import fill
from subserve.http.wsgi.errors import WsgiViolation
from subserve.http.wsgi.head import Head, parse_head
from tests.unit.h1_accelerated import _accelerator

wsgi_head = _accelerator.wsgi_head
add_headers = _accelerator.add_headers
receive_now = _accelerator.receive_now


def compare_heads(status: Any, headers: Any) -> bool:
    """Compare the two, and return whether the accelerator took it."""
    before = repr((status, headers))
    made = wsgi_head(status, headers)
    assert repr((status, headers)) == before
    if made is None:
        return False
    code, lines, length, dated = made
    head = parse_head(status, headers)
    assert code == head.status
    if code != 204:
        assert length == (-1 if head.content_length is None else head.content_length)
    rest = [pair for pair in head.headers if pair[0] != b"content-length"]
    assert lines == b"".join(b"%b: %b\r\n" % pair for pair in rest)
    assert dated == any(name == b"date" for name, _ in rest)
    again = Head.from_lines(code, lines, head.content_length)
    assert sorted(again.headers) == sorted(head.headers)
    return True


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", []),
        ("204 No Content", [("Content-Length", "0")]),
        ("999 ", [("X-A", ""), ("x-b", "  padded \t~ ".replace("\t", " "))]),
        ("404 Not Found", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", "7")]),
        ("200 OK", [("Date", "today"), ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")]),
        ("200 OK", [("X" * 300, "y" * 70_000)] * 128),
    ],
)
def test_heads_that_it_is_there_for(status: Any, headers: Any) -> None:
    assert compare_heads(status, headers)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, []),
        ("200", []),
        ("200OK", []),
        ("100 Continue", []),
        ("2000 OK", []),
        ("20x OK", []),
        ("200 O\r\nK", []),
        ("200 \xdcber", []),
        (b"200 OK", []),
        ("200 OK", ()),
        ("200 OK", [("A", "b")] * 129),
        ("200 OK", [["A", "b"]]),
        ("200 OK", [("A",)]),
        ("200 OK", [("A", "b", "c")]),
        ("200 OK", [(b"A", "b")]),
        ("200 OK", [("A", 1)]),
        ("200 OK", [("", "b")]),
        ("200 OK", [("A b", "c")]),
        ("200 OK", [("A", "b\r\nc")]),
        ("200 OK", [("A", "b\0")]),
        ("200 OK", [("A", "\t")]),
        ("200 OK", [("A", "\xe9")]),
        ("200 OK", [("A", "\u20ac")]),
        ("200 OK", [("Content-Length", "1"), ("content-length", "1")]),
        ("200 OK", [("Content-Length", "-1")]),
        ("200 OK", [("Content-Length", "")]),
        *(
            ("200 OK", [(name, "x")])
            for name in (
                *("Connection", "keep-alive", "Proxy-Authenticate", "proxy-authorization", "TE"),
                *("Trailers", "Trailer", "Transfer-Encoding", "UPGRADE", "Proxy-Connection"),
            )
        ),
    ],
)
def test_heads_that_are_left_alone(status: Any, headers: Any) -> None:
    assert not compare_heads(status, headers)


_NAMES = st.text(string.ascii_letters + "-_ \r\n:\x80", max_size=12) | st.sampled_from(
    ["Content-Length", "Content-Type", "date", "Connection", "Te", "Upgrade", "X"]
)
_VALUES = st.text("ab1 \t\r\n\0\x7f\xe9\u20ac", max_size=8) | st.integers(-1, 99).map(str)
_STATUSES = st.sampled_from(["200 OK", "304 ", "204 x"]) | st.text(
    "0123456789 OK\n\xff", max_size=7
)


@given(_STATUSES, st.lists(st.tuples(_NAMES, _VALUES), max_size=4))
def test_what_is_taken_is_valid(status: str, headers: list[tuple[str, str]]) -> None:
    compare_heads(status, headers)


@given(_STATUSES, st.lists(st.tuples(_NAMES, _VALUES), max_size=4))
def test_what_is_not_valid_is_left_alone(status: str, headers: list[tuple[str, str]]) -> None:
    try:
        parse_head(status, headers)
    except WsgiViolation:
        assert wsgi_head(status, headers) is None


def filled(headers: list[tuple[bytes, bytes]], add: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {"SERVER_NAME": "x"}
    fill(environ, "GET", "/", "/", "", "", headers, None, add)  # type: ignore[arg-type]
    return environ


_FIELD_NAMES = [
    *(b"host", b"cookie", b"x-a", b"x_a", b"proxy", b"content-type", b"content-length"),
    *(b"transfer-encoding", b"x-new-" + b"n" * 40),
]
_FIELDS = st.lists(st.tuples(st.sampled_from(_FIELD_NAMES), st.binary(max_size=6)), max_size=6)


@given(_FIELDS)
def test_an_environ_is_the_same(headers: list[tuple[bytes, bytes]]) -> None:
    assert filled(headers, add_headers) == filled(headers, lambda *_: 0)


def test_headers_that_it_is_there_for() -> None:
    headers = [(b"host", b"example.com"), (b"user-agent", b"\xe9"), (b"accept", b"*/*")]
    filled(headers, add_headers)  # now the names are known
    environ: dict[str, Any] = {}
    assert add_headers(environ, headers, environ_module._keys) == 3
    assert environ == {
        "HTTP_HOST": "example.com",
        "HTTP_USER_AGENT": "\xe9",
        "HTTP_ACCEPT": "*/*",
    }
    assert add_headers(environ, headers, environ_module._keys) == 0
    assert add_headers({}, [(b"host", b"a"), (b"unknown-here", b"b")], {b"host": "H"}) == 1
    assert add_headers({}, [(b"proxy", b"a")], {b"proxy": ""}) == 0
    assert add_headers({}, [(bytearray(b"host"), b"a")], {b"host": "H"}) == 0  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (wsgi_head, ("200 OK",)),
        (add_headers, ({}, [])),
        (add_headers, ({}, (), {})),
        (add_headers, ([], [], {})),
        (receive_now, (0,)),
        (receive_now, ("0", 1)),
        (receive_now, (0, None)),
    ],
)
def test_wrong_arguments(function: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        function(*arguments)


def test_what_is_there_is_received() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = ours.fileno()
        with pytest.raises(BlockingIOError):
            receive_now(fd, 100)
        theirs.send(b"abcdef")
        assert receive_now(fd, 4) == b"abcd"
        assert receive_now(fd, 200_000) == b"ef"
        theirs.send(b"x" * 100_000)
        assert receive_now(fd, 16 * 1024) == b"x" * 16 * 1024
        assert receive_now(fd, 16 * 1024 + 1) == b"x" * (16 * 1024 + 1)
        theirs.close()
        while receive_now(fd, 64 * 1024):
            pass
        for size in (0, -1, 256 * 1024 + 1):
            with pytest.raises(ValueError, match="size"):
                receive_now(fd, size)
    with pytest.raises(OSError, match="descriptor"):
        receive_now(-1, 100)
