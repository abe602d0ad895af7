"""The side of whoever started it: the process that runs the tests."""

import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from subserve import scratch
from subserve.testing.crash import MAX_TEXT_CHARS, Evidence
from subserve.testing.link import Link, Message
from subserve.testing.task import Task

_PROGRAM = Path(__file__).with_name("child.py")

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""Set to 1 for several interpreters, as the server does: each would start a thread per core."""

END_SECONDS = 60.0
"""For the process to end once its interpreters have said that they are through."""


class Child:
    """A process with an interpreter for each of `tasks`, whose `fd` and `scratch` are filled in.

    `folder` is its current folder.  Where `shows`, it shares our standard streams; else what is
    written to its descriptors, and was not captured there, is kept: `output`.
    """

    def __init__(self, tasks: Sequence[Task], folder: Path, *, shows: bool) -> None:
        self.count = len(tasks)
        self.evidence = Evidence()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._dump = tempfile.TemporaryFile()  # noqa: SIM115
        ours, its = socket.socketpair()
        pairs = [socket.socketpair() for _ in tasks]
        theirs = [its.fileno(), self._dump.fileno(), *(there.fileno() for _, there in pairs)]
        environ = dict(os.environ)
        if self.count > 1:
            for name in BLAS_VARIABLES:
                environ.setdefault(name, "1")
        stream = None if shows else self._output
        self._process = subprocess.Popen(
            [
                sys.executable,
                *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                str(_PROGRAM),
                str(its.fileno()),
            ],
            stdin=None if shows else subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=theirs,
            cwd=folder,
            env=environ,
        )
        filled = [
            replace(task, fd=there.fileno()).to_json()
            for task, (_, there) in zip(tasks, pairs, strict=True)
        ]
        self._link = Link(ours)
        self._link.send("launch", json.dumps(filled), self._dump.fileno())
        its.close()
        self._links = [Link(here) for here, _ in pairs]
        for _, there in pairs:
            there.close()
        self._selector = selectors.DefaultSelector()
        for number, link in enumerate(self._links):
            self._selector.register(link, selectors.EVENT_READ, number)
        self._arrived: deque[tuple[int, Message]] = deque()

    def send(self, number: int, kind: str, *values: object) -> None:
        """Send to an interpreter; it may have ended meanwhile."""
        self._links[number].send(kind, *values)

    def next(self, deadline: float | None = None) -> tuple[int, Message] | None:
        """Wait for a message, and return it behind the number of the interpreter it is from.

        None when all have ended.  Raises `TimeoutError` at `deadline` (monotonic seconds).
        """
        while not self._arrived:
            if not self._selector.get_map():
                return None
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            events = self._selector.select(timeout)
            if not events and timeout is not None:
                raise TimeoutError
            for key, _ in events:
                messages = self._links[key.data].receive_ready()
                if messages is None:
                    self._selector.unregister(key.fileobj)
                    self._links[key.data].close()
                else:
                    self._arrived += [(key.data, message) for message in messages]
        return self._arrived.popleft()

    def wait(self, timeout: float = END_SECONDS) -> Evidence:
        """Wait for its end, or bring it about, and return what is known of it.  Idempotent."""
        try:
            self.evidence.code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self.evidence.dump = self._read(self._dump.fileno())
        return self.evidence

    def kill(self) -> None:
        """End it, whatever it does.  Idempotent."""
        self._process.kill()
        self.evidence.code = self._process.wait()

    @property
    def output(self) -> str:
        """The end of what was written to its descriptors."""
        return self._read(self._output.fileno())

    def close(self) -> None:
        """End it if that has not happened, and free what it took.  Idempotent."""
        if self._process.poll() is None:
            self.kill()
        scratch.sweep(self._process.pid, os.geteuid())
        self._selector.close()
        for link in (self._link, *self._links):
            link.close()
        self._output.close()
        self._dump.close()

    def _read(self, fd: int) -> str:
        size = os.fstat(fd).st_size
        data = os.pread(fd, MAX_TEXT_CHARS, max(0, size - MAX_TEXT_CHARS))
        return data.decode(errors="replace")
