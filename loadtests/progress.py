"""One line on a terminal that says what is being measured, how far it is, and how long it takes."""

import sys
import time
from typing import TextIO

BAR = 24


class Progress:
    """Count samples; where the stream is no terminal a line per row has to do."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._done = 0
        self._stream = stream
        self._started = time.monotonic()
        self._live = stream.isatty()
        self._row = ""

    def begin(self, row: str, contender: str, turn: int, rounds: int) -> None:
        """Say what is measured next."""
        if self._live:
            filled = BAR * self._done // max(1, self._total)
            bar = "━" * filled + "─" * (BAR - filled)
            what = f"{row}, round {turn} of {rounds}, {contender}"
            self._write(f"{bar} {self._done}/{self._total} {what}{self._left()}")
        elif row != self._row:
            print(f"[{self._done}/{self._total}] {row}", file=self._stream, flush=True)
        self._row = row

    def end(self) -> None:
        """Count one sample as taken."""
        self._done += 1

    def close(self) -> None:
        """Leave an empty line behind."""
        if self._live:
            self._write("")

    def _left(self) -> str:
        if self._done == 0:
            return ""
        spent = time.monotonic() - self._started
        minutes, seconds = divmod(round(spent / self._done * (self._total - self._done)), 60)
        return f", {minutes}:{seconds:02} left"

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[2K{text}")
        self._stream.flush()
