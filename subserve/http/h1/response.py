"""The head of an HTTP/1 response: what an app has said, as bytes that cannot say anything else."""

import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE_BYTES: Final = bytes(set(range(0x100)) - {0x00, 0x0A, 0x0D})
"""What may stand in a head besides its line breaks (RFC 9110, section 5.5)."""

_ORDINARY, _LENGTH, _CODING, _CONNECTION, _DATE, _TYPE, _DROPPED = range(7)
_kinds: dict[bytes, int] = {
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"date": _DATE,
    b"content-type": _TYPE,
    b"keep-alive": _DROPPED,
    b"proxy-connection": _DROPPED,
}
"""What a header name means to us; names that were found valid are added, up to `_MAX_NAMES`."""
_MAX_NAMES: Final = 1024

CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_status_lines: dict[int, bytes] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class ResponseHead:
    """The head as the app has given it, checked, and what of it decides the framing.

    `lines` are status line and header lines, without those that are the server's to send.
    `length` is what Content-Length says.  Raises `ValueError` for what is not valid.
    """

    __slots__ = ("close", "dated", "event_stream", "length", "lines", "status")

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.length: int | None = None
        self.close = False
        self.dated = False
        self.event_stream = False
        self.lines = status_line(status)
        count = 1
        for name, value in headers:
            kind = _kinds.get(name)
            if kind is None:
                kind = _kind_of(name)
            if kind:
                if kind == _DATE:
                    self.dated = True
                elif kind == _TYPE:
                    self.event_stream = value.startswith(b"text/event-stream")
                else:
                    self._take(kind, value)
                    continue
            count += 1
            self.lines += b"%b: %b\r\n" % (name, value)
        if self.lines.translate(None, _VALUE_BYTES) != b"\r\n" * count:
            # Which of them it was is not told: its value may be a secret, such as a cookie.
            raise ValueError("the app sent a header with a line break or a NUL in it")

    def _take(self, kind: int, value: bytes) -> None:
        if kind == _LENGTH:
            if not value.isdigit() or (self.length is not None and self.length != int(value)):
                raise ValueError("the app sent a content-length that is none")
            self.length = int(value)
        elif kind == _CONNECTION:
            self.close |= b"close" in map(bytes.strip, value.lower().split(b","))


def status_line(status: int) -> bytes:
    """Return the first line of a response; raise `ValueError` for what is no status."""
    try:
        return _status_lines[status]
    except KeyError:
        if not 100 <= status <= 999:
            raise ValueError(f"the app sent a status that is none: {status!r}") from None
        return b"HTTP/1.1 %d \r\n" % status  # a reason phrase may be empty (RFC 9112, section 4)


def _kind_of(name: bytes) -> int:
    if not name or name.translate(None, _TOKEN):
        raise ValueError(f"the app sent a header that is not valid: {name!r}")
    kind = _kinds.get(name.lower(), _ORDINARY)
    if len(_kinds) < _MAX_NAMES:
        _kinds[bytes(name)] = kind
    return kind


def date_line() -> bytes:
    """Return the Date header for now (RFC 9110, section 6.6.1)."""
    return f"date: {formatdate(time.time(), usegmt=True)}\r\n".encode()


def error_response(status: int, date: bytes) -> bytes:
    """Return a whole response that says nothing but its status, after which we close.

    It has no body: what is refused may have been a HEAD request, and then one would be taken for
    the beginning of another response.
    """
    return _status_lines[status] + date + b"content-length: 0\r\n" + CLOSE + b"\r\n"
