"""Whom to believe: the networks of the proxies in front of us, as an operator writes them."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

type _Network = IPv4Network | IPv6Network

EVERYBODY = "*"
UNIX = "unix"

_MAX_KNOWN = 1024


def parse_networks(text: str) -> str:
    """Check one or more of ``10.0.0.0/8``, ``::1``, ``unix`` and ``*``, separated by commas.

    Returns them without spaces.  Raises `ValueError` that names what is none.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part in {EVERYBODY, UNIX}:
            continue
        try:
            ip_network(part)
        except ValueError:
            raise ValueError(_advice(part)) from None
    return ",".join(parts)


def _advice(part: str) -> str:
    try:
        wider = ip_network(part, strict=False)
    except ValueError:
        return f"expected networks such as 10.0.0.0/8, addresses, unix or *, not {part!r}"
    return f"{part} has bits set behind its prefix: did you mean {wider}?"


class Trust:
    """Tells trusted addresses from others.  `texts` are what `parse_networks` returned."""

    def __init__(self, texts: Iterable[str]) -> None:
        parts = {part for text in texts for part in text.split(",")}
        self.everybody = EVERYBODY in parts
        self.unix = self.everybody or UNIX in parts
        self._networks: list[_Network] = [ip_network(p) for p in parts - {EVERYBODY, UNIX}]
        self._known: dict[str, bool] = {}

    def __contains__(self, address: str | None) -> bool:
        """Tell whether to believe a peer; None is one on a unix socket."""
        if address is None:
            return self.unix
        if self.everybody:
            return True
        known = self._known.get(address)
        if known is None:
            known = self._look_up(address)
            if len(self._known) < _MAX_KNOWN:
                self._known[address] = known
        return known

    def _look_up(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # IPv4 on a socket that takes both
        return any(parsed in network for network in self._networks)
