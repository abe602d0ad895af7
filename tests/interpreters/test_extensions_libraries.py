"""What extension modules are linked against, what memory copies share, what they leave behind.

See `extension_harness` for how a scenario runs.
"""

import pathlib
import sys

import pytest

from tests.interpreters.extension_builder import build, build_module, needs_c, needs_cpp
from tests.interpreters.extension_harness import Json, run

pytestmark = [
    needs_c,
    pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files and /proc"),
]


# ---- vendored libraries


def count_in_library(worker: int, module: str, library: str) -> Json:
    import importlib
    import os

    count = importlib.import_module(module).count()
    with open("/proc/self/maps") as file:
        mapped = {line.split()[-1] for line in file if os.path.basename(library) in line}
    return [count, sorted(mapped)]


@pytest.mark.parametrize(
    ("module", "folder", "search_path", "tags", "file"),
    [
        ("package.linked", "package.libs", "$ORIGIN/../package.libs", "enable", "libclib.so.1"),
        (
            "package.sub.linked",
            "package.libs",
            "$ORIGIN/../../package.libs",
            "disable",
            "libc-1.so",
        ),
        ("package.linked", "package", "$ORIGIN", "enable", "libclib.so"),
        ("linked", "package/lib", "${ORIGIN}/package/lib", "disable", "libclib.so.1"),
    ],
)
def test_vendored_libraries_are_found_and_shared(
    tmp_path: pathlib.Path, module: str, folder: str, search_path: str, tags: str, file: str
) -> None:
    """The name of a library is in it or, in the third case, is not."""
    options = [f"-Wl,-soname,{file}"] if file != "libclib.so" else []
    library = build("clib.c", tmp_path / folder / file, *options)
    options = [f"-L{library.parent}", f"-l:{file}"]
    options.append(f"-Wl,--{tags}-new-dtags,-rpath,{search_path}")
    build_module(tmp_path, module, "linked.c", "-DWITH_CLIB", *options)

    outcome = run(
        count_in_library, workers=2, sys_path=[tmp_path], module=module, library=str(library)
    )

    # One static, where the file is: the library knows nothing of interpreters.
    assert sorted(outcome.results) == [[1, [str(library)]], [2, [str(library)]]]


def test_a_vendored_library_finds_its_neighbours_by_the_modules_rpath(
    tmp_path: pathlib.Path,
) -> None:
    """DT_RPATH, unlike DT_RUNPATH, holds for what the libraries need in turn."""
    libs = tmp_path / "package.libs"
    build("clib.c", libs / "libclib.so.1", "-Wl,-soname,libclib.so.1")
    (libs / "middle.c").write_text(
        "long clib_count(void); long middle(void) {return clib_count();}"
    )
    link = [f"-L{libs}", "-l:libclib.so.1"]
    middle = build(
        str(libs / "middle.c"), libs / "libmiddle.so.1", "-Wl,-soname,libmiddle.so.1", *link
    )
    options = ["-DWITH_CLIB", "-Dclib_count=middle", f"-L{libs}", f"-l:{middle.name}"]
    options.append("-Wl,--disable-new-dtags,--allow-shlib-undefined,-rpath,$ORIGIN/../package.libs")
    build_module(tmp_path, "package.linked", "linked.c", *options)

    outcome = run(
        count_in_library,
        workers=2,
        sys_path=[tmp_path],
        module="package.linked",
        library=str(middle),
    )

    assert sorted(outcome.results) == [[1, [str(middle)]], [2, [str(middle)]]]


# ---- libraries that call Python


