"""Clients that know what happens on the wire: raw sockets, HTTP/2, and a gate for handlers."""

import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.settings

DEADLINE = 30.0
"""Seconds for anything that is waited for; nothing comes near it unless it hangs."""


def wait_until(true: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until `true()` is; fail with `what` where it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@dataclass
class Answer:
    """A response as it came over the wire; `complete` is False where it broke off."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    complete: bool = True


class Wire:
    """A connection on which a test sends what it likes.  Reading stops at `DEADLINE`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self._rest = b""

    @classmethod
    def connect(
        cls,
        address: tuple[str, int] | str,
        context: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> Self:
        """Connect to a host and port, or to the path of a unix socket."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if isinstance(address, tuple) and ":" in address[0]:
            family = socket.AF_INET6
        sock: socket.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(DEADLINE)
        try:
            sock.connect(address)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname="localhost")
        except OSError:
            sock.close()
            raise
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with a RST, as a client does that crashes with data unread."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def get(self, path: str, *headers: str, method: str = "GET") -> Self:
        """Send a request without a body."""
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]
        return self.send("\r\n".join(lines).encode())

    def receive(self) -> bytes:
        """Return what comes next, nothing once the server has closed."""
        data, self._rest = self._rest, b""
        return data or self.sock.recv(65536)

    def read_until(self, end: bytes) -> bytes:
        """Return all up to and including `end`, or all there is where the server closes first."""
        data = b""
        while end not in data and (more := self.receive()):
            data += more
        head, found, self._rest = data.partition(end)
        return head + found

    def read_exactly(self, size: int) -> bytes:
        """Return `size` bytes, or less where the server closes first."""
        parts, missing = [], size
        while missing and (more := self.receive()):
            parts.append(more[:missing])
            self._rest = more[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    def read_to_end(self) -> bytes:
        """Return all that comes until the server closes."""
        return b"".join(iter(self.receive, b""))

    def answer(self, *, to_head: bool = False) -> Answer:
        """Read one response."""
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        assert head.endswith("\r\n\r\n"), f"closed within the head: {head!r}"
        status, *lines = head.split("\r\n")[:-2]
        matched = re.fullmatch(r"HTTP/1\.[01] (\d{3}) ?.*", status)
        assert matched, head
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        answer = Answer(int(matched[1]), headers)
        if to_head or answer.status in {204, 304} or answer.status < 200:
            return answer
        if headers.get("transfer-encoding") == "chunked":
            self._read_chunks(answer)
        elif "content-length" in headers:
            size = int(headers["content-length"])
            answer.body = self.read_exactly(size)
            answer.complete = len(answer.body) == size
        else:
            answer.body = self.read_to_end()
        return answer

    def _read_chunks(self, answer: Answer) -> None:
        parts, size = [], -1
        while size:
            line = self.read_until(b"\r\n")
            answer.complete = line.endswith(b"\r\n")
            size = int(line, 16) if answer.complete else 0
            chunk = self.read_exactly(size + 2) if answer.complete else b""
            parts.append(chunk[:size])
            answer.complete = answer.complete and chunk.endswith(b"\r\n")
            size = size if answer.complete else 0
        answer.body = b"".join(parts)

    def closed_cleanly(self) -> bool:
        """Wait for the end and say whether it was an orderly one, with nothing sent before."""
        try:
            return self.receive() == b""
        except ConnectionResetError:
            return False


@dataclass
class Stream:
    """What has come over one HTTP/2 stream."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class H2:
    """An HTTP/2 client on a `Wire`, which does nothing by itself but acknowledge.

    With `window` 0 it lets the server send nothing of any body.
    """

    def __init__(self, wire: Wire, window: int = 65535, *, upgraded: bool = False) -> None:
        self.wire = wire
        self.window = window
        self.goaway: int | None = None
        self.last_stream: int | None = None
        """What the last GOAWAY has named."""
        self.closed = False
        self.streams: dict[int, Stream] = {1: Stream()} if upgraded else {}
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8")
        )
        # h2 takes a GOAWAY for the end of everything; RFC 9113, section 6.8, lets streams finish.
        machine, state = self.connection.state_machine, h2.connection.ConnectionState
        goaway = h2.connection.ConnectionInputs.RECV_GOAWAY
        machine._transitions = {
            **machine._transitions,
            (state.CLIENT_OPEN, goaway): (None, state.CLIENT_OPEN),
        }
        self.connection.local_settings = h2.settings.Settings(
            initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        if upgraded:
            self.connection.initiate_upgrade_connection()
        else:
            self.connection.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.wire.send(self.connection.data_to_send())

    def open(self, path: str, *headers: tuple[str, str], method: str = "GET") -> int:
        """Send the head of a request, and its end where it is a GET; return the stream's id."""
        stream = self.connection.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "test")]
        ends = method in {"GET", "HEAD"}
        self.connection.send_headers(stream, [*pseudo, (":path", path), *headers], end_stream=ends)
        self.streams[stream] = Stream()
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send a part of a body, as the server lets us; stop where it resets the stream."""
        while data and not self.streams[stream].over:
            room = min(
                self.connection.local_flow_control_window(stream),
                self.connection.max_outbound_frame_size,
            )
            if room <= 0:
                self.step()
                continue
            self.connection.send_data(stream, data[:room])
            data = data[room:]
            self.flush()
            if select.select([self.wire.sock], [], [], 0)[0]:
                self.step()
        if end and not self.streams[stream].over:
            self.connection.end_stream(stream)
            self.flush()

    def step(self) -> None:
        """Take in what comes next."""
        data = self.wire.receive()
        if not data:
            self.closed = True
            return
        for event in self.connection.receive_data(data):
            self._take(event)
        self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=number, headers=headers):
                self.streams[number].headers = dict(headers)
                self.streams[number].status = int(self.streams[number].headers[":status"])
            case h2.events.DataReceived(stream_id=number, data=data):
                self.streams[number].body += data
                if event.flow_controlled_length and self.window:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, number)
            case h2.events.StreamEnded(stream_id=number):
                self.streams[number].ended = True
            case h2.events.StreamReset(stream_id=number, error_code=code):
                self.streams[number].reset = int(code)
            case h2.events.ConnectionTerminated(error_code=code, last_stream_id=last):
                self.goaway = int(code)
                self.last_stream = last or 0

    def until(self, condition: Callable[[], object]) -> None:
        """Take in what comes until `condition` is fulfilled, the server closes, or `DEADLINE`."""
        deadline = time.monotonic() + DEADLINE
        while not condition() and not self.closed:
            assert time.monotonic() < deadline, f"nothing of it: {self.streams}"
            self.step()

    def get(self, path: str) -> Stream:
        """Send a GET and wait for its response."""
        return self.finish(self.open(path))

    def post(self, path: str, body: bytes, *headers: tuple[str, str]) -> Stream:
        """Send a POST and wait for its response."""
        stream = self.open(path, *headers, method="POST")
        self.send(stream, body, end=True)
        return self.finish(stream)

    def finish(self, number: int) -> Stream:
        """Wait for the end of a stream."""
        stream = self.streams[number]
        self.until(lambda: stream.over)
        return stream


class Stopwatch:
    """Measures how long something takes, less the time in which the machine had no time for us.

    On a machine that others keep busy any process is held up now and then; a thread that does
    nothing but sleep sees for how long.
    """

    _INTERVAL = 0.02
    _NOISE = 0.005

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._held_up = 0.0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed = time.monotonic() - self._begun
        self._over.set()
        self._thread.join()
        self.seconds = elapsed - self._held_up

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self._INTERVAL):
            now = time.monotonic()
            late = now - before - self._INTERVAL
            self._held_up += late if late > self._NOISE else 0.0
            before = now


class Gate:
    """Holds a handler up: it connects to `port` and goes on when the gate is opened."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE)
        self.port: int = self._listener.getsockname()[1]
        self._waiting: list[socket.socket] = []

    def wait(self, count: int = 1) -> None:
        """Wait until `count` more handlers are at the gate."""
        for _ in range(count):
            self._waiting.append(self._listener.accept()[0])

    def nobody_waits(self) -> bool:
        """Say that nobody else has come: as far as can be told in a moment."""
        return not select.select([self._listener], [], [], 0.2)[0]

    def open(self, word: bytes = b"") -> None:
        """Let all through that wait, with `word` to take along."""
        while self._waiting:
            with self._waiting.pop() as handler:
                handler.sendall(word)

    def close(self) -> None:
        self.open()
        self._listener.close()


@contextmanager
def gate() -> Iterator[Gate]:
    made = Gate()
    try:
        yield made
    finally:
        made.close()
