"""Limit, trigger, stop-loss and take-profit prices on the exchange's grid, and the check that they are on the right side.

The only place where prices are rounded, always towards less risk: a limit never pays more than requested, stop loss and take-profit
move closer to the entry. Percent levels are percent of the entry: the limit or trigger price, for market orders the mark.
"""

from __future__ import annotations

from decimal import ROUND_UP, Context, Decimal
from typing import Final

from msgspec import Struct

from kekbridge.alerts.signal import Amount, Signal
from kekbridge.errors import Refused
from kekbridge.model import ZERO, Instrument, OrderType, Side
from kekbridge.planning.market_view import MarketView
from kekbridge.planning.sizing import ROUND_DOWN_CONTEXT, format_12dp

_UPWARDS: Final = Context(prec=80, rounding=ROUND_UP)
_PERCENT: Final = Decimal(100)
_HUNDREDTH: Final = Decimal("0.01")
# A bare number farther from the market than this is a percent, a fraction or ticks rather than a price.
_MAX_DISTANCE: Final = Decimal("0.5")
# A bare trailing distance below this share of the price would trigger at once: 1.5 is meant as a percent.
_MIN_TRAILING_SHARE: Final = Decimal("0.0005")
# Orderly's own front end allows this range for callback_rate (docs/internals/orderly.md section 7); a rejected trailing stop would leave
# the position without one.
_MIN_CALLBACK_RATE, _MAX_CALLBACK_RATE = Decimal("0.001"), Decimal("0.05")


class Prices(Struct, frozen=True, kw_only=True):
    """Prices of the order that a signal makes on one side, in units of the market."""

    #: Limit price on the grid; None for orders without one.
    limit: Decimal | None
    #: Trigger price on the grid; None unless it is a stop order.
    trigger: Decimal | None
    #: Price of the chart when the alert fired, if the alert has it.
    signal: Decimal | None
    #: Expected fill price.
    reference: Decimal
    #: Most favourable fill price possible.
    best_fill: Decimal


def floor_price(price: Decimal, instrument: Instrument) -> Decimal:
    """The next price down on the grid `quote_min + n * quote_tick` (Orderly: price filter, docs/internals/orderly.md section 5)."""
    if instrument.quote_tick <= 0:
        return price
    above = ROUND_DOWN_CONTEXT.subtract(price, instrument.quote_min)
    steps = ROUND_DOWN_CONTEXT.divide_int(above, instrument.quote_tick)
    if above < 0 and ROUND_DOWN_CONTEXT.multiply(steps, instrument.quote_tick) != above:
        steps -= 1
    return ROUND_DOWN_CONTEXT.add(instrument.quote_min, ROUND_DOWN_CONTEXT.multiply(steps, instrument.quote_tick))


def ceil_price(price: Decimal, instrument: Instrument) -> Decimal:
    """The next price up on the grid."""
    down = floor_price(price, instrument)
    return down if down == price else ROUND_DOWN_CONTEXT.add(down, instrument.quote_tick)


def prices_for(signal: Signal, side: Side, market: MarketView, *, is_entry: bool) -> Prices:
    """Return the rounded prices of the order that `signal` makes on `side`.

    Limit: BUY down, SELL up. Trigger: entries later (BUY up, SELL down), exits sooner (BUY down, SELL up).
    Raises Refused: price_missing, price_invalid, no_mark_price (entries only).
    """
    mark = market.entry_mark() if is_entry else market.exit_mark()
    limit = _limit_price(signal, side, market)
    trigger = _trigger_price(signal, side, market, mark, is_entry=is_entry)
    reference = best_fill = trigger or mark
    if limit is not None:
        # A sell limit below the market fills at the market: sizing it by its limit would sell too much. A buy is sized by its limit.
        reference = max(limit, best_fill) if side is Side.SELL else limit
        best_fill = max(limit, best_fill) if side is Side.SELL else min(limit, best_fill) if best_fill > 0 else limit
    if reference <= 0:
        raise Refused(
            "no_mark_price", f"symbol: no price of {market.symbol} is known; send again in a moment", field="symbol"
        )
    return Prices(
        limit=limit, trigger=trigger, signal=market.price(signal.price), reference=reference, best_fill=best_fill
    )


