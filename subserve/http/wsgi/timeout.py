"""`--request-timeout` for WSGI: ends what an app does with a request for too long.

Interpreter: the worker's.  Threads: the one that runs the app, of the pool or the loop's own; the
control thread, which calls `Watch.look`; for the answer the loop's.

The exception must hit the app and nothing else: no code of the server, which may hold a lock, and
no later request.  So there is a **token** for each request, an item of a list: taking it and giving
it back are single steps under the GIL, and no ``with`` is left half done by an exception.

- It is there while the app's own code runs.
- The app's thread takes it whenever the app calls the server, and for good at the end.
- The watch takes it before it raises.  It keeps it when it has, so a thread that finds its token
  gone does not go on before the exception has come or been taken back; else it gives it back.

The thread asks for the token before it writes, and does not write once the request has timed out:
so the loop may answer as soon as the watch has had the token.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from subserve.interrupt import interrupt, stack_of, take_back
from subserve.log import TRACEBACK

log = logging.getLogger("subserve.app")

RETRY_INTERVAL: Final = 0.05
"""Seconds between attempts to interrupt a thread where it could not be at first.  Not measured."""

_BRIEF: Final = 0.0005
"""Seconds; the watch needs some instructions, and the GIL, from the token to the exception."""


class RequestTimedOut(BaseException):
    """The request has taken longer than `--request-timeout`; raised in the app's thread.

    No `Exception`, as `SystemExit` is none: an app that goes on after any error of a request, or
    tries it again, is not to take this for one.
    """


class Watch:
    """Looks after the requests of a worker.  `timeout` is in seconds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.running: set[Watched] = set()

    def request(
        self, name: str, answer: Callable[[], object], *, answer_interrupts: bool = False
    ) -> Watched:
        """Return a request that begins now; see `Watched`."""
        return Watched(self, name, answer, answer_interrupts=answer_interrupts)

    def look(self, now: float) -> float:
        """Deal with what is overdue at `now` (monotonic); return when to look again.

        For the control thread.
        """
        # What begins after this look is not overdue before then.
        again = now + self.timeout
        for request in list(self.running):
            if now < request.overdue_at:
                again = min(again, request.overdue_at)
            elif not request.end_app():
                again = min(again, now + RETRY_INTERVAL)
        return again


class Watched:
    """One request, from when its app is called to when that has returned.

    `name` is what the log calls it.  `answer` has the loop answer 504, or cut the response short;
    it is called once, in any thread, and raises `RuntimeError` where the loop is closed.  It is
    called before the thread has stopped to write, too, if the `answer_interrupts` what it waits
    for.
    """

    def __init__(
        self,
        watch: Watch,
        name: str,
        answer: Callable[[], object],
        *,
        answer_interrupts: bool = False,
    ) -> None:
        self._watch = watch
        self._name = name
        self._answer = answer
        self._answer_interrupts = answer_interrupts
        self._token: list[None] = []
        self._thread = 0
        self._over = False  # the app has returned in time
        self._overdue = False
        self._answered = False
        self._raised = False  # at most once
        self.overdue_at = math.inf
        """When `run` has taken too long (monotonic)."""
        self.timed_out = False
        """Whether the loop has been told to answer; the app's thread is to write no more."""

    # ---- the app's thread

    def run[**P, T](self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `function` returns; raise `RequestTimedOut` where it is too late.

        When this returns, or raises, nothing is going to be raised in this thread any more.
        """
        try:
            try:
                self._thread = threading.get_ident()
                self.overdue_at = time.monotonic() + self._watch.timeout
                self._watch.running.add(self)
                self._token.append(None)
                return function(*args, **kwargs)
            finally:
                self._end()
        except RequestTimedOut:
            self._end()  # it may have been hit itself; there is one exception for each request
            raise

    def guard[**P, T](self, function: Callable[P, T]) -> Callable[P, T]:
        """Return a function that does the same, and in which nothing is raised.

        It raises `RequestTimedOut` before or after that where the request has timed out.
        """

        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._over:
                return function(*args, **kwargs)
            self._take()
            try:
                return function(*args, **kwargs)
            finally:
                self._give_back()

        return guarded

    def _take(self) -> None:
        try:
            self._token.pop()
        except IndexError:
            raise RequestTimedOut from None
        if self.timed_out:
            self._token.append(None)
            raise RequestTimedOut

    def _give_back(self) -> None:
        if self._overdue and not self.timed_out:
            # The watch has come while it was ours; it might come at the wrong moment for ever.
            self.timed_out = True
            self._tell()
        self._token.append(None)
        if self.timed_out:
            raise RequestTimedOut

    def _end(self) -> None:
        """See to it that nothing is raised from here on.  May be hit until then; idempotent."""
        self._watch.running.discard(self)
        while not self._over:
            try:
                self._token.pop()
                self._over = True
            except IndexError:
                if self._raised:
                    take_back(self._thread)
                    self._over = True
                else:
                    time.sleep(_BRIEF)  # the watch has it, and will have done one or the other

    # ---- the control thread

    def end_app(self) -> bool:
        """Answer, and interrupt the app's thread; return whether it is done with."""
        if self._raised:
            return True
        try:
            self._token.pop()
        except IndexError:
            self._overdue = True
            if self._answer_interrupts and not self._over:
                self._tell()
            return self._over
        self.timed_out = True
        self._tell()
        if interrupt(self._thread, RequestTimedOut):
            self._raised = True
        else:
            self._token.append(None)
        return self._raised

    def _tell(self) -> None:
        if self._answered:
            return
        self._answered = True
        log.error(
            "%s has taken longer than --request-timeout (%g s): it is given up; the stack above "
            "says where its thread is",
            self._name,
            self._watch.timeout,
            extra={TRACEBACK: stack_of(self._thread)},
        )
        try:
            self._answer()
        except RuntimeError as error:
            log.debug("%s: %s", self._name, error)
