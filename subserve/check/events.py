"""What the process that is thrown away tells, and how: one datagram of JSON for each event.

Interpreters and threads of it write to the same socket without a lock; the kernel keeps the
datagrams whole and in order.
"""

import json
import os
from dataclasses import astuple, dataclass

MAX_TEXT_CHARS = 12_000
"""Longer texts lose their beginning: a datagram has to fit into the send buffer (unix(7))."""

MAX_EVENT_BYTES = 160_000
"""Above the longest event: JSON takes up to 12 bytes for a character."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The process begins something; `text` says what, to a user who waits."""

    text: str


@dataclass(frozen=True, slots=True)
class Loading:
    """A worker begins to load an extension module, and is not done until there is more of it."""

    worker: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker has loaded one: `mode` and `phases` as in `subserve.extensions`.

    `memory` (bytes) and `threads` are what it added, without the modules that it loaded in turn;
    None in a worker that is not alone in what it does, where that cannot be told.
    """

    worker: str
    name: str
    path: str
    mode: str
    phases: int
    shared_bytes: int
    memory: int | None
    threads: int | None


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """A worker could not load one; `error` is the exception as text."""

    worker: str
    name: str
    path: str
    error: str


@dataclass(frozen=True, slots=True)
class Noted:
    """The app did something that means another thing in a worker; `where` is ``file:line``."""

    worker: str
    what: str
    detail: str
    where: str


@dataclass(frozen=True, slots=True)
class Up:
    """A worker is ready; `memory` is what it took (bytes), None if it did not start alone."""

    worker: str
    interface: str
    memory: int | None


@dataclass(frozen=True, slots=True)
class NotUp:
    """The app could not be loaded or started."""

    worker: str
    reason: str
    traceback: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A worker answered a request; or it did not: `status` is 0, and `error` says why."""

    worker: str
    path: str
    status: int
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Hangs:
    """A worker did not do in time what it was to do."""

    worker: str
    doing: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker has ended.  `threads` are those that would not end, `broken` is a traceback."""

    worker: str
    threads: str
    broken: str


@dataclass(frozen=True, slots=True)
class Finished:
    """All is done but for the end of the process.

    `left_bytes` is what each worker that was recycled has left behind.
    """

    left_bytes: int | None


type Event = (
    Stage | Loading | Loaded | NotLoaded | Noted | Up | NotUp | Answered | Hangs | Gone | Finished
)

_BY_NAME: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        Stage,
        Loading,
        Loaded,
        NotLoaded,
        Noted,
        Up,
        NotUp,
        Answered,
        Hangs,
        Gone,
        Finished,
    )
}


def send(fd: int, event: Event) -> None:
    """Write an event to the socket `fd`; whoever waited for it may be gone, which is no matter."""
    values = [v[-MAX_TEXT_CHARS:] if isinstance(v, str) else v for v in astuple(event)]
    try:
        os.write(fd, json.dumps([type(event).__name__, *values]).encode())
    except BrokenPipeError:
        return


def decode(datagram: bytes) -> Event:
    """Return the event that `send` wrote.  Raises `ValueError` or `KeyError` for anything else."""
    name, *values = json.loads(datagram)
    return _BY_NAME[name](*values)
