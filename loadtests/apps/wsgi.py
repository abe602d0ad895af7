"""Plain WSGI apps."""

from collections.abc import Callable
from typing import Any

HELLO = b"Hello, world!"


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer 13 bytes."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])
    return [HELLO]
