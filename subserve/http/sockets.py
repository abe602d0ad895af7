"""What the kernel knows of a connection."""

import asyncio
import fcntl
import sys
import termios


def unsent_bytes(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes the client's kernel has not acknowledged yet.

    None in the kernel's queue means none in that of the transport: the loop would have moved them.
    """
    fd = transport.get_extra_info("socket").fileno()
    if fd < 0:
        return 0
    queued = fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(queued, sys.byteorder) + transport.get_write_buffer_size()
