"""Translating one step of an alert to orders: sides, sizes, prices, targets, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.alerts.signal import Action, Amount, PositionSide, QuantityType, TakeProfitSpec, TargetPosition
from kekbridge.errors import Refused
from kekbridge.model import CancelRequest, Limits, OrderType, Purpose, Side, TakeProfit, WebhookSettings
from kekbridge.planning.translate import Plan, translate
from tests.trading import BTC, ETH, INSTRUMENTS, PEPE, D, instrument, signal, snapshot


def plan(
    action: Action,
    symbol: str | None = "BTCUSDT.P",
    *,
    held: str | None = None,
    account: Mapping[str, Any] | None = None,
    settings: WebhookSettings | None = None,
    pending: str | None = None,
    first_leg: int = 0,
    **fields: Any,
) -> Plan:
    """Translate one step for an account that holds `held` BTC and has `pending` BTC in flight."""
    return translate(
        signal(action, symbol, **fields),
        settings=settings or WebhookSettings(),
        snapshot=snapshot({BTC: held} if held else None, **(account or {})),
        pending=lambda symbol: D(pending or 0) if symbol == BTC else D(0),
        first_leg=first_leg,
    )


def refusal(action: Action, symbol: str | None = "BTCUSDT.P", **kwargs: Any) -> tuple[str, str | None]:
    """Code and field of the refusal, whose message is one line."""
    with pytest.raises(Refused) as refused:
        plan(action, symbol, **kwargs)
    assert "\n" not in refused.value.message
    return refused.value.code, refused.value.field


def base(quantity: str) -> dict[str, Any]:
    return {"quantity": Amount(D(quantity)), "quantity_type": QuantityType.BASE}


def share(percent: str) -> Amount:
    return Amount(D(percent), is_percent=True)


def orders(result: Plan) -> list[tuple[Side, Decimal, Purpose]]:
    return [(intent.side, intent.quantity, intent.purpose) for intent in result.intents]


# ------------------------------------------------------------------------------------------------------ buy, sell, close


@pytest.mark.parametrize("held", [None, "0.2"])
def test_a_buy_on_a_flat_or_long_account_is_one_entry(held: str | None) -> None:
    """In the same direction or flat the order is not reduce-only."""
    planned = plan(Action.BUY, held=held, **base("0.01"))
    assert orders(planned) == [(Side.BUY, D("0.01"), Purpose.ENTRY)]
    assert not planned.is_exit
    assert not planned.intents[0].reduce_only
    assert planned.intents[0].reference_price == D(65_000)


def test_an_opposite_order_that_does_not_cross_zero_only_reduces() -> None:
    """Selling less than is held is an exit: reduce-only, no limit blocks it."""
    planned = plan(Action.SELL, held="0.03", **base("0.01"))
    assert orders(planned) == [(Side.SELL, D("0.01"), Purpose.EXIT)]
    assert planned.intents[0].reduce_only
    assert planned.is_exit


def test_an_opposite_order_that_crosses_zero_closes_first() -> None:
    """Two orders: the close of the position, then the entry of the rest, which waits for it."""
    planned = plan(Action.SELL, held="0.03", first_leg=4, **base("0.05"))
    assert orders(planned) == [(Side.SELL, D("0.03"), Purpose.EXIT), (Side.SELL, D("0.02"), Purpose.ENTRY)]
    close, entry = planned.intents
    assert close.close_fraction == 1
    assert close.after_leg is None
    assert (entry.after_leg, entry.target_quantity, entry.reduce_only) == (4, D("-0.02"), False)
    assert not planned.is_exit


def test_orders_in_flight_count_as_position() -> None:
    """The second of two alerts sees the position that the first will create."""
    planned = plan(Action.SELL, pending="0.03", **base("0.03"))
    assert orders(planned) == [(Side.SELL, D("0.03"), Purpose.EXIT)]


def test_float_noise_above_the_position_opens_nothing() -> None:
    """Selling 0.3 + 1e-17 of 0.3 must neither fail nor open a remainder on the other side."""
    planned = plan(Action.SELL, held="0.3", **base("0.30000000000000004"))
    assert orders(planned) == [(Side.SELL, D("0.3"), Purpose.EXIT)]
    assert any("not opened" in note for note in planned.notes)


def test_a_position_too_small_to_close_does_not_block_an_entry() -> None:
    """A position below base_min cannot be closed by itself; the entry includes it."""
    planned = plan(Action.SELL, held="0.000004", **base("0.01"))
    assert orders(planned) == [(Side.SELL, D("0.01"), Purpose.ENTRY)]


def test_reduce_only_never_opens_and_never_exceeds_the_position() -> None:
    """reduceOnly:true is a close on one side only."""
    assert orders(plan(Action.SELL, held="0.03", reduce_only=True, **base("5"))) == [
        (Side.SELL, D("0.03"), Purpose.EXIT)
    ]
    for held in (None, "-0.03"):
        ignored = plan(Action.SELL, held=held, reduce_only=True, **base("0.01"))
        assert (ignored.intents, ignored.ignored_code, ignored.is_exit) == ((), "nothing_to_close", True)


def test_a_close_takes_its_side_from_the_position() -> None:
    """A close needs no side and no quantity; it closes what is open when it is sent."""
    for held, side in (("0.03", Side.SELL), ("-0.03", Side.BUY)):
        (close,) = plan(Action.CLOSE, held=held).intents
        assert (close.side, close.quantity, close.close_fraction, close.target_quantity) == (
            side,
            D("0.03"),
            D(1),
            D(0),
        )
        assert (close.order_type, close.reduce_only) == (OrderType.MARKET, True)


@pytest.mark.parametrize(
    ("fields", "quantity", "fraction"),
    [
        ({"quantity": share("50")}, "0.015", "0.5"),
        ({"quantity": share("50"), "quantity_type": QuantityType.PERCENT_POSITION}, "0.015", "0.5"),
        (base("0.01"), "0.01", None),
        (base("7"), "0.03", None),
        ({"quantity": Amount(D(650)), "quantity_type": QuantityType.USD}, "0.01", None),
        ({"quantity": share("100")}, "0.03", "1"),
    ],
)
def test_a_close_by_share_quantity_or_usd(fields: dict[str, Any], quantity: str, fraction: str | None) -> None:
    """A part of the position in any unit, capped at the position."""
    (close,) = plan(Action.CLOSE, held="0.03", reduce_only=True, **fields).intents
    assert close.quantity == D(quantity)
    assert close.close_fraction == (None if fraction is None else D(fraction))


def test_a_close_while_flat_is_no_error() -> None:
    """There is no order, only a code."""
    assert plan(Action.CLOSE).ignored_code == "nothing_to_close"


def test_a_close_needs_no_mark_price() -> None:
    """An exit must not fail because a price is missing; an entry must."""
    (close,) = plan(Action.CLOSE, held="0.03", account={"marks": {}}).intents
    assert close.reference_price == D(65_000)
    assert refusal(Action.BUY, account={"marks": {}}, **base("0.01")) == ("no_mark_price", "symbol")


def test_a_position_above_base_max_is_closed_in_several_orders() -> None:
    """With a base_max of 10 BTC an exit of 25 is three orders, none above it."""
    planned = plan(Action.CLOSE, held="25")
    assert [intent.quantity for intent in planned.intents] == [D(10), D(10), D(5)]
    assert all(intent.close_fraction is None for intent in planned.intents)


def test_a_flip_closes_and_opens_the_other_side() -> None:
    """By the same size, or by the given quantity."""
    assert orders(plan(Action.FLIP, held="0.03")) == [
        (Side.SELL, D("0.03"), Purpose.EXIT),
        (Side.SELL, D("0.03"), Purpose.ENTRY),
    ]
    planned = plan(Action.FLIP, held="-0.03", **base("0.01"))
    assert orders(planned) == [(Side.BUY, D("0.03"), Purpose.EXIT), (Side.BUY, D("0.01"), Purpose.ENTRY)]
    assert planned.intents[1].target_quantity == D("0.01")
    assert plan(Action.FLIP).ignored_code == "nothing_to_close"


# ------------------------------------------------------------------------------------------------------------------ sizes


def test_sizes_in_usd_are_notional_at_the_mark() -> None:
    """250 USDC at 65,000 is 0.00384 BTC, rounded down."""
    (entry,) = plan(Action.BUY, quantity=Amount(D(250)), quantity_type=QuantityType.USD).intents
    assert entry.quantity == D("0.00384")


def test_percent_of_equity_is_notional() -> None:
    """10 % of 100,000 USDC is 10,000 USDC of BTC at any leverage."""
    (entry,) = plan(Action.BUY, quantity=share("10"), quantity_type=QuantityType.PERCENT_EQUITY).intents
    assert entry.quantity == D("0.15384")


def test_risk_percent_is_sized_by_the_stop_that_is_sent() -> None:
    """1 % of 100,000 USDC at risk over a distance of 1,300 USDC."""
    (entry,) = plan(
        Action.BUY, quantity=share("1"), quantity_type=QuantityType.RISK_PERCENT, stop_loss=share("2")
    ).intents
    assert entry.stop_loss == D(63_700)
    assert entry.quantity == D("0.76923")


def test_a_sell_limit_below_the_market_is_sized_by_the_market() -> None:
    """It fills at the market: sized by its limit of 1 USDC it would sell 65,000 times too much."""
    (entry,) = plan(
        Action.SELL,
        order_type=OrderType.LIMIT,
        limit_price=D(1),
        quantity=Amount(D(650)),
        quantity_type=QuantityType.USD,
    ).intents
    assert (entry.quantity, entry.limit_price, entry.reference_price) == (D("0.01"), D(1), D(65_000))


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({}, "quantity_missing", "quantity"),
        ({"quantity": share("25")}, "quantity_type_missing", "quantity"),
        (
            {"quantity": share("25"), "quantity_type": QuantityType.USD},
            "quantity_type_unsupported",
            "quantityType",
        ),
        (
            {"quantity": share("25"), "quantity_type": QuantityType.PERCENT_POSITION},
            "quantity_type_unsupported",
            "quantityType",
        ),
        (
            {"quantity": share("1"), "quantity_type": QuantityType.RISK_PERCENT},
            "quantity_type_unsupported",
            "quantityType",
        ),
        (base("0.0001"), "quantity_too_small", "quantity"),
        (base("0.000001"), "quantity_too_small", "quantity"),
        (base("11"), "order_too_large", "quantity"),
    ],
)
def test_ambiguous_or_impossible_sizes_are_refused(fields: dict[str, Any], code: str, field: str) -> None:
    """A mistaken unit could cost the account: refused, naming the field."""
    assert refusal(Action.BUY, **fields) == (code, field)


def test_too_small_names_the_minimum() -> None:
    """The exchange's minimum is 10 USDC: at 65,000 that is 0.00016 BTC."""
    with pytest.raises(Refused) as refused:
        plan(Action.BUY, **base("0.0001"))
    assert "send 0.00016 or more" in refused.value.message


