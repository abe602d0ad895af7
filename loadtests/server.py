"""Start a contender, see that it answers as it should, and stop it with all its processes."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests import processes

START_SECONDS = 60.0
STOP_SECONDS = 15.0
ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.02
DATA_VARIABLES = ("BOARD_DATA", "POSTCARDS_DATA_DIR", "DJANGO_DATA_DIR")
"""Where the example apps keep their data: a folder of its own for each server."""

LOG_TAIL = 3000
"""Characters of a server's output that are shown where it fails."""


class ServerFailed(Exception):
    """A contender did not start, did not answer as it should, or left something behind."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A request that tells whether a server is ready, and what it has to answer.

    `answer` is the length of the body in bytes; None where that varies.  With `connect` a server
    that takes a connection is ready.
    """

    path: str = "/"
    body: bytes | None = None
    content_type: str = "application/octet-stream"
    answer: int | None = None
    connect: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs; `pid` is that of its first process."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


def pinned(argv: Sequence[str], cores: Collection[int]) -> list[str]:
    """Return a command that runs `argv` on `cores` only, its children included."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *argv]


def free_port() -> int:
    """Return a port that nothing listens on right now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def running(
    argv: Sequence[str], port: int, probe: Probe, root: Path, uds: Path | None = None
) -> Iterator[Server]:
    """Run a server until the end of the block; it listens on `port`, or else on the socket `uds`.

    Raises `ServerFailed` where it does not start, does not answer, or ends by itself.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as data:
        process = subprocess.Popen(
            argv,
            cwd=root,
            env={
                **environment,
                **dict.fromkeys(DATA_VARIABLES, data),
                "PYTHONPATH": str(root),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _await_answer(process, port, probe, uds)
            yield Server(process.pid, port)
            if process.poll() is not None:
                raise ServerFailed(f"it ended by itself with {process.returncode}")
        except ServerFailed as error:
            log.seek(0)
            text = log.read().decode(errors="replace")[-LOG_TAIL:]
            raise ServerFailed(f"{error}\n{' '.join(argv)}\n{text}") from error
        finally:
            _stop(process)


def _await_answer(
    process: subprocess.Popen[bytes], port: int, probe: Probe, uds: Path | None
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            status, body = request(port, probe, uds)
            break
        except OSError, http.client.HTTPException:
            if process.poll() is not None:
                raise ServerFailed(f"it does not start: exit code {process.returncode}") from None
            if time.monotonic() > deadline:
                raise ServerFailed(f"it does not answer within {START_SECONDS:g} s") from None
            time.sleep(POLL_SECONDS)
    if status != 200 or probe.answer not in {None, len(body)}:
        raise ServerFailed(f"it answers {status} with {len(body)} bytes, not 200 and {probe}")


def request(port: int, probe: Probe, uds: Path | None = None) -> tuple[int, bytes]:
    """Make the request of a probe on a new connection; return the status and the body."""
    if probe.connect:
        socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS).close()
        return 200, b""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    with contextlib.closing(connection):
        if uds is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(ANSWER_SECONDS)
            connection.sock.connect(str(uds))
        if probe.body is None:
            connection.request("GET", probe.path)
        else:
            connection.request("POST", probe.path, probe.body, {"Content-Type": probe.content_type})
        response = connection.getresponse()
        return response.status, response.read()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the first process to end, then end all that is left of its session."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass  # as with one that waits for idle connections
    finally:
        for stat in processes.read_stats().values():
            if stat.session == process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stat.pid, signal.SIGKILL)
        process.wait()
