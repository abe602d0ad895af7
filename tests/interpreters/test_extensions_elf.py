"""Reading ELF files, odd ones included.  No interpreters here, but the compiler's output."""

import itertools
import os
import pathlib
import random
import sys

import pytest

from subserve.extensions import capsules, copies, elf, sharing
from tests.interpreters.extension_builder import build, needs_c, needs_cpp

pytestmark = [needs_c, pytest.mark.skipif(sys.platform != "linux", reason="about ELF files")]


def read_everything(path: pathlib.Path) -> elf.Image | None:
    """Read all that can be read, as the loader does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        image = elf.read_image(descriptor)
        if image is not None:
            elf.unique_symbols(descriptor, image)
            elf.pointers_to(descriptor, image, ("PyModule_Create2", "clib_count"))
            for name in (*image.needed, image.soname or ""):
                elf.library_name_offsets(descriptor, image, name)
            sharing.sharable(image)
        return image
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A module with most of what can be in one, linked against a library."""
    folder = tmp_path_factory.mktemp("elf")
    clib = build("clib.c", folder / "libclib.so.1", "-Wl,-soname,libclib.so.1")
    options = ["-DINIT=PyInit_linked", "-DWITH_CLIB", f"-L{folder}", f"-l:{clib.name}"]
    options.append("-Wl,-soname,linked.so,--disable-new-dtags,-rpath,$ORIGIN/../x.libs:/opt/y")
    return build("linked.c", folder / "linked.so", *options)


def test_what_the_linker_wrote_is_read(library: pathlib.Path) -> None:
    image = read_everything(library)

    assert image is not None
    assert "libclib.so.1" in image.needed
    assert image.soname == "linked.so"
    assert image.rpath == ("$ORIGIN/../x.libs", "/opt/y")
    assert image.runpath == ()
    assert not image.text_relocations
    assert image.calls_python
    assert any(segment.executable for segment in image.segments)
    assert not any(segment.executable for segment in image.segments if segment.writable)
    assert sharing.sharable(image) == tuple(s for s in image.segments if not s.writable)


def test_names_are_found_where_they_can_be_replaced(library: pathlib.Path) -> None:
    with library.open("rb") as file:
        image = elf.read_image(file.fileno())
        assert image is not None
        for name in ("libclib.so.1", "linked.so"):
            offsets = elf.library_name_offsets(file.fileno(), image, name)
            assert offsets
            for offset in offsets:
                assert os.pread(file.fileno(), len(name) + 1, offset) == name.encode() + b"\0"
        assert not elf.library_name_offsets(file.fileno(), image, "libother.so")


def test_text_that_is_written_to_is_not_shared(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "relocated.S"
    source.write_text(".text\n.global x\nx: .quad x\n.section .note.GNU-stack\n")
    library = build(str(source), tmp_path / "relocated.so", "-nostdlib", "-Wl,-z,notext")

    image = read_everything(library)

    assert image is not None
    assert image.text_relocations
    assert sharing.sharable(image) == ()


@needs_cpp
def test_symbols_of_which_a_process_has_one(tmp_path: pathlib.Path) -> None:
    library = build("templates.cpp", tmp_path / "templates.so")

    with library.open("rb") as file:
        image = elf.read_image(file.fileno())
        assert image is not None
        unique = elf.unique_symbols(file.fileno(), image)
        bindings = {os.pread(file.fileno(), 1, offset)[0] >> 4 for offset in unique.values()}

    assert any("Registry" in name for name in unique)
    assert bindings == {10}


def test_a_file_that_ends_too_early_is_none_or_an_image(
    library: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    content = library.read_bytes()
    cut = tmp_path / "cut.so"

    for size in itertools.chain(range(0, 1500, 7), range(1500, len(content), 997)):
        cut.write_bytes(content[:size])
        image = read_everything(cut)
        assert image is None or size > 1000


def test_a_damaged_file_never_raises(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = library.read_bytes()
    dynamic = content.index(b"libclib.so.1")
    damaged = tmp_path / "damaged.so"
    numbers = random.Random(20261122)

    for _ in range(600):
        changed = bytearray(content)
        for _ in range(numbers.randint(1, 4)):
            # Most of what is read is at the beginning, and in the dynamic section.
            limit = numbers.choice([64, 1024, dynamic + 200, len(content)])
            changed[numbers.randrange(limit)] = numbers.choice([0, 1, 0x7F, 0xFF])
        damaged.write_bytes(changed)
        read_everything(damaged)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({4: 1}, id="32-bit"),
        pytest.param({5: 2}, id="big-endian"),
        pytest.param({16: 2}, id="executable"),
        pytest.param({0: 0}, id="not ELF"),
    ],
)
def test_other_kinds_of_files_are_none(
    library: pathlib.Path, tmp_path: pathlib.Path, change: dict[int, int]
) -> None:
    content = bytearray(library.read_bytes())
    for offset, value in change.items():
        content[offset] = value
    other = tmp_path / "other.so"
    other.write_bytes(content)

    assert read_everything(other) is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("$ORIGIN", "."),
        ("$ORIGIN/", "."),
        ("${ORIGIN}/../../numpy.libs", "../../numpy.libs"),
        ("$ORIGIN/lib/../x", "x"),
        ("/usr/lib", None),
        ("$ORIGINAL/x", None),
        ("$LIB", None),
    ],
)
def test_entries_of_search_paths(entry: str, expected: str | None) -> None:
    assert copies.within_origin(entry) == expected


def test_who_takes_capsules_from_whom(tmp_path: pathlib.Path) -> None:
    consumer = build("consumer.c", tmp_path / "consumer.so", "-DINIT=PyInit_consumer")
    multi = build("multi.c", tmp_path / "multi.so", "-DINIT=PyInit_multi")

    assert "provider" in capsules.providers(str(consumer))
    assert capsules.providers(str(multi)) == frozenset()
