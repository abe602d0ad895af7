"""A connection's transport on a `Poller`: what asyncio's socket transport does, in fewer steps.

Interpreter: the worker's.  Thread: the loop's.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, override

from subserve.worker.poller import READ, WRITE

if TYPE_CHECKING:
    from subserve.worker.loops import AsyncioLoop

SMALL_READ: Final = 16 * 1024
LARGE_READ: Final = 64 * 1024
"""Bytes to read at once: the larger one where all that was asked for before had come.  For more
than 128 KiB malloc(3) would map and unmap memory each time, which takes longer than the read."""

HOLD_BYTES: Final = 16 * 1024
"""What is larger is never held back.  Not measured."""

HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = HIGH_WATER // 4
"""Bytes of unsent data at which the protocol is paused, and goes on.  asyncio's."""

_MAX_PARTS: Final = 1024
"""IOV_MAX of Linux: how many buffers one system call takes."""

type Data = bytes | bytearray | memoryview

type Names = tuple[Any, Any]
"""Addresses of the client's end and of ours as the socket module has them; None: ask the kernel."""


class SocketTransport(asyncio.Transport):
    """A connected stream socket: TCP, or a unix one.  The descriptor is the transport's.

    It calls the protocol as asyncio's does, but `connection_made` at once, and it is for protocols
    that take `data_received` only.

    `receive` and `send` are like `os.read` and `os.write`; neither ever waits.
    """

    __slots__ = (
        "_buffer",
        "_closing",
        "_eof",
        "_events",
        "_family",
        "_fd",
        "_held",
        "_high",
        "_loop",
        "_lost",
        "_low",
        "_paused",
        "_peername",
        "_poller",
        "_protocol",
        "_read_size",
        "_receive",
        "_send",
        "_size",
        "_sock",
        "_sockname",
    )

    def __init__(
        self,
        loop: AsyncioLoop,
        fd: int,
        family: int,
        protocol: asyncio.Protocol,
        receive: Callable[[int, int], bytes],
        send: Callable[[int, bytes], int],
        names: Names = (None, None),
    ) -> None:
        super().__init__()
        self._loop = loop
        self._poller = loop.poller
        self._fd = fd
        self._family = family
        self._peername, self._sockname = names
        self._sock: socket.socket | None = None
        self._receive, self._send = receive, send
        self._read_size = SMALL_READ
        self._buffer: deque[Data] = deque()
        self._size = 0
        self._held: bytes | None = None  # until the poller says; the buffer is empty meanwhile
        self._high, self._low = HIGH_WATER, LOW_WATER
        self._paused = False  # the protocol
        self._closing = False
        self._lost = False  # it has been told so, or will be in a moment
        self._eof = False  # ours
        self._events = READ
        self._protocol = protocol
        self._poller.watch(fd, self._ready)
        protocol.connection_made(self)

    # ---- the poller's side

    def _ready(self, events: int) -> None:
        if self._lost:
            return
        try:
            if self._buffer and events & ~READ:
                self._flush()
            if self._events & READ and events & ~WRITE:
                self._read()
        except Exception as error:  # noqa: BLE001  the loop's handler logs it
            self._fail(error)

    def _read(self) -> None:
        try:
            data = self._receive(self._fd, self._read_size)
        except BlockingIOError, InterruptedError:
            return
        except OSError as error:
            self._break(error)
            return
        if data:
            if len(data) == self._read_size:
                self._read_size = LARGE_READ
            self._protocol.data_received(data)
        elif self._protocol.eof_received():
            self._want(self._events & ~READ)
        else:
            self.close()

    def _flush(self) -> None:
        try:
            sent = os.writev(self._fd, [*islice(self._buffer, _MAX_PARTS)])
        except BlockingIOError, InterruptedError:
            return
        except OSError as error:
            self._break(error)
            return
        self._size -= sent
        buffer = self._buffer
        while sent:
            part = buffer.popleft()
            if len(part) > sent:
                buffer.appendleft(memoryview(part)[sent:])
                break
            sent -= len(part)
        if self._size <= self._low and self._paused:
            self._paused = False
            self._protocol.resume_writing()
        if not buffer and not self._lost:
            self._want(self._events & ~WRITE)
            if self._closing:
                self._lose(None)
            elif self._eof:
                self._shut_down()

    # ---- writing

    @override
    def write(self, data: Data) -> None:
        if type(data) is not bytes:
            data = bytes(data)  # the caller may change it
        if self._eof:
            raise RuntimeError("written behind the end: write_eof() was called")
        if self._held is not None:
            self.flush()
        elif self._poller.holds and len(data) <= HOLD_BYTES and not (self._buffer or self._lost):
            self._hold(data)
            return
        if self._lost:
            return
        if self._buffer:
            self._keep((data,))
        else:
            self._send_first(data)

    def _send_first(self, data: bytes) -> None:
        """Send `data`, before which nothing waits, and keep what the kernel does not take now."""
        try:
            sent = self._send(self._fd, data)
        except BlockingIOError, InterruptedError:
            sent = 0
        except OSError as error:
            self._break(error)
            return
        if sent < len(data):
            self._keep((memoryview(data)[sent:],))

    @override
    def writelines(self, list_of_data: Iterable[Data]) -> None:
        if self._eof:
            raise RuntimeError("written behind the end: write_eof() was called")
        self.flush()
        if self._lost:
            return
        parts = [part for part in list_of_data if part]
        if not self._buffer and parts:
            self._buffer.extend(parts)
            self._size = sum(map(len, parts))
            self._flush()
            parts = []
        self._keep(parts)

    def _hold(self, data: bytes) -> None:
        self._held = data
        self._size = len(data)
        self._poller.held.append(self._flush_held)
        if self._size > self._high:
            self._bound()

    def flush(self) -> None:
        """Send what was held back, as far as the kernel takes it now."""
        data = self._held
        if data is None:
            return  # it has been sent since, or the connection is lost
        self._held = None
        self._size = 0
        self._send_first(data)
        if self._paused and not (self._size or self._lost):
            self._paused = False
            self._protocol.resume_writing()

    def _flush_held(self) -> None:
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001  the loop's handler logs it
            self._fail(error)

    def _keep(self, parts: Iterable[Data]) -> None:
        """Have `parts` sent behind what waits, and tell the protocol if that is too much."""
        for part in parts:
            self._buffer.append(part)
            self._size += len(part)
        if self._buffer and not self._lost:
            self._want(self._events | WRITE)
            self._bound()

    def _bound(self) -> None:
        if self._size > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    @override
    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self.flush()
        if self._lost:
            return
        self._eof = True
        if not self._buffer:
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._socket().shutdown(socket.SHUT_WR)
        except OSError as error:  # the client has gone
            self._break(error)

    @override
    def can_write_eof(self) -> bool:
        return True

    @override
    def get_write_buffer_size(self) -> int:
        return self._size

    @override
    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and that at least 0")
        self._high, self._low = high, low
        self._bound()

    # ---- reading

    @override
    def is_reading(self) -> bool:
        return bool(self._events & READ) and not self._closing

    @override
    def pause_reading(self) -> None:
        if not self._closing:
            self._want(self._events & ~READ)

    @override
    def resume_reading(self) -> None:
        if not self._closing:
            self._want(self._events | READ)

    def _want(self, events: int) -> None:
        if events != self._events and not self._lost:
            self._poller.change(self._fd, self._events, events)
            self._events = events

    # ---- the rest

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError(f"not a protocol that takes data_received: {protocol!r}")
        self._protocol = protocol

    @override
    def get_protocol(self) -> asyncio.Protocol:
        return self._protocol

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return ``socket``, ``peername`` or ``sockname``; or ``fd``, for what needs no more.

        The descriptor is open until `connection_lost` has been called.
        """
        match name:
            case "fd":
                return self._fd
            case "socket":
                return self._socket()
            case "peername":
                return self._peername or self._ask(socket.socket.getpeername, default)
            case "sockname":
                return self._sockname or self._ask(socket.socket.getsockname, default)
        return default

    def _ask[T](self, question: Callable[[socket.socket], Any], default: T) -> Any | T:
        try:
            return question(self._socket())
        except OSError:  # the client has gone already
            return default

    def _socket(self) -> socket.socket:
        if self._sock is None:
            # All is told here, so that the kernel need not be asked.
            number = 0 if self._family == socket.AF_UNIX else socket.IPPROTO_TCP
            fd = None if self._fd < 0 else self._fd
            self._sock = socket.socket(self._family, socket.SOCK_STREAM, number, fd)
            if fd is None:
                self._sock.close()  # as it would be if somebody had asked for it before
        return self._sock

    @override
    def is_closing(self) -> bool:
        return self._closing

    @override
    def close(self) -> None:
        """Close once all is sent, and read no more."""
        if self._closing:
            return
        self.flush()
        if self._lost:
            return
        self._closing = True
        if self._buffer:
            self._want(self._events & ~READ)
        else:
            self._lose(None)

    @override
    def abort(self) -> None:
        self.flush()
        self._break(None)

    def _fail(self, error: Exception) -> None:
        """End a connection that broke by an error which is nobody's to expect."""
        self._loop.call_exception_handler(
            {
                "message": "a protocol failed",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._break(error)

    def _break(self, error: Exception | None) -> None:
        """Close at once, whatever is unsent."""
        self._closing = True
        self._held = None
        self._buffer.clear()
        self._size = 0
        if not self._lost:
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        # The kernel takes it out of the poller's set when it is closed, in a moment.
        self._lost = True
        self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._poller.forget(self._fd)
            if self._sock is not None:
                self._sock.close()
            else:
                os.close(self._fd)
            self._fd = -1  # it is soon somebody else's
