"""What `start_response` accepts, and how it refuses the rest."""

import pytest

from subserve.http.wsgi.errors import WsgiViolation
from subserve.http.wsgi.head import Head, parse_head


def test_a_head_is_ready_for_asgi() -> None:
    head = parse_head("200 OK", [("X-Name", " caf\xe9 "), ("Content-Length", "12")])
    assert head == Head(200, ((b"x-name", b"caf\xe9"), (b"content-length", b"12")), 12)


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "299 ", "599 Gr\xfc\xdfe"])
def test_good_status(status: str) -> None:
    assert parse_head(status, []).status == int(status[:3])


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("200", "three digits, a space"),
        ("20 OK", "three digits"),
        ("2000 OK", "three digits"),
        ("\u0662\u0660\u0660 OK", "three digits"),
        ("099 Low", "three digits"),
        (" 200 OK", "three digits"),
        ("200 OK\r\nX: y", "three digits"),
        ("200 OK\n", "three digits"),
        ("200 \u20ac", "three digits"),
        ("100 Continue", "not a final status"),
        ("101 Switching Protocols", "not a final status"),
        (200, "must be a str, not int"),
        (b"200 OK", "must be a str, not bytes"),
    ],
)
def test_bad_status(status: object, message: str) -> None:
    with pytest.raises(WsgiViolation, match=message):
        parse_head(status, [])


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ((("X", "y"),), "must be a list, not tuple"),
        ({"X": "y"}, "must be a list, not dict"),
        ([["X", "y"]], "a tuple of a name and a value"),
        ([("X",)], "a tuple of a name and a value"),
        (["Xy"], "a tuple of a name and a value"),
        ([(b"X", "y")], "must be str in header b'X'"),
        ([("X", 1)], "must be str in header 'X'"),
        ([("", "y")], "not a header name: ''"),
        ([("X:", "y")], "not a header name: 'X:'"),
        ([("X\r\nSet-Cookie", "y")], "not a header name"),
        ([("X Y", "y")], "not a header name"),
        ([("\xe9", "y")], "not a header name"),
        ([("X", "secret\r\nSet-Cookie: a=b")], "control character in the value of header 'X'"),
        ([("X", "secret\n")], "control character"),
        ([("X", "secret\x00")], "control character"),
        ([("X", "secret\x7f")], "control character"),
        ([("X", "secret\u20ac")], "outside of ISO-8859-1 in the value of header 'X'"),
        ([("Content-Length", "1x")], "not a Content-Length"),
        ([("Content-Length", "-1")], "not a Content-Length"),
        ([("Content-Length", "")], "not a Content-Length"),
        ([("Content-Length", "1" * 21)], "not a Content-Length"),
        ([("Content-Length", "1"), ("content-length", "2")], "two Content-Length headers: 1 and 2"),
    ],
)
def test_bad_headers(headers: object, message: str) -> None:
    with pytest.raises(WsgiViolation, match=message) as caught:
        parse_head("200 OK", headers)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["Connection", "keep-alive", "TE", "Trailers", "Transfer-Encoding", "Upgrade"]
)
def test_hop_by_hop_headers_are_refused_by_name(name: str) -> None:
    with pytest.raises(WsgiViolation, match=f"'{name}' is hop-by-hop"):
        parse_head("200 OK", [(name, "x")])


def test_204_has_no_content_length_and_304_may_have() -> None:
    headers = [("Content-Length", "3")]
    assert parse_head("204 No Content", headers) == Head(204, (), None)
    assert parse_head("304 Not Modified", headers).content_length == 3
