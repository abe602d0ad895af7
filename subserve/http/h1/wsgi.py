"""One HTTP/1 request as a WSGI app sees it (PEP 3333).

The loop's thread reads the request, body included.  It runs a quick app by itself
(`http.wsgi.inline`); else a thread of the pool does, and writes the response to the socket, too.
What costs then is not the work but waking another thread, so a finished response is not even
reported: the loop sees it when the client sends its next request, or when it looks at the time.

Who may write when: while a request is in a pool thread's hands, and the transport has nothing left
to send, the thread writes to the descriptor; what the kernel does not take, and all else, goes
through the loop.  A descriptor is closed by the loop, and its number is soon that of another
connection: so the thread holds `write_lock` while it writes, and `client_left` takes it first.
The loop's own thread has the loop back for a moment, for the transport to hold a response back.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import unquote_to_bytes

from subserve.http.h1.framing import BODILESS, CLOSING, LARGE_BYTES, Framing
from subserve.http.h1.response import CONTINUE, error_response, status_line
from subserve.http.h1.states import Outcome
from subserve.http.wsgi.environ import connection_environ, fill, server_of
from subserve.http.wsgi.errors import ClientDisconnected, is_disconnect
from subserve.http.wsgi.files import FileWrapper
from subserve.http.wsgi.head import NO_CONTENT, Head
from subserve.http.wsgi.inline import Caller, Inline
from subserve.http.wsgi.messages import Message
from subserve.http.wsgi.pool import Pool
from subserve.http.wsgi.response import MAX_DETACHED_BYTES, Response
from subserve.http.wsgi.timeout import Watch, Watched
from subserve.scoreboard import Counter
from subserve.tls import wsgi_variables

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

    from subserve.http.h1.connection import Connection
    from subserve.http.h1.states import Wishes
    from subserve.http.wsgi.response import ExcInfo

log = logging.getLogger("subserve.app")

SPOOL_BYTES: Final = 256 * 1024
"""From here on a request's body waits on disk.  Not measured."""

LOOP_CHECK_INTERVAL: Final = 1.0
"""Seconds between looks of a waiting thread whether the loop has been closed under it."""

WARNING_INTERVAL: Final = 10.0
"""Seconds between two warnings that the queue is full."""

RETRY_AFTER: Final = b"retry-after: 1\r\n"

_STARTED = int(Counter.REQUESTS_STARTED)
_TAKEN = int(Counter.REQUESTS_TAKEN)
_FINISHED = int(Counter.REQUESTS_FINISHED)


class WsgiService:
    """What the requests of a worker share: the app, its threads, its counters."""

    def __init__(
        self,
        app: WSGIApplication,
        pool: Pool,
        inline: Inline | None = None,
        *,
        multiprocess: bool,
        max_queue: int,
        watch: Watch | None = None,
    ) -> None:
        self.app = app
        self.watch = watch
        self.pool = pool
        self.inline = inline
        self.multiprocess = multiprocess
        self.max_queue = max_queue
        self.warned_at = float("-inf")
        """When it was last logged that the queue is full, as the lane tells the time."""
        self.count_lock = threading.Lock()
        """Guards the counters that several threads write."""
        self.request = partial(WsgiRequest, self)
        """Makes a request that has not begun."""


