"""Extension modules of each kind, made by the C compiler, in several workers at once.

See `extension_harness` for how a scenario runs.
"""

import pathlib
import sys

import pytest

from tests.interpreters.extension_builder import (
    NOT_SUPPORTED,
    OWN_GIL,
    SUFFIX,
    build,
    build_module,
    needs_c,
    needs_exports,
)
from tests.interpreters.extension_harness import Json, meet, run

pytestmark = needs_c


def count_and_tell(worker: int, name: str) -> Json:
    import _interpreters
    import importlib

    from subserve import extensions

    module = importlib.import_module(name)
    counts = [module.count() for _ in range(worker + 1)]
    (how,) = (e for e in extensions.loaded() if e.name == name)
    return {
        "counts": counts,
        "made_here": getattr(module, "made_in", None) == _interpreters.get_current()[0],
        "how": [how.mode, how.phases],
        "shares": how.shared_bytes > 0,
        "file": module.__file__ == how.path,
        "name": module.__name__ == module.__spec__.name == name,
    }


# ---- whose statics, and in which interpreter


@pytest.mark.parametrize("name", ["single", "package.single"])
def test_statics_of_a_single_phase_module_are_private(tmp_path: pathlib.Path, name: str) -> None:
    build_module(tmp_path, name, "single.c")

    outcome = run(count_and_tell, sys_path=[tmp_path], name=name)

    for worker, result in enumerate(outcome.results):
        assert result == {
            "counts": list(range(1, worker + 2)),
            "made_here": True,
            "how": ["copy", 1],
            "shares": sys.platform == "linux",
            "file": True,
            "name": True,
        }


@pytest.mark.parametrize("options", [[], [NOT_SUPPORTED]])
def test_statics_of_a_multi_phase_module_are_private(
    tmp_path: pathlib.Path, options: list[str]
) -> None:
    build_module(tmp_path, "package.multi", "multi.c", *options)

    outcome = run(count_and_tell, sys_path=[tmp_path], name="package.multi")

    for worker, result in enumerate(outcome.results):
        assert result == {
            "counts": list(range(1, worker + 2)),
            "made_here": True,
            "how": ["copy", 2],
            "shares": sys.platform == "linux",
            "file": True,
            "name": True,
        }


def test_a_module_that_declares_support_is_loaded_as_it_is(tmp_path: pathlib.Path) -> None:
    build_module(tmp_path, "multi", "multi.c", OWN_GIL)

    outcome = run(count_and_tell, sys_path=[tmp_path], name="multi")

    counts = sorted(count for result in outcome.results for count in result["counts"])
    assert counts == list(range(1, 11))  # one static for all of them
    for result in outcome.results:
        assert result["how"] == ["native", 2]
        assert result["made_here"]


def count_in_another_module(worker: int, first: str) -> Json:
    import importlib

    from subserve import extensions

    importlib.import_module(first)
    import consumer

    meet()
    counts = [consumer.count() for _ in range(worker + 1)]
    (how,) = (e.mode for e in extensions.loaded() if e.name == "consumer")
    return [counts, how]


@pytest.mark.parametrize("first", ["provider", "consumer"])
@pytest.mark.parametrize("copied", [True, False])
def test_a_module_that_declares_support_and_calls_another_one(
    tmp_path: pathlib.Path, first: str, copied: bool
) -> None:
    """SciPy's modules declare support and keep pointers into NumPy, which does not.  As they were,
    they called the NumPy of another worker: "argument 1 must be numpy.ndarray, not
    numpy.ndarray"."""
    build_module(tmp_path, "provider", "provider.c", *([] if copied else [OWN_GIL]))
    build_module(tmp_path, "consumer", "consumer.c")

    outcome = run(count_in_another_module, sys_path=[tmp_path], rounds=2, first=first)

    counts = [counts for counts, _ in outcome.results]
    if copied:
        assert counts == [list(range(1, worker + 2)) for worker in range(4)]
    else:
        assert [how for _, how in outcome.results] == ["native"] * 4
        # One static for all, in both rounds.
        assert max(count for each in counts for count in each) == 20


def import_while_another_worker_is_half_way(worker: int) -> Json:
    import importlib.util

    from subserve import extensions

    if worker == 0:
        spec = importlib.util.find_spec("consumer")
        consumer = importlib.util.module_from_spec(spec)
        meet()
        meet()
        spec.loader.exec_module(consumer)
    else:
        meet()
        import consumer

        meet()
    meet()
    return [consumer.count(), *(e.mode for e in extensions.loaded() if e.name == "consumer")]


def test_it_is_copied_as_long_as_nobody_knows_whom_it_calls(tmp_path: pathlib.Path) -> None:
    """The first worker knows it once it has executed the module; the others may not wait."""
    build_module(tmp_path, "provider", "provider.c")
    build_module(tmp_path, "consumer", "consumer.c")

    outcome = run(import_while_another_worker_is_half_way, sys_path=[tmp_path])

    assert outcome.results == [[1, "native"], [1, "copy"], [1, "copy"], [1, "copy"]]


@needs_exports
@pytest.mark.parametrize(("options", "mode"), [([], "copy"), ([OWN_GIL], "native")])
def test_a_module_with_an_export_function(
    tmp_path: pathlib.Path, options: list[str], mode: str
) -> None:
    build_module(tmp_path, "package.export", "export.c", "-DEXPORT=PyModExport_export", *options)

    outcome = run(count_and_tell, sys_path=[tmp_path], name="package.export")

    for worker, result in enumerate(outcome.results):
        assert result["how"] == [mode, 2]
        assert result["name"]
        if mode == "copy":
            assert result["counts"] == list(range(1, worker + 2))


