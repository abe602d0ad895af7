"""The head of an HTTP/2 response: what an app has said, as an HPACK block (RFC 7541, section 6).

Pure.  Fields are written as literals that are not indexed, so that a block depends on nothing that
was sent before: no table that a client sizes as it likes and an app fills, and a field that was
written once is a look-up the next time.
"""

import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Final

from hpack.table import HeaderTable

_NAME_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_VALUE_BYTES: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""RFC 9113, section 8.2.1; of the control characters only those that RFC 9110 has in a value."""

_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)

_MAX_KNOWN: Final = 1024
_MAX_KNOWN_BYTES: Final = 128
_fields: dict[tuple[bytes, bytes], bytes] = {}
"""Fields that were written before; those that mean something to us are not among them."""

_places: dict[bytes, int] = {}
for _place, (_name, _) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _places.setdefault(bytes(_name), _place)
_status_places: Final = {
    int(value): place
    for place, (name, value) in enumerate(HeaderTable.STATIC_TABLE, 1)
    if name == b":status"
}

BODILESS: Final = frozenset({204, 304})


class Block:
    """An HPACK block, and what it says about the body.

    `length` is what Content-Length says: the caller adds that with `length_field`, where it is to
    be sent.  Raises `ValueError` for what is not valid.
    """

    __slots__ = ("data", "dated", "length")

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]], date: bytes) -> None:
        self.length: int | None = None
        self.dated = False
        parts = [status_field(status)]
        for name, value in headers:
            field = _fields.get((name, value))
            parts.append(self._field(name, value) if field is None else field)
        if not self.dated:
            parts.append(date)
        self.data = b"".join(parts)

    def _field(self, name: bytes, value: bytes) -> bytes:
        lower = name.lower()
        if lower == b"content-length":
            if not value.isdigit() or (self.length is not None and self.length != int(value)):
                raise ValueError("the app sent a content-length that is none")
            self.length = int(value)
            return b""
        field = b"" if lower in _CONNECTION else write_field(lower, value)
        if lower == b"date":
            self.dated = True
        elif len(_fields) < _MAX_KNOWN and len(value) <= _MAX_KNOWN_BYTES:
            _fields[bytes(name), bytes(value)] = field
        return field


def trailers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a block of trailers; raise `ValueError` for what is not valid."""
    return b"".join(write_field(name.lower(), value) for name, value in headers)


def status_field(status: int) -> bytes:
    """Return the field that every response begins with."""
    if (place := _status_places.get(status)) is not None:
        return bytes((0x80 | place,))
    if not 100 <= status <= 999:
        raise ValueError(f"the app sent a status that is none: {status!r}")
    return b"\x08\x03%d" % status


def length_field(length: int) -> bytes:
    """Return Content-Length."""
    text = b"%d" % length
    return b"\x0f\x0d" + bytes((len(text),)) + text


def date_field() -> bytes:
    """Return Date, for now (RFC 9110, section 6.6.1)."""
    return write_field(b"date", formatdate(time.time(), usegmt=True).encode())


def write_field(name: bytes, value: bytes) -> bytes:
    """Return one field as a literal without indexing (RFC 7541, section 6.2.2).

    `name` is in lower case.  Raises `ValueError` for what no field may be.
    """
    value = value.strip(b" \t")
    if not name or name.translate(None, _NAME_BYTES):
        raise ValueError(f"the app sent a header that is not valid: {name!r}")
    if value.translate(None, _VALUE_BYTES):
        # Its value may be a secret, such as a cookie.
        raise ValueError(f"the app sent a header with a control character in it: {name!r}")
    place = _places.get(name)
    if place is None:
        return b"\0" + _string(name) + _string(value)
    return _integer(place, 4) + _string(value)


def _string(text: bytes) -> bytes:
    return _integer(len(text), 7) + text


def _integer(number: int, prefix_bits: int) -> bytes:
    """Write an integer behind a prefix of zeros (RFC 7541, section 5.1)."""
    most = (1 << prefix_bits) - 1
    if number < most:
        return bytes((number,))
    written = bytearray((most,))
    number -= most
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
