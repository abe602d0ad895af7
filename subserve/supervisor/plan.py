"""The supervisor's memory: what was started, what was wanted, what has happened to it.

No effects: moments come in as arguments, and what is to be done comes out of `policy.decide`.
"""

from dataclasses import replace

from subserve.errors import AppLoadError, SubserveError
from subserve.supervisor.lifecycle import ProcessEvent, ProcessState, advance
from subserve.supervisor.policy import CRASH_WINDOW, TURN_OVER_PAUSE, Phase, Process, Snapshot


class Plan:
    """What is wanted, and what there is.  All moments are seconds on one monotonic clock."""

    def __init__(self, places: int, *, crash_limit: int, reloading: bool = False) -> None:
        self.phase = Phase.STARTING
        self.exit_code = 0
        self.wanted: tuple[int, ...] = (1,) * places
        self.good: tuple[int, ...] = ()
        self._last_epoch = 1
        self._last_number = 0
        self._processes: dict[int, Process] = {}
        self._failed_code: int | None = None
        self._reloading = reloading
        self._held = False
        self._crashes: list[float] = []
        self._crash_limit = crash_limit
        self._asking: set[int] = set()
        self._leave_alone_until = 0.0

    def snapshot(self) -> Snapshot:
        """Return all that there is to decide on."""
        return Snapshot(
            phase=self.phase,
            processes=tuple(self._processes.values()),
            wanted=self.wanted,
            good=self.good,
            failed=self._failed_code is not None,
            reloading=self._reloading,
            held=self._held,
            crashes=tuple(self._crashes),
            crash_limit=self._crash_limit,
            asking=frozenset(self._asking),
            leave_alone_until=self._leave_alone_until,
        )

    @property
    def turning_over(self) -> bool:
        """Whether some place is to get another epoch than it has."""
        return self.wanted != self.good

    def process(self, number: int) -> Process:
        """Return a process that has not ended."""
        return self._processes[number]

    # ---- what the supervisor does

    def started(self, place: int, epoch: int, deadline: float) -> int:
        """Note that a process was started, to be ready by `deadline`; return its number."""
        self._last_number += 1
        number = self._last_number
        self._processes[number] = Process(number, place, epoch, ProcessState.STARTING, deadline)
        return number

    def told_to_end(self, number: int, deadline: float) -> None:
        """Note that a process was told to end, and by when it has to."""
        process = self._take(number, ProcessEvent.TOLD_TO_END)
        if process.deadline is not None and process.state is ProcessState.RETIRING:
            deadline = min(deadline, process.deadline)
        self._processes[number] = replace(self._processes[number], deadline=deadline)

    def killed(self, number: int) -> None:
        """Note that a process was sent SIGKILL: it will end, and need not be killed again."""
        self._processes[number] = replace(self._processes[number], deadline=None)

    def settled(self) -> None:
        """All places have what they want."""
        self.phase = Phase.SERVING
        self.good = self.wanted

    def given_up(self, now: float) -> None:
        """Go back to what was good, and leave that alone for a while."""
        self._failed_code = None
        self.wanted = self.good
        self._leave_alone_until = now + TURN_OVER_PAUSE

    def held(self) -> None:
        """Start nothing until the next turn-over."""
        self._held = True
        self._failed_code = None

    def turn_over(self, places: int, only: frozenset[int] | None = None) -> int:
        """Want a new epoch, in `only` some of the places or in all; return its number."""
        self._last_epoch += 1
        if only is None:
            self.wanted = (self._last_epoch,) * places
            self._asking.clear()
            self._crashes.clear()
        else:
            self.wanted = tuple(
                self._last_epoch if place in only else epoch
                for place, epoch in enumerate(self.wanted)
            )
            self._asking -= only
        self._failed_code = None
        self._held = False
        return self._last_epoch

    def stop(self, exit_code: int | None = None) -> None:
        """End all; with the code of the start that has failed, unless another is given."""
        if self.phase is not Phase.STOPPING:
            self.phase = Phase.STOPPING
            self.exit_code = (self._failed_code or 0) if exit_code is None else exit_code

    # ---- what happens to the processes

    def ready(self, number: int) -> None:
        """Note that a process serves."""
        process = self._take(number, ProcessEvent.READY)
        if process.state is ProcessState.STARTING:
            self._processes[number] = replace(self._processes[number], deadline=None)

    def asks(self, number: int) -> None:
        """Note that a process asks to be turned over, unless it is about to go in any case."""
        process = self._processes[number]
        if process.state is ProcessState.READY and self._wanted_at(process.place) == process.epoch:
            self._asking.add(process.place)

    def ended(self, number: int, code: int, now: float) -> ProcessState:
        """Note that a process ended, with an exit code or a negative signal; return how it did."""
        process = self._processes[number]
        state = advance(process.state, ProcessEvent.ENDED)
        del self._processes[number]
        if state is ProcessState.CLOSED:
            if self.phase is Phase.STOPPING and self.exit_code == 0 and code != 0:
                self.exit_code = code if code > 0 else SubserveError.exit_code
            return state
        self._asking.discard(process.place)
        if self._wanted_at(process.place) != process.epoch:
            return state  # outdated: its successor is on the way
        if self.good[process.place : process.place + 1] == (process.epoch,):
            self._crashes = [m for m in self._crashes if now - m < CRASH_WINDOW] + [now]
        elif self._failed_code is None:
            self._failed_code = code if code > 0 else AppLoadError.exit_code
        return state

    def _wanted_at(self, place: int) -> int | None:
        return self.wanted[place] if place < len(self.wanted) else None

    def _take(self, number: int, event: ProcessEvent) -> Process:
        """Advance a state, and return the process as it was before."""
        process = self._processes[number]
        self._processes[number] = replace(process, state=advance(process.state, event))
        return process
