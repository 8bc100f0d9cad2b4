"""Every limit and state against every message with a part that closes or cancels: that part is done, and only a halt keeps it back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from msgspec import Struct, field
from msgspec.structs import replace

from kekbridge.alerts.message import interpret, read_message
from kekbridge.model import (
    AccountSnapshot,
    Limits,
    Mark,
    OrderIntent,
    RateExcess,
    RateLimits,
    Side,
    TradingState,
    Usage,
    Webhook,
    WebhookSettings,
)
from kekbridge.model.admission import Decision
from kekbridge.planning.decide import decide
from kekbridge.risk.check import AccountPolicy
from tests.trading import BTC, ETH, INSTRUMENTS, MARKS, NO_LIMITS, NOW, D, snapshot, webhook

FULL = RateExcess(retry_after_s=30, is_of_account=False, rates=RateLimits(per_minute=2))
HELD = D("0.02")
ACCOUNT = snapshot(positions={BTC: "0.02"})


class State(Struct, frozen=True, kw_only=True):
    """What denies every entry."""

    #: The code of the denial.
    code: str
    #: Of the webhook, or of the account.
    limits: Limits = NO_LIMITS
    usage: Usage = Usage(now=NOW)
    account: AccountSnapshot = ACCOUNT
    max_waiting: int = 500


def used(**changes: Any) -> Usage:
    return Usage(now=NOW, **changes)


def limit(code: str, usage: Usage | None = None, **changes: Any) -> State:
    return State(code=code, limits=dataclasses.replace(NO_LIMITS, **changes), usage=usage or used())


STATES: Mapping[str, State] = {
    "rate of the webhook": State(code="rate_limited", usage=used(rate_excess=FULL)),
    "rate of the account": State(code="rate_limited", usage=used(rate_excess=replace(FULL, is_of_account=True))),
    "exits-only": State(code="exits_only", usage=used(trading_state=TradingState.EXITS_ONLY)),
    "queue": State(code="queue_full", usage=used(waiting_orders=9), max_waiting=1),
    "old account": State(code="not_ready", account=replace(ACCOUNT, taken_at=NOW - timedelta(hours=1))),
    "old mark": State(
        code="no_mark_price",
        account=replace(ACCOUNT, marks={each: Mark(price, NOW - timedelta(hours=1)) for each, price in MARKS.items()}),
    ),
    "no mark": State(code="no_mark_price", account=replace(ACCOUNT, marks={})),
    "markets that are closing": State(
        code="market_closed",
        account=replace(
            ACCOUNT, instruments={each: replace(rules, status="REDUCE_ONLY") for each, rules in INSTRUMENTS.items()}
        ),
    ),
    "margin": State(code="margin_insufficient", account=replace(ACCOUNT, free_collateral=D(0))),
    "allowed symbols": limit("symbol_not_allowed", allowed_symbols=("SOL",)),
    "smallest order": limit("order_too_small", min_order_size=D(100)),
    "largest order": limit("order_too_large", max_order_size=D("0.00001")),
    "largest position": limit("position_too_large", max_position_size=D("0.00001")),
    "order value": limit("notional_too_large", max_notional=D(1)),
    "value of the day": limit("daily_limit", used(traded_today=D(100)), daily_limit=D(100)),
    "orders of the day": limit("daily_orders", used(orders_today=1), daily_orders=1),
    "loss of the day": limit("daily_loss", used(realized_today=D(-600)), max_daily_loss=D(500)),
    "drawdown": limit("drawdown", used(equity_peak=D(200_000)), max_drawdown=D("0.2")),
    "leverage": limit("leverage_too_high", max_leverage=D("0.0001")),
    "stop loss": limit("stop_loss_required", require_stop_loss=True),
    "cooldown": limit("cooldown", used(last_entry_at=dict.fromkeys((BTC, ETH), NOW)), cooldown_s=60),
    "trading hours": limit("outside_trading_hours", trading_hours="Sat-Sun 00:00-24:00 UTC"),
}


class Message(Struct, frozen=True, kw_only=True):
    """A message that closes the long of 0.02 BTC, or cancels, and then wants to open."""

    fields: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    closes: bool = True


SHORT = {"marketPosition": "short", "marketPositionSize": "0.03"}
LONG_BEFORE = {"prevMarketPosition": "long", "prevMarketPositionSize": "0.02"}
MESSAGES: Mapping[str, Message] = {
    "flip": Message(fields={"action": "flip"}),
    "flip with a quantity": Message(fields={"action": "flip", "quantity": "0.03"}),
    "reversal of a strategy": Message(fields={"action": "sell", "quantity": "0.05", **SHORT, **LONG_BEFORE}),
    "position mode": Message(
        fields={"action": "sell", "quantity": "0.05", **SHORT, **LONG_BEFORE}, settings={"follow": "position"}
    ),
    "sell of more than is open": Message(fields={"action": "sell", "quantity": "0.05"}),
    "reverse": Message(fields={"action": "sell", "quantity": "0.03"}, settings={"reverse": True}),
    "steps": Message(fields={"steps": [{"action": "close"}, {"action": "buy", "symbol": "ETHUSDT.P", "quantity": 1}]}),
    "steps with close_all": Message(
        fields={"steps": [{"action": "close_all"}, {"action": "buy", "symbol": "ETHUSDT.P", "quantity": 1}]}
    ),
    "cancel and buy": Message(
        fields={"steps": [{"action": "cancel"}, {"action": "buy", "quantity": "0.01"}]}, closes=False
    ),
    "cancel_all, close and sell": Message(
        fields={"steps": [{"action": "cancel_all"}, {"action": "close"}, {"action": "sell", "quantity": "0.01"}]}
    ),
}
#: `close_all` closes the markets that the webhook may trade; an entry that is no larger than what was closed needs no margin.
_LEFT_OUT = {
    ("allowed symbols", "steps with close_all"),
    ("margin", "flip"),
    ("margin", "cancel_all, close and sell"),
}


def decided(state: State, message: Message, *, is_of_account: bool = False) -> Decision:
    text = json.dumps({"apiKey": "x", "symbol": "BTCUSDT.P", **message.fields}).encode()
    hook: Webhook = webhook(NO_LIMITS if is_of_account else state.limits, **message.settings)
    alert = interpret(read_message(text), WebhookSettings(limits=hook.settings.limits, **message.settings))
    policy = AccountPolicy(
        account_limits=state.limits if is_of_account else NO_LIMITS,
        max_snapshot_age_s=30,
        max_mark_age_s=60,
        max_waiting=state.max_waiting,
    )
    usage = state.usage
    if is_of_account:
        usage = replace(
            usage,
            account_traded_today=usage.traded_today,
            account_orders_today=usage.orders_today,
            account_realized_today=usage.realized_today,
        )
    return decide(usage, alert=alert, webhook=hook, snapshot=state.account, policy=policy)


def is_close(intent: OrderIntent) -> bool:
    return intent.reduce_only and intent.side is Side.SELL and intent.symbol == BTC


@pytest.mark.parametrize(
    ("state_name", "message_name"), [pair for pair in product(STATES, MESSAGES) if pair not in _LEFT_OUT]
)
def test_the_closing_part_is_done_and_the_entry_is_denied(state_name: str, message_name: str) -> None:
    """Promise 6: the whole long is closed, orders are cancelled, and the answer has the code of the entry that was not sent."""
    state, message = STATES[state_name], MESSAGES[message_name]
    for is_of_account in (False, True):
        if is_of_account and (state.limits == NO_LIMITS or state.code == "cooldown"):  # a cool-down is of webhooks only
            continue
        found = decided(state, message, is_of_account=is_of_account)
        assert (found.status, found.code) == ("admitted", state.code)
        assert found.error
        assert all(is_close(intent) for intent in found.intents)
        assert sum(intent.quantity for intent in found.intents) == (HELD if message.closes else 0)
        assert found.is_taken  # sent again, it is a duplicate
        assert bool(found.cancels) == ("cancel" in message_name)


@pytest.mark.parametrize("message_name", MESSAGES)
def test_a_halt_keeps_every_order_back(message_name: str) -> None:
    """Only `halt` denies exits; a cancel sends no order and passes."""
    state = State(code="trading_halted", usage=used(trading_state=TradingState.HALTED))
    found = decided(state, MESSAGES[message_name])
    assert (found.intents, found.code) == ((), "trading_halted")
    assert found.status == ("admitted" if "cancel" in message_name else "denied")


def test_what_a_rate_limit_left_of_an_alert_does_not_count_as_entry() -> None:
    """Its close was sent, its entry was not: it must not prolong the wait. Denied by another limit, it is an entry that was tried."""
    assert decided(STATES["rate of the webhook"], MESSAGES["flip"]).is_exit
    assert not decided(STATES["largest order"], MESSAGES["flip"]).is_exit


@pytest.mark.parametrize(
    ("fields", "is_read", "is_exit"),
    [
        ({"action": "buy", "quantity": "0.01"}, True, False),
        ({"action": "buy", "quantity": "0.01", "symbol": "NOPE"}, False, False),
        ({"action": "ping"}, True, True),
        ({"action": "cancel"}, True, True),
        ({"action": "close"}, True, True),
        ({"action": "close", "symbol": "ETHUSDT.P"}, True, True),
        ({"steps": [{"action": "close"}, {"action": "buy", "quantity": 1, "symbol": "NOPE"}]}, True, True),
        (
            {"steps": [{"action": "buy", "quantity": "0.01"}, {"action": "buy", "quantity": 1, "symbol": "NOPE"}]},
            True,
            False,
        ),
    ],
)
def test_only_entries_count_and_only_entries_wait(fields: Mapping[str, Any], *, is_read: bool, is_exit: bool) -> None:
    """docs/limits.md: the rate limits count entries. What was refused never became one; exits, cancels and pings pass them."""
    found = decided(State(code=""), Message(fields=fields))
    assert (found.status != "refused", found.is_exit) == (is_read, is_exit)
    limited = decided(STATES["rate of the webhook"], Message(fields=fields))
    is_entry = is_read and not is_exit
    assert (limited.code == "rate_limited") == is_entry
