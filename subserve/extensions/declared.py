"""What workers tell each other: which modules are loaded as they are.

It takes a call of a module's init function to know whether it declares own-GIL support, and a
private copy to call it safely.  The first worker does that; the others read what it found.

A file in the scratch folder, one line for each finding, only read and written under the load lock.
"""

import os
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class FileKey:
    """Tells one version of a file from every other file and version; by `os.stat`."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: str) -> FileKey:
        """Return the key of the file at `path`.  Raises `OSError`."""
        status = os.stat(path)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Verdict(StrEnum):
    """How workers have to load a module: as it is, from a copy, or, not yet known, from a copy."""

    NATIVE = "native"
    COPY = "copy"
    OPEN = "open"


class Findings:
    """What was found out about modules, by file and name; `scratch` is the folder for the file."""

    def __init__(self, scratch: str) -> None:
        self._path = os.path.join(scratch, "own-gil")

    def verdict(self, key: FileKey, name: str) -> Verdict | None:
        """Return the last finding, or None if there is none.  Raises `OSError`."""
        try:
            with open(self._path, encoding="utf-8") as file:
                lines = (line.rstrip("\n").rpartition(" ") for line in file)
                found = {module: verdict for module, _, verdict in lines}
        except FileNotFoundError:
            return None
        verdict = found.get(_module(key, name))
        return None if verdict is None else Verdict(verdict)

    def add(self, key: FileKey, name: str, verdict: Verdict) -> None:
        """Record a finding, which takes the place of earlier ones.  Raises `OSError`."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"{_module(key, name)} {verdict}\n")


def _module(key: FileKey, name: str) -> str:
    return f"{key.device} {key.inode} {key.size} {key.modified_ns} {name}"
