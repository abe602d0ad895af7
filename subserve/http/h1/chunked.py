"""The chunked coding of a request's body (RFC 9112, section 7.1): bytes in, data out."""

import re
from enum import Enum, auto
from typing import Final

from subserve.http.h1.head import (
    BAD_REQUEST,
    FIELDS_TOO_LARGE,
    TOKEN,
    Refused,
    parse_lines,
)

_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?![ \t])"
    rb"(?:[ \t]*;[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb"(?:[ \t]*=[ \t]*(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]"
    rb"|\\[\t \x21-\x7e\x80-\xff])*\"))?)*"
)
"""Size and extensions, of which none has a meaning to us (section 7.1.1).  15 digits are enough for
any body, and too few to overflow what a proxy counts with.  The white space that the grammar has
behind the size is taken by some and refused by others, and sent by nobody."""

MAX_SIZE_LINE_BYTES: Final = 1024
"""Extensions are not read by anybody; Puma was kept busy with megabytes of one (CVE-2024-21647)."""

_FORBIDDEN_TRAILERS: Final = frozenset(
    {
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"content-type",
        b"content-encoding",
        b"connection",
        b"authorization",
        b"cookie",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
    }
)
"""Fields that would have been read before the body (RFC 9110, section 6.5.1)."""


class _Expects(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    NOTHING = auto()


class ChunkedDecoder:
    """Takes a body in pieces of any size.

    `max_trailer_bytes` and `max_trailers` bound the trailer section, which is checked and dropped:
    ASGI and WSGI have no place for it.
    """

    def __init__(self, max_trailer_bytes: int, max_trailers: int) -> None:
        self._expects = _Expects.SIZE
        self._left = 0
        self._rest = b""
        self._max_trailer_bytes = max_trailer_bytes
        self._max_trailers = max_trailers

    @property
    def complete(self) -> bool:
        """Whether the body and its trailer section have ended."""
        return self._expects is _Expects.NOTHING

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the body's next pieces, and what comes behind the body once it is complete.

        Raises `Refused`.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        pieces: list[bytes] = []
        place = 0
        size = len(data)
        while place < size:
            match self._expects:
                case _Expects.DATA:
                    piece = data[place : place + self._left]
                    pieces.append(piece)
                    place += len(piece)
                    self._left -= len(piece)
                    if self._left == 0:
                        self._expects = _Expects.DATA_END
                case _Expects.DATA_END:
                    if data[place : place + 2] == b"\r\n":
                        place += 2
                        self._expects = _Expects.SIZE
                    elif data[place:] == b"\r":
                        break
                    else:
                        raise Refused(BAD_REQUEST, "a chunk that is not as long as it says")
                case _Expects.SIZE:
                    end = _find_line(data, place)
                    if end < 0:
                        break
                    self._begin_chunk(data[place:end])
                    place = end + 2
                case _Expects.TRAILERS:
                    end = self._find_trailers_end(data, place)
                    if end < 0:
                        break
                    self._check_trailers(data[place:end])
                    place = end + 2
                    self._expects = _Expects.NOTHING
                case _Expects.NOTHING:
                    return pieces, data[place:]
        self._rest = data[place:]
        return pieces, b""

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise Refused(BAD_REQUEST, "a chunk without a valid size")
        self._left = int(match[1], 16)
        self._expects = _Expects.DATA if self._left else _Expects.TRAILERS

    def _find_trailers_end(self, data: bytes, place: int) -> int:
        """Return where the empty line begins that ends the trailer section, or -1."""
        beginning = data[place : place + 2]
        if beginning == b"\r\n":
            return place
        if beginning[0] not in TOKEN and beginning != b"\r":
            # Said at once: it may be the end, as somebody else understands it.
            raise Refused(BAD_REQUEST, "trailers that are none")
        end = data.find(b"\r\n\r\n", place, place + self._max_trailer_bytes + 2)
        if end >= 0:
            return end + 2
        if len(data) - place > self._max_trailer_bytes + 1:
            raise Refused(FIELDS_TOO_LARGE, "trailers of too many bytes")
        return -1

    def _check_trailers(self, block: bytes) -> None:
        if block:
            headers, _ = parse_lines(block, self._max_trailers)
            if any(name in _FORBIDDEN_TRAILERS for name, _ in headers):
                raise Refused(BAD_REQUEST, "a trailer that has to be a header")


def _find_line(data: bytes, place: int) -> int:
    """Return where the line at `place` ends, or -1; refuse one that is too long, or ends in LF."""
    limit = place + MAX_SIZE_LINE_BYTES + 2
    end = data.find(b"\r\n", place, limit)
    if end < 0 and (len(data) >= limit or data.find(b"\n", place, limit) >= 0):
        raise Refused(BAD_REQUEST, "a chunk's size line is too long, or has no CR")
    return end
