"""The command line of the set-up: `venv` makes an environment ready, `uv ...` runs uv."""

import argparse
import os
import sys
from pathlib import Path
from typing import List

from tools.bootstrap import environment, uvtool
from tools.bootstrap.steps import StepFailed

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: List[str]) -> int:
    """Run one of the two commands and return the exit code: 1 if a step failed."""
    try:
        # Not a matter for argparse: what follows is uv's.
        if arguments[:1] == ["uv"]:
            path = uvtool.find_or_fetch(ROOT)
            os.execve(path, [path] + arguments[1:], uvtool.environment(ROOT, os.environ))
        options = _parser().parse_args(arguments)
        environment.make_ready(ROOT, options.python.strip())
    except StepFailed as failure:
        sys.stderr.write("\nset-up FAILED: {}\n".format(failure.report()))
        if failure.advice:
            sys.stderr.write("what to do: {}\n".format(failure.advice))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nset-up interrupted\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tools.bootstrap", description=__doc__)
    parser.add_argument("command", choices=["venv", "uv"])
    parser.add_argument("--python", default="", metavar="X.Y", help="make .venv-X.Y, not .venv")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
