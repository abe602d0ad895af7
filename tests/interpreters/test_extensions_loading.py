"""One load at a time, what is said when a module cannot be loaded, and native mode.

See `extension_harness` for how a scenario runs.
"""

import itertools
import pathlib
import shutil
import subprocess

import pytest

from tests.interpreters.extension_builder import (
    NOT_SUPPORTED,
    OWN_GIL,
    SUFFIX,
    build,
    build_module,
    needs_c,
)
from tests.interpreters.extension_harness import Json, run

pytestmark = needs_c


# ---- one interpreter at a time


def load_slowly(worker: int) -> Json:
    import slow

    return [slow.began, slow.ended]


def test_workers_load_a_module_one_after_the_other(tmp_path: pathlib.Path) -> None:
    """Its init function sleeps for 50 ms without the GIL: time enough for others to come in."""
    build_module(tmp_path, "slow", "slow.c")

    outcome = run(load_slowly, sys_path=[tmp_path])

    spans = sorted(outcome.results)
    assert len(spans) == 4
    for (_, ended), (began, _) in itertools.pairwise(spans):
        assert ended <= began


def load_in_threads(worker: int, modules: int) -> Json:
    import importlib
    from concurrent.futures import ThreadPoolExecutor

    # Each of these holds the import lock of a package in Python while it imports an extension
    # module, whose init function takes a while and needs the package of another thread.
    names = [f"user{(worker + number) % modules}" for number in range(modules)]
    with ThreadPoolExecutor(modules) as pool:
        loaded = list(pool.map(importlib.import_module, names, timeout=60))
    return sorted(module.__name__ for module in loaded)


def test_threads_of_several_workers_do_not_wait_for_each_other_forever(
    tmp_path: pathlib.Path,
) -> None:
    """A load lock that belonged to a thread would deadlock here: one thread has it and waits for
    the import lock of a module, whose importer waits for the load lock."""
    modules = 4
    for number in range(modules):
        other = (number + 1) % modules
        build_module(tmp_path, f"package{number}.slow", "slow.c", f'-DIMPORTS="leaf{other}"')
        (tmp_path / f"leaf{number}.py").write_text(f"import package{number}.multi\n")
        build_module(tmp_path, f"package{number}.multi", "multi.c")
        (tmp_path / f"user{number}.py").write_text(
            f"import leaf{number}\nimport package{number}.slow\n"
        )

    outcome = run(load_in_threads, sys_path=[tmp_path], modules=modules)

    assert outcome.results == [[f"user{number}" for number in range(modules)]] * 4


# ---- errors


def import_and_tell(worker: int, name: str) -> Json:
    import importlib
    import sys

    found = []
    for _ in range(2):
        try:
            importlib.import_module(name)
        except (ArithmeticError, ImportError, SystemError) as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            names = [getattr(error, "name", None), getattr(error, "path", None)]
            found.append([kinds, str(error), *names])
    assert name not in sys.modules
    first, second = found
    assert first == second
    return first


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("raises", "ZeroDivisionError", "from the init function"),
        ("silent", "SystemError", "initialization of silent failed without raising an exception"),
        ("no_module", "SystemError", "initialization of no_module did not return an extension"),
        ("uninitialized", "SystemError", "init function of uninitialized returned uninitialized"),
        (
            "bad_name",
            "SystemError",
            "module bad_name: PyModule_Create is incompatible with m_slots",
        ),
        ("package.bad_name", "SystemError", "module package.bad_name: PyModule_Create is incompa"),
    ],
)
def test_what_an_init_function_raises_comes_through(
    tmp_path: pathlib.Path, name: str, kind: str, text: str
) -> None:
    build_module(tmp_path, name, "broken.c")

    outcome = run(import_and_tell, workers=2, sys_path=[tmp_path], name=name)

    for kinds, said, _, _ in outcome.results:
        assert kinds[0] == kind
        assert text in said


def test_a_library_without_the_function_is_an_import_error(tmp_path: pathlib.Path) -> None:
    path = build("clib.c", tmp_path / f"clib{SUFFIX}")

    outcome = run(import_and_tell, workers=2, sys_path=[tmp_path], name="clib")

    text = "dynamic module does not define module export function (PyInit_clib)"
    assert [result[1:] for result in outcome.results] == [[text, "clib", str(path)]] * 2


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01\x01", b"\x7fELF" + b"\xff" * 5000])
def test_a_file_that_is_no_library_is_an_import_error(
    tmp_path: pathlib.Path, content: bytes
) -> None:
    path = tmp_path / f"odd{SUFFIX}"
    path.write_bytes(content)

    outcome = run(import_and_tell, workers=2, sys_path=[tmp_path], name="odd")

    for kinds, text, name, at in outcome.results:
        assert kinds[0] == "ImportError"
        assert str(path) in text
        assert (name, at) == ("odd", str(path))


def test_a_missing_library_is_named(tmp_path: pathlib.Path) -> None:
    clib = build("clib.c", tmp_path / "libgone.so.1", "-Wl,-soname,libgone.so.1")
    build_module(tmp_path, "linked", "linked.c", "-DWITH_CLIB", f"-L{tmp_path}", f"-l:{clib.name}")
    clib.unlink()

    outcome = run(import_and_tell, workers=2, sys_path=[tmp_path], name="linked")

    for kinds, text, _, _ in outcome.results:
        assert kinds[0] == "ImportError"
        assert "libgone.so.1: cannot open shared object file" in text


