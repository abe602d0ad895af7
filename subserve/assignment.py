"""What a new worker is told: one JSON text, since only primitives cross into an interpreter."""

import json
import struct
from dataclasses import asdict, dataclass

from subserve.identity import WorkerInfo
from subserve.options import Config

HANDED = struct.Struct("=ii")
"""A connection on its way to a worker: the number of its descriptor, and its address family, which
the worker would have to ask the kernel for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The coordinator's side makes one, the worker's side reads it.

    The file descriptors are the process's: `control_fd` and `connections_fd` belong to the worker
    from here on, `scoreboard_fd` stays the coordinator's, and `row` is the number of the worker's
    row in it.  `scratch` is a directory that all workers of the process share; `sys_path` is the
    coordinator's.
    """

    worker: WorkerInfo
    config: Config
    control_fd: int
    connections_fd: int
    scoreboard_fd: int
    row: int
    scratch: str
    sys_path: list[str]

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Assignment:
        """Make an assignment from `to_json`'s text."""
        values = json.loads(text)
        values["worker"] = WorkerInfo(**values["worker"])
        values["config"] = Config.from_json(json.dumps(values["config"]))
        return cls(**values)
