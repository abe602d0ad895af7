"""pytest's session in one of the interpreters: it runs the tests it is given, and tells all of it.

It is a pytest plugin there, and what pytest-xdist calls a worker: it has ``config.workerinput``, by
which plugins know that there are others, and that reports are written elsewhere.
"""

import sys
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any
from warnings import WarningMessage

import pytest
from _pytest.config import create_terminal_writer

from subserve.testing.link import Link, Message, plain
from subserve.testing.reports import warning_values
from subserve.testing.task import Task

_AHEAD = 2
"""The tests that must be known: pytest keeps the fixtures that the next one needs."""


class Reporter:
    """The plugin.  `should_fail` and `should_stop` say why the session came to an early end."""

    def __init__(self, task: Task, link: Link) -> None:
        self._task = task
        self._link = link
        self._deselected: list[str] = []
        self._index = -1
        self.should_fail = ""
        self.should_stop = ""

    # ---- options

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        """Know the options of pytest's faulthandler plugin, which is switched off."""
        parser.addini("faulthandler_timeout", "not in sub-interpreters")
        parser.addini("faulthandler_exit_on_timeout", "not in sub-interpreters")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> Generator[None]:
        """Capture what Python code writes where the descriptors are those of several."""
        options = early_config.known_args_namespace
        if self._task.count > 1 and options.capture == "fd":
            options.capture = "sys"
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> Generator[None, Any, Any]:
        """Set what is known here only, before plugins are configured."""
        config.workerinput = {  # type: ignore[attr-defined]
            "workerid": self._task.name,
            "workercount": self._task.count,
            "testrunuid": str(self._task.basetemp),
            **self._task.inputs,
        }
        config.option.basetemp = self._task.basetemp
        config.option.cacheclear = False  # has been done
        # There is no terminal reporter to have it; some plugins write with it all the same.
        writer = create_terminal_writer(config, sys.__stderr__)
        config.get_terminal_writer = lambda: writer  # type: ignore[method-assign]
        if config.pluginmanager.hasplugin("timeout"):
            config.option.timeout_method = "thread"  # the other one is a signal
        try:
            return (yield)
        except pytest.UsageError as error:
            self._link.send("usage", [str(arg) for arg in error.args])
            return pytest.ExitCode.USAGE_ERROR

    # ---- collection

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """Tell what is going to be imported: it may be the end."""
        self._link.send("collecting", collector.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> pytest.CollectReport | None:
        """Leave alone what has crashed before."""
        story = self._task.crashed.get(collector.nodeid)
        if story is None:
            return None
        return pytest.CollectReport(
            nodeid=collector.nodeid, outcome="failed", longrepr=story, result=[]
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Pass it on, with the names of the tests found; one interpreter's is enough."""
        if self._task.number == 0:
            items = [node.nodeid for node in report.result if isinstance(node, pytest.Item)]
            data = self._config_hook.pytest_report_to_serializable(
                config=self._config, report=report
            )
            self._link.send("collectreport", plain(data), items)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Take note of what is not going to run."""
        self._deselected += [item.nodeid for item in items]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell what there is to run, and what plugins say about it."""
        lines = session.config.hook.pytest_report_collectionfinish(
            config=session.config, start_path=session.startpath, items=session.items
        )
        names = [item.nodeid for item in session.items]
        self._link.send("collected", names, plain(lines), self._deselected)

    # ---- the run

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what is given, until there is no more."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            raise session.Interrupted("errors during collection")
        queue: deque[int] = deque()
        more = True
        while True:
            while more and len(queue) < _AHEAD:
                self._link.send("want")
                (given,) = self._answer("run")
                queue += given
                more = bool(given)
            if not queue:
                return True
            self._index = queue.popleft()
            item = session.items[self._index]
            following = session.items[queue[0]] if queue else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            if self._link.is_waiting():  # unasked for
                self._answer("stop")

    def _answer(self, kind: str) -> Message:
        """Wait for a message of this kind and return its values, or come to an end."""
        message = self._link.receive()
        if message is None or message[0] == "stop":
            raise pytest.Session.Interrupted("the run was stopped")
        if message[0] != kind:
            raise ValueError(f"not a message for here: {message!r:.100}")
        return message[1:]

    def pytest_runtest_logstart(self, nodeid: str, location: Message) -> None:
        """Pass it on, at once: should the process die now, it was this test's doing."""
        self._link.send("start", self._index, nodeid, plain(location))
        if self._task.count == 1 and self._config.option.capture == "no":
            # What the test writes comes behind its name, which the other side has to write first.
            self._answer("go")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Pass it on."""
        data = self._config_hook.pytest_report_to_serializable(config=self._config, report=report)
        self._link.send("report", self._index, report.when, plain(data))

    def pytest_runtest_logfinish(self, nodeid: str, location: Message) -> None:
        """Pass it on."""
        self._link.send("finish", self._index, nodeid, plain(location))

    def pytest_warning_recorded(
        self, warning_message: WarningMessage, when: str, nodeid: str, location: Message | None
    ) -> None:
        """Pass on those of tests, and one interpreter's of the collection.

        What is wrong with the configuration has been told by the process that the user started.
        """
        if when == "runtest" or (when == "collect" and self._task.number == 0):
            self._link.send(
                "warning", warning_values(warning_message), when, nodeid, plain(location)
            )

    # ---- the end

    def pytest_internalerror(self, excrepr: object) -> None:
        """Pass it on."""
        self._link.send("internal", str(excrepr))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell ``pytest.exit()`` from a test that raises `KeyboardInterrupt`."""
        if isinstance(excinfo.value, pytest.exit.Exception):
            self._link.send("exit", str(excinfo.value.msg), plain(excinfo.value.returncode))
        else:
            self._link.send("exit", str(excinfo.getrepr(style="short")), None)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Keep what reports are made with."""
        self._config = session.config
        self._config_hook = session.config.hook

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep why it is over."""
        self.should_fail = str(session.shouldfail or "")
        self.should_stop = str(session.shouldstop or "")
