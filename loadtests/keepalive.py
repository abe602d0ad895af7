"""Clients that ask without end, and keep count of what was not answered.

Each reads an answer to its end before it asks again, and makes a new connection only when it was
told to (``Connection: close``) or has chosen to.  So every request that is not answered is one
that the server has lost.
"""

import random
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

PATIENCE = 30.0
"""Seconds for an answer, or a connection."""

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"

type Address = tuple[str, int] | str


@dataclass
class Client:
    """One client.  `pause` is the longest time between its requests, 0 for none.

    `keep` is how many requests it makes over a connection, at most.
    """

    address: Address
    pause: float = 0.0
    keep: int = 1_000_000
    answered: int = 0
    slowest: float = 0.0
    bodies: dict[bytes, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def run(self, stopped: threading.Event) -> None:
        """Ask until `stopped`."""
        while not stopped.is_set():
            begin = time.monotonic()
            stage = "connecting"
            try:
                with self._connect() as sock:
                    for number in range(self.keep):
                        stage = f"request {number + 1} of a connection"
                        begin = time.monotonic()
                        if self._ask(sock) or stopped.is_set():
                            break
                        if self.pause:
                            stopped.wait(random.uniform(0.0, self.pause))
            except OSError as error:
                moment = time.strftime("%H:%M:%S")
                self.failures.append(f"{moment} {stage}: {type(error).__name__} {error}")
                time.sleep(0.01)  # a server that is down is not to be asked as fast as we can
            self.slowest = max(self.slowest, time.monotonic() - begin)

    def _connect(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE)
        try:
            sock.connect(self.address)
        except BaseException:
            sock.close()
            raise
        return sock

    def _ask(self, sock: socket.socket) -> bool:
        """Ask once; return whether the server closes the connection now.  Raises `OSError`."""
        sock.sendall(REQUEST)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += _more(sock, answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        while len(body) < int(headers[b"content-length"]):
            body += _more(sock, answer)
        if not status.startswith(b"http/1.1 200 "):
            raise OSError(status.decode("latin-1"))
        self.answered += 1
        self.bodies[body] = self.bodies.get(body, 0) + 1
        return headers.get(b"connection") == b"close"


def _more(sock: socket.socket, before: bytes) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError(f"closed after {len(before)} bytes of the answer")
    return data


class Load:
    """Several clients in threads of their own, for as long as the context lasts."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=client.run, args=(self._stopped,)) for client in clients
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        """Requests that were answered."""
        return sum(client.answered for client in self.clients)

    @property
    def failures(self) -> list[str]:
        """What became of those that were not."""
        return [failure for client in self.clients for failure in client.failures]

    @property
    def bodies(self) -> set[bytes]:
        """What was answered."""
        return {body for client in self.clients for body in client.bodies}

    @property
    def slowest(self) -> float:
        """The longest time that a connection with its answer took, in seconds."""
        return max(client.slowest for client in self.clients)


def mixed(addresses: list[Address]) -> list[Client]:
    """Return clients of every kind for each address: busy, with pauses, with new connections."""
    return [
        client
        for address in addresses
        for client in (
            Client(address),
            Client(address),
            Client(address, keep=1),
            Client(address, pause=0.02),
            Client(address, pause=0.2),
            Client(address, pause=2.0, keep=5),
        )
    ]
