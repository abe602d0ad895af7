"""The coordinator: one selector, one thread, no polling but for heartbeats.

Interpreter: main.  Threads: `Coordinator` lives in the main thread; `_post` is the only method
that others (the workers' OS threads) call, and it only appends to a thread-safe queue and writes
a byte to the socket that the main thread waits on.
"""

import contextlib
import faulthandler
import logging
import math
import os
import socket
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from selectors import EVENT_READ, DefaultSelector

from subserve import log as subserve_log
from subserve import messages, scratch, signals, tls
from subserve.channel import Channel
from subserve.coordinator.acceptor import Acceptor
from subserve.coordinator.banner import announce
from subserve.coordinator.crew import Crew
from subserve.coordinator.handle import EXIT_MARGIN, HostEnded, WorkerHandle
from subserve.errors import AppLoadError, SubserveError, WorkerError
from subserve.lifecycle import Phase, WorkerEvent, WorkerState, enter
from subserve.listener import Listener
from subserve.memory import in_mib, resident_bytes
from subserve.messages import Failed, Message, Ready, Retire, Serving, Signal
from subserve.options import Config
from subserve.pidfile import pid_file
from subserve.policy import (
    Abandon,
    Action,
    Drain,
    Exit,
    Fleet,
    Recover,
    Serve,
    Start,
    Stop,
    TakeOut,
    TurnOver,
    Why,
    decide,
    heartbeat_interval,
)
from subserve.privileges import drop, listen_for
from subserve.systemd import Notifier

log = logging.getLogger("subserve")

LONGEST_WAIT = 24 * 3600.0
"""Seconds; epoll_wait(2) takes at most 24 days, and a time-out of the operator may be longer."""

IDLE_GRACE = 5.0
"""Seconds that idle connections of a worker, or a process, that is replaced may still bring a
request.  A client that asks at the moment we close loses its request; most that will ask do so in
that time."""

TICK_SECONDS = 1.0
"""How often requests are counted and memory looked at, where that is asked for."""

MEMORY_INTERVAL = 5.0
"""Seconds between two looks at the memory of the process."""

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


def serve_on(
    config: Config, listeners: Sequence[Listener], supervisor: Channel, crash_fd: int
) -> int:
    """Do the same under a supervisor, on what listens already; `crash_fd` is for last words."""
    code, quiet = _serve_on(config, listeners, supervisor, crash_fd)
    return _leave(code, quiet=quiet)


