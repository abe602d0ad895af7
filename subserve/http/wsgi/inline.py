"""Which calls of a WSGI app the loop's own thread makes: those of an app that is quick.

What is quick is found out while it runs.  An app that mostly waits, for a database say, is better
off with several threads, however short it waits; one that sometimes takes long holds the others up
until somebody stands in for the loop's thread.  Either ends the calls from here, for a while.
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

from subserve.http.wsgi.pool import Pool

LONG_WAIT: Final = 100e-6
"""Seconds that a call waits for something else than the CPU from where on it had better do that in
another thread: some times as long as it takes to hand it over.  Not measured."""

SAMPLE: Final = 16
"""One in so many calls is asked how long it has waited: asking costs as much as a small part of a
framework does."""

_POINTS: Final = 7
_LIMIT: Final = 4 * _POINTS
"""A sample that has waited long counts so much, any other one counts -1: at the limit, which takes
more than an eighth of all, the app is one that waits."""

WARM_UP: Final = 64
"""So many calls are left to the pool at first: an app loads and compiles things in them."""

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 64.0
"""Seconds for which no calls are made here after one that should not have been."""


class Caller(Protocol):
    """Makes a call that somebody watches: see `worker.standin`."""

    @property
    def ready(self) -> bool:
        """Whether it can make one here and now."""

    def call(self, function: Callable[[], object]) -> bool:
        """Make one; return whether it was over before it held others up."""

    def take_back(self) -> bool:
        """Within one: have the loop until `give_again`, if it would hold back what is sent."""

    def give_again(self) -> None:
        """Go on with the call."""


class Inline:
    """Makes calls in the loop's thread, as long as that is better.  Lives in that thread."""

    def __init__(self, pool: Pool, caller: Caller) -> None:
        self._pool = pool
        self.caller = caller
        self._warming = WARM_UP
        self._resume_at = 0.0
        self._resumed_at = 0.0
        self._pause = FIRST_PAUSE
        self._paused = True
        self._calls = 0
        self._points = 0

    def take(self, call: Callable[[], object]) -> bool:
        """Make `call`, which raises nothing; or leave it to the pool and return False."""
        if self._paused and not self._resume():
            return False
        # It is one of the app's threads, of which there are no more at once than was asked for.
        if not self._pool.holds_back or not self.caller.ready:
            return False
        self._calls += 1
        if self._calls % SAMPLE:
            quick = self.caller.call(call)
        else:
            begun, used = time.perf_counter(), time.thread_time()
            quick = self.caller.call(call)
            used = time.thread_time() - used
            self._note(time.perf_counter() - begun - used)
        if not quick or self._points >= _LIMIT:
            self._stop()
        return True

    def _note(self, waited: float) -> None:
        self._points = self._points + _POINTS if waited > LONG_WAIT else max(self._points - 1, 0)

    def _resume(self) -> bool:
        if self._warming:
            self._warming -= 1
            return False
        now = time.monotonic()
        if now < self._resume_at:
            return False
        self._pool.hold_back()
        self._paused = False
        self._resumed_at = now
        return True

    def _stop(self) -> None:
        """Leave it to the pool for a while: for longer each time it was soon found wrong again."""
        self._pool.let_go()
        now = time.monotonic()
        soon = now - self._resumed_at < 2 * self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if soon else FIRST_PAUSE
        self._paused = True
        self._points = 0
        self._resume_at = now + self._pause