def stop_price(signal: Signal, side: Side, prices: Prices, market: MarketView) -> Decimal | None:
    """The stop-loss price of an entry on `side`, rounded towards the entry. Raises Refused: stop_loss_wrong_side, stop_loss_invalid."""
    if signal.stop_loss is None:
        return None
    raw = _level_price(signal.stop_loss, prices.reference, -side.sign, market)
    _check_plausible("stopLoss", "stop_loss_invalid", signal.stop_loss, raw, prices, market)
    stop = ceil_price(raw, market.instrument) if side is Side.BUY else floor_price(raw, market.instrument)
    if not ZERO < stop <= market.instrument.quote_max:
        raise Refused(
            "stop_loss_invalid",
            f"stopLoss: found {format_12dp(raw)}, expected a price up to "
            f"{format_12dp(market.instrument.quote_max)}; write a price or a percent",
            field="stopLoss",
        )
    for name, entry in _entry_prices(prices):
        if (stop - entry) * side.sign >= 0:
            where = "below" if side is Side.BUY else "above"
            raise Refused(
                "stop_loss_wrong_side",
                f"stopLoss: found {format_12dp(stop)}, expected it {where} the {name} {format_12dp(entry)} of a "
                f"{_position_side(side)}; it would trigger at once, correct the level",
                field="stopLoss",
            )
    return stop


def take_profit_prices(signal: Signal, side: Side, prices: Prices, market: MarketView) -> tuple[Decimal, ...]:
    """Trigger prices of an entry's take-profits in the order written, rounded towards the entry.

    Raises Refused: take_profit_wrong_side, take_profit_invalid.
    """
    levels: list[Decimal] = []
    for spec in signal.take_profits:
        raw = _level_price(spec.level, prices.reference, side.sign, market)
        _check_plausible("takeProfit", "take_profit_invalid", spec.level, raw, prices, market)
        level = floor_price(raw, market.instrument) if side is Side.BUY else ceil_price(raw, market.instrument)
        if not ZERO < level <= market.instrument.quote_max:
            raise Refused(
                "take_profit_invalid",
                f"takeProfit: found {format_12dp(raw)}, expected a price above 0 and up to {format_12dp(market.instrument.quote_max)}; "
                "write a price or a percent",
                field="takeProfit",
            )
        for name, entry in _entry_prices(prices):
            if (level - entry) * side.sign <= 0:
                where = "above" if side is Side.BUY else "below"
                raise Refused(
                    "take_profit_wrong_side",
                    f"takeProfit: found {format_12dp(level)}, expected it {where} the {name} {format_12dp(entry)} of a "
                    f"{_position_side(side)}; correct the level",
                    field="takeProfit",
                )
        levels.append(level)
    return tuple(levels)


def trailing_distance(distance: Amount, market: MarketView) -> tuple[Decimal | None, Decimal | None]:
    """Return (callback rate as a fraction, callback value as a price distance), one of them None; a price distance is rounded down.

    Raises Refused(trailing_stop_invalid).
    """
    if distance.is_percent:
        rate = distance.value / _PERCENT
        if not _MIN_CALLBACK_RATE <= rate <= _MAX_CALLBACK_RATE:
            raise _invalid_trailing_stop(
                f"{format_12dp(distance.value)}%", "0.1% to 5%; write a wider one as a distance in price"
            )
        return rate, None
    raw = ROUND_DOWN_CONTEXT.multiply(distance.value, market.unit_factor)
    mark = market.entry_mark()
    if not _MIN_TRAILING_SHARE <= (share := raw / mark) <= _MAX_DISTANCE:
        raise Refused(
            "trailing_stop_invalid",
            f"trailingStop: a distance of {format_12dp(distance.value)} is {_percent_text(share)} of the price {format_12dp(mark)}; "
            f"{_unit_hint(distance.value, _MAX_CALLBACK_RATE * _PERCENT, 'a distance in price')}",
            field="trailingStop",
        )
    tick = market.instrument.quote_tick
    value = ROUND_DOWN_CONTEXT.multiply(ROUND_DOWN_CONTEXT.divide_int(raw, tick), tick) if tick > 0 else raw
    if value <= 0:
        raise _invalid_trailing_stop(format_12dp(raw), f"at least one price step of {format_12dp(tick)}")
    return None, value


def _limit_price(signal: Signal, side: Side, market: MarketView) -> Decimal | None:
    if not signal.order_type.has_limit_price:
        return None
    raw = market.price(signal.limit_price if signal.limit_price is not None else signal.price)
    if raw is None:
        raise _price_missing("limitPrice", signal.order_type)
    rounded = floor_price(raw, market.instrument) if side is Side.BUY else ceil_price(raw, market.instrument)
    return _in_range(rounded, raw, "limitPrice", market.instrument)


