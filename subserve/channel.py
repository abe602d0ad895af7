"""A control channel: messages over a pair of connected sockets.

`concurrent.interpreters.Queue` is not used: it polls every 10 ms and cuts time-outs short (CPython
gh-153005); a blocked `recv` costs nothing and ends when the other side is closed.
"""

import select
import socket
import threading
from collections import deque

from subserve.messages import Decoder, Message, encode

_READ_BYTES = 65536


class Channel:
    """One end.  `send` may be called from any thread, the reading methods from one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = Decoder()
        self._received: deque[Message] = deque()
        self._send_lock = threading.Lock()

    def fileno(self) -> int:
        """Return the file descriptor, for a selector."""
        return self._socket.fileno()

    def send(self, message: Message) -> bool:
        """Send a message; return whether the other side still was there to take it."""
        with self._send_lock:
            try:
                self._socket.sendall(encode(message))
            except OSError:
                return False
        return True

    def wait(self, timeout: float) -> bool:
        """Wait until `receive` will not have to, at most `timeout` seconds; return whether so."""
        if self._received:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def receive(self) -> Message | None:
        """Wait for a message; return None once the other side, or `shutdown`, has ended it."""
        while not self._received:
            try:
                data = self._socket.recv(_READ_BYTES)
            except ConnectionError:
                return None  # closed with something of ours unread, see unix(7)
            if not data:
                return None
            self._received.extend(self._decoder.feed(data))
        return self._received.popleft()

    def receive_ready(self) -> list[Message] | None:
        """Return what has arrived, without waiting; None once the other side has closed."""
        try:
            data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return list(self._decoder.feed(data)) if data else None

    def shutdown(self) -> None:
        """End a `receive` that waits in another thread of this side.  Idempotent."""
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            return  # closed already, by either side

    def close(self) -> None:
        """Close this end.  Idempotent."""
        self._socket.close()
