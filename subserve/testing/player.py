"""Plays what happened elsewhere to the hooks of this session, as if it had happened here."""

from collections.abc import Sequence
from typing import Any

import pytest

from subserve.testing.link import Message
from subserve.testing.reports import collect_report, crash_reports, to_warning


class Player:
    """The hooks of a session; `reporter` is its terminal's, if it has one."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._config = session.config
        self._hook = session.config.hook
        self.reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")

    # ---- collection

    def collecting(self, *, mixed: bool) -> None:
        """Say that collection begins; tests of several files will come `mixed`."""
        if self.reporter is not None:
            self.reporter.pytest_collection()
            if mixed:
                self.reporter.showfspath = False

    def collect_report(self, data: Message, names: Sequence[str]) -> None:
        """Play the report of a collector that found the tests with these names."""
        report = self._hook.pytest_report_from_serializable(config=self._config, data=data)
        # Instead of the tests themselves, something that bears their names.
        report.result = [collect_report(name, "passed") for name in names]
        self._hook.pytest_collectreport(report=report)

    def collect_failure(self, text: str) -> None:
        """Fail the collection as a whole."""
        self._hook.pytest_collectreport(report=collect_report("", "failed", text))

    def collected(self, names: Sequence[str], lines: Sequence[Any], dropped: Sequence[str]) -> None:
        """Say what was found; `lines` are what plugins say, `dropped` are deselected tests."""
        self._session.testscollected = len(names)
        new_first: Any = self._config.pluginmanager.get_plugin("nfplugin")
        if new_first is not None:
            stubs = [collect_report(name, "passed") for name in names]
            new_first.cached_nodeids.update(getattr(stub, "id", stub.nodeid) for stub in stubs)
        if self.reporter is None:
            return
        self.reporter._numcollected = len(names) + len(dropped)
        if dropped:
            stubs = [collect_report(name, "passed") for name in dropped]
            self.reporter.stats.setdefault("deselected", []).extend(stubs)
        self.reporter.report_collect(True)
        self.reporter._write_report_lines_from_hooks(lines)
        if names and not self.reporter.showfspath:
            self.reporter.write_line("")

    # ---- tests

    def start(self, nodeid: str, location: Any) -> None:
        """Play the start of a test."""
        self._hook.pytest_runtest_logstart(nodeid=nodeid, location=location)

    def reports(self, held: Sequence[Message]) -> None:
        """Play reports of a test."""
        for _, data in held:
            report = self._hook.pytest_report_from_serializable(config=self._config, data=data)
            self._hook.pytest_runtest_logreport(report=report)

    def crash(self, nodeid: str, location: Any, phases: int, story: str) -> None:
        """Play the end of a test during which the process died; see `crash_reports`."""
        for report in crash_reports(nodeid, location, phases, story):
            self._hook.pytest_runtest_logreport(report=report)

    def finish(self, nodeid: str, location: Any) -> None:
        """Play the end of a test."""
        self._hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)

    def warning(self, values: Message, when: str, nodeid: str, location: Any) -> None:
        """Play a warning."""
        self._hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": to_warning(values),
                "when": when,
                "nodeid": nodeid,
                "location": location,
            }
        )
