"""Where frames begin and end, before anything else looks at them (RFC 9113, section 4).

Pure: bytes in, frames out.  The library behind it would keep up to 16 MiB of one frame, or a
megabyte of header blocks that never end, and counts nothing; so what is too much ends here.
"""

import struct
from typing import Final, NamedTuple

from subserve.http.h2.floods import CONTINUATION, END_HEADERS, HEADERS, SETTINGS

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113, section 3.4."""

MAX_FRAME_BYTES: Final = 16384
"""The largest payload: what RFC 9113, section 4.2 makes everybody accept."""

HEADER_BYTES: Final = 9

MAX_CONTINUATIONS: Final = 32
"""How many frames a header block may be cut into behind its first one; the library allows 63."""

PROTOCOL_ERROR, INTERNAL_ERROR, FRAME_SIZE_ERROR, ENHANCE_YOUR_CALM = 0x1, 0x2, 0x6, 0xB
NO_ERROR, REFUSED_STREAM, CANCEL = 0x0, 0x7, 0x8
"""RFC 9113, section 7."""

_KNOWN_SETTINGS: Final = frozenset({1, 2, 3, 4, 5, 6})
_SETTINGS_ACK: Final = 0x1

_HEADER = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
_GOAWAY = struct.Struct(">BHBBLLL")


class FrameError(Exception):
    """The connection cannot go on; `code` is what to tell the client (RFC 9113, section 7)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Frame(NamedTuple):
    """One frame: its header, its payload, and all of its bytes."""

    kind: int
    flags: int
    stream: int
    length: int
    data: bytes

    @property
    def pad_length(self) -> int:
        """What the first byte of DATA with the flag PADDED says; 0 where there is none."""
        return self.data[HEADER_BYTES] if self.length else 0


def goaway(last_stream: int, code: int) -> bytes:
    """Return a GOAWAY frame (RFC 9113, section 6.8)."""
    return _GOAWAY.pack(0, 8, 7, 0, 0, last_stream, code)


class FrameReader:
    """Cuts what comes over one connection into frames.

    `max_block_bytes` bounds a header block as it is sent, which may be in several frames.
    """

    __slots__ = ("_block_bytes", "_block_frames", "_buffer", "_max_block_bytes", "_start", "begun")

    def __init__(self, max_block_bytes: int) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._max_block_bytes = max_block_bytes
        self._block_bytes = -1  # of the header block that goes on; none does where negative
        self._block_frames = 0
        self.begun = False
        """Whether the preface has come."""

    def feed(self, data: bytes) -> None:
        """Take in what has come."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    @property
    def waiting_bytes(self) -> int:
        """How much was fed, but not returned as frames."""
        return len(self._buffer) - self._start

    @property
    def in_head(self) -> bool:
        """Whether a head, or a frame other than DATA, has begun to come but is not complete."""
        if self._block_bytes >= 0:
            return True
        kind_at = self._start + 3
        return self.waiting_bytes > 0 and (
            len(self._buffer) <= kind_at or self._buffer[kind_at] != 0 or not self.begun
        )

    @property
    def partial_stream(self) -> int:
        """The stream whose DATA frame has begun to come; 0 where there is none such."""
        if self.waiting_bytes < HEADER_BYTES or not self.begun:
            return 0
        _, _, kind, _, stream = _HEADER.unpack_from(self._buffer, self._start)
        return stream & 0x7FFF_FFFF if kind == 0 else 0

    def take_preface(self) -> bool:
        """Return whether the preface is there, which comes before all frames."""
        if not self.begun:
            found = bytes(self._buffer[: len(PREFACE)])
            if not PREFACE.startswith(found):
                raise FrameError(PROTOCOL_ERROR, "no preface")
            self.begun = len(found) == len(PREFACE)
            if self.begun:
                self._start = len(PREFACE)
        return self.begun

    def next(self) -> Frame | None:
        """Return the next frame, None where it is not complete; raise `FrameError`."""
        buffer, start = self._buffer, self._start
        if len(buffer) - start < HEADER_BYTES:
            return None
        high, low, kind, flags, stream = _HEADER.unpack_from(buffer, start)
        length = high << 8 | low
        if length > MAX_FRAME_BYTES:
            raise FrameError(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind in (HEADERS, CONTINUATION) or self._block_bytes >= 0:
            # Also before all of the frame is there: it would be kept.
            self._check_block(kind, length)
        end = start + HEADER_BYTES + length
        if len(buffer) < end:
            return None
        self._start = end
        if kind in (HEADERS, CONTINUATION):
            self._count_block(flags, length)
        data = bytes(buffer[start:end])
        if kind == SETTINGS and length and not flags & _SETTINGS_ACK and not length % _SETTING.size:
            known = known_settings(data[HEADER_BYTES:])
            data = len(known).to_bytes(3) + data[3:HEADER_BYTES] + known
        return Frame(kind, flags, stream & 0x7FFF_FFFF, length, data)

    def _check_block(self, kind: int, length: int) -> None:
        if (self._block_bytes >= 0) is not (kind == CONTINUATION):
            raise FrameError(PROTOCOL_ERROR, "a header block that is interrupted, or out of place")
        if max(self._block_bytes, 0) + length > self._max_block_bytes:
            raise FrameError(ENHANCE_YOUR_CALM, "a header block that is too large")
        if self._block_frames > MAX_CONTINUATIONS:
            raise FrameError(ENHANCE_YOUR_CALM, "a header block in too many frames")

    def _count_block(self, flags: int, length: int) -> None:
        if flags & END_HEADERS:
            self._block_bytes, self._block_frames = -1, 0
        else:
            self._block_bytes = max(self._block_bytes, 0) + length
            self._block_frames += 1


def known_settings(payload: bytes) -> bytes:
    """Return settings without those that are to be ignored: the library would keep all of them.

    RFC 9113, section 6.5.2.  `payload` is a multiple of 6 bytes long.
    """
    known = {
        number: value
        for number, value in _SETTING.iter_unpack(payload)
        if number in _KNOWN_SETTINGS
    }
    return b"".join(_SETTING.pack(number, value) for number, value in known.items())
