"""Lockout: addresses that keep failing to authenticate are locked out; it cannot be used against the trader."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kekbridge.errors import ConfigError
from kekbridge.ingress.addresses import Client, parse_address
from kekbridge.ingress.lockout import LockedOut, Lockout, read_address

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def client(text: str, *, is_shared: bool = False) -> Client:
    return Client(parse_address(text), is_shared)


@pytest.fixture
def lockout() -> Lockout:
    return Lockout(failures=3, window_s=60, lockout_s=300)


def test_too_many_failures_lock_out_for_the_set_time(lockout: Lockout) -> None:
    """The third failure within the window locks out; the time left is whole seconds rounded up; afterwards the count starts at zero."""
    sender = client("203.0.113.7")
    assert [lockout.record_failure(sender, at(second)) for second in (0, 10, 20)] == [False, False, True]
    assert lockout.blocked_for(sender, at(20)) == 300
    assert lockout.blocked_for(sender, at(319.5)) == 1
    assert lockout.blocked_for(sender, at(320)) == 0
    assert lockout.record_failure(sender, at(321)) is False
    assert lockout.blocked_for(sender, at(321)) == 0


def test_failures_far_apart_do_not_add_up(lockout: Lockout) -> None:
    """Two failures a minute are a wrong alert, not an attack."""
    sender = client("203.0.113.7")
    for second in range(0, 6000, 31):
        assert lockout.record_failure(sender, at(second)) is False


def test_a_success_clears_the_count(lockout: Lockout) -> None:
    """An address that sent a valid proof starts at zero."""
    sender = client("203.0.113.7")
    lockout.record_failure(sender, at(0))
    lockout.record_failure(sender, at(1))
    lockout.record_success(sender)
    assert lockout.record_failure(sender, at(2)) is False


def test_other_addresses_are_not_locked_out(lockout: Lockout) -> None:
    """The lockout is per address."""
    for second in range(3):
        lockout.record_failure(client("203.0.113.7"), at(second))
    assert lockout.blocked_for(client("203.0.113.8"), at(3)) == 0


def test_ipv6_counts_by_64(lockout: Lockout) -> None:
    """One customer has a whole /64: changing the last half does not help, and another /64 is not affected."""
    for last in ("1", "2", "ffff"):
        lockout.record_failure(client(f"2001:db8:0:1::{last}"), at(0))
    assert lockout.blocked_for(client("2001:db8:0:1:aaaa::9"), at(1)) > 0
    assert lockout.blocked_for(client("2001:db8:0:2::1"), at(1)) == 0


def test_shared_and_unknown_addresses_are_never_locked(lockout: Lockout) -> None:
    """Any TradingView customer could otherwise lock the trader's alerts out by sending junk to the trader's URL."""
    for sender in (client("52.89.214.238", is_shared=True), Client(None, is_shared=False)):
        for second in range(10):
            assert lockout.record_failure(sender, at(second)) is False
        assert lockout.blocked_for(sender, at(10)) == 0


def test_a_lockout_can_be_listed_and_lifted(lockout: Lockout) -> None:
    """The operator can list lockouts and lift one."""
    sender = client("203.0.113.7")
    for second in range(3):
        lockout.record_failure(sender, at(second))
    assert sender.address is not None
    assert lockout.locked(at(3)) == (LockedOut(address="203.0.113.7", count=3, since=at(0), until=at(302)),)
    assert lockout.release(sender.address)
    assert not lockout.release(sender.address)
    assert lockout.blocked_for(sender, at(4)) == 0
    assert lockout.locked(at(4)) == ()


def test_memory_is_bounded(lockout: Lockout) -> None:
    """Only the last ten thousand addresses are kept, however many fail."""
    for number in range(30_000):
        lockout.record_failure(client(f"2001:db8:{number // 65_536:x}:{number % 65_536:x}::1"), at(0))
    for second in range(2):
        lockout.record_failure(client("2001:db8:0:752f::1"), at(second))
    assert len(lockout.locked(at(2))) == 1
    assert lockout.address_count == 10_000


def test_each_lockout_is_reported_once_when_it_begins() -> None:
    """Not each failure, and not again while it lasts; the next lockout is reported again."""
    locked_out: list[LockedOut] = []
    lockout = Lockout(failures=3, window_s=60, lockout_s=300, on_lockout=locked_out.append)
    for second in range(10):
        lockout.record_failure(client("203.0.113.7"), at(second))
    for second in range(400, 403):
        lockout.record_failure(client("2001:db8:0:1::9"), at(second))
    assert locked_out == [
        LockedOut(address="203.0.113.7", count=3, since=at(0), until=at(302)),
        LockedOut(address="2001:db8:0:1::/64", count=3, since=at(400), until=at(702)),
    ]


def test_an_ipv6_network_is_lifted_as_it_is_listed(lockout: Lockout) -> None:
    """A listed network can be typed back, and so can any address in it; other text is an error of one line."""
    for text in ("2001:db8:0:1::/64", "2001:db8:0:1:aaaa::9"):
        for second in range(3):
            lockout.record_failure(client("2001:db8:0:1::9"), at(second))
        assert lockout.release(read_address(text))
        assert lockout.locked(at(4)) == ()
    for text in ("", "nobody", "1.2.3.4/99", "::/"):
        with pytest.raises(ConfigError, match="is not an address"):
            read_address(text)
