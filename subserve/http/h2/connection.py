"""One HTTP/2 connection: from bytes to requests beside each other, and to its end.

Interpreter: the worker's.  Thread: the loop's.

::

    OPEN -> LEAVING -> CLOSING      GOAWAY is out; open streams finish; our last words are out
"""

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, cast, override

from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from subserve import tls
from subserve.http.h1.head import Refused
from subserve.http.h2 import answers, fields
from subserve.http.h2.engine import Engine
from subserve.http.h2.floods import Kind
from subserve.http.h2.frames import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    goaway,
)
from subserve.http.h2.inbox import Inbox
from subserve.http.h2.outbox import Outbox
from subserve.http.h2.stream import Stream
from subserve.http.h2.upgrade import SWITCHING

if TYPE_CHECKING:
    from subserve.http.h2.lane import H2Lane

log = logging.getLogger("subserve.http")

MAX_PENDING_BYTES: Final = 8 * 1024 * 1024
"""How much of responses may wait for a client before its next requests have to wait, too: room for
64 KiB of each of 128 streams."""

MAX_STREAM: Final = 2**31 - 1


class State(Enum):
    """Where a connection is in its life."""

    OPEN = auto()
    LEAVING = auto()
    """GOAWAY has named the last stream; those that are open finish."""
    CLOSING = auto()
    """Our last words are out; what the client still sends is dropped."""


