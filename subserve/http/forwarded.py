"""What proxies in front of us say about a request: headers in, headers and a client out.

Pure: no sockets, no time.  Read are ``X-Forwarded-For``, ``-Proto``, ``-Host``, ``-Port`` and
``-Prefix``, and ``Forwarded`` (RFC 7239), from trusted peers only.  `docs/proxies.md` says how an
operator sees it.

A chain of proxies writes from left to right, so what the peer itself has added is the right-most
entry.  The client is the right-most hop that is not trusted: what stands to the left of it may be
made up, and the app does not get to see it.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from subserve.options import Config
from subserve.trust import Trust

type Headers = list[tuple[bytes, bytes]]
type Client = tuple[str, int] | None
type Server = tuple[str, int | None] | None
type Addresses = tuple[Client, Server]

FOR: Final = b"x-forwarded-for"
PROTO: Final = b"x-forwarded-proto"
HOST: Final = b"x-forwarded-host"
PORT: Final = b"x-forwarded-port"
PREFIX: Final = b"x-forwarded-prefix"
FORWARDED: Final = b"forwarded"

_X: Final = b"x-forwarded-"
READ: Final = (FOR, PROTO, HOST, PORT, PREFIX, FORWARDED)

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9\-._~]{1,255})(?::([0-9]{1,5}))?")
"""A name or an address, and perhaps a port (RFC 3986, section 3.2.2, without what no DNS name has).
"""
_PREFIX = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+;=:@]+)+/?")
"""A path of segments that are not empty: ``//evil.example`` would be another host in a link."""
_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::([0-9]{1,5}|_[\w.\-]+))?", re.ASCII
)
"""RFC 7239, section 6: an address and perhaps a port, which may be made up."""
_PAIR = re.compile(
    r'\s*([!#$%&\'*+\-.^_`|~\w]+)=([!#$%&\'*+\-.^_`|~\w:\[\]]+|"(?:[^"\\]|\\.)*")\s*', re.ASCII
)
"""RFC 7239, section 4; without quotes it takes colons and brackets, too, which many send."""


@dataclass(frozen=True, slots=True)
class Told:
    """A request as its proxies tell it.  `root_path` is None where they name no prefix."""

    client: Client
    scheme: str
    server: Server
    root_path: str | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class _Hop:
    """Who has talked to a proxy; `address` is None for one on a unix socket."""

    address: str | None
    port: int = 0


type _Heard = tuple[_Found, Headers]
"""What the headers say, and those of them that are shown to the app."""

_MAX_KNOWN: Final = 1024
_MAX_KNOWN_BYTES: Final = 256
"""So many sets of headers of up to so many bytes are remembered: a client sends more than one
request, and reading an address takes longer than all else that is done for a small one."""


def is_about_forwarding(name: bytes) -> bool:
    """Tell whether a header, in lower case, is one that proxies write."""
    return name == FORWARDED or name.startswith(_X)


class Forwarding:
    """What is believed of whom.

    `trust` are the proxies; `believed` are the headers (lower case) that they are known to write:
    others of that kind are a client's, which they have let through.
    """

    def __init__(self, trust: Trust, believed: Iterable[str]) -> None:
        self.trust = trust
        self.believed: Final = frozenset(name.encode() for name in believed)
        self._known: dict[tuple[tuple[bytes, bytes], ...], _Heard] = {}

    @classmethod
    def of(cls, config: Config) -> Forwarding:
        """Return what the operator has configured."""
        names = [name for text in config.forwarded_headers for name in text.split(",")]
        return cls(Trust(config.forwarded_allow_ips), names)

    def read(self, headers: Headers, client: Client, scheme: str, server: Server) -> Told:
        """Return the request as the app is to see it.

        `client`, `scheme` and `server` are the connection's; a client without an address is on a
        unix socket.
        """
        if (client[0] if client else None) not in self.trust:
            ours = [pair for pair in headers if not is_about_forwarding(pair[0])]
            return Told(client, scheme, server, None, ours)
        sent = tuple([pair for pair in headers if pair[0] in self.believed])
        heard = self._known.get(sent)
        if heard is None:
            heard = self._hear(sent)
            if sum(len(value) for _, value in sent) <= _MAX_KNOWN_BYTES:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[sent] = heard
        return _tell(*heard, headers, client, scheme, server)

    def _hear(self, sent: Iterable[tuple[bytes, bytes]]) -> _Heard:
        """Return what a trusted proxy has said by these headers."""
        kept: dict[bytes, list[str]] = {}
        for name, value in sent:
            kept.setdefault(name, []).append(value.decode("latin-1"))
        if kept.keys() == {FORWARDED}:
            found, shown = self._read_forwarded(kept[FORWARDED])
        else:
            # Most proxies write the ones, and let the other through as the client has sent it.
            kept.pop(FORWARDED, None)
            found, shown = self._read_x(kept)
        return found, [(name, text.encode("latin-1")) for name, text in shown.items()]

    def _read_x(self, kept: dict[bytes, list[str]]) -> tuple[_Found, dict[bytes, str]]:
        lists = {}
        for name, lines in kept.items():
            # Empty entries do not count (RFC 9110, section 5.6.1.2).
            if entries := [text for part in ",".join(lines).split(",") if (text := part.strip())]:
                lists[name] = entries
        found = _Found()
        shown: dict[bytes, str] = {}
        depth = 1
        if FOR in lists:
            depth = self._find_client(found, map(_parse_hop, reversed(lists[FOR])))
            shown[FOR] = ", ".join(lists[FOR][-depth:])
        for name, read in _READERS.items():
            if name in lists:
                # Entry for entry beside those of X-Forwarded-For, or one for all.
                values = lists[name][-depth:]
                if read(found, values[0]):
                    shown[name] = ", ".join(values)
        return found, shown

    def _read_forwarded(self, lines: list[str]) -> tuple[_Found, dict[bytes, str]]:
        found = _Found()
        elements = _parse_elements(", ".join(lines))
        if not elements:
            # An open quotation mark of the client's, say, hides what the proxy has written.
            found.client_told = True
            return found, {}
        depth = 1
        if "for" in elements[-1]:
            nodes = (element.get("for", "") for element in reversed(elements))
            depth = self._find_client(found, map(_parse_hop, nodes))
        element = elements[-depth]
        _take_proto(found, element.get("proto", ""))
        _take_host(found, element.get("host", ""))
        return found, {FORWARDED: ", ".join(map(_element_text, elements[-depth:]))}

    def _find_client(self, found: _Found, hops: Iterable[_Hop | None]) -> int:
        """Note the first of `hops`, from the right, that is not trusted; return which one it is."""
        found.client_told = True
        depth = 0
        for hop in hops:
            depth += 1
            found.hop = hop
            if hop is None or hop.address not in self.trust:
                break
        return depth