def test_a_small_remainder_can_be_closed() -> None:
    """min_notional does not apply to reduce-only orders (docs/internals/orderly.md section 5)."""
    assert orders(plan(Action.CLOSE, held="0.00001")) == [(Side.SELL, D("0.00001"), Purpose.EXIT)]


def test_units_of_a_thousand_are_rescaled_only_on_request() -> None:
    """PEPE on the market of 1000PEPE: quantity divided, prices multiplied, with a warning."""
    fields = base("5000000") | {"stop_loss": Amount(D("0.0000100"))}
    planned = plan(
        Action.BUY, "PEPEUSDT.P", settings=WebhookSettings(rescale_units=True), price=D("0.0000118"), **fields
    )
    (entry,) = planned.intents
    assert (entry.symbol, entry.quantity) == (PEPE, D(5000))
    assert (entry.stop_loss, entry.signal_price) == (D("0.01"), D("0.0118"))
    assert any("rescaled" in warning for warning in planned.warnings)
    assert refusal(Action.BUY, "PEPEUSDT.P", **fields) == ("symbol_unit_mismatch", "symbol")


def test_contracts_of_an_inverse_chart_are_not_coins() -> None:
    """XBTUSD counts USD: only an explicit USD amount, a percent or a whole close is accepted."""
    assert refusal(Action.BUY, "XBTUSD", **base("100")) == ("quantity_type_unsupported", "quantityType")
    (entry,) = plan(Action.BUY, "XBTUSD", quantity=Amount(D(650)), quantity_type=QuantityType.USD).intents
    assert entry.quantity == D("0.01")
    assert plan(Action.CLOSE, "XBTUSD", held="0.5").intents[0].quantity == D("0.5")


