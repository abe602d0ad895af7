"""What the process that is thrown away is told: one JSON text in its arguments."""

import json
from dataclasses import asdict, dataclass

from subserve.options import Config


@dataclass(frozen=True, slots=True)
class Errand:
    """What to check.

    `events_fd` is the socket for events, `crash_fd` the file that faulthandler writes to.
    `ordinary`: only load the app, in the main interpreter, to compare with.
    """

    config: Config
    paths: list[str]
    events_fd: int
    crash_fd: int
    sys_path: list[str]
    ordinary: bool = False

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Errand:
        """Make an errand from `to_json`'s text."""
        values = json.loads(text)
        values["config"] = Config.from_json(json.dumps(values["config"]))
        return cls(**values)
