"""How much memory the process takes."""

import os

_STATM = "/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int | None:
    """Return the resident set size of the process in bytes, None where there is no ``/proc``.

    The kernel keeps count of it per thread and adds up now and then: it may be off by some pages
    for each thread (proc(5)), and is read in microseconds.
    """
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except FileNotFoundError:
        return None


def anonymous_bytes() -> int | None:
    """Return how much of that is no file's: what is not shared, None where there is no ``/proc``.

    Off by a little, as `resident_bytes` is.
    """
    try:
        with open(_STATM, "rb") as file:
            _, resident, of_files, *_ = map(int, file.read().split())
    except FileNotFoundError:
        return None
    return (resident - of_files) * _PAGE_BYTES


def in_mib(size: int) -> str:
    """Return a number of bytes as people read it: ``120.3 MiB``."""
    return f"{size / 2**20:.1f} MiB"
