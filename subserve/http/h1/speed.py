"""The accelerator, where there is one, chosen once a worker (see `docs/accelerator.md`).

All of the lane works without it: it takes what is unremarkable, and leaves the rest to the code in
Python, which says what is right.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from subserve.errors import ConfigError

if TYPE_CHECKING:
    from subserve.http.h1._accelerator import Head

type ParseHead = Callable[[bytes, int, int], Head | None]
type SendNow = Callable[[int, bytes], int]
type ReceiveNow = Callable[[int, int], bytes]
type WsgiHead = Callable[[Any, Any], tuple[int, bytes, int, bool] | None]
type AddHeaders = Callable[[dict[str, Any], list[tuple[bytes, bytes]], dict[bytes, str]], int]
type WholeResponse = Callable[[bytes, Any, Any, bytes, bytes, bool], bytes | None]


class Functions(NamedTuple):
    """What there is in two versions."""

    parse_head: ParseHead
    whole_response: WholeResponse
    receive_now: ReceiveNow
    send_now: SendNow
    wsgi_head: WsgiHead
    add_headers: AddHeaders


def choose(parser: Literal["auto", "c", "python"]) -> Functions:
    """Return the accelerator's functions, or what stands for them.

    Raises `ConfigError` where it is asked for and was not built.
    """
    if parser != "python":
        try:
            from subserve.http.h1 import _accelerator

            return Functions(
                _accelerator.parse_head,
                _accelerator.whole_response,
                _accelerator.receive_now,
                _accelerator.send_now,
                _accelerator.wsgi_head,
                _accelerator.add_headers,
            )
        except ImportError as error:
            if parser == "c":
                raise ConfigError(
                    "--http-parser c: the accelerator was not built when subserve was installed: "
                    "install it where there is a C compiler, or leave the choice to auto"
                ) from error
    return Functions(_parse_nothing, _write_nothing, os.read, os.write, _read_nothing, _add_nothing)


def _parse_nothing(data: bytes, max_bytes: int, max_count: int) -> None:
    return None


def _write_nothing(
    status_line: bytes, headers: Any, body: Any, date: bytes, closing: bytes, bodiless: bool
) -> None:
    return None


def _read_nothing(status: Any, headers: Any) -> None:
    return None


def _add_nothing(
    environ: dict[str, Any], headers: list[tuple[bytes, bytes]], keys: dict[bytes, str]
) -> int:
    return 0
