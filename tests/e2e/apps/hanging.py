"""An ASGI app that does what no app should: to its event loop, to the GIL, to its worker."""

import asyncio
import ctypes
import select
import socket
from collections.abc import Callable

import asgi

DEADLINE = 60.0
"""Seconds; nothing here hangs for longer, whatever becomes of the test."""


async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    if scope["type"] == "http":
        _, name, *rest = scope["path"].split("/")
        x = asgi.Exchange(scope, receive, send, rest, {})
        if name == "break":
            await break_the_worker()
        if name in WAYS:
            with socket.create_connection(("127.0.0.1", int(rest[0]))) as gate:
                WAYS[name](gate)
            await x.answer("late")
            return
    await asgi.app(scope, receive, send)


def spin(gate: socket.socket) -> None:
    """Use the CPU, in Python, until the gate opens."""
    while not select.select([gate], [], [], 0)[0]:
        pass


def block(gate: socket.socket) -> None:
    """Wait without the GIL, as for a database."""
    gate.settimeout(DEADLINE)
    gate.recv(1)


def hold_gil(gate: socket.socket) -> None:
    """Wait in C code that does not release the GIL."""
    gate.setblocking(True)
    pointer = ctypes.create_string_buffer(1)
    ctypes.PyDLL(None).recv(gate.fileno(), pointer, 1, 0)


WAYS: dict[str, Callable[[socket.socket], None]] = {
    "spin": spin,
    "block": block,
    "hold-gil": hold_gil,
}


async def break_the_worker() -> None:
    """End the server's own task in this worker, as a defect of subserve would."""
    for task in asyncio.all_tasks():
        if task.get_name() == "worker":
            task.cancel()
    await asyncio.sleep(DEADLINE)
