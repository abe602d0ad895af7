"""A worker under observation: what `subserve.worker.bootstrap` does, told as it happens.

Interpreter: the worker's.  Threads: `_Observer` is used by whichever thread loads a module.
"""

import json
import os
import sys
import threading

from subserve.check import events, watch
from subserve.extensions import Step, loaded, observe
from subserve.memory import anonymous_bytes


def main(text: str) -> None:
    """Live a worker's life, and tell of it.  `text` is what `job` returned."""
    job = json.loads(text)
    fd, worker, alone = job["fd"], job["worker"], job["alone"]
    observe(_Observer(fd, worker, alone=alone))
    watch.watch(
        lambda what, detail, where: events.send(fd, events.Noted(worker, what, detail, where))
    )
    from subserve.worker.bootstrap import main as live

    live(job["assignment"])


def job(fd: int, worker: str, assignment: str, *, alone: bool) -> str:
    """Return the text that `main` reads.

    `fd` is where events go, `worker` the name in them; `alone`: nothing else happens in the process
    until this worker is ready, so that what a module adds can be measured.
    """
    return json.dumps({"fd": fd, "worker": worker, "alone": alone, "assignment": assignment})


class _Observer:
    """Turns the loader's steps into events, and measures what each module adds.

    Modules load others while they are executed: a stack for each thread takes that apart.
    """

    def __init__(self, fd: int, worker: str, *, alone: bool) -> None:
        self._fd = fd
        self._worker = worker
        self._alone = alone
        self._local = threading.local()
        self._added: dict[str, tuple[int, int]] = {}

    def __call__(self, step: Step) -> None:
        if step.state == "begun":
            if step.call == "create":
                events.send(self._fd, events.Loading(self._worker, step.name, step.path))
            self._stack().append([*self._measure(), 0, 0])
            return
        memory, threads = self._taken(step.name)
        if step.state == "failed":
            error = self._error()
            events.send(self._fd, events.NotLoaded(self._worker, step.name, step.path, error))
        elif step.call == "execute":
            self._tell_loaded(step, memory, threads)

    def _tell_loaded(self, step: Step, memory: int, threads: int) -> None:
        measured = (memory, threads) if self._alone else (None, None)
        for extension in loaded():
            if extension.name == step.name:
                kind, phases, shared = extension.mode, extension.phases, extension.shared_bytes
                break
        else:
            kind, phases, shared = "stdlib", 2, 0  # type: ignore[assignment]
        events.send(
            self._fd,
            events.Loaded(self._worker, step.name, step.path, str(kind), phases, shared, *measured),
        )

    def _taken(self, name: str) -> tuple[int, int]:
        """Return what module `name` has added up to now, all of its steps together."""
        memory, threads, nested_memory, nested_threads = self._stack().pop()
        memory_now, threads_now = self._measure()
        total_memory, total_threads = memory_now - memory, threads_now - threads
        if self._stack():
            self._stack()[-1][2] += total_memory
            self._stack()[-1][3] += total_threads
        before = self._added.get(name, (0, 0))
        self._added[name] = (
            before[0] + total_memory - nested_memory,
            before[1] + total_threads - nested_threads,
        )
        return self._added[name]

    def _measure(self) -> tuple[int, int]:
        if not self._alone:
            return 0, 0
        return anonymous_bytes() or 0, len(os.listdir("/proc/self/task"))

    def _stack(self) -> list[list[int]]:
        stack: list[list[int]] = self._local.__dict__.setdefault("stack", [])
        return stack

    @staticmethod
    def _error() -> str:
        error = sys.exception()
        return f"{type(error).__name__}: {error}"
