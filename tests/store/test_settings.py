"""Settings and trading state: stored per account and webhook; the stricter one applies; a stop ends at its end."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from kekbridge.execution.book import Book
from kekbridge.model import TradingState
from kekbridge.store import journal, settings
from kekbridge.store.database import Database
from kekbridge.store.settings import TradingControl
from kekbridge.store.usage import read_usage
from tests.store.factories import NOW

RUNNING, EXITS_ONLY, HALTED = TradingState.RUNNING, TradingState.EXITS_ONLY, TradingState.HALTED


def set_state(
    connection: sqlite3.Connection, state: TradingState, scope: str = "account", hours: int | None = None
) -> None:
    until = None if hours is None else NOW + timedelta(hours=hours)
    settings.set_trading_state(connection, state, reason="test", by="cli", now=NOW, until=until, scope=scope)


def test_values_of_any_shape_are_stored(connection: sqlite3.Connection) -> None:
    """Amounts as exact text, structures as they were, None for a key that is not set."""
    value = {"amount": Decimal("0.10"), "at": NOW, "list": [1, None, True, "ü"]}
    settings.set_value(connection, "k", {"old": 1}, now=NOW)
    settings.set_value(connection, "k", value, now=NOW)
    expected = {"amount": "0.10", "at": "2026-01-15T10:30:05.000Z", "list": [1, None, True, "ü"]}
    assert settings.get_value(connection, "k") == expected
    assert settings.get_value(connection, "never") is None


def test_halt_survives_a_restart(data_dir: Path) -> None:
    """Promise 10: the state is on disk, with who set it and the reason, and in the history."""
    with Database.open(data_dir).transaction() as connection:
        set_state(connection, HALTED)
    with Database.open(data_dir).snapshot() as connection:
        control = settings.trading_control(connection, now=NOW)
        assert (control.state, control.reason, control.by, control.since) == (HALTED, "test", "cli", NOW)
        assert journal.list_events(connection)[-1].data["state"] == "halted"


@pytest.mark.parametrize(
    ("account", "webhook", "expected"),
    [
        (RUNNING, RUNNING, RUNNING),
        (RUNNING, EXITS_ONLY, EXITS_ONLY),
        (EXITS_ONLY, RUNNING, EXITS_ONLY),
        (HALTED, EXITS_ONLY, HALTED),
        (EXITS_ONLY, HALTED, HALTED),
    ],
)
def test_stricter_state_applies(
    connection: sqlite3.Connection, account: TradingState, webhook: TradingState, expected: TradingState
) -> None:
    """An admission sees the stricter of its webhook's and the account's state; other webhooks see the account's only."""
    set_state(connection, account)
    set_state(connection, webhook, scope="hook")
    assert read_usage(connection, "hook", now=NOW).trading_state is expected
    assert read_usage(connection, "other", now=NOW).trading_state is account


def test_state_with_an_end_is_over_at_its_end(connection: sqlite3.Connection) -> None:
    """A breached day limit is lifted at the time shown, not before."""
    set_state(connection, EXITS_ONLY, scope="hook", hours=2)
    end = NOW + timedelta(hours=2)
    assert read_usage(connection, "hook", now=end - timedelta(milliseconds=1)).trading_state is EXITS_ONLY
    assert read_usage(connection, "hook", now=end).trading_state is RUNNING
    control = settings.trading_control(connection, now=end, scope="hook")
    assert (control.state, control.since) == (RUNNING, end)


@pytest.mark.parametrize(
    ("current", "closes"),
    [
        (None, True),
        (TradingControl(state=RUNNING), True),
        (TradingControl(state=EXITS_ONLY, until=NOW + timedelta(hours=1)), True),
        (TradingControl(state=HALTED, until=NOW), True),  # over
        (TradingControl(state=EXITS_ONLY), False),
        (TradingControl(state=HALTED), False),
    ],
)
def test_closing_for_entries_never_loosens_a_state(current: TradingControl | None, *, closes: bool) -> None:
    """A rejected key restricts the account to exits until the trader resumes, unless it is restricted as strictly already."""
    found = settings.closed_for_entries(current, reason="key", by="kekbridge", now=NOW)
    wanted = TradingControl(state=EXITS_ONLY, reason="key", by="kekbridge", since=NOW)
    assert found == (wanted if closes else None)


def test_projected_state_equals_the_one_that_was_set(connection: sqlite3.Connection, book: Book) -> None:
    """A halt set by the daemon and one set by a command are stored alike, with reason, author, beginning and end."""
    until = NOW + timedelta(hours=3)
    settings.set_trading_state(connection, HALTED, reason="r", by="b", now=NOW, until=until, scope="command")
    book.set_control("daemon", TradingControl(state=HALTED, reason="r", by="b", since=NOW, until=until), now=NOW)
    stored = settings.stored_controls(connection)
    assert stored["daemon"] == stored["command"]
    texts = [event.data for event in journal.latest(connection, kinds=["trading_state"])]
    assert [{**data, "scope": ""} for data in texts[:1]] == [{**data, "scope": ""} for data in texts[1:]]


def test_new_database_is_running_without_a_peak(connection: sqlite3.Connection) -> None:
    """Without settings the state is running; the equity peak is what was stored, exactly."""
    usage = read_usage(connection, "hook", now=NOW)
    assert (usage.trading_state, usage.equity_peak) == (RUNNING, None)
    settings.set_value(connection, settings.EQUITY_PEAK, Decimal("100000.000000000000000000000001"), now=NOW)
    assert read_usage(connection, "hook", now=NOW).equity_peak == Decimal("100000.000000000000000000000001")
