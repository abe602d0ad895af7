"""End the threads of a worker, so that its interpreter can be closed.

An interpreter is closed only when no thread but the host's lives in it: closing it under a live
thread aborts CPython 3.14 and crashes 3.15.  What Python itself would do when an interpreter ends,
run exit hooks and wait for threads for ever, is done here under a deadline.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("subserve.worker")


def wind_down(deadline: float) -> None:
    """Run the exit hooks and wait for all threads to end until `deadline` (monotonic seconds)."""
    # A thread of a pool that is stuck must not keep an error reporter from sending its reports.
    middle = (time.monotonic() + deadline) / 2
    if not _run_aside(_run_thread_hooks, "subserve-thread-hooks", middle):
        log.warning("threads of a pool are still busy, they are left alone")
    if not _run_aside(atexit._run_exitfuncs, "subserve-exit-hooks", deadline):
        log.warning("the exit hooks of the app take too long, they are left alone")
    for thread in threading.enumerate():
        if thread is threading.main_thread() or thread is threading.current_thread():
            continue
        try:
            thread.join(max(0.0, deadline - time.monotonic()))
        except RuntimeError as error:
            # Not started by `threading`, or just being started: nothing to join it by.
            log.debug("thread %s: %s", thread.name, error)


def _run_aside(function: Callable[[], object], name: str, deadline: float) -> bool:
    """Call `function` in a thread of its own; return whether it was done by `deadline`."""
    thread = threading.Thread(target=function, name=name, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    return not thread.is_alive()


def _run_thread_hooks() -> None:
    """Run what `threading._register_atexit` holds, the last first, as CPython does.

    That ends the idle threads of every `ThreadPoolExecutor`.  `atexit` comes after it: there
    libraries such as error reporters flush and stop their threads.
    """
    hooks = threading._threading_atexits  # type: ignore[attr-defined]
    while hooks:
        try:
            hooks.pop()()
        except BaseException:
            log.exception("an exit hook failed")
