"""Wake the other workers: "there is something new in the database, look".

A message does not travel over the bus, only the advice to read; so nothing can be lost, doubled
or put out of order by it.  Each worker has a Unix datagram socket in a directory they all know.
`Bus.ring` sends one byte to every socket there.  If a worker's queue is full, it has wake-ups
waiting already and one more would tell it nothing.  If nobody reads a socket any more (the worker
was killed), it is removed.

Runs in the event loop of its worker; there are no threads and no locks.
"""

import asyncio
import errno
import logging
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

# sun_path of sockaddr_un is 108 bytes on Linux and 104 on the BSDs and macOS, with the final NUL.
_MAX_PATH_BYTES = 103

# How many wake-ups one callback takes in; the loop calls again if there are more.
_MAX_READS = 64

# The receiver's queue is full: it has wake-ups waiting (BSDs say ENOBUFS).
_QUEUE_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})

# Nobody has the socket open, or its owner removed it after we listed it.
_GONE = frozenset({errno.ECONNREFUSED, errno.ENOENT})


class Bus:
    """One worker's place on the bus; `on_ring` is called in its event loop, also for own rings."""

    def __init__(self, directory: Path, on_ring: Callable[[], None]) -> None:
        self._directory = directory
        # Random, because a name that nobody else ever had makes removing a dead socket safe.
        self._path = directory / secrets.token_hex(6)
        self._on_ring = on_ring
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Start listening.  Raises OSError if the directory's path is too long for a socket."""
        if len(os.fsencode(self._path)) > _MAX_PATH_BYTES:
            raise OSError(
                f"{self._path}: longer than the {_MAX_PATH_BYTES} bytes a Unix socket may have, "
                "set BOARD_DATA to a shorter path"
            )
        loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(os.fspath(self._path))
            loop.add_reader(self._socket.fileno(), self._read, self._socket)
        except BaseException:
            self._socket.close()
            self._socket = None
            raise

    def ring(self) -> None:
        """Wake all workers, this one included."""
        self._on_ring()
        if self._socket is None:
            return
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name != self._path.name:
                    self._send(self._socket, entry.path)

    def close(self) -> None:
        """Stop listening and remove the socket.  Idempotent."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._path.unlink(missing_ok=True)

    def _send(self, sender: socket.socket, path: str) -> None:
        try:
            sender.sendto(b"\0", path)
        except OSError as error:
            if error.errno in _GONE:
                Path(path).unlink(missing_ok=True)
            elif error.errno not in _QUEUE_FULL:
                log.warning("could not wake the worker at %s: %s", path, error)

    def _read(self, receiver: socket.socket) -> None:
        for _ in range(_MAX_READS):
            try:
                receiver.recv(1)
            except BlockingIOError:
                break
        self._on_ring()
