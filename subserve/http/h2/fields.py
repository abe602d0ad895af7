"""The head of an HTTP/2 request: decoded fields in, values out (RFC 9113, section 8).

Pure.  Refused is what HTTP/1.1's lane refuses, too, so that an app can rely on the same whatever
its client speaks: what an app, or a proxy in front of it, might read in two ways.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from subserve.http.h1.head import (
    EXPECTATION_FAILED,
    FIELDS_TOO_LARGE,
    NOT_IMPLEMENTED,
    Refused,
    parse_target,
)

type Pairs = Iterable[tuple[bytes, bytes]]

_METHOD_BYTES: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
_NAME_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
"""Lower case only: RFC 9113, section 8.2."""
_VALUE_BYTES: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""No control characters but the tab (RFC 9110, section 5.5)."""
_TARGET_BYTES: Final = bytes(range(0x21, 0x7F))
_DIGITS: Final = b"0123456789"

FIELD_OVERHEAD: Final = 32
"""Bytes that a field counts for besides its text (RFC 9113, section 6.5.2)."""

_SINGLE: Final = frozenset({b"content-length", b"content-type", b"host"})
_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""What has no place in HTTP/2 (RFC 9113, section 8.2.2)."""
_SEMANTIC: Final = _SINGLE | _CONNECTION | {b"te", b"expect", b"cookie"}

_MAX_KNOWN: Final = 1024
_names: set[bytes] = set()
_authorities: set[bytes] = set()
"""Found to be valid before."""


class Malformed(Exception):
    """A request that is none: a stream error of type PROTOCOL_ERROR (RFC 9113, section 8.1.1)."""


class Head(NamedTuple):
    """A request without its body.

    `headers` are as ASGI has them, the authority as ``host`` first; `length` is what Content-Length
    says, -1 without one; `path` has percent-encoding undone.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    length: int
    expect_continue: bool
    trailers: bool


def parse(fields: list[tuple[bytes, bytes]], max_bytes: int, max_count: int) -> Head:
    """Return what the fields of a request say.

    Raises `Malformed`, or `Refused` for a request that is one, but gets a status for an answer.
    """
    size = FIELD_OVERHEAD * len(fields)
    for name, value in fields:
        size += len(name) + len(value)
    if size > max_bytes:
        raise Refused(FIELDS_TOO_LARGE, f"a head of {size} bytes")
    pseudo, headers = _split(fields)
    if len(headers) > max_count:
        raise Refused(FIELDS_TOO_LARGE, f"{len(headers)} header fields")
    check_fields(headers)
    method = _method(pseudo)
    target = pseudo.get(b":path", b"")
    if not target or b":scheme" not in pseudo or target.translate(None, _TARGET_BYTES):
        raise Malformed("no scheme, or a path that is none")
    if target[0] != 0x2F and target != b"*":  # /
        raise Malformed("a path that does not begin with a slash")
    try:
        path, raw_path, query, _ = parse_target(method, target)
    except Refused as refusal:
        raise Malformed(refusal.reason) from None
    return _interpret(method, path, raw_path, query, pseudo.get(b":authority"), headers)


def _split(
    fields: list[tuple[bytes, bytes]],
) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Return pseudo-header fields, which come first, and the others (section 8.3)."""
    pseudo: dict[bytes, bytes] = {}
    count = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in {b":method", b":scheme", b":path", b":authority"} or name in pseudo:
            raise Malformed("a pseudo-header field that is unknown, or there twice")
        pseudo[name] = value
        count += 1
    return pseudo, [(name, value) for name, value in fields[count:]]


def check_fields(headers: list[tuple[bytes, bytes]]) -> None:
    """Raise `Malformed` for a name or a value that no field may have (section 8.2.1)."""
    for name, value in headers:
        if name not in _names:
            _check_name(name)
        if value != value.strip(b" \t"):
            raise Malformed("white space around a value")
    values = b"".join([value for _, value in headers])
    if values.translate(None, _VALUE_BYTES):
        raise Malformed("a control character in a value")


def _check_name(name: bytes) -> None:
    if not name or name.translate(None, _NAME_BYTES):
        raise Malformed("a field name that is none")
    if len(_names) < _MAX_KNOWN and len(name) <= 64:
        _names.add(bytes(name))


def _method(pseudo: dict[bytes, bytes]) -> str:
    method = pseudo.get(b":method", b"")
    if not method or len(method) > 32 or method.translate(None, _METHOD_BYTES):
        raise Malformed("a method that is none")
    if method == b"CONNECT":
        raise Refused(NOT_IMPLEMENTED, "CONNECT is for proxies")
    return method.decode("ascii")


def _interpret(
    method: str,
    path: str,
    raw_path: bytes,
    query: bytes,
    authority: bytes | None,
    headers: list[tuple[bytes, bytes]],
) -> Head:
    length = -1
    expect_continue = trailers = False
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in _SEMANTIC:
            continue
        if name in _CONNECTION:
            raise Malformed("a field that is about an HTTP/1 connection")
        if name in _SINGLE and name in seen:
            raise Malformed(f"more than one {name.decode()}")
        if name == b"content-length":
            if not 0 < len(value) <= 18 or value.translate(None, _DIGITS):
                raise Malformed("a content-length that is no number")
            length = int(value)
        elif name == b"te":
            if value.lower() != b"trailers":
                raise Malformed("a TE other than trailers")
            trailers = True
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(EXPECTATION_FAILED, "an expectation other than 100-continue")
            expect_continue = True
        elif name == b"cookie" and name in seen:
            seen[name] += b"; " + value  # section 8.2.3
            continue
        seen[name] = value
    return Head(
        method,
        path,
        raw_path,
        query,
        _headers_for_app(authority, headers, seen),
        length,
        expect_continue,
        trailers,
    )


def _headers_for_app(
    authority: bytes | None, headers: list[tuple[bytes, bytes]], seen: dict[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """Return the headers with one host and one cookie."""
    host = seen.get(b"host")
    if authority is None:
        authority = host
    if authority is None or (host is not None and host != authority):
        raise Malformed("no authority, or two that differ")  # section 8.3.1
    if authority not in _authorities:
        _check_authority(authority)
    if host is not None:
        headers = [pair for pair in headers if pair[0] != b"host"]
    if b"cookie" in seen:
        at = next(index for index, pair in enumerate(headers) if pair[0] == b"cookie")
        headers = [pair for pair in headers if pair[0] != b"cookie"]
        headers.insert(at, (b"cookie", seen[b"cookie"]))
    return [(b"host", authority), *headers]


def _check_authority(authority: bytes) -> None:
    """Raise `Malformed` for what is no host, with userinfo for one (section 8.3.1)."""
    try:
        *_, found = parse_target("GET", b"http://" + authority + b"/")
    except Refused as refusal:
        raise Malformed(refusal.reason) from None
    if found != authority:
        raise Malformed("an authority with a path in it")
    if len(_authorities) < _MAX_KNOWN:
        _authorities.add(bytes(authority))
