"""``pytest --subinterpreters`` on small suites: what it does as pytest does, and what it adds.

The runs are in this process, and their tests in processes that the plugin starts; so a test here
costs little, and what crashes there is caught.
"""

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest_plugins = ("pytester",)

MANY = """
import asyncio, os, sys, unittest, warnings
import pytest
from hypothesis import given, strategies

@pytest.fixture(scope="session", autouse=True)
def session():
    yield "s"

@pytest.fixture(scope="module", params=["x", "y"])
def module(request):
    yield request.param

@pytest.fixture(scope="class")
def of_class(session):
    return session * 2

class TestClass:
    @pytest.mark.parametrize("value", [1, 2, "a b"])
    def test_parameters(self, value, module, of_class):
        assert of_class == "ss"

@pytest.mark.chosen
def test_paths(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert os.getcwd() == str(tmp_path) and not list(tmp_path.iterdir())

def test_streams(capsys, capfd):
    pass

def test_printed(capsys, recwarn):
    print("out")
    assert capsys.readouterr().out == "out\\n"

def test_descriptors(capfd):
    os.write(1, b"out")
    assert capfd.readouterr().out == "out"

def test_fails(session):
    print("seen with the failure")
    assert {"a": 1} == {"a": 2}

def test_skips():
    pytest.skip("reason")

@pytest.mark.xfail(reason="known")
def test_expected():
    assert 0

@pytest.mark.xfail(strict=False)
def test_unexpected():
    pass

def test_warns():
    warnings.warn("careful", UserWarning)

@pytest.fixture
def broken():
    raise ValueError("set-up")

def test_error(broken):
    pass

@pytest.fixture
def breaks():
    yield
    raise ValueError("tear-down")

def test_error_after(breaks):
    pass

def test_recorded(record_property):
    record_property("a", object)

@given(strategies.integers())
def test_hypothesis(value):
    assert value == int(str(value))

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_async():
    await asyncio.sleep(0)

class TestOld(unittest.TestCase):
    def test_old(self):
        for value in range(3):
            with self.subTest(value=value):
                self.assertEqual(value, value)
"""

OTHER = """
import sys
import pytest

def test_where():
    import _interpreters
    assert (_interpreters.get_current()[0] != 0) == ("--subinterpreters" in str(sys.argv) or OURS)

def test_after():
    pass

@pytest.mark.chosen
def test_chosen():
    pass
"""


@pytest.fixture(autouse=True)
def configuration(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(
        "[tool.pytest]\nmarkers = ['chosen', 'anyio']\nstrict_markers = true\n"
    )


def outcomes(path: Path) -> dict[str, str]:
    """The outcome of each test of a junit file."""
    found = {}
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        children = sorted({child.tag for child in case} - {"properties", "system-out"})
        found[name] = "+".join(children) or "passed"
    return found


# ---- as without


def test_outcomes_are_those_of_plain_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_many=MANY)
    common = "-ojunit_family=xunit1"
    plain = pytester.runpytest_subprocess(common, "--junitxml=0.xml")
    expected = outcomes(pytester.path / "0.xml")
    assert set(expected.values()) == {"passed", "failure", "skipped", "error"}
    for count in (1, 2):
        result = pytester.runpytest_inprocess(
            f"--subinterpreters={count}", f"--junitxml={count}.xml"
        )
        assert outcomes(pytester.path / f"{count}.xml") == expected
        assert result.ret == plain.ret == pytest.ExitCode.TESTS_FAILED
        assert result.parseoutcomes() == plain.parseoutcomes()
        result.stdout.fnmatch_lines(
            [
                f"subinterpreters: {count},*",
                "collected 21 items*",
                "*{'a': 1} == {'a': 2}*",
                "*seen with the failure*",
                "*UserWarning: careful*",
            ]
        )


def test_each_file_is_run_in_an_interpreter_of_one_process(pytester: pytest.Pytester) -> None:
    test = """
        import os, threading, _interpreters
        from subserve import extensions

        def test_where(pytestconfig):
            import msgspec
            (module,) = [m for m in extensions.loaded() if m.name == "msgspec._core"]
            assert module.mode == "copy"
            with open("where", "a") as file:
                print(os.getpid(), _interpreters.get_current()[0], file=file)
            # Nobody takes two files: all wait for each other.
            import time
            deadline = time.monotonic() + 30
            while len(open("where").readlines()) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    """
    pytester.makepyfile(test_a=test, test_b=test, test_c=test)
    pytester.runpytest_inprocess("--subinterpreters=3").assert_outcomes(passed=3)
    lines = (pytester.path / "where").read_text().splitlines()
    processes, interpreters = zip(*(line.split() for line in lines), strict=True)
    assert len({*processes}) == 1
    assert len({*interpreters}) == 3
    assert processes[0] != str(os.getpid())
    assert "0" not in interpreters


