"""What is made of what a checked process told: pure functions, no process."""

import json
from collections.abc import Sequence

import pytest

from subserve import crash
from subserve.check import events
from subserve.check.findings import Severity, Verdict, judge, unfinished
from subserve.check.process import Outcome
from subserve.check.table import as_json, as_text

CRASH = """Fatal Python error: Segmentation fault

Thread 0x00007f0001 [worker-1.1] (most recent call first):
  File "/lib/python3.14/selectors.py", line 4 in select

Current thread 0x00007f0002 [subserve-0.1] (most recent call first):
  File "/site-packages/boom/core.py", line 7 in compute
  File "/app/shop.py", line 12 in order
  File "/site-packages/subserve/http/h1/wsgi.py", line 254 in _call_app
  File "/lib/python3.14/threading.py", line 1024 in run

Current thread's C stack trace (most recent call first):
  Binary file "/bin/python3.14", at _Py_DumpStack+0x36 [0x5d]
  Binary file "/lib/x86_64-linux-gnu/libc.so.6", at +0x3c050 [0x7f]
  Binary file "/site-packages/boom/./_boom.cpython-314-x86_64-linux-gnu.so", at +0x1139 [0x7f]
  Binary file "/bin/python3.14", at +0x1139 [0x5d]
"""

BOOM = "/site-packages/boom/_boom.cpython-314-x86_64-linux-gnu.so"


def outcome(*told: events.Event, code: int = 0, crash: str = "", killed: bool = False) -> Outcome:
    return Outcome(list(told), code, killed, "", crash)


def loaded(worker: str, name: str = "boom._boom", **changes: object) -> events.Loaded:
    values = {"mode": "copy", "phases": 2, "shared_bytes": 1, "memory": None, "threads": None}
    return events.Loaded(worker, name, BOOM, **values | changes)  # type: ignore[arg-type]


def whats(findings: Sequence[object]) -> list[str]:
    return [finding.what for finding in findings]  # type: ignore[attr-defined]


def test_a_crash_report_is_read() -> None:
    seen = crash.read(CRASH, "noise\nfree(): invalid size\n")
    assert seen.frames == (
        "compute at /site-packages/boom/core.py:7",
        "order at /app/shop.py:12",
    ), "the app's, without who calls it"
    assert seen.libraries == (BOOM,), "by the name it was installed under, without C libraries"
    assert seen.words == ("free(): invalid size", "Fatal Python error: Segmentation fault")


def test_no_crash_report_is_read_as_nothing() -> None:
    assert crash.read("") == crash.Crash((), (), ())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (BOOM, True),
        ("/x/_rust.abi3.so", True),
        ("/x/_native.so", True),
        ("/lib/libc.so.6", False),
        ("/x/numpy.libs/libopenblas.so", False),
        ("/bin/python3.14", False),
    ],
)
def test_extensions_are_told_from_libraries(path: str, expected: bool) -> None:
    assert crash.is_extension(path) is expected


def test_what_was_being_loaded_is_known_to_the_end() -> None:
    told = [
        events.Loading("0.1", "outer", "/outer.so"),
        events.Loading("0.1", "done", "/done.so"),
        loaded("0.1", "done"),
        events.Loading("0.1", "inner", "/inner.so"),
    ]
    assert [loading.name for loading in unfinished(told)] == ["inner", "outer"]


def test_an_app_that_works() -> None:
    told = (
        loaded("0.1", memory=900, threads=2),
        events.Up("0.1", "asgi", 5000),
        loaded("1.1", memory=300, threads=2),
        events.Up("1.1", "asgi", 3000),
        events.Answered("0.1", "/", 200, 0.1, ""),
        events.Gone("0.1", "", ""),
        events.Gone("1.1", "", ""),
        events.Finished(0),
    )
    report = judge("shop:app", 2, outcome(*told), {BOOM: ("Boom", "1.0")})
    (row,) = report.modules
    assert (row.distribution, row.version, row.loaded) == ("Boom", "1.0", "private copy")
    assert (row.memory, row.threads, row.verdict) == (300, 2, Verdict.WORKS), "the second worker's"
    assert (report.exit_code, report.findings) == (0, ())
    assert (report.memory_per_worker, report.requests, report.interface) == (3000, 1, "asgi")


