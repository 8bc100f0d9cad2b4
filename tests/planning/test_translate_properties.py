"""Properties of every plan: sizes and prices on the grid, direction of rounding, closes that never reverse, targets reached."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.alerts import message
from kekbridge.alerts.signal import Action, Amount, PositionSide, QuantityType, Signal, TakeProfitSpec, TargetPosition
from kekbridge.errors import Refused, RequestRefused
from kekbridge.model import (
    Instrument,
    OrderIntent,
    OrderType,
    PositionPart,
    Purpose,
    Side,
    WebhookSettings,
)
from kekbridge.planning.build_orders import resize
from kekbridge.planning.prices import ceil_price, floor_price
from kekbridge.planning.sizing import floor_quantity
from kekbridge.planning.translate import Plan, translate
from tests.paths import DATA
from tests.trading import BTC, D, instrument, snapshot

sizes = st.decimals(min_value="0.0001", max_value=9, places=7)
positions = st.sampled_from([D(0), D(0)]) | st.one_of(
    sizes.map(lambda size: round(size, 5)), sizes.map(lambda size: -round(size, 5)), st.decimals(-30, 30, places=5)
)
settings = st.sampled_from(
    [
        WebhookSettings(),
        WebhookSettings(),
        WebhookSettings(follow="position"),
        WebhookSettings(follow="position", resync=True),
    ]
)
rules = st.builds(
    instrument,
    base_min=st.sampled_from([D("0.00001"), D("0.00015"), D("0.3")]),
    base_tick=st.sampled_from([D("0.00001"), D("0.0001"), D("0.01")]),
    base_max=st.sampled_from([D(10), D(7)]),
    quote_tick=st.sampled_from([D("0.1"), D("0.01"), D("2.5")]),
    min_notional=st.sampled_from([D(1), D(10)]),
)


@st.composite
def signals(draw: st.DrawFn) -> Signal:
    """Any step that trades: prices off the grid, levels mostly on the right side, sometimes a strategy position."""
    target = draw(st.none() | st.none() | targets())
    action = draw(st.sampled_from([Action.BUY, Action.SELL, Action.CLOSE, Action.FLIP]))
    if target is not None and target.previous_signed is not None and draw(st.integers(0, 9)):
        action = Action.BUY if target.signed > target.previous_signed else Action.SELL
    sign = 1 if action is Action.BUY else -1
    unit = draw(st.sampled_from(QuantityType))
    near = st.decimals(min_value=1, max_value=3000, places=3)
    kind = draw(st.sampled_from([OrderType.MARKET, *OrderType]))
    may_protect = kind in (OrderType.MARKET, OrderType.LIMIT)
    percent = st.decimals("0.1", 9, places=2).map(lambda value: Amount(value, is_percent=True))
    stops = st.none() | percent | near.map(lambda distance: Amount(D(62_000 if sign > 0 else 68_000) - distance * sign))
    profits = percent | near.map(lambda distance: Amount(D(68_000 if sign > 0 else 62_000) + distance * sign))
    return Signal(
        action=action,
        symbol="BTCUSDT.P",
        quantity=draw(quantities(unit)),
        quantity_type=unit,
        order_type=kind,
        price=draw(st.none() | near.map(lambda distance: D(64_000) + distance)),
        limit_price=D(65_000) + draw(near) * draw(st.sampled_from([1, -1])),
        trigger_price=D(65_000) + draw(near) * sign * draw(st.sampled_from([1, 1, 1, -1])),
        stop_loss=draw(stops) if may_protect else None,
        take_profits=tuple(TakeProfitSpec(one) for one in draw(st.lists(profits, max_size=3))) if may_protect else (),
        trailing_stop=draw(st.none() | percent) if kind.is_immediate else None,
        reduce_only=draw(st.sampled_from([True, False, False])),
        target=target,
    )


@st.composite
def quantities(draw: st.DrawFn, unit: QuantityType) -> Amount | None:
    if unit is QuantityType.BASE:
        return draw(st.none() | sizes.map(Amount))
    if unit is QuantityType.USD:
        return Amount(draw(st.decimals(min_value=1, max_value=400_000, places=2)))
    return Amount(draw(st.decimals(min_value="0.1", max_value=120, places=2)), is_percent=True)


@st.composite
def targets(draw: st.DrawFn) -> TargetPosition:
    now, before = draw(positions), draw(st.none() | positions)
    return TargetPosition(
        side=_side(now),
        size=abs(now),
        previous_side=None if before is None else _side(before),
        previous_size=None if before is None else abs(before),
    )


def _side(signed: Decimal) -> PositionSide:
    return PositionSide.FLAT if signed == 0 else PositionSide.LONG if signed > 0 else PositionSide.SHORT


def _plan(step: Signal, held: Decimal, market: Instrument, webhook_settings: WebhookSettings) -> Plan | None:
    """The plan, or None if the step is refused; any other exception fails the test."""
    account = snapshot({BTC: str(held)}, instruments={BTC: market})
    try:
        return translate(step, settings=webhook_settings, snapshot=account)
    except Refused:
        return None


@given(step=signals(), held=positions, market=rules, webhook_settings=settings)
def test_the_exchange_accepts_every_order(
    step: Signal, held: Decimal, market: Instrument, webhook_settings: WebhookSettings
) -> None:
    """Sizes and prices are on the grid and in range, levels on the right side."""
    planned = _plan(step, held, market, webhook_settings)
    for intent in planned.intents if planned else ():
        assert market.base_min <= intent.quantity <= market.base_max
        assert floor_quantity(intent.quantity, market) == intent.quantity
        for price in (intent.limit_price, intent.trigger_price, intent.stop_loss):
            assert price is None or (0 < price <= market.quote_max and price % market.quote_tick == 0)
        if intent.purpose is Purpose.ENTRY:
            assert intent.notional >= market.min_notional
            assert not intent.reduce_only
            _check_bracket(intent, market)
        else:
            assert intent.reduce_only
            assert not intent.is_bracket


def _check_bracket(intent: OrderIntent, market: Instrument) -> None:
    sign = intent.side.sign
    if intent.stop_loss is not None:
        assert (intent.reference_price - intent.stop_loss) * sign > 0
    assert sum(part.quantity for part in intent.take_profits) <= intent.quantity
    for part in intent.take_profits:
        assert floor_quantity(part.quantity, market) == part.quantity > 0
        assert (part.trigger_price - intent.reference_price) * sign > 0
        assert part.trigger_price % market.quote_tick == 0


@given(step=signals(), held=positions, market=rules, webhook_settings=settings)
def test_exits_come_first_and_never_reverse(
    step: Signal, held: Decimal, market: Instrument, webhook_settings: WebhookSettings
) -> None:
    """All exits of a step together are at most the position, and an entry waits for them."""
    planned = _plan(step, held, market, webhook_settings)
    if planned is None:
        return
    exits = [intent for intent in planned.intents if intent.purpose is Purpose.EXIT]
    after = held + sum((intent.signed_quantity for intent in exits), D(0))
    assert after * held >= 0
    assert abs(after) <= abs(held)
    assert len(exits) <= abs(held) // floor_quantity(market.base_max, market) + 1
    purposes = [intent.purpose for intent in planned.intents]
    assert purposes == sorted(purposes, key=[Purpose.EXIT, Purpose.ENTRY, Purpose.PROTECT].index)
    assert planned.is_exit == (Purpose.ENTRY not in purposes)
    for intent in planned.intents:
        if intent.purpose is Purpose.ENTRY and exits:
            assert intent.after_leg == len(exits) - 1
    is_reduce_only = step.reduce_only and step.target is None and step.action is not Action.FLIP
    if step.action is Action.CLOSE or is_reduce_only:
        assert webhook_settings.follow == "position" or planned.is_exit


@given(
    step=signals(),
    held=positions,
    elsewhere=positions,
    market=rules,
    webhook_settings=settings,
    states_position=st.booleans(),
)
def test_what_a_strategy_states_closes_nothing_of_others(
    step: Signal,
    held: Decimal,
    elsewhere: Decimal,
    market: Instrument,
    webhook_settings: WebhookSettings,
    states_position: bool,
) -> None:
    """Whatever others hold and however the step is sized: its exits are at most the part that they are of."""
    step = replace(step, states_position=states_position or step.target is not None)
    account = snapshot({BTC: str(held)}, instruments={BTC: market})
    try:
        planned = translate(step, settings=webhook_settings, snapshot=account, others=lambda *_: elsewhere)
    except Refused:
        return
    exits = [intent for intent in planned.intents if intent.purpose is Purpose.EXIT]
    for part in PositionPart:
        closed = sum((intent.quantity for intent in exits if intent.part is part), D(0))
        assert closed <= abs(part.of(held, elsewhere))
    is_stated_exit = step.states_position and (step.reduce_only or step.action is Action.CLOSE)
    if is_stated_exit and planned.is_exit:
        assert all(intent.part is not PositionPart.WHOLE for intent in exits)


@given(
    held=positions,
    sizes_of_both=st.tuples(*[st.decimals(min_value="0.00001", max_value=30, places=5)] * 2),
    is_long=st.booleans(),
    market=rules,
    webhook_settings=st.sampled_from([WebhookSettings(follow="position", resync=True), WebhookSettings()]),
)
def test_a_reversal_ends_at_its_target(
    held: Decimal,
    sizes_of_both: tuple[Decimal, Decimal],
    is_long: bool,
    market: Instrument,
    webhook_settings: WebhookSettings,
) -> None:
    """From any position, the end is the strategy's new position, short of it by at most rounding, never beyond."""
    before, now = sizes_of_both[0] * (1 if is_long else -1), sizes_of_both[1] * (-1 if is_long else 1)
    step = Signal(
        action=Action.BUY if now > before else Action.SELL,
        symbol="BTCUSDT.P",
        quantity=Amount(abs(now - before)),
        quantity_type=QuantityType.BASE,
        target=TargetPosition(side=_side(now), size=abs(now), previous_side=_side(before), previous_size=abs(before)),
    )
    planned = _plan(step, held, market, webhook_settings)
    if planned is None or planned.ignored_code:
        return
    end = held
    for intent in planned.intents:
        sent = resize(intent, snapshot({BTC: str(end)}, instruments={BTC: market}))
        end += sent.signed_quantity if sent else D(0)
    assert abs(end) <= max(abs(now), abs(held))
    if planned.intents[-1].purpose is Purpose.ENTRY:
        assert (now - end) * planned.intents[-1].side.sign >= 0  # not beyond
        assert abs(now - end) < max(market.base_tick, market.base_min) * 2


