"""Which worker am I? The one thing an app may want to know about the server it runs in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The identity of a worker.

    `index` is its place, from 0 to ``workers - 1``; `generation` counts, from 1, the workers that
    have held this place; `workers` is how many places there are.  ``str(info)`` is
    ``"index.generation"``, the name that logs use.
    """

    index: int
    generation: int
    workers: int

    def __str__(self) -> str:
        return f"{self.index}.{self.generation}"


_current: WorkerInfo | None = None


def current_worker() -> WorkerInfo | None:
    """Return the identity of the worker that runs the caller, or None outside of subserve.

    Module state is the right place for it: each sub-interpreter has modules of its own.
    """
    return _current


def set_current_worker(info: WorkerInfo) -> None:
    """Record who we are; the worker's bootstrap calls it once, before the app is imported."""
    global _current
    _current = info
