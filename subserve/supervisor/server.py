"""The supervisor: one selector, one thread, no polling.

Threads: `Supervisor.run` lives in one thread, the main one unless the server is embedded; `ask` is
the only method that others call (a watcher of files, who embeds), and it only appends to a
thread-safe queue and writes a byte to the socket that `run` waits on.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue
from selectors import EVENT_READ, DefaultSelector

from subserve import log as subserve_log
from subserve import scratch, signals, title
from subserve.coordinator.banner import announce
from subserve.errors import SubserveError
from subserve.listener import Listener
from subserve.messages import Message, Retire, Serving, Signal, TurnOver
from subserve.options import Config, flag_of
from subserve.pidfile import pid_file
from subserve.supervisor import policy
from subserve.supervisor.deaths import describe
from subserve.supervisor.lifecycle import ProcessState
from subserve.supervisor.plan import Plan
from subserve.supervisor.policy import Phase
from subserve.supervisor.process import ServingProcess, reap_strangers, working_directory
from subserve.supervisor.reload import Watcher
from subserve.supervisor.sockets import Sockets
from subserve.systemd import Notifier, without_ours

log = logging.getLogger("subserve")

EXIT_MARGIN = 4.0
"""Seconds past the graceful timeout after which a serving process is killed.  It ends by itself
1.5 s after that time; whatever has kept it from that."""

START_MARGIN = 10.0
"""Seconds past its own time-outs after which a start is given up: for Python itself to start."""

AT_ONCE_MARGIN = 2.0
"""Seconds for a serving process that was told to stop at once."""

LONGEST_WAIT = 24 * 3600.0
"""Seconds; epoll_wait(2) takes at most 24 days."""

SETTLED = ("crash_limit", "no_supervisor", "pid_file", "reload")
"""Options of the supervisor itself: they stay what they were at its start."""

_ASKED = 0
"""The byte that `ask` writes; signal numbers start at 1."""


class Request(Enum):
    """What a thread may ask the supervisor for."""

    TURN_OVER = auto()
    DRAIN = auto()
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the serving processes of one epoch are started with."""

    config: Config
    listeners: Sequence[Listener]
    begun: float


