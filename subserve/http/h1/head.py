"""The head of an HTTP/1 request: bytes in, values out, or a refusal (RFC 9112, sections 2 to 6).

Why not a parser library: a head is parsed once, when all of it is there, so that how it was cut
into packets can make no difference, and what is parsed is what the lanes behind are given.  Bytes
are checked by a few passes in C over the whole block instead of a call per header.

Refused is whatever two readers might read differently, since one of them may be the proxy in front
of us: see `docs/http1.md` for the list, and where it is stricter than h11.
"""

import re
from copy import copy
from ipaddress import AddressValueError, IPv6Address
from typing import Final
from urllib.parse import unquote

BAD_REQUEST = 400
URI_TOO_LONG = 414
EXPECTATION_FAILED = 417
FIELDS_TOO_LARGE = 431
NOT_IMPLEMENTED = 501
VERSION_NOT_SUPPORTED = 505

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"
"""How a client begins that speaks HTTP/2 without asking (RFC 9113, section 3.4)."""

_CRLF: Final = b"\r\n"
TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""RFC 9110, section 5.6.2."""
_FIELD_BYTES: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""What a field line may hold (RFC 9110, section 5.5): no control characters but the tab."""

_REQUEST_LINE = re.compile(rb"([A-Z][A-Z0-9_-]{0,31}) ([!-~]+) HTTP/([0-9]\.[0-9])")
"""Methods are upper case here: RFC 9110 lets them be any token, and no client uses another."""
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?@]+)(/[^?]*)?(\?.*)?")
"""RFC 9112, section 3.2.2; without userinfo, which RFC 9110, section 4.2.4 has us refuse."""
_HOST = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9\-._~!$&'()*+,;=]{0,255})(?::[0-9]{0,5})?"
)
"""RFC 3986, section 3.2.2, but for percent signs, which some decode and some do not.  Empty where
the target has no authority (RFC 9110, section 7.2)."""
_LENGTH = re.compile(rb"[0-9]{1,18}")
"""18 digits are an exabyte, and fit into any integer that somebody in front of us may use."""

_SINGLE: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"content-type"})
"""Fields that decide what a request is: two of one are two opinions."""
_SEMANTIC: Final = _SINGLE | {b"connection", b"expect", b"upgrade", b"te"}

_MAX_NAMES: Final = 1024
_AMBIGUOUS: Final = frozenset({b"content_length", b"transfer_encoding"})
"""Who reads variables as CGI has them takes these for the names with a hyphen."""

_names: dict[bytes, bytes] = {}
"""Header names as they were sent, and in lower case: checked once, then known."""


class Refused(Exception):
    """The request cannot be served; `status` is what to answer before the connection is closed.

    `reason` is for the log, and holds nothing that the client has sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Fields:
    """The header fields of a request, and what they say about the connection and the body.

    `headers` are pairs of lower-case name and value.  `length` is what Content-Length says, None
    without one.
    """

    __slots__ = (
        "chunked",
        "close",
        "expect_continue",
        "headers",
        "host",
        "keep_alive",
        "length",
        "trailers_accepted",
        "upgrade",
    )

    def __init__(self, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self.headers = headers
        self.host: bytes | None = None
        self.length: int | None = None
        self.chunked = False
        self.close = False
        self.keep_alive = False
        self.expect_continue = False
        self.trailers_accepted = False
        self.upgrade = b""

    def with_host(self, authority: bytes) -> Fields:
        """Return fields with the host that the target names (RFC 9112, section 3.2.2)."""
        others = tuple(pair for pair in self.headers if pair[0] != b"host")
        made = copy(self)
        made.headers = ((b"host", authority), *others)
        made.host = authority
        return made


def find_end(data: bytes, start: int, limit: int) -> int:
    """Return the place behind the head that begins `data`, or -1 where it is not complete.

    `start` is where to search, since what comes before was searched already.  Raises `Refused` once
    the head is longer than `limit` bytes; which of the two statuses is decided by the first `limit`
    bytes alone, however they arrived.
    """
    end = data.find(b"\r\n\r\n", start)
    if 0 <= end <= limit - 4:
        return end + 4
    _check_beginning(data, limit)
    if end < 0 and len(data) < limit:
        return -1
    if data.find(_CRLF, 0, limit) < 0:
        raise Refused(URI_TOO_LONG, f"a request line of more than {limit} bytes")
    raise Refused(FIELDS_TOO_LARGE, f"a head of more than {limit} bytes")


def _check_beginning(data: bytes, limit: int) -> None:
    """Refuse at once what can become no request: TLS on a plain port, lines without a CR.

    Nothing else is judged before the head is complete, and both would be a request line that is
    none then, too: the answer is the same.
    """
    if data[0] not in TOKEN and data[0] != 0x0D:
        raise Refused(BAD_REQUEST, "the first byte begins no request line")
    line_feed = data.find(b"\n", 0, limit)
    if line_feed >= 0 and data[line_feed - 1] != 0x0D:
        raise Refused(BAD_REQUEST, "a request line that ends without a CR")


def parse_request_line(line: bytes) -> tuple[str, bytes, str]:
    """Return method, target and version (``1.0`` or ``1.1``)."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Refused(BAD_REQUEST, "a request line that is none")
    method, target, version = match.groups()
    if version not in {b"1.1", b"1.0"}:
        raise Refused(VERSION_NOT_SUPPORTED, "a version that is not 1.0 or 1.1")
    if method == b"CONNECT":
        raise Refused(NOT_IMPLEMENTED, "CONNECT is for proxies")
    return method.decode("ascii"), target, version.decode("ascii")


