"""The coordinator: one selector, one thread, no polling.

Interpreter: main.  Threads: `Coordinator` lives in the main thread; `_post` is the only method
that others (the workers' OS threads) call, and it only appends to a thread-safe queue and writes
a byte to the socket that the main thread waits on.
"""

import contextlib
import faulthandler
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from selectors import EVENT_READ, DefaultSelector

from subserve import log as subserve_log
from subserve import scratch, signals, tls
from subserve.channel import Channel
from subserve.coordinator.acceptor import Acceptor
from subserve.coordinator.banner import announce
from subserve.coordinator.handle import HostEnded, WorkerHandle
from subserve.errors import AppLoadError, SubserveError, WorkerError
from subserve.identity import WorkerInfo
from subserve.lifecycle import WorkerEvent, WorkerState
from subserve.listener import Listener
from subserve.messages import Failed, Message, Ready, Retire, Serving, Signal
from subserve.options import Config
from subserve.pidfile import pid_file
from subserve.policy import Action, Fleet, Phase, decide
from subserve.privileges import drop, listen_for
from subserve.scoreboard import Scoreboard
from subserve.systemd import Notifier

log = logging.getLogger("subserve")

EXIT_MARGIN = 1.5
"""Seconds past the graceful timeout after which the process ends with whatever still runs."""

LONGEST_WAIT = 24 * 3600.0
"""Seconds; epoll_wait(2) takes at most 24 days, and a time-out of the operator may be longer."""

