"""``python -m tests.compat PYTHON... [--only NAME...]``: run the suite, write what came of it.

Each PYTHON is the interpreter of an environment with the packages; `make compat` makes those.  With
``--only``, the others keep what came of their last run.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

from tests.compat import document
from tests.compat.runner import ROOT, Result, Task, is_installed, run, tasks

RESULTS = ROOT / ".cache" / "compat"


def main() -> int:
    """Return 1 if something did not work that is not known not to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=())
    arguments = parser.parse_args()
    chosen = [task for task in tasks() if not arguments.only or task.distribution in arguments.only]
    surprises = []
    for python in arguments.pythons:
        version = _version(python)
        for result in _run_all(chosen, python, version):
            _keep(version, result)
            if result.problem and result.distribution not in document.KNOWN:
                surprises.append(f"{result.distribution} on {version}: {result.problem}")
    document.write(_kept())
    print("\n".join(surprises) or "all as expected")
    return 1 if surprises else 0


def _kept() -> dict[str, list[Result]]:
    """Return what came of the last run of each distribution, by version of Python."""
    return {
        path.stem.removeprefix("results-"): [
            Result(**values) for values in json.loads(path.read_text(encoding="utf-8"))
        ]
        for path in sorted(RESULTS.glob("results-*.json"))
    }


def _keep(version: str, result: Result) -> None:
    """Put a result in the place of the last one; at once, for a run may be interrupted."""
    kept = {old.distribution: old for old in _kept().get(version, [])}
    kept[result.distribution] = result
    text = json.dumps([asdict(kept[name]) for name in sorted(kept)])
    (RESULTS / f"results-{version}.json").write_text(text, encoding="utf-8")


def _run_all(chosen: list[Task], python: str, version: str) -> Iterator[Result]:
    for task in chosen:
        if not is_installed(task, python):
            continue
        result = run(task, python)
        megabytes = (result.memory or 0) / 2**20
        print(
            f"{version}  {task.distribution:<24} {result.version:<12} "
            f"{megabytes:6.1f} MiB  {result.problem or result.threads or 'works'}",
            flush=True,
        )
        if result.problem:
            print(result.details, file=sys.stderr, flush=True)
        yield result


def _version(python: str) -> str:
    code = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
