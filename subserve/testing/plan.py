"""Which interpreter runs which tests, and what is left after a crash.  Values in, values out.

A file's tests stay together, in one interpreter and in order, so that fixtures of modules and
classes are made once, as without sub-interpreters.  An interpreter is given one file at a time,
when it needs it: whoever is done first takes the next one.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby


class Plan:
    """The tests to run, by their index in the collection.

    `running` has, by the number of the interpreter, the test that it is at.
    """

    def __init__(self, nodeids: Sequence[str], wanted: Iterable[int] | None = None) -> None:
        indices = range(len(nodeids)) if wanted is None else wanted
        self._files = deque(
            list(group) for _, group in groupby(indices, lambda i: nodeids[i].partition("::")[0])
        )
        self._left = {index for file in self._files for index in file}
        self.running: dict[int, int] = {}

    @property
    def files(self) -> int:
        """How many pieces have not been given away."""
        return len(self._files)

    @property
    def left(self) -> list[int]:
        """The tests that have not come to their end, in order."""
        return sorted(self._left)

    def give(self) -> list[int]:
        """Return the tests that an interpreter is to run next; none: that was all."""
        return self._files.popleft() if self._files else []

    def begin(self, interpreter: int, index: int) -> None:
        """Take note that a test has begun."""
        self.running[interpreter] = index

    def end(self, interpreter: int, index: int) -> None:
        """Take note that a test has come to its end, however that was."""
        self.running.pop(interpreter, None)
        self._left.discard(index)
