"""What a check is doing, on a terminal: a line for each step, with how long the last one took."""

import sys
import time

from subserve.check import events


class Progress:
    """Shows stages on standard error if that is a terminal, and nothing else."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._since: float | None = None

    def __call__(self, event: events.Event) -> None:
        """Take note of an event."""
        if self._shown and isinstance(event, events.Stage):
            self.end()
            self._since = time.monotonic()
            print(f"  {event.text} ...", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Finish the line of the last stage."""
        if self._since is not None:
            print(f" {time.monotonic() - self._since:.1f} s", file=sys.stderr, flush=True)
            self._since = None
