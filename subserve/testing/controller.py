"""The process that the user started: pytest's session without tests, which others run for it.

A pytest plugin.  It starts a process of sub-interpreters, has them collect and run, and plays their
reports to the hooks here, so that the terminal, junit files, ``--lf`` and ``-x`` are as always.
When the process dies, the test that did it fails, and a new process runs the rest.
"""

import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import pytest

from subserve.testing.link import Message
from subserve.testing.plan import Plan
from subserve.testing.player import Player
from subserve.testing.process import Child
from subserve.testing.task import Task

STOP_SECONDS = 60.0
"""For tests that run elsewhere when the run is to stop, as after ``-x``, and for fixtures' ends."""

INTERRUPT_SECONDS = 5.0
"""The same, when the user presses Ctrl-C; a second one does not wait."""


def refuse_what_cannot_be(config: pytest.Config) -> None:
    """Raise `UsageError` for options that need the tests in this process, and name a way out."""
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
            "--cov does not work with --subinterpreters: it measures the first interpreter only"
        )


class Controller:
    """The plugin.  `sys_path` is for the interpreters to begin with."""

    def __init__(self, config: pytest.Config, count: int, sys_path: Sequence[str]) -> None:
        self._config = config
        self._count = count
        self._sys_path = list(sys_path)
        self._nodeids: list[str] = []
        self._crashed: dict[str, str] = {}
        self._stop: BaseException | None = None
        self._notes: list[str] = []
        self._problems: list[str] = []
        # What follows is of the present process.
        self._child: Child | None = None
        self._children = 0
        self._plan: Plan | None = None
        self._collected: dict[int, Message] = {}
        self._collect_reports: list[Message] = []
        self._at_collector: dict[int, str] = {}
        self._waiting: set[int] = set()
        self._served: set[int] = set()
        self._over: set[int] = set()
        self._starts: dict[int, Message] = {}
        self._held: dict[int, list[Message]] = {}

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
        self._keep_output()
        for note in dict.fromkeys(self._notes):
            terminalreporter.section("sub-interpreters")
            terminalreporter.write_line(note)
        for problem in self._problems:
            terminalreporter.section("sub-interpreters", red=True)
            terminalreporter.write_line(problem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let no trouble pass for success."""
        if self._problems and session.exitstatus in {
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        }:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        """Free all."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _keep_output(self) -> None:
        if self._child is not None and (output := self._child.output.strip()):
            self._notes.append(f"written to the descriptors, by no test in particular:\n{output}")

    # ---- collection

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Take note of what is there by now."""
        self._session = session
        self._player = Player(session)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Have all interpreters collect."""
        self._player.collecting(mixed=self._count > 1)
        count = self._count
        try:
            while not self._collect(count):
                count = self._after_crash_of_collection(count)
            for data, names in self._collect_reports:
                self._player.collect_report(data, names)
            self._compare()
            if 0 in self._collected:
                self._nodeids = self._collected[0][0]
                self._player.collected(*self._collected[0])
            elif not (session.testsfailed or session.shouldfail or session.shouldstop):
                raise pytest.UsageError("pytest does not start in a sub-interpreter, see below")
        except BaseException as error:
            self._end_child(error)
            raise
        return True

    def _collect(self, count: int) -> bool:
        """Start a process and have it collect; return False where it died of that."""
        child = self._start(count)
        while len(self._collected.keys() | self._over) < count:
            event = child.next()
            if event is None:
                return False
            self._take(child, *event)
            if self._stop is not None:
                raise self._stop
        return True

    def _start(self, count: int) -> Child:
        if self._child is not None:
            self._keep_output()
            self._child.close()
        self._plan = None
        for old in (self._collected, self._at_collector, self._starts, self._held):
            old.clear()
        self._collect_reports.clear()
        for numbers in (self._waiting, self._served, self._over):
            numbers.clear()
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
                # All shuffle alike: what pytest-randomly gives to workers of pytest-xdist.
                inputs={"randomly_seed": getattr(self._config.option, "randomly_seed", None)},
            )
            for number in range(count)
        ]
        if self._player.reporter is not None:
            self._player.reporter.flush()
        shows = self._config.option.capture == "no"
        self._child = Child(tasks, parameters.dir, shows=shows)
        return self._child

    def _after_crash_of_collection(self, count: int) -> int:
        """Blame a collector for the death of the process; return how many are to collect next."""
        assert self._child is not None
        evidence = self._child.wait()
        guilty = evidence.guilty({number: number for number in self._at_collector})
        if not self._at_collector or (
            guilty is not None and self._at_collector[guilty] in self._crashed
        ):
            pytest.exit(evidence.story(None, "when it started"), returncode=3)
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
                different = sorted({*names} ^ {*expected}) or ["none, but the order is another one"]
                self._player.collect_failure(
                    f"interpreter {number} collected {len(names)} tests, the first one "
                    f"{len(expected)}; they have to be the same, in the same order.\n"
                    f"Different: {', '.join(different[:5])}"
                )

    # ---- the run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Have all tests run."""
        try:
            if session.testsfailed and not session.config.option.continue_on_collection_errors:
                errors = "error" if session.testsfailed == 1 else "errors"
                raise session.Interrupted(f"{session.testsfailed} {errors} during collection")
            self._run_all()
        except BaseException as error:
            self._end_child(error)
            raise
        return True

    def _run_all(self) -> None:
        todo = deque([(self._count, list(range(len(self._nodeids))))])
        unexplained: dict[tuple[int, ...], str] = {}
        while todo:
            count, indices = todo.popleft()
            plan = Plan(self._nodeids, indices)
            if self._plan is not None:
                self._collect_again(min(count, plan.files))
            self._run(plan)
            if not plan.left:
                continue
            guilty, story = self._after_crash(plan)
            if guilty is not None:
                unexplained = {some: s for some, s in unexplained.items() if guilty not in some}
                todo.appendleft((count, plan.left))
                continue
            suspects = sorted(plan.running.values())
            if not suspects:
                raise self._session.Interrupted(story)
            unexplained[tuple(suspects)] = story
            rest = [index for index in plan.left if index not in suspects]
            todo.extendleft(([(count, rest)] if rest else []) + [(1, suspects)])
        self._see_the_end()
        for some, story in unexplained.items():
            names = "\n".join(f"  {self._nodeids[index]}" for index in some)
            self._problems.append(
                f"{story}\n\nThese tests ran at the time; alone, none of them does it:\n{names}"
            )

    def _collect_again(self, count: int) -> None:
        if not self._collect(count) or any(
            names != self._nodeids for names, *_ in self._collected.values()
        ):
            raise self._session.Interrupted("after a crash, other tests are collected than before")

    def _run(self, plan: Plan) -> None:
        """Run `plan` until the interpreters have ended, in whatever way."""
        child = self._child
        assert child is not None
        self._plan = plan
        self._give(child)
        while (event := child.next()) is not None:
            self._take(child, *event)
            self._stop_if_told()

    def _stop_if_told(self) -> None:
        if self._stop is not None:
            raise self._stop
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _give(self, child: Child) -> None:
        """Give those who wait a file each.

        They ask for the next one before they run the last test they have.  So nobody is given a
        second one before everybody has a first one.
        """
        assert self._plan is not None
        everybody = {*range(child.count)} - self._over
        for number in sorted(self._waiting, key=lambda number: number in self._served):
            if number in self._served and not everybody <= self._served:
                break
            self._waiting.discard(number)
            self._served.add(number)
            child.send(number, "run", self._plan.give())

    def _after_crash(self, plan: Plan) -> tuple[int | None, str]:
        """Blame a test for the death of the process, if that is certain; return it and the story.

        It has its end then, like others; no test has, where it is not certain.
        """
        assert self._child is not None
        evidence = self._child.wait()
        number = evidence.guilty(plan.running)
        story = evidence.story(number, "while this test ran")
        if number is None:
            return None, story
        index = plan.running[number]
        (nodeid, location), held = self._starts[number], self._held.pop(number, [])
        if self._child.count > 1:
            self._player.start(nodeid, location)
        self._player.reports(held)
        self._player.crash(nodeid, location, len({when for when, _ in held}), story)
        self._player.finish(nodeid, location)
        plan.end(number, index)
        self._stop_if_told()
        return index, story

    def _see_the_end(self) -> None:
        """See that the process ends as it should, with all tests done."""
        assert self._child is not None
        evidence = self._child.wait()
        if evidence.code != 0:
            self._problems.append(evidence.story(None, "when all tests had run"))

    def _end_child(self, why: BaseException) -> None:
        """Ask for the end of tests and fixtures, wait a little, and end the process."""
        child = self._child
        if child is None:
            return
        interrupted = isinstance(why, KeyboardInterrupt)
        if interrupted and self._plan is not None:
            names = [f"  {self._nodeids[index]}" for index in self._plan.running.values()]
            self._notes += ["\n".join(["interrupted while these ran:", *names])] if names else []
        for number in range(child.count):
            child.send(number, "stop")
        deadline = time.monotonic() + (INTERRUPT_SECONDS if interrupted else STOP_SECONDS)
        try:
            with suppress(TimeoutError):
                while child.next(deadline) is not None:
                    pass
                child.wait(max(0.0, deadline - time.monotonic()))
        finally:
            child.kill()

    # ---- what arrives

    def _take(self, child: Child, number: int, message: Message) -> None:
        match message:
            case ("start", index, nodeid, location):
                assert self._plan is not None
                self._plan.begin(number, index)
                self._starts[number] = (nodeid, location)
                if child.count == 1:
                    self._player.start(nodeid, location)
                    if self._config.option.capture == "no":
                        child.send(number, "go")
            case ("report", _, when, data):
                self._held.setdefault(number, []).append((when, data))
            case ("finish", index, nodeid, location):
                # All of a test at a time: those of several interpreters never mix.
                assert self._plan is not None
                self._plan.end(number, index)
                if child.count > 1:
                    self._player.start(nodeid, location)
                self._player.reports(self._held.pop(number, []))
                self._player.finish(nodeid, location)
            case ("want",):
                self._waiting.add(number)
                if self._plan is not None:
                    self._give(child)
            case ("warning", values, when, nodeid, location):
                if when == "runtest" or self._children == 1:
                    self._player.warning(values, when, nodeid, location)
            case ("collecting", nodeid):
                self._at_collector[number] = nodeid
            case ("collectreport", data, names):
                self._collect_reports.append((data, names))
            case ("collected", *values):
                self._collected[number] = tuple(values)
                self._at_collector.pop(number, None)
            case ("thread", ident, own_folder):
                child.evidence.threads[number] = ident
                if not own_folder:
                    self._notes.append(
                        "this system does not allow each interpreter a current folder of its own: "
                        "a test that changes it changes it for those in other interpreters, too"
                    )
            case ("exiting", story):
                child.evidence.exits[number] = story
            case ("over", should_fail, should_stop):
                self._over.add(number)
                if self._plan is not None:
                    self._give(child)
                self._session.shouldfail = self._session.shouldfail or should_fail
                self._session.shouldstop = self._session.shouldstop or should_stop
            case ("usage", texts):
                self._stop = pytest.UsageError(*texts)
            case ("exit", reason, code):
                self._stop = pytest.exit.Exception(reason, code)
            case ("internal" | "broken", text):
                self._stop = pytest.exit.Exception(f"in a sub-interpreter:\n{text}", 3)
            case _:
                raise ValueError(f"not a message for here: {message!r:.100}")