def _trigger_price(signal: Signal, side: Side, market: MarketView, mark: Decimal, *, is_entry: bool) -> Decimal | None:
    if signal.order_type not in (OrderType.STOP, OrderType.STOP_LIMIT):
        return None
    raw = market.price(signal.trigger_price)
    if raw is None:
        raise _price_missing("triggerPrice", signal.order_type)
    rounds_up = (side is Side.BUY) is is_entry
    rounded = ceil_price(raw, market.instrument) if rounds_up else floor_price(raw, market.instrument)
    trigger = _in_range(rounded, raw, "triggerPrice", market.instrument)
    if mark > 0 and (trigger - mark) * side.sign <= 0:
        where = "above" if side is Side.BUY else "below"
        raise Refused(
            "price_invalid",
            f"triggerPrice: found {format_12dp(trigger)}, expected it {where} the mark {format_12dp(mark)} for a {side} stop; "
            "it would trigger at once, correct it or send a market order",
            field="triggerPrice",
        )
    return trigger


def _in_range(price: Decimal, raw: Decimal, name: str, instrument: Instrument) -> Decimal:
    if ZERO < price <= instrument.quote_max and price >= instrument.quote_min:
        return price
    raise Refused(
        "price_invalid",
        f"{name}: found {format_12dp(raw)}, expected a price between {format_12dp(max(instrument.quote_min, instrument.quote_tick))} "
        f"and {format_12dp(instrument.quote_max)}, the exchange's range in this market; correct it",
        field=name,
    )


def _level_price(level: Amount, reference: Decimal, direction: int, market: MarketView) -> Decimal:
    if not level.is_percent:
        return ROUND_DOWN_CONTEXT.multiply(level.value, market.unit_factor)
    # Rounded towards the entry before it is put on the grid, which could otherwise move it away again.
    distance = ROUND_DOWN_CONTEXT.divide(ROUND_DOWN_CONTEXT.multiply(reference, level.value), _PERCENT)
    return ROUND_DOWN_CONTEXT.add(reference, distance) if direction > 0 else _UPWARDS.subtract(reference, distance)


def is_near(level: Decimal, price: Decimal) -> bool:
    """Return whether a level can be a price of a market at this price: at most half of it away."""
    return abs(level - price) <= price * _MAX_DISTANCE


def _check_plausible(field: str, code: str, level: Amount, raw: Decimal, prices: Prices, market: MarketView) -> None:
    """Refuse a bare number that is no price of this market: it was meant as a percent, a fraction or ticks."""
    near = [price for price in (prices.reference, market.mark) if price is not None and price > 0]
    if level.is_percent or any(is_near(raw, price) for price in near):
        return
    away = abs(raw - near[0]) / near[0]
    raise Refused(
        code,
        f"{field}: price {format_12dp(level.value)} is {_percent_text(away)} away from {format_12dp(near[0])}; "
        f"{_unit_hint(level.value, _PERCENT * _MAX_DISTANCE, 'a price')}",
        field=field,
    )


def _unit_hint(value: Decimal, largest: Decimal, otherwise: str) -> str:
    """How to write the number with its unit. A number below 0.1 may be a fraction: written as a percent it would be another one."""
    if Decimal("0.1") <= value <= largest:
        return f'write "{format_12dp(value)}%" for percent'
    return f'write {otherwise}, or a percent such as "2%"; ticks, points and fractions are not read'


def _percent_text(share: Decimal) -> str:
    percent = share * _PERCENT
    if percent < _HUNDREDTH:
        return f"less than {_HUNDREDTH} %"
    return f"{format_12dp(ROUND_DOWN_CONTEXT.quantize(percent, _HUNDREDTH))} %"


def _entry_prices(prices: Prices) -> tuple[tuple[str, Decimal], ...]:
    """Prices at which the entry may fill; levels must be on the right side of all of them."""
    named = [("expected price", prices.reference), ("market price", prices.best_fill)]
    if prices.signal is not None and prices.limit is None and prices.trigger is None:
        named.append(("signal price", prices.signal))
    return tuple(named)


def _position_side(side: Side) -> str:
    return "long" if side is Side.BUY else "short"


def _price_missing(name: str, order_type: OrderType) -> Refused:
    return Refused("price_missing", f"{name}: missing, a {order_type} order needs it; add {name}", field=name)


def _invalid_trailing_stop(found: str, expected: str) -> Refused:
    return Refused("trailing_stop_invalid", f"trailingStop: found {found}, expected {expected}", field="trailingStop")
