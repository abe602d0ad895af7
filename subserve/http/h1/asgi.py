"""One HTTP/1 request as an ASGI app sees it (ASGI 3, HTTP spec version 2.3)."""

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from subserve.http.exchange import App, ClientGone, Message, ends_task, is_client_gone, mount
from subserve.http.h1.files import send_file
from subserve.http.h1.framing import Framing
from subserve.http.h1.response import CONTINUE, ResponseHead, error_response
from subserve.scoreboard import Counter

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection
    from subserve.http.h1.states import Wishes

log = logging.getLogger("subserve.app")

WRITES_PER_TURN: Final = 16
"""How often in a row an app may write without a turn of the event loop: a client that reads as fast
as an app writes would have the loop for itself."""

_STARTED = int(Counter.REQUESTS_STARTED)
_FINISHED = int(Counter.REQUESTS_FINISHED)

_SPEC_VERSION: Final = "2.3"
"""With 2.4 and above Starlette does not listen for `http.disconnect` while it streams, so that an
event stream that has nothing to send would not end when its client leaves, or at a drain."""


class AsgiRequest:
    """Runs the app for one request.  `app`, and all else that it needs, is its connection's."""

    # Defaults of the class, not set for each request: most of them never change.
    _pieces: list[bytes] | None = None
    _unread_bytes = 0
    _body_complete = False
    _body_delivered = False
    _gone = False
    _ended_at_drain = False
    _news: asyncio.Event | None = None
    _writes = 0
    _started_at = 0.0
    _logged: dict[str, Any]

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
        headers: list[tuple[bytes, bytes]],
        length: int,
        wishes: Wishes,
    ) -> None:
        self._app = app
        self._connection = connection
        self._framing = Framing(method, version, connection.lane.whole_response)
        self._expect_continue = wishes.expect_continue
        self._trailers_accepted = wishes.trailers
        lane = connection.lane
        extensions: dict[str, Any] = {
            "http.response.early_hint": {},
            "http.response.pathsend": {},
        }
        if self._trailers_accepted:
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
            "headers": headers,
            "client": connection.client,
            "server": connection.server,
            "state": state.copy(),
            "extensions": extensions,
        }
        if connection.root_path:
            mount(scope, connection.root_path)
        if lane.access is not None:
            self._started_at = time.monotonic()
            self._logged = scope.copy()  # the app may do with its own what it likes

    # ---- the connection's side

    @property
    def unread_bytes(self) -> int:
        """How much of the body waits for the app."""
        return self._unread_bytes

    def feed(self, piece: bytes) -> None:
        """Take a part of the body in; drop it once nobody will ask for it."""
        if not self._framing.finished:
            if self._pieces is None:
                self._pieces = []
            self._pieces.append(piece)
            self._unread_bytes += len(piece)
            self._tell()

    def body_ended(self) -> None:
        """Take note that the body is complete."""
        self._body_complete = True
        if self._news is not None:
            self._news.set()

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
        if self._framing.begun:
            return False
        self._framing.begun = self._framing.finished = True
        connection = self._connection
        connection.write(error_response(status, connection.lane.date))
        self._log(status, 0, b"")
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
            if not self._framing.finished:
                await self._end_for_the_app()
        except BaseException as error:  # noqa: BLE001  logged in `_failed`
            # sys.exit() in a handler must not reach the event loop, and end it.
            await self._failed(error)
        finally:
            cells[_FINISHED] += 1

    async def _end_for_the_app(self) -> None:
        if self._ended_at_drain and self._framing.begun:
            # To the app its client has gone; to the client this is the end, not a broken response.
            await self._send_body(b"", more=False)
        elif not self._gone:
            if self._framing.started:
                self._framing.check()
            scope = self._scope
            log.error("%s %s: the app returned too early", scope.get("method"), scope.get("path"))
            self._answer_500()
        else:
            self._cut_short()  # one that has only shut down its side would wait for ever

    async def _failed(self, error: BaseException) -> None:
        if ends_task(error, asyncio.current_task()):
            self._cut_short()
            raise error
        if is_client_gone(error):
            log.debug("%s: the client has gone", self._scope.get("path"))
            self._cut_short()
            return
        log.error(
            "%s %s failed: %s",
            self._scope.get("method"),
            self._scope.get("path"),
            type(error).__name__,
            exc_info=error,
        )
        self._answer_500()

    def _answer_500(self) -> None:
        """Answer 500, or cut a response short that has begun."""
        framing = self._framing
        if framing.finished:
            return
        if framing.begun or self._connection.gone:
            self._cut_short()
            return
        framing.restart()
        framing.start(500, [(b"content-type", b"text/plain; charset=utf-8")])
        self._write_whole(b"Internal Server Error\n")

    def _cut_short(self) -> None:
        framing = self._framing
        if not framing.finished:
            framing.finished = True
            self._connection.break_off(reset=framing.begun and not framing.self_delimiting)

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client has gone, waiting for it."""
        framing = self._framing
        while not self._body_delivered:
            if self._pieces or self._body_complete:
                return self._next_part()
            if self._gone or framing.finished:
                return {"type": "http.disconnect"}
            if self._expect_continue:
                self._expect_continue = False
                self._connection.write(CONTINUE)
            await self._wait()
        while not (self._gone or framing.finished):
            if self._connection.lane.draining and framing.event_stream:
                # It has no end of its own, and its client reconnects by itself.
                self._ended_at_drain = True
                break
            await self._wait()
        return {"type": "http.disconnect"}

    def _next_part(self) -> Message:
        pieces = self._pieces or (b"",)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = None
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
        kind = message["type"]
        if kind == "http.response.start":
            trailers = message.get("trailers", False) and self._trailers_accepted
            self._framing.start(message["status"], message.get("headers", ()), trailers=trailers)
        elif kind == "http.response.body":
            body = message.get("body", b"")
            if message.get("more_body", False) or self._framing.begun:
                await self._send_body(body, more=message.get("more_body", False))
            else:
                self._write_whole(body)
        elif kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.pathsend":
            await self._send_path(message["path"])
        elif kind == "http.response.early_hint":
            self._send_early_hint(message.get("links", ()))
        else:
            raise RuntimeError(f"no message of a response: {kind!r}")

    def _write_whole(self, body: bytes) -> None:
        """Send a response that is complete: head and body in one write."""
        connection = self._connection
        framing = self._framing
        parts = framing.whole(body, keep_alive=self._may_keep_alive, date=connection.lane.date)
        if not connection.lost:
            if len(parts) == 1:
                connection.write(parts[0])
            else:
                connection.write_parts(parts)
        if framing.finished:
            self._finish()

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        connection = self._connection
        framing = self._framing
        parts = framing.part(
            body, more=more, keep_alive=self._may_keep_alive, date=connection.lane.date
        )
        if not connection.gone:
            if len(parts) == 1:
                connection.write(parts[0])
            else:
                connection.write_parts(parts)
        elif more:
            raise ClientGone
        if framing.finished:
            self._finish()
        else:
            await self._flow()

    @property
    def _may_keep_alive(self) -> bool:
        connection = self._connection
        if self._expect_continue and connection.body_pending:
            # The client waits for leave to send its body, or has begun to: nobody knows.
            return False
        return connection.may_keep_alive

    async def _flow(self) -> None:
        """Wait until the client has room, and let others have their turn now and then."""
        connection = self._connection
        if (writable := connection.writable) is not None:
            await writable.wait()
            if connection.gone:
                raise ClientGone
        else:
            self._writes += 1
            if self._writes % WRITES_PER_TURN == 0:
                await asyncio.sleep(0)

    def _send_trailers(self, message: Message) -> None:
        framing = self._framing
        data = framing.trailers(
            message.get("headers", ()), more=message.get("more_trailers", False)
        )
        if not self._connection.gone:
            self._connection.write(data)
        if framing.finished:
            self._finish()

    async def _send_path(self, path: str) -> None:
        """Send a file as the body (ASGI extension http.response.pathsend)."""
        connection = self._connection
        framing = self._framing
        if not framing.started or framing.begun:
            raise RuntimeError("http.response.pathsend in the middle of a response")
        with open(path, "rb") as file:  # noqa: ASYNC230  its blocks are read where they are sent
            size = os.fstat(file.fileno()).st_size
            head = framing.head_alone(
                size, keep_alive=self._may_keep_alive, date=connection.lane.date
            )
            if connection.gone:
                framing.finished = True
                return
            connection.write(head)
            if not framing.bodiless and size:
                await send_file(connection, file, size)
        framing.size = size
        framing.finished = True
        self._finish()

    def _send_early_hint(self, links: Iterable[bytes]) -> None:
        """Send 103 (RFC 8297); HTTP/1.0 has no interim responses."""
        if self._framing.begun:
            raise RuntimeError("http.response.early_hint in the middle of a response")
        head = ResponseHead(103, [(b"link", link) for link in links])
        if self._scope.get("http_version") == "1.1" and not self._connection.gone:
            self._connection.write(head.lines + b"\r\n")

    def _finish(self) -> None:
        framing = self._framing
        connection = self._connection
        if connection.lane.access is not None:
            self._log(framing.head.status, framing.size, framing.head.lines)
        if connection.request is self:
            connection.response_ended(keep_alive=not framing.close)
        self._pieces = None
        if self._news is not None:
            self._news.set()

    def _log(self, status: int, size: int, lines: bytes) -> None:
        access = self._connection.lane.access
        if access is not None:
            access.write(self._logged, status, lines, size, time.monotonic() - self._started_at)
