"""Makes extension modules from the sources beside it, with the C compiler of the machine."""

import functools
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile

import pytest

SOURCES = pathlib.Path(__file__).parent / "extension_sources"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
OWN_GIL = "-DDECLARES=Py_MOD_PER_INTERPRETER_GIL_SUPPORTED"
NOT_SUPPORTED = "-DDECLARES=Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED"

_HEADERS = pathlib.Path(sysconfig.get_path("include"), "Python.h")
needs_c = pytest.mark.skipif(
    not (shutil.which("cc") and _HEADERS.exists()),
    reason="needs a C compiler and Python's headers",
)
needs_cpp = pytest.mark.skipif(
    not (shutil.which("c++") and _HEADERS.exists()),
    reason="needs a C++ compiler and Python's headers",
)
needs_exports = pytest.mark.skipif(
    sys.version_info < (3, 15), reason="PyModExport_ functions came with Python 3.15 (PEP 793)"
)


def build(source: str, target: pathlib.Path, *options: str) -> pathlib.Path:
    """Compile and link a shared library; `options` come last, as linkers want theirs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_compiled(source, options))
    return target


@functools.cache
def _compiled(source: str, options: tuple[str, ...]) -> bytes:
    compiler = "c++" if source.endswith(".cpp") else "cc"
    includes = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    with tempfile.TemporaryDirectory(prefix="subserve-test-") as folder:
        made = pathlib.Path(folder, "made.so")
        command = [
            compiler,
            "-shared",
            "-fPIC",
            "-O1",
            *(f"-I{include}" for include in includes),
            # Debian's headers include one by its path from the folder above.
            *("-idirafter", str(_HEADERS.parent.parent)),
            *("-o", str(made)),
            str(SOURCES / source),
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return made.read_bytes()


def build_module(folder: pathlib.Path, name: str, source: str, *options: str) -> pathlib.Path:
    """Build module `name`, dotted, below `folder`; packages get the files that make them."""
    *packages, short = name.split(".")
    for package in packages:
        folder /= package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    return build(source, folder / f"{short}{SUFFIX}", f"-DINIT=PyInit_{short}", *options)
