"""Start and stop a server many times; see that every stop is clean and leaves nothing behind.

``python -m loadtests.starts 100 examples.fastapi_app.main:app --workers 2``
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

START_SECONDS = 60.0
STOP_SECONDS = 40.0


class LeftBehind(Exception):
    """A stop was not clean; says how."""


def start_and_stop(app: str, arguments: list[str], path: str, scratch: Path) -> float:
    """Start a server on a unix socket, request `path` once, stop it; return the seconds it took.

    `scratch` is an empty directory.  Raises `LeftBehind` where the exit code is not 0 or where a
    process, a socket or a file stays.
    """
    temporary = scratch / "tmp"
    temporary.mkdir()
    socket_path = scratch / "server.sock"
    begin = time.monotonic()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", "subserve", app, "--bind", f"unix:{socket_path}", *arguments],
            stderr=log,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(temporary)},
            start_new_session=True,
        ) as server,
    ):
        try:
            status = _request(socket_path, path, server)
            server.send_signal(signal.SIGTERM)
            code = server.wait(STOP_SECONDS)
        finally:
            server.kill()
        seconds = time.monotonic() - begin
        log.seek(0)
        text = log.read().decode(errors="replace")
    left: list[Path | str] = [
        *temporary.iterdir(),
        *([socket_path] if socket_path.exists() else []),
    ]
    left += _processes_of_session(server.pid)
    if code != 0 or status != 200 or left:
        raise LeftBehind(f"exit code {code}, status {status}, left behind {left}\n{text}")
    temporary.rmdir()
    return seconds


def _request(socket_path: Path, path: str, server: subprocess.Popen[bytes]) -> int:
    """Request `path` as soon as the socket is there; the kernel queues until the app is ready."""
    deadline = time.monotonic() + START_SECONDS
    transport = httpx.HTTPTransport(uds=str(socket_path))
    with httpx.Client(transport=transport, timeout=START_SECONDS) as client:
        while True:
            try:
                return client.get(f"http://localhost{path}").status_code
            except httpx.TransportError:
                if server.poll() is not None or time.monotonic() > deadline:
                    return 0
                time.sleep(0.02)


def _processes_of_session(session: int) -> Iterator[str]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(fields[3]) == session:
            yield f"process {stat.parent.name}"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("app")
    parser.add_argument("--path", default="/", help="what to request each time [/]")
    options, arguments = parser.parse_known_args()
    taken = []
    for number in range(1, options.count + 1):
        with tempfile.TemporaryDirectory() as scratch:
            taken.append(start_and_stop(options.app, arguments, options.path, Path(scratch)))
        print(f"\r{number}/{options.count}", end="", file=sys.stderr, flush=True)
    taken.sort()
    print(
        f"\n{len(taken)} starts and stops, all clean; seconds each: "
        f"{taken[0]:.2f} to {taken[-1]:.2f}, median {taken[len(taken) // 2]:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
