"""A WSGI app with a route for everything that has to do with the server's threads."""

import builtins
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bad_heads import BAD

import subserve

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

worker = subserve.current_worker()


def tell(text: str) -> None:
    """Write a line to standard error, for a test to wait for."""
    os.write(2, f"app {worker}: {text}\n".encode())


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    _, name, *rest = environ["PATH_INFO"].split("/")
    argument = rest[0] if rest else ""

    def start(status: str = "200 OK", *headers: tuple[str, str]) -> None:
        start_response(status, [("X-Worker", str(worker)), *headers])

    match name:
        case "":
            start()
            return [b"hello"]
        case "environ":
            start()
            plain = {k: v for k, v in environ.items() if isinstance(v, str | bool | int)}
            return [json.dumps(plain | {"thread": threading.current_thread().name}).encode()]
        case "digest":
            size, sha = 0, hashlib.sha256()
            while chunk := environ["wsgi.input"].read(65536):
                size += len(chunk)
                sha.update(chunk)
            start()
            return [f"{size} {sha.hexdigest()}".encode()]
        case "status":
            start(f"{argument} Whatever", ("ETag", '"1"'))
            return []
        case "bad":
            start_response(*BAD[argument])
            return [b"x"]
        case "raise":
            if environ["QUERY_STRING"] == "after":
                start()
                return _begin_then_raise(argument)
            raise getattr(builtins, argument)("from the handler")
        case "gate":
            _pass(argument)
            start()
            return [b"through"]
        case "stream":
            start()
            return _stream(int(argument))
        case "spin":
            _spin()
        case "begin-then-spin":
            headers = [("Content-Length", "100")] if argument == "length" else []
            start("200 OK", *headers)
            return _begin_then_spin()
        case "spin-for-ever":
            while True:
                try:
                    _spin()
                except Exception as error:  # noqa: BLE001
                    tell(f"goes on after {type(error).__name__}")
        case "pause":
            time.sleep(float(argument))
            start()
            return [b"paused"]
        case "sleep":
            tell("asleep")
            time.sleep(float(argument))
            start()
            return [b"awake"]
    start("404 Not Found")
    return [b"no such route"]


def _begin_then_raise(name: str) -> Iterator[bytes]:
    yield b"the beginning"
    raise getattr(builtins, name)("from the handler")


def _spin() -> None:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        pass


def _begin_then_spin() -> Iterator[bytes]:
    try:
        yield b"the beginning"
        _spin()
    finally:
        tell("cleaned up")


def _pass(port: str) -> None:
    with socket.create_connection(("127.0.0.1", int(port))) as gate:
        while gate.recv(1):
            pass


def _stream(size: int) -> Iterator[bytes]:
    try:
        for position in range(0, size, 65536):
            yield b"s" * min(65536, size - position)
    finally:
        tell("stream closed")
