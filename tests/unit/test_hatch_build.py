"""The build hook: what it compiles, and what becomes of a wheel where it cannot."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tools import hatch_build
from tools.hatch_build import CannotCompile, compile_module, find_tools, module_name

ROOT = Path(__file__).resolve().parents[2]

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "subserve"
version = "1"
requires-python = ">=3.14"

[tool.hatch.build.targets.wheel]
packages = ["subserve"]
exclude = ["*.c", "*.so"]

[tool.hatch.build.targets.wheel.hooks.custom]
path = "tools/hatch_build.py"
"""

MODULE = """
#include <Python.h>

static PyModuleDef_Slot slots[] = {{0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "made", .m_slots = slots};

PyMODINIT_FUNC
PyInit__accelerator(void)
{
    return PyModuleDef_Init(&definition);
}
"""


@pytest.fixture(autouse=True)
def no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CFLAGS", "LDFLAGS", "REQUIRE_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def needs_compiler() -> None:
    try:
        find_tools()
    except CannotCompile as reason:
        pytest.skip(str(reason))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the hook, and with a module that an earlier build left behind."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    for relative in hatch_build.SOURCES:
        source = tmp_path / relative
        source.parent.mkdir(parents=True)
        source.write_text(MODULE)
        source.with_name(module_name()).write_text("stale")
    (tmp_path / "subserve" / "__init__.py").touch()
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "hatch_build.py").write_text(Path(hatch_build.__file__).read_text())
    return tmp_path


NO_COMPILER = "import shutil; shutil.which = lambda name: None; "


def build(project: Path, kind: str = "wheel", before: str = "") -> subprocess.CompletedProcess[str]:
    """Call the build backend as an installer would; the wheel is made in `out`."""
    out = project / "out"
    out.mkdir()
    code = f"{before}from hatchling import build; build.build_{kind}({str(out)!r})"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def wheel(project: Path) -> tuple[str, list[str]]:
    """Return the tag of the wheel, and what it has of the accelerator."""
    (path,) = (project / "out").glob("*.whl")
    with zipfile.ZipFile(path) as file:
        names = [name for name in file.namelist() if "_accelerator" in name]
    return path.stem.partition("-1-")[2], names


@pytest.mark.usefixtures("needs_compiler")
def test_a_wheel_has_the_module_and_the_tag_of_this_python(project: Path) -> None:
    done = build(project)
    assert done.returncode == 0, done.stderr
    tag, names = wheel(project)
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert tag.startswith(f"{python}-{python}-linux_"), tag
    made = [source.with_name(module_name()).as_posix() for source in hatch_build.SOURCES]
    assert sorted(names) == sorted(made)


@pytest.mark.usefixtures("needs_compiler")
def test_an_editable_install_has_it_beside_the_source(project: Path) -> None:
    done = build(project, "editable")
    assert done.returncode == 0, done.stderr
    assert wheel(project) == ("py3-none-any", [])
    for source in hatch_build.SOURCES:
        check_loading((project / source).parent)


def check_loading(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["_accelerator.c", module_name()]
    loaded = subprocess.run(
        [sys.executable, "-c", "import _accelerator; print(_accelerator.__file__)"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert loaded.stdout.strip() == str(folder / module_name())


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("kind", ["wheel", "editable"])
@pytest.mark.parametrize("broken", hatch_build.SOURCES, ids=str)
def test_what_does_not_compile_is_left_out_with_a_warning(
    project: Path, kind: str, broken: Path
) -> None:
    """All of it, so that nobody runs with a half."""
    source = project / broken
    source.write_text("#error it is not for this machine\n")
    done = build(project, kind)
    assert done.returncode == 0, done.stderr
    assert "WARNING: building without the accelerator" in done.stdout + done.stderr
    assert "it is not for this machine" in done.stdout + done.stderr
    assert wheel(project) == ("py3-none-any", [])
    if kind == "editable":
        for each in hatch_build.SOURCES:
            assert [path.name for path in (project / each).parent.iterdir()] == ["_accelerator.c"]


def test_without_a_compiler_the_wheel_is_pure(project: Path) -> None:
    done = build(project, before=NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert "WARNING: building without the accelerator: no " in done.stdout + done.stderr
    assert wheel(project) == ("py3-none-any", [])


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_where_it_is_required_its_lack_is_an_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("REQUIRE_ACCELERATOR", "1")
    done = build(project, kind, NO_COMPILER)
    assert done.returncode != 0
    assert "CannotCompile: no " in done.stderr


def test_the_headers_of_another_python_do_not_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(CannotCompile, match=r"no Python\.h in .*: install the headers"):
        find_tools()


@pytest.mark.usefixtures("needs_compiler")
def test_the_compiler_that_was_asked_for_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "my-cc"
    compiler.write_text('#!/bin/sh\necho "$@" >&2\nexit 3\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"{compiler} --first")
    monkeypatch.setenv("CFLAGS", "-DMINE='a b'")
    monkeypatch.setenv("LDFLAGS", "-Wl,-z,now")
    target = tmp_path / "made.so"
    target.write_text("stale")
    with pytest.raises(CannotCompile, match=r"--first .*-DMINE=a b .*-Wl,-z,now"):
        compile_module(tmp_path / "x.c", target)
    assert not target.exists()


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.skipif(
    not (ROOT / hatch_build.SOURCES[0]).exists(),
    reason="tests of an installed wheel have no source",
)
@pytest.mark.parametrize("source", hatch_build.SOURCES, ids=str)
def test_the_source_compiles_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path
) -> None:
    monkeypatch.setenv("CFLAGS", "-Werror")
    compile_module(ROOT / source, tmp_path / "made.so")
