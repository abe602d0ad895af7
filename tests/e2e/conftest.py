"""Fixtures that run the command line as a user would, in a process of its own."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"

START_SECONDS = 60.0
"""How long a server may take to be ready, or to end: far above what any needs."""


class Server:
    """A running `subserve` process.  Its standard error is read as it comes, into `log`.

    `stdout` is a file for its standard output, or a descriptor that it takes over; `pass_fds` are
    open in it; `max_descriptors` is how many it may have open.
    """

    def __init__(
        self,
        arguments: tuple[str, ...],
        cwd: Path,
        env: dict[str, str],
        stdout: Path | int | None = None,
        pass_fds: tuple[int, ...] = (),
        max_descriptors: int | None = None,
    ) -> None:
        with open(os.devnull if stdout is None else stdout, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "subserve", *arguments],
                cwd=cwd,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                pass_fds=pass_fds,
                preexec_fn=None if max_descriptors is None else partial(_limit, max_descriptors),  # noqa: PLW1509
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

    def serving_pids(self) -> list[int]:
        """The processes that serve: children of the supervisor, oldest first."""
        return sorted(pid for pid, parent in _parents() if parent == self.process.pid)

    @property
    def serving_pid(self) -> int:
        """The process that serves, where there is one; without a supervisor it is the only one."""
        (pid,) = self.serving_pids() or [self.process.pid]
        return pid

    def open_fds(self) -> list[str]:
        """What the descriptors of the process that serves stand for, as far as that is steady."""
        folder = Path(f"/proc/{self.serving_pid}/fd")
        found = []
        for link in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed just now
                found.append(re.sub(r"\d+", "N", os.readlink(link)))
        return sorted(found)

    def cpu_seconds(self) -> float:
        """CPU time that all its threads have used, in user and in system mode (proc(5))."""
        ticks = 0
        for pid in (self.process.pid, *self.serving_pids()):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

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
        serving = self.serving_pids()
        if self.process.poll() is None:
            self.process.kill()
        for pid in serving:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


def _parents() -> Iterator[tuple[int, int]]:
    """Each process of the machine and its parent (proc(5))."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z":
                yield int(stat.parent.name), int(parent)


def _limit(descriptors: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


type Serve = Callable[..., Server]


@contextmanager
def launching(folder: Path) -> Iterator[Serve]:
    """What `launch` is made of; all servers are gone at the end."""
    servers: list[Server] = []

    def run(
        *arguments: str, cwd: Path = folder, env: dict[str, str] | None = None, **options: Any
    ) -> Server:
        server = Server(arguments, cwd, env or {}, **options)
        servers.append(server)
        return server

    try:
        yield run
    finally:
        for server in servers:
            server.kill()


def serving(launch: Serve) -> Serve:
    """What `serve` is made of."""

    def run(app: str, *arguments: str, app_dir: Path = APPS, **options: object) -> Server:
        defaults = ["--app-dir", str(app_dir)]
        if not any(a in {"-b", "--bind"} or a.startswith("--bind=") for a in arguments):
            defaults += ["--bind", "127.0.0.1:0"]
        if not any(a in {"-w", "--workers"} or a.startswith("--workers=") for a in arguments):
            defaults += ["--workers", "2"]
        return launch(app, *defaults, *arguments, **options).wait_ready()

    return run


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Serve]:
    """A function that runs ``subserve *arguments`` and returns the `Server`, ready or not.

    Keywords: `cwd` (an empty folder unless given), `env` (added to the environment), and those of
    `Server`.
    """
    with launching(tmp_path) as run:
        yield run


@pytest.fixture
def serve(launch: Serve) -> Serve:
    """A function that serves an app on a free port and returns the ready `Server`.

    ``serve("module:app", "--workers", "2")``; the app is found in ``tests/e2e/apps`` or, where
    `app_dir` is given, there.  Two workers unless asked otherwise.
    """
    return serving(launch)


@pytest.fixture(scope="module")
def shared_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The same for servers that all tests of a module use."""
    with launching(tmp_path_factory.mktemp("cwd")) as launch:
        yield serving(launch)
