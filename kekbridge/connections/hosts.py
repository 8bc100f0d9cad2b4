"""Whether a host name or address means this machine, and whether a browser's request comes from a foreign page. Pure.

A page that a browser shows can send requests to this machine's loopback listeners: under a name of its own that resolves to it (DNS
rebinding, visible in Host), or from another origin (visible in Origin).
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str | None) -> bool:
    """True for a loopback address, IPv4 mapped into IPv6 included, and for the name localhost."""
    if host is None:
        return False
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_our_name(authority: str) -> bool:
    """True if a Host header names this machine. A foreign name that resolves to it is a DNS rebinding attack."""
    try:
        return is_loopback(urlsplit(f"//{authority}").hostname)
    except ValueError:
        return False


def is_foreign_origin(origin: str | None, authority: str) -> bool:
    """True if a browser sent the request from another page than this listener's. `authority`: its Host header."""
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != authority
    except ValueError:
        return True