def _serve_on(
    config: Config,
    listeners: Sequence[Listener],
    supervisor: Channel | None,
    crash_fd: int = subserve_log.STDERR,
) -> tuple[int, bool]:
    """Serve; return what `Coordinator.run` does."""
    subserve_log.configure(config.log_level, config.log_format, "server")
    faulthandler.enable(crash_fd)  # a crash in C code ends all workers: let it say where it was
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
    """Starts the workers, accepts while they are ready, replaces them, and sees to their end."""

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
        self._selector = DefaultSelector()
        self._posted: SimpleQueue[HostEnded] = SimpleQueue()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._crew = Crew(config, scratch, self._post)
        self._acceptor = Acceptor(listeners, self._crew.members)
        self._phase = Phase.STARTING
        self._stop_by = math.inf
        self._interface = ""
        self._signalled = False
        self._retired = False
        self._at_once = False
        self._exit_code = 0
        self._last_failure = WorkerError.exit_code
        self._changed = True
        self._decide_at = math.inf
        self._tick_interval = _tick_interval(config)
        self._ticked_at = time.monotonic()
        self._measured_at = -math.inf
        self._over_memory = ""
        self._asked_at = -math.inf

    def run(self) -> tuple[int, bool]:
        """Run until there is nothing left to do.

        Returns the exit code, and whether all threads of the workers have ended and all of their
        interpreters are closed.
        """
        if self._config.max_rss and self._supervisor is None:
            log.warning("--max-rss needs the supervisor; without it, it will only be reported")
        wanted = signals.FOR_THE_FLEET | signals.FROM_TERMINAL
        with signals.delivered_to(self._wake_in, wanted, ignored_after=True):
            self._selector.register(self._wake_out, EVENT_READ, (self._woken, None))
            if self._supervisor is not None:
                self._selector.register(
                    self._supervisor, EVENT_READ, (self._obey, self._supervisor)
                )
            try:
                while not self._at_once and self._step():
                    pass
            finally:
                self._acceptor.stop()
            quiet = self._join()
        self._crew.close()
        return self._exit_code, quiet

    def _join(self) -> bool:
        # Those that have ended are at their last instruction; the others are not waited for.
        self._crew.join(0.0 if self._at_once else 1.0)
        self._take_notes()  # of those that have ended only now
        return self._crew.quiet and not self._at_once

    def _step(self) -> bool:
        """Do what is to do now, or wait for something to happen; return False at the end."""
        now = time.monotonic()
        if self._changed or now >= self._decide_at:
            return self._decide(now)
        self._wait(now)
        return True

    def _decide(self, now: float) -> bool:
        """Decide, and do it; return False at the end."""
        decision = decide(self._fleet(), now)
        # What is done may call for more.
        self._changed, self._decide_at = bool(decision.actions), decision.wait_until
        for action in decision.actions:
            if isinstance(action, Exit):
                self._report_leftovers()
                return False
            self._act(action, now)
        return True

    def _fleet(self) -> Fleet:
        return Fleet(
            self._phase,
            self._crew.wanted,
            self._crew.snapshot(),
            stop_requested=self._signalled,
            stop_by=self._stop_by,
            hang_timeout=self._config.hang_timeout or math.inf,
            troubles=self._crew.troubles,
            left_open=self._crew.left_open,
            over_memory=self._over_memory,
            asked_at=self._asked_at,
        )

    def _wait(self, now: float) -> None:
        moments = [self._decide_at, now + LONGEST_WAIT]
        if self._acceptor.resume_at is not None:
            moments.append(self._acceptor.resume_at)
        if self._tick_interval:
            moments.append(self._ticked_at + self._tick_interval)
        for key, _ in self._selector.select(max(0.0, min(moments) - now)):
            callback, argument = key.data
            callback(argument)
        now = time.monotonic()
        resume_at = self._acceptor.resume_at
        if resume_at is not None and now >= resume_at:
            self._acceptor.resume()
        if self._tick_interval and now >= self._ticked_at + self._tick_interval:
            self._tick(now)

    def _tick(self, now: float) -> None:
        self._crew.tick(now - self._ticked_at, now)
        self._ticked_at, self._changed = now, True
        if self._config.max_rss and now >= self._measured_at + MEMORY_INTERVAL:
            self._measured_at = now
            resident = resident_bytes() or 0
            self._over_memory = ""
            if resident > self._config.max_rss:
                limit = in_mib(self._config.max_rss)
                self._over_memory = f"resident memory is {in_mib(resident)}, above {limit}"

    # ---- what is decided

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Serve():
                self._serve()
            case Stop(why):
                self._stop(why, now)
            case Start():
                worker = self._crew.start(action)
                self._selector.register(worker.control, EVENT_READ, (self._hear, worker))
            case Drain(info):
                graceful = self._config.graceful_timeout
                left = self._stop_by - EXIT_MARGIN - now
                self._crew[info].drain(max(0.0, min(graceful, left)), self._idle_grace)
            case TakeOut(info):
                worker = self._crew[info]
                self._crew.take_out(worker)
                self._acceptor.give_back(worker.take_back())
            case Recover(info):
                self._crew.recover(self._crew[info])
            case Abandon(info):
                self._crew.abandon(self._crew[info])
            case TurnOver(reason):
                self._turn_over(reason, now)

    @property
    def _idle_grace(self) -> float:
        # With half of the time left for the requests that it may bring.
        others_serve = self._phase is Phase.SERVING or self._retired
        return min(IDLE_GRACE, self._config.graceful_timeout / 2) if others_serve else 0.0

    def _serve(self) -> None:
        self._phase = enter(self._phase, Phase.SERVING)
        self._acceptor.start(self._selector)
        if self._supervisor is not None:
            self._supervisor.send(Serving(self._interface))
            return
        announce(self._config, self._interface, [listener.url for listener in self._listeners])
        Notifier(os.environ, os.getpid()).ready("serving")

    def _stop(self, why: Why, now: float) -> None:
        match why:
            case Why.OVERDUE:
                self._fail_overdue()
            case Why.CRASH_LOOP:
                log.error("no worker is left, and none can be started: giving up")
                self._exit_code = self._last_failure
            case Why.TOO_MANY_ABANDONED:
                log.error(
                    "too many workers had to be abandoned: stopping before they take all memory"
                )
                self._exit_code = WorkerError.exit_code
        if self._phase is Phase.SERVING and not self._retired:
            self._acceptor.accept_rest()
        self._acceptor.stop()
        if self._supervisor is None:
            Notifier(os.environ, os.getpid()).stopping()
        self._phase = enter(self._phase, Phase.DRAINING)
        self._stop_by = now + self._config.graceful_timeout + EXIT_MARGIN

    def _fail_overdue(self) -> None:
        names = ", ".join(str(w.info) for w in self._crew if w.state is WorkerState.STARTING)
        log.error(
            "worker %s not ready within %g s; is the app's import or lifespan stuck? "
            "if it needs longer, raise --startup-timeout",
            names,
            self._config.startup_timeout,
        )
        self._exit_code = AppLoadError.exit_code

    def _turn_over(self, reason: str, now: float) -> None:
        self._asked_at = now
        if self._supervisor is None:
            log.warning("%s; there is no supervisor to start a new process: restart it", reason)
        else:
            log.warning("%s; asking for a new process", reason)
            self._supervisor.send(messages.TurnOver(reason))

    # ---- what happens

    def _woken(self, _: None) -> None:
        self._changed = True
        for number in self._wake_out.recv(4096):
            if number == _POSTED:
                continue
            if self._supervisor is None or number not in signals.FROM_TERMINAL:
                self._take_signal(number)
        self._take_notes()

    def _take_signal(self, number: int) -> None:
        """Do what a signal asks for, whether it came to this process or to the supervisor."""
        again = number == signals.INTERRUPT and self._signalled
        if number in signals.STOP_AT_ONCE or again:
            log.warning("stopping at once")
            self._at_once = True
        elif number in signals.STOP_GRACEFULLY and not self._signalled:
            log.info("stopping: requests in flight have %g s", self._config.graceful_timeout)
            self._signalled = True
        elif number == signals.TURN_OVER:
            log.warning("HUP loads new code with a supervisor only; nothing is changed")
        elif number == signals.REOPEN_LOGS:
            log.info("reopening the access log")
            self._crew.reopen_logs()
        elif number == signals.ONE_MORE:
            self._crew.wanted += 1
            log.info("adding a worker: %d are wanted now", self._crew.wanted)
        elif number == signals.ONE_LESS and self._crew.wanted == 1:
            log.warning("the last worker is not removed")
        elif number == signals.ONE_LESS:
            self._crew.wanted -= 1
            log.info("removing a worker: %d are wanted now", self._crew.wanted)

    def _obey(self, supervisor: Channel) -> None:
        """Take the supervisor's commands; without a supervisor, finish: nobody would stop us."""
        self._changed = True
        commands = supervisor.receive_ready()
        if commands is None:
            self._selector.unregister(supervisor)
            if not self._signalled:
                log.error("the supervisor is gone: finishing what is in flight")
                self._signalled = True
            return
        for command in commands:
            match command:
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
        self._changed = True
        messages = worker.receive()
        if messages is None:  # its thread posts how it ended
            self._selector.unregister(worker.control)
            if worker.state is WorkerState.READY:
                worker.gone = True
                self._acceptor.give_back(worker.take_back())
            return
        for message in messages:
            self._take_report(worker, message)

    def _take_report(self, worker: WorkerHandle, message: Message) -> None:
        match message:
            case Ready(interface):
                self._interface = interface
                worker.take(WorkerEvent.READY)
                if worker.state is WorkerState.ABANDONED:
                    log.info("worker %s ready, but too late: it ends", worker.info)
                    worker.refuse()
                else:
                    log.info("worker %s ready", worker.info)
            case Failed(reason, traceback, exit_code):
                worker.take(WorkerEvent.FAILED)
                self._note_failure(worker, f"worker {worker.info}: {reason}", traceback, exit_code)

    def _note_failure(self, worker: WorkerHandle, what: str, traceback: str, code: int) -> None:
        self._crew.failed(worker)
        self._last_failure = code
        trace = {subserve_log.TRACEBACK: traceback}
        if self._phase is Phase.SERVING:
            log.error("%s%s", what, self._crew.prospect(worker), extra=trace)
        elif self._exit_code == 0:  # the first one: others fail alike
            log.error("%s", what, extra=trace)
            self._exit_code = code

    def _host_ended(self, note: HostEnded) -> None:
        worker = self._crew[note.worker]
        # Its last report may still be on its way, and says more than its end.
        self._hear(worker)
        was_staying = worker.state.staying
        worker.take(note.event)
        match note.event:
            case WorkerEvent.BROKE:
                self._worker_broke(worker, note, was_staying=was_staying)
            case WorkerEvent.THREADS_LEFT:
                log.warning(
                    "worker %s: its interpreter is left open, these threads would not end: %s",
                    note.worker,
                    note.detail,
                )
            case _:
                log.debug("worker %s: interpreter closed", note.worker)
        self._forget(worker, note)

    def _worker_broke(self, worker: WorkerHandle, note: HostEnded, *, was_staying: bool) -> None:
        last_line = note.detail.rstrip().rpartition("\n")[2]
        what = f"worker {note.worker} broke: {last_line}"
        if was_staying:
            self._note_failure(worker, what, note.detail, WorkerError.exit_code)
            return
        log.error("%s", what, extra={subserve_log.TRACEBACK: note.detail})
        if self._phase is not Phase.SERVING:
            self._exit_code = self._exit_code or WorkerError.exit_code

    def _forget(self, worker: WorkerHandle, note: HostEnded) -> None:
        control = worker.control.fileno()
        if control >= 0 and control in self._selector.get_map():
            self._selector.unregister(worker.control)
        self._crew.bury(worker, note)

    def _report_leftovers(self) -> None:
        for worker in self._crew:
            if worker.state in {WorkerState.DRAINING, WorkerState.HUNG}:
                log.warning("worker %s did not end in time, it is cut off", worker.info)


def _tick_interval(config: Config) -> float:
    """Return how often to look at the workers, in seconds; 0 where there is nothing to look for."""
    interval = heartbeat_interval(config.hang_timeout)
    if config.max_requests or config.max_rss:
        return min(interval, TICK_SECONDS) if interval else TICK_SECONDS
    return interval
