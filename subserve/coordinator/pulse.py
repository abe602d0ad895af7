"""Listens to the two heartbeats of a worker."""

from subserve.scoreboard import Counter, Row


class Pulse:
    """For how long a worker's event loop and control thread have not been heard, in seconds.

    Counted in the coordinator's own ticks: where it was not scheduled itself, because the process
    was stopped or the machine asleep, no tick takes longer than two intervals.  A worker that was
    held up along with it is not blamed for that.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._beats = self._read()
        self.loop_silent = 0.0
        self.control_silent = 0.0

    def listen(self, elapsed: float, interval: float) -> None:
        """Compare with the last time, `elapsed` seconds ago; hearts beat each `interval`."""
        tick = min(elapsed, 2 * interval)
        before, self._beats = self._beats, self._read()
        self.loop_silent = 0.0 if self._beats[0] != before[0] else self.loop_silent + tick
        self.control_silent = 0.0 if self._beats[1] != before[1] else self.control_silent + tick

    def _read(self) -> tuple[int, int]:
        return self._row[Counter.LOOP_BEATS], self._row[Counter.CONTROL_BEATS]
