"""Where postcards live: one SQLite file for the cards, one folder for their pictures.

All workers use the same files.  A request has a database connection of its own, opened on first
use and closed by `close` when the view has returned.
"""

import contextlib
import fcntl
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from flask import current_app, g

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another worker's write before giving up with `sqlite3.OperationalError`."""

PICTURE_TYPES = {
    "gif": "image/gif",
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
}
"""Suffixes of stored pictures and how they are served.  No SVG: it may contain scripts."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS postcard (
    id       INTEGER PRIMARY KEY,
    sent_at  TEXT NOT NULL,
    visitor  TEXT NOT NULL,
    sender   TEXT NOT NULL,
    message  TEXT NOT NULL,
    picture  TEXT
)
"""
_COLUMNS = "id, sent_at, visitor, sender, message, picture"


@dataclass(frozen=True, slots=True)
class Postcard:
    """One card on the wall; `picture` is a file name in the pictures folder."""

    id: int
    sent_at: datetime
    visitor: str
    sender: str
    message: str
    picture: str | None


def prepare(data_dir: Path) -> None:
    """Create the data folder, the pictures folder and the database, if they are missing.

    Workers start at the same time and SQLite's switch to write-ahead logging does not wait for
    its turn, so a lock file gives each of them one.
    """
    (data_dir / "pictures").mkdir(parents=True, exist_ok=True)
    with open(data_dir / "prepare.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.closing(_connect(data_dir)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(_SCHEMA)


def pictures_dir() -> Path:
    """Return the folder of the uploaded pictures."""
    data_dir: Path = current_app.config["DATA_DIR"]
    return data_dir / "pictures"


def connection() -> sqlite3.Connection:
    """Return the database connection of the current request."""
    if "connection" not in g:
        g.connection = _connect(current_app.config["DATA_DIR"])
    current: sqlite3.Connection = g.connection
    return current


def close(_error: BaseException | None = None) -> None:
    """Close the connection of the current request, if it used one."""
    if (current := g.pop("connection", None)) is not None:
        current.close()


def add(visitor: str, sender: str, message: str, picture: str | None) -> int:
    """Put a card on the wall and return its id."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    cursor = connection().execute(
        "INSERT INTO postcard (sent_at, visitor, sender, message, picture) VALUES (?, ?, ?, ?, ?)",
        (now, visitor, sender, message, picture),
    )
    assert cursor.lastrowid is not None  # an INSERT into a table with a row id always sets it
    return cursor.lastrowid


def newest(limit: int, offset: int = 0) -> list[Postcard]:
    """Return up to `limit` cards, the newest first, without the first `offset` of them."""
    rows = connection().execute(
        f"SELECT {_COLUMNS} FROM postcard ORDER BY id DESC LIMIT ? OFFSET ?", (limit, offset)
    )
    return [_postcard(row) for row in rows]


def oldest_first(data_dir: Path) -> Iterator[Postcard]:
    """Iterate over all cards without loading them all at once.

    The iterator has a connection of its own: the one of the request is closed when the view
    returns, and a streamed response is only beginning then.
    """
    with contextlib.closing(_connect(data_dir)) as own:
        for row in own.execute(f"SELECT {_COLUMNS} FROM postcard ORDER BY id"):
            yield _postcard(row)


def remove(card_id: int, visitor: str) -> bool:
    """Take a card that `visitor` sent from the wall; return whether there was such a card."""
    row = (
        connection()
        .execute(
            "DELETE FROM postcard WHERE id = ? AND visitor = ? RETURNING picture",
            (card_id, visitor),
        )
        .fetchone()
    )
    if row is None:
        return False
    if row[0] is not None:
        (pictures_dir() / row[0]).unlink(missing_ok=True)
    return True


def save_picture(upload: IO[bytes]) -> str | None:
    """Store an uploaded picture under a random name and return that name, or None if it is none.

    The first bytes decide what it is: neither the name nor the type that the browser sent is
    used, so no upload can choose where it is stored or how it is served.
    """
    suffix = _picture_suffix(upload.read(12))
    if suffix is None:
        return None
    upload.seek(0)
    name = f"{secrets.token_hex(16)}.{suffix}"
    with open(pictures_dir() / name, "xb") as file:
        while block := upload.read(64 * 1024):
            file.write(block)
    return name


def _connect(data_dir: Path) -> sqlite3.Connection:
    # A server may run a streamed response in other threads than the view, one after the other.
    return sqlite3.connect(
        data_dir / "postcards.sqlite3",
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )


def _postcard(row: tuple[int, str, str, str, str, str | None]) -> Postcard:
    card_id, sent_at, visitor, sender, message, picture = row
    return Postcard(card_id, datetime.fromisoformat(sent_at), visitor, sender, message, picture)


def _picture_suffix(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None
