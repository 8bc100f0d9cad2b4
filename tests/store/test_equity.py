"""Equity marks: the peak survives restarts, late transfers correct it, a reset restarts it; and breaches."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from kekbridge.model import Flow, LimitBreach, TradingState
from kekbridge.risk.drawdown import follow_peak
from kekbridge.store import equity, facts, journal, projector, settings
from tests.trading import snapshot

D = Decimal
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MIDNIGHT = datetime(2026, 3, 11, tzinfo=UTC)


def mark(connection: sqlite3.Connection, minute: int, value: str, *flows: tuple[str, Flow]) -> Decimal:
    """Record equity so many minutes after noon; the peak as of then."""
    account = snapshot(account_value=D(value))
    for name, flow in flows:
        store_transfer(connection, name, flow)
    return equity.record(connection, account, follow_peak, now=NOON + minute * MINUTE).peak


def store_transfer(connection: sqlite3.Connection, name: str, flow: Flow) -> None:
    """Record a transfer, as the daemon does."""
    data = {"id": name, "booked_at": flow.at, "amount": flow.amount, "what": "deposit"}
    projector.record(connection, facts.plain_entry("transfer", at=NOON, data=data))


def test_peak_is_stored(connection: sqlite3.Connection) -> None:
    """In the settings, where an admission reads it, and in the newest mark."""
    assert [mark(connection, n, value) for n, value in enumerate(("1000", "1100", "900"))] == [1000, 1100, 1100]
    assert D(str(settings.get_value(connection, settings.EQUITY_PEAK))) == 1100
    newest = equity.latest(connection)
    assert newest is not None
    assert (newest.value, newest.peak) == (D(900), D(1100))


def test_deposit_reported_late_corrects_the_peak(connection: sqlite3.Connection) -> None:
    """Equity jumped before the exchange listed the deposit: afterwards the jump is no gain and a later fall no smaller."""
    mark(connection, 0, "1000")
    mark(connection, 1, "900")
    assert mark(connection, 2, "1800") == 1800
    deposit = ("t1", Flow(NOON + 2 * MINUTE, D(900)))
    assert mark(connection, 3, "1800", deposit) == 2000
    assert mark(connection, 4, "1800", deposit) == 2000  # reported again: counted once


def test_withdrawal_while_the_daemon_was_down_is_counted(connection: sqlite3.Connection) -> None:
    """Half was withdrawn at night; the first mark after the start includes it."""
    mark(connection, 0, "1000")
    out = ("t1", Flow(NOON + 300 * MINUTE, D(-500)))
    assert mark(connection, 600, "500", out) == 500


def test_reset_starts_at_current_equity(connection: sqlite3.Connection) -> None:
    """The old peak does not come back with the next mark or after many; the history records who reset it."""
    mark(connection, 0, "1000")
    mark(connection, 20, "700")
    assert equity.reset_peak(connection, by="test", now=NOON + 21 * MINUTE) == 700
    assert [mark(connection, minute, "690") for minute in (22, 40, 90)] == [700, 700, 700]
    assert journal.list_events(connection)[-1].kind == "equity_peak_reset"


def test_reset_without_a_mark_does_nothing(connection: sqlite3.Connection) -> None:
    """The peak starts with the first mark anyway."""
    assert equity.reset_peak(connection, by="test", now=NOON) is None


def breach(rule: str, until: datetime | None) -> LimitBreach:
    return LimitBreach(scope="webhook", rule=rule, reason=rule, until=until)


def test_breach_closes_one_webhook_once(connection: sqlite3.Connection) -> None:
    """The second denied alert of the day adds no event; the account stays open; midnight reopens the webhook."""
    assert settings.close_for_breach(connection, breach("daily_limit", MIDNIGHT), webhook_id="w", now=NOON)
    assert not settings.close_for_breach(connection, breach("daily_limit", MIDNIGHT), webhook_id="w", now=NOON)
    assert len(journal.list_events(connection)) == 1
    assert settings.trading_control(connection, now=NOON, scope="w").state is TradingState.EXITS_ONLY
    assert settings.trading_control(connection, now=NOON).state is TradingState.RUNNING
    assert settings.trading_control(connection, now=MIDNIGHT, scope="w").state is TradingState.RUNNING


def test_drawdown_outlasts_a_day_limit(connection: sqlite3.Connection) -> None:
    """The longer closing wins, whichever came first."""
    settings.close_for_breach(connection, breach("daily_loss", MIDNIGHT), webhook_id="w", now=NOON)
    assert settings.close_for_breach(connection, breach("drawdown", None), webhook_id="w", now=NOON)
    assert not settings.close_for_breach(connection, breach("daily_loss", MIDNIGHT), webhook_id="w", now=NOON)
    assert settings.trading_control(connection, now=MIDNIGHT, scope="w").state is TradingState.EXITS_ONLY


def test_breach_never_loosens_a_halt(connection: sqlite3.Connection) -> None:
    """A manual halt stays."""
    settings.set_trading_state(connection, TradingState.HALTED, reason="x", by="x", now=NOON, scope="w")
    assert not settings.close_for_breach(connection, breach("daily_limit", MIDNIGHT), webhook_id="w", now=NOON)
    assert settings.trading_control(connection, now=NOON, scope="w").state is TradingState.HALTED


def test_resume_all_opens_account_and_webhooks(connection: sqlite3.Connection) -> None:
    """One command after a bad day."""
    settings.set_trading_state(connection, TradingState.EXITS_ONLY, reason="x", by="x", now=NOON)
    settings.close_for_breach(connection, breach("daily_limit", MIDNIGHT), webhook_id="w", now=NOON)
    assert settings.resume_all(connection, reason="y", by="y", now=NOON) == ("w",)
    for scope in ("account", "w"):
        assert settings.trading_control(connection, now=NOON, scope=scope).state is TradingState.RUNNING
