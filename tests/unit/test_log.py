"""Log records: one write each, nothing forged, nothing raised."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve import log as subserve_log
from subserve.errors import ConfigError

record = logging.getLogger("subserve.test")


@pytest.fixture(autouse=True)
def _loggers_are_restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("subserve", "subserve.access")]
    before = [(lg, lg.handlers, lg.level, lg.propagate) for lg in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


class Output:
    """A file in place of standard error, and each write to it."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.writes: list[bytes] = []
        monkeypatch.setattr(subserve_log, "STDERR", self.fd)
        monkeypatch.setattr(subserve_log, "STDOUT", self.fd)
        write = os.write

        def counted(fd: int, data: bytes) -> int:
            if fd == self.fd:
                self.writes.append(data)
            return write(fd, data)

        monkeypatch.setattr(os, "write", counted)

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    made = Output(tmp_path / "log", monkeypatch)
    yield made
    os.close(made.fd)


# ---- escaping


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain é 漢 \U0001f600", "plain é 漢 \U0001f600"),
        ("a\nb\r\nc", r"a\x0ab\x0d\x0ac"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("\t\x00\x7f", r"\x09\x00\x7f"),
    ],
)
def test_control_characters_are_escaped(text: str, escaped: str) -> None:
    assert subserve_log.escape(text) == escaped


@given(st.text(st.characters()))
def test_no_control_character_is_left(text: str) -> None:
    escaped = subserve_log.escape(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", escaped)
    assert len(escaped.splitlines()) <= 1 or re.search("[\u2028\u2029]", text)


# ---- text


def test_a_line_of_text(output: Output) -> None:
    subserve_log.configure("info", "text", "worker 0.1")
    record.info("ready in %d s", 3)
    (line,) = output.lines
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} info    worker 0\.1  ready in 3 s", line
    )


def test_a_message_cannot_forge_a_line(output: Output) -> None:
    subserve_log.configure("info", "text", "server")
    record.warning("GET %s failed", "/\n2026-01-01 00:00:00.000 info    server  all is well\x1b[2J")
    (line,) = output.lines
    assert line.endswith(
        r"GET /\x0a2026-01-01 00:00:00.000 info    server  all is well\x1b[2J failed"
    )


def test_what_is_not_utf_8(output: Output) -> None:
    subserve_log.configure("info", "text", "server")
    record.info("cannot listen on %s", os.fsdecode(b"unix:/\xff"))
    assert output.lines[0].endswith(r"unix:/\udcff")


def test_a_traceback_is_below_its_line_in_the_same_write(output: Output) -> None:
    subserve_log.configure("info", "text", "server")
    try:
        raise ValueError("first\nsecond \x1b[31m")
    except ValueError:
        record.exception("failed")
    assert len(output.writes) == 1
    lines = output.lines
    assert lines[0].endswith("  failed")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-2:] == ["ValueError: first", r"second \x1b[31m"]


def test_a_reported_traceback_is_above_its_line_in_the_same_write(output: Output) -> None:
    subserve_log.configure("info", "text", "server")
    trace = {subserve_log.TRACEBACK: "Traceback\n\tof the app \x1b[31m\n"}
    record.error("do this", extra=trace)
    assert len(output.writes) == 1
    assert output.lines[:2] == ["Traceback", r"	of the app \x1b[31m"]
    assert output.lines[2].endswith("error   server  do this")


# ---- JSON


def test_a_line_of_json(output: Output) -> None:
    subserve_log.configure("info", "json", "worker 0.1")
    record.warning("line\nbreak %s \x7f", "\x1b[31m")
    (line,) = output.lines
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "warning",
        "origin": "worker 0.1",
        "pid": os.getpid(),
        "logger": "subserve.test",
        "message": "line\nbreak \x1b[31m \x7f",
    }


def test_json_with_a_traceback(output: Output) -> None:
    subserve_log.configure("info", "json", "server")
    try:
        raise ValueError("x\ny")
    except ValueError:
        record.exception("failed")
    record.error("failed", extra={subserve_log.TRACEBACK: "of the app\n"})
    raised, reported = map(json.loads, output.lines)
    assert raised["traceback"].endswith("ValueError: x\ny")
    assert reported["traceback"] == "of the app\n"
    assert len(output.writes) == 2


