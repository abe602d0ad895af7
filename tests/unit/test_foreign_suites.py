"""The program that runs other packages' suites: what it reads and compares."""

from collections import Counter
from pathlib import Path

import pytest

from tools import foreign_suites


def test_each_suite_is_pinned_with_its_hashes() -> None:
    text = foreign_suites.pins(foreign_suites.SUITES)
    names = [line.partition("==")[0] for line in text.splitlines() if "==" in line]
    assert names == list(foreign_suites.SUITES)
    assert text.count("--hash=sha256:") > len(names)
    with pytest.raises(ValueError, match="no nothing"):
        foreign_suites.pins(["nothing"])


def test_outcomes_are_read_and_counted(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text("""<testsuites><testsuite>
        <testcase classname="a" name="1"/>
        <testcase classname="a" name="1"><system-out/></testcase>
        <testcase classname="a" name="2"><failure/></testcase>
        <testcase classname="a" name="3"><skipped/></testcase>
        <testcase classname="a" name="4"><error/></testcase>
    </testsuite></testsuites>""")
    outcomes = foreign_suites.read(report)
    assert outcomes == Counter(
        {
            ("a::1", "passed"): 2,
            ("a::2", "failed"): 1,
            ("a::3", "skipped"): 1,
            ("a::4", "error"): 1,
        }
    )
    assert foreign_suites.counts(outcomes) == "2 passed, 1 failed, 1 error, 1 skipped"


def test_the_document_has_a_place_for_each_table() -> None:
    text = foreign_suites.DOCUMENT.read_text(encoding="utf-8")
    for version in ("3.14", "3.15"):
        assert f"<!-- suites on {version} -->\n" in text
        assert f"<!-- end of suites on {version} -->\n" in text