# ---- the scratch folder


@pytest.fixture
def noexec(tmp_path: pathlib.Path) -> list[str]:
    """Return what runs a command with a scratch folder, ``noexec`` in `tmp_path`, without exec."""
    (tmp_path / "noexec").mkdir()
    mount = f'mount -t tmpfs -o noexec,mode=700 none {tmp_path / "noexec"} && exec "$0" "$@"'
    launcher = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1) to mount a folder")
    tried = subprocess.run([*launcher, "true"], capture_output=True, timeout=20, check=False)
    if tried.returncode != 0:
        pytest.skip("needs the right to mount a folder in a namespace of its own")
    return launcher


def test_a_scratch_folder_mounted_noexec(tmp_path: pathlib.Path, noexec: list[str]) -> None:
    path = build_module(tmp_path, "multi", "multi.c")

    outcome = run(
        import_and_tell,
        workers=2,
        sys_path=[tmp_path],
        scratch=tmp_path / "noexec",
        launcher=noexec,
        name="multi",
    )

    for kinds, text, name, at in outcome.results:
        assert {"ExtensionRefused", "ImportError", "SubserveError"} <= set(kinds)
        assert text.startswith(f"multi: no private copy of {path}: ")
        assert "is on a file system mounted noexec; set TMPDIR to a folder that is not" in text
        assert (name, at) == ("multi", str(path))


def lose_the_scratch_folder(worker: int, folder: str) -> Json:
    import os
    import shutil

    from first import multi as first

    shutil.rmtree(folder)
    from second import multi as second

    mode = os.stat(folder).st_mode & 0o777
    shutil.rmtree(folder)
    os.mkdir(folder)
    os.chmod(folder, 0o777)  # for everybody, so it may as well be somebody else's
    try:
        from third import multi as third
    except ImportError as error:
        return [first.count(), second.count(), oct(mode), str(error)]
    raise AssertionError(f"{third} came from a folder that anybody can write to")


def test_a_scratch_folder_that_was_cleaned_away_is_made_again(tmp_path: pathlib.Path) -> None:
    """Systems remove what is old in /tmp; a worker that is recycled weeks later needs the folder.
    It must not take one that another user made in its place."""
    for package in ("first", "second", "third"):
        build_module(tmp_path, f"{package}.multi", "multi.c")
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o700)

    outcome = run(
        lose_the_scratch_folder,
        workers=1,
        sys_path=[tmp_path],
        scratch=scratch,
        folder=str(scratch),
    )

    ((first, second, mode, text),) = outcome.results
    assert (first, second, mode) == (1, 1, "0o700")
    assert f"{scratch} is not a folder of this user alone; set TMPDIR" in text


# ---- native mode


def import_natively(worker: int, names: list[str]) -> Json:
    import importlib

    from subserve import extensions

    said = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            said[name] = [type(error).__name__, str(error), error.name, error.path]
    return [said, [[e.name, e.mode, e.phases] for e in extensions.loaded()]]


def test_native_mode_names_the_module_and_the_remedy(tmp_path: pathlib.Path) -> None:
    refused = build_module(tmp_path, "package.multi", "multi.c", NOT_SUPPORTED)
    build_module(tmp_path, "multi", "multi.c", OWN_GIL)
    names = ["package.multi", "multi", "does_not_exist"]

    outcome = run(import_natively, mode="native", sys_path=[tmp_path], names=names)

    for said, loaded in outcome.results:
        kind, text, name, path = said.pop("package.multi")
        assert kind == "ExtensionRefused"
        assert text == (
            f"package.multi ({refused}) does not declare support for interpreters with a GIL of "
            "their own; --extensions isolate loads a private copy of it into each worker"
        )
        assert (name, path) == ("package.multi", str(refused))
        assert said.pop("does_not_exist")[0] == "ModuleNotFoundError"
        assert not said
        assert loaded == [["multi", "native", 2]]


# ---- what is told of it


def load_and_tell(worker: int) -> Json:
    from subserve import extensions

    steps: list[str] = []
    extensions.observe(lambda s: steps.append(f"{s.name} {s.call} {s.state}"))
    import fine  # noqa: F401

    try:
        import raises  # noqa: F401
    except ZeroDivisionError, ImportError:
        steps.append("caught")
    found = [
        [m.name, m.error if isinstance(m, extensions.Failure) else str(m.mode)]
        for m in extensions.report()
    ]
    return [steps, found]


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("isolate", "ZeroDivisionError: from the init function"),
        # CPython's own words.
        ("native", "ImportError: failed to import from subinterpreter due to exception"),
    ],
)
def test_what_was_loaded_and_what_was_not_is_told(
    tmp_path: pathlib.Path, mode: str, error: str
) -> None:
    build_module(tmp_path, "fine", "multi.c", OWN_GIL)
    build_module(tmp_path, "raises", "broken.c")

    outcome = run(load_and_tell, mode=mode, sys_path=[tmp_path], workers=2)

    steps, found = outcome.results[0]
    assert steps == [
        "fine create begun",
        "fine create done",
        "fine execute begun",
        "fine execute done",
        "raises create begun",
        "raises create failed",
        "caught",
    ]
    assert found == [
        ["fine", "native"],
        ["raises", error],
    ]
    assert outcome.results[1] == [steps, found]
