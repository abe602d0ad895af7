"""What an operator may write after ``--bind``."""

import os
import re
from dataclasses import dataclass
from typing import Literal

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class BindSpec:
    """A parsed bind address.

    `host` and `port` are set for ``tcp``, `path` for ``unix``, `fd` for ``fd``.  An empty host
    means all addresses, port 0 any free port.
    """

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1


def parse_bind(text: str) -> BindSpec:
    """Read ``host:port``, ``:port``, ``[v6]:port``, ``unix:/path`` or ``fd://n``.

    Raises `ValueError` with what was expected.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # sun_path holds 108 bytes with its NUL on Linux (unix(7)), 104 on BSDs.
        if not path or "\0" in path or len(os.fsencode(path)) > 103:
            raise ValueError("expected unix:/path with a path of 1 to 103 bytes")
        return BindSpec("unix", path=path)
    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not re.fullmatch(r"\d{1,6}", number, re.ASCII):
            raise ValueError("expected fd://n with the number of an open file descriptor")
        return BindSpec("fd", fd=int(number))
    match = _HOST_PORT.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError("expected host:port, [v6]:port, unix:/path or fd://n")
    return BindSpec("tcp", host=match["v6"] or match["host"] or "", port=int(match["port"]))
