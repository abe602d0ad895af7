"""The process that the user started: pytest's session without tests, which others run for it.

A pytest plugin.  It starts a process of sub-interpreters, has them collect and run, and plays their
reports to the hooks here, so that the terminal, junit files, ``--lf`` and ``-x`` are as always.  When
the process dies, the test that did it fails, and a new process runs the rest.
"""

import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from subserve.testing.link import Message
from subserve.testing.plan import Plan
from subserve.testing.process import Child
from subserve.testing.reports import collect_report, crash_reports, to_warning
from subserve.testing.task import Task

STOP_SECONDS = 10.0
"""For the tests that run elsewhere when the run is to stop, and for their fixtures' tear-down."""


def refuse_what_cannot_be(config: pytest.Config) -> None:
    """Raise `UsageError` for options that need the tests in this process, naming what does do."""
    options = config.option
    for flag, given in (
        ("--pdb", options.usepdb),
        ("--trace", options.trace),
        ("--setup-show", options.setupshow),
        ("--setup-only", options.setuponly),
        ("--setup-plan", options.setupplan),
    ):
        if given:
            raise pytest.UsageError(
                f"{flag} does not work with --subinterpreters; leave one of the two out "
                "(a breakpoint() works with --subinterpreters=1 -s)"
            )
    if getattr(options, "dist", "no") != "no" or getattr(options, "numprocesses", None):
        raise pytest.UsageError("--subinterpreters does not go with pytest-xdist's -n: choose one")
    if getattr(options, "cov_source", None):
        raise pytest.UsageError(
            "--cov does not work with --subinterpreters: pytest-cov sees only one interpreter"
        )


