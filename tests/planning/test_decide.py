"""Deciding an alert: its steps in order up to the first refusal or denial, and limits that no admitted order exceeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.alerts.message import interpret, read_message
from kekbridge.alerts.signal import Action, Alert, Amount, QuantityType, Signal, TakeProfitSpec
from kekbridge.alerts.template import build, fill
from kekbridge.errors import Refused, Unauthenticated
from kekbridge.exchange.orderly import requests
from kekbridge.formatting import format_decimal
from kekbridge.model import (
    AccountSnapshot,
    Limits,
    OrderIntent,
    OrderType,
    Purpose,
    TradingState,
    Usage,
    WebhookSettings,
)
from kekbridge.model.admission import Decision
from kekbridge.planning.decide import decide, refuse
from kekbridge.risk import exposure
from kekbridge.risk.account_exposure import AccountExposure
from kekbridge.risk.check import AccountPolicy, with_order
from tests.trading import (
    BTC,
    ETH,
    MARKS,
    NO_LIMITS,
    NOW,
    D,
    commitments_of,
    instrument,
    reservation,
    signal,
    snapshot,
    webhook,
)

POLICY = AccountPolicy(
    account_limits=Limits(max_order_size=None, min_order_size=None), max_snapshot_age_s=30, max_mark_age_s=60
)


def decide_message(
    fields: dict[str, Any], *, usage: Usage | None = None, account: AccountSnapshot | None = None
) -> Decision:
    """The decision for a message with these fields."""
    body = {"apiKey": "wh_test_x", "symbol": "BTCUSDT.P", **fields}
    alert = interpret(read_message(json.dumps(body).encode()), WebhookSettings())
    return decide(
        usage or Usage(now=NOW), alert=alert, webhook=webhook(), snapshot=account or snapshot(), policy=POLICY
    )


def test_an_admitted_alert_has_its_orders_and_verdicts() -> None:
    """One step, one order, a verdict of every rule."""
    decided = decide_message({"action": "buy", "quantity": "0.01"})
    assert decided.status == "admitted"
    assert [intent.quantity for intent in decided.intents] == [D("0.01")]
    assert decided.verdicts
    assert all(verdict.passed for verdict in decided.verdicts)


def test_a_denied_order_is_not_kept() -> None:
    """The first rule that denies it gives the code; its verdict is kept."""
    decided = decide_message(
        {"action": "buy", "quantity": "0.01"}, usage=Usage(now=NOW, trading_state=TradingState.HALTED)
    )
    assert (decided.status, decided.code, decided.intents) == ("denied", "trading_halted", ())
    assert any(not verdict.passed for verdict in decided.verdicts)


def test_a_close_is_kept_if_the_entry_after_it_is_denied() -> None:
    """A flip in exits-only closes the position; the decision has the code of the denied entry."""
    account = snapshot(positions={BTC: "0.5"})
    decided = decide_message(
        {"action": "flip", "quantity": "0.5"},
        usage=Usage(now=NOW, trading_state=TradingState.EXITS_ONLY),
        account=account,
    )
    assert decided.status == "admitted"
    assert [intent.purpose for intent in decided.intents] == [Purpose.EXIT]
    assert decided.code == "exits_only"


def test_the_entry_of_a_flip_waits_for_its_close() -> None:
    """The entry is chained to the close."""
    decided = decide_message({"action": "flip", "quantity": "0.1"}, account=snapshot(positions={BTC: "0.5"}))
    assert [intent.purpose for intent in decided.intents] == [Purpose.EXIT, Purpose.ENTRY]
    assert [intent.after_leg for intent in decided.intents] == [None, 0]


def test_nothing_to_close_is_ignored() -> None:
    """Closing a flat account is neither a failure nor an order."""
    decided = decide_message({"action": "close"})
    assert (decided.status, decided.code, decided.intents) == ("ignored", "nothing_to_close", ())


def test_an_unauthenticated_message_does_not_claim_its_identity() -> None:
    """A stale or unsigned message must not use up the id of the genuine one, which may still arrive."""
    assert refuse(Refused("symbol_unknown", "no such market")).is_counted
    assert not refuse(Unauthenticated("timestamp_stale", "too old")).is_counted


# ------------------------------------------------------------------------------------------------------------------- cost

EVERY_LIMIT = Limits(
    allowed_symbols=("BTC",),
    max_position_size=D(10),
    max_notional=D(10_000),
    daily_limit=D(100_000),
    daily_orders=100,
    max_daily_loss=D(5000),
    max_drawdown=D("0.2"),
    max_open_positions=100,
    max_stop_distance=D("0.5"),
    max_slippage=D("0.01"),
    cooldown_s=60,
    trading_hours="Mon-Sun 00:00-24:00 UTC",
)


def count_calls(markets: int, limits: Limits) -> int:
    """Function calls of a decision with a position and an open order in each market, after the order of another market changed."""
    symbols = [BTC, *(f"PERP_C{number}_USDC" for number in range(1, markets))]
    account = snapshot(
        dict.fromkeys(symbols, "0.5"),
        marks=dict.fromkeys(symbols, MARKS[BTC]),
        instruments={symbol: instrument(symbol) for symbol in symbols},
        account_value=D(100_000_000),
        free_collateral=D(90_000_000),
    )
    commitments = {symbol: commitments_of(reservation("0.1"))[BTC] for symbol in symbols}
    alert = Alert(alert_id=None, fired_at=NOW, steps=(signal(Action.BUY, quantity=Amount(D("0.1"))),))
    sums, hook = AccountExposure(), webhook(limits)
    calls = 0

    def decide_once() -> None:
        usage = Usage(now=NOW, commitments=commitments)
        decided = decide(usage, alert=alert, webhook=hook, snapshot=account, policy=POLICY, sums=sums)
        assert decided.status == "admitted", decided

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    decide_once()
    commitments[symbols[1]] = commitments_of(reservation("0.2"))[BTC]
    account = replace(account, taken_at=NOW)
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        decide_once()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize(
    "limits", [Limits(max_open_positions=None), EVERY_LIMIT], ids=["default limits", "every limit"]
)
def test_the_cost_of_a_decision_does_not_grow_with_the_markets(limits: Limits) -> None:
    """With running sums a decision with 50 open markets takes at most 1.2 times the calls of one with 5."""
    assert count_calls(50, limits) <= 1.2 * count_calls(5, limits)


def test_limits_that_are_not_set_cost_nothing() -> None:
    """Without limits a decision takes fewer calls than with those of a new webhook, and with every limit more."""
    none, default, every = (count_calls(5, limits) for limits in (NO_LIMITS, Limits(), EVERY_LIMIT))
    assert none < default < every


# ------------------------------------------------------------------------------------------------------------ properties

CAPPED_AT_3X = AccountPolicy(account_limits=Limits(max_leverage=D(3)), max_snapshot_age_s=30, max_mark_age_s=60)
SYMBOLS = {"BTCUSDT.P": BTC, "ETHUSDT.P": ETH}

sizes = st.decimals(min_value="0.0001", max_value=5, places=6)
amounts = st.one_of(
    st.tuples(sizes.map(Amount), st.sampled_from([None, QuantityType.BASE])),
    st.tuples(st.decimals(1, 300_000, places=2).map(Amount), st.just(QuantityType.USD)),
    st.tuples(st.decimals(1, 400, places=2).map(Amount), st.just(QuantityType.PERCENT_EQUITY)),
    st.tuples(st.decimals("0.01", 20, places=3).map(Amount), st.just(QuantityType.RISK_PERCENT)),
)
stops = st.none() | st.decimals("0.1", 20, places=2).map(lambda percent: Amount(percent, is_percent=True))


@st.composite
def signals(draw: st.DrawFn) -> Signal:
    """A buy or sell of any size, some with a stop and take-profits, some resting."""
    amount, kind = draw(amounts)
    symbol = draw(st.sampled_from(sorted(SYMBOLS)))
    mark = MARKS[SYMBOLS[symbol]]
    stop = (
        draw(stops)
        if kind is not QuantityType.RISK_PERCENT
        else Amount(draw(st.decimals(1, 9, places=1)), is_percent=True)
    )
    order_type = draw(st.sampled_from([OrderType.MARKET, OrderType.MARKET, OrderType.LIMIT]))
    return Signal(
        action=draw(st.sampled_from([Action.BUY, Action.SELL])),
        symbol=symbol,
        quantity=amount,
        quantity_type=kind,
        order_type=order_type,
        limit_price=mark if order_type is OrderType.LIMIT else None,
        stop_loss=stop,
        take_profits=draw(st.sampled_from([(), (TakeProfitSpec(Amount(D(3), is_percent=True)),)])) if stop else (),
    )


limits = st.builds(
    Limits,
    min_order_size=st.none() | st.just(D("0.001")),
    max_order_size=st.none() | st.decimals("0.01", 3, places=3),
    max_position_size=st.none() | st.decimals("0.01", 4, places=3),
    max_notional=st.none() | st.decimals(100, 100_000, places=2),
    daily_limit=st.none() | st.decimals(100, 200_000, places=2),
    daily_orders=st.none() | st.integers(1, 4),
    max_leverage=st.none() | st.decimals("0.1", 5, places=1),
    max_open_positions=st.none() | st.integers(1, 2),
    require_stop_loss=st.booleans(),
    max_stop_distance=st.none() | st.decimals("0.001", "0.2", places=3),
)
held = st.fixed_dictionaries({}, optional={BTC: sizes.map(lambda size: str(round(size, 5))), ETH: st.just("-0.5")})


def admit(steps: Sequence[Signal], rules: Limits, positions: dict[str, str]) -> list[tuple[OrderIntent, Usage]]:
    """Decide alerts one after another without any fill; return every admitted entry with the usage after it."""
    account, usage = snapshot(positions), Usage(now=NOW)
    admitted = []
    for step in steps:
        alert = Alert(alert_id=None, fired_at=NOW, steps=(step,))
        decided = decide(usage, alert=alert, webhook=webhook(rules), snapshot=account, policy=CAPPED_AT_3X)
        for intent in decided.intents:
            usage = with_order(usage, intent)
            if intent.purpose is Purpose.ENTRY:
                admitted.append((intent, usage))
    return admitted


@given(st.lists(signals(), min_size=1, max_size=5), limits, held)
def test_admitted_orders_never_exceed_a_limit(steps: list[Signal], rules: Limits, positions: dict[str, str]) -> None:
    """Sizes, notionals, daily sums, worst-case positions and leverage, after every entry."""
    account = snapshot(positions)
    for intent, usage in admit(steps, rules, positions):
        assert rules.max_order_size is None or intent.quantity <= rules.max_order_size
        assert rules.min_order_size is None or intent.quantity >= rules.min_order_size
        assert rules.max_notional is None or intent.notional <= rules.max_notional
        assert rules.daily_limit is None or usage.traded_today <= rules.daily_limit
        assert rules.daily_orders is None or usage.orders_today <= rules.daily_orders
        position, committed = account.position_quantity(intent.symbol), usage.commitment(intent.symbol)
        largest = exposure.range_of(position, committed.open).on(intent.side)
        assert rules.max_position_size is None or largest <= rules.max_position_size
        gross = AccountExposure().total(account, usage).notional
        max_leverage = min(D(3), rules.max_leverage or D(3))
        assert gross <= max_leverage * account.account_value
        if rules.require_stop_loss:
            assert intent.stop_loss is not None
        if intent.stop_loss is not None and rules.max_stop_distance is not None:
            distance = abs(intent.reference_price - intent.stop_loss) / intent.reference_price
            assert distance <= rules.max_stop_distance


@given(st.lists(signals(), min_size=1, max_size=3), held)
def test_the_request_is_the_judged_order(steps: list[Signal], positions: dict[str, str]) -> None:
    """Symbol, side, size and stop of the request equal those of the judged order, to the last digit."""
    for intent, _ in admit(steps, Limits(max_leverage=None), positions):
        request = json.loads(requests.request_for(intent, "kb-1").text)
        assert (request["symbol"], request["side"]) == (intent.symbol, intent.side.value)
        assert Decimal(request.get("quantity") or request["order_quantity"]) == intent.quantity
        if intent.stop_loss is not None:
            triggers = [leg.get("trigger_price") for group in request["child_orders"] for leg in group["child_orders"]]
            assert format_decimal(intent.stop_loss) in triggers


@given(limits, sizes, st.sampled_from([None, "50%", "100%"]))
def test_a_close_passes_every_limit_and_never_reverses(rules: Limits, size: Decimal, share: str | None) -> None:
    """Under any limits a close is admitted, reduce-only and never larger than the position."""
    open_size = round(size, 5)
    if open_size < D("0.0002"):
        return
    quantity = None if share is None else Amount(Decimal(share[:-1]), is_percent=True)
    close = Signal(action=Action.CLOSE, symbol="BTCUSDT.P", quantity=quantity)
    alert = Alert(alert_id=None, fired_at=NOW, steps=(close,))
    spent = replace(Usage(now=NOW), traded_today=D(10**9), orders_today=10**6, waiting_orders=10**6)
    decided = decide(
        spent,
        alert=alert,
        webhook=webhook(rules),
        snapshot=snapshot({BTC: str(open_size)}),
        policy=CAPPED_AT_3X,
    )
    assert decided.status == "admitted", decided
    assert all(intent.reduce_only for intent in decided.intents)
    assert 0 < sum(intent.quantity for intent in decided.intents) <= open_size


@given(
    st.decimals("0.001", 100, places=4),
    st.none() | st.decimals("0.1", 50, places=2),
    st.sampled_from(["buy", "sell"]),
    st.sampled_from([None, "base", "usd", "percent_equity"]),
)
def test_a_template_is_read_back_as_its_options(
    size: Decimal, stop: Decimal | None, action: str, unit: str | None
) -> None:
    """Side, size, unit and stop of a filled template are those that it was built from."""
    template = build(
        "indicator",
        api_key="wh_test_0123456789abcdefghij",
        api_secret="whs_x",
        action=action,
        symbol="BTCUSDT.P",
        quantity=f"{size:f}",
        quantity_type=unit,
        stop_loss=None if stop is None else f"{stop:f}%",
    )
    message = read_message(fill(template.message, {"timenow": "2026-01-15T10:30:05Z", "close": "65000"}).encode())
    (signal,) = interpret(message, WebhookSettings()).steps
    assert (signal.action.value, signal.quantity and signal.quantity.value) == (action, size)
    assert (signal.quantity_type or QuantityType.BASE).value == (unit or "base")
    assert signal.stop_loss == (None if stop is None else Amount(stop, is_percent=True))
