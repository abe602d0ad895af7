"""The environment that all contenders and apps run in, made from ``requirements/peers.txt``."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "peers.txt"
CACHE = ROOT / ".cache" / "loadtests"
"""Everything that is made here: the environment and the results."""

STAMP = ".made-from"
SET_UP_SECONDS = 900.0

SHOWN = (
    "uvicorn",
    "granian",
    "gunicorn",
    "hypercorn",
    "waitress",
    "uvloop",
    "httptools",
    "zuvloop",
    "zttp",
)
SHOWN_APPS = ("fastapi", "pydantic", "flask")


class SetUpFailed(Exception):
    """The environment could not be made; says what was tried."""


def folder() -> Path:
    """Return where the environment of this Python is."""
    return CACHE / "venv-{}.{}".format(*sys.version_info)


def make_ready() -> Path:
    """Make the environment unless it is up to date, and return its folder of programs.

    Raises `SetUpFailed`.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "set-up.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # its holder has a deadline
        return _make_ready(folder())


def _make_ready(venv: Path) -> Path:
    python = os.path.realpath(sys.executable)
    wanted = f"{python} {hashlib.sha256(LOCK.read_bytes()).hexdigest()}\n"
    stamp = venv / STAMP
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing the peers into {venv.relative_to(ROOT)}", file=sys.stderr, flush=True)
        _uv("venv", "--quiet", "--clear", f"--python={sys.executable}", str(venv))
        _uv(
            *("pip", "sync", "--quiet", "--require-hashes", "--only-binary", ":all:"),
            *("--compile-bytecode", f"--python={venv / 'bin/python'}", str(LOCK)),
        )
        stamp.write_text(wanted)
    return venv / "bin"


def _uv(*arguments: str) -> None:
    # The set-up finds uv, or fetches it, and tells it about the network.
    argv = [sys.executable, "-m", "tools.bootstrap", "uv", *arguments]
    try:
        subprocess.run(argv, cwd=ROOT, check=True, timeout=SET_UP_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise SetUpFailed(f"uv {' '.join(arguments[:2])}: {error}") from error


def versions(programs: Path) -> dict[str, str]:
    """Return the versions of Python and of what is installed there."""
    asked = json.dumps([*SHOWN, *SHOWN_APPS])
    code = (
        "import json, platform; from importlib.metadata import version; "
        f"print(json.dumps({{'python': platform.python_version()}} | "
        f"{{name: version(name) for name in {asked}}}))"
    )
    done = subprocess.run(
        [str(programs / "python"), "-c", code], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found
