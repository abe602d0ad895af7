"""The steps of the HTTP/1.1 lane that take the most time, in C.  See `docs/accelerator.md`.

Optional: whoever imports it goes on without it where there is none.
"""

from typing import Any

type Head = tuple[int, str, str, bytes, bytes, list[tuple[bytes, bytes]], int, bool, bool]
"""End, method, path, raw path, query, headers, length, keep-alive, forwarded: see `parse_head`."""

def parse_head(data: bytes, max_bytes: int, max_count: int, /) -> Head | None:
    """Read the head of a request that `data` begins with, if it is complete and unremarkable.

    The values: the place behind the head; the method; the path, which is ASCII and needed no
    decoding; the path and the query as sent; a new list of pairs of lower-case name and value; what
    Content-Length says, or -1; False where `Connection: close` asks to close; whether there
    are headers that proxies write, as `forwarded.py` tells them.

    Returns None for anything else, valid or not: `head.py` is to look at it.  A head is
    unremarkable in HTTP/1.1, with a common method, a path without percent signs, one Host that is
    no address in brackets, at most one Content-Length, Content-Type and Connection, which is
    keep-alive or close, and without Transfer-Encoding, Expect, Upgrade and TE; within the limits,
    `max_bytes` for all of it and `max_count` for the number of its fields.

    It begins at the beginning each time: for a head that comes in many pieces that is too often.
    """

def whole_response(
    status_line: bytes, headers: Any, body: Any, date: bytes, closing: bytes, bodiless: bool, /
) -> bytes | None:
    """Return a response in one piece, as `response.py` and the lane would write it.

    `headers` and `body` are what the app gave, of any type.  `date` is the line of that header,
    left out if the app sent one; `closing` is the end of the head, its empty line included.

    Returns None where the other path has to look: `bodiless`, types other than bytes in a list or
    tuple of pairs, names or values that are not valid, headers about the connection or the framing
    (but a Content-Length that is right).
    """

def send_now(descriptor: int, data: bytes, /) -> int:
    """Send what the kernel takes at once of `data`, without giving up the GIL; return how much.

    Raises `OSError`: `BlockingIOError` where it takes nothing, `BrokenPipeError` and its like where
    the client has gone.
    """

def receive_now(descriptor: int, size: int, /) -> bytes:
    """Receive what is there, at most `size` bytes (1 to 262,144), without giving up the GIL.

    Returns ``b""`` at the end.  Raises `OSError`: `BlockingIOError` where nothing is there.
    """

def wsgi_head(status: Any, headers: Any, /) -> tuple[int, bytes, int, bool] | None:
    """Read what an app gives to ``start_response``, of any type, if it is unremarkable.

    Returns the status, the header lines with names in lower case but without Content-Length, what
    that says or -1, and whether there is a Date.  Returns None for anything else, valid or not:
    `wsgi/head.py` is to look at it.
    """

def add_headers(
    environ: dict[str, Any], headers: list[tuple[bytes, bytes]], keys: dict[bytes, str], /
) -> int:
    """Put `headers` into `environ` under the variables that `keys` has for their names.

    Returns how many it has put in: it stops before the first whose name is not in `keys`, or whose
    variable is empty or in `environ` already.
    """
