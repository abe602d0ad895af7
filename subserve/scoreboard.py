"""Counters that the coordinator and its workers share without a message.

The word is Apache httpd's.  One memory block, mapped by every interpreter of the process; a row a
worker; each field has one writer, so that no lock is needed: an aligned store of eight bytes is
seen whole by the other threads on every platform CPython runs on with own GILs.

Workers come and go: the block grows when all rows are in use, and a row is used again once its
worker is gone for good.  One that was abandoned keeps its row, for it may write to it yet.
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
    """Connections handed to the worker, less those it has not taken in and that were taken back;
    written by the coordinator."""
    CONNECTIONS_CLOSED = LINE_BYTES // FIELD_BYTES
    """Connections that ended; this and the rest is written by the worker's event loop thread."""
    REQUESTS_STARTED = CONNECTIONS_CLOSED + 1
    REQUESTS_FINISHED = CONNECTIONS_CLOSED + 2
    REQUESTS_TAKEN = CONNECTIONS_CLOSED + 3
    """Requests for a WSGI app that a thread has begun to serve."""
    CONNECTIONS_ACCEPTED = CONNECTIONS_CLOSED + 6
    """Connections that the worker has accepted by itself: see `worker.door`."""
    LOOP_BEATS = CONNECTIONS_CLOSED + 4
    """Heartbeats of the event loop: requests are being served."""
    CONTROL_BEATS = CONNECTIONS_CLOSED + 5
    """Heartbeats of the control thread, its one writer: the interpreter runs."""


class Row:
    """A worker's counters.  They grow; differences of two tell what is open now.

    `cells` are the counters by place, for where a call for each would cost too much.
    """

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def add(self, counter: Counter, count: int = 1) -> None:
        """Count `count` more; only the counter's one writer may call it."""
        self.cells[counter] += count

    def clear(self) -> None:
        """Set all counters to 0, when nobody writes to them any more."""
        for counter in Counter:
            self.cells[counter] = 0

    def __getitem__(self, counter: Counter) -> int:
        value: int = self.cells[counter]
        return value

    @property
    def connections(self) -> int:
        """How many connections are open, or on their way to the worker."""
        arrived = self[Counter.CONNECTIONS_ASSIGNED] + self[Counter.CONNECTIONS_ACCEPTED]
        return arrived - self[Counter.CONNECTIONS_CLOSED]

    @property
    def requests(self) -> int:
        """How many requests are in flight."""
        return self[Counter.REQUESTS_STARTED] - self[Counter.REQUESTS_FINISHED]

    @property
    def queue_depth(self) -> int:
        """How many requests wait for a thread of a WSGI app."""
        return self[Counter.REQUESTS_STARTED] - self[Counter.REQUESTS_TAKEN]


class Scoreboard:
    """The shared block; `fd` is what another interpreter of the process opens it by.

    The coordinator lends its rows out, by number, with `lend` and `take_back`.
    """

    def __init__(self, fd: int, rows: int) -> None:
        self.fd = fd
        self._map_rows(rows)
        self._idle = list(range(rows))

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

    def row(self, number: int) -> Row:
        """Return a row; whoever opened the block by its descriptor knows the number of its own."""
        cells = ROW_BYTES // FIELD_BYTES
        return Row(self._cells[number * cells : (number + 1) * cells])

    def lend(self) -> int:
        """Return the number of a row that is not in use, with all counters 0."""
        if not self._idle:
            # A second mapping of the same memory: those who hold rows of the first notice nothing.
            rows = 2 * self._rows
            os.ftruncate(self.fd, rows * ROW_BYTES)
            self._idle = list(range(self._rows, rows))
            self._map_rows(rows)
        return self._idle.pop(0)

    def take_back(self, number: int) -> None:
        """Take a row back from a worker of which nothing runs any more."""
        self.row(number).clear()
        self._idle.append(number)

    def _map_rows(self, rows: int) -> None:
        self._rows = rows
        self._map = mmap.mmap(self.fd, rows * ROW_BYTES, trackfd=False)
        self._cells = memoryview(self._map).cast("Q")

    def close(self) -> None:
        """Close the file descriptor; the mapping lives as long as a row of it does."""
        os.close(self.fd)
