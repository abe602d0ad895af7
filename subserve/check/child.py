"""The process that is thrown away: workers load the app, serve, end, and do so once more.

The first two workers start one after the other, so that it can be told what each module, and the
second worker as a whole, adds; the others at once.  In the second round all start at once: that is
where what does not bear it breaks, and where it shows what recycling leaves behind.

Threads: main; one that holds each worker's interpreter; a few that request paths.
"""

import faulthandler
import os
import threading
from itertools import product

from subserve import app as app_module
from subserve import log as subserve_log
from subserve import scratch, signals
from subserve.check import events
from subserve.check.errand import Errand
from subserve.check.subject import Hung, Subject
from subserve.identity import WorkerInfo
from subserve.memory import anonymous_bytes
from subserve.scoreboard import Scoreboard

ROUNDS = 2

PARALLEL = 4
"""Requests for each path at once, in each worker."""

REQUEST_TIMEOUT = 30.0
"""Seconds for a request; a user waits."""


def run(errand: Errand) -> int:
    """Do what the errand says, and return the exit code of the process, which tells nothing."""
    faulthandler.enable(errand.crash_fd)
    signals.stacks_are_written_to(errand.crash_fd)
    if errand.ordinary:
        return _load_ordinarily(errand)
    folder = scratch.make()
    try:
        quiet = _Check(errand, folder).run()
    finally:
        scratch.remove(folder)
    if not quiet:
        # Finalising would wait for, or crash on, an interpreter that still runs.
        subserve_log.flush_prints()
        os._exit(0)
    return 0


def _load_ordinarily(errand: Errand) -> int:
    """Load the app as any program would, to tell what is the app's own fault."""
    config = errand.config
    app_module.load(config.app, factory=config.factory, app_dir=config.app_dir)
    events.send(errand.events_fd, events.Finished(None))
    return 0


class _Check:
    """All rounds of all workers; `run` returns whether nothing is left that still runs."""

    def __init__(self, errand: Errand, folder: str) -> None:
        self._errand = errand
        self._config = errand.config
        self._fd = errand.events_fd
        self._folder = folder
        self._board = Scoreboard.create(self._config.workers)

    def run(self) -> bool:
        left: list[int] = []
        try:
            for generation in range(1, ROUNDS + 1):
                if not self._round(generation):
                    return False
                left.append(anonymous_bytes() or 0)
        except Hung:
            return False
        grown = max(0, left[-1] - left[0]) // self._config.workers
        events.send(self._fd, events.Finished(grown))
        return True

    def _round(self, generation: int) -> bool:
        first = generation == 1
        subjects: list[Subject] = []
        ready = True
        for index in range(self._config.workers):
            alone = first and index < 2
            if alone or index == 0 or (first and index == 2):
                self._say(generation, index, alone=alone)
            before = anonymous_bytes() or 0
            subject = self._start(WorkerInfo(index, generation, self._config.workers), alone=alone)
            subjects.append(subject)
            if alone:
                ready = self._await(subject, before)
                if not ready:
                    break
        if ready:
            started = subjects[2:] if first else subjects
            came_up = [self._await(subject, None) for subject in started]  # all are waited for
            ready = all(came_up)
        if ready:
            self._request(subjects, generation)
        text = "closing them" if first else "closing them again"
        events.send(self._fd, events.Stage(text))
        for subject in subjects:
            subject.drain()
        for subject in subjects:
            subject.join()
        return ready

    def _say(self, generation: int, index: int, *, alone: bool) -> None:
        workers = self._config.workers
        if alone:
            text = f"worker {index + 1} of {workers} loads {self._config.app}"
        elif generation == 1:
            text = f"the other {workers - index} load it, at once"
        else:
            text = f"recycling: {workers} new workers load it, at once"
        events.send(self._fd, events.Stage(text))

    def _start(self, info: WorkerInfo, *, alone: bool) -> Subject:
        return Subject(
            info,
            self._config,
            self._board,
            self._fd,
            self._folder,
            self._errand.sys_path,
            alone=alone,
        )

    def _await(self, subject: Subject, before: int | None) -> bool:
        interface = subject.wait_ready()
        if interface is None:
            return False
        memory = None if before is None else max(0, (anonymous_bytes() or 0) - before)
        events.send(self._fd, events.Up(subject.name, interface, memory))
        return True

    def _request(self, subjects: list[Subject], generation: int) -> None:
        if not self._errand.paths:
            return
        paths = ", ".join(self._errand.paths)
        again = "" if generation == 1 else " again"
        events.send(self._fd, events.Stage(f"requesting {paths} from all at once{again}"))
        # One by one first: where several threads crash at a time, the second one ends the process
        # before the first has written where it is.
        for path in self._errand.paths:
            subjects[0].request(path, REQUEST_TIMEOUT)
        threads = [
            threading.Thread(target=subject.request, args=(path, REQUEST_TIMEOUT), name="request")
            for subject, path, _ in product(subjects, self._errand.paths, range(PARALLEL))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
