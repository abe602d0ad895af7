"""Requests that others have collected, where they are at hand.

Two are folders beside the checkout, as in `../shared/corpora`; gunicorn's come in its source
distribution, which `make corpora` fetches.  None is copied into this repository.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHARED = Path(os.environ.get("SUBSERVE_CORPORA", ROOT.parent / "shared" / "corpora"))
GUNICORN = Path(
    os.environ.get("SUBSERVE_GUNICORN_CORPORA", ROOT / ".cache" / "corpora" / "gunicorn")
)


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes


def read_shared(name: str) -> list[dict[str, Any]]:
    """Return the cases of a file under `SHARED`, or skip the test."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {name} in {SHARED}: set SUBSERVE_CORPORA to the folder that has it")
    cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return cases


def read_gunicorn(kind: str) -> list[Case]:
    """Return gunicorn's requests that are ``valid`` or ``invalid``, or skip the test."""
    folder = GUNICORN / kind
    if not folder.is_dir():
        pytest.skip(f"no {folder}: `make corpora` fetches it")
    return [Case(path.stem, _decode(path.read_bytes())) for path in sorted(folder.glob("*.http"))]


def _decode(text: bytes) -> bytes:
    """Line breaks of the file mean nothing there; those of the request are written as escapes."""
    escapes = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0"}

    def value(match: re.Match[bytes]) -> bytes:
        return bytes([int(match[1], 16)]) if match[1] else escapes[match[2]]

    return re.sub(rb"\\(?:x([0-9A-Fa-f]{2})|([rnt0]))", value, text.replace(b"\n", b""))


def with_hosts(data: bytes) -> bytes:
    """Give each request in HTTP/1.1 a Host that has none: these are the corpora of parsers, which
    leave it to others to look for one."""

    def complete(match: re.Match[bytes]) -> bytes:
        head = data[match.end() :].partition(b"\r\n\r\n")[0]
        if re.search(rb"^host[ \t]*:", head, re.IGNORECASE | re.MULTILINE):
            return match[0]
        return match[0] + b"Host: a\r\n"

    return re.sub(rb"[^\r\n]+ HTTP/1\.1\r\n", complete, data)
