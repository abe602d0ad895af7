"""How many file descriptors there are: as many as the system lets us have, and some kept back."""

import contextlib
import os
import resource

MOST = 2**20
"""What the limit is raised to at most: containers may allow a thousand times as many, and there are
libraries that go through all of them."""

KEPT_BACK = (16, 256)
"""Of all descriptors a tenth, but within these bounds, is no connection's: an app that accepts its
next client must still be able to open a file or reach its database.  Not measured."""


def raise_limit() -> int:
    """Raise the soft limit of this process to the hard one (setrlimit(2)); return what it is now.

    Most systems start a process with 1024 for the sake of select(2), which nothing here uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):  # a sandbox that does not let us
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def kept_back(limit: int) -> int:
    """Return how many of `limit` descriptors are not for connections."""
    least, most = KEPT_BACK
    return min(max(limit // 10, least), most)


def ceiling(limit: int) -> int:
    """Return from which number on a descriptor is one that is kept back; call it once all is open.

    Numbers are given out from below, so a high one means that few are left.  At most a quarter of
    what is free now is kept back.
    """
    free = os.dup(0)
    os.close(free)
    return limit - min(kept_back(limit), (limit - free) // 4)
