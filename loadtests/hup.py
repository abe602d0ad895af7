"""Turn a server over again and again under load; see that no request is lost.

``python -m loadtests.hup 50 --requests 100000 examples.fastapi_app.main:app --workers 2``
"""

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.keepalive import Address, Load, mixed

TURN_OVER_SECONDS = 60.0
START_SECONDS = 60.0

HELLO = """\
import os

BODY = str(os.getpid()).encode()
HEADERS = [(b"content-length", str(len(BODY)).encode())]


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})
"""
"""What is served where no app is given; it tells which process has answered."""


class Served:
    """A running server, with its log in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, unix: str) -> None:
        self.process = process
        self._log = log
        self._unix = unix

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, count: int, timeout: float) -> None:
        """Wait until `pattern` is in the log `count` times."""
        deadline = time.monotonic() + timeout
        while len(re.findall(pattern, self.log, re.MULTILINE)) < count:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no {pattern!r} for the {count}th time:\n{self.log[-4000:]}")
            time.sleep(0.02)

    @property
    def addresses(self) -> list[Address]:
        """Where it listens: TCP, and a unix socket."""
        match = re.search(r"http://127\.0\.0\.1:(\d+)", self.log)
        assert match is not None
        return [("127.0.0.1", int(match[1])), self._unix]

    def resident_kib(self) -> int:
        """Resident memory of its tree, in KiB."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                text = status.read_text()
                pid, parent = int(status.parent.name), int(_field(text, "PPid"))
                if self.process.pid in {pid, parent}:
                    total += int(_field(text, "VmRSS").split()[0])
        return total


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else "0"


@contextmanager
def serving(app: str | None, arguments: list[str]) -> Iterator[Served]:
    """Serve an app over TCP and a unix socket; stop the server at the end."""
    with tempfile.TemporaryDirectory() as folder:
        if app is None:
            Path(folder, "hello.py").write_text(HELLO)
            app, arguments = "hello:app", ["--app-dir", folder, *arguments]
        unix, log = f"{folder}/server.sock", Path(folder, "log")
        binds = ["--bind", "127.0.0.1:0", "--bind", f"unix:{unix}"]
        command = [sys.executable, "-m", "subserve", app, *binds, *arguments]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr, stdin=subprocess.DEVNULL)
        server = Served(process, log, unix)
        try:
            server.wait_for("^  pid ", 1, START_SECONDS)
            yield server
            process.send_signal(signal.SIGTERM)
            process.wait(60.0)
        finally:
            process.kill()
            process.wait()


def turn_over(server: Served, load: Load, count: int, requests: int) -> None:
    """Turn it over `count` times, spread evenly over at least `requests` answered requests."""
    for number in range(1, count + 1):
        while load.answered < requests * number // (count + 1) and not load.failures:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("turned over in", number, TURN_OVER_SECONDS)
    while load.answered < requests and not load.failures:
        time.sleep(0.02)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("app", nargs="?")
    parser.add_argument("--requests", type=int, default=1000, help="at least that many [1000]")
    options, arguments = parser.parse_known_args()
    begin = time.monotonic()
    with serving(options.app, arguments) as server:
        before = server.resident_kib()
        with Load(mixed(server.addresses)) as load:
            turn_over(server, load, options.count, options.requests)
        print(f"resident memory: {before} KiB before, {server.resident_kib()} KiB after")
    seconds = time.monotonic() - begin
    print(
        f"{options.count} turn-overs in {seconds:.0f} s: {load.answered} requests answered, "
        f"{len(load.failures)} lost; the slowest took {load.slowest:.2f} s; "
        f"exit code {server.process.returncode}"
    )
    print(*load.failures[:20], sep="\n")
    return 1 if load.failures or server.process.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
