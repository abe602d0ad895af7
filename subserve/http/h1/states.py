"""What a connection and the requests on it know of each other."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol


class State(Enum):
    """Where a connection is in its life."""

    IDLE = auto()
    """Between requests; nothing of the next has come."""
    HEAD = auto()
    """A part of a head has come."""
    ACTIVE = auto()
    """A request is being served."""
    LINGERING = auto()
    """Our last words are out; what the client still sends is dropped (RFC 9112, section 9.6)."""
    CLOSING = auto()
    """Closed, but for what the client has not taken yet."""
    HANDED_OVER = auto()
    """Another lane serves it."""


class Outcome(Enum):
    """How a response ended that another thread has written."""

    KEEP_ALIVE = auto()
    CLOSE = auto()
    BROKEN_OFF = auto()
    """It is not complete."""
    RESET = auto()
    """It is not complete, and nothing but the connection's end marks its own."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request asks for that few do.

    `expect_continue`: to be told before it sends its body (RFC 9110, section 10.1.1); `trailers`:
    trailers behind the response, which it can read (section 6.5.1).
    """

    expect_continue: bool = False
    trailers: bool = False


NO_WISHES: Final = Wishes()


class Request(Protocol):
    """One request while it is served, whatever the app speaks."""

    def feed(self, piece: bytes) -> None:
        """Take a part of the body in."""

    def body_ended(self) -> None:
        """Take note that the body is complete."""

    @property
    def unread_bytes(self) -> int:
        """How much of the body waits for the app."""

    def start(self) -> None:
        """Begin to run the app."""

    def client_left(self) -> None:
        """Take note that no more will come from the client, or that it has gone."""

    def drain(self) -> None:
        """Take note that the worker drains."""

    def refuse(self, status: int) -> bool:
        """Answer `status` in the app's place; False where its response has begun."""
