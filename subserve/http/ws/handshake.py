"""The opening handshake (RFC 6455, section 4.2): what is asked for, and what is answered."""

import base64
import hashlib
import re
from collections.abc import Iterable
from typing import Final

from subserve.http.h1.head import TOKEN
from subserve.http.h1.response import ResponseHead, error_response
from subserve.http.ws.deflate import Agreement, Settings, agree

VERSION: Final = b"13"

UPGRADE_REQUIRED: Final = 426
BAD_REQUEST: Final = 400

_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
"""16 bytes in base64 (section 4.2.1)."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What proves that the answer is to this key, and not from a cache (section 1.3)."""

_OURS: Final = frozenset(
    {
        *(b"upgrade", b"sec-websocket-accept", b"sec-websocket-extensions"),
        *(b"sec-websocket-protocol", b"sec-websocket-version"),
    }
)
"""Headers of the answer that are the server's to send; the subprotocol is said elsewhere (ASGI)."""

CONNECTION_UPGRADE: Final = b"connection: Upgrade\r\n"

type Headers = list[tuple[bytes, bytes]]


class Rejected(Exception):
    """The request asks for no WebSocket that we speak.

    `status` is the answer; the reason holds nothing that the client has sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def response(self, date: bytes) -> bytes:
        """Return the whole answer, after which we close (section 4.4)."""
        answer = error_response(self.status, date)
        if self.status == UPGRADE_REQUIRED:
            # RFC 9110, section 15.5.22, asks for Upgrade, and section 7.8 for its option.
            extra = b"upgrade: websocket\r\nsec-websocket-version: " + VERSION + b"\r\n\r\n"
            answer = answer.replace(b"connection: close", b"connection: upgrade, close", 1)
            answer = answer[:-2] + extra
        return answer


class Handshake:
    """What a client asks for: subprotocols by preference, and compression, if we do it.

    `headers` are pairs of lower-case name and value of a GET request in HTTP/1.1 that says that it
    wants to be a WebSocket.  `settings` is None where nothing is to be compressed.  Raises
    `Rejected`.
    """

    __slots__ = ("_key", "agreement", "subprotocols")

    def __init__(self, headers: Headers, settings: Settings | None) -> None:
        versions: list[bytes] = []
        keys: list[bytes] = []
        protocols: list[bytes] = []
        extensions: list[bytes] = []
        wanted = {
            b"sec-websocket-version": versions,
            b"sec-websocket-key": keys,
            b"sec-websocket-protocol": protocols,
            b"sec-websocket-extensions": extensions,
        }
        for name, value in headers:
            if name in wanted:
                wanted[name].append(value)
        if not versions or len(keys) != 1 or not _KEY.fullmatch(keys[0]):
            raise Rejected(BAD_REQUEST, "a WebSocket handshake without its version or key")
        if versions != [VERSION]:
            raise Rejected(UPGRADE_REQUIRED, "another version of WebSocket than 13")
        self._key = keys[0]
        self.subprotocols = _subprotocols(protocols)
        self.agreement: Agreement | None = None
        offers = b", ".join(filter(None, extensions))
        if offers and settings is not None:
            try:
                self.agreement = agree(offers, settings)
            except ValueError as error:
                raise Rejected(BAD_REQUEST, str(error)) from None

    def response(
        self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]], date: bytes
    ) -> bytes:
        """Return the answer that opens the WebSocket, with what the app has to add to it.

        Raises `ValueError` for a subprotocol that was not offered, and for headers that are not
        valid or not the app's to send (ASGI 3, websocket.accept).
        """
        accept = base64.b64encode(hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest())
        pairs = [
            (b"upgrade", b"websocket"),
            (b"sec-websocket-accept", accept),
        ]
        if self.agreement is not None:
            pairs.append((b"sec-websocket-extensions", self.agreement.response))
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ValueError("the app accepts a subprotocol that was not offered")
            pairs.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
        head = ResponseHead(101, [*pairs, *_allowed(headers)])
        return head.lines + CONNECTION_UPGRADE + (b"" if head.dated else date) + b"\r\n"


def _allowed(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    pairs = [(name, value) for name, value in headers]
    for name, _ in pairs:
        if name.lower() in _OURS:
            raise ValueError(f"the app sends a header that is the server's: {name!r}")
    return pairs


def _subprotocols(values: list[bytes]) -> list[str]:
    """Return the names in the client's order; each is a token, and named once (section 4.1)."""
    names = [name.strip(b" \t") for value in values for name in value.split(b",")]
    # An empty element of a list is to be ignored (RFC 9110, section 5.6.1.2).
    names = [name for name in names if name]
    for name in names:
        if name.translate(None, TOKEN):
            raise Rejected(BAD_REQUEST, "a subprotocol that is no token")
    if len(set(names)) != len(names):
        raise Rejected(BAD_REQUEST, "a subprotocol that is named twice")
    return [name.decode("ascii") for name in names]
