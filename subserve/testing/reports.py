"""Warnings and crashes as pytest has them, made from what crossed from another process."""

import builtins
import sys
import warnings
from typing import Any, Literal

import pytest

from subserve.testing.link import Message, plain


def warning_values(message: warnings.WarningMessage) -> Message:
    """Return what a recorded warning is made of, as plain values."""
    category = message.category
    return (
        category.__module__,
        category.__qualname__,
        str(message.message),
        message.filename,
        message.lineno,
        plain(message.line),
    )


def to_warning(values: Message) -> warnings.WarningMessage:
    """Make the warning anew.

    Its class is looked up where it is loaded already, and made up elsewhere: the code under test is
    not imported here.
    """
    module, name, text, filename, lineno, line = values
    known = getattr(builtins if module == "builtins" else sys.modules.get(module), name, None)
    if not (isinstance(known, type) and issubclass(known, Warning)):
        known = type(name, (Warning,), {"__module__": module})
    try:
        message = known(text)
    except TypeError:  # takes other arguments
        message = Warning(text)
    return warnings.WarningMessage(message, known, filename, lineno, line=line)


def collect_report(nodeid: str, outcome: Literal["passed", "failed"], text: str = "") -> Any:
    """Return a report of a collector without results; `text` is what went wrong."""
    return pytest.CollectReport(nodeid=nodeid, outcome=outcome, longrepr=text or None, result=[])


def crash_reports(
    nodeid: str, location: tuple[str, int | None, str], phases: int, text: str
) -> list[pytest.TestReport]:
    """Return the reports that end a test during which the process died.

    `phases` says how many of setup, call and teardown it has reported.  After a failed setup or
    call comes a teardown, as always: reporters count on it.
    """
    names: tuple[Literal["setup", "call", "teardown"], ...] = ("setup", "call", "teardown")
    when = names[min(phases, 2)]
    failed = _report(nodeid, location, when, "failed", text)
    if when == "teardown":
        return [failed]
    return [failed, _report(nodeid, location, "teardown", "passed", None)]


def _report(
    nodeid: str,
    location: tuple[str, int | None, str],
    when: Literal["setup", "call", "teardown"],
    outcome: Literal["passed", "failed"],
    text: str | None,
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=nodeid,
        location=location,
        keywords={},
        outcome=outcome,
        longrepr=text,
        when=when,
        duration=0.0,
        start=0.0,
        stop=0.0,
    )
