"""Log records: one write each, control characters escaped, the worker's name put in.

============  ==========================================================================
level         what subserve logs at it
============  ==========================================================================
error         a request failed by an exception of the app; a worker that broke, failed or hangs
warning       what the operator should know: requests cut off, threads left behind
info          start, stop, and each step of it; a worker that is replaced or added
debug         connections that ended oddly, lifespan not spoken
============  ==========================================================================

The app's own logging is its own affair: only the loggers ``subserve`` and below are configured.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import override

from subserve.errors import ConfigError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_NEWLINE_AND_TAB = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

STDOUT, STDERR = 1, 2

TRACEBACK = "reported_traceback"
"""Attribute of a record (`extra`) for a traceback that comes from another interpreter as text.  It
is printed above its line, so that what to do is the last thing an operator reads."""


def escape(text: str) -> str:
    r"""Return `text` with control characters as ``\xNN``: no forged lines, no terminal tricks."""
    return _CONTROL.sub(_as_hex, text)


def _as_hex(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"


class _FdHandler(logging.Handler):
    """Writes each record with one `write`, so that lines of several interpreters never mix."""

    def __init__(self, fd: int, path: str | None = None) -> None:
        super().__init__()
        self._fd = fd
        self._path = path

    def reopen(self) -> None:
        """Open the file anew; records go to the old one until then, and where that fails."""
        if self._path is None:
            return
        fd = _open_log(self._path)
        try:
            # Of one number with the old one, at one stroke: another thread may be writing.
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  what a record holds is formatted here first
            self.handleError(record)
            return
        _write(self._fd, text)


def _open_log(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def _write(fd: int, text: str) -> None:
    try:
        os.write(fd, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        # A full disk or a closed pipe must not end requests, and there is nowhere to tell.
        return


def announce(text: str) -> None:
    """Write `text` to standard error as it is; for the banner, which is no record."""
    _write(STDERR, text)


def flush_prints() -> None:
    """Flush what was printed, as far as standard output and error are open and take it.

    An app may have replaced or closed them; none of that is a reason to end badly.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError) as error:
            logging.getLogger("subserve").debug("cannot flush: %s", error)


class _TextFormatter(logging.Formatter):
    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin = origin

    @override
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        head = f"{moment}.{int(record.msecs):03d} {record.levelname.lower():<7} {self._origin}"
        line = f"{head}  {escape(record.getMessage())}"
        if reported := getattr(record, TRACEBACK, ""):
            return f"{_escape_but_layout(reported).rstrip()}\n{line}"
        return line + _traceback(self, record, "\n")


class _JsonFormatter(logging.Formatter):
    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin = origin
        self._pid = os.getpid()  # nothing that logs forks

    @override
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "origin": self._origin,
            "pid": self._pid,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := getattr(record, TRACEBACK, "") or _traceback(self, record, ""):
            fields["traceback"] = trace
        return json.dumps(fields)


class _PlainFormatter(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        return escape(record.getMessage())


def _traceback(formatter: logging.Formatter, record: logging.LogRecord, lead: str) -> str:
    if not record.exc_info:
        return ""
    text = formatter.formatException(record.exc_info)
    return lead + _escape_but_layout(text)


def _escape_but_layout(text: str) -> str:
    return _CONTROL_BUT_NEWLINE_AND_TAB.sub(_as_hex, text)


def configure(level: str, log_format: str, origin: str, processes: int = 1) -> None:
    """Send the records of ``subserve`` and below to standard error.

    `origin` is who writes: ``server`` or ``worker 0.1``.  Where there are several `processes` of
    them, its number is put behind that, as syslog has it; a JSON record always has it.
    """
    handler = _FdHandler(STDERR)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter(origin))
    else:
        handler.setFormatter(
            _TextFormatter(f"{origin}[{os.getpid()}]" if processes > 1 else origin)
        )
    logger = logging.getLogger("subserve")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def configure_access(target: str) -> logging.Logger | None:
    """Return the access logger that writes to `target`: ``-``, a file, or ``off`` (None).

    Raises `ConfigError` where the file cannot be opened.
    """
    logger = logging.getLogger("subserve.access")
    logger.propagate = False
    if target == "off":
        return None
    try:
        handler = _FdHandler(STDOUT) if target == "-" else _FdHandler(_open_log(target), target)
    except OSError as error:
        raise ConfigError(f"--access-log {target}: cannot be written: {error.strerror}") from error
    handler.setFormatter(_PlainFormatter())
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    return logger


def reopen_access() -> None:
    """Open the file of the access log anew, if it is one; safe to call in any thread.

    Raises `OSError` where it cannot be opened; records go to the old file then.
    """
    for handler in logging.getLogger("subserve.access").handlers:
        if isinstance(handler, _FdHandler):
            handler.reopen()


def write_access(logger: logging.Logger, line_format: str, atoms: Mapping[str, object]) -> None:
    r"""Log one request, as `line_format` (``%(name)s``) lays its atoms out.

    A quotation mark within an atom is written as ``\x22``, so that no client can end a field.
    """
    logger.info("%s", line_format % _Unquoted(atoms))


class _Unquoted(dict[str, object]):
    """Atoms whose quotation marks are escaped when they are asked for."""

    def __init__(self, atoms: Mapping[str, object]) -> None:
        super().__init__()
        self._atoms = atoms

    def __missing__(self, name: str) -> object:
        value = self._atoms[name]
        return value.replace('"', "\\x22") if isinstance(value, str) else value
