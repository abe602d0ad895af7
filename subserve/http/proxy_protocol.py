"""The header that a proxy puts in front of a connection: PROXY protocol, version 1 and 2.

Source: "The PROXY protocol, versions 1 & 2" of HAProxy (2020/03/05), section 2.  Pure: bytes in, a
header or a refusal out.  The header comes before everything else, TLS included, and says between
whom the connection is that the proxy passes on.
"""

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from subserve.http.forwarded import Addresses

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""How version 2 begins; nothing that HTTP or TLS could begin with."""

MAX_V1_BYTES: Final = 107
"""Section 2.1: the longest line there can be, its CRLF included."""

_V1 = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})"
)
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")

_V2_HEAD = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESSES: Final = {
    _TCP4: struct.Struct("!4s4sHH"),
    _TCP6: struct.Struct("!16s16sHH"),
    _UNIX: struct.Struct("!108s108s"),
}


class NotProxied(Exception):
    """What came is no such header; the connection is to be dropped without an answer."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header that was read.

    `size` is how many bytes it took.  `addresses` are the client and where it has connected to;
    None where the connection is the proxy's own (a health check, say) or of a kind it cannot tell:
    then the connection's own are what there is.
    """

    size: int
    addresses: Addresses | None


def parse_header(data: bytes) -> Header | None:
    """Read the header that `data` begins with; None while it is not complete.

    As long as that is so, all of `data` belongs to it.  Raises `NotProxied`.
    """
    if data.startswith(SIGNATURE[: len(data)]):
        return _parse_v2(data) if len(data) >= _V2_HEAD.size else None
    return _parse_v1(data)


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        begins_well = data[:6] == b"PROXY "[: len(data)]
        if not begins_well or len(data) >= MAX_V1_BYTES or b"\n" in data:
            raise NotProxied("no PROXY line")
        return None
    line, size = data[:end], end + 2
    if _V1_UNKNOWN.fullmatch(line):
        return Header(size, None)
    match = _V1.fullmatch(line)
    if match is None:
        raise NotProxied("a PROXY line that is none")
    family, source, target, source_port, target_port = (part.decode() for part in match.groups())
    kind = IPv4Address if family == "TCP4" else IPv6Address
    try:
        client, server = str(kind(source)), str(kind(target))
    except ValueError:
        raise NotProxied("a PROXY line with an address that is none") from None
    return Header(size, ((client, _port(source_port)), (server, _port(target_port))))


def _port(text: str) -> int:
    if int(text) > 65535 or (text[0] == "0" and text != "0"):
        raise NotProxied("a PROXY line with a port that is none")
    return int(text)


def _parse_v2(data: bytes) -> Header | None:
    _, command, family, length = _V2_HEAD.unpack_from(data)
    if command not in {_LOCAL, _PROXY}:
        raise NotProxied("a version or a command other than LOCAL and PROXY of version 2")
    size = _V2_HEAD.size + length
    layout = _ADDRESSES.get(family)
    if command == _PROXY:
        if layout is None and family != _UNSPEC:
            raise NotProxied("a protocol other than TCP and unix sockets")
        if layout is not None and length < layout.size:
            raise NotProxied("a header too short for its addresses")
    if len(data) < size:
        return None
    # Behind the addresses come TLVs (section 2.2), of which none is needed here.
    if command == _LOCAL or layout is None:
        return Header(size, None)
    fields = layout.unpack_from(data, _V2_HEAD.size)
    if family == _UNIX:
        return Header(size, (None, (fields[1].rstrip(b"\0").decode("utf-8", "replace"), None)))
    kind = IPv4Address if family == _TCP4 else IPv6Address
    source, target, source_port, target_port = fields
    return Header(size, ((str(kind(source)), source_port), (str(kind(target)), target_port)))
