"""One worker, as the thrown-away process holds it.

Threads: `_host` runs in the one that the worker's interpreter lives in; `request` may be called by
several at once, the other methods by one.
"""

import json
import socket
import threading
import time

from subserve import signals
from subserve.assignment import HANDED, Assignment
from subserve.channel import Channel
from subserve.check import events, probe
from subserve.check.request import NoAnswer, get
from subserve.errors import WorkerError
from subserve.identity import WorkerInfo
from subserve.interpreter import Interpreter
from subserve.messages import Drain, Failed, Ready
from subserve.options import Config
from subserve.scoreboard import Counter, Scoreboard

_ENTER = """
import json, sys
sys.path[:] = json.loads(sys_path)
from subserve.check.probe import main
main(job)
"""

EXIT_MARGIN = 5.0
"""Seconds past the graceful timeout for exit hooks, threads and the end of the interpreter."""

STACKS_SECONDS = 0.5
"""How long a thread that hangs is given to write its stacks."""


class Hung(Exception):
    """A worker does not do what it is to do; its stacks have been asked for."""


class Subject:
    """A worker that is being checked; `name` is ``index.generation``, as in a server's logs."""

    def __init__(
        self,
        info: WorkerInfo,
        config: Config,
        board: Scoreboard,
        fd: int,
        scratch: str,
        sys_path: list[str],
        *,
        alone: bool,
    ) -> None:
        self.name = str(info)
        self._config = config
        self._fd = fd
        control, control_there = socket.socketpair()
        self._connections, connections_there = socket.socketpair()
        self._control = Channel(control)
        number = board.lend()
        self._row = board.row(number)
        self._counting = threading.Lock()  # of the counter, which several requests add to
        assignment = Assignment(
            worker=info,
            config=config,
            control_fd=control_there.detach(),
            connections_fd=connections_there.detach(),
            scoreboard_fd=board.fd,
            row=number,
            scratch=scratch,
            sys_path=sys_path,
        )
        job = probe.job(fd, self.name, assignment.to_json(), alone=alone)
        self._thread = threading.Thread(
            target=_host,
            args=(self.name, fd, job, json.dumps(sys_path)),
            name=f"worker-{info}",
            daemon=True,
        )
        self._thread.start()

    def wait_ready(self) -> str | None:
        """Return the app's interface once it has started; None, and tell, if it does not.

        Raises `Hung`.
        """
        timeout = self._config.startup_timeout + EXIT_MARGIN
        if not self._control.wait(timeout):
            self._hangs("load and start the app", timeout)
        match self._control.receive():
            case Ready(interface):
                return interface
            case Failed(reason, traceback, exit_code):
                events.send(self._fd, events.NotUp(self.name, reason, traceback, exit_code))
        return None

    def request(self, path: str, timeout: float) -> None:
        """Request `path` through the worker's own lane, and tell what it answered."""
        ours, its = socket.socketpair()
        started = time.monotonic()
        status, problem = 0, ""
        try:
            with ours:
                with self._counting:
                    self._row.add(Counter.CONNECTIONS_ASSIGNED)
                self._connections.send(HANDED.pack(its.fileno(), its.family))
                its.detach()
                status = get(ours, path, timeout)
        except (NoAnswer, OSError) as error:
            problem = str(error)
        seconds = time.monotonic() - started
        events.send(self._fd, events.Answered(self.name, path, status, seconds, problem))

    def drain(self) -> None:
        """Ask it to end."""
        self._connections.close()
        self._control.send(Drain(self._config.graceful_timeout))

    def join(self) -> None:
        """Wait until it is gone.  Raises `Hung`."""
        timeout = self._config.graceful_timeout + EXIT_MARGIN
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._hangs("shut down", timeout)
        self._control.close()

    def _hangs(self, doing: str, seconds: float) -> None:
        assert self._thread.ident is not None
        signals.ask_for_stacks(self._thread.ident)
        time.sleep(STACKS_SECONDS)  # nothing tells that they are written
        events.send(self._fd, events.Hangs(self.name, doing, seconds))
        raise Hung(self.name)


def _host(name: str, fd: int, job: str, sys_path: str) -> None:
    """Hold an interpreter for as long as the worker lives, and tell how it ended."""
    broken = threads = ""
    try:
        interpreter = Interpreter()
    except WorkerError as error:
        events.send(fd, events.Gone(name, "", str(error)))
        return
    try:
        interpreter.run(_ENTER, job=job, sys_path=sys_path)
    except WorkerError as error:
        broken = str(error)
    left = interpreter.live_threads()
    if left is None:
        interpreter.close()
    else:
        threads = left
    events.send(fd, events.Gone(name, threads, broken))
