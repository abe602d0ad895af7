"""The pid file: who runs here, for service managers and scripts."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from subserve.errors import ConfigError


@contextmanager
def pid_file(path: str) -> Iterator[None]:
    """Hold a file with our process id in it; an empty path is none.

    The file is locked while we live: so one that a dead server has left is told from that of a
    running one, also where its number has been given to somebody else (in a container each server
    is process 1).  Raises `ConfigError` where another server holds it, or where it cannot be made.
    """
    if not path:
        yield
        return
    fd = _claim(path)
    try:
        yield
    finally:
        # Unlinked before it is unlocked: nobody may lock what is about to go.
        try:
            if _is_same(fd, path):
                os.unlink(path)
        except PermissionError:
            os.ftruncate(fd, 0)  # made as root, whom we are no more
        os.close(fd)


def _claim(path: str) -> int:
    try:
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = os.read(fd, 32).decode("ascii", "replace").strip()
                os.close(fd)
                raise ConfigError(
                    f"--pid-file {path}: a running server holds it, process {other or 'unknown'}"
                ) from None
            if _is_same(fd, path):
                break
            os.close(fd)  # its owner has removed it before we had the lock
        text = f"{os.getpid()}\n".encode()
        os.pwrite(fd, text, 0)
        os.ftruncate(fd, len(text))
    except OSError as error:
        raise ConfigError(f"--pid-file {path}: {error.strerror}") from error
    return fd


def _is_same(fd: int, path: str) -> bool:
    """Tell whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
