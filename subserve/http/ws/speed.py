"""The accelerator, where there is one: see `docs/accelerator.md`.

All of the lane works without it.
"""

from typing import Literal, NamedTuple

from subserve.http.ws.frames import unmask
from subserve.http.ws.messages import TakeMessage, Unmask


class Functions(NamedTuple):
    """What there is in two versions."""

    take_message: TakeMessage
    unmask: Unmask


def choose(parser: Literal["auto", "c", "python"]) -> Functions:
    """Return the accelerator's functions, or what stands for them."""
    if parser != "python":
        try:
            from subserve.http.ws import _accelerator
        except ImportError:
            pass  # with `c` the HTTP/1.1 lane has found out, and said so
        else:
            return Functions(_accelerator.take_message, _accelerator.unmask)
    return Functions(_take_nothing, unmask)


def _take_nothing(data: bytes, at: int, max_bytes: int) -> None:
    return None