class WsgiRequest:
    """Reads the body, queues for a thread, runs the app in it."""

    # Defaults of the class, not set for each request: most of them never change.
    _body: BinaryIO | None = None
    _body_complete = False
    _started = False
    _started_at = 0.0
    _fd = -1
    _direct = False
    _cut_off = False
    _status = 0
    _lines: bytes | None = None
    """The lines of the app's headers where they are unremarkable, without Content-Length."""
    _length = -1
    """What that says."""
    _dated = False
    _response: Response | None = None
    _framing: Framing | None = None
    _sent_whole = False
    _whole_size = -1
    """How many bytes of body went out with the head, in one piece, of what `_lines` begins."""
    _close = False
    _caller: Caller | None = None  # in the loop's thread
    _watched: Watched | None = None  # with --request-timeout

    def __init__(
        self,
        service: WsgiService,
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
        self._service = service
        self._connection = connection
        self._method = method
        self._path = path
        self._raw_path = raw_path
        self._query = query
        self._version = version
        self._headers = headers
        self._body_length = length
        self._wishes = wishes

    # ---- the loop's thread

    @property
    def unread_bytes(self) -> int:
        """Nothing waits for the app: the whole body is taken in before it begins."""
        return 0

    def feed(self, piece: bytes) -> None:
        """Take a part of the body in."""
        if self._body is None:
            small = 0 <= self._body_length <= SPOOL_BYTES
            self._body = BytesIO() if small else _spool()
        self._body.write(piece)

    def body_ended(self) -> None:
        """Take note that the body is complete."""
        self._body_complete = True
        if self._started:
            self._begin()

    def start(self) -> None:
        """Run the app, or queue for a thread, once the body is complete."""
        self._started = True
        if self._connection.lane.access is not None:
            self._started_at = time.monotonic()
        if self._body_complete:
            self._begin()
        elif self._wishes.expect_continue and self._body is None:
            self._connection.write(CONTINUE)

    def _begin(self) -> None:
        service = self._service
        connection = self._connection
        if service.pool.depth >= service.max_queue:
            self._turn_away()
            return
        transport = connection.transport
        if transport.get_write_buffer_size():
            connection.flush()
        self._direct = connection.tls is None and not transport.get_write_buffer_size()
        if connection.fd < 0:
            fd = transport.get_extra_info("fd")
            connection.fd = transport.get_extra_info("socket").fileno() if fd is None else fd
        self._fd = connection.fd
        connection.lane.row.cells[_STARTED] += 1
        inline = service.inline
        if inline is not None and self._direct and inline.take(self._run_here):
            if not self._timed_out:
                self._conclude()
                connection.settle()
        else:
            service.pool.put(self._run_aside)

    def _turn_away(self) -> None:
        connection = self._connection
        if connection.lane.now - self._service.warned_at >= WARNING_INTERVAL:
            self._service.warned_at = connection.lane.now
            log.warning(
                "all threads are busy and %d requests wait: answering 503; "
                "give --threads or --workers more, or let more wait with --max-queue",
                self._service.max_queue,
            )
        self._log(503, 0, b"")
        connection.write(error_response(503, RETRY_AFTER + connection.lane.date))
        connection.response_ended(keep_alive=False)

    def client_left(self) -> None:
        """Wait until the thread does not write: the descriptor is closed after this."""
        with self._connection.write_lock:
            self._direct = False

    def _time_out(self) -> None:
        """Answer 504, or cut short what has begun; the thread does not write any more."""
        connection = self._connection
        if connection.request is not self or connection.gone:
            return
        framing = self._framed()
        if framing.begun:
            self._log(framing.head.status, framing.size, framing.head.lines)
            connection.break_off(reset=not framing.self_delimiting)
            return
        self._log(504, 0, b"")
        connection.write(error_response(504, connection.lane.date))
        connection.response_ended(keep_alive=False)

    def drain(self) -> None:
        """Nothing to do: the thread looks whether the worker drains when it is done."""

    def refuse(self, status: int) -> bool:
        """Answer `status` in the app's place; False where it has begun."""
        if self._body_complete:
            return False
        connection = self._connection
        connection.write(error_response(status, connection.lane.date))
        self._log(status, 0, b"")
        return True

    # ---- the thread that runs the app: one of the pool's, or the loop's

    def _run_here(self) -> None:
        """Run the app in the loop's thread."""
        inline = self._service.inline
        assert inline is not None
        self._caller = inline.caller
        self._run()

    def _run_aside(self) -> None:
        """Run the app in a thread of the pool, and leave word how it ended."""
        try:
            self._run()
        finally:
            if not self._timed_out:
                self._conclude()
                self._report()

    def _run(self) -> None:
        service = self._service
        cells = self._connection.lane.row.cells
        with service.count_lock:
            cells[_TAKEN] += 1
        # What the app sets in a context variable is seen by this request only.
        self._connection.lane.context.copy().run(self._serve)
        with service.count_lock:
            cells[_FINISHED] += 1
        if self._body is not None:
            self._body.close()

    def _serve(self) -> None:
        if self._connection.lost:
            return  # its client has given up while it waited
        watch = self._service.watch
        try:
            rest = self._call_app() if watch is None else self._call_app_watched(watch)
            if type(rest) is bytes:
                self._write_whole(rest)
            elif rest:
                self._transmit(cast("list[Message]", rest), last=True)
        except BaseException as error:
            # BaseException: sys.exit() in a handler must not end the thread.
            if self._timed_out:
                log.debug("%s has ended after its time-out: %r", self._path, error)
                return
            if is_disconnect(error):
                self._cut_off = True
                log.debug("%s: the client has gone", self._path)
                return
            log.exception("%s %s failed: %s", self._method, self._path, type(error).__name__)
            self._answer_500()

    @property
    def _timed_out(self) -> bool:
        """Whether the connection is in the loop's hands."""
        return self._watched is not None and self._watched.timed_out

    def _call_app_watched(self, watch: Watch) -> bytes | list[Message]:
        """Do the same, but let nobody interrupt what it does for the server."""
        answer = partial(self._connection.lane.loop.call_soon_threadsafe, self._time_out)
        watched = self._watched = watch.request(f"{self._method} {self._path}", answer)
        self._response = Response(self._method, watched.guard(self._transmit))
        rest = watched.run(self._call_app)
        return [] if watched.timed_out else rest

    def _call_app(self) -> bytes | list[Message]:
        """Run the app from call to close; return what is still to be sent."""
        iterable = self._service.app(self._environ(), self._start_response)
        try:
            if self._lines is None or self._response is not None:
                return self._remarkable().respond(iterable)
            return self._respond(iterable)
        finally:
            close = getattr(iterable, "close", None)
            if close is not None:
                close()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], None]:
        """Take in what is unremarkable; `Response` says what the rest of it means."""
        if self._lines is None and self._response is None and not exc_info:
            found = self._connection.lane.wsgi_head(status, headers)
            if found is not None:
                self._status, self._lines, self._length, self._dated = found
                return self._write_part
        return self._remarkable().start_response(status, headers, exc_info)

    def _write_part(self, data: bytes, /) -> None:
        self._remarkable().write(data)

    def _remarkable(self) -> Response:
        """Return what knows of all there is in PEP 3333; from here on it is in charge."""
        if self._response is None:
            self._response = Response(self._method, self._transmit)
            if self._lines is not None:
                length = None if self._length < 0 or self._status == NO_CONTENT else self._length
                head = Head.from_lines(self._status, self._lines, length)
                self._response.take_over(head, self._whole_size if self._sent_whole else None)
        return self._response

    def _respond(self, iterable: Iterable[bytes]) -> bytes | list[Message]:
        """Return what is a whole response at once, or send what it is else."""
        if type(iterable) is list or type(iterable) is tuple:
            if len(iterable) == 1 and self._is_whole(iterable[0]):
                return self._frame(iterable[0])
            return self._remarkable().respond(iterable)
        if self._length < 0 or isinstance(iterable, FileWrapper):
            return self._remarkable().respond(iterable)
        # What frameworks make: an iterator, a Content-Length, and one part that is all.
        iterator = iter(iterable)
        first = b""
        for first in iterator:
            if first or type(first) is not bytes:
                break
        if self._response is None and self._is_whole(first):
            self._write_whole(self._frame(first))
            return self._remarkable().respond(iterator)
        return self._remarkable().respond(chain((first,), iterator))

    def _is_whole(self, body: bytes) -> bool:
        """Whether `body` completes the response, which then can go out in one piece."""
        return (
            type(body) is bytes
            and (self._length == len(body) or self._length < 0)
            and len(body) < LARGE_BYTES
            and self._method != "HEAD"
            and self._status not in BODILESS
        )

    def _frame(self, body: bytes) -> bytes:
        connection = self._connection
        keep_alive = connection.may_keep_alive
        size = len(body)
        self._close = not keep_alive
        lines = self._lines
        assert lines is not None
        data = b"".join(
            (
                status_line(self._status),
                lines,
                b"" if self._dated else connection.lane.date,
                b"content-length: %d\r\n" % size,
                CLOSING[keep_alive, self._version],
                body,
            )
        )
        self._whole_size = size
        return data

    def _environ(self) -> WSGIEnvironment:
        connection = self._connection
        base = connection.environ
        if base is None or base["SERVER_PROTOCOL"][5:] != self._version:
            base = connection.environ = connection_environ(
                connection.scheme,
                connection.client,
                connection.server,
                self._version,
                multiprocess=self._service.multiprocess,
            )
            if connection.tls is not None:
                base |= wsgi_variables(connection.tls)
        environ = base.copy()
        target = self._raw_path.decode("ascii")
        path = target
        if "%" in target:
            path = unquote_to_bytes(self._raw_path).decode("latin-1")
        elif target == "*":
            path = ""
        body = self._body
        if body is None:
            body = BytesIO()
        else:
            body.seek(0)
        fill(
            environ,
            self._method,
            target,
            path,
            self._query.decode("ascii"),
            connection.root_path,
            self._headers,
            cast("Any", body),
            connection.lane.add_headers,
        )
        if "SERVER_NAME" not in environ:
            host = environ.get("HTTP_HOST", "")
            environ["SERVER_NAME"], environ["SERVER_PORT"] = server_of(host, connection.scheme)
        return environ

    def _framed(self) -> Framing:
        if self._framing is None:
            lane = self._connection.lane
            self._framing = Framing(self._method, self._version, lane.whole_response)
        return self._framing

    def _answer_500(self) -> None:
        framing = self._framed()
        if framing.begun or self._sent_whole:
            return
        framing.restart()
        framing.start(500, [(b"content-type", b"text/plain; charset=utf-8")])
        try:
            self._write(self._whole(b"Internal Server Error\n"), last=True)
        except ClientDisconnected:
            self._cut_off = True
            log.debug("%s: the client has gone", self._path)

    def _transmit(self, messages: list[Message], *, last: bool) -> None:
        """Send what the app has answered; block while the client does not take it."""
        framing = self._framed()
        parts: list[bytes] = []
        for message in messages:
            if message["type"] == "http.response.start":
                framing.start(message["status"], message["headers"])
            elif framing.begun or message["more_body"]:
                parts += framing.part(
                    message["body"],
                    more=message["more_body"],
                    keep_alive=self._connection.may_keep_alive,
                    date=self._connection.lane.date,
                )
            else:
                parts += self._whole(message["body"])
        if parts:
            self._write(parts, last=last)

    def _whole(self, body: bytes) -> list[bytes]:
        connection = self._connection
        return self._framed().whole(
            body, keep_alive=connection.may_keep_alive, date=connection.lane.date
        )

    def _write_whole(self, data: bytes) -> None:
        """Write a response that is complete."""
        self._sent_whole = True
        connection = self._connection
        caller = self._caller
        if caller is not None and caller.take_back():
            try:
                connection.write(data)
            finally:
                caller.give_again()
            return
        sent = 0
        if self._direct:
            with connection.write_lock:
                if self._direct:
                    sent = self._write_directly(data)
                    connection.written += sent
        if sent < len(data):
            self._finish_writing(data[sent:], wait=False)

    def _write(self, parts: list[bytes], *, last: bool) -> None:
        """Write `parts`; raise `ClientDisconnected` where there is nobody left to read them."""
        connection = self._connection
        total = sum(map(len, parts))
        sent = 0
        if self._direct:
            with connection.write_lock:
                if self._direct:
                    sent = self._write_directly(*parts)
                    connection.written += sent
        if sent < total:
            rest = b"".join(parts)[sent:] if sent or len(parts) > 1 else parts[0]
            self._finish_writing(rest, wait=not last or len(rest) > MAX_DETACHED_BYTES)
        elif connection.lost:
            raise ClientDisconnected("the client has disconnected")

    def _write_directly(self, *parts: bytes) -> int:
        """Return how much the kernel has taken."""
        try:
            if len(parts) == 1:
                return self._connection.lane.send_now(self._fd, parts[0])
            return os.writev(self._fd, parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientDisconnected("the client has disconnected") from error

    def _finish_writing(self, data: bytes, *, wait: bool) -> None:
        """Have the loop write what the kernel does not take now; `wait` until it has."""
        connection = self._connection
        if connection.lost:
            raise ClientDisconnected("the client has disconnected")
        self._direct = False
        if not wait:
            connection.behind = True
            self._call(connection.write_behind, data)
            return
        taken = threading.Event()
        self._call(self._write_and_wait, data, taken)
        while not taken.wait(LOOP_CHECK_INTERVAL):
            if connection.lane.loop.is_closed():
                raise ClientDisconnected("the event loop is closed")
        if connection.lost:
            raise ClientDisconnected("the client has disconnected")
        self._direct = connection.tls is None

    def _write_and_wait(self, data: bytes, taken: threading.Event) -> None:
        """Write `data` in the loop's thread, and set `taken` when the client has taken it."""
        connection = self._connection

        async def write() -> None:
            try:
                if not connection.gone:
                    connection.write(data)
                    await connection.flushed()
            finally:
                taken.set()

        connection.lane.run(write())

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Have the loop's thread call `callback`."""
        lane = self._connection.lane
        try:
            lane.loop.call_soon_threadsafe(callback, *arguments, context=lane.context)
        except RuntimeError:
            raise ClientDisconnected("the event loop is closed") from None

    def _conclude(self) -> None:
        """Leave word how it ended, for whoever settles it."""
        connection = self._connection
        framing = self._framing
        if self._cut_off:
            finished = False
        elif self._sent_whole:
            finished = True
            if connection.lane.access is not None:
                lines = status_line(self._status) + (self._lines or b"")
                self._log(self._status, self._whole_size, lines)
        else:
            finished = framing is not None and framing.finished
        if framing is not None and framing.begun:
            self._close = framing.close
            if connection.lane.access is not None:
                self._log(framing.head.status, framing.size, framing.head.lines)
        if finished:
            connection.outcome = Outcome.CLOSE if self._close else Outcome.KEEP_ALIVE
        else:
            reset = framing is not None and framing.begun and not framing.self_delimiting
            connection.outcome = Outcome.RESET if reset else Outcome.BROKEN_OFF

    def _report(self) -> None:
        """Wake the loop where it has something to do now.

        In this order: the loop's thread changes what is looked at here before it looks for the
        outcome, so that one of the two sees what the other has done.
        """
        connection = self._connection
        if connection.outcome is not Outcome.KEEP_ALIVE or connection.wants_attention:
            try:
                self._call(connection.settle)
            except ClientDisconnected as error:
                log.debug("%s: %s", self._path, error)

    def _log(self, status: int, size: int, lines: bytes) -> None:
        connection = self._connection
        if connection.lane.access is not None:
            scope = {
                "headers": self._headers,
                "client": connection.client,
                "method": self._method,
                "path": self._path,
                "query_string": self._query,
                "http_version": self._version,
                "scheme": connection.scheme,
            }
            seconds = time.monotonic() - self._started_at
            connection.lane.access.write(scope, status, lines, size, seconds)


def _spool() -> BinaryIO:
    """Return a file that is in memory up to `SPOOL_BYTES`, and on disk beyond."""
    return cast("BinaryIO", tempfile.SpooledTemporaryFile(SPOOL_BYTES))
