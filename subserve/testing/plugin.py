"""What pytest loads (entry point ``pytest11``): options, and a fixture.

It is imported in every run of pytest where subserve is installed, so it imports nothing but pytest,
which is there already, until one of the two is used.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from subserve.testing.served import Serve

FLAG = "--subinterpreters"

SYS_PATH = tuple(sys.path)
"""As Python made it: pytest adds to it, and will do so in each interpreter."""


class _Count(argparse.Action):
    """An optional number; what follows the bare flag and is none is given back: a path, say."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        text = str(values)
        count = _count(text)
        if count is None:
            count = 1
            # Where argparse itself keeps what it has not recognized (Python 3.14 and 3.15).
            vars(namespace).setdefault("_unrecognized_args", []).append(text)
        if count < 1:
            raise argparse.ArgumentError(self, f"{text} is not 1 or more")
        setattr(namespace, self.dest, count)


def _count(text: str) -> int | None:
    if text == "auto":
        return os.process_cpu_count() or 1
    try:
        return int(text)
    except ValueError:
        return None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("subserve", "subserve: sub-interpreters").addoption(
        FLAG,
        action=_Count,
        nargs="?",
        const="1",
        default=0,
        dest="subinterpreters",
        metavar="N",
        help="run the tests in N sub-interpreters (1 unless given, or auto), each with its own "
        "GIL, all in one process of their own; a file's tests stay together",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(args: list[str]) -> None:
    """Say `1` where no number is given, so that a path that follows keeps its place."""
    end = args.index("--") if "--" in args else len(args)
    for place in range(end):
        following = args[place + 1] if place + 1 < end else ""
        if args[place] == FLAG and _count(following) is None:
            args[place] = f"{FLAG}=1"


def pytest_configure(config: pytest.Config) -> None:
    """Take over where the option is given, unless this is one of the interpreters, or no run."""
    count = config.option.subinterpreters
    if not count or config.option.collectonly or hasattr(config, "workerinput"):
        return
    from subserve.testing.controller import Controller, refuse_what_cannot_be

    refuse_what_cannot_be(config)
    config.pluginmanager.register(Controller(config, count, SYS_PATH), "subserve-controller")


@pytest.fixture
def subserve_server(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Serve apps for a test.

    ``server = subserve_server("myapp:app", workers=2)`` starts one.  Further options are those of
    the command line, with ``_`` for ``-``.  What it returns has `url`, `workers`, `logs` and
    `stop()`; see `subserve.testing.served.Server`.  All servers are stopped when the test ends;
    what they logged is shown where it fails.
    """
    from subserve.testing.served import serving

    with serving(request) as serve:
        yield serve
