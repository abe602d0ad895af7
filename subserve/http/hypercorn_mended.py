"""Hypercorn's protocol classes, mended where a client or an app can hang, leak or mislead them.

With `hypercorn_lane` the only module that touches Hypercorn.  Hypercorn names these classes where
it makes them and takes none as arguments, so `put_in_place` puts ours where it looks for them; it
is imported in workers only, each of which has modules of its own.

What is mended is said at each class.  All of it lives in the event loop's thread.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast, override

import h11
import hypercorn.asyncio.tcp_server
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from h2.events import Event as H2Event
from h2.exceptions import ProtocolError
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Updated
from hypercorn.events import Event as ConnectionEvent
from hypercorn.protocol.events import Body, Data, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Ping
from wsproto.events import Message as WebSocketMessage
from wsproto.frame_protocol import CloseReason

from subserve.http.exchange import ClientGone, Message, Scope, Send

CONNECTION_WINDOW_BYTES = 1024 * 1024
"""How much request body an HTTP/2 client may send ahead over all streams of a connection: room for
16 whose apps do not read (RFC 9113, section 6.9.2: each may hold 65,535 bytes)."""


def put_in_place() -> None:
    """Have Hypercorn make our classes instead of its own.  Idempotent."""
    for module, mended in (
        (hypercorn.asyncio.tcp_server, _TaskGroup),
        (hypercorn.protocol, _H11Protocol),
        (hypercorn.protocol, _H2Protocol),
        (hypercorn.protocol.h11, _HTTPStream),
        (hypercorn.protocol.h11, _WSStream),
        (hypercorn.protocol.h2, _StreamBuffer),
        (hypercorn.protocol.h2, _HTTPStream),
        (hypercorn.protocol.h2, _WSStream),
    ):
        setattr(module, mended.__bases__[0].__name__, mended)


@dataclass(frozen=True)
class BrokenOff(ConnectionEvent):
    """The response has no end but that of the connection, and is not complete."""


@dataclass(frozen=True)
class _BodyTaken(StreamEvent):
    """The app has taken in so many bytes of the request's body."""

    stream_id: int
    size: int


class _Inbox:
    """What an app receives.

    Hypercorn's is a bounded queue that takes messages of any kind, and forgets how it ended: an
    app that did not read its request's body could not finish its response, since the message that
    the stream is closed found no room, and one that asked again after a disconnect waited for ever.
    """

    def __init__(self, stream: _HTTPStream | _WSStream, size: int) -> None:
        self._stream = stream
        self._messages: asyncio.Queue[Message] = asyncio.Queue(size)
        self._last: Message | None = None
        self._untaken_bytes = 0

    async def put(self, message: Message) -> None:
        """Wait for room and add `message`; once a disconnect has been put, drop it."""
        if message["type"] in {"http.disconnect", "websocket.disconnect"}:
            self._last = message
            self._messages.shutdown()
            return
        self._untaken_bytes += len(message.get("body", b""))
        try:
            await self._messages.put(message)
        except asyncio.QueueShutDown:
            await self._take(len(message.get("body", b"")))

    async def get(self) -> Message:
        """Wait for a message; after a disconnect return that, as often as asked."""
        try:
            message = await self._messages.get()
        except asyncio.QueueShutDown:
            assert self._last is not None  # the app's own call cannot come after `close`
            return self._last
        await self._take(len(message.get("body", b"")))
        return message

    async def close(self) -> None:
        """Drop what the app has left, and let go of who waits for room."""
        self._messages.shutdown(immediate=True)
        await self._take(self._untaken_bytes)

    async def _take(self, size: int) -> None:
        if size:
            self._untaken_bytes -= size
            await self._stream.send(_BodyTaken(self._stream.stream_id, size))


class _TaskGroup(TaskGroup):
    """Runs the app of a connection's streams.

    Hypercorn answers 500 for a task that is cancelled, too: that waits for the client's network
    when there is no time left to wait.
    """

    @override
    async def spawn_app(
        self, app: Any, config: HypercornConfig, scope: Any, send: Any
    ) -> Callable[[Any], Awaitable[None]]:
        stream: _HTTPStream | _WSStream = send.__self__
        # The bodies of HTTP/2 requests are bounded by flow control, see `_H2Protocol`; waiting for
        # room would hold up the other streams, and what makes room for the response.
        flow_controlled = isinstance(stream, HTTPStream) and scope["http_version"] == "2"
        inbox = _Inbox(stream, 0 if flow_controlled else config.max_app_queue_size)
        self.spawn(self._run, app, scope, inbox, stream)
        return inbox.put

    @staticmethod
    async def _run(app: Any, scope: Scope, inbox: _Inbox, stream: _HTTPStream | _WSStream) -> None:
        try:
            await app(scope, inbox.get, cast(Send, stream.app_send))
        except asyncio.CancelledError, GeneratorExit:
            stream.closed = True
            raise
        await inbox.close()
        await stream.app_send(None)


