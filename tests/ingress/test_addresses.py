"""The sender's address is the connection's, unless a configured proxy reports another."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.errors import ConfigError
from kekbridge.ingress.addresses import ClientAddresses, parse_address
from kekbridge.model.networks import TRADINGVIEW, AllowList

DIRECT = ClientAddresses((), behind_proxy=False)
PROXIED = ClientAddresses(("127.0.0.1", "10.0.0.0/8", "fd00::/8"), behind_proxy=True)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # no proxy: the header is whatever the sender liked
        ("203.0.113.7", "127.0.0.1", "203.0.113.7"),
    ],
)
def test_without_proxies_the_header_is_ignored(peer: str, forwarded_for: str, expected: str) -> None:
    """X-Forwarded-For is opt-in: a sender cannot choose its own address."""
    assert str(DIRECT.of(peer, forwarded_for)) == expected


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "52.89.214.238, 203.0.113.7", "203.0.113.7"),  # the left part is forged by the sender
        ("127.0.0.1", "203.0.113.7, 10.1.2.3", "203.0.113.7"),  # two trusted hops
        ("10.9.9.9", "52.89.214.238, 203.0.113.7, 10.1.2.3, 10.1.2.4", "203.0.113.7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("127.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("::ffff:127.0.0.1", "::ffff:203.0.113.7", "203.0.113.7"),  # a dual-stack socket
        ("203.0.113.9", "52.89.214.238", "203.0.113.9"),  # a peer that is no proxy of ours
        ("127.0.0.1", "10.1.1.1, 10.1.1.2", "10.1.1.1"),  # only proxies: the farthest
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7, unknown", "unknown"),  # the proxy itself did not know
        ("127.0.0.1", "203.0.113.7, _hidden, 10.0.0.1", "unknown"),
        ("127.0.0.1", ",,,", "unknown"),
        (None, "203.0.113.7", "unknown"),
    ],
)
def test_the_right_most_untrusted_hop_is_the_sender(peer: str | None, forwarded_for: str | None, expected: str) -> None:
    """Only what trusted proxies appended counts; everything left of it may be forged."""
    assert str(PROXIED.of(peer, forwarded_for)) == expected


@given(st.text(max_size=60), st.ip_addresses())
def test_no_forged_prefix_changes_the_address(forged: str, real: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Whatever the sender puts into the header, the address that the proxy appends is found."""
    expected = PROXIED.of(str(real), None).address
    if PROXIED.is_trusted_proxy(expected):
        return
    assert PROXIED.of("127.0.0.1", f"{forged}, {real}").address == expected


@given(st.one_of(st.none(), st.text(max_size=80)), st.one_of(st.none(), st.text(max_size=80)))
def test_no_header_is_an_error(peer: str | None, forwarded_for: str | None) -> None:
    """Junk gives no address and raises nothing."""
    assert isinstance(str(PROXIED.of(peer, forwarded_for)), str)


def test_shared_addresses_are_marked() -> None:
    """TradingView's senders and unnamed proxies are addresses of many senders: locking them out would lock the trader out."""
    assert DIRECT.of(TRADINGVIEW[0], None).is_shared
    assert not DIRECT.of("203.0.113.7", None).is_shared
    assert PROXIED.of("127.0.0.1", None).is_shared
    assert PROXIED.of("127.0.0.1", TRADINGVIEW[1]).is_shared
    assert not PROXIED.of("127.0.0.1", "203.0.113.7").is_shared
    assert ClientAddresses((), behind_proxy=True).of("203.0.113.7", "198.51.100.1").is_shared


@pytest.mark.parametrize(
    ("words", "address", "is_allowed"),
    [
        ((), "203.0.113.7", True),
        (("203.0.113.7",), "203.0.113.7", True),
        (("203.0.113.7",), "203.0.113.8", False),
        (("203.0.113.0/24",), "203.0.113.8", True),
        (("203.0.113.9/24",), "203.0.113.8", True),
        (("tradingview",), "34.212.75.30", True),
        (("TradingView", "2001:db8::/32"), "2001:db8:1::1", True),
        (("tradingview",), "34.212.75.31", False),
        (("0.0.0.0/0",), "2001:db8::1", False),
        (("::/0",), "203.0.113.7", False),
        (("203.0.113.7",), "::ffff:203.0.113.7", True),
        (("tradingview",), "unknown", False),
        (("0.0.0.0/0", "::/0"), "unknown", False),
        ((), "unknown", True),
    ],
)
def test_the_allow_list(words: tuple[str, ...], address: str, *, is_allowed: bool) -> None:
    """Addresses, networks and the word tradingview; an unknown address is on no list; an empty list allows every address."""
    assert AllowList.parse(words, "x").allows(parse_address(address)) is is_allowed


@pytest.mark.parametrize("word", ["bridge.example.com", "203.0.113", "203.0.113.7/33", "", "*"])
def test_an_unreadable_network_names_its_setting(word: str) -> None:
    """A typing error must not silently allow or refuse senders."""
    with pytest.raises(ConfigError) as caught:
        AllowList.parse((word,), "auth.allowed_addresses")
    assert "auth.allowed_addresses" in caught.value.message
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies"):
        ClientAddresses((word,), behind_proxy=True)
