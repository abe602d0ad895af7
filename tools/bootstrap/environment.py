"""The virtual environment: what it is made from, whether it is up to date, how it is made."""

import fcntl
import hashlib
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

from tools.bootstrap import interpreters, uvtool
from tools.bootstrap.steps import StepFailed, ask, run, say

LOCK = "requirements/dev.txt"

# What the environment depends on: what pins and describes it, and what is compiled.  The version of
# the project is read from __init__.py.
INPUTS = (
    LOCK,
    "pyproject.toml",
    "subserve/__init__.py",
    "subserve/http/h1/_accelerator.c",
    "subserve/http/ws/_accelerator.c",
    "tools/hatch_build.py",
)

# A file in the environment, written last.
STAMP = ".made-from"

# How long one set-up waits for another one of the same checkout, in seconds.
TURN_TIMEOUT = 1800.0


def folder(root: Path, version: str) -> Path:
    """Return where the environment is: `.venv`, or `.venv-3.15` if PYTHON=3.15 was given."""
    return root / (".venv-" + version if version else ".venv")


def origin(venv: Path) -> str:
    """Return what an environment is bound to: its place, which its scripts name, and a Python.

    The interpreter is told by its path, size and time of change, for running it takes longer.
    Returns "" if there is none, such as after its removal.
    """
    try:
        python = os.path.realpath(str(venv / "bin/python"))
        stat = os.stat(python)
    except OSError:
        return ""
    return "{} {} {} {}".format(venv, python, stat.st_size, stat.st_mtime_ns)


def contents(root: Path) -> str:
    """Return a hash of the files that say what has to be installed."""
    digest = hashlib.sha256()
    for name in INPUTS:
        content = (root / name).read_bytes()
        digest.update("{} {}\n".format(name, len(content)).encode("utf-8"))
        digest.update(content)
    return digest.hexdigest()


def read_stamp(venv: Path) -> List[str]:
    """Return the origin and the contents an environment was completed with; [] if it was not."""
    try:
        lines = (venv / STAMP).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    return lines if len(lines) == 2 else []


def is_ready(root: Path, venv: Path) -> bool:
    """Say whether the environment was completed, and from what the checkout holds now."""
    made_from = read_stamp(venv)
    return made_from == [origin(venv), contents(root)] and (venv / "bin/subserve").exists()


def make_ready(root: Path, version: str) -> Path:
    """Make the environment, unless it is up to date already, and return where it is."""
    interpreters.wanted_series(version)
    venv = folder(root, version)
    with _turn(root):
        if not is_ready(root, venv):
            _build(root, venv, version)
    return venv


def _build(root: Path, venv: Path, version: str) -> None:
    started = time.monotonic()
    say("preparing {} (the first time takes minutes, later ones seconds)".format(venv.name))
    if venv.exists() and not (venv / "pyvenv.cfg").exists():
        raise StepFailed("{} is not a virtual environment".format(venv), "move it out of the way")
    uv = uvtool.find_or_fetch(root)
    env = uvtool.environment(root, os.environ)
    say("uv: " + uv)
    python = interpreters.find_or_fetch(root, uv, env, version)
    say("Python {}.{}.{}: {}".format(*python.version, python.path))
    made_from = read_stamp(venv)
    if made_from:
        # Not complete again before the end of this function.
        (venv / STAMP).unlink()
    if not made_from or made_from[0] != origin(venv):
        run(
            [uv, "venv", "--clear", "--python", python.path, str(venv)],
            "making " + venv.name,
            120,
            env=env,
        )
    own = ["--python", str(venv / "bin/python")]
    run(
        [uv, "pip", "sync", "--require-hashes", "--only-binary", ":all:", "--compile-bytecode"]
        + own
        + [str(root / LOCK)],
        "installing what {} pins".format(LOCK),
        1200,
        uvtool.NETWORK_ADVICE,
        env,
    )
    # The build backend is in the lock, so that nothing else is fetched to build with.
    run(
        [uv, "pip", "install", "--no-deps", "--no-build-isolation", "--offline"]
        + own
        + ["--editable", str(root)],
        "installing subserve itself, editable",
        300,
        "mend pyproject.toml as the output says",
        env,
    )
    _look_for_accelerator(venv)
    stamp = "{}\n{}\n".format(origin(venv), contents(root))
    (venv / STAMP).write_text(stamp, encoding="utf-8", errors="surrogateescape")
    say("{} is ready after {:.1f} s".format(venv.name, time.monotonic() - started))


def _look_for_accelerator(venv: Path) -> None:
    # uv shows what a build has to say only if it fails, and this one does not.
    try:
        ask(
            [
                str(venv / "bin/python"),
                "-c",
                "import subserve.http.h1._accelerator, subserve.http.ws._accelerator",
            ]
        )
    except StepFailed:
        say(
            "WARNING: no accelerator was compiled, so requests take more CPU time; "
            "`make build` says why"
        )


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    """Let one set-up of a checkout run at a time; the kernel ends a turn with its process."""
    cache = root / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "set-up.lock").open("w") as lock:
        deadline = time.monotonic() + TURN_TIMEOUT
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise StepFailed(
                        "another set-up of this checkout does not end",
                        "end it, then run the same command again",
                    ) from error
            if not waiting:
                say("waiting for another set-up of this checkout")
                waiting = True
            time.sleep(0.2)
        yield
