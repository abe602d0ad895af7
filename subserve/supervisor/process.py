"""The supervisor's side of one serving process.

It is a fresh Python, not a fork: it has none of our memory, and starts with the code on disk.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import subserve
from subserve import signals
from subserve.channel import Channel
from subserve.listener import Listener
from subserve.messages import Launch, Message
from subserve.options import Config
from subserve.privileges import identity

_PROGRAM = Path(subserve.__file__).parent / "coordinator" / "__main__.py"

MAX_CRASH_BYTES = 256 * 1024
"""How much is read of what is said in a crash; a hundred threads take less."""

KILLED_SECONDS = 5.0
"""How long to wait for the end of what was sent SIGKILL: it may be in the middle of disk I/O."""


class ServingProcess:
    """A process that serves, its control channel, and how to know when it has ended.

    `fileno` is its pidfd, which is readable from its end on (pidfd_open(2), Linux 5.3).
    """

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        control: Channel,
        uid: int,
        app: str,
        crash_fd: int,
    ) -> None:
        self.name = name
        self.app = app
        """What it serves, as the operator names it."""
        self.uid = uid
        """The user whom it becomes."""
        self.control = control
        self._process = process
        self._crash_fd = crash_fd
        self._pidfd = os.pidfd_open(process.pid)

    @classmethod
    def start(
        cls,
        name: str,
        config: Config,
        listeners: Sequence[Listener],
        environ: Mapping[str, str],
        folder: str,
    ) -> ServingProcess:
        """Start one with our interpreter, its flags and `environ`, in `folder`.

        Raises `OSError` where the system cannot make a process.
        """
        who = identity(config)
        # What faulthandler writes is read here, to name the extension that crashed.
        crash_fd = os.memfd_create(f"subserve-{name}")
        ours, its = socket.socketpair()
        fds = [listener.sock.fileno() for listener in listeners]
        with its, signals.held_back():
            try:
                process = subprocess.Popen(
                    [
                        sys.executable,
                        *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                        str(_PROGRAM),
                        str(its.fileno()),
                        name,
                    ],
                    pass_fds=[its.fileno(), crash_fd, *fds],
                    env=environ,
                    cwd=folder,
                )
            except OSError:
                ours.close()
                os.close(crash_fd)
                raise
        control = Channel(ours)
        urls = [listener.url for listener in listeners]
        control.send(Launch(config.to_json(), fds, urls, sys.path, crash_fd))
        return cls(
            name, process, control, os.geteuid() if who is None else who.uid, config.app, crash_fd
        )

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the pidfd, for a selector."""
        return self._pidfd

    def receive(self) -> list[Message] | None:
        """Return the reports that have arrived, None once it has closed its end."""
        return self.control.receive_ready()

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()

    def reap(self) -> tuple[int, str]:
        """Return how it ended, and what it said in a crash.  Frees what it took here.

        That is its exit code, or a negative signal.
        """
        code = self._process.wait(KILLED_SECONDS)
        said = os.pread(self._crash_fd, MAX_CRASH_BYTES, 0).decode("utf-8", "replace")
        os.close(self._crash_fd)
        os.close(self._pidfd)
        self.control.close()
        return code, said


def reap_strangers(ours: Collection[int]) -> None:
    """Free what is left of ended child processes that are not `ours`.

    Process 1 inherits the children of all that end before them; nobody else would take note of
    their end.  One of ours that waits in front is left to its pidfd: the next call goes on.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in ours:
            return
        os.waitpid(found.si_pid, 0)


def working_directory() -> str:
    """Return the folder to start processes in, as the operator knows it.

    PWD keeps the name of a link to a release; once it points to the next one, so does the name.
    """
    name, physical = os.environ.get("PWD", ""), os.getcwd()
    try:
        return name if os.path.samefile(name, physical) else physical
    except OSError:
        return physical
