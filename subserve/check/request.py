"""One GET request over a connected socket."""

import re
import socket
import time

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_READ_BYTES = 65536


class NoAnswer(Exception):
    """The text says why."""


def get(sock: socket.socket, path: str, timeout: float) -> int:
    """Request `path` and read the answer to its end; return its status.

    `timeout` is in seconds, for all of it.  Raises `NoAnswer`.
    """
    deadline = time.monotonic() + timeout
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    beginning = b""
    try:
        sock.settimeout(timeout)
        sock.sendall(head.encode())
        while data := sock.recv(_READ_BYTES):
            beginning = (beginning + data)[:64]
            sock.settimeout(max(0.001, deadline - time.monotonic()))
    except TimeoutError:
        raise NoAnswer(f"no complete answer within {timeout:g} s") from None
    except OSError as error:
        raise NoAnswer(f"the connection broke: {error}") from error
    match = _STATUS.match(beginning)
    if match is None:
        raise NoAnswer("the connection was closed without an answer")
    return int(match[1])