def test_folder_and_environment_are_an_interpreters_own(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pathlib, time

        here = pathlib.Path(__file__).parent

        def meet(name, step):
            (here / f"{name}{step}").touch()
            deadline = time.monotonic() + 30
            while len([*here.glob(f"*{step}")]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    """)
    test = """
        import os, subprocess, sys
        from conftest import meet

        def test_own(tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)
            monkeypatch.setenv("WHO", "NAME")
            meet("NAME", ".step")
            assert os.getcwd() == str(tmp_path)
            code = "import os; print(os.environ['WHO'], os.getcwd())"
            for env in (None, os.environ):
                out = subprocess.check_output([sys.executable, "-c", code], env=env, text=True)
                assert out.split() == ["NAME", str(tmp_path)]
    """
    pytester.makepyfile(test_a=test.replace("NAME", "a"), test_b=test.replace("NAME", "b"))
    pytester.runpytest_inprocess("--subinterpreters=2").assert_outcomes(passed=2)


def test_some_are_selected_and_the_last_failed_run_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_many=MANY, test_other=OTHER.replace("OURS", "True"))
    result = pytester.runpytest_inprocess("--subinterpreters", "-m", "chosen", "-v", ".")
    result.assert_outcomes(passed=2, deselected=22)
    result.stdout.fnmatch_lines(
        [
            "*collected 24 items / 22 deselected / 2 selected*",
            "test_many.py::test_paths PASSED*50%*",
            "test_other.py::test_chosen PASSED*100%*",
        ]
    )
    result = pytester.runpytest_inprocess("--subinterpreters=1", "-x", "-k", "fails or after")
    result.assert_outcomes(failed=1, deselected=21)
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    result = pytester.runpytest_inprocess("--subinterpreters=2", "--lf", "--durations=3")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["run-last-failure: rerun previous 1 failure*", "*slowest 3 durations*"]
    )


@pytest.mark.parametrize(
    ("source", "arguments", "code", "said"),
    [
        ("x = 1", (), pytest.ExitCode.NO_TESTS_COLLECTED, "*no tests ran*"),
        ("def test(): pass", ("nowhere.py",), pytest.ExitCode.USAGE_ERROR, "ERROR: *nowhere.py*"),
        ("import nothing_there", (), pytest.ExitCode.INTERRUPTED, "*1 error during collection*"),
        ("import pytest\ndef test(): pytest.exit('enough', 9)", (), 9, "*Exit: enough*"),
        (
            "def test(): raise KeyboardInterrupt",
            (),
            pytest.ExitCode.INTERRUPTED,
            "*KeyboardInterr*",
        ),
        ("def test(): pass", ("--pdb",), pytest.ExitCode.USAGE_ERROR, "*--pdb does not work with*"),
    ],
)
def test_exit_codes(
    pytester: pytest.Pytester, source: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    pytester.makepyfile(source)
    result = pytester.runpytest_inprocess("--subinterpreters", *arguments)
    assert result.ret == code
    pytest.LineMatcher([*result.outlines, *result.errlines]).fnmatch_lines([said])


def test_output_of_tests_and_of_c_code(pytester: pytest.Pytester) -> None:
    source = """
        import os, sys
        def test_writes():
            print("from Python")
            os.write(2, b"from C\\n")
            assert 0
    """
    pytester.makepyfile(source)
    alone = pytester.runpytest_inprocess("--subinterpreters")
    alone.stdout.fnmatch_lines(["*Captured stdout*", "from Python", "*Captured stderr*", "from C"])
    several = pytester.runpytest_inprocess("--subinterpreters=2")
    several.stdout.fnmatch_lines(
        [
            "*capture: sys*",
            "*Captured stdout*",
            "from Python",
            "*by no test in particular*",
            "from C",
        ]
    )
    shown = pytester.runpytest_subprocess("--subinterpreters", "-s")
    shown.stdout.fnmatch_lines(["test_output*py from Python"])
    shown.stderr.fnmatch_lines(["from C"])


# ---- crashes

CRASHES = """
import ctypes, os, time

def test_before():
    pass

def test_segfault():
    ctypes.string_at(0)

def test_between():
    pass

def test_exit():
    os._exit(0)

def test_last():
    pass
"""


def test_a_crash_fails_its_test_and_the_others_run(pytester: pytest.Pytester) -> None:
    busy = "import time\ndef test_busy(): time.sleep(1)\ndef test_done(): pass"
    pytester.makepyfile(test_a=CRASHES, test_b=busy)
    result = pytester.runpytest_inprocess("--subinterpreters=2", "--junitxml=x.xml")
    result.assert_outcomes(passed=5, failed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "process ended by SIGSEGV while this test ran*",
            "*string_at*",
            "process ended with exit code 0 while this test ran*",
            '*test_a.py", line *, in test_exit',
        ]
    )
    found = outcomes(pytester.path / "x.xml")
    assert [name for name in found if found[name] == "failure"] == [
        "test_a::test_segfault",
        "test_a::test_exit",
    ]


def test_where_it_is_not_certain_which_test_it_was_they_run_alone(
    pytester: pytest.Pytester,
) -> None:
    wait = """
        import pathlib, time
        def test_waits():
            first = pathlib.Path("waited")
            if not first.exists():
                first.touch()
                time.sleep(60)
    """
    kill = """
        import os, pathlib, signal, time
        def test_kills():
            deadline = time.monotonic() + 30
            while not pathlib.Path("waited").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        def test_after(): pass
    """
    pytester.makepyfile(test_a=kill, test_b=wait)
    result = pytester.runpytest_inprocess("--subinterpreters=2", "-rf")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_a.py::test_kills - *SIGKILL*"])


def test_a_crash_that_nobody_repeats_is_told(pytester: pytest.Pytester) -> None:
    test = """
        import os, pathlib, signal, time
        def test_NAME():
            pathlib.Path("NAME.here").touch()
            deadline = time.monotonic() + 30
            while len([*pathlib.Path().glob("*.here")]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if "NAME" == "a" and not pathlib.Path("once").exists():
                pathlib.Path("once").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0 if pathlib.Path("b.again").exists() else 0.5)
    """
    pytester.makepyfile(test_a=test.replace("NAME", "a"), test_b=test.replace("NAME", "b"))
    result = pytester.runpytest_inprocess("--subinterpreters=2")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "process ended by SIGKILL*",
            "These tests ran at the time; alone, none*",
            "  test_a.py::test_a",
        ]
    )


def test_a_crash_while_a_file_is_imported_is_its_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="import os\nos.abort()", test_b="def test(): pass")
    result = pytester.runpytest_inprocess("--subinterpreters=2", "--continue-on-collection-errors")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR collecting test_a.py*", "*SIGABRT while this was coll*"])


def test_a_crash_in_a_fixture_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import os, pytest
        @pytest.fixture
        def before(): os._exit(1)
        @pytest.fixture
        def after():
            yield
            os._exit(1)
        def test_before(before): pass
        def test_after(after): pass
    """)
    result = pytester.runpytest_inprocess("--subinterpreters", "-rE")
    result.assert_outcomes(passed=1, errors=2)


def test_different_collections_are_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        def pytest_collection_modifyitems(config, items):
            if config.workerinput["workerid"] == "si1":
                items.reverse()
    """)
    pytester.makepyfile("def test_a(): pass\ndef test_b(): pass")
    result = pytester.runpytest_inprocess("--subinterpreters=2")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*interpreter 1 collected 2 tests*", "*the order is another one*"])


# ---- the user stops it


def test_an_interrupt_ends_fixtures_and_all_processes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import os, pathlib, pytest, time
        @pytest.fixture(scope="session")
        def fixture():
            yield
            pathlib.Path("torn").touch()
        def test_a(fixture):
            pathlib.Path("pid.new").write_text(str(os.getpid()))
            os.rename("pid.new", "pid")
            time.sleep(1.5)
        def test_b(): pathlib.Path("ran").touch()
    """)
    # Shells have their background jobs ignore it.
    code = (
        "import signal, sys, pytest; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.exit(pytest.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--subinterpreters", "-p", "no:cacheprovider"],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (pytester.path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert re.search(r"interrupted while these ran:\n  test_.*::test_a", output)
    assert (pytester.path / "torn").exists()
    assert not (pytester.path / "ran").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((pytester.path / "pid").read_text()), 0)
