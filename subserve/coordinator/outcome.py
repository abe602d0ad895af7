"""What goes wrong with the workers: what the operator is told of it, and the exit code."""

import logging

from subserve import log as subserve_log
from subserve.coordinator.crew import Crew
from subserve.coordinator.handle import HostEnded, WorkerHandle
from subserve.errors import AppLoadError, WorkerError
from subserve.lifecycle import Phase, WorkerState
from subserve.policy import Why

log = logging.getLogger("subserve")


class Outcome:
    """How the process will end.  Lives in the main thread."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._last_failure = WorkerError.exit_code
        self.exit_code = 0

    def stopped(self, why: Why, startup_timeout: float) -> None:
        """Note that the process stops."""
        match why:
            case Why.OVERDUE:
                self._overdue(startup_timeout)
            case Why.CRASH_LOOP:
                log.error("no worker is left, and none can be started: giving up")
                self.exit_code = self._last_failure
            case Why.TOO_MANY_ABANDONED:
                log.error(
                    "too many workers had to be abandoned: stopping before they take all memory"
                )
                self.exit_code = WorkerError.exit_code

    def _overdue(self, startup_timeout: float) -> None:
        names = ", ".join(str(w.info) for w in self._crew if w.state is WorkerState.STARTING)
        log.error(
            "worker %s not ready within %g s; is the app's import or lifespan stuck? "
            "if it needs longer, raise --startup-timeout",
            names,
            startup_timeout,
        )
        self.exit_code = AppLoadError.exit_code

    def failed(
        self, worker: WorkerHandle, what: str, traceback: str, code: int, phase: Phase
    ) -> None:
        """Note that a worker that was to stay has failed, and would end the process with `code`."""
        self._crew.failed(worker)
        self._last_failure = code
        trace = {subserve_log.TRACEBACK: traceback}
        if phase is Phase.SERVING:
            log.error("%s%s", what, self._crew.prospect(worker), extra=trace)
        elif self.exit_code == 0:  # the first one: others fail alike
            log.error("%s", what, extra=trace)
            self.exit_code = code

    def broke(
        self, worker: WorkerHandle, note: HostEnded, phase: Phase, *, was_staying: bool
    ) -> None:
        """Note that a worker ended by a defect of ours."""
        last_line = note.detail.rstrip().rpartition("\n")[2]
        what = f"worker {note.worker} broke: {last_line}"
        if was_staying:
            self.failed(worker, what, note.detail, WorkerError.exit_code, phase)
            return
        log.error("%s", what, extra={subserve_log.TRACEBACK: note.detail})
        if phase is not Phase.SERVING:
            self.exit_code = self.exit_code or WorkerError.exit_code
