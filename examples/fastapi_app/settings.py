"""What the operator may choose, read from the environment once, when the app is made."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MAX_UPLOAD_BYTES = 10 * 1024 * 1024

# What people write in DATABASE_URL, and the driver that SQLAlchemy's asyncio layer needs for it.
_ASYNC_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration of one worker.

    `data` is the directory for uploads, wake-up sockets and the SQLite file; `keep_data` is False
    for the directory made up for one run, which the last worker to stop removes.
    `database_url` is an SQLAlchemy URL with an asyncio driver.
    """

    data: Path
    keep_data: bool
    database_url: str
    max_upload_bytes: int = DEFAULT_MAX_UPLOAD_BYTES

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read ``BOARD_DATA``, ``DATABASE_URL`` and ``BOARD_MAX_UPLOAD_BYTES``.

        Raises ValueError, naming the variable, for a value that cannot be used.
        """
        if given := environ.get("BOARD_DATA"):
            data, keep_data = Path(given).absolute(), True
        else:
            # All workers share one process, so its id is what they agree on without a message.
            name = f"release-board-{os.getuid()}-{os.getpid()}"
            data, keep_data = Path(tempfile.gettempdir()).absolute() / name, False
        return cls(
            data=data,
            keep_data=keep_data,
            database_url=_database_url(environ.get("DATABASE_URL"), data),
            max_upload_bytes=_positive(environ, "BOARD_MAX_UPLOAD_BYTES", DEFAULT_MAX_UPLOAD_BYTES),
        )


def _database_url(given: str | None, data: Path) -> str:
    if not given:
        return f"sqlite+aiosqlite:///{data / 'board.sqlite3'}"
    scheme, separator, rest = given.partition("://")
    if not separator:
        raise ValueError("DATABASE_URL: expected a URL such as postgresql://user@host/name")
    return f"{_ASYNC_DRIVERS.get(scheme, scheme)}://{rest}"


def _positive(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(f"{name}: expected a positive number of bytes, not {text!r}")
    return int(text)