# ----------------------------------------------------------------------------------------------------------------- prices


@pytest.mark.parametrize(("action", "limit"), [(Action.BUY, "64000.1"), (Action.SELL, "64000.2")])
def test_a_limit_is_rounded_so_that_it_never_pays_more(action: Action, limit: str) -> None:
    """A buy's limit is rounded down, a sell's up."""
    (entry,) = plan(action, order_type=OrderType.LIMIT, limit_price=D("64000.15"), **base("0.01")).intents
    assert entry.limit_price == D(limit)


@pytest.mark.parametrize(
    ("action", "stop", "profit", "rounded_stop", "rounded_profit"),
    [
        (Action.BUY, "64000.01", "68000.09", "64000.1", "68000"),
        (Action.SELL, "66000.09", "62000.01", "66000", "62000.1"),
    ],
)
def test_exits_are_rounded_towards_the_entry(
    action: Action, stop: str, profit: str, rounded_stop: str, rounded_profit: str
) -> None:
    """Stop and take-profit closer to the entry: less risk than written."""
    (entry,) = plan(
        action, stop_loss=Amount(D(stop)), take_profits=(TakeProfitSpec(Amount(D(profit))),), **base("0.01")
    ).intents
    assert entry.stop_loss == D(rounded_stop)
    assert entry.take_profits == (TakeProfit(D(rounded_profit), D("0.01")),)