class Supervisor:
    """Starts the serving processes, replaces those that end, and sees to their end.

    `reconfigure` reads the configuration anew; it raises `SubserveError`.  `up` is called once,
    with the URLs, when the server is.
    """

    def __init__(
        self,
        config: Config,
        reconfigure: Callable[[], Config],
        up: Callable[[Sequence[str]], None] = lambda urls: None,
    ) -> None:
        self._config = config
        self._reconfigure = reconfigure
        self._up = up
        self._sockets = Sockets()
        self._selector = DefaultSelector()
        self._asked: SimpleQueue[Request] = SimpleQueue()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._plan = Plan(config.processes, crash_limit=config.crash_limit, reloading=config.reload)
        self._manager = Notifier(os.environ, os.getpid())
        self._alive_at = 0.0
        self._environ = without_ours(os.environ)
        self._folder = working_directory()
        self._epochs: dict[int, Epoch] = {}
        self._running: dict[int, ServingProcess] = {}
        self._generations: dict[int, int] = {}
        self._interface = ""
        self._done = False

    def ask(self, request: Request) -> None:
        """Ask for something; may be called from any thread, also when it is too late."""
        self._asked.put(request)
        with contextlib.suppress(OSError):  # full of wake-ups already, or closed: it is over
            self._wake_in.send(bytes([_ASKED]))

    def run(self) -> int:
        """Run until there is nothing left to do, and return the exit code.

        Raises `BindError` or `ConfigError` before anything is started.
        """
        subserve_log.configure(self._config.log_level, self._config.log_format, "supervisor")
        self._selector.register(self._wake_out, EVENT_READ, (self._woken, None))
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            stack.enter_context(pid_file(self._config.pid_file))
            listeners = self._sockets.bind(self._config)
            # Where the package is missing, that is said before anything is started.
            self._watch(stack)
            self._epochs[1] = Epoch(self._config, listeners, time.monotonic())
            stack.enter_context(self._signals())
            stack.callback(self._end_all)
            try:
                while not self._done:
                    self._step()
            except Exception:
                log.exception("the supervisor broke")
                return SubserveError.exit_code
        return self._plan.exit_code

    def _watch(self, stack: contextlib.ExitStack) -> None:
        if self._config.reload:
            watcher = Watcher(self._config, lambda: self.ask(Request.TURN_OVER))
            watcher.start()
            stack.callback(watcher.stop)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # embedded: signals are the host's
            return
        title.set_title("subserve")
        also = {signals.TURN_OVER, *signals.FOR_THE_FLEET}
        if os.getpid() == 1:  # in a container: orphans of the app's child processes are ours now
            also.add(signals.CHILD)
        with signals.delivered_to(self._wake_in, also, ignored_after=True):
            yield

    def _close(self) -> None:
        self._sockets.close()
        self._selector.close()
        self._wake_out.close()
        self._wake_in.close()

    def _end_all(self) -> None:
        """Leave no process behind, also where the supervisor itself broke."""
        for process in self._running.values():
            process.kill()
            self._forget(process)

    # ---- the loop

    def _step(self) -> None:
        """Do what is to do now, or wait for something to happen."""
        now = time.monotonic()
        actions = policy.decide(self._plan.snapshot(), now)
        for action in actions:
            self._do(action, now)
        if not actions:
            self._wait(now)

    def _wait(self, now: float) -> None:
        moment = policy.wake_at(self._plan.snapshot(), now)
        timeout = None if moment is None else min(moment - now, LONGEST_WAIT)
        if (interval := self._manager.watchdog_interval) is not None:
            if now >= self._alive_at:
                self._manager.alive()
                self._alive_at = now + interval
            left = self._alive_at - now
            timeout = left if timeout is None else min(timeout, left)
        for key, _ in self._selector.select(timeout):
            callback, argument = key.data
            callback(argument)

    def _do(self, action: policy.Action, now: float) -> None:
        match action:
            case policy.Start(place, epoch):
                self._start(place, epoch, now)
            case policy.Retire(number):
                self._retire(number, now)
            case policy.Kill(number):
                log.error("serving process %s does not end: killing it", self._running[number].name)
                self._running[number].kill()
                self._plan.killed(number)
            case policy.Settle():
                self._settle(now)
            case policy.GiveUp():
                log.error("the new code does not start; the old goes on serving")
                self._plan.given_up(now)
                self._drop_unused()
                self._manager.ready("serving; the new code did not start")
            case policy.Hold():
                log.error("waiting for a change of the code")
                self._plan.held()
            case policy.Replace(places):
                config = self._epochs[max(self._plan.good)].config
                self._turn_over(config, places)
            case policy.Stop(crash_loop):
                self._stop_failed(crash_loop=crash_loop)
            case policy.Exit():
                self._done = True

    def _start(self, place: int, epoch: int, now: float) -> None:
        settings = self._epochs[epoch]
        self._generations[place] = self._generations.get(place, 0) + 1
        name = f"{place}.{self._generations[place]}"
        config = settings.config
        process = ServingProcess.start(
            name, config, settings.listeners, self._environ, self._folder
        )
        deadline = now + config.startup_timeout + config.graceful_timeout + START_MARGIN
        number = self._plan.started(place, epoch, deadline)
        self._running[number] = process
        self._selector.register(process.control, EVENT_READ, (self._hear, number))
        self._selector.register(process, EVENT_READ, (self._ended, number))
        level = logging.INFO if self._plan.good else logging.DEBUG  # the banner tells of the first
        log.log(level, "serving process %s started, pid %d", name, process.pid)

    def _retire(self, number: int, now: float) -> None:
        """Tell a process that others serve, or, where the server stops, that nobody does."""
        stopping = self._plan.phase is Phase.STOPPING
        self._running[number].control.send(Signal(signals.TERMINATE) if stopping else Retire())
        graceful = self._epochs[self._plan.process(number).epoch].config.graceful_timeout
        self._plan.told_to_end(number, now + graceful + EXIT_MARGIN)

    def _settle(self, now: float) -> None:
        first = self._plan.phase is Phase.STARTING
        epoch = self._epochs[max(self._plan.wanted)]
        self._plan.settled()
        self._drop_unused()
        self._manager.ready("serving")
        if first:
            urls = [listener.url for listener in epoch.listeners]
            announce(epoch.config, self._interface, urls)
            self._up(urls)
        else:
            log.info(
                "turned over in %.1f s; the old requests are being finished", now - epoch.begun
            )

    def _drop_unused(self) -> None:
        """Forget epochs that no process has or is to have, and close what only they listened on."""
        used = {*self._plan.wanted, *self._plan.good}
        alive = used | {p.epoch for p in self._plan.snapshot().processes}
        self._epochs = {number: epoch for number, epoch in self._epochs.items() if number in alive}
        self._sockets.keep(self._epochs[number].config for number in used)

    def _stop_failed(self, *, crash_loop: bool) -> None:
        if crash_loop:
            log.error(
                "giving up: %d crashes within %g s, see above for what they were; "
                "--crash-limit says how many are too many",
                self._config.crash_limit,
                policy.CRASH_WINDOW,
            )
        self._plan.stop(SubserveError.exit_code if crash_loop else None)
        self._sockets.close()

    # ---- what happens

    def _woken(self, _: None) -> None:
        for number in self._wake_out.recv(4096):
            if number != _ASKED:
                self._take_signal(number)
        with contextlib.suppress(Empty):
            while True:
                self._take_request(self._asked.get_nowait())

    def _take_signal(self, number: int) -> None:
        stopping = self._plan.phase is Phase.STOPPING
        if number in signals.STOP_AT_ONCE or (number == signals.INTERRUPT and stopping):
            self._take_request(Request.STOP)
        elif number in signals.STOP_GRACEFULLY:
            self._take_request(Request.DRAIN)
        elif number == signals.TURN_OVER:
            log.info("HUP: loading configuration and code anew")
            self._take_request(Request.TURN_OVER)
        elif number == signals.CHILD:
            reap_strangers({process.pid for process in self._running.values()})
        elif number in signals.FOR_THE_FLEET:
            for process in self._running.values():
                process.control.send(Signal(number))

    def _take_request(self, request: Request) -> None:
        match request:
            case Request.TURN_OVER if self._plan.phase is not Phase.STOPPING:
                self._load_anew()
            case Request.DRAIN:
                self._stop()
            case Request.STOP:
                self._stop()
                self._hurry()

    def _stop(self) -> None:
        if self._plan.phase is not Phase.STOPPING:
            self._manager.stopping()
        self._plan.stop()
        # The serving processes have their own, and take in what is queued: after that, and not
        # before, connections are refused.
        self._sockets.close()

    def _hurry(self) -> None:
        deadline = time.monotonic() + AT_ONCE_MARGIN
        for number, process in self._running.items():
            process.control.send(Signal(signals.QUIT))
            self._plan.told_to_end(number, deadline)

    def _load_anew(self) -> None:
        self._manager.reloading()
        try:
            config = self._reconfigure()
        except SubserveError as error:
            log.error("nothing is changed: %s", "; ".join(str(error).splitlines()))  # noqa: TRY400
            self._manager.ready("serving; the new configuration is wrong")
            return
        for name in SETTLED:
            if getattr(config, name) != getattr(self._config, name):
                log.warning("%s: another value takes effect at the next start", flag_of(name))
        self._turn_over(config)

    def _turn_over(self, config: Config, only: frozenset[int] | None = None) -> None:
        try:
            listeners = self._sockets.bind(config)
        except SubserveError as error:
            log.error("nothing is changed: %s", error)  # noqa: TRY400  it says all
            self._manager.ready("serving; a new address cannot be had")
            return
        subserve_log.configure(config.log_level, config.log_format, "supervisor")
        number = self._plan.turn_over(config.processes, only)
        self._epochs[number] = Epoch(config, listeners, time.monotonic())
        self._drop_unused()

    def _hear(self, number: int) -> None:
        process = self._running.get(number)
        if process is None or process.control.fileno() not in self._selector.get_map():
            return  # its end was met earlier
        messages = process.receive()
        if messages is None:  # its pidfd tells how it ended
            self._selector.unregister(process.control)
            return
        for message in messages:
            self._take_report(number, process, message)

    def _take_report(self, number: int, process: ServingProcess, message: Message) -> None:
        match message:
            case Serving(interface):
                self._interface = interface
                self._plan.ready(number)
            case TurnOver(reason):
                log.warning("serving process %s is to be replaced: %s", process.name, reason)
                self._plan.asks(number)

    def _ended(self, number: int) -> None:
        self._hear(number)  # its last report may still be on its way
        process = self._running.pop(number)
        code, said = self._forget(process)
        state = self._plan.ended(number, code, time.monotonic())
        if said:
            subserve_log.announce(said.rstrip())
        how = describe(code, said, process.app)
        name = f"serving process {process.name} (pid {process.pid})"
        match state:
            case ProcessState.CRASHED:
                log.error("%s crashed: it %s", name, how)
            case ProcessState.FAILED:
                # With an exit code of its own it has said why.
                level = logging.ERROR if code < 0 else logging.INFO
                log.log(level, "%s did not start: it %s", name, how)
            case _ if code < 0:
                log.warning("%s %s", name, how)
            case _:
                log.debug("%s %s", name, how)

    def _forget(self, process: ServingProcess) -> tuple[int, str]:
        if process.control.fileno() in self._selector.get_map():
            self._selector.unregister(process.control)
        self._selector.unregister(process)
        code, said = process.reap()
        if code != 0:
            scratch.sweep(process.pid, process.uid)
        return code, said


def supervise(config: Config, reconfigure: Callable[[], Config]) -> int:
    """Serve under a supervisor until stopped, and return the exit code.

    Raises `BindError` or `ConfigError` before anything is started.
    """
    return Supervisor(config, reconfigure).run()
