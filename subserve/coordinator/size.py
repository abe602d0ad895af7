"""How large the process may become before a new one is asked for (`--max-rss`)."""

import math

from subserve.memory import in_mib, resident_bytes

MEMORY_INTERVAL = 5.0
"""Seconds between two looks at the memory of the process."""


class SizeLimit:
    """Looks at the resident memory of the process; `max_bytes` is 0 for no limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._measured_at = -math.inf
        self.excess = ""
        """What is wrong, in words; nothing as long as it is below the limit."""

    def look(self, now: float) -> None:
        """Measure, unless that was done a moment before `now` (monotonic seconds)."""
        if not self._max_bytes or now < self._measured_at + MEMORY_INTERVAL:
            return
        self._measured_at = now
        resident = resident_bytes() or 0
        self.excess = ""
        if resident > self._max_bytes:
            limit = in_mib(self._max_bytes)
            self.excess = f"resident memory is {in_mib(resident)}, above {limit}"