def test_percent_levels_are_of_the_entry() -> None:
    """Percent of the limit price for limit orders, of the mark for market orders."""
    levels: dict[str, Any] = {"stop_loss": share("2"), "take_profits": (TakeProfitSpec(share("4")),)}
    (market,) = plan(Action.BUY, price=D(64_900), **levels, **base("0.01")).intents
    assert (market.stop_loss, market.take_profits[0].trigger_price) == (D(63_700), D(67_600))
    (limit,) = plan(Action.BUY, order_type=OrderType.LIMIT, limit_price=D(60_000), **levels, **base("0.01")).intents
    assert (limit.stop_loss, limit.take_profits[0].trigger_price) == (D(58_800), D(62_400))


@pytest.mark.parametrize(
    ("action", "fields", "code"),
    [
        (Action.BUY, {"stop_loss": Amount(D(66_000))}, "stop_loss_wrong_side"),
        (Action.BUY, {"stop_loss": Amount(D(65_000))}, "stop_loss_wrong_side"),
        (Action.BUY, {"stop_loss": Amount(D(64_950)), "price": D(64_900)}, "stop_loss_wrong_side"),
        (Action.SELL, {"stop_loss": Amount(D(64_000))}, "stop_loss_wrong_side"),
        (Action.SELL, {"take_profits": (TakeProfitSpec(Amount(D(68_000))),)}, "take_profit_wrong_side"),
        (Action.BUY, {"take_profits": (TakeProfitSpec(Amount(D(64_000))),)}, "take_profit_wrong_side"),
        (Action.SELL, {"take_profits": (TakeProfitSpec(share("100")),)}, "take_profit_invalid"),
        (
            Action.BUY,
            {"order_type": OrderType.LIMIT, "limit_price": D(66_000), "stop_loss": Amount(D(65_500))},
            "stop_loss_wrong_side",
        ),
    ],
)
def test_levels_on_the_wrong_side_are_refused(action: Action, fields: dict[str, Any], code: str) -> None:
    """They would trigger at once: compared with the mark, the limit and the signal price."""
    assert refusal(action, **fields, **base("0.01"))[0] == code


def test_several_take_profits_share_the_entry() -> None:
    """Shares in percent; the last take-profit gets the remainder of rounding."""
    specs = (
        TakeProfitSpec(Amount(D(66_000)), D(33)),
        TakeProfitSpec(Amount(D(67_000)), D(33)),
        TakeProfitSpec(Amount(D(68_000))),
    )
    (entry,) = plan(Action.BUY, take_profits=specs, **base("0.001")).intents
    assert [profit.quantity for profit in entry.take_profits] == [D("0.00033"), D("0.00033"), D("0.00034")]


