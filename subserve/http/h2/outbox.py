"""What goes out over one HTTP/2 connection: frames at once, bodies as the client's windows allow.

A body that does not fit waits where the app has left it, and its app with it; streams take turns,
a frame each.  Nothing of a body is handed to a transport that the client does not read from.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from subserve.http.h2.engine import Engine
from subserve.http.h2.frames import MAX_FRAME_BYTES
from subserve.http.h2.stream import Stream
from subserve.http.sockets import unsent_bytes

FLUSH_BYTES: Final = 64 * 1024
"""From here on frames go to the transport at once, so that it can say that it is full."""

MAX_BACKLOG_BYTES: Final = 256 * 1024
"""How much may wait in a transport that the client does not read from, acknowledgements of what it
sends above all, before we do not read from it either."""


class Outbox:
    """The way out of one connection.  Lives in the loop's thread."""

    def __init__(
        self, engine: Engine, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._ready: dict[Stream, None] = {}  # in the order in which they have their turn
        self._flushing: asyncio.Handle | None = None
        self._written = 0  # bytes
        self._taken = 0  # of those, by the kernel, when last looked
        self._taken_at = 0.0
        self.pending_bytes = 0
        """How much of bodies waits for the client."""
        self.paused = False
        """Whether the transport has enough to do."""
        self.lost = False
        """Whether there is nobody left to write to."""
        self.corked = False
        """Whether more is to come before this turn ends."""

    def add(self, data: bytes) -> int:
        """Send frames that are complete; return how many of them are RST_STREAM."""
        self._collect()
        self._parts.append(data)
        return self._engine.resets_in(data)

    def send(self, stream: Stream, body: bytes, *, last: bool, now: float) -> None:
        """Send a part of a body; `last` ends the stream."""
        if self.lost:
            return
        if not body and not stream.pending:
            if last:
                self._engine.end_stream(stream.number)
                self.flush_soon()
            return
        if not stream.pending:
            stream.pending_since = now
        stream.pending = memoryview(bytes(stream.pending) + body if stream.pending else body)
        stream.ends_with_pending = last
        self.pending_bytes += len(body)
        self._ready[stream] = None
        self.pump()

    def drop(self, stream: Stream) -> None:
        """Forget what waits of a stream."""
        self.pending_bytes -= len(stream.pending)
        self._ready.pop(stream, None)

    def window_opened(self, stream: Stream | None) -> None:
        """Go on with a stream, or with all that are ready, where the client has made room."""
        if stream is not None and stream.pending:
            self._ready[stream] = None
        self.pump()

    def settings_changed(self, streams: Iterable[Stream]) -> None:
        """Go on with all streams: their windows may be others now."""
        for stream in streams:
            if stream.pending:
                self._ready[stream] = None
        self.pump()

    def pump(self) -> None:
        """Send what the windows and the transport take, a frame of each stream in turn."""
        ready, engine = self._ready, self._engine
        size = 0
        while ready and not self.paused and engine.outbound_flow_control_window > 0:
            stream = next(iter(ready))
            del ready[stream]
            size += self._send_some(stream)
            if size >= FLUSH_BYTES:
                size = 0
                self.flush()
        self.flush_soon()

    def _send_some(self, stream: Stream) -> int:
        """Send a frame of a stream; return its size."""
        engine = self._engine
        pending = stream.pending
        room = engine.local_flow_control_window(stream.number)
        size = min(len(pending), room, MAX_FRAME_BYTES)
        if size <= 0:
            return 0  # it is ready again when its window opens
        ends = size == len(pending)
        engine.send_data(
            stream.number, bytes(pending[:size]), end_stream=ends and stream.ends_with_pending
        )
        self.pending_bytes -= size
        stream.took(size)
        if not ends:
            self._ready[stream] = None
        elif stream.over:
            stream.end()
        return size

    # ---- to the transport

    def flush_soon(self) -> None:
        """Write what is there at the end of this turn of the loop, in one go with what follows."""
        if self._flushing is None and not self.corked:
            self._flushing = self._loop.call_soon(self.flush)

    def uncork(self) -> None:
        """Write what has come together."""
        self.corked = False
        self.flush()

    def flush(self) -> None:
        """Write what is there."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._collect()
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            if not self.lost and not self._transport.is_closing():
                self._written += len(data)
                self._transport.write(data)

    def _collect(self) -> None:
        if data := self._engine.data_to_send():
            self._parts.append(data)

    @property
    def full(self) -> bool:
        """Whether so much waits that no more is to be read that calls for an answer."""
        return self.paused and self._transport.get_write_buffer_size() > MAX_BACKLOG_BYTES

    @property
    def unsent(self) -> int:
        """How many bytes the client's kernel has not acknowledged yet."""
        return unsent_bytes(self._transport)

    def stalled(self, now: float, timeout: float) -> bool:
        """Tell whether the client has read nothing for `timeout` seconds of what waits for it."""
        waiting = self._transport.get_write_buffer_size()
        taken = self._written - waiting
        if waiting == 0 or taken != self._taken:
            self._taken, self._taken_at = taken, now
            return False
        return now - self._taken_at > timeout
