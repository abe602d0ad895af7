"""What an interpreter that runs tests is told when it starts."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Task:
    """The part of one interpreter.

    `number` is its own, of `count` in the process.  `fd` is its end of the link.  `args` are those
    of pytest.  `scratch` is a folder for copies of extension modules, `basetemp` one for tests.
    `crashed` has collectors that ended a process before this one, and what was told of it.
    `inputs` are more for ``config.workerinput``.
    """

    number: int
    count: int
    fd: int
    args: list[str]
    argv: list[str]
    sys_path: list[str]
    scratch: str
    basetemp: str
    crashed: dict[str, str]
    inputs: dict[str, Any]

    @property
    def name(self) -> str:
        """Return what plugins tell it apart from others by."""
        return f"si{self.number}"

    def to_json(self) -> str:
        """Return it as text, which crosses processes and interpreters."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read it back."""
        return cls(**json.loads(text))