def test_an_exit_carries_no_bracket() -> None:
    """A stop loss on an order that only reduces would protect nothing."""
    (close,) = plan(Action.SELL, held="0.03", stop_loss=Amount(D(66_000)), **base("0.01")).intents
    assert (close.stop_loss, close.take_profits) == (None, ())


def test_the_bracket_of_a_reversal_belongs_to_its_entry() -> None:
    """Only the entry has the stop, not the close before it."""
    close, entry = plan(Action.SELL, held="0.03", stop_loss=Amount(D(66_000)), **base("0.05")).intents
    assert (close.stop_loss, entry.stop_loss) == (None, D(66_000))


@pytest.mark.parametrize("kind", [OrderType.STOP, OrderType.IOC, OrderType.FOK, OrderType.POST_ONLY])
def test_only_market_and_limit_entries_can_carry_a_bracket(kind: OrderType) -> None:
    """Only those fit with their exits into one request: any other entry would be unprotected for a moment."""
    prices: dict[str, Any] = {"trigger_price": D(66_000)} if kind is OrderType.STOP else {"limit_price": D(64_000)}
    found = refusal(Action.BUY, order_type=kind, stop_loss=Amount(D(60_000)), **prices, **base("0.01"))
    assert found == ("order_type_unsupported", "orderType")


@pytest.mark.parametrize(
    ("action", "held", "trigger", "rounded"),
    [
        (Action.BUY, None, "66000.01", "66000.1"),
        (Action.SELL, None, "64000.09", "64000"),
        (Action.SELL, "1", "64000.01", "64000.1"),
    ],
)
def test_stop_triggers_are_rounded_towards_less_risk(
    action: Action, held: str | None, trigger: str, rounded: str
) -> None:
    """An entry triggers later, an exit sooner."""
    (order,) = plan(action, held=held, order_type=OrderType.STOP, trigger_price=D(trigger), **base("0.01")).intents
    assert order.trigger_price == D(rounded)


def test_a_stop_that_would_trigger_at_once_is_refused() -> None:
    """A buy stop below the market would act as a market order."""
    found = refusal(Action.BUY, order_type=OrderType.STOP, trigger_price=D(64_000), **base("0.01"))
    assert found == ("price_invalid", "triggerPrice")


@pytest.mark.parametrize("price", ["0.04", "200000.1"])
def test_prices_outside_the_exchanges_range_are_refused(price: str) -> None:
    """Above quote_max, or a price that is rounded to zero."""
    found = refusal(Action.BUY, order_type=OrderType.LIMIT, limit_price=D(price), **base("0.01"))
    assert found == ("price_invalid", "limitPrice")


def test_market_entries_have_the_tighter_slippage_bound() -> None:
    """The alert's or the webhook's; an exit is bounded only by the alert's own slippage."""
    settings = WebhookSettings(limits=Limits(max_slippage=D("0.005")))
    (entry,) = plan(Action.BUY, settings=settings, price=D(65_010), slippage=D("0.01"), **base("0.01")).intents
    assert (entry.slippage, entry.signal_price) == (D("0.005"), D(65_010))
    (limit,) = plan(
        Action.BUY, settings=settings, order_type=OrderType.LIMIT, limit_price=D(64_000), **base("0.01")
    ).intents
    assert limit.slippage is None
    assert plan(Action.CLOSE, held="1", settings=settings).intents[0].slippage is None
    assert plan(Action.CLOSE, held="1", settings=settings, slippage=D("0.02")).intents[0].slippage == D("0.02")


def test_a_trailing_stop_is_a_separate_order_after_its_entry() -> None:
    """The exchange has no trailing stop inside a bracket; it is reduce-only and rests."""
    entry, trail = plan(Action.BUY, first_leg=2, trailing_stop=share("1.5"), **base("0.01")).intents
    assert (trail.side, trail.quantity, trail.purpose) == (Side.SELL, D("0.01"), Purpose.PROTECT)
    assert (trail.reduce_only, trail.after_leg, trail.trailing_callback_rate) == (True, 2, D("0.015"))
    assert (entry.trailing_callback_rate, trail.order_type.is_immediate) == (None, False)
    _, by_price = plan(Action.BUY, trailing_stop=Amount(D("500.19")), **base("0.01")).intents
    assert by_price.trailing_callback_value == D("500.1")
    found = refusal(Action.BUY, trailing_stop=share("20"), **base("0.01"))
    assert found == ("trailing_stop_invalid", "trailingStop")