class _HTTPStream(HTTPStream):
    """Tells an app that goes on sending that its client has gone (ASGI 3, HTTP, spec 2.4).

    Hypercorn's takes what it sends for ever, and writes it to the closed connection.  An app that
    is about to end is not told: what it does after its response, it is to do in any case.
    """

    @override
    async def app_send(self, message: Any) -> None:
        if message is None or not self.closed or self.state is ASGIHTTPState.CLOSED:
            await super().app_send(message)
        elif message.get("more_body", False):
            raise ClientGone


class _WSStream(WSStream):
    """Tells the app how the client has closed, and that it has.

    Hypercorn's says 1006, a broken connection, however the client has closed; it lets the app
    wait for ever where the client sends before the handshake is over; it sends a close frame in
    place of the 500 where the app's answer to the handshake is not a valid one; it buffers what
    is sent after a message that was too big.
    """

    _code: int = CloseReason.ABNORMAL_CLOSURE
    _reason: str | None = None

    @override
    async def handle(self, event: StreamEvent) -> None:
        if self.closed:
            return
        if isinstance(event, StreamClosed):
            self.closed = True
            if self.app_put is not None:
                await self.app_put(
                    {
                        "type": "websocket.disconnect",
                        "code": int(self._code),
                        "reason": self._reason or "",
                    }
                )
            return
        early = isinstance(event, (Body, Data)) and not self.handshake.accepted
        await super().handle(event)
        if early:
            self.closed = False  # for StreamClosed to be handled
            await self.send(StreamClosed(stream_id=self.stream_id))

    @override
    async def app_send(self, message: Any) -> None:
        if self.closed and message is not None and message["type"] != "websocket.close":
            raise ClientGone
        if message is not None and message["type"] == "websocket.close":
            self._code = message.get("code", CloseReason.NORMAL_CLOSURE)
            self._reason = message.get("reason")
        await super().app_send(message)

    @override
    async def _accept(self, message: Any) -> None:
        try:
            await super()._accept(message)
        except Exception:
            self.state = ASGIWebsocketState.HANDSHAKE
            raise

    @override
    async def _handle_events(self) -> None:
        for event in self.connection.events():
            match event:
                case WebSocketMessage():
                    await self._take(event)
                case Ping():
                    await self._send_wsproto_event(event.response())
                case CloseConnection(code=code, reason=reason):
                    if self.connection.state is not ConnectionState.CLOSED:
                        self._code, self._reason = code, reason
                    await self._send_wsproto_event(event.response())  # unless we closed first
                    await self.send(StreamClosed(stream_id=self.stream_id))

    async def _take(self, event: WebSocketMessage[Any]) -> None:
        if self._code == CloseReason.MESSAGE_TOO_BIG:
            return
        try:
            self.buffer.extend(event)
        except FrameTooLargeError:
            self._code = CloseReason.MESSAGE_TOO_BIG
            self.buffer.clear()
            await self._send_wsproto_event(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG))
            return
        if event.message_finished:
            assert self.app_put is not None
            await self.app_put(self.buffer.to_message())
            self.buffer.clear()


class _H11Connection(h11.Connection):
    """Ignores what comes behind the last request of a connection (RFC 9112, section 9.6).

    h11's own finds it an error, for which Hypercorn closes in the middle of the response; some
    clients end a body with a line break that does not belong to it.
    """

    @override
    def receive_data(self, data: bytes) -> None:
        if self.their_state is not h11.MUST_CLOSE or not self.trailing_data[0]:
            super().receive_data(data)

    @override
    def next_event(self) -> Any:
        if self.their_state is h11.MUST_CLOSE:
            return h11.NEED_DATA
        return super().next_event()


