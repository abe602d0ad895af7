"""The frames of RFC 6455, section 5: their headers, their masks, what a close frame holds."""

from enum import IntEnum
from typing import Final


class Opcode(IntEnum):
    """What a frame is (section 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class Code(IntEnum):
    """Why a WebSocket was closed (section 7.4.1, and the registry of IANA)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005
    """None was given; never sent."""
    ABNORMAL = 1006
    """The connection broke; never sent."""
    INVALID_DATA = 1007
    """Text that is not UTF-8, compressed data that cannot be inflated."""
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    """Come back, to another worker."""


FIN: Final = 0x80
COMPRESSED: Final = 0x40
"""RSV1, of the first frame of a message (RFC 7692, section 6)."""

MAX_CONTROL_BYTES: Final = 125
MAX_REASON_BYTES: Final = MAX_CONTROL_BYTES - 2

_SENDABLE: Final = frozenset({*range(1000, 1004), *range(1007, 1015)})
"""Codes with a meaning of their own; 3000 to 4999 are for libraries and apps (section 7.4.2)."""


class Violation(Exception):
    """The client has broken the protocol or a limit; close with `code` and the reason.

    The reason holds nothing that the client has sent.
    """

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def is_sendable(code: int) -> bool:
    """Tell whether a close frame may hold `code`."""
    return code in _SENDABLE or 3000 <= code <= 4999


def header(first: int, size: int) -> bytes:
    """Return the header of a server's frame, which is not masked.

    `first` is its first byte: FIN, COMPRESSED and the opcode; `size` that of its payload.
    """
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126, size >> 8, size & 0xFF))
    return bytes((first, 127)) + size.to_bytes(8)


def control(opcode: Opcode, payload: bytes) -> bytes:
    """Return a control frame; `payload` has at most `MAX_CONTROL_BYTES`."""
    return bytes((FIN | opcode, len(payload))) + payload


def close_payload(code: int, reason: str) -> bytes:
    """Return what a close frame holds, nothing for `NO_STATUS`.

    Raises `ValueError` for a code that must not be sent, or a reason that is too long.
    """
    if code == Code.NO_STATUS and not reason:
        return b""
    if not is_sendable(code):
        raise ValueError(f"a WebSocket cannot be closed with code {code}")
    text = reason.encode()
    if len(text) > MAX_REASON_BYTES:
        raise ValueError(f"a close reason of more than {MAX_REASON_BYTES} bytes")
    return code.to_bytes(2) + text


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a client's close frame; raises `Violation` (section 5.5.1)."""
    if not payload:
        return Code.NO_STATUS, ""
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not is_sendable(code):
        raise Violation(Code.PROTOCOL_ERROR, "a close code that is none")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(Code.INVALID_DATA, "a close reason that is not UTF-8") from None


def unmask(data: bytes, start: int, end: int, mask: bytes, /) -> bytes:
    """Return the bytes from `start` to `end` with the four bytes of `mask` applied (section 5.3).

    The first byte is taken with the first of the mask.
    """
    size = end - start
    masks = mask * ((size + 3) // 4)
    number = int.from_bytes(data[start:end], "little") ^ int.from_bytes(masks[:size], "little")
    return number.to_bytes(size, "little")
