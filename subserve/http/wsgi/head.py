"""The head of a response: what an app hands to ``start_response``, checked (PEP 3333)."""

import re
from dataclasses import dataclass
from wsgiref.util import is_hop_by_hop

from subserve.http.wsgi.errors import WsgiViolation

_CONTROL = r"\x00-\x1f\x7f"
_STATUS = re.compile(rf"([1-9][0-9]{{2}}) [^{_CONTROL}]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(rf"[^{_CONTROL}]*")
_LENGTH = re.compile(r"[0-9]{1,20}")  # as many digits as 2**64 has, and as h11 takes

_MAX_KNOWN = 1024
_statuses: dict[str, int] = {}
"""Status lines that were found valid."""
_names: dict[str, bytes] = {}
"""Header names that were found valid, and in lower case."""

NO_CONTENT, NOT_MODIFIED = 204, 304


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers, ready to be sent; `content_length` is what the app said, in bytes."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    content_length: int | None

    @classmethod
    def from_lines(cls, status: int, lines: bytes, length: int | None) -> Head:
        """Return the head that header `lines` stand for; they were checked before."""
        headers = []
        for line in lines.splitlines():
            name, _, value = line.partition(b": ")
            headers.append((name, value))
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        return cls(status, tuple(headers), length)

    @property
    def bodiless(self) -> bool:
        """Whether the status alone rules out a body (RFC 9110, section 6.4.1)."""
        return self.status in {NO_CONTENT, NOT_MODIFIED}


def parse_head(status: object, headers: object) -> Head:
    """Check the arguments of ``start_response`` and turn them into what ASGI sends.

    The reason phrase is checked, then dropped: ASGI has no place for it.

    Raises:
        WsgiViolation: naming what PEP 3333 or HTTP does not allow.
    """
    code = _parse_status(status)
    # PEP 3333 says `type(headers) is list`; a subclass does no harm.
    if not isinstance(headers, list):
        raise WsgiViolation(f"headers must be a list, not {type(headers).__name__}")
    parsed = []
    length: int | None = None
    for item in headers:
        name, value = _parse_header(item)
        if name == b"content-length":
            if code == NO_CONTENT:
                continue  # a server must not send it (RFC 9110, section 8.6)
            length = _parse_length(value, length)
        parsed.append((name, value.encode("latin-1")))
    return Head(code, tuple(parsed), length)


def _parse_status(status: object) -> int:
    if not isinstance(status, str):
        raise WsgiViolation(f"the status must be a str, not {type(status).__name__}")
    if (known := _statuses.get(status)) is not None:
        return known
    match = _STATUS.fullmatch(status)
    if match is None or not _is_latin1(status):
        raise WsgiViolation(f"not three digits, a space and a reason phrase: status {status!r}")
    code = int(match[1])
    if code < 200:
        raise WsgiViolation(f"{code} is not a final status: it is the server that sends 1xx")
    if len(_statuses) < _MAX_KNOWN:
        _statuses[status] = code
    return code


def _parse_header(item: object) -> tuple[bytes, str]:
    """Return the header's name in lower case and its value without spaces around it."""
    # The value stays out of all messages: it may be a secret, such as a cookie.
    if not isinstance(item, tuple) or len(item) != 2:
        raise WsgiViolation("a header must be a tuple of a name and a value")
    name, value = item
    if not isinstance(name, str) or not isinstance(value, str):
        raise WsgiViolation(f"name and value must be str in header {name!r}")
    lower = _names.get(name) or _check_name(name)
    if not (value.isascii() and value.isprintable()):
        if not _VALUE.fullmatch(value):
            raise WsgiViolation(f"a control character in the value of header {name!r}")
        if not _is_latin1(value):
            raise WsgiViolation(
                f"a character outside of ISO-8859-1 in the value of header {name!r}"
            )
    return lower, value.strip(" ")


def _check_name(name: str) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise WsgiViolation(f"not a header name: {name!r}")
    if is_hop_by_hop(name):
        raise WsgiViolation(
            f"header {name!r} is hop-by-hop: it is the server's, and an app must not send it"
        )
    lower = name.lower().encode("ascii")
    if len(_names) < _MAX_KNOWN:
        _names[name] = lower
    return lower


def _parse_length(value: str, earlier: int | None) -> int:
    if not _LENGTH.fullmatch(value):
        raise WsgiViolation(f"not a Content-Length: {value!r}")
    length = int(value)
    if earlier is not None and earlier != length:
        raise WsgiViolation(f"two Content-Length headers: {earlier} and {length}")
    return length


def _is_latin1(text: str) -> bool:
    return not text or max(text) <= "\xff"
