"""A private copy of a shared library, on disk for as long as it takes to open it.

The copy has an inode of its own, so that the dynamic loader, which tells libraries apart by device
and inode, takes it for another library and gives it statics of its own.
"""

import _interpreters
import errno
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

_ORIGINS = ("$ORIGIN", "${ORIGIN}")
_CHUNK_BYTES = 1 << 30
# copy_file_range(2): another file system (before Linux 5.19), an odd file, a kernel without it.
_NO_COPY_FILE_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)

_numbers = itertools.count()


class CopyError(Exception):
    """No private copy can be had; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Found:
    """A library that the search path's `entry` led to, at `path`, when asked for `name`."""

    name: str
    entry: str
    path: str


class Workspace:
    """A folder in `scratch` with room for a copy and for links to what it will look for.

    The copy lies as deep as the search path climbs, so that ``$ORIGIN/../../x.libs`` leads to a
    place within the folder.  A context manager: everything is removed on exit.
    Raises `CopyError` on entry and from `copy`, naming the remedy.
    """

    def __init__(self, scratch: str, libraries: Iterable[Found]) -> None:
        self._scratch = scratch
        self._libraries = tuple(libraries)
        self._files: list[str] = []
        self._folders: list[str] = []
        self._origin = ""

    def __enter__(self) -> Workspace:
        try:
            self._origin = self._new_folder()
            for _ in range(max((_climbs(found.entry) for found in self._libraries), default=0)):
                self._origin = os.path.join(self._origin, "d")
                self._make_folder(self._origin)
            for found in self._libraries:
                self._link(found)
        except OSError as error:
            self._remove()
            raise _without_room(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def copy(self, source: int, name: str, patches: Mapping[int, bytes]) -> tuple[str, int]:
        """Copy the open file `source` and overwrite what `patches` say at which offset.

        Returns the copy's path and a descriptor of it, which the caller has to close.
        """
        path = os.path.join(self._origin, name)
        try:
            target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
            self._files.append(path)
            try:
                _copy_bytes(source, target)
                for offset, replacement in patches.items():
                    os.pwrite(target, replacement, offset)
            except BaseException:
                os.close(target)
                raise
        except OSError as error:
            raise _without_room(error) from error
        return path, target

    def _link(self, found: Found) -> None:
        folder = os.path.normpath(os.path.join(self._origin, within_origin(found.entry) or "."))
        self._make_folder(folder)
        path = os.path.join(folder, found.name)
        if not os.path.lexists(path):
            os.symlink(found.path, path)
            self._files.append(path)

    def _new_folder(self) -> str:
        # Never the name of an earlier one: the dynamic loader looks for the path among those it has
        # opened before it looks at the file, and would return a copy of a worker that is gone.
        # The numbers of interpreters are not used again in a process.
        interpreter = _interpreters.get_current()[0]
        path = os.path.join(self._scratch, f"{interpreter:x}-{next(_numbers):x}")
        os.mkdir(path, 0o700)
        self._folders.append(path)
        return path

    def _make_folder(self, path: str) -> None:
        if not os.path.isdir(path):
            self._make_folder(os.path.dirname(path))
            os.mkdir(path, 0o700)
            self._folders.append(path)

    def _remove(self) -> None:
        while self._files:
            os.unlink(self._files.pop())
        while self._folders:
            os.rmdir(self._folders.pop())


def within_origin(entry: str) -> str | None:
    """Return what a search path's entry says relative to the library's folder, or None.

    >>> within_origin("$ORIGIN/../../numpy.libs"), within_origin("$ORIGIN"), within_origin("/lib")
    ('../../numpy.libs', '.', None)
    """
    for origin in _ORIGINS:
        if entry == origin or entry.startswith(origin + "/"):
            return os.path.normpath("." + entry[len(origin) :])
    return None


def _without_room(error: OSError) -> CopyError:
    return CopyError(f"{error}; set TMPDIR to a folder on a local disk with room for copies")


def _climbs(entry: str) -> int:
    relative = within_origin(entry)
    return relative.split("/").count("..") if relative is not None else 0


def _copy_bytes(source: int, target: int) -> None:
    """Copy one open file into another, empty one; by reference where the file system can."""
    position = 0
    try:
        while copied := os.copy_file_range(source, target, _CHUNK_BYTES, position, position):
            position += copied
    except OSError as error:
        if error.errno not in _NO_COPY_FILE_RANGE:
            raise
        while chunk := os.pread(source, 1 << 20, position):
            position += os.pwrite(target, chunk, position)
