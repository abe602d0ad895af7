"""Fixtures that run the command line as a user would, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"

START_SECONDS = 60.0
"""How long a server may take to be ready, or to end: far above what any needs."""


class Server:
    """A running `subserve` process.  Its standard error is read as it comes, into `log`."""

    def __init__(self, arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "subserve", *arguments],
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def log(self) -> str:
        """All that it has written to standard error so far."""
        return "".join(self._lines)

    def wait_for(self, pattern: str, timeout: float = START_SECONDS) -> re.Match[str]:
        """Wait until the log matches `pattern` and return the match; fail if it never will."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self.log, re.MULTILINE)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, timeout)
            match = found()
        assert match is not None, f"no {pattern!r} in the log:\n{self.log}"
        return match

    def wait_ready(self) -> Server:
        """Wait for the end of the banner: the server accepts."""
        self.wait_for(r"^  pid ")
        return self

    @property
    def url(self) -> str:
        """The first URL of the banner."""
        return self.wait_for(r"^  listening  (\S+)")[1]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first URL."""
        url = httpx.URL(self.url)
        assert url.port is not None
        return url.host, url.port

    def client(self, **options: object) -> httpx.Client:
        """Return an HTTP client for the first URL; the caller closes it."""
        return httpx.Client(base_url=self.url, timeout=30.0, trust_env=False, **options)  # type: ignore[arg-type]

    def send(self, signum: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(signum)

    def wait(self, timeout: float = START_SECONDS) -> int:
        """Wait for its end; return the exit code (negative for a signal)."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def stop(self, signum: signal.Signals = signal.SIGTERM, timeout: float = START_SECONDS) -> int:
        """Ask it to stop, wait, and return the exit code."""
        self.send(signum)
        return self.wait(timeout)

    def kill(self) -> None:
        """End it whatever it takes; for the tear-down of a test that failed."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


type Serve = Callable[..., Server]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Serve]:
    """A function that runs ``subserve *arguments`` and returns the `Server`, ready or not.

    Keywords: `cwd` (an empty folder unless given) and `env` (added to the environment).
    """
    servers: list[Server] = []

    def run(*arguments: str, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> Server:
        server = Server(arguments, cwd, env or {})
        servers.append(server)
        return server

    yield run
    for server in servers:
        server.kill()


@pytest.fixture
def serve(launch: Serve) -> Serve:
    """A function that serves an app on a free port and returns the ready `Server`.

    ``serve("module:app", "--workers", "2")``; the app is found in ``tests/e2e/apps`` or, where
    `app_dir` is given, there.  Two workers unless asked otherwise.
    """

    def run(app: str, *arguments: str, app_dir: Path = APPS, **options: object) -> Server:
        defaults = ["--app-dir", str(app_dir)]
        if not any(a in {"-b", "--bind"} or a.startswith("--bind=") for a in arguments):
            defaults += ["--bind", "127.0.0.1:0"]
        if not any(a in {"-w", "--workers"} or a.startswith("--workers=") for a in arguments):
            defaults += ["--workers", "2"]
        return launch(app, *defaults, *arguments, **options).wait_ready()

    return run
