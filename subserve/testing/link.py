"""Messages between the process that the user started and the interpreters that run tests.

A message is a tuple of plain values, its kind first.  It travels as `marshal` writes it, behind its
length: quick, made for both ends being the same Python, and unlike JSON it tells tuples from lists,
which reports are made of.
"""

import marshal
import select
import socket
import struct
import threading
from collections import deque
from typing import Any

type Message = tuple[Any, ...]

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16

MAX_MESSAGE_BYTES = 1 << 30
"""Far above any report; a bound for what is not what it seems."""


def plain(value: Any) -> Any:
    """Return `value` as plain values; what is none of them becomes its text.

    Plugins put all sorts of things into reports, enums and paths for instance.
    """
    match value:
        case None | bool():
            return value
        case dict():
            return {plain(key): plain(item) for key, item in value.items()}
        case tuple():
            return tuple(plain(item) for item in value)
        case list():
            return [plain(item) for item in value]
        case _ if type(value) in {int, float, str, bytes}:
            return value
        case int() | float():
            return int(value) if isinstance(value, int) else float(value)
        case _:
            return str(value)


class Link:
    """One end.  `send` may be called from any thread, the others from one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._received: deque[Message] = deque()
        self._send_lock = threading.Lock()

    def fileno(self) -> int:
        """Return the file descriptor, for a selector."""
        return self._socket.fileno()

    def send(self, kind: str, *values: Any) -> bool:
        """Send a message; return whether the other side still was there to take it."""
        data = marshal.dumps((kind, *values))
        with self._send_lock:
            try:
                self._socket.sendall(_LENGTH.pack(len(data)) + data)
            except OSError:
                return False
        return True

    def receive(self) -> Message | None:
        """Wait for a message; return None once the other side has ended."""
        while not self._received:
            if not self._read(0):
                return None
        return self._received.popleft()

    def receive_ready(self) -> list[Message] | None:
        """Return what has arrived, without waiting; None once the other side has ended."""
        alive = self._read(socket.MSG_DONTWAIT)
        ready = list(self._received)
        self._received.clear()
        return ready if alive or ready else None

    def is_waiting(self) -> bool:
        """Say whether there is something to receive."""
        if self._received:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close this end.  Idempotent."""
        self._socket.close()

    def _read(self, flags: int) -> bool:
        try:
            data = self._socket.recv(_READ_BYTES, flags)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False  # closed with something of ours unread, see unix(7)
        if not data:
            return False
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            self._received.append(marshal.loads(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return True
