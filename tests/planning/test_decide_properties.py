"""What must hold whatever is sent under whatever limits: nothing admitted exceeds a limit, exits pass, what is judged is what is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.message import interpret, read_message
from kekbridge.alerts.signal import Action, Alert, Amount, QuantityType, Signal, TakeProfitSpec
from kekbridge.alerts.template import build, fill
from kekbridge.exchange.orderly import requests
from kekbridge.formatting import format_decimal
from kekbridge.model import Limits, OrderIntent, OrderType, Purpose, Usage, WebhookSettings
from kekbridge.planning.decide import AccountPolicy, decide
from kekbridge.risk import exposure
from kekbridge.risk.check import with_order
from tests.trading import BTC, ETH, MARKS, NOW, D, snapshot, webhook

TERMS = AccountPolicy(account_limits=Limits(max_leverage=D(3)), max_snapshot_age_s=30, max_mark_age_s=60)
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


def _run(steps: Sequence[Signal], rules: Limits, positions: dict[str, str]) -> list[tuple[OrderIntent, Usage]]:
    """Alerts one after the other, none of them filled yet: every admitted entry with the usage that it leaves behind."""
    account, hook, usage = snapshot(positions), webhook(rules), Usage(now=NOW)
    admitted = []
    for step in steps:
        alert = Alert(alert_id=None, fired_at=NOW, steps=(step,))
        decided = decide(usage, alert=alert, webhook=hook, snapshot=account, terms=TERMS)
        for intent in decided.intents:
            usage = with_order(usage, intent)
            if intent.purpose is Purpose.ENTRY:
                admitted.append((intent, usage))
    return admitted


@given(st.lists(signals(), min_size=1, max_size=5), limits, held)
def test_nothing_admitted_exceeds_a_limit(steps: list[Signal], rules: Limits, positions: dict[str, str]) -> None:
    """Sizes, values, the day's sums, positions and leverage at their worst, after every single entry."""
    account = snapshot(positions)
    for intent, usage in _run(steps, rules, positions):
        assert rules.max_order_size is None or intent.quantity <= rules.max_order_size
        assert rules.min_order_size is None or intent.quantity >= rules.min_order_size
        assert rules.max_notional is None or intent.notional <= rules.max_notional
        assert rules.daily_limit is None or usage.traded_today <= rules.daily_limit
        assert rules.daily_orders is None or usage.orders_today <= rules.daily_orders
        reach = exposure.range_in(intent.symbol, account, usage.commitments).on(intent.side)
        assert rules.max_position_size is None or reach <= rules.max_position_size
        gross = exposure.gross_notional(account, usage.commitments)
        most = min(D(3), rules.max_leverage or D(3))
        assert gross <= most * account.account_value
        if rules.require_stop_loss:
            assert intent.stop_loss is not None
        if intent.stop_loss is not None and rules.max_stop_distance is not None:
            distance = abs(intent.reference_price - intent.stop_loss) / intent.reference_price
            assert distance <= rules.max_stop_distance


@given(st.lists(signals(), min_size=1, max_size=3), held)
def test_what_is_judged_is_what_is_sent(steps: list[Signal], positions: dict[str, str]) -> None:
    """The request's symbol, side, size and stop are the judged order's, to the last digit."""
    for intent, _ in _run(steps, Limits(max_leverage=None), positions):
        request = json.loads(requests.request_for(intent, "kb-1").text)
        assert (request["symbol"], request["side"]) == (intent.symbol, intent.side.value)
        assert Decimal(request.get("quantity") or request["order_quantity"]) == intent.quantity
        if intent.stop_loss is not None:
            triggers = [leg.get("trigger_price") for group in request["child_orders"] for leg in group["child_orders"]]
            assert format_decimal(intent.stop_loss) in triggers


@given(limits, sizes, st.sampled_from([None, "50%", "100%"]))
def test_a_close_passes_every_limit_and_never_flips(rules: Limits, size: Decimal, share: str | None) -> None:
    """Whatever the limits say, a close goes through, reduce-only and never larger than the position."""
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
        terms=TERMS,
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
def test_a_template_says_what_it_was_made_from(
    size: Decimal, stop: Decimal | None, action: str, unit: str | None
) -> None:
    """template(parse(x)) is x: side, size, unit and stop come back as they went in."""
    made = build(
        "indicator",
        api_key="wh_test_0123456789abcdefghij",
        api_secret="whs_x",
        action=action,
        symbol="BTCUSDT.P",
        quantity=f"{size:f}",
        quantity_type=unit,
        stop_loss=None if stop is None else f"{stop:f}%",
    )
    message = read_message(fill(made.message, {"timenow": "2026-01-15T10:30:05Z", "close": "65000"}).encode())
    (signal,) = interpret(message, WebhookSettings()).steps
    assert (signal.action.value, signal.quantity and signal.quantity.value) == (action, size)
    assert (signal.quantity_type or QuantityType.BASE).value == (unit or "base")
    assert signal.stop_loss == (None if stop is None else Amount(stop, is_percent=True))
