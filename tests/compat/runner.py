"""Run what is in `work` with the packages of an environment, each in a process of its own."""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subserve import crash
from subserve.signals import name_of

ROOT = Path(__file__).parents[2]
WORK = Path(__file__).parent / "work"
CHILD = Path(__file__).parent / "child.py"
LIMIT_SECONDS = 240.0
"""For one distribution; most take a few."""


@dataclass(frozen=True)
class Task:
    """A function of `work`: what it does with which distribution."""

    distribution: str
    file: str
    function: str
    does: str


@dataclass
class Result:
    """What came of one distribution.  `memory` and `left` are bytes for each worker.

    `ways` says of its modules, and of those it brought, how many were loaded how; `problem` is
    empty if all went well.
    """

    distribution: str
    does: str
    version: str = ""
    ways: dict[str, int] = field(default_factory=dict)
    memory: int | None = None
    left: int | None = None
    threads: str = ""
    problem: str = ""
    details: str = ""


def tasks() -> Iterator[Task]:
    """Find all functions, in alphabetical order of their distributions."""
    found = []
    for path in WORK.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("use_"):
                name = node.name.removeprefix("use_").replace("_", "-")
                does = (ast.get_docstring(node) or "").rstrip(".")
                found.append(Task(name, str(path), node.name, does))
    yield from sorted(found, key=lambda task: task.distribution)


def run(task: Task, python: str) -> Result:
    """Run one with the interpreter `python`, and wait for it at most `LIMIT_SECONDS`."""
    result = Result(task.distribution, task.does)
    with tempfile.TemporaryDirectory(prefix="subserve-compat-") as folder:
        scratch = Path(folder, "scratch")
        scratch.mkdir(mode=0o700)
        results = Path(folder, "results")
        job = {
            "distribution": task.distribution,
            "file": task.file,
            "function": task.function,
            "root": str(ROOT),
            "scratch": str(scratch),
            "folder": folder,
            "results": str(results),
        }
        output, code = _run_child(python, job, folder)
        said = [json.loads(line) for line in _lines(results)]
    for line in said:
        _take(result, line)
    steps = [line["step"] for line in said if "step" in line]
    if not result.problem and code != 0:
        result.problem = _how(code, steps, output)
    result.details = output[-4000:] if result.problem else ""
    return result


def is_installed(task: Task, python: str) -> bool:
    """Say whether an environment has it: not all have wheels for each Python."""
    code = f"import importlib.metadata as m; m.version({task.distribution!r})"
    done = subprocess.run([python, "-c", code], capture_output=True, check=False, timeout=60)
    return done.returncode == 0


def _run_child(python: str, job: dict[str, Any], folder: str) -> tuple[str, int | None]:
    # TMPDIR too: what a crash leaves behind goes with the folder.
    environ = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": folder}
    environ |= {"MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [python, "-X", "faulthandler", str(CHILD), json.dumps(job)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
        )
        code: int | None
        try:
            code = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(6)  # SIGABRT: faulthandler says where it is
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            code = None
        output.seek(0)
        return output.read().decode("utf-8", "replace"), code


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _take(result: Result, line: dict[str, Any]) -> None:
    result.version = line.get("version", result.version)
    result.memory = line.get("memory", result.memory)
    result.left = line.get("left", result.left)
    result.threads = line.get("threads", result.threads)
    if "error" in line:
        result.problem = line["error"].strip().splitlines()[-1]
        result.details = line["error"]
    for module in line.get("modules", ()):
        way = _way(module)
        result.ways[way] = result.ways.get(way, 0) + 1


def _way(module: dict[str, Any]) -> str:
    if "error" in module:
        return "not loaded"
    if module["mode"] == "native":
        return "own GIL"
    return "copy" if module["phases"] == 2 else "copy, single-phase"


def _how(code: int | None, steps: list[str], output: str) -> str:
    when = f" ({steps[-1]})" if steps else ""
    if code is None:
        return f"did not end within {LIMIT_SECONDS:g} s{when}"
    seen = crash.read(output, output)
    how = f"ended by {name_of(-code)}" if code < 0 else f"ended with exit code {code}"
    libraries = [re.sub(r".*/site-packages/", "", path) for path in seen.libraries[:1]]
    return " ".join([f"{how}{when}:", *seen.words[:1], *libraries]).rstrip(":")


if __name__ == "__main__":
    sys.exit("run `python -m tests.compat`")
