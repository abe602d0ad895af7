"""How much of what makes work, and carries nothing, a client may send: a budget for each kind.

Pure: frames and times in, a verdict out.  Each budget is a bucket that holds `burst` and is filled
up again at `per_second`; who runs it dry is told ENHANCE_YOUR_CALM (RFC 9113, sections 7 and 10.5).
What a well-behaved client needs in step with its requests is earned with them, so that a busy
connection has more to spend than one that does nothing else.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
PRIORITY_UPDATE: Final = 0x10
"""Types of frames: RFC 9113, section 6; the last one RFC 9218, section 7.1."""

END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many of a kind at once, and how many a second for long."""

    burst: int
    per_second: float


class Kind(IntEnum):
    """What is counted."""

    SETTINGS = 0
    """CVE-2019-9515.  Clients send one or two in the life of a connection, and acknowledge ours."""
    PING = 1
    """CVE-2019-9512.  Some clients measure the line with one for each round trip of a download."""
    RESET = 2
    """CVE-2023-44487, CVE-2025-8671: streams that end by RST_STREAM, whoever sends it.  A browser
    that leaves a page may reset all that it has open."""
    PRIORITY = 3
    """CVE-2019-9513.  Some browsers send a few at first, and one or two for each request."""
    WINDOW_UPDATE = 4
    """Clients send one or two for each frame of a response; those are earned."""
    EMPTY = 5
    """CVE-2019-9518: DATA and CONTINUATION that hold nothing, and end nothing."""
    OTHER = 6
    """GOAWAY and frames of unknown types, which are ignored (RFC 9113, section 5.5)."""


ALLOWED: Final = {
    Kind.SETTINGS: Allowance(32, 0.5),
    Kind.PING: Allowance(256, 20),
    Kind.RESET: Allowance(200, 10),
    Kind.PRIORITY: Allowance(300, 10),
    Kind.WINDOW_UPDATE: Allowance(2000, 100),
    Kind.EMPTY: Allowance(100, 5),
    Kind.OTHER: Allowance(100, 5),
}
"""None of these was measured: each is several times what browsers, curl, nghttp and the clients in
Python send, and a small part of a second of CPU time."""

_BURSTS: Final = [float(ALLOWED[kind].burst) for kind in Kind]

_PLAIN: Final = {
    PRIORITY: Kind.PRIORITY,
    PRIORITY_UPDATE: Kind.PRIORITY,
    RST_STREAM: Kind.RESET,
    SETTINGS: Kind.SETTINGS,
    PING: Kind.PING,
    WINDOW_UPDATE: Kind.WINDOW_UPDATE,
    HEADERS: None,  # bounded by the streams that may be open, and by what becomes of them
    PUSH_PROMISE: None,  # an error at once
}


def kind_of(kind: int, flags: int, length: int, pad_length: int) -> Kind | None:
    """Return what a frame of type `kind` counts as; None for what carries something.

    `length` is its payload's in bytes, `pad_length` what the first byte of that says.
    """
    if kind == DATA:
        empty = length == 0 or (flags & PADDED and pad_length == length - 1)
        return Kind.EMPTY if empty and not flags & END_STREAM else None
    if kind == CONTINUATION:
        return Kind.EMPTY if length == 0 else None
    return _PLAIN.get(kind, Kind.OTHER)


class FrameBudget:
    """The budgets of one connection.  `now` is in seconds, on any clock that does not go back."""

    __slots__ = ("_left", "_since")

    def __init__(self, now: float) -> None:
        self._left = _BURSTS.copy()
        self._since = now

    def spend(self, kind: Kind, now: float, count: int = 1) -> bool:
        """Take `count` of a kind; return False where it was one too many."""
        if now > self._since:
            self._fill_up(now)
        self._left[kind] -= count
        return self._left[kind] >= 0

    def earn(self, kind: Kind, count: int) -> None:
        """Allow `count` more of a kind, up to its burst."""
        left = self._left[kind] + count
        self._left[kind] = min(left, _BURSTS[kind])

    def _fill_up(self, now: float) -> None:
        elapsed = now - self._since
        self._since = now
        for kind, allowance in ALLOWED.items():
            left = self._left[kind] + elapsed * allowance.per_second
            self._left[kind] = min(left, allowance.burst)
