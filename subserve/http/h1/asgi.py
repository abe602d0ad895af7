"""One HTTP/1 request as an ASGI app sees it (ASGI 3, HTTP spec version 2.3)."""

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from subserve.http.exchange import App, ClientGone, Message, ends_task, is_client_gone, mount
from subserve.http.h1.files import send_file
from subserve.http.h1.response import (
    CHUNKED,
    CLOSE,
    CONTINUE,
    KEEP_ALIVE,
    ResponseHead,
    error_response,
)
from subserve.scoreboard import Counter

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection
    from subserve.http.h1.head import Fields

log = logging.getLogger("subserve.app")

WRITES_PER_TURN: Final = 16
"""How often in a row an app may write without a turn of the event loop: a client that reads as fast
as an app writes would have the loop for itself."""

LARGE_BYTES: Final = 16 * 1024
"""From here on a body is not copied behind its head, but written beside it."""

_STARTED = int(Counter.REQUESTS_STARTED)
_FINISHED = int(Counter.REQUESTS_FINISHED)

_SPEC_VERSION: Final = "2.3"
"""With 2.4 and above Starlette does not listen for `http.disconnect` while it streams, so that an
event stream that has nothing to send would not end when its client leaves, or at a drain."""


class AsgiRequest:
    """Runs the app for one request.  `app`, and all else that it needs, is its connection's."""

    __slots__ = (
        "_app",
        "_begun",
        "_bodiless",
        "_body_complete",
        "_body_delivered",
        "_chunked",
        "_close",
        "_connection",
        "_ended_at_drain",
        "_expect_continue",
        "_fields",
        "_finished",
        "_gone",
        "_head",
        "_news",
        "_pieces",
        "_scope",
        "_sent_bytes",
        "_started_at",
        "_trailer_lines",
        "_trailers",
        "_unread_bytes",
        "_version",
        "_writes",
    )

    def __init__(
        self,
        app: App,
        state: dict[str, Any],
        connection: Connection,
        method: str,
        path: str,
        raw_path: bytes,
        query: bytes,
        version: str,
        fields: Fields,
    ) -> None:
        self._app = app
        self._connection = connection
        self._fields = fields
        self._version = version
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._body_complete = False
        self._body_delivered = False
        self._expect_continue = fields.expect_continue
        self._head: ResponseHead | None = None
        self._trailers = False
        self._trailer_lines = b""
        self._begun = False
        self._finished = False
        self._gone = False
        self._ended_at_drain = False
        self._news: asyncio.Event | None = None
        self._sent_bytes = 0
        self._writes = 0
        lane = connection.lane
        extensions: dict[str, Any] = {
            "http.response.early_hint": {},
            "http.response.pathsend": {},
        }
        if fields.trailers_accepted and version == "1.1":
            extensions["http.response.trailers"] = {}
        if connection.tls is not None:
            extensions["tls"] = connection.tls.copy()
        self._scope = scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": _SPEC_VERSION},
            "http_version": version,
            "method": method,
            "scheme": connection.scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(fields.headers),
            "client": connection.client,
            "server": connection.server,
            "state": state.copy(),
            "extensions": extensions,
        }
        if lane.root_path:
            mount(scope, lane.root_path)
        if lane.access is not None:
            self._started_at = time.monotonic()

    # ---- the connection's side

    @property
    def unread_bytes(self) -> int:
        """How much of the body waits for the app."""
        return self._unread_bytes

    def feed(self, piece: bytes) -> None:
        """Take a part of the body in; drop it once nobody will ask for it."""
        if not self._finished:
            self._pieces.append(piece)
            self._unread_bytes += len(piece)
            self._tell()

    def body_ended(self) -> None:
        """Take note that the body is complete."""
        self._body_complete = True
        self._tell()

    def start(self) -> None:
        """Run the app, at once, as far as it goes without waiting."""
        self._connection.lane.run(self._run())

    def client_left(self) -> None:
        """Take note that no more will come from the client, or that it has gone."""
        self._gone = True
        self._tell()

    def drain(self) -> None:
        """Wake an event stream, which ends at a drain."""
        self._tell()

    def refuse(self, status: int) -> bool:
        """Answer `status` in the app's place; False where its response has begun."""
        if self._begun:
            return False
        self._begun = self._finished = True
        connection = self._connection
        connection.write(error_response(status, connection.lane.clock.line()))
        self._log(status, 0)
        return True

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _wait(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        self._news.clear()
        await self._news.wait()

    # ---- the app's side

    async def _run(self) -> None:
        cells = self._connection.lane.row.cells
        cells[_STARTED] += 1
        try:
            await self._app(self._scope, self.receive, self.send)
            if not self._finished:
                await self._end_for_the_app()
        except BaseException as error:  # noqa: BLE001  logged in `_failed`
            # sys.exit() in a handler must not reach the event loop, and end it.
            await self._failed(error)
        finally:
            cells[_FINISHED] += 1

    async def _end_for_the_app(self) -> None:
        if self._ended_at_drain and self._begun:
            # To the app its client has gone; to the client this is the end, not a broken response.
            await self._send_part(b"", more=False)
        elif not self._gone:
            scope = self._scope
            log.error("%s %s: the app returned too early", scope["method"], scope["path"])
            self._answer_500()

    async def _failed(self, error: BaseException) -> None:
        if ends_task(error, asyncio.current_task()):
            if not self._finished:
                self._connection.break_off(reset=not self._has_end)
            raise error
        if is_client_gone(error):
            log.debug("%s: the client has gone", self._scope["path"])
            self._cut_short()
            return
        log.error(
            "%s %s failed: %s",
            self._scope["method"],
            self._scope["path"],
            type(error).__name__,
            exc_info=error,
        )
        self._answer_500()

    def _answer_500(self) -> None:
        """Answer 500, or cut a response short that has begun."""
        if self._finished:
            return
        if self._begun or self._connection.lost:
            self._cut_short()
            return
        self._head = None
        text = b"Internal Server Error\n"
        self._begin(500, [(b"content-type", b"text/plain; charset=utf-8")], trailers=False)
        self._send_whole(text)

    def _cut_short(self) -> None:
        if not self._finished:
            self._finished = True
            self._connection.break_off(reset=not self._has_end)

    @property
    def _has_end(self) -> bool:
        """Whether the client can tell a complete response from one that was cut short."""
        return self._chunked or (self._head is not None and self._head.length is not None)

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client has gone, waiting for it."""
        while not self._body_delivered:
            if self._pieces or self._body_complete:
                return self._next_part()
            if self._gone or self._finished:
                return {"type": "http.disconnect"}
            if self._expect_continue:
                self._expect_continue = False
                self._connection.write(CONTINUE)
            await self._wait()
        while not (self._gone or self._finished):
            if self._connection.lane.draining and self._head and self._head.event_stream:
                # It has no end of its own, and its client reconnects by itself.
                self._ended_at_drain = True
                break
            await self._wait()
        return {"type": "http.disconnect"}

    def _next_part(self) -> Message:
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread_bytes = 0
        self._body_delivered = self._body_complete
        if not self._body_complete:
            self._connection.read_on()
        return {"type": "http.request", "body": body, "more_body": not self._body_complete}

    async def send(self, message: Message) -> None:
        """Take a part of the response, and wait where the client is slow to read.

        Raises `ClientGone` for more of a response that nobody reads, `RuntimeError` for a message
        that is out of turn, `ValueError` for one that is not valid.
        """
        match message["type"]:
            case "http.response.body":
                body = message.get("body", b"")
                more = message.get("more_body", False)
                if not (more or self._begun or self._trailers or self._head is None):
                    self._send_whole(body)
                    return
                await self._send_part(body, more=more)
            case "http.response.start":
                self._begin(
                    message["status"],
                    message.get("headers", ()),
                    trailers=message.get("trailers", False),
                )
            case "http.response.trailers":
                self._send_trailers(
                    message.get("headers", ()), more=message.get("more_trailers", False)
                )
            case "http.response.pathsend":
                await self._send_path(message["path"])
            case "http.response.early_hint":
                self._send_early_hint(message.get("links", ()))
            case other:
                raise RuntimeError(f"no message of a response: {other!r}")

    def _begin(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], *, trailers: bool
    ) -> None:
        if self._head is not None or self._finished:
            raise RuntimeError("http.response.start was sent before")
        if status < 200:
            raise ValueError(f"not the status of a response: {status}")
        self._head = head = ResponseHead(status, headers)
        self._bodiless = self._scope["method"] == "HEAD" or status == 204 or status == 304
        self._chunked = False
        self._trailers = trailers and self._fields.trailers_accepted and self._version == "1.1"
        if status == 204:
            head.length = None  # RFC 9110, section 8.6

    def _send_whole(self, body: bytes) -> None:
        """Send a response that is complete: head and body in one write."""
        head = self._head
        assert head is not None
        size = len(body)
        connection = self._connection
        length = head.length
        if self._bodiless:
            if length is None and size and head.status not in {204, 304}:
                length = size  # what GET would have answered to this HEAD
            body = b""
        elif length is None:
            length = size
        elif length != size:
            raise RuntimeError(f"a body of {size} bytes, where content-length says {length}")
        if connection.lost:
            self._finished = True
            return
        keep_alive = self._may_keep_alive
        parts = [
            head.lines,
            b"" if head.dated else connection.lane.clock.line(),
            b"" if length is None else b"content-length: %d\r\n" % length,
            (b"\r\n" if self._version == "1.1" else KEEP_ALIVE + b"\r\n")
            if keep_alive
            else CLOSE + b"\r\n",
            body,
        ]
        if size < LARGE_BYTES:
            connection.write(b"".join(parts))
        else:
            connection.write_parts([b"".join(parts[:4]), body])
        self._begun = True
        self._finish(size, keep_alive=keep_alive)

    @property
    def _may_keep_alive(self) -> bool:
        connection = self._connection
        if self._expect_continue and connection.body_pending:
            # The client waits for leave to send its body, or has begun to: nobody knows.
            return False
        assert self._head is not None
        return connection.may_keep_alive and not self._head.close

    def _write_head(self, *, ends_here: bool) -> bytes:
        """Return the head of a response whose body comes in parts, and settle how it will end."""
        head = self._head
        assert head is not None
        connection = self._connection
        self._begun = True
        framing = b""
        if head.length is not None:
            framing = b"content-length: %d\r\n" % head.length
        elif not self._bodiless:
            if ends_here and not self._trailers:
                head.length = 0
                framing = b"content-length: 0\r\n"
            elif self._version == "1.1":
                self._chunked = True
                framing = CHUNKED
            else:
                head.close = True
        self._close = not self._may_keep_alive
        if self._close:
            framing += CLOSE
        elif self._version == "1.0":
            framing += KEEP_ALIVE
        date = b"" if head.dated else connection.lane.clock.line()
        return b"".join((head.lines, date, framing, b"\r\n"))

    async def _send_part(self, body: bytes, *, more: bool) -> None:
        if self._head is None or self._finished:
            raise RuntimeError("http.response.body without a response that has begun")
        connection = self._connection
        if connection.lost:
            if more:
                raise ClientGone
            self._finished = True
            return
        size = len(body)
        self._count(size, last=not more)
        parts = []
        if not self._begun:
            parts.append(self._write_head(ends_here=not more and not size))
        if size and not self._bodiless:
            if self._chunked:
                parts += (b"%x\r\n" % size, body, b"\r\n")
            else:
                parts.append(body)
        if not more and self._chunked and not self._trailers:
            parts.append(b"0\r\n\r\n")
        if size < LARGE_BYTES:
            connection.write(b"".join(parts))
        else:
            connection.write_parts(parts)
        if not more and not self._trailers:
            self._finish(self._sent_bytes, keep_alive=not self._close)
            return
        await self._flow()

    def _count(self, size: int, *, last: bool) -> None:
        """Hold the body against its content-length."""
        assert self._head is not None
        length = self._head.length
        self._sent_bytes += size
        if length is None or self._bodiless:
            return
        if self._sent_bytes > length or (last and self._sent_bytes < length):
            raise RuntimeError(
                f"a body of {self._sent_bytes} bytes, where content-length says {length}"
            )

    async def _flow(self) -> None:
        """Wait until the client has room, and let others have their turn now and then."""
        connection = self._connection
        if (writable := connection.writable) is not None:
            await writable.wait()
            if connection.lost:
                raise ClientGone
        else:
            self._writes += 1
            if self._writes % WRITES_PER_TURN == 0:
                await asyncio.sleep(0)

    def _send_trailers(self, headers: Iterable[tuple[bytes, bytes]], *, more: bool) -> None:
        if not self._trailers or self._finished or not self._begun:
            raise RuntimeError("http.response.trailers without a response that announced them")
        self._trailer_lines += ResponseHead(200, headers).lines.partition(b"\r\n")[2]
        if more:
            return
        if self._chunked and not self._connection.lost:
            self._connection.write(b"0\r\n" + self._trailer_lines + b"\r\n")
        self._finish(self._sent_bytes, keep_alive=not self._close)

    async def _send_path(self, path: str) -> None:
        """Send a file as the body (ASGI extension http.response.pathsend)."""
        if self._head is None or self._begun:
            raise RuntimeError("http.response.pathsend in the middle of a response")
        connection = self._connection
        with open(path, "rb") as file:  # noqa: ASYNC230  its blocks are read where they are sent
            size = os.fstat(file.fileno()).st_size
            if self._head.length is None:
                self._head.length = size
            self._count(size, last=True)
            if connection.lost:
                self._finished = True
                return
            connection.write(self._write_head(ends_here=True))
            if not self._bodiless and size:
                await send_file(connection, file, size)
        self._finish(size, keep_alive=not self._close)

    def _send_early_hint(self, links: Iterable[bytes]) -> None:
        """Send 103 (RFC 8297); HTTP/1.0 has no interim responses."""
        if self._begun:
            raise RuntimeError("http.response.early_hint in the middle of a response")
        head = ResponseHead(103, [(b"link", link) for link in links])
        if self._version == "1.1" and not self._connection.lost:
            self._connection.write(head.lines + b"\r\n")

    def _finish(self, size: int, *, keep_alive: bool) -> None:
        self._finished = True
        connection = self._connection
        assert self._head is not None
        self._log(self._head.status, size)
        self._pieces.clear()
        if connection.request is self:
            connection.response_ended(keep_alive=keep_alive)
        self._tell()

    def _log(self, status: int, size: int) -> None:
        access = self._connection.lane.access
        if access is not None:
            lines = self._head.lines if self._head is not None else b""
            seconds = time.monotonic() - self._started_at
            access.write(self._scope, status, lines, size, seconds)
