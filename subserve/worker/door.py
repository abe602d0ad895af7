"""Accepts connections in the worker itself, where it is the only one: there is nothing to choose.

Interpreter: the worker's.  Thread: the loop's.  What is in the way, the worker leaves to the
coordinator, which knows of all there is to do about it.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any

from subserve.listener import ACCEPTS_PER_TURN, ERRORS_OF_ONE_CONNECTION, LAST_TURNS
from subserve.messages import Accept
from subserve.scoreboard import Counter, Row
from subserve.worker.transport import Names

log = logging.getLogger("subserve.worker")


class Door:
    """Where connections come in.

    `take_over` is given descriptor, address family and names of each; `resign` is called when the
    coordinator has to accept again.
    """

    def __init__(
        self, row: Row, take_over: Callable[[int, int, Names], None], resign: Callable[[], object]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._row = row
        self._take_over = take_over
        self._resign = resign
        self._max_connections = 0
        self._max_descriptor = 0
        self._listeners: dict[socket.socket, Any] = {}
        """With the address that connections from each have on our end, where that is known."""
        self._shut = False

    def open(self, command: Accept) -> None:
        """Begin to accept."""
        listeners = [socket.socket(fileno=fd) for fd in command.listeners]
        if self._shut:  # the command has been overtaken by a drain
            for listener in listeners:
                listener.close()
            return
        self._max_connections = command.max_connections
        self._max_descriptor = command.max_descriptor
        self._listeners = {listener: _address(listener) for listener in listeners}
        for listener in listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Leave it to others.  Idempotent."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners = {}

    def close_for_good(self, *, last: bool) -> None:
        """Leave it to others; the `last` to go takes in what the kernel has queued before.

        Its clients hold those connections for open, and closing would reset them.
        """
        self._shut = True
        for listener in list(self._listeners) if last else ():
            for _ in range(LAST_TURNS):
                if listener.fileno() >= 0:
                    self._accept(listener)
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        row = self._row
        family = listener.family
        local = self._listeners[listener]
        for _ in range(ACCEPTS_PER_TURN):
            if row.connections >= self._max_connections:
                self._give_up()
                return
            try:
                fd, peer = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in ERRORS_OF_ONE_CONNECTION:
                    continue
                self._give_up()
                return
            row.add(Counter.CONNECTIONS_ACCEPTED)
            self._take_over(fd, family, (peer, local))
            if fd >= self._max_descriptor:
                self._give_up()
                return

    def _give_up(self) -> None:
        self.close()
        self._resign()


def _address(listener: socket.socket) -> Any:
    """Return its address, unless it stands for all of the machine's."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return address or None
    return None if ipaddress.ip_address(address[0]).is_unspecified else address
