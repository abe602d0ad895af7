"""A response as HTTP/1 frames it: what an app says comes in, bytes to be written go out.

Whether it is a worker's loop or a thread of a pool that writes them makes no difference here.
"""

from collections.abc import Iterable
from typing import Final

from subserve.http.h1.response import CHUNKED, CLOSE, KEEP_ALIVE, ResponseHead, status_line
from subserve.http.h1.speed import WholeResponse

LARGE_BYTES: Final = 16 * 1024
"""From here on a part is not copied behind what comes before it, but written beside it."""

BODILESS: Final = frozenset({204, 304})

CLOSING: Final = {
    (True, "1.1"): b"\r\n",
    (False, "1.1"): CLOSE + b"\r\n",
    (True, "1.0"): KEEP_ALIVE + b"\r\n",
    (False, "1.0"): CLOSE + b"\r\n",
}
"""The end of a head, by whether the connection is kept and by the version of the request."""

_LAST_CHUNK: Final = b"0\r\n"


class Framing:
    """One response.

    `method` and `version` are the request's.  The methods raise `RuntimeError` for what is out of
    turn, or is not the length that was announced, and `ValueError` for what is not valid; nothing
    has changed then, so that another response can be sent where none has `begun`.
    """

    # Defaults of the class, not set for each response: most of them never change.
    started = False
    begun = False
    finished = False
    close = False
    """Whether the connection is to be closed behind it."""
    size = 0
    """How many bytes of the body have been sent."""
    _built: ResponseHead | None = None
    _chunked = False
    _trailers = False
    _trailer_lines = b""
    _status: int
    _headers: list[tuple[bytes, bytes]]

    def __init__(self, method: str, version: str, whole_response: WholeResponse) -> None:
        self._head_method = method == "HEAD"
        self._version = version
        self._whole_response = whole_response

    @property
    def self_delimiting(self) -> bool:
        """Whether the client can tell a complete response from one that was cut short."""
        return self._chunked or (self.started and self.head.length is not None)

    @property
    def head(self) -> ResponseHead:
        """The head of a response that has been started; raises `ValueError` if it is not valid."""
        if self._built is None:
            self._built = ResponseHead(self._status, self._headers)
            if self._status == 204:
                self._built.length = None  # RFC 9110, section 8.6
        return self._built

    @property
    def bodiless(self) -> bool:
        """Whether it has no body, whatever the app sends (RFC 9110, section 6.4.1)."""
        return self._head_method or self._status in BODILESS

    @property
    def event_stream(self) -> bool:
        """Whether it is one of server-sent events."""
        return self.started and self.head.event_stream

    def start(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], *, trailers: bool = False
    ) -> None:
        """Take status and headers in; they go out, and are checked, with the first of the body."""
        if self.started:
            raise RuntimeError("the response has been started before")
        if status < 200:
            raise ValueError(f"not the status of a response: {status}")
        self._status = status
        self._headers = list(headers)
        self._trailers = trailers
        self.started = True

    def check(self) -> None:
        """Raise `ValueError` if status and headers are not valid, as `whole` and `part` do."""
        if self._built is None:
            self._built = self.head

    def restart(self) -> None:
        """Forget a response that has not begun."""
        self._built = None
        self._trailers = self.started = False

    def whole(self, body: bytes, *, keep_alive: bool, date: bytes) -> list[bytes]:
        """Return a response that is complete with `body`, as parts to be written at once."""
        if not self.started or self.begun or self._trailers:
            return self.part(body, more=False, keep_alive=keep_alive, date=date)
        size = len(body)
        if size < LARGE_BYTES:
            data = self._whole_response(
                status_line(self._status),
                self._headers,
                body,
                date,
                CLOSING[keep_alive, self._version],
                self._head_method or self._status in BODILESS,
            )
            if data is not None:
                self.close = not keep_alive
                self.begun = self.finished = True
                self.size = size
                return [data]
        head = self.head
        length = head.length
        if self.bodiless:
            if length is None and size and self._head_method and head.status not in BODILESS:
                length = size  # what GET would have answered to this HEAD
            body = b""
        elif length is None:
            length = size
        elif length != size:
            raise RuntimeError(f"a body of {size} bytes, where content-length says {length}")
        framing = b"" if length is None else b"content-length: %d\r\n" % length
        lines = self._join(framing, keep_alive, date)
        self.size = size
        self.finished = True
        return [lines + body] if size < LARGE_BYTES else [lines, body]

    def part(self, body: bytes, *, more: bool, keep_alive: bool, date: bytes) -> list[bytes]:
        """Return the next part, and with the first one the head; `more` says that it goes on."""
        if not self.started or self.finished:
            raise RuntimeError("a part of a response that has not been started, or is over")
        size = len(body)
        self._check_length(size, last=not more)
        pieces = []
        if not self.begun:
            framing = self._choose_framing(empty=not more and not size)
            pieces.append(self._join(framing, keep_alive, date))
        self.size += size
        if size and not self.bodiless:
            if self._chunked:
                pieces += (b"%x\r\n" % size, body, b"\r\n")
            else:
                pieces.append(body)
        if not more and not self._trailers:
            if self._chunked:
                pieces.append(_LAST_CHUNK + b"\r\n")
            self.finished = True
        return pieces if size >= LARGE_BYTES else [b"".join(pieces)]

    def head_alone(self, size: int, *, keep_alive: bool, date: bytes) -> bytes:
        """Return the head of a response whose body of `size` bytes the caller sends by itself."""
        if self.head.length is None:
            self.head.length = size
        self._check_length(size, last=True)
        return self._join(self._choose_framing(empty=False), keep_alive, date)

    def trailers(self, headers: Iterable[tuple[bytes, bytes]], *, more: bool) -> bytes:
        """Return what ends the response, once `more` is False."""
        if not self._trailers or self.finished or not self.begun:
            raise RuntimeError("trailers without a response that has announced them")
        self._trailer_lines += ResponseHead(200, headers).lines.partition(b"\r\n")[2]
        if more:
            return b""
        self.finished = True
        return _LAST_CHUNK + self._trailer_lines + b"\r\n" if self._chunked else b""

    def _choose_framing(self, *, empty: bool) -> bytes:
        head = self.head
        if head.length is not None:
            return b"content-length: %d\r\n" % head.length
        if self.bodiless:
            return b""
        if empty and not self._trailers:
            return b"content-length: 0\r\n"
        if self._version == "1.1":
            self._chunked = True
            return CHUNKED
        head.close = True  # HTTP/1.0 knows no other end
        return b""

    def _join(self, framing: bytes, keep_alive: bool, date: bytes) -> bytes:
        head = self.head
        self.close = close = head.close or not keep_alive
        closing = CLOSING[not close, self._version]
        lines = b"".join((head.lines, b"" if head.dated else date, framing, closing))
        self.begun = True
        return lines

    def _check_length(self, size: int, *, last: bool) -> None:
        length = self.head.length
        total = self.size + size
        if length is None or self.bodiless:
            return
        if total > length or (last and total < length):
            raise RuntimeError(f"a body of {total} bytes, where content-length says {length}")
