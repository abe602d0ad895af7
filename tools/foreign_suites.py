"""Run the test suites of other packages plainly and in sub-interpreters: ``make foreign-suites``.

``python -m tools.foreign_suites FOLDER`` runs what is in FOLDER, compares the outcomes of all tests
and fails where one differs without a known reason.  With ``--write`` the table in docs/pytest.md is
made anew.  ``--pins`` prints the source distributions to fetch, as requirements.
"""

import argparse
import datetime
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = ROOT / "requirements" / "foreign.txt"
DOCUMENT = ROOT / "docs" / "pytest.md"

SUITES = {
    "h11": "h11/tests",
    "wsproto": "tests",
    "itsdangerous": "tests",
    "markupsafe": "tests",
    "starlette": "tests",
    "msgspec": "tests/unit",
}
"""Where the tests are in a package's source distribution."""

WAYS = ("", "--subinterpreters=1", "--subinterpreters=4")

KNOWN = {
    "tests.unit.test_struct.TestMixins::test_mixin_builtin_type_errors": (
        "msgspec looks for `__new__` in the `__dict__` of a base class.  In any sub-interpreter "
        "`Exception` and 36 other built-in exceptions have none there, they inherit that of "
        "`BaseException`: CPython (3.14 and 3.15) leaves it out where it makes built-in types anew"
    ),
}
"""Tests with another outcome in sub-interpreters, and why."""

SUITE_TIMEOUT = 600.0
"""Seconds for one suite, of which the longest takes 20 on an idle machine."""

ORDER = ("passed", "failed", "error", "skipped")

type Outcomes = Counter[tuple[str, str]]
"""How often each test had which outcome."""


def counts(outcomes: Outcomes) -> str:
    """Return the number of tests by outcome."""
    found: Counter[str] = Counter()
    for (_, outcome), number in outcomes.items():
        found[outcome] += number
    return ", ".join(f"{found[name]} {name}" for name in ORDER if name in found)


def pins(packages: Iterable[str]) -> str:
    """Return the requirements of `packages` alone, with their hashes, from the lock."""
    text = PINS.read_text(encoding="utf-8")
    found = []
    for package in packages:
        match = re.search(rf"^{package}==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        if match is None:
            raise ValueError(f"{PINS} has no {package}")
        lines = [line for line in match[0].splitlines() if not line.strip().startswith("#")]
        found.append("\n".join(lines))
    return "\n".join(found)


def read(path: Path) -> Outcomes:
    """Read a junit file."""
    outcomes: Outcomes = Counter()
    for case in ET.parse(path).getroot().iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "passed"
        for tag, name in (("failure", "failed"), ("error", "error"), ("skipped", "skipped")):
            if tag in tags:
                outcome = name
                break
        outcomes[f"{case.get('classname')}::{case.get('name')}", outcome] += 1
    return outcomes


def run(folder: Path, suite: Path, tests: str, way: str) -> Outcomes:
    """Run a suite in one way.  Raises `RuntimeError` where there is no result."""
    report = folder / "junit.xml"
    report.unlink(missing_ok=True)
    # Its own configuration, also where that says nothing of pytest: ours is further up.
    own = ["-c", "pyproject.toml", "--rootdir=."]
    program = [folder / "venv" / "bin" / "pytest", tests, *own, "-q", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [*map(str, program), f"--junitxml={report}", *([way] if way else [])],
        cwd=suite,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SUITE_TIMEOUT,
        check=False,
    )
    if process.returncode not in {0, 1} or not report.exists():
        raise RuntimeError(f"{suite.name} {way}: {process.stdout}\n{process.stderr}")
    return read(report)


def report(folder: Path) -> tuple[str, bool]:
    """Run all suites; return the table, and whether no difference is without a reason."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    rows = [
        f"CPython {version}, {datetime.datetime.now(datetime.UTC).date()}:",
        "",
        "| suite | pytest | `--subinterpreters` | `--subinterpreters=4` |",
        "|---|---|---|---|",
    ]
    remarks: list[str] = []
    good = True
    for name, tests in SUITES.items():
        (suite,) = (folder / "src").glob(f"{name}-*")
        runs = [run(folder, suite, tests, way) for way in WAYS]
        plain = runs[0]
        cells = [counts(plain)]
        found: dict[tuple[str, str], list[str]] = {}
        for way, other in zip(WAYS[1:], runs[1:], strict=True):
            differences = sorted((other - plain).keys())
            cells.append("the same" if not differences else counts(other))
            for difference in differences:
                found.setdefault(difference, []).append(f"`{way}`")
        for (test, outcome), ways in found.items():
            reason = KNOWN.get(test, "not explained")
            good = good and test in KNOWN
            remarks.append(f"- `{test}` {outcome} with {' and '.join(ways)}: {reason}.")
        rows.append(f"| {suite.name.replace('-', ' ')} | {' | '.join(cells)} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join([*rows, "", *remarks]).rstrip(), good


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--pins", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.pins:
        print(pins(SUITES))
        return 0
    if arguments.folder is None:
        parser.error("no FOLDER")
    table, good = report(arguments.folder.resolve())
    print(table)
    if arguments.write:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        begin, end = f"<!-- suites on {version} -->\n", f"<!-- end of suites on {version} -->"
        text = DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{DOCUMENT} has no place for the table: {begin.strip()}")
        DOCUMENT.write_text(f"{before}{begin}{table}\n{end}{after}", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
