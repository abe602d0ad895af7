"""A thread that runs the event loop while the loop's own is in a call that takes long.

To hand a small request to another thread costs as much as to answer it: two threads are woken, and
the GIL goes to and fro.  So the loop's thread may make the call by itself, which is bold: it might
block.  Therefore somebody watches.  After `PATIENCE` seconds in one call this module's thread goes
on with the loop where the other left it; when the call is over, that one has it back.

It can be done in one place only: while asyncio asks its selector what is ready (see `Poller`).  A
turn of the loop that is interrupted there has nothing in hand yet, so another turn may begin in
another thread, and the interrupted one goes on as if nothing had been ready.  This relies on how
`asyncio.BaseEventLoop` makes its turns: `_run_once`, `_thread_id` and `_stopping` are its own.
"""

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from subserve.worker.loops import AsyncioLoop

log = logging.getLogger("subserve.worker")

PATIENCE: Final = 0.005
"""Seconds that a call may last; it may be up to twice as many.  As long as a thread of CPython may
keep the GIL when others want it."""

_set_running_loop = asyncio._set_running_loop


class StandIn:
    """Watches over the calls of a loop's thread."""

    def __init__(self, loop: AsyncioLoop) -> None:
        self._loop: Any = loop
        self._poller = loop.poller
        self._calls = 0
        self._asleep = False
        self._leads = False
        self._stopped = False
        self._open = threading.Lock()
        """Locked but in a call: who locks it in one has the loop."""
        self._open.acquire()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._wanted = threading.Event()
        self._returned = threading.Lock()
        self._returned.acquire()
        # A daemon: the loop's thread may never come back.
        self._thread = threading.Thread(target=self._run, name="subserve-standin", daemon=True)
        self._thread.start()

    # ---- the loop's thread

    @property
    def ready(self) -> bool:
        """Whether a call can be made here and now, and would be watched."""
        return self._poller.serving and not self._leads and not self._stopped

    def call(self, function: Callable[[], object]) -> bool:
        """Call `function`, which raises nothing, without a running loop, as in any other thread.

        Returns whether it was over before somebody had to stand in.
        """
        self._calls += 1
        if self._asleep:
            self._ring()
        _set_running_loop(None)
        self._open.release()
        function()
        quick = self._open.acquire(blocking=False)
        if not quick:
            self._come_back()
        _set_running_loop(self._loop)
        return quick

    def take_back(self) -> bool:
        """Within a call, have the loop until `give_again`, to have it hold something back.

        Returns False where it holds nothing back, or is in other hands.
        """
        return self._poller.holds and self._open.acquire(blocking=False)

    def give_again(self) -> None:
        """Go on with the call, as with one that begins now."""
        self._open.release()
        # After that: who found it locked goes to sleep unless it sees another call.
        self._calls += 1
        if self._asleep:
            self._ring()

    def stop(self) -> None:
        """End the thread, after what it does.  Idempotent."""
        self._stopped = True
        self._ring()

    def _ring(self) -> None:
        self._asleep = False
        with contextlib.suppress(RuntimeError):  # it has been rung, and not been heard yet
            self._bell.release()

    def _come_back(self) -> None:
        self._wanted.set()
        self._loop.call_soon_threadsafe(_nothing)
        self._returned.acquire()

    # ---- its own thread

    def _run(self) -> None:
        loop = self._loop
        sys.set_asyncgen_hooks(loop._asyncgen_firstiter_hook, loop._asyncgen_finalizer_hook)
        while not self._stopped:
            seen = self._calls
            self._bell.acquire(timeout=PATIENCE)
            if seen != self._calls:
                continue
            if self._open.acquire(blocking=False):
                self._lead()
                continue
            self._asleep = True
            if seen == self._calls and not self._stopped:
                self._bell.acquire()
            self._asleep = False

    def _lead(self) -> None:
        """Run the loop until its own thread wants it back."""
        loop = self._loop
        self._leads = True
        owner, loop._thread_id = loop._thread_id, threading.get_ident()
        _set_running_loop(loop)
        while not self._wanted.is_set():
            if loop._stopping:
                self._wanted.wait()  # it ends when its own thread has come back
                break
            try:
                loop._run_once()
            except SystemExit, KeyboardInterrupt:
                log.exception("a task of the app tried to end its worker")
        _set_running_loop(None)
        loop._thread_id = owner
        self._wanted.clear()
        self._leads = False
        self._returned.release()


def _nothing() -> None:
    """Wake the loop."""