@given(
    price=st.decimals(min_value="0.001", max_value=199_000, places=6),
    tick=st.sampled_from([D("0.1"), D("0.01"), D("2.5"), D("0.00001")]),
    least=st.sampled_from([D(0), D("0.05"), D(3)]),
)
def test_prices_are_rounded_to_the_next_step_only(price: Decimal, tick: Decimal, least: Decimal) -> None:
    """Down is less than a tick below, up less than a tick above, and both are on the grid from quote_min."""
    market = instrument(quote_tick=tick, quote_min=least)
    down, up = floor_price(price, market), ceil_price(price, market)
    assert down <= price <= up
    assert up - down in (0, tick)
    assert (down - least) % tick == 0


CASES = json.loads((DATA / "alert-payloads.json").read_text())["cases"]
BASES = ("BTC", "ETH", "SOL", "BNB", "DOT", "1000PEPE", "1000SHIB", "SPX", "W", "XAU", "EURUSD")
LISTED = {
    f"PERP_{base}_USDC": instrument(f"PERP_{base}_USDC", min_notional=D("0.0001"), base_max=D(1000)) for base in BASES
}
FIXTURE_MARKS = dict.fromkeys(LISTED, D(4)) | {
    "PERP_BTC_USDC": D(65_000),
    "PERP_ETH_USDC": D(1800),
    "PERP_SOL_USDC": D(140),
    "PERP_BNB_USDC": D(600),
}
# The late one of two swapped closes finds the position closed by the first: test_two_partial_closes_end_flat_in_either_order.
LATE = "strat-two-partials-swapped-b"
READABLE = [case for case in CASES if case["expect"]["decision"] == "accept" and case["id"] != LATE]