def test_a_module_name_beyond_ascii(tmp_path: pathlib.Path) -> None:
    encoded = "müsli".encode("punycode").decode().replace("-", "_")
    build("multi.c", tmp_path / f"müsli{SUFFIX}", f"-DINIT=PyInitU_{encoded}")

    outcome = run(count_and_tell, sys_path=[tmp_path], name="müsli")

    assert [result["counts"][-1] for result in outcome.results] == [1, 2, 3, 4]


def keep_objects_in_a_static(worker: int) -> Json:
    import single

    earlier = [single.cache(f"{worker}.{number}") for number in range(1000)]
    return [earlier[0], earlier[1:] == [f"{worker}.{number}" for number in range(999)]]


def test_recycled_workers_get_a_copy_each(tmp_path: pathlib.Path) -> None:
    """An object left in the copy of the worker before is one of an interpreter that is gone."""
    build_module(tmp_path, "single", "single.c")

    outcome = run(keep_objects_in_a_static, sys_path=[tmp_path], rounds=4)

    assert outcome.results == [[None, True]] * 4


# ---- what single-phase modules rely on


def look_into_single(worker: int) -> Json:
    import pickle

    from package import single

    return {
        "in init": single.name_in_init,
        "of a type": single.Kind.__module__,
        "of a function": single.count.__module__,
        "pickled": pickle.loads(pickle.dumps(single.Kind)) is single.Kind,
        "registered": single.is_registered(),
    }


def test_a_single_phase_module_has_its_full_name_from_the_start(tmp_path: pathlib.Path) -> None:
    """It calls itself by its last part, and so did the types that its init function made: they
    could not be pickled."""
    build_module(tmp_path, "package.single", "single.c")

    outcome = run(look_into_single, sys_path=[tmp_path])

    assert (
        outcome.results
        == [
            {
                "in init": "package.single",
                "of a type": "package.single",
                "of a function": "package.single",
                "pickled": True,
                "registered": True,
            }
        ]
        * 4
    )


def import_twice(worker: int) -> Json:
    import importlib
    import sys

    first = importlib.import_module("single")
    counts = [first.count()]
    first.scribble = "not there after the second import"
    del sys.modules["single"]
    second = importlib.import_module("single")
    counts.append(second.count())
    return {
        "counts": counts,
        "another": second is not first,
        "fresh": not hasattr(second, "scribble"),
        "in sys.modules": sys.modules["single"] is second,
        "same type": second.Kind is first.Kind,
    }


@pytest.mark.parametrize(("state_size", "same_type"), [(-1, True), (0, False)])
def test_importing_again_does_what_cpython_does(
    tmp_path: pathlib.Path, state_size: int, same_type: bool
) -> None:
    """With -1 a module can be initialised once, and comes back as it was; else it is made anew."""
    build_module(tmp_path, "single", "single.c", f"-DSTATE_SIZE={state_size}")

    outcome = run(import_twice, sys_path=[tmp_path], workers=2)

    assert (
        outcome.results
        == [
            {
                "counts": [1, 2],
                "another": True,
                "fresh": True,
                "in sys.modules": True,
                "same type": same_type,
            }
        ]
        * 2
    )


# ---- ways to a module


def load_from_locations(worker: int, locations: list[str]) -> Json:
    import importlib.machinery
    import importlib.util

    counts = []
    for location in locations:
        spec = importlib.util.spec_from_file_location("multi", location)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        counts.append(module.count())
        loader = importlib.machinery.ExtensionFileLoader("multi", location)
        spec = importlib.util.spec_from_loader("multi", loader)
        counts.append(importlib.util.module_from_spec(spec).count())
    return counts


def test_a_file_is_copied_once_however_it_is_reached(tmp_path: pathlib.Path) -> None:
    path = build_module(tmp_path, "multi", "multi.c")
    link = tmp_path / "elsewhere" / path.name
    link.parent.mkdir()
    link.symlink_to(path)

    outcome = run(load_from_locations, locations=[str(path), str(link)])

    assert outcome.results == [[1, 2, 3, 4]] * 4


def import_standard_library(worker: int) -> Json:
    import decimal
    import sqlite3
    import ssl
    import zoneinfo

    from subserve import extensions

    with sqlite3.connect(":memory:") as connection:
        (three,) = connection.execute("select 1 + 2").fetchone()
    connection.close()
    ssl.create_default_context()
    zoneinfo.ZoneInfo("UTC")
    return [three, str(decimal.Decimal("0.1") + 1), len(extensions.loaded())]


def test_the_standard_library_is_left_alone() -> None:
    assert run(import_standard_library).results == [[3, "1.1", 0]] * 4


# ---- modules of the process


def use_what_belongs_to_the_process(worker: int) -> Json:
    import faulthandler
    import tempfile
    import tracemalloc
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(100):
            with tempfile.TemporaryFile() as file:
                faulthandler.enable(file)
                faulthandler.dump_traceback_later(1000, file=file)
        tracemalloc.start()
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        dumped = b"use_what_belongs_to_the_process" in file.read()
    return [dumped, tracemalloc.is_tracing(), sorted({str(warning.message) for warning in caught})]


def test_what_belongs_to_the_process_is_not_touched_by_a_worker() -> None:
    """Files that several workers gave to faulthandler.enable() ended the process with
    "free(): invalid size"."""
    outcome = run(use_what_belongs_to_the_process)

    says = "does nothing in a worker: it acts on the whole process"
    expected = ["dump_traceback_later()", "enable()"]
    warned = [f"faulthandler.{name} {says}" for name in expected] + [f"tracemalloc.start() {says}"]
    assert outcome.results == [[True, False, warned]] * 4