def remember(worker: int, names: list[str]) -> Json:
    import importlib

    return [importlib.import_module(name).remember(f"{worker} {name}") for name in names]


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_library_that_calls_python_is_private_too(tmp_path: pathlib.Path, rounds: int) -> None:
    """Its statics are those of one interpreter, and of all modules there that are linked to it.
    (The dynamic loader knows it by name, and gave the second worker the first one's.)"""
    package = tmp_path / "package"
    library = build("pylib.c", package / "libpylib.so.1", "-Wl,-soname,libpylib.so.1")
    clib = build("clib.c", package / "libclib.so.1", "-Wl,-soname,libclib.so.1")
    options = ["-DWITH_PYLIB", f"-L{package}", "-Wl,-rpath,$ORIGIN"]
    names = ["package.first", "package.second"]
    for name in names:
        build_module(tmp_path, name, "linked.c", *options, f"-l:{library.name}", f"-l:{clib.name}")

    outcome = run(remember, sys_path=[tmp_path], rounds=rounds, names=names)

    for worker, result in enumerate(outcome.results):
        first, second = f"{worker} package.first", f"{worker} package.second"
        assert result == [[first], [first, second]]


# ---- statics of C++ templates and inline functions


def use_templates(worker: int) -> Json:
    import templates

    counts = [templates.count() for _ in range(3)]
    return [counts, templates.remember(f"ours {worker}"), templates.remember("")]


@needs_cpp
def test_statics_of_cpp_templates_are_private(tmp_path: pathlib.Path) -> None:
    """A process has one of each (STB_GNU_UNIQUE), whatever library it is in."""
    build_module(tmp_path, "templates", "templates.cpp")

    outcome = run(use_templates, sys_path=[tmp_path])

    assert outcome.results == [[[1, 2, 3], None, f"ours {worker}"] for worker in range(4)]


# ---- memory and disk


def look_at_memory(worker: int, name: str) -> Json:
    import importlib
    import os

    module = importlib.import_module(name)
    module.count()
    original = os.stat(module.__file__)
    found = {"text of the original": 0, "text of copies": 0, "data of copies": 0}
    with open("/proc/self/maps") as file:
        for line in file:
            _, access, _, _, inode, *path = line.split(maxsplit=5)
            if not path or os.path.basename(module.__file__) not in path[0]:
                continue
            if int(inode) == original.st_ino:
                assert "w" not in access
                found["text of the original"] += "x" in access
            elif "x" in access:
                found["text of copies"] += 1
            elif "w" in access:
                assert path[0].endswith("(deleted)\n")
                found["data of copies"] += 1
    return found


def test_text_is_mapped_from_the_original(tmp_path: pathlib.Path) -> None:
    build_module(tmp_path, "multi", "multi.c")

    outcome = run(look_at_memory, sys_path=[tmp_path], workers=1, name="multi")

    assert outcome.results == [
        {"text of the original": 1, "text of copies": 0, "data of copies": 1}
    ]


def use_what_was_shared_in_part(worker: int, shared: int) -> Json:
    from subserve.extensions import sharing

    sharable = sharing.sharable
    sharing.sharable = lambda image: sharable(image)[:shared]
    import multi

    return [multi.count(), multi.count.__name__, multi.inner.__name__]


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_segments_that_cannot_be_shared_stay_whole(tmp_path: pathlib.Path, shared: int) -> None:
    build_module(tmp_path, "multi", "multi.c", "-Wl,-z,separate-code")

    outcome = run(use_what_was_shared_in_part, workers=2, sys_path=[tmp_path], shared=shared)

    assert outcome.results == [[1, "count", "multi"]] * 2


def be_unable_to_map(worker: int) -> Json:
    import errno
    import logging

    from subserve import extensions
    from subserve.extensions import dynamic

    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("subserve").addHandler(handler)
    logging.getLogger("subserve").setLevel(logging.INFO)

    def replace_mapping(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENODEV, "mmap: No such device")

    dynamic.replace_mapping = replace_mapping
    import multi

    (how,) = extensions.loaded()
    expected = f"{multi.__file__} takes memory for its text in each worker: "
    expected += "[Errno 19] mmap: No such device"
    return [multi.count(), how.shared_bytes, messages == [expected]]


