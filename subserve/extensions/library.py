"""From the path of an extension module to a library in memory that only this interpreter has.

Runs in a worker's interpreter; `Libraries.open` may be called by any thread of it.

What an extension is linked against comes in two sorts.  C libraries are shared by all workers, like
the C library itself.  A library that calls Python (pyarrow's ``libarrow_python.so``) has statics
that belong to one interpreter, so it is copied too.  The dynamic loader knows libraries by name
first, and would give the second worker the copy of the first one: each copy therefore gets a name
of its own, of the same length, written into the copies of those who ask for it.
"""

import _interpreters
import ctypes
import itertools
import logging
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from subserve.extensions import context, copies, dynamic, elf, redirect, sharing
from subserve.extensions.copies import CopyError, Found
from subserve.extensions.declared import FileKey
from subserve.extensions.redirect import Redirection

_log = logging.getLogger("subserve.extensions")

# Itanium C++ ABI: names within std (St, or an abbreviation such as Ss) or GNU's part of it.
_CPP_RUNTIME = re.compile(r"_Z(?:GV|GR)?Z*N?[VK]*(?:S[tabsiod]|9__gnu_cxx)")
_BINDING_WEAK = 2


@dataclass(frozen=True, slots=True)
class Opened:
    """A private copy in memory.

    `shared_bytes` of it are mapped from the original.  `creators` are where it keeps the address of
    ``PyModule_Create2``, for `context`.
    """

    library: ctypes.PyDLL
    shared_bytes: int
    creators: tuple[dynamic.Pointer, ...]


