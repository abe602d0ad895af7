"""What a process that died says about the test that killed it.  Values in, values out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from subserve.signals import name_of

_CURRENT_THREAD = re.compile(r"^Current thread 0x([0-9a-f]+)", re.MULTILINE)

_FRAME = re.compile(r'^  File "([^"]*)"')
_RUNNERS = ("/_pytest/", "/pluggy/", "/subserve/testing/", "<script>")
"""Files whose frames are the same in all tests."""

_MAX_C_FRAMES = 12

MAX_TEXT_CHARS = 20_000
"""Of what the process wrote; enough for the stacks of dozens of threads."""


@dataclass(slots=True)
class Evidence:
    """What is known of a process: its end, and by interpreter what it said before.

    `code` is as `subprocess` has it, negative for a signal.  `dump` is what faulthandler wrote.
    `threads` are the OS threads of the interpreters, `exits` the interpreters that were about to
    call ``os._exit``, with the stack.
    """

    code: int = 0
    dump: str = ""
    threads: dict[int, int] = field(default_factory=dict)
    exits: dict[int, str] = field(default_factory=dict)

    def guilty(self, running: Mapping[int, int]) -> int | None:
        """Return the interpreter whose test ended the process, if that is certain.

        `running` has the interpreters that were at a test.  One alone cannot but be it; of several
        it is the one that said it would exit, or whose thread took the signal: faulthandler calls
        that one the current thread.
        """
        if len(running) == 1:
            return next(iter(running))
        exiting = self.exits.keys() & running.keys()
        if len(exiting) == 1:
            return exiting.pop()
        if found := _CURRENT_THREAD.search(self.dump):
            current = int(found[1], 16)
            for interpreter in running:
                if self.threads.get(interpreter) == current:
                    return interpreter
        return None

    def end(self) -> str:
        """Say how the process ended."""
        if self.code < 0:
            return f"ended by {name_of(-self.code)}"
        return f"ended with exit code {self.code}"

    def story(self, interpreter: int | None, what: str) -> str:
        """Tell what happened while `interpreter`, if it is known which one, did `what`."""
        stack = self.exits.get(interpreter, "") if interpreter is not None else ""
        head = f"process {self.end()} {what}"
        return f"{head}\n\n{tidy(stack or self.dump)}".rstrip()


def tidy(stacks: str) -> str:
    """Leave out of stacks what says nothing of a test: pytest's own frames, and most of C's."""
    lines: list[str] = []
    leaving_out = False
    c_frames = 0
    for line in stacks[-MAX_TEXT_CHARS:].splitlines():
        if found := _FRAME.match(line):
            leaving_out = any(part in found[1] for part in _RUNNERS)
        elif line.startswith("  Binary file "):
            c_frames += 1
            leaving_out = c_frames > _MAX_C_FRAMES
        elif not line.startswith("  "):
            leaving_out, c_frames = False, 0
        if not leaving_out:
            lines.append(line)
    return "\n".join(lines)
