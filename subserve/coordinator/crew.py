"""The workers: who there is, who is to come, what has happened at each place.

What to do with them is decided in `subserve.policy`; here it is done.  Lives in the main thread.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from subserve.coordinator.handle import HostEnded, WorkerHandle
from subserve.coordinator.stacks import ForeignStacks
from subserve.identity import WorkerInfo
from subserve.lifecycle import WorkerEvent, WorkerState
from subserve.log import TRACEBACK
from subserve.memory import in_mib, resident_bytes
from subserve.messages import ReopenLogs
from subserve.options import Config
from subserve.policy import Member, Start, Trouble, after_failure, heartbeat_interval
from subserve.scoreboard import Scoreboard

log = logging.getLogger("subserve")

ANSWER_SECONDS = 0.5
"""How long a thread is given to write its stacks when it is asked by a signal.  Not measured."""


@dataclass(frozen=True, slots=True)
class _Recycle:
    """A planned replacement: by whom, and how large the process was before it began."""

    replacement: WorkerInfo
    resident: int | None


class Crew:
    """All workers of the process.

    `members` are those whose threads have not been joined.  It is one list for good, so that the
    acceptor sees who comes and goes.  `left_open` counts the interpreters of others that could not
    be closed.
    """

    def __init__(self, config: Config, scratch: str, post: Callable[[HostEnded], None]) -> None:
        self._config = config
        self._scratch = scratch
        self._post = post
        self._scoreboard = Scoreboard.create(config.workers + 1)
        self._generations: dict[int, int] = {}
        self._recycles: dict[WorkerInfo, _Recycle] = {}
        self._stacks = ForeignStacks()
        self._asked_for_stacks: list[WorkerInfo] = []
        self._stacks_due = 0.0
        self.members: list[WorkerHandle] = []
        self.wanted = config.workers
        self.troubles: dict[int, Trouble] = {}
        self.left_open = 0

    def __iter__(self) -> Iterator[WorkerHandle]:
        return iter(self.members)

    def __getitem__(self, info: WorkerInfo) -> WorkerHandle:
        for worker in self.members:
            if worker.info == info:
                return worker
        raise KeyError(info)

    def snapshot(self) -> list[Member]:
        """Return what there is to decide on."""
        return [worker.as_member() for worker in self.members]

    def tick(self, elapsed: float, now: float) -> None:
        """Listen to the hearts, `elapsed` seconds after the last time."""
        interval = heartbeat_interval(self._config.hang_timeout)
        for worker in self.members:
            if worker.state in {WorkerState.READY, WorkerState.HUNG} and interval:
                worker.pulse.listen(elapsed, interval)
        if self._asked_for_stacks and now >= self._stacks_due:
            self._log_foreign_stacks()

    # ---- what is decided

    def start(self, start: Start) -> WorkerHandle:
        """Start a worker."""
        place = start.place
        generation = self._generations[place] = self._generations.get(place, 0) + 1
        info = WorkerInfo(place, generation, self.wanted)
        if start.replaces is not None:
            old = self[start.replaces]
            assert old.ready_at is not None
            log.info(
                "worker %s is to be replaced by %s: it has served %d requests in %.0f s",
                old.info,
                info,
                old.requests,
                time.monotonic() - old.ready_at,
            )
            self._recycles[old.info] = _Recycle(info, resident_bytes())
        worker = WorkerHandle.start(
            info, self._config, self._scoreboard, self._scratch, sys.path, self._post
        )
        self.members.append(worker)
        return worker

    def take_out(self, worker: WorkerHandle) -> None:
        """Hand one that hangs no more work, and find out where it hangs."""
        log.error(
            "worker %s hangs: its event loop has not run for %.1f s; the worker is replaced",
            worker.info,
            worker.pulse.loop_silent,
        )
        worker.take_out(self._config.graceful_timeout)
        if worker.pulse.control_silent < self._config.hang_timeout / 2:
            return  # its control thread logs the stacks
        thread = worker.thread
        if thread is not None and self._stacks.ask(thread):
            self._asked_for_stacks.append(worker.info)
            self._stacks_due = time.monotonic() + ANSWER_SECONDS
        else:
            log.error("worker %s holds its GIL in C code, no Python stack to be had", worker.info)

    def recover(self, worker: WorkerHandle) -> None:
        """Note that the loop of one that hung runs again."""
        worker.take(WorkerEvent.RECOVERED)
        log.info("worker %s: its event loop runs again; it drains and ends", worker.info)

    def abandon(self, worker: WorkerHandle) -> None:
        """Wait for a worker no longer."""
        match worker.state:
            case WorkerState.STARTING:
                self.failed(worker)
                log.error(
                    "worker %s not ready within %g s, it is abandoned; if it needs longer, raise "
                    "--startup-timeout%s",
                    worker.info,
                    self._config.startup_timeout,
                    self.prospect(worker),
                )
            case WorkerState.HUNG:
                log.error(
                    "worker %s: its event loop has not come back within %g s, it is abandoned",
                    worker.info,
                    self._config.graceful_timeout,
                )
            case _:
                log.warning("worker %s did not end in time, it is abandoned", worker.info)
        worker.take(WorkerEvent.GIVEN_UP)

    def reopen_logs(self) -> None:
        """Have the workers open their log files anew, also those that will only be ready soon."""
        for worker in self.members:
            if not worker.state.ended:
                worker.control.send(ReopenLogs())

    # ---- what happens

    def failed(self, worker: WorkerHandle) -> None:
        """Note that a worker has failed, or broken, so that the next attempt waits if need be."""
        now = time.monotonic()
        served_for = 0.0 if worker.ready_at is None else now - worker.ready_at
        place = worker.info.index
        self.troubles[place] = after_failure(self.troubles.get(place, Trouble()), now, served_for)

    def prospect(self, worker: WorkerHandle) -> str:
        """Say what comes after a failure, to be put behind a message."""
        place = worker.info.index
        if place >= self.wanted:
            return ""
        others = [w for w in self.members if w.info.index == place and w is not worker]
        serving = next((w.info for w in others if w.state is WorkerState.READY), None)
        pause = max(0.0, self.troubles[place].retry_at - time.monotonic())
        again = f"next attempt in {pause:.0f} s" if pause else "the next attempt is made at once"
        return f"; worker {serving} goes on meanwhile, {again}" if serving else f"; {again}"

    def bury(self, worker: WorkerHandle, note: HostEnded) -> None:
        """Give back what a worker had whose thread is at its last instruction."""
        if not worker.join(1.0):
            return  # the machine has no time for it; it is joined when the process ends
        self.members.remove(worker)
        if note.left_open:
            self.left_open += 1
        else:
            self._scoreboard.take_back(worker.number)
        recycle = self._recycles.pop(worker.info, None)
        after = resident_bytes()
        if recycle is None or recycle.resident is None or after is None:
            return
        log.info(
            "worker %s has taken the place of %s; resident memory was %s before, is %s now",
            recycle.replacement,
            worker.info,
            in_mib(recycle.resident),
            in_mib(after),
        )

    def join(self, timeout: float) -> None:
        """Wait for the threads of those that have ended, `timeout` seconds for each."""
        for worker in self.members:
            if worker.state.ended and worker.state is not WorkerState.ABANDONED:
                worker.join(timeout)

    @property
    def quiet(self) -> bool:
        """Whether nothing of any worker is left."""
        return not self.members and not self.left_open

    def close(self) -> None:
        """Close the scoreboard; workers that still run keep what they have mapped."""
        self._scoreboard.close()

    def _log_foreign_stacks(self) -> None:
        names = ", ".join(map(str, self._asked_for_stacks))
        self._asked_for_stacks.clear()
        text = self._stacks.take()
        if text:
            log.error(
                "worker %s holds its GIL in C code; its threads are where the stacks above say, "
                "the innermost call first",
                names,
                extra={TRACEBACK: text},
            )
        else:
            log.error("worker %s holds its GIL in C code, no Python stack to be had", names)
