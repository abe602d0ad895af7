"""First loads of extension modules, one worker at a time.

Runs in a worker's interpreter; any thread of it may import.  CPython and the C libraries below it
have global state that is only set up once; where two interpreters do that at the same moment is
where the crashes were.  So a worker that loads an extension keeps the other workers from doing so.

**Why this cannot deadlock.**  The lock belongs to the interpreter, not to a thread.  The first
thread that loads an extension takes the ``flock``; threads that come while it is held, and nested
imports within an init function, join without waiting; the last one to leave gives it back.  Hence
no thread waits for the ``flock`` while another thread of its own interpreter holds it, which is
what would close a circle with the import locks: A holds the ``flock`` and waits for a module that
B is importing, B needs the ``flock`` to finish it.  What remains is waiting for *another*
interpreter, and interpreters share no import locks.  Nobody leaves while the first thread waits
either: with nobody inside there is nobody to leave, so holding `_gate` across ``flock`` is safe.

``flock`` releases the GIL while it waits, and is held by an open file, not by a process: each
`LoadLock` opens the file anew, which is why it works between the interpreters of one process.
The kernel gives it back when the file is closed, and at the latest when the process ends.
"""

import fcntl
import os
import threading
from types import TracebackType

from subserve.extensions.scratch import ensure


class LoadLock:
    """A re-entrant lock between interpreters, used as a context manager by any thread.

    `scratch` is the folder for the lock file, the same in all interpreters.
    Raises `CopyError` on entry if it is not fit for use, and `OSError` if the file is not.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._gate = threading.Lock()  # protects the two fields below
        self._inside = 0
        self._descriptor = -1

    def __enter__(self) -> None:
        with self._gate:
            if self._inside == 0:
                # Opened for each turn: a descriptor kept for the life of the interpreter would
                # be lost with each worker that is recycled.
                ensure(self._scratch)
                path = os.path.join(self._scratch, "extensions.lock")
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                except BaseException:
                    os.close(descriptor)
                    raise
                self._descriptor = descriptor
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._gate:
            self._inside -= 1
            if self._inside == 0:
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)
