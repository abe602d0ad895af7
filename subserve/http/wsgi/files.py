"""``wsgi.file_wrapper``: what an app returns to have a file sent (PEP 3333)."""

from typing import Protocol, Self

# Each block costs a hand-over between two threads, so the 4 or 8 KiB that frameworks suggest
# would be spent mostly on those; 64 KiB is also where asyncio's transports begin to push back.
MIN_BLOCK_BYTES = 64 * 1024


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """Iterate over a binary file-like object in blocks of at least `MIN_BLOCK_BYTES`.

    `block_size` (bytes) is a suggestion, as PEP 3333 says, and taken where it is larger.  A short
    read goes out as it is: the end of the file is an empty one.  Where the app also gives a
    ``Content-Length``, the file is sent to there and no further, which serves byte ranges.
    """

    def __init__(self, filelike: _Readable, block_size: int = MIN_BLOCK_BYTES) -> None:
        self._filelike = filelike
        self._block_size = max(block_size, MIN_BLOCK_BYTES)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        block = self._filelike.read(self._block_size)
        if not block:
            raise StopIteration
        return block

    def close(self) -> None:
        """Close the file-like object, if it can be closed."""
        close = getattr(self._filelike, "close", None)
        if close is not None:
            close()
