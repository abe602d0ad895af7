"""The folder of a serving process for private copies of libraries, in the temporary folder."""

import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

log = logging.getLogger("subserve")


def make() -> str:
    """Make the folder of this process and return its path.

    Its name has the process id in it, so that the supervisor finds what was left by a process that
    was killed.
    """
    return tempfile.mkdtemp(prefix=_prefix(os.getpid()))


def remove(path: str) -> None:
    """Remove a folder with all that is in it, as far as that goes; it holds nothing of value."""
    shutil.rmtree(path, ignore_errors=True)


def sweep(pid: int, uid: int) -> int:
    """Remove the folders that process `pid` of user `uid` has left; return how many.

    In a temporary folder that others write to, whoever may have chosen such a name: only what
    belongs to `uid` is removed, and no link is followed.
    """
    count = 0
    for path in Path(tempfile.gettempdir()).glob(f"{_prefix(pid)}*"):
        try:
            status = path.lstat()
        except OSError as error:
            log.debug("not swept: %s", error)
            continue
        if stat.S_ISDIR(status.st_mode) and status.st_uid == uid:
            remove(str(path))
            count += 1
    return count


def _prefix(pid: int) -> str:
    return f"subserve-{pid}-"
