"""The steps of the WebSocket lane that take the most time, in C.  See `docs/accelerator.md`.

Optional: whoever imports it goes on without it where there is none.
"""

def take_message(data: bytes, at: int, max_bytes: int, /) -> tuple[str | bytes, int] | None:
    """Read the message that begins at `at`, and return it with the place behind it.

    Returns None unless it is all there, in one frame that is neither compressed nor longer than
    `max_bytes`, and valid: `messages.py` is to look at everything else.
    """

def unmask(data: bytes, start: int, end: int, mask: bytes, /) -> bytes:
    """Return the bytes from `start` to `end` with the four bytes of `mask` applied."""
