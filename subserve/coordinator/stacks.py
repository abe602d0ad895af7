"""Where in Python is a worker whose GIL is held by C code?

Nothing in Python can run in its interpreter then, its control thread included.  What is left is a
signal to the worker's OS thread: faulthandler's handler walks the frames without the GIL.
"""

import os
import tempfile
from typing import IO

from subserve import signals


class ForeignStacks:
    """Asks threads of other interpreters where they are.  Lives in the main thread."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def ask(self, thread: int) -> bool:
        """Ask the live thread with this `ident`; return whether it can be asked.

        The answer takes microseconds, unless the thread blocks all signals; then there is none.
        """
        if self._file is None:
            file = tempfile.TemporaryFile(prefix="subserve-stacks-")  # noqa: SIM115  for good
            if not signals.stacks_are_written_to(file.fileno()):
                file.close()
                return False
            self._file = file
        signals.ask_for_stacks(thread)
        return True

    def take(self) -> str:
        """Return what has been written since the last call."""
        assert self._file is not None
        fd = self._file.fileno()
        size = os.lseek(fd, 0, os.SEEK_CUR)
        text = os.pread(fd, size, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        self._file.truncate(0)
        return text.decode(errors="replace")
