"""Which connection is closed at a cap: a bound is never exceeded, the right one goes, and the newest is not refused for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kekbridge.connections.table import ENOUGH_WAITING, PATIENCE_S, ConnectionTable, address_key
from tests.examples import examples

MOST, PER_ADDRESS, BODIES, BODIES_PER_ADDRESS = 8, 4, 3, 2


def small_table() -> ConnectionTable[int]:
    return ConnectionTable(
        most=MOST, most_per_address=PER_ADDRESS, most_bodies=BODIES, most_bodies_per_address=BODIES_PER_ADDRESS
    )


@dataclass
class Row:
    """One connection of the model."""

    key: int
    address: str | None
    stage: str
    since: float
    #: Of the sender whose body arrives.
    sender: str | None = None


@dataclass
class Model:
    """The same rules, written as searches through a list that is ordered by the last change."""

    rows: list[Row] = field(default_factory=list)

    def oldest(self, stage: str, **wanted: str | None) -> Row | None:
        found = (row for row in self.rows if row.stage == stage)
        return next((row for row in found if all(getattr(row, name) == value for name, value in wanted.items())), None)

    def candidate(self, now: float) -> Row | None:
        found = [row for row in (self.oldest("unfinished"), self.oldest("body")) if row is not None]
        return next((row for row in found if now - row.since >= PATIENCE_S), found[0] if found else None)

    def remove(self, row: Row | None) -> int | None:
        if row is None:
            return None
        self.rows.remove(row)
        return row.key

    def get(self, key: int) -> Row | None:
        return next((row for row in self.rows if row.key == key), None)

    def enter(self, key: int, stage: str, now: float, sender: str | None = None) -> None:
        row = self.get(key)
        if row is not None:
            self.rows.remove(row)
            self.rows.append(replace(row, stage=stage, since=now, sender=sender))

    def add(self, key: int, address: str | None, now: float) -> int | None:
        victim = None
        if address is not None and sum(row.address == address for row in self.rows) >= PER_ADDRESS:
            victim = self.oldest("unfinished", address=address)
        if victim is None and len(self.rows) >= MOST:
            victim = self.candidate(now)
        closed = self.remove(victim)
        self.rows.append(Row(key, address, "unfinished", now))
        return closed

    def await_body(self, key: int, sender: str | None, now: float) -> int | None:
        if self.get(key) is None:
            return None
        self.enter(key, "handled", now)
        bodies = [row for row in self.rows if row.stage == "body"]
        victim = None
        if sender is not None and sum(row.sender == sender for row in bodies) >= BODIES_PER_ADDRESS:
            victim = self.oldest("body", sender=sender)
        elif len(bodies) >= BODIES:
            victim = self.oldest("body")
        closed = self.remove(victim)
        self.enter(key, "body", now, sender)
        return closed

    def wait_s(self, now: float) -> float:
        if len(self.rows) < MOST:
            return 0.0
        waiting = [row.since for row in self.rows if row.stage != "handled"]
        return max(min(waiting) + PATIENCE_S - now, 0.0) if waiting else inf


addresses = st.sampled_from(["a", "b", "c", None])
steps = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 30), addresses),
    st.tuples(st.sampled_from(["handle", "answered", "remove"]), st.integers(0, 30), st.none()),
    st.tuples(st.just("await_body"), st.integers(0, 30), addresses),
)


@settings(max_examples=examples(200))
@given(story=st.lists(st.tuples(steps, st.sampled_from([0.0, 0.1, 1.0])), max_size=80))
def test_it_does_what_the_rules_say(story: list[tuple[tuple[str, int, str | None], float]]) -> None:
    """Every step closes the same connection as the plain rules, caps hold, and what is handled is never closed for another."""
    table, model, now = small_table(), Model(), 0.0
    for (name, key, address), pause in story:
        now += pause
        handled = {row.key for row in model.rows if row.stage == "handled"}
        victim: int | None = None
        assert table.wait_s(now) == model.wait_s(now)
        if name == "add":
            if key in table or table.wait_s(now):
                continue
            victim = table.add(key, address, now)
            assert victim == model.add(key, address, now)
            assert key in table
        elif name == "await_body":
            victim = table.await_body(key, address, now)
            assert victim == model.await_body(key, address, now)
        elif name == "remove":
            table.remove(key)
            model.remove(model.get(key))
        elif name == "handle":
            table.handle(key)
            model.enter(key, "handled", now)
        else:
            table.answered(key, now)
            model.enter(key, "unfinished", now)
        assert victim is None or (victim not in table and victim not in handled)
        assert sorted(table) == sorted(row.key for row in model.rows)
        assert len(table) <= MOST
        assert sum(row.stage == "body" for row in model.rows) <= BODIES
        for each in ("a", "b", "c"):
            of_address = [row for row in model.rows if row.address == each and row.stage == "unfinished"]
            assert table.unfinished_of(each) == len(of_address)


def test_the_newest_is_kept_within_one_address() -> None:
    """An attacker who shares the trader's address pushes out his own older connections, not the trader's new one."""
    table = small_table()
    assert [table.add(key, "shared", 0.0) for key in range(6)] == [None, None, None, None, 0, 1]
    assert list(table) == [2, 3, 4, 5]


def test_a_proxy_has_no_cap_of_its_own() -> None:
    """All senders behind a trusted proxy have its address."""
    table = small_table()
    assert [table.add(key, None, 0.0) for key in range(8)] == [None] * 8


def test_nothing_is_closed_while_every_request_is_handled() -> None:
    """The caller has to wait; once a request is answered its connection may be closed, after a moment."""
    table = small_table()
    for key in range(MOST):
        table.add(key, None, 0.0)
        table.handle(key)
    assert (table.wait_s(9.0), table.evict(9.0)) == (inf, None)
    table.answered(3, 9.0)
    assert table.wait_s(9.0) == PATIENCE_S
    assert table.wait_s(9.0 + PATIENCE_S) == 0
    assert table.add(99, None, 10.0) == 3


def test_a_flood_of_waiting_connections_is_replaced_at_once() -> None:
    """Each new connection has so many others in front of it that it has time for its head."""
    table: ConnectionTable[int] = ConnectionTable(
        most=100, most_per_address=100, most_bodies=9, most_bodies_per_address=9
    )
    for key in range(100):
        table.add(key, None, 0.0)
        if key >= ENOUGH_WAITING:
            table.handle(key)
    assert table.wait_s(0.0) == 0
    assert [table.add(key, None, 0.0) for key in (200, 201)] == [0, 1]
    table.handle(200)
    assert table.wait_s(0.0) == PATIENCE_S


def test_a_lower_cap_holds_from_then_on() -> None:
    """The number of open files may allow fewer connections than the settings."""
    table = small_table()
    for key in range(6):
        table.add(key, None, 0.0)
    table.most = 4
    assert [table.evict(1.0), table.evict(1.0)] == [0, 1]
    assert [table.add(key, None, 1.0) for key in (7, 8)] == [2, 3]
    assert len(table) == 4


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unknown", "unknown"),
    ],
)
def test_an_ipv6_customer_is_one_address(host: str, key: str) -> None:
    """IPv6 counts by /64, which one customer has as a whole; an IPv4 address counts once, however it is written."""
    assert address_key(host) == key
