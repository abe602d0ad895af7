"""The ASGI messages that the adapter speaks, and the types of their channels (ASGI 3, HTTP)."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]


def start_message(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Message:
    """Return the message that begins a response."""
    return {"type": "http.response.start", "status": status, "headers": headers}


def body_message(data: bytes, *, last: bool) -> Message:
    """Return a message with a part of the body; `last` ends the response."""
    return {"type": "http.response.body", "body": data, "more_body": not last}