def test_a_crash_in_use_names_the_module() -> None:
    told = (loaded("0.1"), events.Up("0.1", "wsgi", None), events.Stage("requesting /"))
    report = judge("shop:app", 2, outcome(*told, code=-11, crash=CRASH), {})
    assert report.exit_code == 1
    assert report.modules[0].verdict is Verdict.CRASHES
    assert whats(report.findings) == [
        f"the process ended by SIGSEGV with {BOOM} on the stack (requesting /)"
    ]
    assert "compute at /site-packages/boom/core.py:7" in report.findings[0].where


def test_a_crash_while_a_module_is_loaded_names_it() -> None:
    told = (events.Stage("worker 1"), events.Loading("0.1", "boom._boom", BOOM))
    report = judge("shop:app", 2, outcome(*told, code=-6), {}, ordinary=outcome(code=-6))
    assert whats(report.findings) == [
        "the process ended by SIGABRT while boom._boom was loaded (worker 1)"
    ]
    assert report.findings[0].advice == "an ordinary Python crashes with it, too"
    assert [row.verdict for row in report.modules] == [Verdict.CRASHES]


@pytest.mark.parametrize(
    ("ordinary", "expected"),
    [(outcome(code=1), 3), (outcome(events.Finished(None)), 1)],
    ids=["nor an ordinary Python", "only in workers"],
)
def test_an_app_that_cannot_be_loaded(ordinary: Outcome, expected: int) -> None:
    told = (
        events.NotUp("0.1", "no module named x", "Traceback ...", 3),
        events.Gone("0.1", "", ""),
    )
    report = judge("shop:app", 2, outcome(*told), {}, ordinary)
    assert (report.exit_code, report.traceback) == (expected, "Traceback ...")


def test_a_module_that_the_app_does_without_is_no_reason_to_fail() -> None:
    told = (events.NotLoaded("0.1", "boom._boom", BOOM, "ImportError: no"), events.Finished(0))
    report = judge("shop:app", 2, outcome(*told), {})
    assert report.exit_code == 0
    assert report.modules[0].verdict is Verdict.REFUSED
    assert report.findings[0].severity is Severity.COSTS


@pytest.mark.parametrize(
    "told",
    [
        events.Answered("0.1", "/", 500, 0.1, ""),
        events.Answered("0.1", "/", 0, 0.1, "no complete answer within 30 s"),
        events.Noted("0.1", "fork", "fork()", "shop.py:3"),
        events.Gone("0.1", "", "Traceback\nValueError: x"),
        events.Hangs("0.1", "shut down", 35.0),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_breaks_fails(told: events.Event) -> None:
    report = judge("shop:app", 2, outcome(told, events.Finished(0)), {})
    assert report.exit_code == 1
    assert [finding.severity for finding in report.findings] == [Severity.BREAKS]


def test_a_process_that_had_to_be_killed_fails() -> None:
    assert judge("a", 2, outcome(code=-9, killed=True), {}).exit_code == 1


def test_a_process_that_ends_without_a_word_fails() -> None:
    report = judge("a", 2, outcome(events.Up("0.1", "asgi", None), code=0), {})
    assert whats(report.findings) == ["the process ended with exit code 0"], "os._exit(), that is"


def test_the_same_finding_of_several_workers_is_one() -> None:
    told = [events.Noted(f"{n}.1", "chdir", "'/'", f"shop.py:{n % 2}") for n in range(4)]
    report = judge("a", 4, outcome(*told, events.Finished(0)), {})
    assert len(report.findings) == 1
    assert report.findings[0].where == ("shop.py:0", "shop.py:1")


def test_text_and_json_say_the_same() -> None:
    told = (loaded("0.1"), loaded("0.1", "boom._more"), events.Finished(50 * 2**20))
    report = judge("shop:app", 2, outcome(*told), {BOOM: ("Boom", "1.0")})
    text = as_text(report, colours=False)
    assert "boom._boom and 1 more" in text
    assert "Boom 1.0" in text
    assert "leaves 50.0 MiB behind" in text
    assert "\x1b" not in text
    assert "\x1b[32mworks" in as_text(report, colours=True)
    values = json.loads(as_json(report))
    assert [row["verdict"] for row in values["modules"]] == ["works", "works"]
    assert values["findings"][0]["severity"] == "costs"


def test_events_come_back_as_they_were_sent() -> None:
    import socket

    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        event = events.NotUp("0.1", "reason", "x" * 50_000 + "end", 3)
        events.send(there.fileno(), event)
        received = events.decode(here.recv(events.MAX_EVENT_BYTES))
    assert isinstance(received, events.NotUp)
    assert received.traceback.endswith("xend"), "the end is what matters"
    assert len(received.traceback) == events.MAX_TEXT_CHARS
