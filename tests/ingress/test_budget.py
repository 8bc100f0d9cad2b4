"""The budget of refusals: 300 at once, then 5 a second, per address, and never for addresses that many share."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.ingress.addresses import Client, ClientAddresses
from kekbridge.ingress.budget import RefusalBudget

HOME = Client(ip_address("203.0.113.7"), is_shared=False)
OTHER = Client(ip_address("203.0.113.8"), is_shared=False)


def test_the_burst_is_read_and_then_five_a_second() -> None:
    """300 refusals at once use it up; each 0.2 s later one request is read again."""
    budget = RefusalBudget(burst=300, per_s=5)
    for _ in range(300):
        assert budget.wait_s(HOME, 0.0) == 0
        budget.charge(HOME, 0.0)
    assert budget.wait_s(HOME, 0.0) == 1
    assert budget.wait_s(OTHER, 0.0) == 0
    assert [budget.wait_s(HOME, at) for at in (0.19, 0.2)] == [1, 0]
    budget.charge(HOME, 0.2)
    assert [budget.wait_s(HOME, at) for at in (0.39, 0.4)] == [1, 0]


def test_what_is_not_charged_costs_nothing() -> None:
    """Asking is free, for however many requests that succeed."""
    budget = RefusalBudget(burst=1, per_s=0.1)
    assert [budget.wait_s(HOME, 0.0) for _ in range(1000)] == [0] * 1000
    budget.charge(HOME, 0.0)
    assert budget.wait_s(HOME, 0.0) == 10


@pytest.mark.parametrize(
    "client",
    [
        ClientAddresses((), behind_proxy=False).of("52.89.214.238", None),  # TradingView's
        ClientAddresses(("10.0.0.1",), behind_proxy=True).of("10.0.0.1", None),  # a proxy that names no sender
        ClientAddresses((), behind_proxy=True).of("10.0.0.1", "203.0.113.7"),  # an unnamed proxy
        Client(None, is_shared=True),
        Client(None, is_shared=False),
    ],
)
def test_shared_and_unknown_addresses_have_no_budget(client: Client) -> None:
    """An attacker could use up what the trader needs."""
    budget = RefusalBudget(burst=1, per_s=1)
    for _ in range(100):
        budget.charge(client, 0.0)
    assert budget.wait_s(client, 0.0) == 0
    assert not budget


def test_behind_a_named_proxy_the_budget_is_the_senders() -> None:
    """One sender's refusals do not keep another one out that came through the same proxy."""
    addresses = ClientAddresses(("10.0.0.1",), behind_proxy=True)
    budget = RefusalBudget(burst=1, per_s=1)
    budget.charge(addresses.of("10.0.0.1", "203.0.113.66"), 0.0)
    assert budget.wait_s(addresses.of("10.0.0.1", "203.0.113.66"), 0.0) == 1
    assert budget.wait_s(addresses.of("10.0.0.1", "203.0.113.7"), 0.0) == 0
    assert budget.wait_s(addresses.of("10.0.0.1", None), 0.0) == 0


def test_an_ipv6_customer_has_one_budget() -> None:
    """His whole /64."""
    budget = RefusalBudget(burst=1, per_s=1)
    budget.charge(Client(ip_address("2001:db8:1:2::1"), is_shared=False), 0.0)
    assert budget.wait_s(Client(ip_address("2001:db8:1:2:3:4:5:6"), is_shared=False), 0.0) == 1
    assert budget.wait_s(Client(ip_address("2001:db8:1:3::1"), is_shared=False), 0.0) == 0


def test_memory_is_bounded_and_forgotten() -> None:
    """Addresses whose budget is whole again are forgotten, and a flood from many pushes out the oldest."""
    budget = RefusalBudget(burst=10, per_s=1)
    for number in range(12_000):
        budget.charge(Client(ip_address(number), is_shared=False), 0.0)
    assert budget.address_count == 10_000
    assert budget.wait_s(HOME, 2.0) == 0
    assert budget.address_count == 0


@given(
    events=st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=100),
    burst=st.integers(1, 5),
    per_s=st.floats(0.5, 5),
)
def test_no_more_is_read_than_the_budget_allows(events: list[tuple[bool, float]], burst: int, per_s: float) -> None:
    """In any stretch of time at most `burst` plus `per_s` a second are read and refused, and a wait is never longer than one needs."""
    budget = RefusalBudget(burst=burst, per_s=per_s)
    now, refused_at = 0.0, list[float]()
    for is_refused, pause in events:
        now += pause
        wait_s = budget.wait_s(HOME, now)
        assert 0 <= wait_s <= 1 / per_s + 1
        if wait_s == 0 and is_refused:
            budget.charge(HOME, now)
            refused_at.append(now)
    for first, start in enumerate(refused_at):
        for count, end in enumerate(refused_at[first:], start=1):
            assert count <= burst + (end - start) * per_s + 1e-6
