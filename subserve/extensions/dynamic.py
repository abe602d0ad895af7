"""The dynamic loader and the memory map, through ctypes.

Nothing that is opened here is ever closed again: an extension leaves pointers to itself all over
the process (types, destructors of thread-specific data, atexit handlers), so ``dlclose`` would be a
crash with a delay.  ctypes does not close libraries of its own accord either.
"""

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

_RTLD_DI_LINKMAP = 2  # <dlfcn.h>, the same in glibc and musl
# <sys/mman.h> and <linux/falloc.h>, the same on every architecture of Linux.
_MREMAP_MAYMOVE_FIXED = 1 | 2
_FALLOC_KEEP_SIZE_PUNCH_HOLE = 1 | 2
_MAP_FAILED = ctypes.c_void_p(-1).value

PAGE_SIZE = mmap.PAGESIZE


class _LinkMap(ctypes.Structure):
    """The public head of ``struct link_map``, <link.h>."""

    _fields_ = (("l_addr", ctypes.c_void_p), ("l_name", ctypes.c_void_p))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a library lies: `base` is added to the addresses in the file; `path` was opened."""

    base: int
    path: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a library keeps an address, and whether the loader has write-protected that since."""

    address: int
    read_only: bool


def open_extension(path: str) -> ctypes.PyDLL:
    """Open an extension module, keeping the GIL in calls to it.  Raises `OSError`.

    ``sys.setdlopenflags()`` is honoured but for RTLD_GLOBAL: were the symbols of one worker's
    copy global, those of the next one would be bound to them, and share its statics.
    """
    return ctypes.PyDLL(path, mode=sys.getdlopenflags() & ~os.RTLD_GLOBAL)


def open_library(path: str) -> None:
    """Open a C library for good.  Raises `OSError`."""
    ctypes.CDLL(path)


def is_known_as(name: str, library: ctypes.PyDLL) -> bool:
    """Say whether the dynamic loader, asked for `name` without a folder, has `library`.

    If it finds it by the name that is written in the library, it remembers the name.
    """
    try:
        found = ctypes.PyDLL(name, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return False
    return found._handle == library._handle


def defined_by(libraries: Iterable[str], symbols: Iterable[str]) -> frozenset[str]:
    """Return which of the symbols these C libraries, or those that they need, define.

    A library that cannot be opened defines none.
    """
    found: set[str] = set()
    for name in libraries:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue  # whoever needs it will say so
        found.update(symbol for symbol in symbols if _has_symbol(library, symbol))
    return frozenset(found)


def placement(library: ctypes.PyDLL) -> Placement | None:
    """Say where `library` lies in memory, or None where the system does not tell."""
    link_map = _link_map(library)
    if link_map is None:
        return None
    return Placement(link_map.l_addr or 0, os.fsdecode(ctypes.string_at(link_map.l_name)))


def attribute(library: ctypes.PyDLL, path: str) -> None:
    """Have `library` pass for the file at `path` in the eyes of debuggers and of itself.

    A library that looks for files beside it asks ``dladdr`` where it is, and what prints a C stack
    looks there for symbols; there is nothing at the path that it was opened by.  The path gets a
    superfluous ``/./``: whoever opens the file by its proper name must not be given this library.
    """
    link_map = _link_map(library)
    if link_map is not None:
        folder, name = os.path.split(path)
        # Never freed: it is needed for as long as the library is.
        link_map.l_name = _strdup(os.fsencode(f"{folder}/./{name}"))


def replace_mapping(
    address: int, size: int, descriptor: int, offset: int, *, executable: bool
) -> None:
    """Map `size` bytes at `offset` of the open file, read-only, in place of those at `address`.

    All three are multiples of `PAGE_SIZE`.  Raises `OSError` with the old mapping in place.

    Mapped aside first and moved then: if the file system cannot map, or not for execution, that
    shows before anything is replaced.  The move itself is atomic for threads that run this text.
    """
    protection = mmap.PROT_READ | (mmap.PROT_EXEC if executable else 0)
    aside = _mmap(None, size, protection, mmap.MAP_PRIVATE, descriptor, offset)
    if aside == _MAP_FAILED:
        raise _last_error("mmap")
    if _mremap(aside, size, size, _MREMAP_MAYMOVE_FIXED, ctypes.c_void_p(address)) == _MAP_FAILED:
        error = _last_error("mremap")
        _munmap(aside, size)
        raise error


def write_pointer(pointer: Pointer, value: int) -> None:
    """Change where a library keeps the address of a function.  Raises `OSError`."""
    page = pointer.address - pointer.address % PAGE_SIZE
    if pointer.read_only and _mprotect(page, PAGE_SIZE, mmap.PROT_READ | mmap.PROT_WRITE) != 0:
        raise _last_error("mprotect")
    ctypes.c_void_p.from_address(pointer.address).value = value
    if pointer.read_only and _mprotect(page, PAGE_SIZE, mmap.PROT_READ) != 0:
        raise _last_error("mprotect")


def map_code(code: bytes, path: str, data_offset: int) -> int:
    """Map machine code, never to be unmapped, and a page of zeroes to write to behind it.

    Returns the address of the code; the page is `data_offset` bytes, a multiple of `PAGE_SIZE`,
    from there.  `path` is for a file that is gone on return.  Raises `OSError`, not least where
    files may not be executed.
    """
    size = data_offset + PAGE_SIZE
    access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = _mmap(None, size, access, kind, -1, 0)
    if base == _MAP_FAILED:
        raise _last_error("mmap")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
    try:
        os.unlink(path)
        os.write(descriptor, code.ljust(PAGE_SIZE, b"\0"))
        replace_mapping(base, PAGE_SIZE, descriptor, 0, executable=True)
    finally:
        os.close(descriptor)
    return int(base)


def punch_hole(descriptor: int, offset: int, size: int) -> bool:
    """Free these bytes of an open file's storage; False where the file system cannot.

    Raises `OSError` for any other failure.
    """
    if _fallocate(descriptor, _FALLOC_KEEP_SIZE_PUNCH_HOLE, offset, size) == 0:
        return True
    error = _last_error("fallocate")
    if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise error


def _has_symbol(library: ctypes.CDLL, symbol: str) -> bool:
    try:
        ctypes.c_char.in_dll(library, symbol)
    except ValueError:
        return False
    return True


def _link_map(library: ctypes.PyDLL) -> _LinkMap | None:
    if sys.platform != "linux":
        return None
    found = ctypes.POINTER(_LinkMap)()
    if _dlinfo(library._handle, _RTLD_DI_LINKMAP, ctypes.byref(found)) != 0 or not found:
        return None
    return found.contents


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)
    _pointer, _size, _offset = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long
    _dlinfo = _libc.dlinfo
    _dlinfo.argtypes = (_pointer, ctypes.c_int, _pointer)
    _strdup = _libc.strdup
    _strdup.restype = _pointer
    _strdup.argtypes = (ctypes.c_char_p,)
    _mmap = _libc.mmap
    _mmap.restype = _pointer
    _mmap.argtypes = (_pointer, _size, ctypes.c_int, ctypes.c_int, ctypes.c_int, _offset)
    _mremap = _libc.mremap
    _mremap.restype = _pointer
    _mremap.argtypes = (_pointer, _size, _size, ctypes.c_int)  # and, variadic, the new address
    _munmap = _libc.munmap
    _munmap.argtypes = (_pointer, _size)
    _mprotect = _libc.mprotect
    _mprotect.argtypes = (_pointer, _size, ctypes.c_int)
    _fallocate = _libc.fallocate
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, _offset, _offset)
