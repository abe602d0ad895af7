"""Counters that the coordinator and its workers share without a message.

The word is Apache httpd's.  One memory block, mapped by every interpreter of the process; a row a
worker; each field has one writer, so that no lock is needed: an aligned store of eight bytes is
seen whole by the other threads on every platform CPython runs on with own GILs.
"""

import mmap
import os
import tempfile
from enum import IntEnum

FIELD_BYTES = 8
LINE_BYTES = 64
"""A cache line of x86-64 and most ARM cores; what one side writes does not slow the other."""
ROW_BYTES = 2 * LINE_BYTES


class Counter(IntEnum):
    """The fields of a row, as places in units of `FIELD_BYTES`."""

    CONNECTIONS_ASSIGNED = 0
    """Connections handed to the worker; written by the coordinator."""
    CONNECTIONS_CLOSED = LINE_BYTES // FIELD_BYTES
    """Connections that ended; this and the rest is written by the worker's event loop thread."""
    REQUESTS_STARTED = CONNECTIONS_CLOSED + 1
    REQUESTS_FINISHED = CONNECTIONS_CLOSED + 2
    REQUESTS_TAKEN = CONNECTIONS_CLOSED + 3
    """Requests for a WSGI app that a thread has begun to serve."""


class Row:
    """A worker's counters.  Each only ever grows; differences of two tell what is open now.

    `cells` are the counters by place, for where a call for each would cost too much.
    """

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def add(self, counter: Counter) -> None:
        """Count one more; only the counter's one writer may call it."""
        self.cells[counter] += 1

    def __getitem__(self, counter: Counter) -> int:
        value: int = self.cells[counter]
        return value

    @property
    def connections(self) -> int:
        """How many connections are open, or on their way to the worker."""
        return self[Counter.CONNECTIONS_ASSIGNED] - self[Counter.CONNECTIONS_CLOSED]

    @property
    def requests(self) -> int:
        """How many requests are in flight."""
        return self[Counter.REQUESTS_STARTED] - self[Counter.REQUESTS_FINISHED]

    @property
    def queue_depth(self) -> int:
        """How many requests wait for a thread of a WSGI app."""
        return self[Counter.REQUESTS_STARTED] - self[Counter.REQUESTS_TAKEN]


class Scoreboard:
    """The shared block; `fd` is what another interpreter of the process opens it by."""

    def __init__(self, fd: int, rows: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, rows * ROW_BYTES)
        self._cells = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, rows: int) -> Scoreboard:
        """Make a block of `rows` rows, all counters 0; the caller closes it."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("subserve-scoreboard")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, rows * ROW_BYTES)
        return cls(fd, rows)

    def row(self, index: int) -> Row:
        """Return the row of the worker with this index."""
        cells = ROW_BYTES // FIELD_BYTES
        return Row(self._cells[index * cells : (index + 1) * cells])

    def close(self) -> None:
        """Close the file descriptor; the mapping lives as long as a row of it does."""
        os.close(self.fd)
