"""Compiles the accelerator into a wheel, or beside its sources for an editable install.

A hook of hatchling.  Where it cannot be compiled the wheel is pure Python, which does the same and
takes more CPU time; a warning says why.  With REQUIRE_ACCELERATOR set to anything it is an error.
"""

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, override

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilderConfig

SOURCES = (
    Path("subserve/http/h1/_accelerator.c"),
    Path("subserve/http/ws/_accelerator.c"),
)

OPTIONS = ("-std=c11", "-O2", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")

COMPILE_TIMEOUT = 120.0
"""Seconds; it takes less than one.  Not measured elsewhere."""


class CannotCompile(Exception):
    """There will be no accelerator; the message says why."""


class AcceleratorHook(BuildHookInterface[WheelBuilderConfig]):
    """Runs before and after hatchling makes a wheel."""

    PLUGIN_NAME = "custom"

    @override
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; `version` is ``editable`` or ``standard``."""
        name = module_name()
        root = Path(self.root)
        targets = {source: root / source.with_name(name) for source in SOURCES}
        if version != "editable":
            self._folder = tempfile.TemporaryDirectory(prefix="subserve-build-")
            folder = Path(self._folder.name)
            targets = {source: folder / f"{i}-{name}" for i, source in enumerate(SOURCES)}
        try:
            for source, target in targets.items():
                compile_module(root / source, target)
        except CannotCompile as reason:
            if os.environ.get("REQUIRE_ACCELERATOR"):
                raise
            # All of it or nothing, so that there are no more than two ways to run.
            for target in targets.values():
                target.unlink(missing_ok=True)
            self.app.display_warning(f"WARNING: building without the accelerator: {reason}")
            return
        if version != "editable":
            for source, target in targets.items():
                build_data["force_include"][str(target)] = source.with_name(name).as_posix()
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    @override
    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled for a wheel that is complete now."""
        if version != "editable":
            self._folder.cleanup()


def module_name() -> str:
    """Return the name of the file that the Python that runs this would load."""
    return f"_accelerator{sysconfig.get_config_var('EXT_SUFFIX')}"


def find_tools() -> tuple[list[str], Path]:
    """Return the command of a C compiler, and the folder with Python's headers.

    Raises `CannotCompile` without either.
    """
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        raise CannotCompile(f"no Python.h in {headers}: install the headers of this Python")
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words, headers
    raise CannotCompile("no C compiler on PATH: install gcc or clang")


def compile_module(source: Path, target: Path) -> None:
    """Compile `source` into the module `target`; CC, CFLAGS and LDFLAGS are heeded.

    A process that has the old file open keeps it.  Raises `CannotCompile`; then there is no file.
    """
    target.unlink(missing_ok=True)
    compiler, headers = find_tools()
    made = target.with_name(f".{os.getpid()}.{target.name}")
    command = [
        *compiler,
        *OPTIONS,
        *shlex.split(os.environ.get("CFLAGS", "")),
        f"-I{headers}",
        # Debian's headers include one by its path from the folder above.
        *("-idirafter", str(headers.parent)),
        str(source),
        "-shared",
        *shlex.split(os.environ.get("LDFLAGS", "")),
        *("-o", str(made)),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT, check=False
        )
        if done.returncode:
            raise CannotCompile(f"{shlex.join(command)}\n{done.stderr}")
        made.replace(target)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(str(error)) from error
    finally:
        made.unlink(missing_ok=True)
