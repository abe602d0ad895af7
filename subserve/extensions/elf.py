"""Just enough of ELF to load a private copy of a shared library and to share its text.

Pure: reads bytes from an open file, knows nothing of processes.  The format is that of the
System V ABI, chapters 4 and 5, with the GNU extensions of <elf.h>.  Only 64-bit little-endian files
with explicit addends are understood, which is what Linux wheels are (x86-64, aarch64, riscv64,
ppc64le, loongarch64); anything else, and anything malformed, is `None`: the copy of such a file is
loaded without the services that need to know what is in it.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_IDENT_64_LITTLE = b"\x7fELF\x02\x01\x01"
_TYPE_SHARED = 3
_LOAD, _DYNAMIC, _RELRO = 1, 2, 0x6474E552
_EXECUTE, _WRITE, _READ = 1, 2, 4
_NEEDED, _PLTRELSZ, _STRTAB, _SYMTAB, _RELA, _RELASZ, _STRSZ = 1, 2, 5, 6, 7, 8, 10
_SONAME, _RPATH, _PLTREL, _TEXTREL, _JMPREL, _RUNPATH, _FLAGS = 14, 15, 20, 22, 23, 29, 30
_VERNEED, _VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
_FLAG_TEXTREL = 4
_SECTION_DYNSYM = 11
_BINDING_UNIQUE = 10

_PYTHON_SYMBOL = re.compile(rb"\0_?Py(?:[A-Z][A-Za-z]*)?_")

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC_ENTRY = struct.Struct("<qQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_VERSION_NEED = struct.Struct("<HHIII")

# Far above anything that a linker makes, low enough that an odd file cannot cost much.
_MAX_HEADERS = 4096
_MAX_DYNAMIC_BYTES = 1 << 20
_MAX_TABLE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """A `PT_LOAD` program header: what part of the file goes where in memory.  Sizes in bytes."""

    offset: int
    address: int
    file_size: int
    memory_size: int
    readable: bool
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the file, `size` bytes from `offset` on; or of memory, from that address on."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """What the dynamic loader would read of a shared library.

    `rpath` and `runpath` are the entries of ``DT_RPATH`` and ``DT_RUNPATH`` as they are written,
    ``$ORIGIN`` included.  `relro` is what the loader makes read-only after relocation, in memory.
    `text_relocations` says that read-only segments are written to while loading.
    """

    segments: tuple[Segment, ...]
    relro: Span | None
    needed: tuple[str, ...]
    soname: str | None
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    text_relocations: bool
    strings: bytes
    _strings_offset: int
    _entries: tuple[tuple[int, int], ...]
    _sections: Span
    _symbols: int

    @property
    def calls_python(self) -> bool:
        """Whether it refers to, or defines, symbols named like those of the Python C API."""
        return _PYTHON_SYMBOL.search(self.strings) is not None


class _Malformed(Exception):
    """The file contradicts itself, or ends too early."""


def read_image(descriptor: int) -> Image | None:
    """Return what the open file `descriptor` holds, or None if it is not such a shared library.

    The file's position is neither used nor changed, here and below.  Raises `OSError` if reading
    fails.
    """
    try:
        return _read_image(descriptor)
    except _Malformed:
        return None


def library_name_offsets(descriptor: int, image: Image, name: str) -> frozenset[int]:
    """Return where in the file the library's own name, or that of one it needs, is written.

    The linker writes a name once for the dependency and once for its symbol versions, mostly in the
    same place.  Empty if the library does not mention that name, or not in a readable way.
    """
    try:
        addresses = [value for tag, value in image._entries if tag in (_NEEDED, _SONAME)]
        addresses += _version_names(descriptor, image)
        return frozenset(
            image._strings_offset + address
            for address in addresses
            if _text(image.strings, address) == name
        )
    except _Malformed:
        return frozenset()


def unique_symbols(descriptor: int, image: Image) -> dict[str, int]:
    """Return the names of the symbols of which the whole process has one (``STB_GNU_UNIQUE``).

    The value is where in the file the byte with the symbol's binding and type is.  Empty if the
    table of symbols is not to be found (a library stripped of its section headers).
    """
    try:
        found: dict[str, int] = {}
        for section in _SECTION_HEADER.iter_unpack(_span(descriptor, image._sections)):
            kind, offset, size = section[1], section[4], section[5]
            if kind != _SECTION_DYNSYM:
                continue
            table = _span(descriptor, Span(offset, size - size % _SYMBOL.size))
            for number, symbol in enumerate(_SYMBOL.iter_unpack(table)):
                if symbol[1] >> 4 == _BINDING_UNIQUE:
                    info = offset + number * _SYMBOL.size + 4
                    found[_text(image.strings, symbol[0])] = info
        return found
    except _Malformed:
        return {}


def pointers_to(
    descriptor: int, image: Image, symbols: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Return the addresses, relative to the base, where the loader puts these symbols' addresses.

    Symbols that the library does not refer to are left out.
    """
    at = {image.strings.find(b"\0" + name.encode() + b"\0") + 1: name for name in symbols}
    at.pop(0, None)  # not found
    if not at:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    try:
        references = _references(descriptor, image)
        count = max((number for _, number in references), default=-1) + 1
        table = _span(descriptor, Span(image._symbols, count * _SYMBOL.size))
        wanted = {
            number: at[fields[0]]
            for number, fields in enumerate(_SYMBOL.iter_unpack(table))
            if fields[0] in at
        }
        for place, number in references:
            if (name := wanted.get(number)) is not None:
                found[name] = (*found.get(name, ()), place)
    except _Malformed:
        return {}
    return found


