"""Settings of the app, read from environment variables."""

import os
from collections.abc import Mapping
from pathlib import Path

DEVELOPMENT_SECRET_KEY = "postcards-development-key"
"""Signs sessions when ``POSTCARDS_SECRET_KEY`` is not set; it is public, so never deploy with it.

It is a constant and not a random value because all workers must accept each other's sessions.
"""

DEFAULT_DATA_DIR = Path(__file__).parent / "data"
DEFAULT_MAX_UPLOAD_BYTES = 4 * 1024 * 1024


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, object]:
    """Return the Flask configuration that the ``POSTCARDS_*`` variables ask for.

    An empty variable counts as one that is not set.  Raises `ValueError` when
    ``POSTCARDS_MAX_UPLOAD_BYTES`` is not a positive whole number.
    """
    return {
        "SECRET_KEY": environ.get("POSTCARDS_SECRET_KEY") or DEVELOPMENT_SECRET_KEY,
        "DATA_DIR": Path(environ.get("POSTCARDS_DATA_DIR") or DEFAULT_DATA_DIR).absolute(),
        "MAX_CONTENT_LENGTH": _max_upload_bytes(environ.get("POSTCARDS_MAX_UPLOAD_BYTES")),
        # Browsers send cookies of localhost to every port of it: a name of our own avoids clashes.
        "SESSION_COOKIE_NAME": "postcards",
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_SECURE": environ.get("POSTCARDS_HTTPS") == "1",
    }


def _max_upload_bytes(text: str | None) -> int:
    if not text:
        return DEFAULT_MAX_UPLOAD_BYTES
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"POSTCARDS_MAX_UPLOAD_BYTES must be a whole number above 0, not {text!r}")
    return int(text)
