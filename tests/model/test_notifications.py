"""Notification texts: complete for every event, safe for any value and any trader's template."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model.notifications import (
    MESSAGES,
    SEVERITIES,
    Level,
    check_event,
    check_level,
    check_template,
    describe_event,
    fill_template,
    render_message,
    render_notification,
)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_event_renders_without_facts(kind: str) -> None:
    """A missing figure neither fails nor leaves a brace in the text."""
    rendered = render_notification(kind, {})
    assert rendered is not None
    severity, text = rendered
    assert severity in SEVERITIES
    assert text
    assert "{" not in text


@pytest.mark.parametrize("kind", MESSAGES)
def test_default_templates_are_valid(kind: str) -> None:
    """A trader can copy a default template and change it: each name in it is allowed."""
    assert check_template(kind, MESSAGES[kind].template)


BUY: dict[str, Any] = {
    "webhook": "btc-trend",
    "symbol": "PERP_BTC_USDC",
    "side": "buy",
    "quantity": "0.05",
    "executed_quantity": "0.00",
    "client_order_id": "kb-1",
}
SELL = BUY | {"side": "sell"}
AT = datetime(2026, 1, 15, 18, 1, 50, tzinfo=UTC)
WHEN = {"day": "2026-02-01", "left": "5 d"}

#: Every event: its facts, and what becomes of them. `reports/event_facts.py` adds names, results and reasons.
TEXTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "order_filled": (
        SELL
        | {
            "executed_quantity": "0.05",
            "average_price": "65000.0",
            "result": "P&L +12.30 USDC, fee 0.03 USDC, no position left",
        },
        "btc-trend: filled sell 0.05 BTC at 65,000",
        "P&L +12.30 USDC, fee 0.03 USDC, no position left",
    ),
    "order_rejected": (
        BUY | {"reason": "price is out of range (orderly:-1103)"},
        "btc-trend: rejected by the exchange: buy 0.05 BTC",
        "price is out of range (orderly:-1103)",
    ),
    "exit_refused": (
        SELL | {"reason": "no (orderly:-1)"},
        "btc-trend: exit rejected twice, position still open: sell 0.05 BTC",
        "no (orderly:-1)",
    ),
    "exit_waiting": (
        SELL | {"waiting_for": "the exchange does not answer"},
        "btc-trend: exit not sent yet, position still open: sell 0.05 BTC",
        "the exchange does not answer",
    ),
    "exit_canceled": (
        SELL | {"reason": "the exchange canceled the order with 0.05 of 0.05 not filled"},
        "btc-trend: exit canceled by the exchange, position still open: sell 0.05 BTC",
        "the exchange canceled the order with 0.05 of 0.05 not filled",
    ),
    "order_denied": (
        BUY | {"reason": "daily limit 20,000 used up until 00:00"},
        "btc-trend: denied buy 0.05 BTC",
        "daily limit 20,000 used up until 00:00",
    ),
    "order_expired": (
        BUY | {"reason": "the order waited 61 s and is too old to be sent"},
        "btc-trend: not sent, too old: buy 0.05 BTC",
        "the order waited 61 s and is too old to be sent",
    ),
    "order_unknown": (
        BUY,
        "btc-trend: no answer, outcome unknown: buy 0.05 BTC",
        "it is looked up, and never sent again blindly",
    ),
    "ghost_order": (
        BUY | {"detail": "no trace"},
        "btc-trend: accepted by the exchange, but not to be found there: buy 0.05 BTC",
        "no trace",
    ),
    "ghost_suspected": (
        BUY | {"detail": "no trace"},
        "btc-trend: accepted by the exchange, but not visible for a minute: buy 0.05 BTC",
        "no trace",
    ),
    "ghost_cleared": (BUY, "btc-trend: the exchange shows an order again", "kb-1"),
    "alert_denied": (
        {"webhook": "btc-trend", "symbol": "PERP_BTC_USDC", "action": "buy", "reason": "too large"},
        "btc-trend: denied buy BTC",
        "too large",
    ),
    "cancel_waiting": (
        BUY | {"waiting_for": "no answer"},
        "btc-trend: not cancelled yet, still tried: buy 0.05 BTC",
        "no answer",
    ),
    "cancel_failed": (
        BUY | {"error": "1 order filled first"},
        "btc-trend: cancel failed in BTC",
        "1 order filled first",
    ),
    "stop_fired": (
        SELL | {"average_price": "63990", "result": "P&L -50.00 USDC, no position left"},
        "btc-trend: stop fired: sell 0.05 BTC at 63,990",
        "P&L -50.00 USDC, no position left",
    ),
    "take_profit_fired": (
        SELL | {"average_price": "66000", "result": "P&L +50.00 USDC"},
        "btc-trend: take-profit fired: sell 0.05 BTC at 66,000",
        "P&L +50.00 USDC",
    ),
    "trailing_fired": (
        SELL | {"average_price": "66000.5"},
        "btc-trend: trailing stop fired: sell 0.05 BTC at 66,000.5",
        "",
    ),
    "protection_live": (BUY | {"detail": "0.05 of 0.05"}, "btc-trend: stop of BTC is live", "0.05 of 0.05"),
    "protection_wanted": (
        BUY | {"detail": "0 of 0.05"},
        "btc-trend: BTC unprotected since 2026-01-15 18:01 UTC",
        "0 of 0.05",
    ),
    "protection_replaced": (BUY, "btc-trend: stop of BTC was missing and has been replaced", ""),
    "protection_flattened": (
        BUY | {"detail": "closed 0.05: no stop could be placed"},
        "btc-trend: BTC position closed, its stop could not be placed",
        "closed 0.05: no stop could be placed",
    ),
    "protection_failed": (
        BUY | {"open": "0.05", "reason": "no"},
        "btc-trend: 0.05 BTC still open: no stop could be placed and the close failed",
        "no",
    ),
    "position_unprotected": (
        {"symbol": "PERP_1000PEPE_USDC", "position": "1001000"},
        "1,001,000 1000PEPE without a stop",
        "place one at the exchange or close the position",
    ),
    "position_protected": ({"symbol": "PERP_ETH_USDC"}, "ETH position has a stop again or is closed", ""),
    "liquidation": (
        SELL | {"price": "50000.5", "realized_pnl": "-900.00", "fee": "3"},
        "liquidated: sell 0.05 BTC at 50,000.5",
        "P&L -900.00 USDC, fee 3 USDC",
    ),
    "adl": (
        SELL | {"price": "70000", "realized_pnl": "250"},
        "closed by auto-deleveraging: sell 0.05 BTC at 70,000",
        "P&L 250 USDC",
    ),
    "records_incomplete": (
        {"detail": "1 order lacks a fill"},
        "P&L and daily loss are not complete",
        "1 order lacks a fill",
    ),
    "records_complete": ({}, "fills and records of the account are complete again", ""),
    "transfer": ({"what": "deposit", "amount": "500"}, "deposit: 500 USDC", ""),
    "leverage_changed": (
        {"symbol": "PERP_BTC_USDC", "before": "5", "after": "10", "margin_mode": "cross"},
        "BTC: leverage changed elsewhere from 5 to 10",
        "cross",
    ),
    "margin_mode_changed": (
        {"symbol": "PERP_BTC_USDC", "before": "cross", "after": "isolated"},
        "BTC: margin mode changed elsewhere from cross to isolated",
        "",
    ),
    "market_changed": (
        {"symbol": "PERP_BTC_USDC", "before": "trading", "after": "reduce only"},
        "BTC: the exchange changed the market from trading to reduce only",
        "",
    ),
    "market_rules_changed": (
        {"symbol": "PERP_BTC_USDC", "changes": "base_min from 0.001 to 0.01"},
        "BTC: the exchange changed the rules of the market",
        "base_min from 0.001 to 0.01",
    ),
    "market_delisted": (
        {"symbol": "PERP_OLD_USDC", "after": "delisting"},
        "OLD is being delisted (delisting)",
        "close what you hold in it",
    ),
    "topic_refused": (
        {"topic": "position", "reason": "no such topic"},
        "the exchange refuses the stream topic position",
        "no such topic; what it reports is read by queries instead",
    ),
    "trading_state": (
        {
            "webhook": "btc-trend",
            "scope": "h1",
            "state": "exits_only",
            "reason": "daily limit of 20,000.00 USDC used up, until 2026-01-16 00:00 UTC",
            "by": "limit daily_limit",
            "until": "2026-01-16T00:00:00.000Z",
        },
        "btc-trend: exits only until 00:00",
        "daily limit of 20,000.00 USDC used up",
    ),
    "reconciliation_difference": (
        {"detail": "BTC is 0, by its fills it should be 1"},
        "the exchange's records differ from kekbridge's",
        "BTC is 0, by its fills it should be 1",
    ),
    "history_incomplete": (
        {"count": 3, "newest": "kb-9"},
        "entries are refused: 3 orders at the exchange are missing in the database",
        "an older backup, or lost files; the newest is kb-9; run `kekbridge doctor`, then `kekbridge resume`",
    ),
    "account_adopted": (
        {"positions": "0.5 PERP_BTC_USDC", "orders": 2},
        "first start on this directory, the account holds something already",
        "positions 0.5 PERP_BTC_USDC; open orders 2",
    ),
    "position_drift": (
        {"webhook": "btc-trend", "symbol": "PERP_BTC_USDC", "detail": "the account holds 0, the strategy 1"},
        "btc-trend: BTC position differs from the strategy's",
        "the account holds 0, the strategy 1",
    ),
    "position_in_step": (
        {"webhook": "btc-trend", "symbol": "PERP_BTC_USDC"},
        "btc-trend: BTC account and strategy agree again",
        "",
    ),
    "daily_summary": (
        {
            "day": "2026-01-15",
            "alerts": 40,
            "refused": 3,
            "orders": 30,
            "filled": 28,
            "fees": "4.10",
            "funding": "0.20",
            "net_pnl": "+123.45",
            "equity": "10123.45 USDC",
            "change": "+120.00",
            "by_webhook": "btc-trend +140.00, eth -12.25 USDC",
        },
        "2026-01-15: P&L +123.45 USDC",
        "btc-trend +140.00, eth -12.25 USDC; after 4.10 fees and 0.20 funding; 40 alerts (3 refused), 30 orders (28 filled),"
        " equity 10123.45 USDC (+120.00)",
    ),
    "exchange_down": (
        {"lasting": "60 s", "detail": "no route"},
        "the exchange has been unreachable for 60 s",
        "no route",
    ),
    "exchange_back": ({}, "the exchange is reachable again", ""),
    "stream_down": ({"lasting": "60 s"}, "the exchange's stream has been down for 60 s", "orders are polled instead"),
    "stream_back": ({}, "the exchange's stream is back", ""),
    "clock_skew": (
        {"seconds": "3.0", "direction": "behind"},
        "this machine's clock is 3.0 s behind the exchange's",
        "enable NTP",
    ),
    "clock_right": ({}, "this machine's clock agrees with the exchange's again", ""),
    "heartbeat_missed": (
        {"webhook": "btc-trend", "lasting": "2 h", "every": "1 h"},
        "btc-trend: no alert for 2 h",
        "one is expected every 1 h; is it still active at TradingView?",
    ),
    "heartbeat_back": ({"webhook": "btc-trend"}, "btc-trend: alerts are arriving again", ""),
    "alert_expiring": (
        {"webhook": "btc-trend"} | WHEN,
        "btc-trend: its alert expires at TradingView in 5 d",
        "on 2026-02-01; renew it there",
    ),
    "alert_ended": (
        {"webhook": "btc-trend"} | WHEN,
        "btc-trend: its alert expired at TradingView on 2026-02-01",
        "renew it there",
    ),
    "authentication_attack": (
        {"count": 20, "addresses": 1, "address": "192.0.2.7", "until": AT},
        "20 failed authentications",
        "locked out 1, first 192.0.2.7, until 2026-01-15 18:01 UTC",
    ),
    "key_expiring": (
        WHEN,
        "the exchange key expires in 5 d",
        "on 2026-02-01; create a new one with `kekbridge keys generate`",
    ),
    "key_expired": (WHEN, "the exchange key expired on 2026-02-01", "no order can be sent"),
    "key_renewed": (WHEN, "the exchange key is valid until 2026-02-01", ""),
    "certificate_expiring": (
        {"name": "example.com"} | WHEN,
        "the certificate of example.com expires in 5 d",
        "on 2026-02-01; check why it was not renewed",
    ),
    "certificate_expired": (
        {"name": "example.com"} | WHEN,
        "the certificate of example.com expired on 2026-02-01",
        "TradingView rejects it",
    ),
    "certificate_valid": (
        {"name": "example.com"} | WHEN,
        "the certificate of example.com is valid until 2026-02-01",
        "",
    ),
    "certificate_renewed": (
        {"domain": "example.com", "valid_until": "2026-04-01"},
        "the certificate of example.com was renewed",
        "valid until 2026-04-01",
    ),
    "certificate_not_renewed": (
        {"domain": "example.com", "days_left": 9, "reason": "port 80 is closed"},
        "the certificate of example.com could not be renewed",
        "9 days left; port 80 is closed",
    ),
    "disk_low": (
        {"free": "812 MiB", "place": "/data"},
        "812 MiB left on the disk of /data",
        "once it is full, every alert is answered 503",
    ),
    "database_lost": (
        {"detail": "the file was deleted"},
        "nothing is traded and alerts are answered 503",
        "the file was deleted while the bridge runs; stop it, then put the files back or restore a backup",
    ),
    "database_found": ({}, "the database's files are back", ""),
    "replica_behind": (
        {"place": "s3://bucket/kekbridge", "lasting": "2 min", "detail": "connection refused"},
        "the replica at s3://bucket/kekbridge is 2 min behind",
        "connection refused",
    ),
    "replica_current": (
        {"place": "s3://bucket/kekbridge"},
        "the replica at s3://bucket/kekbridge is up to date again",
        "",
    ),
    "disk_enough": ({"free": "3.4 GiB", "place": "/data"}, "the disk of /data has 3.4 GiB free again", ""),
    "admin_port_taken": (
        {"port": "8081", "owner": "nginx (process 4)"},
        "the web pages are off",
        "port 8081 is in use by nginx (process 4); free it or set admin.port",
    ),
    "admin_port_free": (
        {"url": "http://127.0.0.1:8081"},
        "the web pages are on again",
        "http://127.0.0.1:8081",
    ),
    "job_failed": ({"job": "backup", "error": "disk full"}, "job backup failed", "disk full"),
    "job_recovered": ({"job": "backup"}, "job backup works again", ""),
    "taken_over": (
        {"host": "vps1", "up_to": "2026-01-01", "removed": "ed25519:abc", "doubted": 0},
        "this machine has taken over from vps1",
        "the state of 2026-01-01; key removed at the exchange: ed25519:abc",
    ),
    "restored": ({"made_at": "2026-01-01"}, "a backup of 2026-01-01 was restored", ""),
    "orderly_key_removed": ({"account_id": "0xabc"}, "the exchange key of 0xabc was removed", ""),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_the_text_of_every_event(kind: str) -> None:
    """A title that says what happened, to whom and in which size, and the rest; a new event needs a row here."""
    facts, title, detail = TEXTS[kind]
    message = render_message(kind, {"at": AT, **facts})
    assert message is not None
    assert (message.title, message.detail) == (title, detail)
    assert message.line == (f"{title}: {detail}" if detail else title)


def test_trading_states_in_words() -> None:
    """The account has no name in front; who did it and why follow."""
    by_hand = {"scope": "account", "by": "command line", "reason": "storm", "at": AT}
    texts = [
        (render_notification("trading_state", by_hand | {"state": state}) or ("", ""))[1]
        for state in ("halted", "exits_only", "running")
    ]
    assert texts == [
        "trading halted: storm, by command line",
        "exits only: storm, by command line",
        "trading resumed: storm, by command line",
    ]


def test_levels_replace_severities() -> None:
    """The trader's level of an event is its severity; `off` sends nothing."""
    levels: dict[str, Level] = {"order_filled": "failure", "order_denied": "off"}
    filled = render_message("order_filled", BUY, levels=levels)
    assert filled is not None
    assert filled.severity == "failure"
    assert render_message("order_denied", BUY, levels=levels) is None
    with pytest.raises(ValueError, match="expected one of off, info, warning, failure"):
        check_level("order_filled", "loud")