def test_leverage_is_carried_by_the_entry_only() -> None:
    """A close does not change the leverage."""
    close, entry = plan(Action.SELL, held="0.03", leverage=D(5), **base("0.05")).intents
    assert close.leverage is None
    assert entry.leverage == 5


# ------------------------------------------------------------------------------------------------ the strategy's position


def target(now: str, before: str | None = None) -> TargetPosition:
    """The strategy's position after and before its fill, from signed sizes."""
    return TargetPosition(
        side=side_named(D(now)),
        size=abs(D(now)),
        previous_side=None if before is None else side_named(D(before)),
        previous_size=None if before is None else abs(D(before)),
    )


def side_named(signed: Decimal) -> PositionSide:
    return PositionSide.FLAT if signed == 0 else PositionSide.LONG if signed > 0 else PositionSide.SHORT


FOLLOW = WebhookSettings(follow="position")
RESYNC = WebhookSettings(follow="position", resync=True)


@pytest.mark.parametrize("settings", [WebhookSettings(), FOLLOW, RESYNC])
@pytest.mark.parametrize(
    ("before", "now", "action", "contracts", "expected"),
    [
        ("0", "0.5", Action.BUY, "0.5", [(Side.BUY, D("0.5"), Purpose.ENTRY)]),
        ("0", "-0.5", Action.SELL, "0.5", [(Side.SELL, D("0.5"), Purpose.ENTRY)]),
        ("0.5", "1", Action.BUY, "0.5", [(Side.BUY, D("0.5"), Purpose.ENTRY)]),
        ("0.5", "0.3", Action.SELL, "0.2", [(Side.SELL, D("0.2"), Purpose.EXIT)]),
        ("-0.5", "-0.3", Action.BUY, "0.2", [(Side.BUY, D("0.2"), Purpose.EXIT)]),
        ("0.5", "0", Action.SELL, "0.5", [(Side.SELL, D("0.5"), Purpose.EXIT)]),
        ("0.5", "-0.5", Action.SELL, "1", [(Side.SELL, D("0.5"), Purpose.EXIT), (Side.SELL, D("0.5"), Purpose.ENTRY)]),
        ("-0.5", "0.2", Action.BUY, "0.7", [(Side.BUY, D("0.5"), Purpose.EXIT), (Side.BUY, D("0.2"), Purpose.ENTRY)]),
    ],
)
def test_fills_on_an_account_in_sync(
    settings: WebhookSettings, before: str, now: str, action: Action, contracts: str, expected: list[Any]
) -> None:
    """docs/internals/tradingview.md section 2.1, in every mode: if the account holds what the strategy held, all modes do the same."""
    planned = plan(action, held=before, settings=settings, target=target(now, before), **base(contracts))
    assert orders(planned) == expected
    assert not any("drift" in warning for warning in planned.warnings)


@pytest.mark.parametrize("settings", [WebhookSettings(), FOLLOW, RESYNC])
def test_a_reversal_of_a_flat_account_sells_the_new_position_only(settings: WebhookSettings) -> None:
    """After a stop-out, selling the doubled contracts would leave twice the strategy's position."""
    planned = plan(Action.SELL, settings=settings, target=target("-0.5", "0.5"), **base("1"))
    if settings is FOLLOW:
        assert planned.warnings
    assert orders(planned) == [(Side.SELL, D("0.5"), Purpose.ENTRY)]


@pytest.mark.parametrize("settings", [WebhookSettings(), FOLLOW, RESYNC])
def test_closing_a_position_that_was_never_opened_trades_nothing(settings: WebhookSettings) -> None:
    """The alert was created while the strategy was long: its first message must not open a short."""
    planned = plan(Action.SELL, settings=settings, reduce_only=True, target=target("0", "0.5"), **base("0.5"))
    assert (planned.intents, planned.ignored_code) == ((), "nothing_to_close")


def test_a_full_close_closes_what_is_really_open() -> None:
    """Flat means flat, whatever size the strategy held."""
    planned = plan(Action.SELL, held="0.7", target=target("0", "0.5"), reduce_only=True, **base("0.5"))
    assert orders(planned) == [(Side.SELL, D("0.7"), Purpose.EXIT)]
    assert any("drift" in warning for warning in planned.warnings)