IDLE_GRACE = 5.0
"""Seconds that idle connections of a process that is replaced may still bring a request.  A client
that asks at the moment we close loses its request; most that will ask do so in that time."""

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""How many threads a numeric library starts; by default one per core, in each worker."""

_POSTED = 0
"""The byte that `_post` writes; signal numbers start at 1."""


def serve(config: Config) -> int:
    """Serve without a supervisor, until stopped, and return the exit code.

    Ends the process by itself where something still runs that cannot be stopped.  Raises
    `BindError` or `ConfigError` before anything is started.
    """
    check_certificate(config)
    with pid_file(config.pid_file):
        listeners = listen_for(config, config.bind)
        drop(config)
        code, quiet = _serve_on(config, listeners, None)
    return _leave(code, quiet=quiet)


def serve_on(config: Config, listeners: Sequence[Listener], supervisor: Channel) -> int:
    """Do the same under a supervisor, on what listens already."""
    code, quiet = _serve_on(config, listeners, supervisor)
    return _leave(code, quiet=quiet)


def _serve_on(
    config: Config, listeners: Sequence[Listener], supervisor: Channel | None
) -> tuple[int, bool]:
    """Serve; return what `Coordinator.run` does."""
    subserve_log.configure(config.log_level, config.log_format, "server")
    faulthandler.enable(
        subserve_log.STDERR
    )  # a crash in C code ends all workers: let it say where it was
    if config.workers > 1:
        # The workers use the cores already.  Set before any of them loads such a library, which
        # reads it once and is shared by all.
        for name in BLAS_VARIABLES:
            os.environ.setdefault(name, "1")
    folder = scratch.make()
    try:
        code, quiet = Coordinator(config, listeners, folder, supervisor).run()
    except Exception:
        log.exception("the coordinator broke")
        code, quiet = SubserveError.exit_code, False
    finally:
        for listener in listeners:
            listener.close()
        scratch.remove(folder)
    return code, quiet


def _leave(code: int, *, quiet: bool) -> int:
    if not quiet:
        # Finalising the process would wait for, or crash on, an interpreter that still runs.
        subserve_log.flush_prints()
        os._exit(code)
    return code


def check_certificate(config: Config) -> None:
    """Raise `ConfigError` where the certificate is bad: now, and once, not in each worker."""
    if config.certfile:
        tls.server_context(config)


class Coordinator:
    """Starts the workers, accepts while they are ready, and sees to their end."""

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        scratch: str,
        supervisor: Channel | None = None,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._listeners = listeners
        self._scratch = scratch
        self._selector = DefaultSelector()
        self._posted: SimpleQueue[HostEnded] = SimpleQueue()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._workers: list[WorkerHandle] = []
        self._phase = Phase.STARTING
        self._deadline: float | None = None
        self._interface = ""
        self._signalled = False
        self._retired = False
        self._at_once = False
        self._exit_code = 0
        self._interpreters_left = False

    def run(self) -> tuple[int, bool]:
        """Run until there is nothing left to do.

        Returns the exit code, and whether all threads of the workers have ended and all of their
        interpreters are closed.
        """
        scoreboard = Scoreboard.create(self._config.workers)
        with signals.delivered_to(self._wake_in, signals.FROM_TERMINAL, ignored_after=True):
            self._selector.register(self._wake_out, EVENT_READ, (self._woken, None))
            if self._supervisor is not None:
                self._selector.register(
                    self._supervisor, EVENT_READ, (self._obey, self._supervisor)
                )
            self._start_workers(scoreboard)
            self._acceptor = Acceptor(self._listeners, self._workers)
            try:
                while not self._at_once and self._step():
                    pass
            finally:
                self._acceptor.stop()
            quiet = self._join()
        scoreboard.close()
        return self._exit_code, quiet

    def _join(self) -> bool:
        quiet = not self._at_once
        for worker in self._workers:
            # Those that have ended are at their last instruction; the others are not waited for.
            joined = worker.state.ended and worker.join(1.0 if quiet else 0.0)
            quiet = quiet and joined
        self._take_notes()  # of those that have ended only now
        return quiet and not self._interpreters_left

    def _start_workers(self, scoreboard: Scoreboard) -> None:
        self._deadline = time.monotonic() + self._config.startup_timeout
        for index in range(self._config.workers):
            info = WorkerInfo(index, 1, self._config.workers)
            worker = WorkerHandle.start(
                info, self._config, scoreboard, self._scratch, sys.path, self._post
            )
            self._workers.append(worker)
            self._selector.register(worker.control, EVENT_READ, (self._hear, worker))

    def _step(self) -> bool:
        """Do what is to do now, or wait for something to happen; return False at the end."""
        now = time.monotonic()
        states = [worker.state for worker in self._workers]
        match decide(Fleet(self._phase, states, self._signalled, self._deadline), now):
            case Action.SERVE:
                self._serve()
            case Action.DRAIN:
                self._drain(now)
            case Action.EXIT:
                self._report_leftovers()
                return False
            case Action.WAIT:
                self._wait(now)
        return True

    def _wait(self, now: float) -> None:
        moments = [m for m in (self._deadline, self._acceptor.resume_at) if m is not None]
        timeout = min(max(0.0, min(moments) - now), LONGEST_WAIT) if moments else None
        for key, _ in self._selector.select(timeout):
            callback, argument = key.data
            callback(argument)
        resume_at = self._acceptor.resume_at
        if resume_at is not None and time.monotonic() >= resume_at:
            self._acceptor.resume()

    def _serve(self) -> None:
        self._phase, self._deadline = Phase.SERVING, None
        self._acceptor.start(self._selector)
        if self._supervisor is not None:
            self._supervisor.send(Serving(self._interface))
            return
        announce(self._config, self._interface, [listener.url for listener in self._listeners])
        Notifier(os.environ, os.getpid()).ready("serving")

    def _drain(self, now: float) -> None:
        if self._phase is Phase.STARTING and self._deadline is not None and now >= self._deadline:
            self._fail_overdue()
        if self._phase is Phase.SERVING and not self._retired:
            self._acceptor.accept_rest()
        self._acceptor.stop()
        if self._supervisor is None:
            Notifier(os.environ, os.getpid()).stopping()
        self._phase = Phase.DRAINING
        timeout = self._config.graceful_timeout
        self._deadline = now + timeout + EXIT_MARGIN
        for worker in self._workers:
            if worker.state is WorkerState.READY:
                worker.drain(timeout, self._idle_grace)

    @property
    def _idle_grace(self) -> float:
        # With half of the time left for the requests that it may bring.
        return min(IDLE_GRACE, self._config.graceful_timeout / 2) if self._retired else 0.0

    def _fail_overdue(self) -> None:
        names = ", ".join(str(w.info) for w in self._workers if w.state is WorkerState.STARTING)
        log.error(
            "worker %s not ready within %g s; is the app's import or lifespan stuck? "
            "if it needs longer, raise --startup-timeout",
            names,
            self._config.startup_timeout,
        )
        self._exit_code = AppLoadError.exit_code

    def _woken(self, _: None) -> None:
        for number in self._wake_out.recv(4096):
            if number == _POSTED:
                continue
            if self._supervisor is None or number not in signals.FROM_TERMINAL:
                self._take_signal(number)
        self._take_notes()

    def _take_signal(self, number: int) -> None:
        """Do what a signal asks for, whether it came to this process or to the supervisor."""
        if number in signals.STOP_AT_ONCE or (number == signals.INTERRUPT and self._signalled):
            log.warning("stopping at once")
            self._at_once = True
        elif number in signals.STOP_GRACEFULLY and not self._signalled:
            log.info("stopping: requests in flight have %g s", self._config.graceful_timeout)
            self._signalled = True
        elif number == signals.TURN_OVER:
            log.warning("HUP loads new code with a supervisor only; nothing is changed")

    def _obey(self, supervisor: Channel) -> None:
        """Take the supervisor's commands; without a supervisor, finish: nobody would stop us."""
        messages = supervisor.receive_ready()
        if messages is None:
            self._selector.unregister(supervisor)
            if not self._signalled:
                log.error("the supervisor is gone: finishing what is in flight")
                self._signalled = True
            return
        for message in messages:
            match message:
                case Signal(number):
                    self._take_signal(number)
                case Retire() if not self._signalled:
                    self._retired = self._signalled = True

    def _take_notes(self) -> None:
        try:
            while True:
                self._host_ended(self._posted.get_nowait())
        except Empty:
            pass

    def _post(self, note: HostEnded) -> None:
        """Tell the main thread; called from the workers' threads."""
        self._posted.put(note)
        with contextlib.suppress(BlockingIOError):  # the buffer is full of wake-ups already
            self._wake_in.send(bytes([_POSTED]))

    def _hear(self, worker: WorkerHandle) -> None:
        control = worker.control.fileno()
        if control < 0 or control not in self._selector.get_map():
            return  # its end was met earlier in this turn
        messages = worker.receive()
        if messages is None:  # its thread posts how it ended
            self._selector.unregister(worker.control)
            return
        for message in messages:
            self._take_report(worker, message)

    def _take_report(self, worker: WorkerHandle, message: Message) -> None:
        match message:
            case Ready(interface):
                self._interface = interface
                worker.take(WorkerEvent.READY)
                log.info("worker %s ready", worker.info)
                if self._phase is Phase.DRAINING:
                    worker.drain(self._config.graceful_timeout, self._idle_grace)
            case Failed(reason, traceback, exit_code):
                worker.take(WorkerEvent.FAILED)
                if self._exit_code == 0:
                    trace = {subserve_log.TRACEBACK: traceback}
                    log.error("worker %s: %s", worker.info, reason, extra=trace)
                    self._exit_code = exit_code

    def _host_ended(self, note: HostEnded) -> None:
        worker = self._workers[note.worker.index]
        # Its last report may still be on its way, and says more than its end.
        self._hear(worker)
        worker.take(note.event)
        self._interpreters_left |= note.left_open
        match note.event:
            case WorkerEvent.BROKE:
                trace = {subserve_log.TRACEBACK: note.detail}
                last_line = note.detail.rstrip().rpartition("\n")[2]
                log.error("worker %s broke: %s", note.worker, last_line, extra=trace)
                self._exit_code = self._exit_code or WorkerError.exit_code
            case WorkerEvent.THREADS_LEFT:
                log.warning(
                    "worker %s: its interpreter is left open, these threads would not end: %s",
                    note.worker,
                    note.detail,
                )
            case _:
                log.debug("worker %s: interpreter closed", note.worker)

    def _report_leftovers(self) -> None:
        for worker in self._workers:
            if worker.state is WorkerState.DRAINING:
                log.warning("worker %s did not end in time, it is cut off", worker.info)
