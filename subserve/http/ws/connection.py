"""One WebSocket connection: from bytes to messages, back, and to its end.

Interpreter: the worker's.  Thread: the loop's.

::

    CONNECTING -> OPEN -> CLOSING -> ENDING -> CLOSED
        |          |                   ^
        |          +-------------------+       the client has closed, or broken the protocol
        +-> DENYING ------------------>+       an answer other than a WebSocket
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, override

from subserve.http.h1.response import error_response
from subserve.http.sockets import unsent_bytes
from subserve.http.ws.deflate import MIN_COMPRESSED_BYTES, Deflater, Inflater
from subserve.http.ws.frames import (
    COMPRESSED,
    FIN,
    Code,
    Opcode,
    Violation,
    close_payload,
    control,
    header,
)
from subserve.http.ws.messages import PART, Close, Ping, Pong, Reader

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection as HttpConnection
    from subserve.http.ws.deflate import Agreement
    from subserve.http.ws.lane import WebSocketLane
    from subserve.http.ws.messages import Event

log = logging.getLogger("subserve.http")

MAX_UNREAD_BYTES: Final = 64 * 1024
"""How much of what the app has not received waits in memory before reading pauses; one message may
be longer."""

MESSAGE_OVERHEAD: Final = 64
"""Bytes that a message which waits is counted with besides its own."""

FRAMES_PER_TURN: Final = 256
"""How many frames of one client are read before other connections have their turn."""

LARGE_BYTES: Final = 64 * 1024
"""From here on a payload is not copied behind its header, but written beside it."""


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = auto()
    """The app has not answered the handshake."""
    DENYING = auto()
    """The answer is a response of the app's own."""
    OPEN = auto()
    CLOSING = auto()
    """Our close frame is out, the client's has not come (RFC 6455, section 7.1.2)."""
    ENDING = auto()
    """All is said; what the client still sends is dropped."""
    CLOSED = auto()


