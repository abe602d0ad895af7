"""One HTTP/2 request as an ASGI app sees it (ASGI 3, HTTP spec version 2.3).

Interpreter: the worker's.  Thread: the loop's.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from subserve.http.exchange import ClientGone, Message
from subserve.http.h2 import answers
from subserve.http.h2.frames import CANCEL, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR

if TYPE_CHECKING:
    from subserve.http.h2.connection import Connection
    from subserve.http.h2.fields import Head

log = logging.getLogger("subserve.http")

WRITES_PER_TURN: Final = 16
"""How often in a row an app may write without a turn of the event loop."""

MAX_DISCARDED_BYTES: Final = 32 * 1024
"""How much of a body that nobody wants is taken before its stream is reset."""

MIN_PROGRESS_BYTES: Final = 1024
"""What a client has to take of a response within the write time-out: one that opens its window by
single bytes makes no progress (CVE-2026-49975)."""

_SPEC_VERSION: Final = "2.3"
"""See `subserve.http.h1.asgi`."""

_INTERNAL_SERVER_ERROR: Final = b"Internal Server Error\n"


class Stream:
    """A request and its response.  What it needs of the others is its connection's."""

    # Defaults of the class, not set for each stream: most of them never change.
    _news: asyncio.Event | None = None
    _block: answers.Block | None = None
    _trailers = False
    _trailer_block = b""
    _lines = b""  # of the response's head, for the access log
    _delivered = False
    _writes = 0
    _size = 0
    _progress = 0
    _discarded = 0
    begun = False
    """Whether the head of the response is out."""
    finished = False
    """Whether all of the response is out, but for what is `pending`."""
    gone = False
    """Whether nothing can be sent any more: it was reset, or its client has left."""
    body_ended = False
    pending: memoryview = memoryview(b"")
    """What of the response waits for the client's window."""
    ends_with_pending = False
    pending_since = 0.0
    """When the client last took a good part of what is pending, as the lane tells the time."""

    def __init__(self, connection: Connection, number: int, head: Head) -> None:
        self._connection = connection
        self.number = number
        self._bodiless = head.method == "HEAD"
        self._length = head.length
        self._received = 0
        self._body = bytearray()
        self._expect_continue = head.expect_continue
        self._trailers_accepted = head.trailers
        lane = connection.lane
        self.body_since = lane.now
        extensions: dict[str, Any] = {"http.response.early_hint": {}}
        if head.trailers:
            extensions["http.response.trailers"] = {}
        if connection.tls is not None:
            extensions["tls"] = connection.tls.copy()
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": _SPEC_VERSION},
            "http_version": "2",
            "method": head.method,
            "scheme": connection.scheme,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": connection.client,
            "server": connection.server,
            "state": lane.state.copy(),
            "extensions": extensions,
        }
        self._started_at = time.monotonic() if lane.access is not None else 0.0

    async def run(self) -> None:
        """Run the app, and see to it that the stream ends."""
        connection = self._connection
        try:
            await connection.lane.exchanges(self._scope, self.receive, self.send)
        except BaseException:
            # Cancelled: there is no time left for anything else.
            self.reset(CANCEL)
            raise
        finally:
            connection.app_ended()
        if not (self.finished or self.gone):
            if self.begun:
                self.reset(INTERNAL_ERROR)
            else:
                self._answer_500()

    # ---- the connection's side

    def feed(self, data: bytes, flow_bytes: int) -> None:
        """Take a part of the body in; `flow_bytes` is what it counts for, with its padding."""
        connection = self._connection
        self._received += len(data)
        self.body_since = connection.lane.now
        if 0 <= self._length < self._received:
            connection.acknowledge(self.number, flow_bytes)
            self.reset(PROTOCOL_ERROR)
        elif self.finished:
            connection.acknowledge(self.number, flow_bytes)
            self._discarded += flow_bytes
            if self._discarded > MAX_DISCARDED_BYTES:
                self.reset(NO_ERROR)
        elif self._received > connection.lane.max_body_bytes:
            connection.acknowledge(self.number, flow_bytes)
            self.refuse(413)
        else:
            self._body += data
            if flow_bytes > len(data):
                connection.acknowledge(self.number, flow_bytes - len(data))
            self._tell()

    def end_body(self) -> None:
        """Take note that the body is complete."""
        if self._received < self._length:
            self.reset(PROTOCOL_ERROR)
            return
        self.body_ended = True
        self._tell()
        if self.over:
            self._connection.forget(self)

    def leave(self) -> None:
        """Take note that the client has reset the stream, or gone."""
        self.gone = True
        self._connection.acknowledge(self.number, len(self._body))
        self._body.clear()
        self._drop_pending()
        self._tell()

    def reset(self, code: int) -> None:
        """End the stream by RST_STREAM.  Idempotent."""
        if not self.gone:
            self._connection.reset(self.number, code)
            self.leave()
            self._connection.forget(self)

    def refuse(self, status: int) -> None:
        """Answer `status` in the app's place; where the response has begun, break it off."""
        if self.begun:
            self.reset(CANCEL)
            return
        self._block = answers.Block(status, (), self._connection.lane.date)
        self._log(status)
        self.begun = self.finished = True
        self._write_head(self._block, answers.length_field(0), end=True)
        self.reset(NO_ERROR)

    def end(self) -> None:
        """Take note that all that was pending is out, and that nothing more comes or goes."""
        self._connection.forget(self)

    def drain(self) -> None:
        """Do not wait for the rest of a body that nobody wants."""
        if self.finished and not self.pending:
            self.reset(NO_ERROR)

    def took(self, size: int) -> None:
        """Take note that `size` bytes of what was pending are out."""
        self.pending = self.pending[size:]
        self._progress += size
        if self._progress >= MIN_PROGRESS_BYTES or not self.pending:
            self._progress = 0
            self.pending_since = self._connection.lane.now
        if not self.pending:
            self._tell()

    @property
    def over(self) -> bool:
        """Whether nothing more comes or goes."""
        return self.finished and self.body_ended and not self.pending

    @property
    def waits_for_body(self) -> bool:
        """Whether it is the client's turn to send: the app has taken what had come."""
        return not (self.body_ended or self.gone or self._body)

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _wait(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        self._news.clear()
        await self._news.wait()

    # ---- the app's side

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client has gone, waiting for it."""
        while not self._delivered and not (self.gone or self.finished):
            if self._body or self.body_ended:
                return self._next_part()
            if self._expect_continue:
                self._expect_continue = False
                self._connection.send_block(
                    self.number, answers.status_field(100), informational=True
                )
            await self._wait()
        while not (self.gone or self.finished):
            await self._wait()
        return {"type": "http.disconnect"}

    def _next_part(self) -> Message:
        body = bytes(self._body)
        self._body.clear()
        self._delivered = self.body_ended
        self.body_since = self._connection.lane.now
        self._connection.acknowledge(self.number, len(body))
        return {"type": "http.request", "body": body, "more_body": not self.body_ended}

    async def send(self, message: Message) -> None:
        """Take a part of the response, and wait where the client is slow to take it.

        Raises `ClientGone` for more of a response that nobody reads, `RuntimeError` for a message
        that is out of turn, `ValueError` for one that is not valid.
        """
        kind = message["type"]
        if kind == "http.response.start":
            self._start(message)
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.early_hint":
            self._send_early_hint(message.get("links", ()))
        else:
            raise RuntimeError(f"no message of a response: {kind!r}")

    def _start(self, message: Message) -> None:
        if self._block is not None:
            raise RuntimeError("the response has been started before")
        status = message["status"]
        if status < 200:
            raise ValueError(f"not the status of a response: {status}")
        block = answers.Block(status, message.get("headers", ()), self._connection.lane.date)
        if status in answers.BODILESS:
            self._bodiless = True
            if status == 204:
                block.length = None  # RFC 9110, section 8.6
        self._block = block
        self._status = status
        if self._connection.lane.logs_headers:
            pairs = message.get("headers", ())
            self._lines = b"".join([b"\r\n%b: %b" % (name, value) for name, value in pairs])
        self._trailers = message.get("trailers", False) and self._trailers_accepted

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        block = self._block
        if block is None or (self.finished and not self.gone):
            raise RuntimeError("a part of a response that has not been started, or is over")
        if self.gone:
            if more:
                raise ClientGone
            return
        size = len(body)
        self._check_length(block, size, last=not more)
        last = not more and not self._trailers
        self._size += size
        if self._bodiless:
            body = b""
        if not self.begun:
            self.begun = True
            ends = last and not body
            self._write_head(block, self._length_field(block, size, last=last), end=ends)
            if body:
                self._connection.send_data(self, body, last=last)
        elif body or last:
            self._connection.send_data(self, body, last=last)
        if last:
            self._finish()
        else:
            await self._flow()

    def _check_length(self, block: answers.Block, size: int, *, last: bool) -> None:
        length, total = block.length, self._size + size
        if length is None or self._bodiless:
            return
        if total > length or (last and total < length):
            raise RuntimeError(f"a body of {total} bytes, where content-length says {length}")

    def _length_field(self, block: answers.Block, size: int, *, last: bool) -> bytes:
        length = block.length
        if length is None and last and self._status not in answers.BODILESS:
            # Of a HEAD that has sent nothing nobody knows what GET would have answered.
            length = size if size or not self._bodiless else None
        return b"" if length is None else answers.length_field(length)

    def _write_head(self, block: answers.Block, more: bytes, *, end: bool) -> None:
        self._connection.send_block(self.number, block.data + more, end=end)

    async def _flow(self) -> None:
        """Wait until the client has taken it, and let others have their turn now and then."""
        if self.pending:
            while self.pending and not self.gone:
                await self._wait()
            if self.gone:
                raise ClientGone
        else:
            self._writes += 1
            if self._writes % WRITES_PER_TURN == 0:
                await asyncio.sleep(0)

    def _send_trailers(self, message: Message) -> None:
        if not self._trailers or self.finished or not self.begun:
            raise RuntimeError("trailers without a response that has announced them")
        self._trailer_block += answers.trailers(message.get("headers", ()))
        if message.get("more_trailers", False):
            return
        if not self.gone:
            if self._trailer_block:
                self._connection.send_block(self.number, self._trailer_block, end=True)
            else:
                self._connection.send_data(self, b"", last=True)
        self._finish()

    def _send_early_hint(self, links: Iterable[bytes]) -> None:
        """Send 103 (RFC 8297)."""
        if self.begun:
            raise RuntimeError("http.response.early_hint in the middle of a response")
        block = answers.status_field(103)
        block += b"".join(answers.write_field(b"link", link) for link in links)
        if not self.gone:
            self._connection.send_block(self.number, block, informational=True)

    def _answer_500(self) -> None:
        self._bodiless = self._scope["method"] == "HEAD"
        headers = ((b"content-type", b"text/plain; charset=utf-8"),)
        self._block = answers.Block(500, headers, self._connection.lane.date)
        self._status = 500
        self._size = len(_INTERNAL_SERVER_ERROR)
        self.begun = True
        self._write_head(self._block, answers.length_field(self._size), end=self._bodiless)
        if not self._bodiless:
            self._connection.send_data(self, _INTERNAL_SERVER_ERROR, last=True)
        self._finish()

    def _finish(self) -> None:
        self.finished = True
        self._log(self._status)
        connection = self._connection
        connection.acknowledge(self.number, len(self._body))
        self._body.clear()
        connection.served += 1
        if self.over and not self.gone:
            connection.forget(self)
        elif connection.leaving:
            self.drain()
        self._tell()

    def _drop_pending(self) -> None:
        self._connection.drop_pending(self)
        self.pending = memoryview(b"")

    def _log(self, status: int) -> None:
        access = self._connection.lane.access
        if access is not None:
            seconds = time.monotonic() - self._started_at
            access.write(self._scope, status, self._lines + b"\r\n", self._size, seconds)
