"""The pure parts of the pytest plugin."""

import enum
import os
import signal
import socket
import threading
import warnings
from pathlib import Path

import pytest

from subserve.testing.crash import Evidence, tidy
from subserve.testing.link import Link, plain
from subserve.testing.plan import Plan
from subserve.testing.plugin import pytest_load_initial_conftests
from subserve.testing.reports import crash_reports, to_warning, warning_values
from subserve.testing.task import Task

# ---- what runs where

NODEIDS = ["a.py::1", "a.py::2", "b.py::C::1", "a.py::3", "c.py::1"]


def test_a_files_tests_stay_together_in_order() -> None:
    plan = Plan(NODEIDS)
    assert plan.files == 4, "what plugins have put apart stays apart"
    assert [plan.give() for _ in range(5)] == [[0, 1], [2], [3], [4], []]


def test_what_is_left_is_what_has_not_ended() -> None:
    plan = Plan(NODEIDS, [1, 2, 4])
    assert plan.give() == [1]
    plan.begin(0, 1)
    plan.begin(1, 2)
    plan.end(0, 1)
    assert plan.running == {1: 2}
    assert plan.left == [2, 4]


# ---- who did it


def test_one_that_runs_alone_did_it() -> None:
    assert Evidence(code=-9).guilty({3: 17}) == 3


def test_nobody_is_blamed_without_evidence() -> None:
    assert Evidence(code=-9, threads={0: 0x10, 1: 0x20}).guilty({0: 5, 1: 6}) is None
    assert Evidence(code=-9).guilty({}) is None


def test_the_thread_that_took_the_signal_did_it() -> None:
    dump = "Fatal\n\nThread 0x0010 [x] (most recent call first):\n\nCurrent thread 0x00000020 [y]\n"
    evidence = Evidence(code=-11, dump=dump, threads={0: 0x10, 1: 0x20})
    assert evidence.guilty({0: 5, 1: 6}) == 1
    assert evidence.guilty({0: 5, 2: 6}) is None, "another thread, of whom is unknown"


def test_the_one_that_said_it_would_exit_did_it() -> None:
    assert Evidence(code=3, exits={1: "here"}).guilty({0: 5, 1: 6}) == 1
    assert "process ended with exit code 3 while\n\nhere" in Evidence(
        code=3, exits={1: "here"}
    ).story(1, "while")


def test_stacks_are_told_without_the_frames_that_all_tests_have() -> None:
    stacks = """\
Current thread 0x1 (most recent call first):
  File "/app/test_a.py", line 3 in test_a
  File "/site-packages/_pytest/python.py", line 1 in call
  File "<script>", line 1 in <module>

Current thread's C stack trace (most recent call first):
"""
    told = tidy(stacks + '  Binary file "python"\n' * 40)
    assert "test_a.py" in told
    assert "_pytest" not in told
    assert told.count("Binary") == 12


# ---- messages


class Colour(enum.StrEnum):
    RED = "red"


class Count(int):
    pass


def test_what_is_not_plain_becomes_plain() -> None:
    value = {"a": (1, [Path("x"), Colour.RED, Count(3), None, True, 1.5, b"b"]), 2: {"set"}}
    assert plain(value) == {"a": (1, ["x", "red", 3, None, True, 1.5, b"b"]), 2: "{'set'}"}
    assert type(plain(Count(3))) is int


def test_messages_cross_whole_however_they_are_cut() -> None:
    one, other = socket.socketpair()
    link = Link(one)
    sender = Link(other)
    assert link.receive_ready() == []
    assert not link.is_waiting()
    sender.send("start", 1, ("a", None), "\udcff")
    big = threading.Thread(target=sender.send, args=("big", "x" * 300_000))
    big.start()  # more than the socket holds at a time
    assert link.is_waiting()
    assert link.receive() == ("start", 1, ("a", None), "\udcff")
    received = link.receive()
    assert received is not None
    assert len(received[1]) == 300_000
    big.join()
    sender.send("last")
    sender.close()
    assert link.receive_ready() == [("last",)]
    assert link.receive_ready() is None
    assert link.receive() is None
    assert not link.send("nobody is there")
    link.close()
    link.close()


def test_a_task_crosses_as_text() -> None:
    task = Task(2, 4, 7, ["-x"], ["pytest"], ["/p"], "/s", "/b", {"a": "b"}, {"c": 1})
    assert Task.from_json(task.to_json()) == task
    assert task.name == "si2"


# ---- reports


class CarefulWarning(UserWarning):
    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} {second}")


def test_a_warning_is_made_anew() -> None:
    def crossed(message: Warning) -> warnings.WarningMessage:
        return to_warning(warning_values(warnings.WarningMessage(message, type(message), "f", 7)))

    again = crossed(pytest.PytestUnraisableExceptionWarning("text"))
    assert (str(again.message), again.filename, again.lineno) == ("text", "f", 7)
    assert again.category is pytest.PytestUnraisableExceptionWarning
    assert str(crossed(CarefulWarning(1, 2)).message) == "1 2", "its class takes two arguments"


def test_a_warning_of_a_class_that_is_not_loaded_here_keeps_its_name() -> None:
    again = to_warning(("theirs", "TheirWarning", "text", "f", 7, None))
    assert (again.category.__module__, again.category.__name__) == ("theirs", "TheirWarning")
    assert issubclass(again.category, Warning)


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (0, [("setup", "failed"), ("teardown", "passed")]),
        (1, [("call", "failed"), ("teardown", "passed")]),
        (2, [("teardown", "failed")]),
    ],
)
def test_a_crash_fails_the_phase_that_it_was_in(
    phases: int, expected: list[tuple[str, str]]
) -> None:
    reports = crash_reports("a.py::1", ("a.py", 1, "1"), phases, "story")
    assert [(report.when, report.outcome) for report in reports] == expected
    assert reports[0].longreprtext == "story"


# ---- the option


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--subinterpreters", "tests"], ["--subinterpreters=1", "tests"]),
        (["-q", "--subinterpreters"], ["-q", "--subinterpreters=1"]),
        (["--subinterpreters", "-q"], ["--subinterpreters=1", "-q"]),
        (["--subinterpreters", "3", "tests"], ["--subinterpreters", "3", "tests"]),
        (["--subinterpreters", "auto"], ["--subinterpreters", "auto"]),
        (["--subinterpreters=2", "a"], ["--subinterpreters=2", "a"]),
        (["--", "--subinterpreters"], ["--", "--subinterpreters"]),
    ],
)
def test_a_path_behind_the_bare_flag_is_no_number(given: list[str], expected: list[str]) -> None:
    arguments = [*given]
    pytest_load_initial_conftests(arguments)
    assert arguments == expected


def test_signals_are_named() -> None:
    assert Evidence(code=-signal.SIGSEGV).end() == "ended by SIGSEGV"
    assert Evidence(code=os.EX_USAGE).end() == "ended with exit code 64"
