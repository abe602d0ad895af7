"""What is left of a request's body once it is answered."""

from typing import TYPE_CHECKING, Final, override

from subserve.http.h1.states import Request

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection

MAX_DISCARDED_BYTES: Final = 64 * 1024
"""How much of a body that nobody wants is read to keep the connection.  Not measured."""


class Discarding(Request):
    """Takes the place of a request that is answered, until the rest of its body has come."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._room = MAX_DISCARDED_BYTES

    @property
    @override
    def unread_bytes(self) -> int:
        """Nothing waits for anybody."""
        return 0

    @override
    def feed(self, piece: bytes) -> None:
        """Drop it, and the connection where it goes on for too long."""
        self._room -= len(piece)
        if self._room < 0:
            self._connection.linger(unread=True)

    @override
    def body_ended(self) -> None:
        self._connection.await_request()

    @override
    def start(self) -> None:
        raise AssertionError("it is never begun")

    @override
    def client_left(self) -> None:
        self._connection.keep_alive = False

    @override
    def drain(self) -> None:
        """Nothing to do: `body_ended` looks."""

    @override
    def refuse(self, status: int) -> bool:
        return False
