"""The response of an app: ``start_response``, ``write`` and the iterable, as PEP 3333 has them.

Everything here runs in the request's pool thread.  What is to be sent goes to the function given
as `transmit`, which blocks until it is on its way.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from subserve.http.wsgi.errors import WsgiViolation
from subserve.http.wsgi.files import FileWrapper
from subserve.http.wsgi.head import Head, parse_head
from subserve.http.wsgi.messages import Message, body_message, start_message

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    type ExcInfo = (
        tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
    )

logger = logging.getLogger("subserve.wsgi")

# A finished response up to this size need not hold its thread until the client has taken it.  It
# is what asyncio's transports take before they push back; more would let many slow readers pile
# up whole responses in memory.
MAX_DETACHED_BYTES = 64 * 1024


class Transmit(Protocol):
    """Send messages in order; `last` says that they end the response.

    Raises `ClientDisconnected` where that cannot be done any more.
    """

    def __call__(self, messages: list[Message], *, last: bool) -> None:
        """Send them."""


class Response:
    """What one call of the app has answered so far."""

    def __init__(self, method: str, transmit: Transmit) -> None:
        self._method = method
        self._transmit = transmit
        self._started = False
        self._head: Head | None = None
        self._head_sent = False
        self._sent_bytes = 0
        self._complete = False

    def take_over(self, head: Head, sent: int | None) -> None:
        """Go on with a response that was started elsewhere.

        `sent`: that it is complete, with so many bytes of body; None where nothing has gone out.
        """
        self._started = True
        self._head = head
        if sent is not None:
            self._head_sent = self._complete = True
            self._sent_bytes = sent

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], None]:
        """Keep status and headers until there is a body to send; return ``write()``.

        Raises:
            WsgiViolation: if they are not as PEP 3333 has them, or it is called again without
                `exc_info`.
            BaseException: the one in `exc_info`, if the headers are gone already.
        """
        if exc_info:
            try:
                if self._head_sent and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # this frame is in its traceback: a cycle otherwise
            if self._head_sent:
                raise WsgiViolation("start_response called after the headers were sent")
        elif self._started:
            raise WsgiViolation("start_response called again without exc_info")
        # Before the check: a call that fails counts as the one call without exc_info.
        self._started = True
        self._head = parse_head(status, headers)
        return self.write

    def write(self, data: bytes, /) -> None:
        """Send a part of the body; return when it is sent.

        Raises:
            WsgiViolation: if `data` is not bytes, or more than ``Content-Length`` allows; what is
                allowed is sent before.
            ClientDisconnected: if the client has gone.
        """
        _check_chunk(data)
        if self._complete:
            excess = bool(data) and not self._bodiless(self._require_head())
        else:
            excess = self._send_chunk(data)
        if excess:
            raise WsgiViolation(f"write() past the end: {self._account()}")

    def respond(self, iterable: object) -> list[Message]:
        """Send what the app has returned.

        Returns the messages that are still to be sent, or none: a small response that is finished
        is left to the caller, who can pass it on together with the news that the app is done.

        Raises:
            WsgiViolation: if it is not an iterable of bytes, ``start_response`` was not called,
                or there is less than ``Content-Length`` promises.
            ClientDisconnected: if the client has gone.
        """
        # A sequence is there as a whole.  Exact types only: a subclass may iterate as it likes.
        if type(iterable) in {list, tuple} and not self._head_sent:
            return self._respond_at_once(cast("Sequence[bytes]", iterable))
        if not isinstance(iterable, Iterable) and not hasattr(iterable, "__getitem__"):
            raise WsgiViolation(f"the app returned {type(iterable).__name__}, not an iterable")
        self._stream(cast("Iterable[bytes]", iterable))
        return []

    def _respond_at_once(self, chunks: Sequence[bytes]) -> list[Message]:
        for chunk in chunks:
            _check_chunk(chunk)
        head = self._require_head()
        total = sum(map(len, chunks))
        length = head.content_length
        if self._bodiless(head):
            # Without data it is unknown what GET would have answered to this HEAD.
            known = total if total and not head.bodiless and length is None else None
            self._warn_of_body(head, dropped=total)
            return [self._start(head, known), body_message(b"", last=True)]
        if length is not None and total != length:
            self._sent_bytes = min(total, length)
            if total < length:
                # Nothing has gone out: better a 500 than a response that breaks off.
                raise WsgiViolation(f"not enough body: {self._account()}")
            self._report_excess()
            chunks = [b"".join(chunks)[:length]]
            total = length
        start = self._start(head, total if length is None else None)
        if total <= MAX_DETACHED_BYTES:
            return [start, body_message(b"".join(chunks), last=True)]
        bodies = [body_message(chunk, last=False) for chunk in chunks if chunk]
        bodies[-1]["more_body"] = False
        self._head_sent = self._complete = True
        self._transmit([start, *bodies], last=True)
        return []

    def _stream(self, iterable: Iterable[bytes]) -> None:
        """Send each chunk before asking for the next, the headers with the first that has bytes.

        Once ``Content-Length`` is reached the response is ended, and then the iterable is asked
        once more: code behind the last `yield`, which removes a temporary file, say, would never
        run otherwise.  Only what comes after that is refused.
        """
        alone = not self._head_sent and _length_of(iterable) == 1
        for chunk in iterable:
            _check_chunk(chunk)
            if not chunk:
                continue
            if self._complete:
                excess = not self._bodiless(self._require_head())
            else:
                excess = self._send_chunk(chunk, alone=alone)
            if isinstance(iterable, FileWrapper):
                excess = False  # a byte range: the file goes on, the response does not
                if self._complete:
                    break
            if excess:
                self._report_excess()
            if excess or self._bodiless(self._require_head()):
                break
        if not self._complete:
            self._end()

    def _send_chunk(self, data: bytes, *, alone: bool = False) -> bool:
        """Send `data`, cut to ``Content-Length``; return whether it had to be cut.

        `alone` says that it is the whole body, so that its length can be told (PEP 3333,
        "Handling the Content-Length Header").
        """
        head = self._require_head()
        length = head.content_length
        if self._bodiless(head):
            self._warn_of_body(head, dropped=len(data))
            known = len(data) if alone and not head.bodiless else None
            self._emit(b"", last=True, length=known)
            return False
        if length is None:
            self._emit(data, last=alone, length=len(data) if alone else None)
            return False
        room = length - self._sent_bytes
        self._emit(data[:room], last=len(data) >= room)
        return len(data) > room

    def _end(self) -> None:
        """End a response whose iterable is exhausted."""
        head = self._require_head()
        length = head.content_length
        if self._bodiless(head):
            self._emit(b"", last=True)
        elif length is not None and self._sent_bytes < length:
            raise WsgiViolation(f"not enough body: {self._account()}")
        else:
            self._emit(b"", last=True, length=0)

    def _emit(self, data: bytes, *, last: bool, length: int | None = None) -> None:
        """Transmit `data`, and before it the headers if they have not been sent yet.

        `length`, if known, becomes their ``Content-Length`` unless the app has given one.
        """
        messages = []
        if not self._head_sent:
            messages.append(self._start(self._require_head(), length))
            self._head_sent = True
        if data or last:
            messages.append(body_message(data, last=last))
        self._sent_bytes += len(data)
        self._complete = last
        if messages:
            self._transmit(messages, last=last)

    def _start(self, head: Head, length: int | None) -> Message:
        headers = list(head.headers)
        if length is not None and head.content_length is None and not head.bodiless:
            headers.append((b"content-length", b"%d" % length))
        return start_message(head.status, headers)

    def _require_head(self) -> Head:
        if self._head is None:
            raise WsgiViolation("the app has not called start_response, or it raised an error")
        return self._head

    def _bodiless(self, head: Head) -> bool:
        return self._method == "HEAD" or head.bodiless

    def _warn_of_body(self, head: Head, *, dropped: int) -> None:
        if dropped and head.bodiless:
            logger.warning("dropped a body: a response with status %d has none", head.status)

    def _report_excess(self) -> None:
        logger.error("cut off the end of a response: %s", self._account())

    def _account(self) -> str:
        length = self._require_head().content_length
        if length is None:
            return f"len() of the app's iterable promised one item, {self._sent_bytes} bytes"
        return f"Content-Length is {length} bytes, {self._sent_bytes} of them sent"


def _check_chunk(chunk: object) -> None:
    if not isinstance(chunk, bytes):
        raise WsgiViolation(f"a part of the body must be bytes, not {type(chunk).__name__}")


def _length_of(iterable: Any) -> int | None:
    """Return ``len(iterable)`` if it has one; PEP 3333 makes apps answer for its being right."""
    try:
        return len(iterable)
    except TypeError, AttributeError, NotImplementedError:
        return None