@pytest.mark.parametrize("settings", [WebhookSettings(), FOLLOW, RESYNC])
@pytest.mark.parametrize("is_swapped", [False, True])
def test_two_partial_closes_end_flat_in_either_order(settings: WebhookSettings, *, is_swapped: bool) -> None:
    """3.5 -> 2 -> 0 within one second: the late one must neither re-open 2 nor open a short."""
    steps = [(target("2", "3.5"), "1.5"), (target("0", "2"), "2")]
    held = D("3.5")
    for wanted, contracts in reversed(steps) if is_swapped else steps:
        planned = plan(
            Action.SELL, held=str(held), settings=settings, target=wanted, reduce_only=True, **base(contracts)
        )
        assert all(intent.reduce_only for intent in planned.intents)
        held += sum((intent.signed_quantity for intent in planned.intents), D(0))
        assert held >= 0
    assert held == 0


@pytest.mark.parametrize("is_swapped", [False, True])
def test_the_close_and_the_open_of_one_bar_end_right_in_either_order(*, is_swapped: bool) -> None:
    """Long 0.4 -> flat -> short 0.8: an open that overtook the close includes it, the late close does nothing."""
    steps = [(target("0", "0.4"), "0.4"), (target("-0.8", "0"), "0.8")]
    held = D("0.4")
    for wanted, contracts in reversed(steps) if is_swapped else steps:
        planned = plan(Action.SELL, held=str(held), settings=FOLLOW, target=wanted, **base(contracts))
        held += sum((intent.signed_quantity for intent in planned.intents), D(0))
    assert held == D("-0.8")


@pytest.mark.parametrize("settings", [WebhookSettings(), FOLLOW, RESYNC])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0), (0, 2, 1), (1, 2, 0)])
def test_three_partial_closes_end_flat_in_any_order(settings: WebhookSettings, order: tuple[int, ...]) -> None:
    """3 -> 2 -> 1 -> 0: in any order of arrival the position only shrinks and ends flat."""
    held = D(3)
    for step in order:
        planned = plan(
            Action.SELL,
            held=str(held),
            settings=settings,
            target=target(str(2 - step), str(3 - step)),
            reduce_only=True,
            **base("1"),
        )
        after = held + sum((intent.signed_quantity for intent in planned.intents), D(0))
        assert 0 <= after <= held
        held = after
    assert held == 0


def test_drift_is_reported_and_only_the_step_is_traded() -> None:
    """Position mode without resync: the trader decides about the difference."""
    planned = plan(Action.BUY, held="0.3", settings=FOLLOW, target=target("1", "0.5"), **base("0.5"))
    assert orders(planned) == [(Side.BUY, D("0.5"), Purpose.ENTRY)]
    assert any("drift" in warning and "0.3" in warning for warning in planned.warnings)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ("0.3", [(Side.BUY, D("0.7"), Purpose.ENTRY)]),
        (None, [(Side.BUY, D(1), Purpose.ENTRY)]),
        ("1.4", [(Side.SELL, D("0.4"), Purpose.EXIT)]),
        ("-0.2", [(Side.BUY, D("0.2"), Purpose.EXIT), (Side.BUY, D(1), Purpose.ENTRY)]),
    ],
)
def test_resync_ends_at_the_strategys_position(held: str | None, expected: list[Any]) -> None:
    """The order is the difference between target and real position, not the strategy's contracts."""
    planned = plan(Action.BUY, held=held, settings=RESYNC, target=target("1", "0.5"), **base("0.5"))
    assert orders(planned) == expected
    assert any("drift" in warning for warning in planned.warnings)


def test_resync_never_reopens_against_a_closing_step() -> None:
    """A closing step on a position that is already smaller may be late: enlarging it would re-open what was closed."""
    planned = plan(
        Action.SELL, held="0.1", settings=RESYNC, reduce_only=True, target=target("0.3", "0.5"), **base("0.2")
    )
    assert (planned.intents, planned.ignored_code) == ((), "already_in_position")
    assert any("re-opened" in warning for warning in planned.warnings)


