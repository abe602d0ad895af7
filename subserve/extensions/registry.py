"""What this interpreter has done about extension modules: which it loaded and how, which not.

Any thread may load one; each keeps to what it is loading itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

type Phases = Literal[1, 2]


class Mode(StrEnum):
    """How a module was loaded: by CPython as it is, or from a private copy."""

    NATIVE = "native"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class LoadedExtension:
    """An extension module of this interpreter that is not of the standard library.

    `phases` is 1 for single-phase and 2 for multi-phase initialisation (PEP 489).  `shared_bytes`
    of a copy are mapped from the original file; 0 for a native module, which is shared whole.
    """

    name: str
    path: str
    mode: Mode
    phases: Phases
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt to load an extension module that raised; `error` is the exception as text.

    Many an app goes on without: ``try: import _speedups``.
    """

    name: str
    path: str
    error: str


@dataclass(frozen=True, slots=True)
class Step:
    """A call of the loader, for `observe`.

    ``create`` makes the module and ``execute`` runs its code; each is ``begun``, then ``done`` or
    ``failed``.  Modules of the standard library are among them.
    """

    name: str
    path: str
    call: Literal["create", "execute"]
    state: Literal["begun", "done", "failed"]


_loaded: dict[str, LoadedExtension] = {}
_failures: dict[str, Failure] = {}
_observer: Callable[[Step], None] | None = None


def loaded() -> tuple[LoadedExtension, ...]:
    """Return the extension modules of this interpreter, in the order in which they were loaded."""
    return tuple(_loaded.values())


def report() -> tuple[LoadedExtension | Failure, ...]:
    """Return what became of all that was tried: what was loaded, then what was not."""
    return (*_loaded.values(), *_failures.values())


def observe(observer: Callable[[Step], None]) -> None:
    """Have `observer` told of each step from now on, in the thread that takes it."""
    global _observer
    _observer = observer


def record(extension: LoadedExtension) -> None:
    """Take note of a module; the last time counts if it is loaded again."""
    _loaded[extension.name] = extension
    _failures.pop(extension.name, None)


@contextmanager
def step(name: str, path: str, call: Literal["create", "execute"]) -> Iterator[None]:
    """Tell the observer of what is done within, and take note if it raises."""
    if _observer is not None:
        _observer(Step(name, path, call, "begun"))
    try:
        yield
    except BaseException as error:
        _loaded.pop(name, None)
        _failures[name] = Failure(name, path, f"{type(error).__name__}: {error}")
        if _observer is not None:
            _observer(Step(name, path, call, "failed"))
        raise
    if _observer is not None:
        _observer(Step(name, path, call, "done"))
