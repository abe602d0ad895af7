"""The heart of a worker's event loop: where it does not beat, requests are not served."""

import asyncio

from subserve.scoreboard import Counter, Row


class Heartbeat:
    """Counts on the scoreboard, every `interval` seconds, that the loop runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, row: Row, interval: float) -> None:
        self._loop = loop
        self._row = row
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to beat, unless nobody listens (`interval` 0)."""
        if self._interval:
            self._beat()

    def stop(self) -> None:
        """Beat no more.  Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._row.add(Counter.LOOP_BEATS)
        self._timer = self._loop.call_later(self._interval, self._beat)
