"""One HTTP/1 connection: from bytes to requests, in order, and to its end.

Interpreter: the worker's.  Thread: the loop's, but for the methods of a request that say otherwise.

::

    IDLE -> HEAD -> ACTIVE -> IDLE ...          a request after the other
                      |
                      +-> LINGERING -> CLOSING  our last words are out, theirs are dropped
    IDLE, HEAD -> HANDED_OVER                   HTTP/2, WebSocket: another lane goes on
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Final, cast, override

from subserve import tls
from subserve.http.forwarded import Addresses, Client, Headers, Server, is_about_forwarding
from subserve.http.h1.chunked import ChunkedDecoder
from subserve.http.h1.discarding import MAX_DISCARDED_BYTES, Discarding
from subserve.http.h1.head import (
    HTTP2_PREFACE,
    VERSION_NOT_SUPPORTED,
    Fields,
    Refused,
    check_version,
    find_end,
    parse_fields,
    parse_request_line,
    parse_target,
)
from subserve.http.h1.response import error_response
from subserve.http.h1.states import NO_WISHES, Outcome, Request, State, Wishes

if TYPE_CHECKING:
    from subserve.http.h1.lane import Lane

log = logging.getLogger("subserve.http")

MAX_UNREAD_BYTES: Final = 64 * 1024
"""How much of a body, or of requests to come, waits in memory before reading pauses."""

REQUESTS_PER_TURN: Final = 16
"""How many pipelined requests are begun before other connections have their turn."""


class Connection(asyncio.Protocol):
    """Reads requests, has them served one at a time, and keeps to the time-outs of its lane.

    `since` is when its state began, or its client last did what it is waited for, as the lane's
    sweep tells the time.  For bodies and responses (`write_since`) a little does not count for all:
    each byte moves it on by what the lowest rate allows for one, until it is now.
    """

    __slots__ = (
        "_blank_line",
        "_body_bytes",
        "_body_left",
        "_buffer",
        "_decoder",
        "_eof",
        "_in_turn",
        "_own",
        "_reading_paused",
        "_searched",
        "_writable",
        "behind",
        "client",
        "environ",
        "fd",
        "keep_alive",
        "lane",
        "lost",
        "outcome",
        "proxied",
        "request",
        "root_path",
        "scheme",
        "served",
        "server",
        "since",
        "state",
        "taken",
        "tls",
        "transport",
        "write_lock",
        "write_since",
        "written",
    )

    transport: asyncio.Transport

    def __init__(self, lane: Lane, proxied: Addresses | None = None) -> None:
        self.lane = lane
        self.proxied = proxied
        """The two ends of the connection where a proxy has told them (PROXY protocol)."""
        self.root_path = lane.root_path
        self._own: tuple[Client, str, Server] | None = None  # see `_hear_proxies`
        self.state = State.IDLE
        self.request: Request | None = None
        self.keep_alive = False
        self.lost = False
        self.outcome: Outcome | None = None
        """Written by a pool's thread when it is done with the request; see `settle`."""
        self.behind = False
        """Whether the end of a response is on its way to `write_behind`."""
        self.fd = -1  # the socket's, once a pool's thread has needed it
        self.write_lock = threading.Lock()
        """Held by a pool's thread while it writes, and by the loop before it closes the socket."""
        self.environ: dict[str, Any] | None = None  # what its WSGI requests have in common
        self.served = 0
        self.since = self.write_since = lane.now
        self.written = 0  # bytes
        self.taken = 0  # of those, by the client, as far as was looked
        self._buffer = b""
        self._searched = 0
        self._blank_line = False
        self._body_left = 0
        self._decoder: ChunkedDecoder | None = None
        self._eof = False
        self._in_turn = False
        self._reading_paused = False
        self._writable: asyncio.Event | None = None

    # ---- the transport's side

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.lane.opened(self)
        info = transport.get_extra_info
        peer, local = info("peername"), info("sockname")
        self.client: Client = peer[:2] if isinstance(peer, tuple) else None
        self.server: Server
        self.server = local[:2] if isinstance(local, tuple) else (local, None) if local else None
        if self.proxied is not None:
            self.client, self.server = self.proxied
        self.tls: dict[str, Any] | None = None  # the ASGI extension
        self.scheme = "http"
        elsewhere = self.lane.only_elsewhere
        if (secured := info("ssl_object")) is not None:
            self.tls = tls.asgi_extension(secured)
            self.scheme = "https"
            elsewhere |= tls.has_agreed_on_http2(secured)
        if elsewhere:
            self._hand_over(b"")

    @override
    def data_received(self, data: bytes) -> None:
        if self.outcome is not None:
            self.settle()
        state = self.state
        if state is State.ACTIVE:
            try:
                self._take_body(data)
            except Refused as refusal:
                self._refuse(refusal)
            if self.outcome is not None:
                self.settle()  # see `WsgiRequest._report`
        elif state is State.IDLE or state is State.HEAD:
            if self._buffer:
                data = self._buffer + data
            if self._writable is None:
                self._take_requests(data)
            else:
                # What was answered before is to be taken first: else it would pile up in memory.
                self._buffer = data
                self._bound_unread(len(data))

    @override
    def eof_received(self) -> bool:
        """Keep the way back open while a request is served: some clients shut down theirs."""
        self._eof = True
        self.settle()
        if self.state is State.ACTIVE and self.request is not None:
            self.request.client_left()
            return self.tls is None
        return False

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.keep_alive = False
        if self.state is State.HANDED_OVER:
            return
        if exc is not None:
            log.debug("a connection broke: %s", exc)
        self.state = State.CLOSING
        self.lane.closed(self)
        if self._writable is not None:
            self._writable.set()
        if self.request is not None:
            self.request.client_left()
            self.request = None

    @override
    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    @override
    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        if self._buffer and self.state is not State.ACTIVE:
            self._schedule_resume()

    # ---- requests

    def _take_requests(self, data: bytes) -> None:
        """Serve what `data` holds, as far as it goes without waiting."""
        self._in_turn = True
        try:
            for _ in range(REQUESTS_PER_TURN):
                data = self._take_request(data)
                if not data:
                    return
            self._buffer = data
            self._bound_unread(len(data))
            self._schedule_resume()
        except Refused as refusal:
            self._refuse(refusal)
        finally:
            self._in_turn = False

    def _take_request(self, data: bytes) -> bytes:
        """Begin the request that `data` begins with; return what comes behind one that is over."""
        if not self._blank_line and data[0] == 0x0D:
            # One that came behind the body of the request before (RFC 9112, section 2.2).
            if data[:2] == b"\r\n":
                data = data[2:]
                self._blank_line = True
                if not data:
                    self._buffer = b""
                    self.state = State.IDLE  # its CR may have come alone
                    return b""
            elif len(data) > 1:
                raise Refused(400, "a bare CR")
        lane = self.lane
        # Once for a head that comes in pieces: what was searched is not searched again.
        found = None
        if not self._searched:
            found = lane.parse_head(data, lane.max_header_bytes, lane.max_header_count)
        if found is None:
            return self._take_any_request(data)
        end, method, path, raw_path, query, headers, length, self.keep_alive, forwarded = found
        if length > lane.max_body_bytes:
            raise Refused(413, "a body that is too large")
        if forwarded or self._own is not None:
            headers = self._hear_proxies(headers)
        self._searched = 0
        self.request = lane.request(
            self, method, path, raw_path, query, "1.1", headers, length, NO_WISHES
        )
        return self._begin(data[end:], length, chunked=False)

    def _take_any_request(self, data: bytes) -> bytes:
        """Do what `_take_request` does, whatever `data` holds."""
        lane = self.lane
        end = find_end(data, self._searched, lane.max_header_bytes)
        if end < 0:
            self._wait_for_head(data)
            return b""
        self._searched = 0
        line_end = data.find(b"\r\n")
        try:
            method, target, version = parse_request_line(data[:line_end])
        except Refused as refusal:
            if refusal.status == VERSION_NOT_SUPPORTED and data.startswith(HTTP2_PREFACE):
                return self._take_preface(data)
            raise
        fields = parse_fields(data[line_end + 2 : end - 2], lane.max_header_count)
        path, raw_path, query, authority = parse_target(method, target)
        check_version(fields, version)
        upgrade = self._is_for_another_lane(method, version, fields)
        if upgrade and fields.upgrade != b"websocket":
            self._hand_over(data)
            return b""
        if authority is not None and authority != fields.host:
            fields = fields.with_host(authority)
        headers = list(fields.headers)
        if self._own is not None or any(is_about_forwarding(name) for name, _ in headers):
            headers = self._hear_proxies(headers)
        if upgrade:
            self._open_websocket(path, raw_path, query, headers, data[end:])
            return b""
        # RFC 9112, section 9.3: close counts before keep-alive.
        self.keep_alive = not fields.close and (version == "1.1" or fields.keep_alive)
        if fields.length is not None and fields.length > lane.max_body_bytes:
            raise Refused(413, "a body that is too large")
        length = -1 if fields.length is None else fields.length
        wishes = Wishes(
            # HTTP/1.0 knows neither (RFC 9110, sections 10.1.1 and 6.5).
            expect_continue=fields.expect_continue and version == "1.1",
            trailers=fields.trailers_accepted and version == "1.1",
        )
        self.request = lane.request(
            self, method, path, raw_path, query, version, headers, length, wishes
        )
        return self._begin(data[end:], length, chunked=fields.chunked)

    def _hear_proxies(self, headers: Headers) -> Headers:
        """Take from `headers` who the client of this request is; return them as the app sees them.

        The connection's own client is kept in `_own`: the next request may be that of another.
        """
        if self._own is None:
            self._own = self.client, self.scheme, self.server
        told = self.lane.forwarding.read(headers, *self._own)
        self.client, self.scheme, self.server = told.client, told.scheme, told.server
        self.root_path = self.lane.root_path if told.root_path is None else told.root_path
        self.environ = None
        return told.headers

    def _begin(self, rest: bytes, length: int, *, chunked: bool) -> bytes:
        """Serve the request whose head was read; return what comes behind it if it is over."""
        request = self.request
        assert request is not None
        self.state = State.ACTIVE
        self._blank_line = False
        self._buffer = b""
        if length > 0:
            self._body_left = length
            self.since = self.lane.now
            self._take_body(rest)
        elif chunked:
            lane = self.lane
            self._body_bytes = 0
            self._decoder = ChunkedDecoder(lane.max_header_bytes, lane.max_header_count)
            self.since = lane.now
            self._take_body(rest)
        else:
            self._buffer = rest
            if rest:
                self._bound_unread(len(rest))
            request.body_ended()
        request.start()
        if self._buffer and self.state is State.IDLE and self._writable is None:
            rest, self._buffer = self._buffer, b""
            return rest
        return b""

    def _wait_for_head(self, data: bytes) -> None:
        self._buffer = data
        self._searched = max(0, len(data) - 3)
        self.read_on()
        if self.state is State.IDLE:
            self.state = State.HEAD
            self.since = self.lane.now

    def _take_preface(self, data: bytes) -> bytes:
        if self.served or self.tls is not None:
            raise Refused(VERSION_NOT_SUPPORTED, "HTTP/2 where HTTP/1.1 was agreed on")
        self._hand_over(data)
        return b""

    def _is_for_another_lane(self, method: str, version: str, fields: Fields) -> bool:
        if not fields.upgrade or version != "1.1" or fields.length or fields.chunked:
            return False
        if fields.upgrade == b"websocket":
            return method == "GET"
        settings = any(name == b"http2-settings" for name, _ in fields.headers)
        return fields.upgrade == b"h2c" and settings and self.tls is None

    def _hand_over(self, data: bytes) -> None:
        self.state = State.HANDED_OVER
        self._buffer = b""
        self.lane.hand_over(self, data)

    def _open_websocket(
        self,
        path: str,
        raw_path: bytes,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        rest: bytes,
    ) -> None:
        self._buffer = b""
        if refusal := self.lane.open_websocket(self, path, raw_path, query, headers, rest):
            self.write(refusal)
            self.linger(unread=True)
        else:
            self.state = State.HANDED_OVER

    def _schedule_resume(self) -> None:
        # In a context of its own: the next request must not see the variables of this one.
        self.lane.loop.call_soon(self._resume, context=self.lane.context)

    def _resume(self) -> None:
        if self.state in {State.IDLE, State.HEAD} and self._buffer and self._writable is None:
            self._take_requests(self._buffer)

    # ---- bodies

    def _take_body(self, data: bytes) -> None:
        """Give the request its share of `data`, and keep the rest for the next one."""
        request = self.request
        assert request is not None
        came = len(data)
        if self._body_left:
            piece = data[: self._body_left]
            self._body_left -= len(piece)
            if piece:
                request.feed(piece)
            if self._body_left:
                self._await_more(came, request)
                return
            data = data[len(piece) :]
        elif self._decoder is not None:
            pieces, data = self._decoder.feed(data)
            self._body_bytes += sum(map(len, pieces))
            if self._body_bytes > self.lane.max_body_bytes:
                raise Refused(413, "a body that is too large")
            for piece in pieces:
                request.feed(piece)
            if self.request is not request:
                return  # what was left of it is not wanted
            if not self._decoder.complete:
                self._await_more(came, request)
                return
            self._decoder = None
        else:
            self._keep(data)
            return
        self._keep(data)
        request.body_ended()

    def _keep(self, data: bytes) -> None:
        """Keep what has come of the requests behind this one."""
        if data:
            self._buffer += data
            self._bound_unread(len(self._buffer))

    def _await_more(self, came: int, request: Request) -> None:
        """Give the client time for the rest of its body, for the `came` bytes that it has sent."""
        lane = self.lane
        self.since = min(lane.now, self.since + came * lane.seconds_per_byte)
        self._bound_unread(request.unread_bytes)

    @property
    def body_pending(self) -> bool:
        """Whether a part of the request's body has not come yet."""
        return self._body_left > 0 or self._decoder is not None

    def _bound_unread(self, size: int) -> None:
        """Read on, or not, with `size` bytes that wait to be taken."""
        if size <= MAX_UNREAD_BYTES:
            self.read_on()
        elif not self._reading_paused and not self._eof:
            self._reading_paused = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Read again: the app has taken what had come."""
        if self._reading_paused:
            self._reading_paused = False
            self.since = self.lane.now
            if not self.transport.is_closing():
                self.transport.resume_reading()

    @property
    def waits_for_body(self) -> bool:
        """Whether it is the client's turn: more of the body is to come, and we read."""
        return self.body_pending and not self._reading_paused

    # ---- responses

    def write(self, data: bytes) -> None:
        """Send `data` behind what was sent before."""
        self.written += len(data)
        self.transport.write(data)

    def write_parts(self, parts: list[bytes]) -> None:
        """Send `parts` without putting them together first: one of them is large."""
        self.written += sum(map(len, parts))
        self.transport.writelines(parts)

    @property
    def gone(self) -> bool:
        """Whether what is written would reach nobody."""
        return self.lost or self.transport.is_closing()

    @property
    def writable(self) -> asyncio.Event | None:
        """What to wait for before more is written; None where that may be now."""
        return self._writable

    def flush(self) -> None:
        """Send what the transport holds back, if it is of the kind that does."""
        flush = getattr(self.transport, "flush", None)
        if flush is not None:
            flush()

    async def flushed(self) -> None:
        """Wait until the kernel has all that was written, or the client has gone."""
        self.transport.set_write_buffer_limits(high=0)
        try:
            if self._writable is not None:
                await self._writable.wait()
        finally:
            self.transport.set_write_buffer_limits()

    @property
    def may_keep_alive(self) -> bool:
        """Whether the connection can go on after the response that begins now."""
        if not self.keep_alive or ((self._eof or self.lane.draining) and not self._buffer):
            return False
        return self._body_left <= MAX_DISCARDED_BYTES

    @property
    def wants_attention(self) -> bool:
        """Whether the loop has something to do as soon as a response has ended."""
        return bool(self._buffer) or self._eof or self.lane.draining or self.lost

    def write_behind(self, data: bytes) -> None:
        """Write the end of a response that a pool's thread could not write by itself."""
        self.behind = False
        if not self.lost:
            self.write(data)
        self.settle()

    def settle(self) -> None:
        """Take note of a response that a pool's thread has finished.  Idempotent."""
        if self.behind:
            return  # it is not over, and nothing may overtake it
        outcome, self.outcome = self.outcome, None
        if outcome is Outcome.KEEP_ALIVE or outcome is Outcome.CLOSE:
            self.response_ended(keep_alive=outcome is Outcome.KEEP_ALIVE)
        elif outcome is not None:
            self.break_off(reset=outcome is Outcome.RESET)

    def response_ended(self, *, keep_alive: bool) -> None:
        """Go on to the next request, or close."""
        self.served += 1
        self.since = self.lane.now
        if not keep_alive or self.lost:
            self.request = None
            if not self.lost:
                self._close_after_response()
        elif self.body_pending:
            self.request = Discarding(self)
            self.read_on()
        else:
            self.await_request()

    def await_request(self) -> None:
        """Be ready for the next request, or go on with the one that has come already."""
        self.request = None
        self.state = State.IDLE
        self._bound_unread(len(self._buffer))
        if self._buffer and not self._in_turn:
            self._schedule_resume()
        elif not self._buffer and self._eof:
            self.close()
        elif not self._buffer and self.lane.draining:
            # Its response had begun before that, and did not say that it would be the last.
            self.lane.close_soon(self)

    def _close_after_response(self) -> None:
        unread = bool(self._buffer) or self.body_pending
        if self.lane.draining or unread:
            self.linger(unread=unread)
        else:
            self.close()  # the client wanted it so, and sends no more

    def close(self) -> None:
        """Close, once all that was written is out."""
        self.state = State.CLOSING
        self.since = self.lane.now
        self.transport.close()

    def linger(self, *, unread: bool) -> None:
        """Say that we send no more, and drop what comes until the client has seen that.

        Closing on what is unread would reset the connection, and take with it what the client has
        not read yet (RFC 9112, section 9.6).  `unread` says that there is more to come for certain.
        """
        self.request = None
        self._drop_input()
        if self.lost or self.transport.is_closing():
            return
        if self._eof or (self.tls is not None and not unread):
            self.close()
            return
        self.state = State.LINGERING
        self.since = self.lane.now
        if self.tls is None:
            # TLS knows no half-closed connection here: the client closes, or the time runs out.
            with contextlib.suppress(OSError, RuntimeError):  # the client has gone
                self.transport.write_eof()
        self.read_on()

    def _drop_input(self) -> None:
        self._buffer = b""
        self._body_left = 0
        self._decoder = None
        self.keep_alive = False

    def break_off(self, *, reset: bool) -> None:
        """End a response that cannot be completed so that the client notices.

        `reset`: nothing but the end of the connection marks the end of the response, so the client
        has to see that it is not an orderly one.
        """
        self.request = None
        self._drop_input()
        if self.lost:
            return
        self.state = State.CLOSING
        if reset:
            fd = self.transport.get_extra_info("socket").fileno()
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()

    def _refuse(self, refusal: Refused) -> None:
        log.debug("refused with %d: %s", refusal.status, refusal.reason)
        self.refuse(refusal.status)

    def refuse(self, status: int) -> None:
        """Answer `status` and close; where a response has begun, only close."""
        request, self.request = self.request, None
        if request is None:
            self.write(error_response(status, self.lane.date))
        elif not request.refuse(status):
            self.break_off(reset=False)
            request.client_left()
            return
        self.linger(unread=True)
        if request is not None:
            request.client_left()
