"""Run the process that is thrown away, and collect what it tells until its end."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import subserve
from subserve.check import events
from subserve.check.errand import Errand
from subserve.options import Config

_PROGRAM = Path(subserve.__file__).parent / "check" / "__main__.py"

SILENCE_MARGIN = 60.0
"""Seconds without an event, past the longest wait of the process itself, until it is killed."""

_OUTPUT_BYTES = 64 * 1024
"""How much is kept of what it printed, and of what faulthandler wrote: the end."""

# A numeric library would start a thread per core in each worker; the server says so, too.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a process told, and how it ended.

    `code` is its exit code, or a negative signal; `killed`: by us, for it did nothing any more.
    `output` is what it printed, `crash` what faulthandler wrote.
    """

    told: list[events.Event]
    code: int
    killed: bool
    output: str
    crash: str


def run(
    config: Config,
    paths: list[str],
    on_event: Callable[[events.Event], None] = lambda event: None,
    *,
    ordinary: bool = False,
) -> Outcome:
    """Check the app that `config` names, requesting `paths`.

    `on_event` is called with each event as it comes; see `Errand` for `ordinary`.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as crash:
        with its:
            its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * events.MAX_EVENT_BYTES)
            errand = Errand(config, paths, its.fileno(), crash.fileno(), sys.path, ordinary)
            process = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    str(_PROGRAM),
                    errand.to_json(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(its.fileno(), crash.fileno()),
                env=dict.fromkeys(_ONE_THREAD, "1") | os.environ,
            )
        told: list[events.Event] = []
        try:
            killed = _listen(ours, process, told, on_event, _longest_wait(config))
        finally:
            process.kill()  # does nothing to one that has ended and been waited for
            code = process.wait()
        return Outcome(told, code, killed, _end_of(output), _end_of(crash))


def _longest_wait(config: Config) -> float:
    return max(config.startup_timeout, config.graceful_timeout) + SILENCE_MARGIN


def _listen(
    sock: socket.socket,
    process: subprocess.Popen[bytes],
    told: list[events.Event],
    on_event: Callable[[events.Event], None],
    timeout: float,
) -> bool:
    """Collect events until the process has ended; return whether it had to be killed."""
    sock.settimeout(timeout)
    try:
        while datagram := sock.recv(events.MAX_EVENT_BYTES):
            event = events.decode(datagram)
            told.append(event)
            on_event(event)
        process.wait(timeout)
    except TimeoutError, subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _end_of(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _OUTPUT_BYTES))
    return file.read().decode("utf-8", "replace")