def test_times_are_shown_in_the_zone_asked_for() -> None:
    """An end and a time in a text are those of the trader's clock."""
    facts = TEXTS["trading_state"][0] | {"at": AT}
    message = render_message("trading_state", facts, zone=timezone(timedelta(hours=2), "EET"))
    assert message is not None
    assert message.title == "btc-trend: exits only until 02:00"
    attack = render_message("authentication_attack", {"until": AT}, zone=timezone(timedelta(hours=2), "EET"))
    assert attack is not None
    assert attack.detail.endswith("until 2026-01-15 20:01 EET")


def test_hostile_values_stay_on_one_line() -> None:
    """Text from an alert or the exchange cannot start a new line or be filled as a template."""
    rendered = render_notification("job_failed", {"job": "{error}\r\nfake", "error": "\x1b[2J\u202e" + "x" * 5000})
    assert rendered is not None
    assert rendered[1].startswith("job {error} fake failed: [2Jxxx")
    assert len(rendered[1]) < 500


def test_no_value_of_a_notification_is_cut_inside_a_word() -> None:
    """Values are cut at 200 characters and lines at 1,000: between words, and visibly."""
    times = "; ".join(f"trades: read up to 2026-01-15 10:{minute} UTC only" for minute in range(10, 60))
    for kind in ("records_incomplete", "new_kind"):
        shown = describe_event(kind, {"detail": times})[1]
        assert len(shown) > 150
        assert shown.endswith("…")
        assert shown.rstrip("…").split()[-1] in times.split()
    figures = describe_event("new_kind", {f"f{number}": "10:30" for number in range(200)})[1]
    assert len(figures) <= 1000
    assert re.search(r"(10:30|f\d+)…$", figures)