class Controller:
    """The plugin."""

    def __init__(self, config: pytest.Config, count: int, sys_path: Sequence[str]) -> None:
        self._config = config
        self._count = count
        self._sys_path = list(sys_path)
        self._reporter: Any = None
        self._child: Child | None = None
        self._children = 0
        self._nodeids: list[str] = []
        self._collected: dict[int, Message] = {}
        self._crashed: dict[str, str] = {}
        self._at_collector: dict[int, str] = {}
        self._collect_reports: list[Message] = []
        self._plan: Plan | None = None
        self._waiting: set[int] = set()
        self._over: set[int] = set()
        self._starts: dict[int, Message] = {}
        self._held: dict[int, list[Message]] = {}
        self._stop: BaseException | None = None
        self._problems: list[str] = []
        self._shared_folder = False

    # ---- what is shown

    def pytest_report_header(self) -> str:
        """Say where the tests run."""
        line = f"subinterpreters: {self._count}, each with its own GIL"
        if self._count > 1:
            line += ", one file at a time"
            if self._config.option.capture == "fd":
                line += "; capture: sys (descriptors belong to all of them)"
        return line

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show what belongs to no test."""
        for problem in self._problems:
            terminalreporter.section("sub-interpreters", red=True)
            terminalreporter.write_line(problem)
        if self._child is not None and self._config.option.capture != "no":
            output = self._child.output.strip()
            if output:
                terminalreporter.section("written to the descriptors, by no test in particular")
                terminalreporter.write_line(output)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let no trouble go by unnoticed."""
        if self._problems and session.exitstatus in {
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        }:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        """Free all."""
        if self._child is not None:
            self._child.close()

    # ---- collection

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Take note of what is there by now."""
        self._session = session
        self._reporter = self._config.pluginmanager.get_plugin("terminalreporter")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Have all interpreters collect."""
        if self._reporter is not None:
            self._reporter.pytest_collection()
            if self._count > 1:
                self._reporter.showfspath = False  # files are told apart by nobody
        count = self._count
        try:
            while not self._collect(count):
                count = self._after_crash_of_collection(count)
        except BaseException:
            self._end_child()
            raise
        for data, names in self._collect_reports:
            self._play_collect_report(data, names)
        self._compare()
        if 0 in self._collected:
            self._take_collection(*self._collected[0])
        return True

    def _collect(self, count: int) -> bool:
        """Start a process and have it collect; return False where it died of that."""
        self._start(count)
        child = self._child
        assert child is not None
        self._collect_reports.clear()
        while len(self._collected.keys() | self._over) < count:
            event = child.next()
            if event is None:
                break
            self._take(*event)
        if self._stop is not None:
            raise self._stop
        return len(self._collected.keys() | self._over) == count

    def _start(self, count: int) -> None:
        if self._child is not None:
            self._child.close()
        self._collected.clear()
        self._at_collector.clear()
        self._waiting.clear()
        self._over.clear()
        self._starts.clear()
        self._held.clear()
        self._plan = None
        self._children += 1
        factory: pytest.TempPathFactory = self._config._tmp_path_factory  # type: ignore[attr-defined]
        base = factory.getbasetemp()
        parameters = self._config.invocation_params
        tasks = [
            Task(
                number=number,
                count=count,
                fd=-1,
                args=[str(arg) for arg in parameters.args],
                argv=sys.argv,
                sys_path=self._sys_path,
                scratch="",
                basetemp=str(base / f"process{self._children}-si{number}"),
                crashed=self._crashed,
            )
            for number in range(count)
        ]
        if self._reporter is not None:
            self._reporter.flush()
        shows = self._config.option.capture == "no"
        self._child = Child(tasks, parameters.dir, shows=shows)

    def _after_crash_of_collection(self, count: int) -> int:
        """Blame a collector for the death of the process; return how many are to collect next."""
        assert self._child is not None
        evidence = self._child.wait()
        at = {number: number for number in self._at_collector}
        guilty = evidence.guilty(at)
        if not at or (guilty is not None and self._at_collector[guilty] in self._crashed):
            output = self._child.output.strip()
            pytest.exit(f"{evidence.story(None, 'when it started')}\n{output}", returncode=3)
        if guilty is None:
            return 1  # the next one cannot but know
        nodeid = self._at_collector[guilty]
        self._crashed[nodeid] = evidence.story(guilty, "while this was collected")
        return count

    def _compare(self) -> None:
        """Fail where the interpreters have collected different tests."""
        expected = self._collected.get(0, ([],))[0]
        for number, (names, *_) in self._collected.items():
            if names != expected:
                different = sorted({*names} ^ {*expected}) or ["the same tests in another order"]
                text = (
                    f"interpreter {number} collected {len(names)} tests, the first one "
                    f"{len(expected)}; they have to be the same, in the same order.  "
                    f"Different: {', '.join(different[:5])}"
                )
                report = collect_report("", "failed", text)
                self._config.hook.pytest_collectreport(report=report)

    def _take_collection(self, names: list[str], lines: Sequence[Any], dropped: list[str]) -> None:
        self._nodeids = names
        self._session.testscollected = len(names)
        new_first: Any = self._config.pluginmanager.get_plugin("nfplugin")
        if new_first is not None:
            stubs = [collect_report(name, "passed") for name in names]
            new_first.cached_nodeids.update(getattr(stub, "id", stub.nodeid) for stub in stubs)
        if self._reporter is None:
            return
        self._reporter._numcollected = len(names) + len(dropped)
        if dropped:
            stubs = [collect_report(name, "passed") for name in dropped]
            self._reporter.stats.setdefault("deselected", []).extend(stubs)
        self._reporter.report_collect(True)
        self._reporter._write_report_lines_from_hooks(lines)

    def _play_collect_report(self, data: Message, names: list[str]) -> None:
        hook = self._config.hook
        report = hook.pytest_report_from_serializable(config=self._config, data=data)
        # Instead of the tests themselves, something that bears their names.
        report.result = [collect_report(name, "passed") for name in names]
        hook.pytest_collectreport(report=report)

    # ---- the run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Have all tests run."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            self._end_child()
            errors = "error" if session.testsfailed == 1 else "errors"
            raise session.Interrupted(f"{session.testsfailed} {errors} during collection")
        todo = deque([(self._count, list(range(len(self._nodeids))))])
        unexplained: dict[tuple[int, ...], str] = {}
        try:
            while todo:
                count, indices = todo.popleft()
                plan = Plan(self._nodeids, indices)
                if self._plan is not None:
                    count = min(count, plan.files)
                    if not self._collect(count) or self._nodeids != self._collected[0][0]:
                        raise session.Interrupted(
                            "the tests could not be collected again after a crash"
                        )
                self._run(plan)
                if not plan.left:
                    continue
                guilty, story = self._after_crash(plan)
                if guilty is not None:
                    unexplained = {s: t for s, t in unexplained.items() if guilty not in s}
                    todo.appendleft((count, plan.left))
                    continue
                suspects = tuple(sorted(plan.running.values()))
                if not suspects:
                    raise session.Interrupted(story)
                unexplained[suspects] = story
                rest = [index for index in plan.left if index not in suspects]
                todo.extendleft(
                    [(count, rest), (1, list(suspects))] if rest else [(1, list(suspects))]
                )
        except BaseException:
            self._end_child()
            raise
        self._see_the_end()
        for suspects, story in unexplained.items():
            names = "\n".join(f"  {self._nodeids[index]}" for index in suspects)
            self._problems.append(
                f"{story}\n\nThat was while these ran; alone, none of them does it:\n{names}"
            )
        return True

    def _run(self, plan: Plan) -> None:
        """Run `plan` until the interpreters have ended, in whatever way."""
        child = self._child
        assert child is not None
        self._plan = plan
        for number in tuple(self._waiting):
            self._give(number)
        while (event := child.next()) is not None:
            self._take(*event)
            if self._stop is not None:
                raise self._stop
            if self._session.shouldfail:
                raise self._session.Failed(self._session.shouldfail)
            if self._session.shouldstop:
                raise self._session.Interrupted(self._session.shouldstop)

    def _give(self, number: int) -> None:
        assert self._plan is not None
        assert self._child is not None
        self._waiting.discard(number)
        self._child.send(number, "run", self._plan.give())

    def _after_crash(self, plan: Plan) -> tuple[int | None, str]:
        """Blame a test for the death of the process, if that is certain; return it, and the story."""
        assert self._child is not None
        evidence = self._child.wait()
        number = evidence.guilty(plan.running)
        story = evidence.story(number, "while this test ran")
        if number is None:
            return None, story
        index = plan.running[number]
        start, held = self._starts[number], self._held.pop(number, [])
        phases = len({when for when, _ in held})
        self._play(index, start, held)
        nodeid, location = start
        for report in crash_reports(nodeid, location, phases, story):
            self._config.hook.pytest_runtest_logreport(report=report)
        self._config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
        plan.end(number, index)
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)
        return index, story

    def _see_the_end(self) -> None:
        """See that the process ends as it should, with all tests done."""
        if self._child is None:
            return
        evidence = self._child.wait()
        if evidence.code != 0:
            self._problems.append(evidence.story(None, "when all tests had run"))

    def _end_child(self) -> None:
        """Ask for the end of tests and fixtures, wait a little, and end the process."""
        child = self._child
        if child is None:
            return
        for number in range(child.count):
            child.send(number, "stop")
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(TimeoutError):
            while child.next(deadline) is not None:
                pass
            child.wait(max(0.0, deadline - time.monotonic()))
        child.kill()

    # ---- what arrives

    def _take(self, number: int, message: Message) -> None:
        assert self._child is not None
        match message:
            case ("start", index, nodeid, location):
                assert self._plan is not None
                self._plan.begin(number, index)
                self._starts[number] = (nodeid, location)
                if self._child.count == 1:
                    self._play_start(nodeid, location)
            case ("report", _, when, data):
                self._held.setdefault(number, []).append((when, data))
            case ("finish", index, nodeid, location):
                assert self._plan is not None
                self._plan.end(number, index)
                self._play(index, self._starts[number], self._held.pop(number, []))
                self._config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
            case ("want",):
                self._waiting.add(number)
                if self._plan is not None:
                    self._give(number)
            case ("warning", values, when, nodeid, location):
                self._play_warning(values, when, nodeid, location)
            case ("collecting", nodeid):
                self._at_collector[number] = nodeid
            case ("collectreport", data, names):
                self._collect_reports.append((data, names))
            case ("collected", *values):
                self._collected[number] = tuple(values)
                self._at_collector.pop(number, None)
            case ("thread", ident, own_folder):
                self._child.evidence.threads[number] = ident
                self._shared_folder |= not own_folder
            case ("exiting", story):
                self._child.evidence.exits[number] = story
            case ("over", should_fail, should_stop):
                self._over.add(number)
                self._session.shouldfail = self._session.shouldfail or should_fail
                self._session.shouldstop = self._session.shouldstop or should_stop
            case ("usage", texts):
                self._stop = pytest.UsageError(*texts)
            case ("exit", reason, code):
                self._stop = pytest.exit.Exception(reason, code if code is not None else 2)
            case ("internal" | "broken", text):
                self._stop = pytest.exit.Exception(f"in a sub-interpreter:\n{text}", 3)
            case _:
                raise ValueError(f"not a message for here: {message!r:.100}")

    def _play_start(self, nodeid: str, location: Any) -> None:
        self._config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)

    def _play(self, index: int, start: Message, held: Sequence[Message]) -> None:
        """Play a test's reports one after the other: those of several tests never mix."""
        assert self._child is not None
        hook = self._config.hook
        if self._child.count > 1:
            self._play_start(*start)
        for _, data in held:
            report = hook.pytest_report_from_serializable(config=self._config, data=data)
            hook.pytest_runtest_logreport(report=report)

    def _play_warning(self, values: Message, when: str, nodeid: str, location: Any) -> None:
        self._config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": to_warning(values),
                "when": when,
                "nodeid": nodeid,
                "location": location,
            }
        )