def test_position_mode_needs_no_quantity_and_no_previous_position() -> None:
    """The target position alone is enough."""
    assert orders(plan(Action.SELL, held="0.5", settings=FOLLOW, target=target("-0.5"))) == [
        (Side.SELL, D("0.5"), Purpose.EXIT),
        (Side.SELL, D("0.5"), Purpose.ENTRY),
    ]
    assert plan(Action.BUY, held="0.5", settings=FOLLOW, target=target("0.5")).ignored_code == "already_in_position"
    assert refusal(Action.BUY, settings=FOLLOW, **base("1")) == ("position_missing", "marketPosition")


@pytest.mark.parametrize(
    ("before", "now", "action"), [("0", "0", Action.BUY), ("0.5", "0", Action.BUY), ("0", "0.5", Action.SELL)]
)
def test_fields_that_contradict_each_other_are_refused(before: str, now: str, action: Action) -> None:
    """A buy cannot turn long into flat, and flat to flat is no fill."""
    assert refusal(action, held="0.5", target=target(now, before), **base("0.5"))[0] == "inconsistent_position"


def test_a_repeated_reversal_is_not_doubled() -> None:
    """If the account is already at the reversal's target or beyond, nothing is traded."""
    for held in ("-0.5", "-0.7"):
        planned = plan(Action.SELL, held=held, target=target("-0.5", "0.5"), **base("1"))
        assert (planned.intents, planned.ignored_code) == ((), "already_in_position")


def test_a_close_with_the_strategys_flat_position_closes_all() -> None:
    """The contracts of the strategy's exit say nothing about ours."""
    planned = plan(Action.CLOSE, held="0.7", target=target("0", "0.5"), reduce_only=True, **base("0.5"))
    assert orders(planned) == [(Side.SELL, D("0.7"), Purpose.EXIT)]


# ------------------------------------------------------------------------------------- market status, ping and cancel


@pytest.mark.parametrize(
    ("status", "kind", "entry_allowed", "exit_allowed"),
    [
        ("ACTIVE", OrderType.MARKET, True, True),
        ("REDUCE_ONLY", OrderType.MARKET, False, True),
        ("DELISTING", OrderType.MARKET, False, True),
        ("POST_ONLY", OrderType.MARKET, False, False),
        ("POST_ONLY", OrderType.LIMIT, True, True),
        ("DELISTED", OrderType.LIMIT, False, False),
        ("PENDING", OrderType.MARKET, False, False),
    ],
)
def test_market_status(status: str, kind: OrderType, *, entry_allowed: bool, exit_allowed: bool) -> None:
    """docs/internals/orderly.md section 14: an order that the market does not accept is refused before it is sent."""
    account = {"instruments": {**INSTRUMENTS, BTC: instrument(status=status)}}
    fields = base("0.01") | {"order_type": kind, "limit_price": D(65_000) if kind is OrderType.LIMIT else None}
    for action, held, is_allowed in ((Action.BUY, None, entry_allowed), (Action.CLOSE, "0.5", exit_allowed)):
        if is_allowed:
            assert plan(action, held=held, account=account, **fields).intents
        else:
            assert refusal(action, held=held, account=account, **fields) == ("market_closed", "symbol")


def test_a_ping_and_a_cancel_create_no_orders() -> None:
    """A ping is ignored with `pong`; a cancel names what to cancel."""
    ping = plan(Action.PING, None)
    assert (ping.ignored_code, ping.intents, ping.symbol) == ("pong", (), None)
    by_comment = plan(Action.CANCEL, "ETHUSDT.P", comment="grid")
    assert by_comment.cancel == CancelRequest(symbol=ETH, comment="grid")
    assert plan(Action.CANCEL, "ETHUSDT.P", comment="x", cancel_all=True).cancel == CancelRequest(symbol=ETH)
    assert plan(Action.CANCEL, None, cancel_all=True).cancel == CancelRequest(symbol=None)
    assert refusal(Action.CANCEL, None) == ("symbol_missing", "symbol")


def test_a_stop_order_cannot_reverse() -> None:
    """Its entry would have to wait for a trigger that may never come."""
    found = refusal(Action.SELL, held="0.01", order_type=OrderType.STOP, trigger_price=D(64_000), **base("0.05"))
    assert found == ("order_type_unsupported", "orderType")
