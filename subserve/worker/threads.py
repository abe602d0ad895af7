"""End the threads of a worker, so that its interpreter can be closed.

An interpreter is closed only when no thread but the host's lives in it: closing it under a live
thread aborts CPython 3.14 and crashes 3.15.  What Python itself would do when an interpreter ends,
run exit hooks and wait for threads for ever, is done here under a deadline.
"""

import atexit
import logging
import threading
import time

log = logging.getLogger("subserve.worker")


def wind_down(deadline: float) -> None:
    """Run the exit hooks and wait for all threads to end until `deadline` (monotonic seconds)."""
    hooks = threading.Thread(target=_run_exit_hooks, name="subserve-exit-hooks", daemon=True)
    hooks.start()
    hooks.join(max(0.0, deadline - time.monotonic()))
    if hooks.is_alive():
        log.warning("the exit hooks of the app take too long, they are left alone")
    for thread in threading.enumerate():
        if thread is threading.main_thread() or thread is threading.current_thread():
            continue
        thread.join(max(0.0, deadline - time.monotonic()))


def _run_exit_hooks() -> None:
    """Run what `threading._register_atexit` and `atexit` hold, in the order CPython does.

    The first ends the idle threads of every `ThreadPoolExecutor`; through the second, libraries
    such as error reporters flush and stop their threads.
    """
    hooks = threading._threading_atexits  # type: ignore[attr-defined]
    while hooks:
        try:
            hooks.pop()()
        except BaseException:
            log.exception("an exit hook failed")
    atexit._run_exitfuncs()
