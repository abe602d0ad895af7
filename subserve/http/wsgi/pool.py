"""The threads that run a WSGI app.

Interpreter: the worker's.  Threads: the loop's, and those of the pool.  Nothing here is locked:
`deque` and `list` do each of their operations in one step under the interpreter's GIL.

What costs is not the work of a small request but waking a thread for it, and the GIL going to and
fro between the threads that were woken.  So calls are collected while the loop works through what
its clients have sent, and then one thread is woken for all of them.  The others follow if that was
too few: one a millisecond while calls wait and none is taken; at once where calls have been found
to take long, since they wait for something then, and the GIL is free.
"""

import threading
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final, override

LONG_CALL: Final = 0.001
"""Seconds; calls that take longer on average get a thread each, as far as there are any."""

LOOK_INTERVAL: Final = 0.001
"""Seconds after which it is looked whether a call still waits."""

_WEIGHT: Final = 0.1
"""What the last call counts for in the average."""


class Pool(Executor):
    """`threads` threads, started at once.  Also an `Executor`, for what comes over HTTP/2.

    `put` and `submit` are for the loop's thread.
    """

    def __init__(self, threads: int, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._idle: list[threading.Lock] = []
        self._holding = threading.Lock()
        self._held: threading.Lock | None = None
        self._one_too_many = False
        self._flushing = False
        self._look: TimerHandle | None = None
        self._closed = False
        self._taken = 0
        self._seen = 0
        self._average = 0.0  # s
        self._threads = [
            # Daemons: one that an app keeps busy must not keep its interpreter from being left.
            threading.Thread(target=self._run, name=f"wsgi_{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """How many calls wait for a thread."""
        return len(self._calls)

    # ---- the loop's thread

    def hold_back(self) -> None:
        """Have one thread less until `let_go`: the next one that is free."""
        with self._holding:
            if self._held is None:
                self._one_too_many = not self._idle
                if self._idle:
                    self._held = self._idle.pop()

    def let_go(self) -> None:
        """Have all threads again."""
        with self._holding:
            self._one_too_many = False
            if self._held is not None:
                self._held.release()  # it looks whether there is something to do
                self._held = None

    @property
    def holds_back(self) -> bool:
        """Whether there is one thread less."""
        return self._held is not None

    def put(self, call: Callable[[], object]) -> None:
        """Have a thread call `call`, which raises nothing."""
        self._calls.append(call)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    @override
    def submit[**P, T](
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have a thread call `function`; see `concurrent.futures.Executor.submit`."""
        if self._closed:
            raise RuntimeError("the pool is shut down")
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  the future's to report
                future.set_exception(error)

        self.put(call)
        return future

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each thread end after what it does, and drop what waits if `cancel_futures`."""
        if cancel_futures:
            self._calls.clear()
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        self._wake(len(self._threads))
        self.let_go()
        if wait:
            for thread in self._threads:
                thread.join()

    def _flush(self) -> None:
        self._flushing = False
        self._wake(len(self._calls) if self._average > LONG_CALL else 1)
        if self._look is None and self._idle:
            self._seen = self._taken
            self._look = self._loop.call_later(LOOK_INTERVAL, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        if not self._calls or not self._idle:
            return  # those at work look for more by themselves
        if self._taken == self._seen:
            self._wake(1)
        self._seen = self._taken
        self._look = self._loop.call_later(LOOK_INTERVAL, self._look_again)

    def _wake(self, count: int) -> None:
        for _ in range(count):
            try:
                self._idle.pop().release()
            except IndexError:
                return  # all are at work, and look for more before they rest

    # ---- the pool's threads

    def _run(self) -> None:
        calls = self._calls
        asleep = threading.Lock()
        asleep.acquire()
        while True:
            if self._one_too_many and self._stays_back(asleep):
                asleep.acquire()
            try:
                call = calls.popleft()
            except IndexError:
                if self._closed:
                    return
                self._rest(asleep)
                continue
            self._taken += (
                1  # several threads may count one another's out: only change is looked at
            )
            begun = time.perf_counter()
            call()
            del call  # what it holds must not live until the next one comes
            self._average += (time.perf_counter() - begun - self._average) * _WEIGHT

    def _stays_back(self, asleep: threading.Lock) -> bool:
        with self._holding:
            if not self._one_too_many or self._closed:
                return False
            self._one_too_many = False
            self._held = asleep
            return True

    def _rest(self, asleep: threading.Lock) -> None:
        """Wait to be woken, unless a call came in after the last look."""
        self._idle.append(asleep)
        if self._calls or self._closed:
            try:
                self._idle.remove(asleep)
            except ValueError:
                pass  # somebody has just woken us
            else:
                return
        asleep.acquire()