class _H11Protocol(H11Protocol):
    """Keeps to the limit of the head, and cuts off neither too quietly nor too much.

    An HTTP/1.0 client can see when a response broke off; at a drain the pipelined requests that
    have come are answered.

    Hypercorn's, and h11, apply the limit to what is still incomplete only: a head that arrives in
    one piece may have any length.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        limit = self.config.h11_max_incomplete_size
        self.connection = _H11Connection(h11.SERVER, max_incomplete_event_size=limit)

    @override
    async def stream_send(self, event: StreamEvent) -> None:
        stream = self.stream
        if (
            isinstance(event, StreamClosed)
            and isinstance(stream, HTTPStream)
            and stream.state is ASGIHTTPState.RESPONSE
            and stream.scope["http_version"] == "1.0"
        ):
            await self.send(BrokenOff())
        await super().stream_send(event)

    @override
    async def handle(self, event: ConnectionEvent) -> None:
        try:
            await super().handle(event)
        except h11.RemoteProtocolError as error:
            await self._send_error_response(error.error_status_hint)
            await self.send(Closed())

    @override
    async def _maybe_recycle(self) -> None:
        connection = self.connection
        if (
            self.context.terminated.is_set()
            and connection.our_state is h11.DONE
            and connection.their_state is h11.DONE
            and connection.trailing_data[0]
        ):
            await self._close_stream()
            connection.start_next_cycle()
            await self.can_read.set()
            await self.send(Updated(idle=True))
        else:
            await super()._maybe_recycle()

    @override
    async def _check_protocol(self, event: h11.Request) -> None:
        line = len(event.method) + len(event.target) + len(b"  HTTP/1.1\r\n")
        size = line + sum(len(n) + len(v) + len(b": \r\n") for n, v in event.headers)
        if size > self.config.h11_max_incomplete_size:
            raise h11.RemoteProtocolError(f"a head of {size} bytes", error_status_hint=431)
        await super()._check_protocol(event)


class _StreamBuffer(StreamBuffer):
    """Lets an app go on when the client has taken what it has sent, not whenever it looks.

    Hypercorn's lets it go on after each attempt to send, also one that the client's window did
    not allow: a response of any size ends up in memory.
    """

    @override
    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class _H2Protocol(H2Protocol):
    """Ends streams as RFC 9113 has it, and does not let one hold up the others.

    Hypercorn's leaves a stream open whose app fails after the response has begun, or whose
    WebSocket is closed, and its client waits for the rest; it breaks the whole connection when
    the body of a request that has been answered goes on; it reads nothing while one app does not
    read its body; the app of a stream that waits for the client's window is never told that the
    connection is gone; a request that is refused at a drain looks like one that was processed; it
    announces the limit of the head, but does not keep to it.
    """

    @override
    async def initiate(
        self, headers: list[tuple[bytes, bytes]] | None = None, settings: Any = None
    ) -> None:
        await super().initiate(headers, settings)
        self.connection.increment_flow_control_window(CONNECTION_WINDOW_BYTES - 65_535)
        await self._flush()

    @override
    async def handle(self, event: ConnectionEvent) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in self.stream_buffers.values():
                await buffer.close()

    @override
    async def stream_send(self, event: StreamEvent) -> None:
        match event:
            case _BodyTaken(stream_id=number, size=size):
                self.connection.acknowledge_received_data(size, number)
                await self._flush()
            case StreamClosed(stream_id=number):
                await self._end_stream(number)
                await super().stream_send(event)
            case _:
                await super().stream_send(event)

    async def _end_stream(self, number: int) -> None:
        stream, buffer = self.streams.get(number), self.stream_buffers.get(number)
        if stream is None or buffer is None or buffer._complete:
            return
        if isinstance(stream, WSStream):
            # As `EndData` does, but not waiting for the client to make room: it may be the reader
            # that calls.
            buffer.set_complete()
            self.priority.unblock(number)
            await self.has_data.set()
            return
        try:
            self.connection.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
        except ProtocolError:
            return  # the client has gone
        await self._flush()
        await self._window_updated(number)  # has the sending task drop what it still holds of it

    @override
    async def _handle_events(self, events: Sequence[H2Event]) -> None:
        for event in events:
            match event:
                case RequestReceived(stream_id=number) if self.context.terminated.is_set():
                    # REFUSED_STREAM: not processed at all, safe to repeat (section 8.7).
                    self.connection.reset_stream(number, ErrorCodes.REFUSED_STREAM)
                case RequestReceived(stream_id=number) if self._is_too_long(event):
                    self.connection.send_headers(number, [(b":status", b"431")], end_stream=True)
                case DataReceived(stream_id=number):
                    await self._take_data(event, self.streams.get(number))
                case _:
                    await super()._handle_events([event])
        await self._flush()

    def _is_too_long(self, event: RequestReceived) -> bool:
        # Counted as RFC 9113, section 6.5.2 has it for SETTINGS_MAX_HEADER_LIST_SIZE.
        size = sum(len(name) + len(value) + 32 for name, value in event.headers)
        return size > self.config.h2_max_header_list_size

    async def _take_data(self, event: DataReceived, stream: HTTPStream | WSStream | None) -> None:
        taken = event.flow_controlled_length
        if stream is not None:
            await stream.handle(Body(stream_id=event.stream_id, data=event.data))
            if isinstance(stream, HTTPStream) and not stream.closed:
                taken -= len(event.data)  # the padding; the rest once the app has read it
        if taken:
            self.connection.acknowledge_received_data(taken, event.stream_id)
