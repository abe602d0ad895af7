"""From a ``DATABASE_URL`` to what Django's ``DATABASES`` setting wants."""

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

BUSY_TIMEOUT = 20.0
"""Seconds that a SQLite connection waits for another one's write before it gives up."""


def from_url(url: str) -> dict[str, object]:
    """Return the settings of one database.

    `url` is ``postgresql://user:password@host:port/name?option=value`` (parts of it may be
    missing, as in libpq) or ``sqlite:///path`` (``sqlite:////path`` for an absolute one).
    Raises `ImproperlyConfigured` for anything else, without repeating a password.
    """
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    match parts.scheme:
        case "postgres" | "postgresql":
            return {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": path,
                "USER": unquote(parts.username or ""),
                "PASSWORD": unquote(parts.password or ""),
                "HOST": unquote(parts.hostname or ""),
                "PORT": parts.port or "",
                "OPTIONS": dict(parse_qsl(parts.query)),
            }
        case "sqlite" if path:
            return sqlite(Path(path))
        case scheme:
            raise ImproperlyConfigured(
                "DATABASE_URL must begin with postgresql:// or sqlite:///PATH,"
                f" and this one begins with {scheme}:"
            )


def sqlite(file: Path) -> dict[str, object]:
    """Return settings for a SQLite file that several workers use at once.

    With write-ahead logging readers do not wait for a writer.  A transaction takes the write
    lock when it begins: taking it half-way fails at once, whatever the timeout, when another
    connection has written since (SQLite's documentation of "BEGIN IMMEDIATE").
    """
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": file.absolute(),
        "OPTIONS": {
            "timeout": BUSY_TIMEOUT,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
        },
    }
