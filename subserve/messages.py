"""What goes over a control channel, and how it is framed.

The coordinator sends commands, a worker sends reports; so do the supervisor and a serving process.
A frame is the length of its body in four bytes, big-endian, and the body, a JSON array of the
message's name and its fields.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass

from subserve.errors import ChannelError

_LENGTH = struct.Struct("!I")

MAX_FRAME_BYTES = 1024 * 1024
"""Far above any message; a longer frame means that the two sides are out of step."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Command: take no more connections, finish those you have, then end.

    `timeout` is what is left of the graceful timeout, in seconds.  `idle_grace` is for how long an
    idle connection may still bring a request, which is answered with ``Connection: close``: worth
    waiting for where somebody else serves meanwhile.
    """

    timeout: float
    idle_grace: float = 0.0


@dataclass(frozen=True, slots=True)
class DumpStacks:
    """Command: log where each of your threads is; your event loop has not run for too long."""


@dataclass(frozen=True, slots=True)
class ReopenLogs:
    """Command: open your log files anew, for they may have been moved away."""


@dataclass(frozen=True, slots=True)
class Accept:
    """Command: accept connections by yourself, you are the only worker.

    `listeners` are descriptors, yours from here on; `max_connections` is how many connections you
    may have, `max_descriptor` the highest number that a connection's descriptor may have.
    """

    listeners: list[int]
    max_connections: int
    max_descriptor: int


@dataclass(frozen=True, slots=True)
class StopAccepting:
    """Command: leave it to the coordinator again.

    Report: somebody else has to, for the reason that accepting will meet with again.
    """


@dataclass(frozen=True, slots=True)
class Ready:
    """Report: the app is loaded and started; `interface` is ``asgi`` or ``wsgi``."""

    interface: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Report: the app could not be loaded or started.

    `reason` says in one line what is wrong and what to do, `traceback` is the app's own, or empty;
    `exit_code` is what the server is to exit with.  The coordinator logs them, once for all
    workers that fail alike.
    """

    reason: str
    traceback: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Launch:
    """Command to a serving process, the first: what to serve, and where.

    `config` is a `Config` as JSON, `listening` are inherited descriptors, `urls` their names.
    `sys_path` is the supervisor's: modules are found where they would be found without it.
    `crash_fd` is the inherited descriptor of a file for what is to be said in a crash.
    """

    config: str
    listening: list[int]
    urls: list[str]
    sys_path: list[str]
    crash_fd: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Command to a serving process: do as if this signal had been sent to you.

    A message, since a signal could come before there is a handler, and end the process.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Command to a serving process: another one serves now; finish what you have, then end."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Report of a serving process: all workers are ready, connections are accepted."""

    interface: str


@dataclass(frozen=True, slots=True)
class TurnOver:
    """Report of a serving process: it should be replaced soon; `reason` completes a log line."""

    reason: str


type Message = (
    Drain
    | DumpStacks
    | ReopenLogs
    | Accept
    | StopAccepting
    | Ready
    | Failed
    | Launch
    | Signal
    | Retire
    | Serving
    | TurnOver
)

_BY_NAME: dict[str, type[Message]] = {
    cls.__name__: cls
    for cls in (
        Drain,
        DumpStacks,
        ReopenLogs,
        Accept,
        StopAccepting,
        Ready,
        Failed,
        Launch,
        Signal,
        Retire,
        Serving,
        TurnOver,
    )
}


def encode(message: Message) -> bytes:
    """Return the frame of a message."""
    body = json.dumps([type(message).__name__, *astuple(message)]).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise ChannelError(f"a message of {len(body)} bytes is longer than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes in, in pieces of any size; messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add `data` and yield the messages it completes; raise `ChannelError` on nonsense."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ChannelError(f"a frame claims {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _decode(body)


def _decode(body: bytes) -> Message:
    try:
        name, *values = json.loads(body)
        return _BY_NAME[name](*values)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ChannelError(f"not a message: {body[:80]!r}") from error