def parse_target(method: str, target: bytes) -> tuple[str, bytes, bytes, bytes | None]:
    """Return the path decoded, the path and the query as sent, and the authority if it has one.

    The forms are those of RFC 9112, section 3.2.
    """
    authority = None
    if target[0] != 0x2F:  # /
        if target == b"*":
            if method != "OPTIONS":
                raise Refused(BAD_REQUEST, "the target * is for OPTIONS")
            return "*", target, b"", None
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise Refused(BAD_REQUEST, "a target that is neither a path nor a URL")
        authority = match[1]
        # A URL has to name its host (RFC 9110, section 4.2.1).
        if authority[0] == 0x3A or not _is_host(authority):  # :
            raise Refused(BAD_REQUEST, "a URL with an authority that is none")
        if match[2] is None and match[3] is None and method == "OPTIONS":
            return "*", b"*", b"", authority
        target = (match[2] or b"/") + (match[3] or b"")
    if b"#" in target:
        raise Refused(BAD_REQUEST, "a fragment in the target")
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, query, authority


def _is_host(text: bytes) -> bool:
    match = _HOST.fullmatch(text)
    if match is None:
        return False
    if match[1] is not None:
        try:
            IPv6Address(match[1].decode("ascii"))
        except AddressValueError:
            return False
    return True


def parse_fields(block: bytes, max_count: int) -> Fields:
    """Parse header lines, each with its line break, and read those that are about the request.

    `max_count` bounds their number.  Raises `Refused`.
    """
    headers, semantic = parse_lines(block, max_count)
    fields = Fields(tuple(headers))
    if semantic:
        _interpret(fields)
    return fields


def parse_lines(block: bytes, max_count: int) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return lower-case names and values, and whether one of them is about the request.

    `block` are header or trailer lines, each with its line break.  Raises `Refused`.
    """
    lines = block.split(_CRLF)
    del lines[-1]
    count = len(lines)
    if count > max_count:
        raise Refused(FIELDS_TOO_LARGE, f"more than {max_count} header fields")
    if block.translate(None, _FIELD_BYTES) != _CRLF * count:
        raise Refused(BAD_REQUEST, "a control character, or a bare CR or LF, in a header field")
    headers = []
    semantic = False
    for line in lines:
        name, colon, value = line.partition(b":")
        lower = _names.get(name) or _check_name(name)
        if not colon:
            raise Refused(BAD_REQUEST, "a header field without a colon")
        headers.append((lower, value.strip(b" \t")))
        semantic = semantic or lower in _SEMANTIC
    return headers, semantic


def _check_name(name: bytes) -> bytes:
    # A name with a space before the colon, and a continued line, which begins with one, end here.
    if not name or name.translate(None, TOKEN):
        raise Refused(BAD_REQUEST, "a header field without a valid name")
    lower = name.lower()
    if lower in _AMBIGUOUS:
        raise Refused(BAD_REQUEST, "a header field that looks like one about the body's length")
    if len(_names) < _MAX_NAMES and len(name) <= 64:
        _names[name] = lower
    return lower


def _interpret(fields: Fields) -> None:
    """Read the fields that say how the request is to be read."""
    seen = set()
    for name, value in fields.headers:
        if name not in _SEMANTIC:
            continue
        if name in _SINGLE:
            if name in seen:
                raise Refused(BAD_REQUEST, f"more than one {name.decode()}")
            seen.add(name)
        if name == b"content-type":
            continue
        if name == b"host":
            if not _is_host(value):
                raise Refused(BAD_REQUEST, "a Host that is none")
            fields.host = value
            continue
        _take(fields, name, value)
    if fields.chunked and fields.length is not None:
        raise Refused(BAD_REQUEST, "both Content-Length and Transfer-Encoding")


def _take(fields: Fields, name: bytes, value: bytes) -> None:
    match name:
        case b"content-length":
            if not _LENGTH.fullmatch(value):
                raise Refused(BAD_REQUEST, "a Content-Length that is no number")
            fields.length = int(value)
        case b"transfer-encoding":
            _take_transfer_encoding(fields, value)
        case b"connection":
            options = {option.strip(b" \t") for option in value.lower().split(b",")}
            fields.close |= b"close" in options
            fields.keep_alive |= b"keep-alive" in options
            if b"upgrade" not in options:
                return
            # Upgrade counts only if Connection names it (RFC 9110, section 7.8).  More than one
            # wish is none that we know.
            wishes = (wish for other, wish in fields.headers if other == b"upgrade")
            fields.upgrade = b",".join(wishes).lower()
        case b"expect":
            if value.lower() != b"100-continue":
                raise Refused(EXPECTATION_FAILED, "an expectation other than 100-continue")
            fields.expect_continue = True
        case b"te":
            codings = value.lower().split(b",")
            fields.trailers_accepted |= b"trailers" in map(bytes.strip, codings)


def _take_transfer_encoding(fields: Fields, value: bytes) -> None:
    # Only what needs no second thought is taken (RFC 9112, section 6.1).
    if value.lower() == b"chunked":
        fields.chunked = True
        return
    codings = [coding.strip(b" \t") for coding in value.lower().split(b",")]
    known = {b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"}
    if len(codings) > 1 and codings[-1] == b"chunked" and known.issuperset(codings[:-1]):
        raise Refused(NOT_IMPLEMENTED, "a transfer coding other than chunked")
    raise Refused(BAD_REQUEST, "a Transfer-Encoding that does not end in one chunked")


def check_version(fields: Fields, version: str) -> None:
    """Check what depends on the version: RFC 9112, sections 3.2 and 6.1."""
    if version == "1.1":
        if fields.host is None:
            raise Refused(BAD_REQUEST, "no Host")
    elif fields.chunked:
        raise Refused(BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
