"""The directory that all workers share, and who may remove it.

Without ``BOARD_DATA`` the directory belongs to one run: it appears with the first worker and goes
with the last.  Workers start and stop at any time and in any order, so each of them holds a shared
`flock` on the directory for as long as it runs, and one that leaves tries to turn it into an
exclusive lock: that succeeds for the last one only.  The lock belongs to the open file, not to the
process, so it also works between workers that are threads of one process.
"""

import fcntl
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# A directory can vanish between making and locking it once per worker that leaves meanwhile.
_MAX_ATTEMPTS = 50


@dataclass(slots=True)
class DataDirectory:
    """An open data directory.  Its methods block for moments: call them in a thread."""

    path: Path
    keep: bool
    _fd: int

    @classmethod
    def open(cls, path: Path, *, keep: bool) -> Self:
        """Make the directory if there is none, and lock it against removal by other workers.

        Raises OSError when it cannot be made or is not ours, which matters in a shared ``/tmp``.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_MAX_ATTEMPTS):
            path.mkdir(mode=0o700, exist_ok=True)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | (0 if keep else os.O_NOFOLLOW))
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
                if not _same_directory(fd, path):
                    os.close(fd)
                    continue
                if not keep and os.fstat(fd).st_uid != os.getuid():
                    raise PermissionError(f"{path} belongs to another user: set BOARD_DATA")
                directory = cls(path, keep, fd)
                directory.uploads.mkdir(exist_ok=True)
                directory.bus.mkdir(exist_ok=True)
            except BaseException:
                os.close(fd)
                raise
            return directory
        raise OSError(f"{path} was removed {_MAX_ATTEMPTS} times while it was being opened")

    @property
    def uploads(self) -> Path:
        """Where uploaded files are kept."""
        return self.path / "uploads"

    @property
    def bus(self) -> Path:
        """Where each worker has the socket that wakes it."""
        return self.path / "bus"

    def close(self) -> None:
        """Let go of the directory, and remove it if it was for this run and nobody else has it."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if not self.keep:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(self.path)
        except BlockingIOError:
            pass  # another worker still runs; the one that leaves last removes the directory
        finally:
            os.close(fd)


def _same_directory(fd: int, path: Path) -> bool:
    """Whether `path` still names what `fd` was opened from, now that the lock is ours."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(named.st_mode) and os.path.samestat(named, os.fstat(fd))