@pytest.mark.parametrize("case", READABLE, ids=lambda case: case["id"])
def test_accepted_messages_become_the_documented_order(case: dict[str, Any]) -> None:
    """alert-payloads.json: symbol, side, type, size, reduce-only, levels and target of every accepted message."""
    webhook_settings = WebhookSettings(require_signature=False, require_timestamp=False)
    state = {symbol: D(size) for symbol, size in case.get("state", {}).items()}
    account = snapshot({symbol: str(size) for symbol, size in state.items()}, instruments=LISTED, marks=FIXTURE_MARKS)
    alert = message.interpret(message.read_message(case["body"].encode()), webhook_settings)
    planned = translate(alert.steps[0], settings=webhook_settings, snapshot=account)
    expected = case["expect"]
    assert planned.symbol == expected["symbol"]
    if "side" in expected:
        assert {intent.side for intent in planned.intents} == {Side(expected["side"])}
    if "reduce_only" in expected:
        assert {intent.reduce_only for intent in planned.intents} == {expected["reduce_only"]}
    for intent in planned.intents:
        _check_documented(intent, expected, state.get(intent.symbol, D(0)))
    if "target" in expected:
        end = state.get(expected["symbol"], D(0)) + sum(intent.signed_quantity for intent in planned.intents)
        assert end == D(expected["target"]["value"])


def _check_documented(intent: OrderIntent, expected: dict[str, Any], held: Decimal) -> None:
    wanted = {
        "order_type": intent.order_type.value.upper(),
        "price": intent.limit_price,
        "signal_price": intent.signal_price,
        "stop_loss": intent.stop_loss,
        "take_profit": intent.take_profits[0].trigger_price if intent.take_profits else None,
    }
    for name, found in wanted.items():
        if name in expected:
            assert found == (expected[name] if name == "order_type" else D(expected[name]))
    if "quantity" in expected:
        value = D(expected["quantity"]["value"])
        is_share = expected["quantity"]["mode"] == "percent_position"
        assert intent.quantity == (abs(held) * value / 100 if is_share else value)


