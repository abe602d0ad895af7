"""Give the text of a private copy back: map it from the original, whose pages all workers share.

What is the same in every copy (code, constants, symbol tables) lies in the `PT_LOAD` segments
without the write flag.  They are most of a library; the rest is its statics, which is what the
copy was made for and which stays mapped from it.

That the writable segment stays is needed for one more reason: it holds on to the copy's inode.
With nothing mapped from it, the number of the unlinked inode would be free for the next copy, and
the dynamic loader would take that one for a library it has already and return the old one.
"""

import os
from dataclasses import dataclass

from subserve.extensions import dynamic, elf


@dataclass(frozen=True, slots=True)
class Version:
    """What tells that a file has been written to: compare two of them."""

    size: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class _Range:
    """Whole pages, `start` included, `end` not, of a file or of memory."""

    start: int
    end: int

    def overlaps(self, other: _Range) -> bool:
        return self.start < other.end and other.start < self.end


def version_of(descriptor: int) -> Version:
    """Return the version of an open file.  Raises `OSError`."""
    status = os.fstat(descriptor)
    return Version(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def sharable(image: elf.Image) -> tuple[elf.Segment, ...]:
    """Return the segments of a library that can be mapped from another file with the same bytes.

    None of them if its text is written to while it is loaded (text relocations), or if no writable
    segment would be left to keep the inode.
    """
    if image.text_relocations or not any(s.writable and s.file_size for s in image.segments):
        return ()
    writable = [_pages(s.address, s.memory_size) for s in image.segments if s.writable]
    return tuple(
        segment
        for segment in image.segments
        if not segment.writable
        and segment.readable
        and 0 < segment.file_size == segment.memory_size
        and (segment.address - segment.offset) % dynamic.PAGE_SIZE == 0
        and not any(_pages(segment.address, segment.memory_size).overlaps(w) for w in writable)
    )


def share(image: elf.Image, base: int, original: int) -> int:
    """Map the sharable segments of the library at `base` from the open file `original`.

    Returns the number of bytes that are shared now.  Raises `OSError` where the file system of the
    original does not let it be mapped; the library is whole then, but not shared.
    """
    shared = 0
    for segment in sharable(image):
        memory = _pages(base + segment.address, segment.file_size)
        file = _pages(segment.offset, segment.file_size)
        size = memory.end - memory.start
        dynamic.replace_mapping(
            memory.start, size, original, file.start, executable=segment.executable
        )
        shared += size
    return shared


def release(image: elf.Image, copy: int) -> None:
    """Free the storage of what is no longer mapped from the open file `copy`, all of it shared.

    It is unlinked, but lives for as long as its writable segment is mapped; in a scratch folder in
    memory (tmpfs) its text would be paid for until the process ends.  Raises `OSError`.
    """
    shared = sharable(image)
    kept = sorted(
        (_pages(s.offset, s.file_size) for s in image.segments if s not in shared),
        key=lambda pages: pages.start,
    )
    position = 0
    for pages in [*kept, _Range(os.fstat(copy).st_size, 0)]:
        if position < pages.start:
            dynamic.punch_hole(copy, position, pages.start - position)
        position = max(position, pages.end)


def _pages(start: int, size: int) -> _Range:
    return _Range(
        start - start % dynamic.PAGE_SIZE,
        start + size + -(start + size) % dynamic.PAGE_SIZE,
    )
