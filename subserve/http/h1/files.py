"""A file as the body of a response, sent by the kernel where it can."""

import asyncio
import os
from typing import TYPE_CHECKING, BinaryIO, Final

from subserve.http.exchange import ClientGone

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection

BLOCK_BYTES: Final = 256 * 1024
"""How much is sent before others have their turn; a slow disk holds the loop for one block."""


async def send_file(connection: Connection, file: BinaryIO, size: int) -> None:
    """Send the first `size` bytes of `file` behind what the connection has written.

    Uses sendfile(2), but not under TLS.  Raises `ClientGone` where the client leaves, and
    `RuntimeError` where the file has become shorter than it was.
    """
    if connection.tls is not None or not hasattr(os, "sendfile"):
        await _copy(connection, file, size)
        return
    await connection.flushed()
    # A descriptor of our own to watch: that of a transport is the transport's.
    fd = os.dup(connection.transport.get_extra_info("socket").fileno())
    try:
        await _send(connection, fd, file.fileno(), size)
    finally:
        os.close(fd)


async def _send(connection: Connection, fd: int, source: int, size: int) -> None:
    offset = 0
    while offset < size:
        if connection.gone:
            raise ClientGone
        try:
            sent = os.sendfile(fd, source, offset, min(BLOCK_BYTES, size - offset))
        except BlockingIOError:
            await _writable(connection, fd)
            continue
        except OSError as error:
            raise ClientGone from error
        if sent == 0:
            raise RuntimeError(f"a file of {size} bytes has shrunk to {offset}")
        offset += sent
        await asyncio.sleep(0)


async def _writable(connection: Connection, fd: int) -> None:
    """Wait until the kernel takes more; raise `ClientGone` after the write time-out."""
    loop = connection.lane.loop
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        async with asyncio.timeout(connection.lane.write_timeout):
            await ready.wait()
    except TimeoutError:
        raise ClientGone("a client has stopped reading") from None
    finally:
        loop.remove_writer(fd)


async def _copy(connection: Connection, file: BinaryIO, size: int) -> None:
    left = size
    while left:
        block = await asyncio.to_thread(file.read, min(BLOCK_BYTES, left))
        if not block:
            raise RuntimeError(f"a file of {size} bytes has shrunk to {size - left}")
        if connection.gone:
            raise ClientGone
        connection.write(block)
        left -= len(block)
        if (writable := connection.writable) is not None:
            await writable.wait()
