"""Find the address that a request comes from, behind proxies too.

X-Forwarded-For counts only as far as configured proxies wrote it. An address is never authentication: everyone with a TradingView account
sends from TradingView's addresses (docs/internals/tradingview.md section 5).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address

from kekbridge.model.networks import Address, AllowList

_LONGEST_CHAIN = 32
_IPV6_HOST_BITS = 64


@dataclass(frozen=True, slots=True)
class Client:
    """The address of a sender."""

    #: None if it cannot be known.
    address: Address | None
    #: Many senders share this address, so it must never be locked out.
    is_shared: bool

    def __str__(self) -> str:
        return str(self.address) if self.address else "unknown"


class ClientAddresses:
    """Finds the sender's address from the connection's peer and X-Forwarded-For."""

    def __init__(self, trusted_proxies: Iterable[str], *, behind_proxy: bool) -> None:
        """Raises ConfigError when a trusted proxy is neither an address nor a network."""
        proxies = tuple(trusted_proxies)
        self._proxies = AllowList.parse(proxies, "server.trusted_proxies") if proxies else None
        self._behind_proxy = behind_proxy
        self._tradingview = AllowList.parse(("tradingview",), "")
        # A sender's address recurs with each of its alerts; a peer's address is written by the kernel, so it is short.
        self._direct = lru_cache(maxsize=1024)(self._direct_client)

    def of(self, peer: str | None, forwarded_for: str | None) -> Client:
        """The right-most hop that is not a trusted proxy.

        `peer`: the connection's address; `forwarded_for`: every X-Forwarded-For header joined by commas, in order. The header of a peer
        that is not a trusted proxy is not even read; a forged left part never counts, because hops are read only behind trusted ones.
        """
        if self._proxies is None:
            return self._direct(peer)
        address = parse_address(peer)
        if not self.is_trusted_proxy(address):
            return self._direct(peer)
        if not forwarded_for:
            return Client(address, is_shared=True)
        for hop in reversed(forwarded_for.split(",")[-_LONGEST_CHAIN:]):
            address = parse_address(hop)
            if address is None:
                return Client(None, is_shared=True)  # the proxy passed on text that is not an address
            if not self.is_trusted_proxy(address):
                return Client(address, self._is_tradingview(address))
        return Client(address, is_shared=True)

    def _direct_client(self, peer: str | None) -> Client:
        address = parse_address(peer)
        # Behind an unnamed proxy every sender has the proxy's address.
        return Client(address, self._behind_proxy or self._is_tradingview(address))

    def is_trusted_proxy(self, address: Address | None) -> bool:
        """True if the address is one of server.trusted_proxies."""
        return self._proxies is not None and self._proxies.allows(address)

    def is_proxy(self, peer: str) -> bool:
        """True if connections from this address are those of many senders: of a trusted proxy, or of the unnamed one that is in front."""
        if self._proxies is None:
            return self._behind_proxy
        return self._proxies.allows(parse_address(peer))

    def _is_tradingview(self, address: Address | None) -> bool:
        return self._tradingview.allows(address)


def parse_address(text: str | None) -> Address | None:
    """Parse an address as proxies write it: bare, with a port, IPv6 in brackets, with a zone. None if unreadable.

    IPv4 mapped into IPv6 becomes plain IPv4, so that one sender has one address.
    """
    if text is None:
        return None
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def network_key(address: Address) -> Address:
    """What counts as one sender: the address itself, for IPv6 the first one of its /64, which one customer has as a whole."""
    if isinstance(address, IPv6Address):
        return IPv6Address(int(address) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS)
    return address
