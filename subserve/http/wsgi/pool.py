"""The threads that run a WSGI app.

A queue that hands work over costs more than the work of a small request: so it is the one in C
(`queue.SimpleQueue`), without the futures, locks and counters of a `ThreadPoolExecutor`.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import override


class Pool(Executor):
    """`threads` threads, started at once.  Also an `Executor`, for what comes over HTTP/2."""

    def __init__(self, threads: int) -> None:
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._closed = False
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
        return self._queue.qsize()

    def put(self, call: Callable[[], object]) -> None:
        """Have a thread call `call`, which raises nothing."""
        self._queue.put(call)

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

        self._queue.put(call)
        return future

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each thread end after what it does, and drop what waits if `cancel_futures`."""
        if cancel_futures:
            while not self._queue.empty():
                self._queue.get_nowait()
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        get = self._queue.get
        while (call := get()) is not None:
            call()
            del call  # what it holds must not live until the next one comes
