"""What comes in over one HTTP/2 connection: cut into frames, counted, told as events, in turns."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from h2.exceptions import ProtocolError

from subserve.http.h2.engine import Engine
from subserve.http.h2.floods import (
    DATA,
    GOAWAY,
    HEADERS,
    PADDED,
    SETTINGS,
    FrameBudget,
    Kind,
    kind_of,
)
from subserve.http.h2.frames import (
    ENHANCE_YOUR_CALM,
    PREFACE,
    PROTOCOL_ERROR,
    Frame,
    FrameError,
    FrameReader,
)
from subserve.http.h2.outbox import Outbox

if TYPE_CHECKING:
    from subserve.http.h2.connection import Connection

log = logging.getLogger("subserve.http")

EFFORT_PER_TURN: Final = 128
REQUEST_EFFORT: Final = 8
"""How many frames are taken in before other connections have their turn, and for how many of them
the head of a request counts."""


class Inbox:
    """The way in of one connection.  Lives in the loop's thread."""

    def __init__(self, connection: Connection, engine: Engine, outbox: Outbox) -> None:
        lane = connection.lane
        self._connection = connection
        self._engine = engine
        self._outbox = outbox
        self._reader = FrameReader(lane.max_block_bytes)
        self.budget = FrameBudget(lane.now)
        self._head_since = lane.now
        self._reading_paused = False
        self._resume_handle: asyncio.Handle | None = None
        self._settings_seen = False

    def feed(self, data: bytes) -> None:
        """Take in what the transport has read."""
        if not self._reader.in_head:
            self._head_since = self._connection.lane.now
        self._reader.feed(data)
        if self._resume_handle is None:
            self._take_frames()

    def go_on(self) -> None:
        """Go on where it was the way out that held things up."""
        if self._reading_paused and self._resume_handle is None:
            self._take_frames_soon()

    def stop(self) -> None:
        """Take no more in, but let the transport read to its end."""
        if self._resume_handle is not None:
            self._resume_handle.cancel()
        self._read_on()

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn: we read, and it may send."""
        return not self._reading_paused and self._engine.inbound_flow_control_window > 0

    def is_late(self, now: float, timeout: float) -> bool:
        """Tell whether the client has begun a head, or the connection, and does not go on."""
        begun = self._reader.in_head or not self._settings_seen
        return begun and not self._reading_paused and now - self._head_since > timeout

    def _take_frames(self) -> None:
        """Act on the frames that are there, as far as one turn goes."""
        self._resume_handle = None
        self._outbox.corked = True
        connection = self._connection
        try:
            self._take_turn()
        except FrameError as error:
            connection.fail(error.code, str(error))
        except ProtocolError as error:
            # The library has written its GOAWAY.
            log.debug("a connection ended by an error: %s", error)
            connection.close()
        finally:
            self._outbox.uncork()

    def _take_turn(self) -> None:
        reader, connection = self._reader, self._connection
        if not reader.begun:
            if not reader.take_preface():
                return
            self._engine.receive_data(PREFACE)
        effort = EFFORT_PER_TURN
        while effort > 0 and not self._outbox.full:
            frame = reader.next()
            if frame is None:
                self._read_on()
                stream = connection.streams.get(reader.partial_stream)
                if stream is not None:
                    stream.body_since = connection.lane.now
                return
            self._take_frame(frame)
            if connection.closing:
                return
            effort -= REQUEST_EFFORT if frame.kind == HEADERS else 1
        if not self._reading_paused and not connection.transport.is_closing():
            self._reading_paused = True
            connection.transport.pause_reading()
        if effort <= 0:
            self._take_frames_soon()

    def _take_frames_soon(self) -> None:
        # In a context of its own: the next request must not see the variables of this one.
        connection = self._connection
        self._resume_handle = connection.lane.loop.call_soon(
            self._take_frames, context=connection.context
        )

    def _read_on(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            transport = self._connection.transport
            if not transport.is_closing():
                transport.resume_reading()

    def _take_frame(self, frame: Frame) -> None:
        kind = frame.kind
        if not self._settings_seen:
            if kind != SETTINGS:
                raise FrameError(PROTOCOL_ERROR, "no SETTINGS behind the preface")
            self._settings_seen = True
        pad_length = frame.pad_length if kind == DATA and frame.flags & PADDED else 0
        charge = kind_of(kind, frame.flags, frame.length, pad_length)
        if charge is not None:
            self._spend(charge, 1)
        if kind == GOAWAY:
            # The library would take it for the end of what is open, too.
            self._connection.leave()
            return
        engine = self._engine
        events = engine.receive_data(frame.data)
        if (answered := engine.data_to_send()) and (resets := self._outbox.add(answered)):
            self._spend(Kind.RESET, resets)  # CVE-2025-8671: those that the library sends, too
        for event in events:
            self._connection.take(event)

    def _spend(self, kind: Kind, count: int) -> None:
        if not self.budget.spend(kind, self._connection.lane.now, count):
            raise FrameError(ENHANCE_YOUR_CALM, f"too many frames of kind {kind.name}")
