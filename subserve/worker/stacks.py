"""Where the threads of this worker are in the code."""

import sys
import threading
import traceback


def stacks_of_threads() -> str:
    """Return the stacks of all other threads of this interpreter, innermost call last.

    `sys._current_frames` knows those of its own interpreter only.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines = "".join(traceback.format_stack(frame))
            parts.append(f"thread {names.get(ident, 'without a name')}:\n{lines}")
    return "".join(parts)
