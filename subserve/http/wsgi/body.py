"""``wsgi.input``: a request body read as a file, one chunk of it in memory at a time."""

import sys
from collections.abc import Callable
from typing import Self


class RequestBody:
    """The input stream of PEP 3333 over a function that delivers the body in chunks.

    `pull` blocks until there is a chunk and returns it, or ``b""`` at the end of the body; it is
    not called again after that.  What it raises (an `OSError` when the client has gone) reaches
    the app.  The methods behave as those of `io.BytesIO`; sizes are in bytes.  Not for several
    threads at once.
    """

    def __init__(self, pull: Callable[[], bytes]) -> None:
        self._pull = pull
        self._chunk = b""
        self._position = 0
        self._ended = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Return `size` bytes, fewer only at the end of the body; all of it without a size."""
        wanted = sys.maxsize if size is None or size < 0 else size
        return self._collect(wanted, to_newline=False)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line with its newline, or the first `size` bytes of a longer one."""
        wanted = sys.maxsize if size is None or size < 0 else size
        return self._collect(wanted, to_newline=True)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Return the lines that are left, or enough whole lines to hold `hint` bytes."""
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def _collect(self, wanted: int, *, to_newline: bool) -> bytes:
        """Take up to `wanted` bytes from as many chunks as that needs, or up to a newline."""
        pieces = []
        while wanted > 0 and self._fill():
            end = min(self._position + wanted, len(self._chunk))
            newline = self._chunk.find(b"\n", self._position, end) if to_newline else -1
            if newline >= 0:
                end = newline + 1
            # The slice that covers a whole chunk is that chunk, not a copy of it.
            piece = self._chunk[self._position : end]
            self._position = end
            pieces.append(piece)
            wanted -= len(piece)
            if newline >= 0:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fill(self) -> bool:
        """Make sure that the chunk at hand has bytes to give; False at the end of the body."""
        if self._position < len(self._chunk):
            return True
        if self._ended:
            return False
        self._chunk = b""  # let go of the old chunk before waiting for the next
        self._position = 0
        self._chunk = self._pull()
        self._ended = not self._chunk
        return not self._ended
