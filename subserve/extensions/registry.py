"""What extension modules this interpreter has loaded, and how."""

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


_loaded: dict[str, LoadedExtension] = {}


def loaded() -> tuple[LoadedExtension, ...]:
    """Return the extension modules of this interpreter, in the order in which they were loaded."""
    return tuple(_loaded.values())


def record(extension: LoadedExtension) -> None:
    """Take note of a module; the last time counts if it is loaded again."""
    _loaded[extension.name] = extension