class Connection(asyncio.Protocol):
    """Takes frames in, has requests served beside each other, and keeps to what its lane allows."""

    transport: asyncio.Transport

    def __init__(self, lane: H2Lane, transport: asyncio.Transport) -> None:
        self.lane = lane
        self.transport = transport
        self.context = contextvars.copy_context()
        """What its requests begin in, so that none sees the variables of another."""
        self.ended: asyncio.Future[None] = lane.loop.create_future()
        """Done when the connection is lost."""
        info = transport.get_extra_info
        peer, local = info("peername"), info("sockname")
        self.client: tuple[str, int] | None = peer[:2] if isinstance(peer, tuple) else None
        self.server: tuple[str, int | None] | None
        self.server = local[:2] if isinstance(local, tuple) else (local, None) if local else None
        self.tls: dict[str, Any] | None = None
        self.scheme = "http"
        if (secured := info("ssl_object")) is not None:
            self.tls = tls.asgi_extension(secured)
            self.scheme = "https"
        self.state = State.OPEN
        self.since = lane.now
        """When its last stream ended, or its end began, as the lane's sweep tells the time."""
        self.streams: dict[int, Stream] = {}
        self.running = 0
        """Apps that run, also those of streams that are no more."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.served = 0
        self._engine = Engine(lane.max_streams, lane.max_header_bytes)
        self._outbox = Outbox(self._engine, transport, lane.loop)
        self._inbox = Inbox(self, self._engine, self._outbox)
        self._budget = self._inbox.budget
        self._waiting: deque[Stream] = deque()
        self._last_stream = MAX_STREAM
        self._settling = False

    @property
    def closing(self) -> bool:
        """Whether nothing of what comes counts any more."""
        return self.state is State.CLOSING

    def begin(self) -> None:
        """Begin as a client expects that speaks HTTP/2 already."""
        self._engine.begin()
        self._outbox.flush()

    def begin_upgraded(self, head: fields.Head, settings: bytes) -> None:
        """Begin with stream 1 open, a request that came in HTTP/1.1 (RFC 7540, section 3.2)."""
        self.transport.write(SWITCHING)
        self._engine.begin_upgraded(settings)
        self._outbox.flush()
        self._start(1, head, ended=True)

    # ---- the transport's side

    @override
    def data_received(self, data: bytes) -> None:
        if self.state is not State.CLOSING:
            self._inbox.feed(data)

    @override
    def eof_received(self) -> bool:
        # RFC 9113 knows no connection of which one half is closed.
        return False

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            log.debug("a connection broke: %s", exc)
        self.state = State.CLOSING
        self._inbox.stop()
        self._outbox.lost = True
        for stream in list(self.streams.values()):
            stream.leave()
        self.streams.clear()
        self._waiting.clear()
        if not self.ended.done():
            self.ended.set_result(None)

    @override
    def pause_writing(self) -> None:
        self._outbox.paused = True

    @override
    def resume_writing(self) -> None:
        self._outbox.paused = False
        self._outbox.pump()
        self._inbox.go_on()

    # ---- what the client sends

    def take(self, event: Event) -> None:
        """Act on what a frame means."""
        match event:
            case RequestReceived(stream_id=number):
                self._take_request(number, event)
            case DataReceived(stream_id=number):
                if (stream := self.streams.get(number)) is not None:
                    stream.feed(event.data, event.flow_controlled_length)
                else:
                    self.acknowledge(number, event.flow_controlled_length)
            case StreamEnded(stream_id=number):
                if (stream := self.streams.get(number)) is not None:
                    stream.end_body()
            case TrailersReceived(stream_id=number):
                self._check_trailers(number, cast("Any", event.headers))
            case StreamReset(stream_id=number):
                if (stream := self.streams.pop(number, None)) is not None:
                    stream.leave()
                    self._settle()
            case WindowUpdated(stream_id=number):
                self._outbox.window_opened(self.streams.get(number) if number else None)
            case RemoteSettingsChanged():
                self._outbox.settings_changed(self.streams.values())
            case _:
                pass  # acknowledgements, priorities, unknown frames: counted before

    def _take_request(self, number: int, event: RequestReceived) -> None:
        lane = self.lane
        if number > self._last_stream or self.running + len(self._waiting) >= lane.max_streams:
            # Not processed at all, safe to repeat (RFC 9113, section 8.7).
            self.reset(number, REFUSED_STREAM)
            return
        ended = event.stream_ended is not None
        try:
            head = fields.parse(
                event.headers,
                lane.max_header_bytes,
                lane.max_header_count,
            )
            if head.length > lane.max_body_bytes:
                raise Refused(413, "a body that is too large")
        except fields.Malformed as error:
            log.debug("a malformed request: %s", error)
            self.reset(number, PROTOCOL_ERROR)
        except Refused as refusal:
            log.debug("refused with %d: %s", refusal.status, refusal.reason)
            block = answers.Block(refusal.status, (), lane.date).data
            self.send_block(number, block + answers.length_field(0), end=True)
            if not ended:
                self.reset(number, NO_ERROR)
        else:
            self._start(number, head, ended=ended)

    def _start(self, number: int, head: fields.Head, *, ended: bool) -> None:
        stream = self.streams[number] = Stream(self, number, head)
        if ended:
            stream.end_body()
        if stream.gone:
            return  # less than it announced
        for kind in (Kind.PRIORITY, Kind.WINDOW_UPDATE):
            self._budget.earn(kind, 2)
        if self._waiting or self._outbox.pending_bytes > MAX_PENDING_BYTES:
            self._waiting.append(stream)
        else:
            self._run(stream)

    def _run(self, stream: Stream) -> None:
        """Run the app, at once, as far as it goes without waiting."""
        self.running += 1
        loop, context = self.lane.loop, self.context.copy()
        task = asyncio.Task(stream.run(), loop=loop, context=context, eager_start=True)
        if not task.done():
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _check_trailers(self, number: int, trailers: list[tuple[bytes, bytes]]) -> None:
        stream = self.streams.get(number)
        try:
            fields.check_fields(trailers)
        except fields.Malformed as error:
            log.debug("malformed trailers: %s", error)
            if stream is not None:
                stream.reset(PROTOCOL_ERROR)

    # ---- what its streams tell and ask

    def acknowledge(self, number: int, size: int) -> None:
        """Let the client send `size` bytes more: they were taken, or never will be."""
        if size and not self._outbox.lost and self.state is not State.CLOSING:
            self._engine.acknowledge_received_data(size, number)
            self._outbox.flush_soon()

    def send_block(
        self, number: int, block: bytes, *, informational: bool = False, end: bool = False
    ) -> None:
        """Send a head or trailers."""
        if not self._outbox.lost and self.state is not State.CLOSING:
            self._engine.send_block(number, block, informational=informational, end=end)
            self._outbox.flush_soon()

    def send_data(self, stream: Stream, body: bytes, *, last: bool) -> None:
        """Send a part of a response, as far as the client's windows allow now."""
        self._budget.earn(Kind.WINDOW_UPDATE, 2 + 2 * (len(body) >> 12))
        if self.state is not State.CLOSING:
            self._outbox.send(stream, body, last=last, now=self.lane.now)

    def drop_pending(self, stream: Stream) -> None:
        """Forget what of a response waits for the client."""
        self._outbox.drop(stream)

    def reset(self, number: int, code: int) -> None:
        """End a stream by RST_STREAM."""
        if self._outbox.lost or self.state is State.CLOSING:
            return
        with contextlib.suppress(ProtocolError):  # the library has closed it before
            self._engine.reset_stream(number, code)
        self._outbox.flush_soon()
        if not self._budget.spend(Kind.RESET, self.lane.now):
            self.fail(ENHANCE_YOUR_CALM, "too many streams that had to be reset")

    @property
    def leaving(self) -> bool:
        """Whether it ends as soon as what is open has ended."""
        return self.state is State.LEAVING

    def forget(self, stream: Stream) -> None:
        """Take note that a stream is over."""
        self.streams.pop(stream.number, None)
        self._settle()

    def app_ended(self) -> None:
        """Take note that an app has ended."""
        self.running -= 1
        self._settle()

    def _settle(self) -> None:
        """Go on where something has ended: with the next request, or to the end."""
        if self._waiting and not self._settling:
            self._settling = True  # those that end at once would end up here
            while self._waiting and self._outbox.pending_bytes <= MAX_PENDING_BYTES:
                stream = self._waiting.popleft()
                if not stream.gone:
                    self._run(stream)
            self._settling = False
        if not self.streams:
            self.since = self.lane.now
            if self.state is State.LEAVING:
                self.close()

    # ---- the end

    def announce(self) -> None:
        """Say that the connection will end soon, and take what is on its way (section 6.8)."""
        if self.state is State.OPEN and self._last_stream == MAX_STREAM:
            self._outbox.add(goaway(MAX_STREAM, NO_ERROR))
            self._outbox.flush()

    def leave(self) -> None:
        """Take no more requests, and close once those that are open are answered."""
        if self.state is not State.OPEN:
            return
        self.state = State.LEAVING
        self._last_stream = self._engine.highest_inbound_stream_id
        self._outbox.add(goaway(self._last_stream, NO_ERROR))
        self._outbox.flush_soon()
        for stream in list(self.streams.values()):
            stream.drain()
        if not self.streams:
            self.close()

    def fail(self, code: int, reason: str) -> None:
        """End the connection, and say why."""
        if self.state is not State.CLOSING:
            log.debug("a connection ended by an error: %s", reason)
            self._outbox.add(goaway(self._engine.highest_inbound_stream_id, code))
            self.close()

    def close(self) -> None:
        """Close, once all that was written is out; a client that still sends is to see it."""
        if self.state is State.CLOSING:
            return
        self._outbox.flush()
        self.state = State.CLOSING
        self.since = self.lane.now
        for stream in list(self.streams.values()):
            stream.leave()
        self.streams.clear()
        self._waiting.clear()
        if self.transport.is_closing():
            return
        self._inbox.stop()
        if self.tls is None:
            with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
                self.transport.write_eof()
        else:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.state = State.CLOSING
        self.transport.abort()

    # ---- time

    def check_time(self, now: float) -> None:
        """Act on what is overdue at `now`; called by the sweep."""
        lane = self.lane
        if self._outbox.stalled(now, lane.write_timeout):
            log.debug("a client has stopped reading")
            self.abort()
        elif self.state is State.CLOSING:
            elapsed = now - self.since - lane.linger_timeout
            if elapsed > lane.write_timeout or (elapsed > 0 and not self._outbox.unsent):
                self.abort()
        elif self._inbox.is_late(now, lane.header_timeout):
            self.fail(NO_ERROR, "a head that took too long")
        elif not (self.streams or self.running) and now - self.since > lane.keep_alive_timeout:
            self.leave()
        if self.state is not State.CLOSING:
            self._check_streams(now)

    def _check_streams(self, now: float) -> None:
        lane = self.lane
        for stream in list(self.streams.values()):
            if stream.pending and now - stream.pending_since > lane.write_timeout:
                log.debug("a client has stopped taking a response")
                stream.reset(CANCEL)
            elif (
                stream.waits_for_body
                and self._inbox.waits
                and now - stream.body_since > lane.body_timeout
            ):
                log.debug("a body stood still")
                if stream.finished:
                    stream.reset(NO_ERROR)
                else:
                    stream.refuse(408)
