"""What a client sends, as messages: bytes in, one event at a time out.

However the bytes were cut into packets, the events are the same.  What a message takes in memory is
bounded by its size, not by how many fragments it has, and by the limit while it is inflated.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from subserve.http.ws.deflate import Inflater
from subserve.http.ws.frames import (
    COMPRESSED,
    FIN,
    MAX_CONTROL_BYTES,
    Code,
    Opcode,
    Violation,
    parse_close,
)

type TakeMessage = Callable[[bytes, int, int], tuple[str | bytes, int] | None]
type Unmask = Callable[[bytes, int, int, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a pong that holds the same."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a ping, or none (RFC 6455, section 5.5.3)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The client has closed; nothing it sends after it counts."""

    code: int
    reason: str


class Part:
    """A part of a message; more of it is to come."""


PART: Final = Part()

type Event = str | bytes | Ping | Pong | Close | Part
"""A text message, a binary one, a control frame, or a frame that completes neither."""


class Reader:
    """Reads the frames of one client (RFC 6455, section 5).

    `max_bytes` bounds a message, inflated.  `inflater` is there where compression was agreed on.
    `take_message` and `unmask` are those of the accelerator, or what stands for them.
    """

    __slots__ = (
        "_at",
        "_compressed",
        "_data",
        "_decoder",
        "_final",
        "_inflater",
        "_left",
        "_mask",
        "_max_bytes",
        "_message",
        "_opcode",
        "_sent_bytes",
        "_take_message",
        "_unmask",
    )

    def __init__(
        self, max_bytes: int, inflater: Inflater | None, take_message: TakeMessage, unmask: Unmask
    ) -> None:
        self._max_bytes = max_bytes
        self._inflater = inflater
        self._take_message = take_message
        self._unmask = unmask
        self._data = b""
        self._at = 0
        # Of the message that is not complete yet; its opcode is 0 where there is none.
        self._opcode = 0
        self._compressed = False
        self._message = bytearray()
        self._sent_bytes = 0  # as they were sent, so perhaps compressed
        self._decoder: codecs.IncrementalDecoder | None = None
        # Of the frame of it that is being read.
        self._left = 0
        self._final = False
        self._mask = b""

    def feed(self, data: bytes) -> None:
        """Take in what has come."""
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    @property
    def unread_bytes(self) -> int:
        """How much of what was taken in waits to be read; a part of a header may be in it."""
        return len(self._data) - self._at

    def next_event(self) -> Event | None:
        """Return what one frame comes to, or a part of one; None where more has to come first.

        Raises `Violation`; nothing can be read after it.
        """
        if self._left:
            return self._go_on()
        data, at = self._data, self._at
        if not self._opcode:
            found = self._take_message(data, at, self._max_bytes)
            if found is not None:
                self._at = found[1]
                return found[0]
        return self._read_frame(data, at)

    def _read_frame(self, data: bytes, at: int) -> Event | None:
        there = len(data) - at
        if there < 2:
            if there:
                self._check_first(data[at])
            return None
        first, second = data[at], data[at + 1]
        self._check_first(first)
        if second < 0x80:
            raise Violation(Code.PROTOCOL_ERROR, "a frame that is not masked")
        size = second & 0x7F
        if first & 0x8:
            return self._read_control(data, at, first, size)
        begin = at + 6
        if size > 125:
            bytes_of_it = 2 if size == 126 else 8
            begin += bytes_of_it
            if len(data) < begin - 4:
                return None
            size = int.from_bytes(data[at + 2 : begin - 4])
            if size < 126 or (bytes_of_it == 8 and not 65536 <= size < 1 << 63):
                raise Violation(Code.PROTOCOL_ERROR, "a frame length that is not in shortest form")
        if len(data) < begin:
            return None
        self._begin_frame(first, size)
        self._mask = data[begin - 4 : begin]
        self._at = begin
        self._left = size
        return self._go_on()

    def _check_first(self, first: int) -> None:
        """Check the first byte of a frame: section 5.2, 5.4 and RFC 7692, section 6."""
        opcode = first & 0x0F
        if opcode in {Opcode.TEXT, Opcode.BINARY}:
            if self._opcode:
                raise Violation(Code.PROTOCOL_ERROR, "a message in the middle of another")
            if not first & 0x30 and (not first & COMPRESSED or self._inflater is not None):
                return
        elif first & 0x70 == 0:
            if opcode == Opcode.CONTINUATION:
                if self._opcode:
                    return
                raise Violation(Code.PROTOCOL_ERROR, "a continuation of nothing")
            if opcode in {Opcode.CLOSE, Opcode.PING, Opcode.PONG}:
                if first & FIN:
                    return
                raise Violation(Code.PROTOCOL_ERROR, "a control frame in fragments")
        raise Violation(Code.PROTOCOL_ERROR, "a frame with reserved bits or a reserved opcode")

    def _read_control(self, data: bytes, at: int, first: int, size: int) -> Event | None:
        if size > MAX_CONTROL_BYTES:
            raise Violation(Code.PROTOCOL_ERROR, "a control frame that is too long")
        end = at + 6 + size
        if len(data) < end:
            return None
        payload = self._unmask(data, at + 6, end, data[at + 2 : at + 6])
        self._at = end
        opcode = first & 0x0F
        if opcode == Opcode.PING:
            return Ping(payload)
        if opcode == Opcode.PONG:
            return Pong(payload)
        return Close(*parse_close(payload))

    def _begin_frame(self, first: int, size: int) -> None:
        opcode = first & 0x0F
        if opcode:
            self._opcode = opcode
            self._compressed = first & COMPRESSED != 0
            self._decoder = None
        self._final = first & FIN != 0
        self._sent_bytes += size
        limit = self._max_bytes
        if self._compressed:
            # What cannot be compressed grows a little; what comes to nothing must not go on.
            limit += limit // 8 + 1024
        if self._sent_bytes > limit:
            raise Violation(Code.TOO_BIG, "a message that is too big")

    def _go_on(self) -> Event | None:
        """Take what has come of a frame of a message."""
        at = self._at
        end = min(at + self._left, len(self._data))
        size = end - at
        if not size and self._left:
            return None
        self._left -= size
        self._at = end
        complete = self._final and not self._left
        piece = self._unmask(self._data, at, end, self._mask) if size else b""
        if self._left and (turn := size % 4):
            self._mask = self._mask[turn:] + self._mask[:turn]
        if self._compressed:
            assert self._inflater is not None
            room = self._max_bytes - len(self._message)
            piece = self._inflater.inflate(piece, room, last=complete)
        if complete:
            return self._complete(piece)
        self._message += piece
        if self._opcode == Opcode.TEXT:
            self._check_text(piece)
        return PART

    def _complete(self, piece: bytes) -> str | bytes:
        opcode, self._opcode = self._opcode, 0
        self._sent_bytes = 0
        if self._message:
            self._message += piece
            piece = bytes(self._message)
            self._message = bytearray()
        if opcode == Opcode.BINARY:
            return piece
        try:
            return piece.decode()
        except UnicodeDecodeError:
            raise Violation(Code.INVALID_DATA, "text that is not UTF-8") from None

    def _check_text(self, piece: bytes) -> None:
        """Find out at once where text is not UTF-8, not when all of it has come."""
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            self._decoder.decode(piece)
        except UnicodeDecodeError:
            raise Violation(Code.INVALID_DATA, "text that is not UTF-8") from None