@given(st.text(st.characters()))
def test_any_message_is_a_line_of_json(text: str) -> None:
    formatter = subserve_log._JsonFormatter("server")
    made = logging.LogRecord("subserve", logging.INFO, "", 1, "%s", (text,), None)
    line = formatter.format(made)
    assert "\n" not in line
    # A pair of surrogates is one character to JSON.
    assert json.loads(line)["message"] == json.loads(json.dumps(text))


# ---- levels


def test_levels(output: Output) -> None:
    subserve_log.configure("warning", "text", "server")
    record.info("no")
    record.warning("yes")
    assert len(output.lines) == 1


def test_configuring_again_replaces(output: Output) -> None:
    subserve_log.configure("info", "text", "server")
    subserve_log.configure("info", "json", "server")
    record.info("once")
    assert len(output.lines) == 1


def test_the_loggers_of_the_app_are_left_alone(output: Output) -> None:
    root_handlers = list(logging.getLogger().handlers)
    subserve_log.configure("debug", "text", "server")
    logging.getLogger("app").warning("not ours")
    assert logging.getLogger().handlers == root_handlers
    assert output.lines == []


# ---- where writing fails


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_full_disk_ends_nothing(log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(subserve_log, "STDERR", full)
    subserve_log.configure("info", log_format, "server")
    record.error("nobody reads this")
    # The banner ended the coordinator with an OSError.
    subserve_log.announce("nor this")
    os.close(full)
    record.error("nor this")


def test_a_closed_pipe_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(subserve_log, "STDERR", writer)
    subserve_log.configure("info", "text", "server")
    record.error("nobody reads this")
    subserve_log.announce("nor this")
    os.close(writer)


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("I have no text")


def test_what_cannot_be_formatted_ends_nothing(
    output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    # The app's error, logged with its repr, raised in the lifespan that had just let it pass.
    subserve_log.configure("info", "text", "server")
    record.info("got %r", _Unprintable())
    assert output.lines == []
    assert "I have no text" in capsys.readouterr().err


def test_announce_writes_lines_as_they_are(output: Output) -> None:
    subserve_log.announce("subserve\n  app  shop:app " + os.fsdecode(b"\xff"))
    assert output.lines == ["subserve", r"  app  shop:app \udcff"]
    assert len(output.writes) == 1


# ---- what was printed


def test_prints_are_flushed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", buffering=4096) as out:
        monkeypatch.setattr(sys, "stdout", out)
        print("hello")
        subserve_log.flush_prints()
        assert (tmp_path / "out").read_text() == "hello\n"


def test_streams_that_are_closed_or_missing_are_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A worker whose app had closed sys.stdout "broke" when it ended, with exit code 1.
    out = open(tmp_path / "out", "w")  # noqa: SIM115  closed on purpose
    out.close()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    subserve_log.flush_prints()


# ---- access log


def test_no_access_log() -> None:
    assert subserve_log.configure_access("off") is None


def test_the_access_log_on_standard_output(output: Output) -> None:
    logger = subserve_log.configure_access("-")
    assert logger is not None
    subserve_log.write_access(logger, '%(h)s "%(R)s" 100%%', {"h": "::1", "R": 'GET /\n\x1b"'})
    assert output.lines == [r'::1 "GET /\x0a\x1b\x22" 100%']
    assert len(output.writes) == 1


def test_the_access_log_in_a_file(tmp_path: Path, output: Output) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    logger = subserve_log.configure_access(str(path))
    assert logger is not None
    subserve_log.write_access(logger, "%(s)s", {"s": 200})
    assert path.read_text() == "before\n200\n"
    assert output.lines == []
    (handler,) = logger.handlers
    os.close(handler._fd)  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["/no/such/folder/log", "/"])
def test_an_access_log_that_cannot_be_opened_is_the_operators_error(target: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--access-log {target}: cannot be written: ")):
        subserve_log.configure_access(target)
