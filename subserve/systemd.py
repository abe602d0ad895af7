"""What systemd passes to a service, and what it wants to be told: two protocols, both optional.

Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

import socket
import time
from collections.abc import Mapping

FIRST_FD = 3
"""SD_LISTEN_FDS_START."""

SEND_TIMEOUT = 1.0
"""Seconds to wait for a manager that has not read what it was told before.  Not measured."""

OURS = (
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)
"""Variables that are meant for the service's main process, and for none that it starts."""


def passed_sockets(environ: Mapping[str, str], pid: int) -> dict[str, int]:
    """Return the descriptors that process `pid` was passed, by name.

    One without a name of its own is ``unknown``, as systemd has it; the second and further ones of
    a name have their place at its end (``unknown-1``).
    """
    try:
        count = int(environ.get("LISTEN_FDS", "0"))
        if int(environ.get("LISTEN_PID", "0")) != pid:
            return {}
    except ValueError:
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, int] = {}
    for place in range(count):
        name = names[place] if place < len(names) and names[place] else "unknown"
        found[f"{name}-{place}" if name in found else name] = FIRST_FD + place
    return found


class Notifier:
    """Tells the service manager how we are.  Without one it does nothing."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self.watchdog_interval = self._interval(environ, pid) if path else None
        """Seconds between `alive` calls, half of what systemd waits; None where it does not."""

    @staticmethod
    def _interval(environ: Mapping[str, str], pid: int) -> float | None:
        try:
            if int(environ.get("WATCHDOG_PID", pid)) != pid:
                return None
            microseconds = int(environ.get("WATCHDOG_USEC", "0"))
        except ValueError:
            return None
        return microseconds / 2e6 if microseconds > 0 else None

    def ready(self, status: str) -> None:
        """We serve; also the end of a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """We load configuration and code anew; `ready` ends that, whatever comes of it."""
        moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={moment}", "STATUS=loading new code")

    def stopping(self) -> None:
        """We finish what is in flight."""
        self._send("STOPPING=1", "STATUS=finishing requests in flight")

    def status(self, text: str) -> None:
        """Say something for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Keep the watchdog quiet."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # Where its queue is full: 10 messages, see net.unix.max_dgram_qlen in unix(7).
            sock.settimeout(SEND_TIMEOUT)
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                # Nobody listens, or not fast enough: it is the manager who must know, and we
                # cannot reach him.
                return


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the processes that we start."""
    return {name: value for name, value in environ.items() if name not in OURS}