@dataclass(slots=True)
class _Found:
    """What the headers say, as far as it makes sense."""

    client_told: bool = False
    hop: _Hop | None = None
    """The client, None where it is told but not known: it must not pass for the proxy."""
    scheme: str | None = None
    host: str | None = None
    name: str | None = None
    port: int | None = None
    root_path: str | None = None


def _take_proto(found: _Found, text: str) -> bool:
    scheme = {"http": "http", "https": "https", "ws": "http", "wss": "https"}.get(text.lower())
    found.scheme = scheme
    return scheme is not None


def _take_host(found: _Found, text: str) -> bool:
    match = _HOST.fullmatch(text)
    if match is None or int(match[2] or 0) > 65535:
        return False
    if text.startswith("[") and not _is_address(match[1].strip("[]")):
        return False
    found.host, found.name = text, match[1]
    if found.port is None and match[2]:
        found.port = int(match[2])
    return True


def _take_port(found: _Found, text: str) -> bool:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        return False
    found.port = int(text)
    return True


def _take_prefix(found: _Found, text: str) -> bool:
    if text != "/" and (
        _PREFIX.fullmatch(text) is None or not {".", ".."}.isdisjoint(text.split("/"))
    ):
        return False
    found.root_path = text.rstrip("/")
    return True


_READERS: Final[dict[bytes, Callable[[_Found, str], bool]]] = {
    PROTO: _take_proto,
    PORT: _take_port,  # before the host, whose own port it overrules
    HOST: _take_host,
    PREFIX: _take_prefix,
}


def _tell(
    found: _Found,
    shown: Headers,
    headers: Headers,
    client: Client,
    scheme: str,
    server: Server,
) -> Told:
    if found.client_told:
        hop = found.hop
        client = None if hop is None or hop.address is None else (hop.address, hop.port)
    if found.scheme is not None:
        scheme = _like(found.scheme, scheme)
    if found.name is not None:
        plain = "https" if scheme in {"https", "wss"} else "http"
        server = (found.name.strip("[]"), found.port or _DEFAULT_PORTS[plain])
    elif found.port is not None and server is not None and server[1] is not None:
        server = (server[0], found.port)
    return Told(client, scheme, server, found.root_path, _rewritten(headers, shown, found.host))


def _like(scheme: str, other: str) -> str:
    """Return `scheme`, of HTTP, as a WebSocket has it if `other` is one's."""
    if other in {"ws", "wss"}:
        return "wss" if scheme == "https" else "ws"
    return scheme


def _rewritten(headers: Headers, shown: Headers, host: str | None) -> Headers:
    """Return headers with what is believed in the place of what was sent."""
    made = [pair for pair in headers if pair[0] not in READ]
    made += shown
    if host is not None:
        made = [(b"host", host.encode()), *(pair for pair in made if pair[0] != b"host")]
    return made


def _parse_hop(text: str) -> _Hop | None:
    """Read an entry of X-Forwarded-For, or a node of RFC 7239; None where it is no address."""
    if text == "unix:":  # nginx, about a client on a unix socket
        return _Hop(None)
    match = _NODE.fullmatch(text)
    if match is not None:
        address, port = match[1] or match[2], match[3] or ""
    else:
        address, port = text, ""  # IPv6 without brackets
    if not _is_address(address) or (port.isdigit() and int(port) > 65535):
        return None
    return _Hop(str(ip_address(address)), int(port) if port.isdigit() else 0)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # a zone means nothing on another machine


def _parse_elements(text: str) -> list[dict[str, str]]:
    """Read ``Forwarded`` from the right, as far as it keeps to the grammar (RFC 7239, section 4).

    What is to the left of an element that does not was written by somebody we cannot follow.
    """
    elements: list[dict[str, str]] = []
    for part in reversed(_split(text, ",")):
        element: dict[str, str] = {}
        for pair in _split(part, ";"):
            match = _PAIR.fullmatch(pair)
            if match is None or match[1].lower() in element:
                return elements
            element[match[1].lower()] = _unquoted(match[2])
        elements.insert(0, element)
    return elements


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that are not within quotation marks; an open one is kept to the end."""
    parts, begin, quoted, escaped = [], 0, False, False
    for place, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[begin:place])
            begin = place + 1
    return [*parts, text[begin:]]


def _element_text(element: dict[str, str]) -> str:
    return ";".join(f"{name}={_quoted(value)}" for name, value in element.items())


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def _quoted(value: str) -> str:
    """Return a value as it is, or quoted where it is no token."""
    if re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
