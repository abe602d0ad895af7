"""Connections that begin with a header of the PROXY protocol, for all that may follow it.

The header is taken off the socket before there is a transport, so that TLS, which comes behind it,
need not know.  What belongs to it is told by peeking: the next byte is the client's.
"""

import asyncio
import logging
import socket
import time
from typing import Final

from subserve.http.forwarded import Addresses
from subserve.http.proxy_protocol import Header, NotProxied, parse_header
from subserve.trust import Trust

log = logging.getLogger("subserve.worker")

LONGEST_WAIT: Final = 5.0
"""Seconds until the header has to be there; ``--header-timeout`` if that is shorter.  A proxy sends
it at once; the protocol's text (section 3) asks for at least 3, for a packet that is lost."""

WARNING_INTERVAL: Final = 10.0
"""Seconds between two warnings about connections that were dropped."""

_PEEK_BYTES = 4096


class ProxyProtocol:
    """Reads the headers.  Lives in the loop's thread."""

    def __init__(self, trust: Trust, timeout: float) -> None:
        self._trust = trust
        self._timeout = min(timeout, LONGEST_WAIT)
        self._warned_at = float("-inf")
        self._dropped = 0

    async def read(self, sock: socket.socket) -> Addresses | None:
        """Take the header off `sock`; return the addresses that it tells, if any.

        Raises `OSError` where the connection is to be dropped.
        """
        peer = sock.getpeername()
        address = peer[0] if isinstance(peer, tuple) else None
        try:
            if address not in self._trust:
                raise NotProxied("it is not in --forwarded-allow-ips")
            async with asyncio.timeout(self._timeout):
                header = await _take(sock)
        except (NotProxied, TimeoutError) as error:
            self._warn(address or "a unix socket", str(error) or "no PROXY header in time")
            raise ConnectionAbortedError(f"not proxied: {error}") from error
        return header.addresses

    def _warn(self, peer: str, reason: str) -> None:
        self._dropped += 1
        now = time.monotonic()
        if now - self._warned_at >= WARNING_INTERVAL:
            log.warning("--proxy-protocol: dropped a connection from %s: %s", peer, reason)
            if self._dropped > 1:
                log.warning("%d were dropped since the last time", self._dropped)
            self._warned_at, self._dropped = now, 0


async def _take(sock: socket.socket) -> Header:
    """Receive as much as belongs to the header, and not a byte more."""
    taken = b""
    while True:
        await _readable(sock)
        try:
            seen = sock.recv(_PEEK_BYTES, socket.MSG_PEEK)
            if not seen:
                raise ConnectionResetError("closed before a PROXY header")
            header = parse_header(taken + seen)
            rest = len(seen) if header is None else header.size - len(taken)
            taken += sock.recv(rest)
        except BlockingIOError, InterruptedError:
            continue
        if header is not None:
            return header


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _set_once, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
