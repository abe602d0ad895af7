"""Uploaded files on disk: streamed in, hashed on the way, never held in memory whole."""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from anyio import to_thread

_READ_BYTES = 1024 * 1024


class TooLarge(Exception):
    """The file has more bytes than `FileStore.max_bytes`."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that is complete and on disk; `size` is in bytes."""

    id: UUID
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FileStore:
    """Files in one directory, each named by its id."""

    directory: Path
    max_bytes: int

    async def save(self, chunks: AsyncIterator[bytes]) -> Saved:
        """Write `chunks` to a new file.

        Raises TooLarge as soon as there is one byte too many.  Whatever goes wrong, a client that
        leaves included, nothing is left on disk.
        """
        identity = uuid4()
        path = self.path(identity)
        partial = path.with_suffix(".part")
        digest = hashlib.sha256()
        size = 0
        # Other tasks run while a thread writes; O_EXCL is in "x", so no file is overwritten.
        out = await to_thread.run_sync(open, partial, "xb")
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > self.max_bytes:
                    raise TooLarge
                if chunk:
                    digest.update(chunk)
                    await to_thread.run_sync(out.write, chunk)
            await to_thread.run_sync(out.close)
            os.replace(partial, path)
        except BaseException:
            out.close()
            partial.unlink(missing_ok=True)
            raise
        return Saved(identity, size, digest.hexdigest())

    def path(self, identity: UUID) -> Path:
        """Where the bytes of a file are."""
        return self.directory / identity.hex

    def hash(self, identity: UUID) -> str:
        """Read a file again and hash it.  Blocks: for routes that run in a thread.

        Raises FileNotFoundError.
        """
        with open(self.path(identity), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def delete(self, identity: UUID) -> None:
        """Remove a file's bytes; it is no error if they are gone."""
        self.path(identity).unlink(missing_ok=True)


async def read_chunks(read: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    """The chunks of something with an async ``read(size)``, such as an UploadFile."""
    while chunk := await read(_READ_BYTES):
        yield chunk
