"""What systemd passes, and what it is told."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from subserve.systemd import Notifier, passed_sockets, without_ours

PID = 4711


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, {}),
        ({"LISTEN_FDS": "2"}, {}),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {}),
        ({"LISTEN_FDS": "many", "LISTEN_PID": "4711"}, {}),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "4711"}, {"unknown": 3}),
        ({"LISTEN_FDS": "2", "LISTEN_PID": "4711"}, {"unknown": 3, "unknown-1": 4}),
        (
            {"LISTEN_FDS": "3", "LISTEN_PID": "4711", "LISTEN_FDNAMES": "web::web"},
            {"web": 3, "unknown": 4, "web-2": 5},
        ),
    ],
)
def test_passed_sockets(environ: dict[str, str], found: dict[str, int]) -> None:
    assert passed_sockets(environ, PID) == found


def test_what_is_not_passed_on() -> None:
    environ = {"LISTEN_FDS": "1", "NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "5", "HOME": "/"}
    assert without_ours(environ) == {"HOME": "/"}


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10.0)
        sock.bind(name if request.param == "path" else f"\0{name}")
        yield sock, name if request.param == "path" else f"@{name}"


def test_what_is_told(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name}, PID)
    notifier.ready("serving")
    assert sock.recv(1000) == b"READY=1\nSTATUS=serving"
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    reloading, moment, _ = sock.recv(1000).split(b"\n")
    assert reloading == b"RELOADING=1"
    assert before <= int(moment.removeprefix(b"MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.stopping()
    assert sock.recv(1000).startswith(b"STOPPING=1\n")
    notifier.alive()
    assert sock.recv(1000) == b"WATCHDOG=1"


def test_nobody_to_tell(tmp_path: Path) -> None:
    Notifier({}, PID).ready("serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}, PID).ready("serving")


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "4711"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
)
def test_the_watchdog(environ: dict[str, str], interval: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/run/n", **environ}, PID).watchdog_interval == interval
    assert Notifier(environ, PID).watchdog_interval is None, "nobody to tell"