class Connection(asyncio.Protocol):
    """The transport's side of a WebSocket.

    `code` and `reason` say how it was closed, once it is no longer open: by the client, or by us.
    `closed_by_app` says that the app has had its last word, `since` when the state began.
    """

    __slots__ = (
        "_deflater",
        "_flushed",
        "_heard",
        "_heard_at",
        "_is_tls",
        "_pinged_at",
        "_pongs",
        "_queued_bytes",
        "_reader",
        "_reading_paused",
        "_scheduled",
        "_waiters",
        "_writable",
        "_write_since",
        "_written",
        "closed",
        "closed_by_app",
        "code",
        "lane",
        "messages",
        "reason",
        "scope",
        "since",
        "started_at",
        "state",
        "transport",
    )

    def __init__(self, lane: WebSocketLane, http: HttpConnection, scope: dict[str, Any]) -> None:
        self.lane = lane
        self._is_tls = http.tls is not None
        self.scope = scope
        self.started_at = time.monotonic()
        self.transport = http.transport
        self.state = State.CONNECTING
        self.code: int = Code.ABNORMAL
        self.reason = ""
        self.messages: deque[str | bytes] = deque()
        self.closed_by_app = False
        self.closed: asyncio.Future[None] = lane.loop.create_future()
        self.since = self._heard_at = self._write_since = http.lane.now
        self._reader: Reader | None = None
        self._deflater: Deflater | None = None
        self._heard = False
        self._pinged_at: float | None = None
        self._pongs = b""
        self._queued_bytes = 0
        self._reading_paused = False
        self._scheduled = False
        self._waiters: list[asyncio.Future[None]] = []
        self._writable: asyncio.Event | None = None
        self._written = self._flushed = 0

    # ---- the transport's side

    @override
    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._reader is not None:
            self._reader.feed(data)
            if not self._scheduled:
                self._read()
        elif self.state is State.CONNECTING:
            log.debug("a WebSocket client spoke before the handshake was over")
            self.refuse(400)

    @override
    def eof_received(self) -> bool:
        """End: a client that sends no more cannot answer a close frame."""
        self._reader = None
        if self.state is not State.ENDING:
            self._set_state(State.ENDING)
            self._wake()
        return False

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            log.debug("a connection broke: %s", exc)
        self.state = State.CLOSED
        self._reader = None
        self.lane.lost(self)
        if not self.closed.done():  # as it is where the worker cuts off who waits for it
            self.closed.set_result(None)
        self._wake()

    @override
    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    @override
    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        self._send_pongs()

    # ---- what the client sends

    def _read(self) -> None:
        """Read what has come, as far as it goes without waiting for the app."""
        reader = self._reader
        assert reader is not None
        try:
            for _ in range(FRAMES_PER_TURN):
                if self._queued_bytes > MAX_UNREAD_BYTES:
                    self._pause_reading()
                    break
                event = reader.next_event()
                if event is None:
                    self._resume_reading()
                    break
                if event is not PART:
                    self._take(event)
                    if self._reader is None:
                        return
            else:
                self._pause_reading()
                self._schedule()
        except Violation as violation:
            log.debug("a WebSocket ended with %d: %s", violation.code, violation.reason)
            self.fail(violation.code, violation.reason)
        self._send_pongs()

    def _take(self, event: Event) -> None:
        kind = type(event)
        if kind is str or kind is bytes:
            if self.state is State.OPEN:
                assert isinstance(event, str | bytes)
                self.messages.append(event)
                self._queued_bytes += len(event) + MESSAGE_OVERHEAD
                if self._waiters:
                    self._wake()
        elif isinstance(event, Ping):
            if self.state is State.OPEN:
                # Where the client does not take them, the last one will do (section 5.5.3).
                pong = control(Opcode.PONG, event.payload)
                self._pongs = pong if self._writable is not None else self._pongs + pong
        elif isinstance(event, Close):
            self._client_closed(event)
        else:
            assert isinstance(event, Pong)

    def _client_closed(self, close: Close) -> None:
        self._reader = None
        if self.state is State.OPEN:
            self.code, self.reason = close.code, close.reason
            payload = b"" if close.code == Code.NO_STATUS else close.code.to_bytes(2)
            self._send_pongs()
            self._write(control(Opcode.CLOSE, payload))
        self._set_state(State.ENDING)
        self.transport.close()
        self._wake()

    def _send_pongs(self) -> None:
        if self._pongs and self._writable is None and self.state is State.OPEN:
            pongs, self._pongs = self._pongs, b""
            self._write(pongs)

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._heard = True  # what it has said in between we could not hear
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.lane.loop.call_soon(self._go_on, context=self.lane.context)

    def _go_on(self) -> None:
        self._scheduled = False
        if self._reader is not None:
            self._read()

    # ---- what the app asks for

    async def next_message(self) -> str | bytes | None:
        """Wait for a message and return it; None once there will be no more."""
        while not self.messages:
            if self.state is not State.OPEN and self.state is not State.CONNECTING:
                return None
            # One for each who waits: a task that is cancelled may end when the next one waits.
            waiter: asyncio.Future[None] = self.lane.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        message = self.messages.popleft()
        self._queued_bytes -= len(message) + MESSAGE_OVERHEAD
        if (
            self._reading_paused
            and self._reader is not None
            and self._queued_bytes <= MAX_UNREAD_BYTES
        ):
            self._schedule()
        return message

    def _wake(self) -> None:
        """Let go of who waits for a message, or for room."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self.state is not State.OPEN and self._writable is not None:
            self._writable.set()

    @property
    def writable(self) -> asyncio.Event | None:
        """What to wait for before more is written; None where that may be now."""
        return self._writable

    def open(self, response: bytes, agreement: Agreement | None) -> None:
        """Send the answer to the handshake, and be a WebSocket."""
        inflater = None
        if agreement is not None:
            inflater = Inflater(agreement)
            self._deflater = Deflater(agreement)
        lane = self.lane
        self._reader = Reader(lane.max_message_bytes, inflater, lane.take_message, lane.unmask)
        self._set_state(State.OPEN)
        self._heard_at = self.since
        self._write(response)

    def send(self, opcode: Opcode, data: bytes) -> None:
        """Send a message while open."""
        first = FIN | opcode
        size = len(data)
        if self._deflater is not None and size >= MIN_COMPRESSED_BYTES:
            first |= COMPRESSED
            data = self._deflater.deflate(data)
            size = len(data)
        if size < LARGE_BYTES:
            self._write(header(first, size) + data)
        else:
            self._write_parts([header(first, size), data])

    def close(self, code: int, reason: str) -> None:
        """Begin to close, if it is open.  Raises `ValueError` for what cannot be sent."""
        payload = close_payload(code, reason)
        if self.state is State.OPEN:
            self._send_pongs()
            self._write(control(Opcode.CLOSE, payload))
            self.code, self.reason = code, reason
            self._set_state(State.CLOSING)
            self.messages.clear()
            self._queued_bytes = 0
            if self._reading_paused:
                self._schedule()  # the client's answer is to be read, whatever comes before it
            self._wake()

    def fail(self, code: int, reason: str) -> None:
        """Close because of something that the client may not do; nothing is read any more."""
        self._reader = None
        if self.state is State.OPEN:
            self.code, self.reason = code, reason
            self._send_pongs()
            self._write(control(Opcode.CLOSE, close_payload(code, reason)))
        self.end(unread=True)

    def refuse(self, status: int) -> None:
        """Answer `status` to the handshake, if there was no answer, and end."""
        if self.state is State.CONNECTING:
            self.deny([error_response(status, self.lane.lane.date)])
            self.log_access(status, b"", 0)
        self.end(unread=True)

    def deny(self, parts: list[bytes]) -> None:
        """Send a part of a response in place of a WebSocket."""
        if self.state is State.CONNECTING:
            self._set_state(State.DENYING)
        self._write_parts(parts)

    def log_access(self, status: int, head: bytes, size: int) -> None:
        """Log how the handshake was answered: with the head and body size of the response."""
        self.lane.log_access(self.scope, self.started_at, status, head, size)

    def restart(self) -> None:
        """Have the client come back to whoever serves next: the worker drains."""
        if self.state is State.CONNECTING:
            self.code = Code.SERVICE_RESTART
            self.refuse(503)
        elif self.state is State.OPEN:
            self.close(Code.SERVICE_RESTART, "")

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self._written += len(data)
            self.transport.write(data)

    def _write_parts(self, parts: list[bytes]) -> None:
        if not self.transport.is_closing():
            self._written += sum(map(len, parts))
            self.transport.writelines(parts)

    # ---- the end

    def end(self, *, unread: bool = False) -> None:
        """Close, once the client has seen what was written.  Idempotent.

        Closing on what is unread would reset the connection, and take with it what the client has
        not read yet (RFC 9112, section 9.6).  `unread` says that more may come.
        """
        if self.state is State.ENDING or self.state is State.CLOSED:
            return
        self._reader = None
        self._set_state(State.ENDING)
        if self._is_tls and not unread:
            self.transport.close()
        elif self._is_tls:
            # No half-closed connection here: the sweep closes once the client is quiet.
            self._resume_reading()
            self._heard = True
        elif not self.transport.is_closing():
            with contextlib.suppress(OSError, RuntimeError):  # the client has gone
                self.transport.write_eof()
            self._resume_reading()
        self._wake()

    def abort(self) -> None:
        """End at once."""
        self.transport.abort()

    def _set_state(self, state: State) -> None:
        self.state = state
        self.since = self.lane.loop.time()

    # ---- time

    def check_time(self, now: float) -> None:
        """Act on what is overdue at `now`; called by the sweep."""
        if self._writing_stalled(now):
            return
        lane, state = self.lane, self.state
        if state is State.OPEN:
            self._keep_alive(now)
        elif self.transport.get_write_buffer_size():
            self.since = now  # the client's turn begins once all is out
        elif state is State.CLOSING:
            if now - self.since > lane.close_timeout:
                log.debug("a WebSocket client did not answer our close frame")
                self.end()
        elif state is State.ENDING:
            self._linger(now - self.since > lane.linger_timeout)

    def _linger(self, overdue: bool) -> None:
        quiet = self._is_tls and not self._heard
        self._heard = False
        if not self.transport.is_closing():
            if overdue or quiet:
                self.transport.close()
        elif overdue and not unsent_bytes(self.transport):
            self.transport.abort()  # asyncio would wait 30 s for a TLS client's close_notify

    def _keep_alive(self, now: float) -> None:
        """Ask a client that says nothing whether it is there (RFC 6455, section 5.5.2).

        Whatever it sends is an answer: in the middle of a long frame there cannot be a pong.
        """
        lane = self.lane
        if self._heard or self._reading_paused:
            self._heard = False
            self._heard_at = now
            self._pinged_at = None
        elif self._pinged_at is not None:
            if lane.ping_timeout and now - self._pinged_at > lane.ping_timeout:
                log.debug("a WebSocket client did not answer our ping")
                self.fail(Code.INTERNAL_ERROR, "keepalive ping timeout")
        elif lane.ping_interval and now - self._heard_at >= lane.ping_interval:
            self._pinged_at = now
            self._write(control(Opcode.PING, b""))

    def _writing_stalled(self, now: float) -> bool:
        """Cut off a client that takes nothing of what waits for it; tell whether it was."""
        waiting = self.transport.get_write_buffer_size()
        flushed = self._written - waiting
        if waiting == 0 or flushed != self._flushed:
            self._flushed = flushed
            self._write_since = now
            return False
        if now - self._write_since <= self.lane.write_timeout:
            return False
        log.debug("a WebSocket client has stopped reading")
        self.transport.abort()
        return True
