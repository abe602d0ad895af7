"""The folder in which copies are made."""

import os
import stat

from subserve.extensions.copies import CopyError


def ensure(path: str) -> None:
    """Make the folder if it is not there (any more), and see that nobody else can write to it.

    Raises `CopyError`, naming the remedy.

    Systems clean up what is old in ``/tmp``, and a worker that is recycled weeks later needs the
    folder.  Where it was, another user may have made one in the meantime; libraries copied there
    would be his to change before they are opened.
    """
    try:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            os.mkdir(path, 0o700)
            return
    except OSError as error:
        raise CopyError(f"{error}; set TMPDIR to a folder that can be written to") from error
    writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode) or writable_by_others:
        raise CopyError(
            f"{path} is not a folder of this user alone; set TMPDIR to a folder that can be "
            "written to, and start the server again"
        )