@given(st.text(), st.dictionaries(st.sampled_from(["symbol", "side", "error"]), st.text()))
def test_filling_never_raises(template: str, facts: dict[str, str]) -> None:
    """Any template with any values gives one printable line of bounded length."""
    line = fill_template(template, facts)
    assert line.isprintable()
    assert len(line) <= 1000


def test_values_are_formatted() -> None:
    """Amounts have no exponent, times are UTC to the minute, None is empty."""
    facts = {"a": Decimal("1E+3"), "b": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "c": None}
    assert fill_template("{a}|{b}|{c}|{{d}}", facts) == "1000|2026-01-02 03:04 UTC||{d}"


def test_resumed_trading_is_information() -> None:
    """The same event is a warning when trading stops and information when it resumes."""
    severities = [
        (render_notification("trading_state", {"state": state}) or ("", ""))[0] for state in ("halted", "running")
    ]
    assert severities == ["warning", "info"]
    assert render_notification("alert_admitted", {}) is None


@pytest.mark.parametrize(
    ("kind", "template", "expected"),
    [
        ("order_filed", "x", "'order_filed' is not an event; did you mean order_filled?"),
        ("order_filled", "{sid}", "{sid} is not known for this event; did you mean {side}?"),
        ("job_recovered", "{quantity}", "use {job}, {event}, {at}"),
        ("order_filled", "{side.__class__}", "found a lone '{'"),
        ("order_filled", "{side!r}", "found a lone '{'"),
        ("order_filled", "{0}", "found a lone '{'"),
        ("order_filled", "filled }", "found a lone '}'"),
        ("order_filled", "  ", "list the event in notify.mute"),
    ],
)
def test_invalid_templates_are_refused(kind: str, template: str, expected: str) -> None:
    """The error for an unknown event or name suggests the nearest one; only plain names are allowed in braces."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_template(kind, template)


def test_known_event_is_accepted() -> None:
    """The check returns the kind it was given."""
    assert check_event("order_filled") == "order_filled"


def test_figures_of_an_event_are_words() -> None:
    """An event without a notification of its own lists what it holds, yes and no for what is or is not so."""
    assert describe_event("alert_queued", {"is_exit": False, "quiet": True}) == (
        None,
        "alert queued: is_exit no, quiet yes",
    )
