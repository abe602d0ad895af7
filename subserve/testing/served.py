"""An app that is served for a test, by processes of its own.

::

    with Server("myapp:app", workers=2) as server:
        httpx.get(server.url)

The fixture `subserve_server` makes these for a test; a fixture of another scope makes its own.  The
server is another program and not `subserve.Server`, so that it starts clean, whatever the tests
have imported, and so that it can be started from a sub-interpreter, too.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from subserve.errors import SubserveError

_PROGRAM = Path(__file__).with_name("serving.py")

START_SECONDS = 90.0
"""Above the default of ``startup_timeout``, after which the server ends by itself."""

STOP_SECONDS = 45.0
"""Above the default of ``graceful_timeout``, after which the server ends by itself."""


class StartFailed(SubserveError):
    """The server did not start; the text ends with what it logged."""


class Server:
    """A served app; it serves from `start` to `stop`, or within a ``with`` block.

    `options` are those of the command line, with ``_`` for ``-``: ``workers=2``, ``factory=True``.
    Unless they say otherwise, it has one worker, and a port of its own at 127.0.0.1.  The app is
    looked for where Python looks here: `sys.path`.
    """

    def __init__(self, app: str, **options: Any) -> None:
        self.app = app
        self.options: Mapping[str, Any] = {"workers": 1, "bind": "127.0.0.1:0", **options}
        self.urls: tuple[str, ...] = ()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by `stop`
        self._kept_log = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """The first address, such as ``http://127.0.0.1:40123``, without a slash at the end."""
        return self.urls[0]

    @property
    def workers(self) -> int:
        """How many workers it was started with."""
        return int(self.options["workers"])

    @property
    def logs(self) -> str:
        """All that server and app have written so far, to standard output and standard error."""
        if self._log.closed:
            return self._kept_log
        fd = self._log.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")

    def start(self) -> Self:
        """Start, and wait until it serves.  Raises `StartFailed`."""
        __tracebackhide__ = True
        ready, its = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), str(its)],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[its],
                text=True,
            )
        finally:
            os.close(its)
        try:
            assert self._process.stdin is not None
            order = {"app": self.app, "options": self.options, "sys_path": sys.path}
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = _read_line(ready, time.monotonic() + START_SECONDS)
        finally:
            os.close(ready)
        if not line:
            code = self.stop()
            raise StartFailed(
                f"{self.app} could not be served (exit code {code}); the server says:\n{self.logs}"
            )
        self.urls = tuple(json.loads(line))
        return self

    def stop(self) -> int:
        """Let requests in flight finish, end it, and return the exit code.  Idempotent."""
        process = self._process
        if process is None:
            return 0
        assert process.stdin is not None
        process.stdin.close()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self._kept_log = self.logs
        self._log.close()
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _read_line(fd: int, deadline: float) -> bytes:
    """Read until the other side closes; nothing if that takes too long."""
    data = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        more = os.read(fd, 65536)
        if not more:
            return data
        data += more
    return b""


# ---- the fixture

type Serve = Callable[..., Server]

_servers = pytest.StashKey[list[Server]]()


@contextmanager
def serving(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Yield what starts servers for a test; at the end all of them are stopped."""
    plugins = request.config.pluginmanager
    if not plugins.has_plugin("subserve-logs"):
        plugins.register(_ShowLogs(), "subserve-logs")
    servers: list[Server] = request.node.stash.setdefault(_servers, [])
    with ExitStack() as stack:

        def serve(app: str, **options: Any) -> Server:
            __tracebackhide__ = True
            server = Server(app, **options)
            stack.callback(server.stop)
            server.start()
            servers.append(server)
            return server

        yield serve


class _ShowLogs:
    """A plugin that puts what servers have logged into the report of a test that failed."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            for server in item.stash.get(_servers, []):
                report.sections.append((f"log of subserve {server.app}", server.logs))
        return report