def test_a_file_system_that_cannot_map_is_no_obstacle(tmp_path: pathlib.Path) -> None:
    build_module(tmp_path, "multi", "multi.c")

    outcome = run(be_unable_to_map, workers=2, sys_path=[tmp_path])

    assert outcome.results == [[1, 0, True]] * 2


def ask_where(worker: int) -> Json:
    import ctypes
    import os

    import multi

    # Opened by its proper name, the file is not one of the copies: nobody has counted in it.
    original = ctypes.c_long.in_dll(ctypes.CDLL(multi.__file__), "exported")
    multi.count()
    return [os.path.samefile(multi.where(), multi.__file__), original.value]


def test_a_copy_passes_for_the_original(tmp_path: pathlib.Path) -> None:
    """onnxruntime looks for a library beside the file that it is in, and there was none any more
    where it had been opened."""
    build_module(tmp_path, "multi", "multi.c")

    outcome = run(ask_where, sys_path=[tmp_path])

    assert outcome.results == [[True, 0]] * 4


@pytest.mark.parametrize(
    "options",
    [
        ["-Wl,-z,noseparate-code"],
        ["-Wl,-z,separate-code"],
        ["-Wl,-z,max-page-size=65536"],
        ["-Wl,-z,max-page-size=2097152"],
        ["-Wl,-z,norelro"],
        ["-Wl,-z,lazy"],
        ["-Wl,-z,now"],
        ["-s"],
        ["-Wl,--hash-style=sysv"],
    ],
    ids=" ".join,
)
def test_every_layout_of_segments_works(tmp_path: pathlib.Path, options: list[str]) -> None:
    build_module(tmp_path, "package.single", "single.c", *options)

    outcome = run(look_at_memory, sys_path=[tmp_path], workers=2, name="package.single")

    assert all(result["text of copies"] == 0 for result in outcome.results)
    assert all(result["data of copies"] >= 1 for result in outcome.results)


def load_many(worker: int, count: int) -> Json:
    import importlib

    modules = [importlib.import_module(f"package{number}.multi") for number in range(count)]
    counts = [module.count() for module in modules]
    with open("/proc/self/maps") as file:
        inodes = {line.split()[4] for line in file if "(deleted)" in line and "multi" in line}
    return [counts, len(inodes)]


def test_an_inode_is_not_used_twice_while_its_library_lives(tmp_path: pathlib.Path) -> None:
    """The dynamic loader tells libraries apart by inode; that of a copy is free for the next one as
    soon as nothing of it is mapped, which would bring back the library of another module."""
    for number in range(6):
        build_module(tmp_path, f"package{number}.multi", "multi.c")

    outcome = run(load_many, sys_path=[tmp_path], workers=4, rounds=2, count=6)

    for counts, inodes in outcome.results:
        assert counts == [1] * 6
        assert inodes >= 6


def measure_the_copy(worker: int) -> Json:
    import os

    from subserve.extensions import sharing

    release = sharing.release
    rooms = []

    def measured_release(image: sharing.elf.Image, copy: int) -> None:
        rooms.append(os.fstat(copy).st_blocks * 512)
        release(image, copy)
        rooms.append(os.fstat(copy).st_blocks * 512)

    sharing.release = measured_release
    import padded

    padded.count()
    return rooms


def test_what_is_shared_takes_no_room_in_the_scratch_folder(tmp_path: pathlib.Path) -> None:
    """In a folder in memory, the text of an unlinked copy was paid for until the process ended."""
    filler = tmp_path / "filler.S"
    filler.write_text(".section .rodata\n.fill 4000000, 1, 120\n.section .note.GNU-stack\n")
    build_module(tmp_path, "padded", "multi.c", str(filler))

    outcome = run(measure_the_copy, sys_path=[tmp_path], workers=2)

    for before, after in outcome.results:
        assert before > 4_000_000
        assert after < 100_000