def _references(descriptor: int, image: Image) -> list[tuple[int, int]]:
    """Return the addresses that the loader fills in, each with the number of the symbol."""
    entries = dict(image._entries)
    if entries.get(_PLTREL, _RELA) != _RELA:
        raise _Malformed
    references: list[tuple[int, int]] = []
    for table, size in ((_JMPREL, _PLTRELSZ), (_RELA, _RELASZ)):
        if table in entries:
            offset = _file_offset(image.segments, entries[table])
            count = entries.get(size, 0) // _RELOCATION.size
            data = _span(descriptor, Span(offset, count * _RELOCATION.size))
            references += [
                (place, info >> 32)
                for place, info, addend in _RELOCATION.iter_unpack(data)
                if info >> 32 and addend == 0
            ]
    return references


def _read_image(descriptor: int) -> Image:
    header = _HEADER.unpack(_span(descriptor, Span(0, _HEADER.size)))
    ident, kind, table, sections = header[0], header[1], header[5], header[6]
    entry_size, count, section_size, section_count = header[9], header[10], header[11], header[12]
    if not ident.startswith(_IDENT_64_LITTLE) or kind != _TYPE_SHARED:
        raise _Malformed
    if entry_size != _PROGRAM_HEADER.size or not 0 < count <= _MAX_HEADERS:
        raise _Malformed
    segments: list[Segment] = []
    dynamic, relro = Span(0, 0), None
    for fields in _PROGRAM_HEADER.iter_unpack(_span(descriptor, Span(table, entry_size * count))):
        kind, flags, offset, address, _physical, file_size, memory_size, _align = fields
        if kind == _LOAD:
            readable, writable = bool(flags & _READ), bool(flags & _WRITE)
            executable = bool(flags & _EXECUTE)
            segments.append(
                Segment(offset, address, file_size, memory_size, readable, writable, executable)
            )
        elif kind == _DYNAMIC:
            dynamic = Span(offset, file_size - file_size % _DYNAMIC_ENTRY.size)
        elif kind == _RELRO:
            relro = Span(address, memory_size)
    if dynamic.size > _MAX_DYNAMIC_BYTES:
        raise _Malformed
    if section_size != _SECTION_HEADER.size or section_count > _MAX_HEADERS:
        section_count = 0
    entries = tuple(_dynamic_entries(_span(descriptor, dynamic)))
    last = dict(entries)
    if _STRTAB not in last or _STRSZ not in last or _SYMTAB not in last:
        raise _Malformed
    strings_offset = _file_offset(tuple(segments), last[_STRTAB])
    strings = _span(descriptor, Span(strings_offset, last[_STRSZ]))

    def paths(tag: int) -> tuple[str, ...]:
        return tuple(p for p in _text(strings, last[tag]).split(":") if p) if tag in last else ()

    return Image(
        segments=tuple(segments),
        relro=relro,
        needed=tuple(_text(strings, value) for tag, value in entries if tag == _NEEDED),
        soname=_text(strings, last[_SONAME]) if _SONAME in last else None,
        rpath=paths(_RPATH),
        runpath=paths(_RUNPATH),
        text_relocations=_TEXTREL in last or bool(last.get(_FLAGS, 0) & _FLAG_TEXTREL),
        strings=strings,
        _strings_offset=strings_offset,
        _entries=entries,
        _sections=Span(sections, section_count * section_size),
        _symbols=_file_offset(tuple(segments), last[_SYMTAB]),
    )


def _dynamic_entries(section: bytes) -> Iterator[tuple[int, int]]:
    for tag, value in _DYNAMIC_ENTRY.iter_unpack(section):
        if tag == 0:
            return
        yield tag, value


def _version_names(descriptor: int, image: Image) -> list[int]:
    entries = dict(image._entries)
    if _VERNEED not in entries:
        return []
    position = _file_offset(image.segments, entries[_VERNEED])
    found: list[int] = []
    for _ in range(min(entries.get(_VERNEEDNUM, 0), _MAX_HEADERS)):
        fields = _VERSION_NEED.unpack(_span(descriptor, Span(position, _VERSION_NEED.size)))
        found.append(fields[2])
        position += fields[4]
    return found


def _text(strings: bytes, position: int) -> str:
    end = strings.find(b"\0", position)
    if end < 0:
        raise _Malformed
    return os.fsdecode(strings[position:end])


def _file_offset(segments: tuple[Segment, ...], address: int) -> int:
    for segment in segments:
        if segment.address <= address < segment.address + segment.file_size:
            return address - segment.address + segment.offset
    raise _Malformed


def _span(descriptor: int, span: Span) -> bytes:
    if span.offset >= 1 << 62 or span.size > _MAX_TABLE_BYTES:
        raise _Malformed
    data = os.pread(descriptor, span.size, span.offset)
    if len(data) != span.size:
        raise _Malformed
    return data