class Libraries:
    """The private copies of one interpreter; `scratch` is the folder to make them in."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._redirection = Redirection(scratch)
        # Protects what follows.  Nothing is imported under it, so that it cannot form a circle
        # with the import locks.  Re-entrant, since libraries need libraries.
        self._lock = threading.RLock()
        self._opened: dict[FileKey, Opened] = {}
        self._aliases: dict[FileKey, str] = {}
        self._shared: set[FileKey] = set()
        self._private: dict[FileKey, bool] = {}
        self._numbers = itertools.count()

    def open(self, original: str) -> Opened:
        """Return the private copy of `original`, making it if this interpreter has none yet.

        Raises `OSError` if the original cannot be read or the library not be loaded (the text is
        the dynamic loader's), and `CopyError` if `scratch` is no place for copies.
        """
        with self._lock:
            key = FileKey.of(original)
            if (opened := self._opened.get(key)) is None:
                opened = self._opened[key] = self._open(original, None, ())
            return opened

    def _open(self, original: str, alias: str | None, inherited: tuple[str, ...]) -> Opened:
        """Open a copy that the dynamic loader is to know as `alias`.

        `inherited`, here and below, are the folders in which ``DT_RPATH`` of those who need the
        library says to look for what it needs in turn.
        """
        source = os.open(original, os.O_RDONLY | os.O_CLOEXEC)
        try:
            image = elf.read_image(source)
            if image is None:
                return self._load(source, original, None, (), {}, None)
            found = find_needed(original, image, inherited)
            if not image.runpath:
                inherited += _folders(original, image.rpath)
            patches = self._provide(source, image, found, inherited)
            if alias is not None and image.soname is not None:
                _rename(source, image, image.soname, alias, patches)
            return self._load(source, original, image, found, patches, alias)
        finally:
            os.close(source)

    def _load(
        self,
        source: int,
        original: str,
        image: elf.Image | None,
        found: tuple[Found, ...],
        patches: dict[int, bytes],
        alias: str | None,
    ) -> Opened:
        before = sharing.version_of(source)
        with copies.Workspace(self._scratch, found) as workspace:
            path, copy = workspace.copy(source, os.path.basename(original), patches)
            try:
                library = _open_copy(path, original, self._scratch)
                placement = dynamic.placement(library)
                if image is None or placement is None:
                    return Opened(library, 0, ())
                if placement.path != path:
                    raise CopyError(f"the dynamic loader took its copy for {placement.path}")
                # Asked now, while the copy's own strings are in memory: it remembers the name.
                if alias is not None and not dynamic.is_known_as(alias, library):
                    raise CopyError(f"the dynamic loader does not find its copy by {alias}")
                pointers = _pointers(source, image, placement.base)
                self._redirection.apply(pointers)
                shared = 0
                if sharing.version_of(source) == before:
                    shared = _share(image, placement.base, source, copy, original)
                dynamic.attribute(library, original)
                return Opened(library, shared, pointers.get(context.FUNCTION, ()))
            finally:
                os.close(copy)

    def _provide(
        self,
        source: int,
        image: elf.Image,
        found: tuple[Found, ...],
        inherited: tuple[str, ...],
    ) -> dict[int, bytes]:
        """Open what a library needs; return what to change in its copy, by offset."""
        patches: dict[int, bytes] = {}
        shared = {name: name for name in image.needed}
        for needed in found:
            if self._is_private(needed.path):
                del shared[needed.name]
                alias = self._open_dependency(needed, inherited)
                _rename(source, image, needed.name, alias, patches)
            else:
                shared[needed.name] = needed.path
                self._open_shared(needed.path, inherited)
        patches.update(_unshared_statics(source, image, shared.values()))
        return patches

    def _open_dependency(self, needed: Found, inherited: tuple[str, ...]) -> str:
        """Open a private copy of a library that others are linked against; return its new name."""
        key = FileKey.of(needed.path)
        if (alias := self._aliases.get(key)) is None:
            mark = f"{_interpreters.get_current()[0]:x}.{next(self._numbers):x}."
            alias = self._aliases[key] = mark + needed.name[len(mark) :]
            if len(alias) != len(needed.name):
                raise CopyError(f"the name of {needed.path} is too short to make it another one")
            self._opened[key] = self._open(needed.path, alias, inherited)
        return alias

    def _open_shared(self, path: str, inherited: tuple[str, ...]) -> None:
        """Open a C library from where it is, so that its copy-loading dependants find it by name.

        It could be found by way of the links around a copy as well; but then it would live at an
        address that is gone, and not find its own neighbours and data files.
        """
        key = FileKey.of(path)
        if key in self._shared:
            return
        self._shared.add(key)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            image = elf.read_image(descriptor)
        finally:
            os.close(descriptor)
        if image is not None:
            found = find_needed(path, image, inherited)
            if not image.runpath:
                inherited += _folders(path, image.rpath)
            for needed in found:
                self._open_shared(needed.path, inherited)
        dynamic.open_library(path)

    def _is_private(self, path: str) -> bool:
        """Say whether a library calls Python, by itself or through one that it needs."""
        key = FileKey.of(path)
        if (known := self._private.get(key)) is not None:
            return known
        self._private[key] = False  # while we look: libraries may need each other
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            image = elf.read_image(descriptor)
        finally:
            os.close(descriptor)
        private = image is not None and (
            image.calls_python
            or any(self._is_private(needed.path) for needed in find_needed(path, image, ()))
        )
        if private and image is not None and image.soname != os.path.basename(path):
            _log.warning(
                "%s uses the Python API but cannot be copied, since it does not carry its own name "
                "(DT_SONAME); all workers share it, which may crash them",
                path,
            )
            private = False
        self._private[key] = private
        return private


def find_needed(path: str, image: elf.Image, inherited: tuple[str, ...]) -> tuple[Found, ...]:
    """Return the libraries that the library at `path` needs and that lie where *it* says.

    That is below ``$ORIGIN`` mostly; what only the system's search path leads to is left out.
    `inherited` are folders to look into after its own, unless it has a ``DT_RUNPATH``.
    """
    entries = image.runpath or (*image.rpath, *inherited)
    origin = os.path.dirname(path)
    found: list[Found] = []
    for name in image.needed:
        for entry in entries:
            relative = copies.within_origin(entry)
            candidate = os.path.join(origin, entry if relative is None else relative, name)
            if os.path.isabs(candidate) and os.path.exists(candidate):
                found.append(Found(name, entry, candidate))
                break
    return tuple(found)


def _open_copy(path: str, original: str, scratch: str) -> ctypes.PyDLL:
    try:
        return dynamic.open_extension(path)
    except OSError as error:
        text = str(error).replace(path, original)
        if os.statvfs(scratch).f_flag & os.ST_NOEXEC:
            raise CopyError(
                f"{scratch} is on a file system mounted noexec; set TMPDIR to a folder that is not"
            ) from error
        if "static TLS" in text:  # glibc sets a fixed amount aside for all libraries
            text += "; start the server with GLIBC_TUNABLES=glibc.rtld.optional_static_tls=16384"
        raise OSError(text) from error


def _share(image: elf.Image, base: int, source: int, copy: int, original: str) -> int:
    """Share what can be shared; return how many bytes.  The library works without it."""
    try:
        shared = sharing.share(image, base, source)
        sharing.release(image, copy)
    except OSError as error:
        _log.info("%s takes memory for its text in each worker: %s", original, error)
        return 0
    return shared


def _pointers(source: int, image: elf.Image, base: int) -> dict[str, tuple[dynamic.Pointer, ...]]:
    """Return where the library at `base` keeps the addresses of functions we replace, by name."""
    wanted = (context.FUNCTION, *redirect.FUNCTIONS)
    return {
        name: tuple(
            dynamic.Pointer(base + place, _is_read_only(place, image.relro)) for place in places
        )
        for name, places in elf.pointers_to(source, image, wanted).items()
    }


def _rename(
    source: int, image: elf.Image, name: str, alias: str, patches: dict[int, bytes]
) -> None:
    for offset in elf.library_name_offsets(source, image, name):
        patches[offset] = os.fsencode(alias)


def _unshared_statics(source: int, image: elf.Image, shared: Iterable[str]) -> dict[int, bytes]:
    """Return what to change so that statics in C++ templates and inline functions are private.

    There is one of such a static in the whole process (``STB_GNU_UNIQUE``), even between libraries
    that know nothing of each other: all workers would share it.  The C++ runtime relies on that,
    and so do an extension and the `shared` libraries it is linked against, if they have it in
    common.  The others become ordinary weak symbols, as they are on systems without this feature.
    """
    unique = {
        name: offset
        for name, offset in elf.unique_symbols(source, image).items()
        if _CPP_RUNTIME.match(name) is None
    }
    common = dynamic.defined_by(shared, unique) if unique else frozenset()
    patches: dict[int, bytes] = {}
    for name, offset in unique.items():
        if name not in common:
            symbol_type = os.pread(source, 1, offset)[0] & 0xF
            patches[offset] = bytes([_BINDING_WEAK << 4 | symbol_type])
    return patches


def _is_read_only(address: int, relro: elf.Span | None) -> bool:
    """Say whether the loader write-protects what is at this address after relocation."""
    if relro is None:
        return False
    # It protects whole pages, and rounds both ends down.
    first = relro.offset - relro.offset % dynamic.PAGE_SIZE
    end = relro.offset + relro.size
    return first <= address < end - end % dynamic.PAGE_SIZE


def _folders(path: str, entries: tuple[str, ...]) -> tuple[str, ...]:
    """Return the folders that these entries of a search path mean for the library at `path`."""
    origin = os.path.dirname(path)
    relatives = ((entry, copies.within_origin(entry)) for entry in entries)
    return tuple(entry if rel is None else os.path.join(origin, rel) for entry, rel in relatives)
