"""A line in the access log for each request."""

import logging
import os
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from subserve.log import write_access

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class AccessLog:
    """Writes to `logger` what `line_format` asks for; see ``--access-log-format``."""

    def __init__(self, logger: logging.Logger, line_format: str) -> None:
        self.logger = logger
        self.line_format = line_format

    def write(
        self, scope: Mapping[str, Any], status: int, head: bytes, size: int, seconds: float
    ) -> None:
        """Log one request: its ASGI scope, and the head, body size and duration of its response."""
        write_access(self.logger, self.line_format, _Atoms(scope, status, head, size, seconds))


class _Atoms(dict[str, object]):
    """Makes an atom when the format asks for it."""

    def __init__(
        self, scope: Mapping[str, Any], status: int, head: bytes, size: int, seconds: float
    ) -> None:
        super().__init__()
        self._scope = scope
        self._status = status
        self._head = head
        self._size = size
        self._seconds = seconds

    def __missing__(self, name: str) -> object:
        if name.startswith("{"):
            return self._header(name[1:-2].lower().encode("latin-1"), name[-2:])
        return self._simple(name)

    def _header(self, name: bytes, side: str) -> str:
        pairs = self._scope["headers"] if side == "}i" else self._response_headers()
        for other, value in pairs:
            if other.lower() == name:
                return str(value, "latin-1")
        return "-"

    def _response_headers(self) -> list[tuple[bytes, bytes]]:
        lines = self._head.split(b"\r\n")[1:-1]
        pairs = [line.split(b": ", 1) for line in lines]
        return [(name, value) for name, value in pairs]

    def _simple(self, name: str) -> object:
        scope = self._scope
        query = scope["query_string"].decode("latin-1")
        path = scope["path"]
        whole = f"{path}?{query}" if query else path
        match name:
            case "h":
                return ":".join(map(str, scope["client"])) if scope["client"] else "-"
            case "m":
                return scope["method"]
            case "U":
                return path
            case "q":
                return query
            case "Uq":
                return whole
            case "r":
                return f"{scope['method']} {path} {scope['http_version']}"
            case "R":
                return f"{scope['method']} {whole} {scope['http_version']}"
            case "H":
                return scope["http_version"]
            case "S":
                return scope["scheme"]
            case "s":
                return self._status
            case "st":
                return _PHRASES.get(self._status, "-")
            case "b" | "B":
                return self._size
            case "f":
                return self._header(b"referer", "}i")
            case "a":
                return self._header(b"user-agent", "}i")
            case "t":
                return time.strftime("[%d/%b/%Y:%H:%M:%S %z]")
            case "T":
                return int(self._seconds)
            case "D":
                return int(self._seconds * 1_000_000)
            case "L":
                return f"{self._seconds:.6f}"
            case "p":
                return f"<{os.getpid()}>"
        return "-"
