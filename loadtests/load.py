"""Clients that request one thing over and over, and take note of whatever goes wrong."""

import http.client
import threading
import time
from dataclasses import dataclass, field
from typing import Self

ANSWER_SECONDS = 30.0
"""How long a client waits for an answer before it counts as none."""


@dataclass
class Tally:
    """What the clients have seen.

    `retried`: the server closed an idle connection just when the next request was sent over it,
    which a client repeats by itself (RFC 9112, section 9.3.1).
    """

    answered: int = 0
    retried: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0


class Load:
    """A context in which `clients` threads request `path`, each over a connection of its own.

    Every `per_connection` requests a client connects anew; between two requests it pauses for
    `pause` seconds.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str = "/",
        *,
        clients: int = 8,
        per_connection: int = 100,
        pause: float = 0.0,
    ) -> None:
        self._address = address
        self._path = path
        self._per_connection = per_connection
        self._pause = pause
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._request_on) for _ in range(clients)]
        self.tally = Tally()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _request_on(self) -> None:
        while not self._over.is_set():
            connection = http.client.HTTPConnection(*self._address, timeout=ANSWER_SECONDS)
            try:
                self._use(connection)
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self.tally.failures.append(repr(error))
                self._over.wait(0.1)
            finally:
                connection.close()

    def _use(self, connection: http.client.HTTPConnection) -> None:
        for number in range(self._per_connection):
            if self._over.wait(self._pause) if self._pause else self._over.is_set():
                return
            begin = time.monotonic()
            try:
                connection.request("GET", self._path)
                response = connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                if number == 0 or isinstance(error, ConnectionResetError):
                    raise
                with self._lock:
                    self.tally.retried += 1
                return
            response.read()
            self._note(response.status, time.monotonic() - begin)
            if response.getheader("connection") == "close":
                return

    def _note(self, status: int, seconds: float) -> None:
        with self._lock:
            self.tally.answered += 1
            self.tally.slowest = max(self.tally.slowest, seconds)
            if status != 200:
                self.tally.failures.append(f"status {status}")