@pytest.mark.parametrize("case", [case for case in CASES if case not in READABLE], ids=lambda case: case["id"])
def test_other_messages_are_refused_or_ignored(case: dict[str, Any]) -> None:
    """Refused, ignored and policy cases: no other exception, and ignored ones have no order."""
    webhook_settings = WebhookSettings(require_signature=False, require_timestamp=False)
    account = snapshot(case.get("state"), instruments=LISTED, marks=FIXTURE_MARKS)
    try:
        alert = message.interpret(message.read_message(case["body"].encode()), webhook_settings)
        planned = translate(alert.steps[0], settings=webhook_settings, snapshot=account)
    except RequestRefused:
        assert case["expect"]["decision"] in ("reject", "policy")
        return
    if case["expect"]["decision"] == "ignore" or case["id"] == LATE:
        assert (planned.intents, planned.ignored_code) == ((), "nothing_to_close")


# ------------------------------------------------------------------------------------------------------ protective fields

# A buy of each service that has such a field, and the field's names there.
_BUYS: dict[str, dict[str, Any]] = {
    "seed": {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01"},
    "traderspost": {"ticker": "BTCUSDT.P", "action": "buy", "quantity": "0.01"},
    "3commas": {
        "tv_instrument": "BTCUSDT.P",
        "action": "enter_long",
        "order": {"amount": "0.01", "currency_type": "base"},
    },
    "wundertrading": {
        "code": "ENTER-LONG_Bybit_BTCUSDT_b_15M_a",
        "amountPerTradeType": "base",
        "amountPerTrade": "0.01",
    },
    "openalgo": {"symbol": "BTCUSDT.P", "action": "BUY", "pricetype": "MARKET", "quantity": "0.01"},
    "community": {"ticker": "BTCUSDT.P", "strategy": {"order_action": "buy", "order_contracts": "0.01"}},
}
_PROTECTIONS = {
    "stop": (
        "stopLoss",
        "stop_loss",
        "sl",
        "stoploss",
        "StopLoss",
        "stop-loss",
        "stop_loss_price",
        "stopPrice",
        "stopLos",
    ),
    "target": (
        "takeProfit",
        "take_profit",
        "takeProfits",
        "take_profits",
        "tp",
        "tp1",
        "TakeProfit",
        "takeprofit_price",
    ),
    "trailing": ("trailingStop", "trailing_stop", "trailing", "trail", "trailingstop", "trailing_stop_loss"),
}
_LEVELS = ("1%", "64000", "66000", "500", "2", 64_000, 2, "0.02", "1", "-2%", "2 %", "64,000", "abc", "true", True)
_KEYS = (
    "percent",
    "price",
    "value",
    "stopPrice",
    "limitPrice",
    "trigger_price",
    "trigger_price_percent",
    "priceDeviation",
)
levels = st.sampled_from(_LEVELS)
shapes = levels | st.dictionaries(
    st.sampled_from([*_KEYS, "trailPercent", "trailPrice", "enabled", "type", "steps", "foo"]),
    levels,
    min_size=1,
    max_size=3,
)


@given(
    profile=st.sampled_from(sorted(_BUYS)),
    field=st.sampled_from([(kind, name) for kind, names in _PROTECTIONS.items() for name in names]),
    value=shapes | st.lists(shapes, min_size=1, max_size=2),
)
def test_a_protective_field_is_never_dropped(profile: str, field: tuple[str, str], value: object) -> None:
    """However a stop, take-profit or trailing stop is spelled and shaped: the entry carries it, or there is no entry."""
    kind, name = field
    body = json.dumps({**_BUYS[profile], name: value})
    webhook_settings = WebhookSettings(profile=profile, require_signature=False, require_timestamp=False)
    try:
        (step,) = message.interpret(message.read_message(body.encode()), webhook_settings).steps
        planned = translate(
            step, settings=webhook_settings, snapshot=snapshot({}, instruments=LISTED, marks=FIXTURE_MARKS)
        )
    except RequestRefused:
        return
    if any(intent.purpose is Purpose.ENTRY for intent in planned.intents):
        # A trailing stop is an order of its own; a service may write it as one kind of stop loss.
        trailing = any(
            intent.trailing_callback_rate or intent.trailing_callback_value
            for intent in planned.intents
            if intent.reduce_only
        )
        entries = [intent for intent in planned.intents if intent.purpose is Purpose.ENTRY]
        stop = all(intent.stop_loss is not None for intent in entries)
        target = all(intent.take_profits for intent in entries)
        assert {"stop": stop or trailing, "target": target, "trailing": trailing}[kind], body
