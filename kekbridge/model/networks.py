"""Address ranges that may send alerts, and TradingView's published addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kekbridge.errors import ConfigError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# TradingView's published webhook senders (help page 43000529348). The list can change: the setting takes networks too.
TRADINGVIEW = ("52.89.214.238", "34.212.75.30", "54.218.53.128", "52.32.178.7")


@dataclass(frozen=True, slots=True)
class AllowList:
    """Networks that may send alerts."""

    #: Empty: every address is allowed.
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, words: Iterable[str], setting: str) -> AllowList:
        """Parse addresses, networks such as 10.0.0.0/8, and the word `tradingview`. Raises ConfigError that names `setting`."""
        networks: list[Network] = []
        for word in words:
            texts: Sequence[str] = TRADINGVIEW if word.strip().lower() == "tradingview" else (word.strip(),)
            networks += [_network(text, setting) for text in texts]
        return cls(tuple(networks))

    def allows(self, address: Address | None) -> bool:
        """True if the address (None: unknown) is listed, or if the list is empty."""
        if not self.networks:
            return True
        return address is not None and any(_contains(network, address) for network in self.networks)


def _network(text: str, setting: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(
            f"{setting}: {text!r} is not an address; write an address (203.0.113.7), a network (10.0.0.0/8) or tradingview",
            field=setting,
        ) from None


def _contains(network: Network, address: Address) -> bool:
    return network.version == address.version and address in network
