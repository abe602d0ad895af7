"""Compression, permessage-deflate (RFC 7692): what is agreed on, and how it is done."""

import re
import zlib
from dataclasses import dataclass
from typing import Final

from subserve.http.ws.frames import Code, Violation

NAME: Final = b"permessage-deflate"

MIN_COMPRESSED_BYTES: Final = 64
"""Messages below it are sent as they are: compressing costs more than it saves.  Not measured."""

LEVEL: Final = 1
"""For what is sent once and soon: the higher ones take several times the CPU time."""

MEMORY_LEVEL: Final = 5
"""zlib takes ``2 ** (window_bits + 2) + 2 ** (MEMORY_LEVEL + 9)`` bytes to compress: 32 KiB with
the default window."""

_LEAST_BITS, _MOST_BITS = 9, 15
"""8 is in the RFC, and zlib cannot do it without a header of its own."""

_TAIL: Final = b"\x00\x00\xff\xff"
"""What is cut off behind each message (section 7.2.1)."""

_MAX_STREAM_ENDS: Final = 16
"""How often in a message the compressed data may end and begin anew (section 7.2.3.4)."""

_MAX_OFFERS: Final = 32
"""How many extensions a client may offer.  Not measured: browsers offer one or two."""

# Nothing is tried twice: a value of any kind is read in linear time (CVE-2020-7662).
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb'(?:="([^"\\]*+)"|=(' + _TOKEN + rb"))?+"
_SPACE = rb"[ \t]*+"
_NAME = re.compile(_SPACE + rb"(" + _TOKEN + rb")" + _SPACE)
_PARAMETER = re.compile(rb";" + _SPACE + rb"(" + _TOKEN + rb")" + _VALUE + _SPACE)


@dataclass(frozen=True, slots=True)
class Settings:
    """What we are ready to agree on.  `window_bits` is the most we compress with."""

    window_bits: int = 12
    context_takeover: bool = True


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed on: windows in bits, and whether each side keeps its window for long."""

    our_bits: int
    their_bits: int
    we_keep_context: bool
    they_keep_context: bool
    response: bytes
    """The value of Sec-WebSocket-Extensions that says so."""


def agree(offers: bytes, settings: Settings) -> Agreement | None:
    """Accept the first of a client's offers that we can, None if there is none.

    `offers` is the value of Sec-WebSocket-Extensions.  Raises `ValueError` for what is not one
    (RFC 6455, section 9.1).
    """
    for name, parameters in _parse(offers):
        if name.lower() == NAME and (agreement := _accept(parameters, settings)) is not None:
            return agreement
    return None


def _parse(value: bytes) -> list[tuple[bytes, list[tuple[bytes, bytes | None]]]]:
    extensions: list[tuple[bytes, list[tuple[bytes, bytes | None]]]] = []
    at = -1  # a comma
    while at < len(value):
        match = _NAME.match(value, at + 1)
        if match is None or len(extensions) == _MAX_OFFERS:
            raise ValueError("Sec-WebSocket-Extensions is not a list of extensions")
        name, at = match[1], match.end()
        parameters = []
        while (match := _PARAMETER.match(value, at)) is not None:
            parameters.append((match[1].lower(), match[3] if match[2] is None else match[2]))
            at = match.end()
        if value[at : at + 1] not in {b"", b","}:
            raise ValueError("Sec-WebSocket-Extensions is not a list of extensions")
        extensions.append((name, parameters))
    return extensions


def _accept(parameters: list[tuple[bytes, bytes | None]], settings: Settings) -> Agreement | None:
    """Return what an offer comes to; None where it is not valid or not for us (section 5.1)."""
    given = dict(parameters)
    if len(given) != len(parameters):
        return None
    our_bits, their_bits = settings.window_bits, _MOST_BITS
    we_keep = they_keep = settings.context_takeover
    response = [NAME]
    for name, value in parameters:
        if name == b"server_no_context_takeover" and value is None:
            we_keep = False
        elif name == b"client_no_context_takeover" and value is None:
            they_keep = False
        elif name == b"server_max_window_bits" and (bits := _bits(value)) is not None:
            if bits < _LEAST_BITS:
                return None
            our_bits = min(our_bits, bits)
            response.append(b"server_max_window_bits=%d" % our_bits)
        elif name == b"client_max_window_bits":
            bits = _MOST_BITS if value is None else _bits(value)
            if bits is None:
                return None
            # It costs us memory, too.
            their_bits = max(_LEAST_BITS, min(settings.window_bits, bits))
            response.append(b"client_max_window_bits=%d" % min(their_bits, bits))
        else:
            return None
    if not we_keep:
        response.append(b"server_no_context_takeover")
    if not they_keep:
        response.append(b"client_no_context_takeover")
    return Agreement(our_bits, their_bits, we_keep, they_keep, b"; ".join(response))


def _bits(value: bytes | None) -> int | None:
    """Return a window size, None for what is none (section 7.1.2: no leading zeros)."""
    if value is None or not value.isdigit() or value.startswith(b"0") or len(value) > 2:
        return None
    bits = int(value)
    return bits if 8 <= bits <= _MOST_BITS else None


class Inflater:
    """Inflates messages in pieces, and never makes more of one than it may."""

    __slots__ = ("_bits", "_ends", "_keep", "_stream")

    def __init__(self, agreement: Agreement) -> None:
        self._bits = agreement.their_bits
        self._keep = agreement.they_keep_context
        self._stream: zlib._Decompress | None = None
        self._ends = 0

    def inflate(self, data: bytes, room: int, *, last: bool) -> bytes:
        """Return what a piece of a message comes to; `last` says that no more of it will come.

        Raises `Violation` where that is more than `room` bytes, or not deflate at all.
        """
        if last:
            data += _TAIL
        made = b""
        while data:
            if self._stream is None:
                self._stream = zlib.decompressobj(-self._bits)
            try:
                piece = self._stream.decompress(data, room - len(made) + 1)
            except zlib.error:
                raise Violation(Code.INVALID_DATA, "a message that cannot be inflated") from None
            made = made + piece if made else piece
            if len(made) > room:
                raise Violation(Code.TOO_BIG, "a message that is too big")
            if not self._stream.eof:
                break
            self._ends += 1
            if self._ends > _MAX_STREAM_ENDS:
                raise Violation(Code.INVALID_DATA, "a message of too many compressed streams")
            data = self._stream.unused_data
            self._stream = None
        if last:
            self._ends = 0
            if not self._keep:
                self._stream = None
        return made


class Deflater:
    """Compresses whole messages."""

    __slots__ = ("_bits", "_keep", "_stream")

    def __init__(self, agreement: Agreement) -> None:
        self._bits = agreement.our_bits
        self._keep = agreement.we_keep_context
        self._stream: zlib._Compress | None = None

    def deflate(self, data: bytes) -> bytes:
        """Return the payload of a frame that holds the message `data`."""
        stream = self._stream
        if stream is None:
            stream = zlib.compressobj(LEVEL, zlib.DEFLATED, -self._bits, MEMORY_LEVEL)
            if self._keep:
                self._stream = stream
        made = stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)
        return made[: -len(_TAIL)]
