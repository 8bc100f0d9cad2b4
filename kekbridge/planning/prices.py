"""Where: limit, trigger, stop-loss and take-profit prices on the exchange's grid, and whether they lie on the right side.

The only place where prices are rounded, always towards less risk: an order never pays more than was said, a stop loss comes nearer,
a take-profit comes sooner. Percent levels are percent of the entry: the limit or trigger price, for market orders the mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_UP, Context, Decimal
from typing import Final

from kekbridge.alerts.signal import Amount, Signal
from kekbridge.errors import Refused
from kekbridge.model import ZERO, Instrument, OrderType, Side
from kekbridge.planning.market_view import MarketView
from kekbridge.planning.sizing import DOWNWARDS, plain

_UPWARDS: Final = Context(prec=80, rounding=ROUND_UP)
_PERCENT: Final = Decimal(100)
# What Orderly's own front end allows for callback_rate (docs/internals/orderly.md section 7); a rejected trailing stop would leave the
# position without one.
_TRAIL_FROM, _TRAIL_TO = Decimal("0.001"), Decimal("0.05")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What one side of a signal would trade at. `reference` is the expected price, `nearest` the most favourable possible fill."""

    limit: Decimal | None
    trigger: Decimal | None
    signal: Decimal | None
    reference: Decimal
    nearest: Decimal


def floor_price(price: Decimal, instrument: Instrument) -> Decimal:
    """The next price down on the grid `quote_min + n * quote_tick` (Orderly: price filter, docs/internals/orderly.md section 5)."""
    if instrument.quote_tick <= 0:
        return price
    above = DOWNWARDS.subtract(price, instrument.quote_min)
    steps = DOWNWARDS.divide_int(above, instrument.quote_tick)
    if above < 0 and DOWNWARDS.multiply(steps, instrument.quote_tick) != above:
        steps -= 1
    return DOWNWARDS.add(instrument.quote_min, DOWNWARDS.multiply(steps, instrument.quote_tick))


def ceil_price(price: Decimal, instrument: Instrument) -> Decimal:
    """The next price up on the grid."""
    down = floor_price(price, instrument)
    return down if down == price else DOWNWARDS.add(down, instrument.quote_tick)


def prices_for(signal: Signal, side: Side, market: MarketView, *, is_entry: bool) -> Prices:
    """Rounded prices of the order that `signal` would make on `side`.

    Limit: BUY down, SELL up. Trigger: an entry later (BUY up, SELL down), an exit sooner (BUY down, SELL up).
    Raises Refused: price_missing, price_invalid, no_mark_price (entries only).
    """
    mark = market.entry_mark() if is_entry else market.exit_mark()
    limit = _limit_price(signal, side, market)
    trigger = _trigger_price(signal, side, market, mark, is_entry=is_entry)
    reference = nearest = trigger or mark
    if limit is not None:
        # A sell limit under the market fills at the market: sizing it by its limit would sell too much. A buy is sized by its limit.
        reference = max(limit, nearest) if side is Side.SELL else limit
        nearest = max(limit, nearest) if side is Side.SELL else min(limit, nearest) if nearest > 0 else limit
    if reference <= 0:
        raise Refused(
            "no_mark_price", f"symbol: no price of {market.symbol} is known; send again in a moment", field="symbol"
        )
    return Prices(limit=limit, trigger=trigger, signal=market.price(signal.price), reference=reference, nearest=nearest)


def stop_price(signal: Signal, side: Side, prices: Prices, market: MarketView) -> Decimal | None:
    """The stop loss of an entry on `side`: rounded towards the entry. Raises Refused: stop_loss_wrong_side, stop_loss_invalid."""
    if signal.stop_loss is None:
        return None
    raw = _level(signal.stop_loss, prices.reference, -side.sign, market)
    stop = ceil_price(raw, market.instrument) if side is Side.BUY else floor_price(raw, market.instrument)
    if not ZERO < stop <= market.instrument.quote_max:
        raise Refused(
            "stop_loss_invalid",
            f"stopLoss: found {plain(raw)}, expected a price up to {plain(market.instrument.quote_max)}; write a price or a percent",
            field="stopLoss",
        )
    for name, entry in _entries(prices):
        if (stop - entry) * side.sign >= 0:
            where = "below" if side is Side.BUY else "above"
            raise Refused(
                "stop_loss_wrong_side",
                f"stopLoss: found {plain(stop)}, expected it {where} the {name} {plain(entry)} of a {_held(side)}, "
                "it would fire at once; correct the level",
                field="stopLoss",
            )
    return stop


def take_profit_prices(signal: Signal, side: Side, prices: Prices, market: MarketView) -> tuple[Decimal, ...]:
    """Trigger prices of an entry's take-profits, as written in order, rounded towards the entry: the gain is taken sooner.

    Raises Refused: take_profit_wrong_side, take_profit_invalid.
    """
    levels: list[Decimal] = []
    for wish in signal.take_profits:
        raw = _level(wish.level, prices.reference, side.sign, market)
        level = floor_price(raw, market.instrument) if side is Side.BUY else ceil_price(raw, market.instrument)
        if not ZERO < level <= market.instrument.quote_max:
            raise Refused(
                "take_profit_invalid",
                f"takeProfit: found {plain(raw)}, expected a price above 0 and up to {plain(market.instrument.quote_max)}; "
                "write a price or a percent",
                field="takeProfit",
            )
        for name, entry in _entries(prices):
            if (level - entry) * side.sign <= 0:
                where = "above" if side is Side.BUY else "below"
                raise Refused(
                    "take_profit_wrong_side",
                    f"takeProfit: found {plain(level)}, expected it {where} the {name} {plain(entry)} of a {_held(side)}; "
                    "correct the level",
                    field="takeProfit",
                )
        levels.append(level)
    return tuple(levels)


def trailing_of(distance: Amount, market: MarketView) -> tuple[Decimal | None, Decimal | None]:
    """(callback rate as a fraction, callback value in price), one of them None; a price distance is rounded down: nearer.

    Raises Refused(trailing_stop_invalid).
    """
    if distance.is_percent:
        rate = distance.value / _PERCENT
        if not _TRAIL_FROM <= rate <= _TRAIL_TO:
            raise _bad_trail(f"{plain(distance.value)}%", "0.1% to 5%; give a wider one as a distance in price")
        return rate, None
    raw = DOWNWARDS.multiply(distance.value, market.unit_factor)
    tick = market.instrument.quote_tick
    value = DOWNWARDS.multiply(DOWNWARDS.divide_int(raw, tick), tick) if tick > 0 else raw
    if value <= 0:
        raise _bad_trail(plain(raw), f"at least one price step of {plain(tick)}")
    return None, value


def _limit_price(signal: Signal, side: Side, market: MarketView) -> Decimal | None:
    if not signal.order_type.has_limit_price:
        return None
    raw = market.price(signal.limit_price if signal.limit_price is not None else signal.price)
    if raw is None:
        raise _missing("limitPrice", signal.order_type)
    rounded = floor_price(raw, market.instrument) if side is Side.BUY else ceil_price(raw, market.instrument)
    return _in_range(rounded, raw, "limitPrice", market.instrument)


def _trigger_price(signal: Signal, side: Side, market: MarketView, mark: Decimal, *, is_entry: bool) -> Decimal | None:
    if signal.order_type not in (OrderType.STOP, OrderType.STOP_LIMIT):
        return None
    raw = market.price(signal.trigger_price)
    if raw is None:
        raise _missing("triggerPrice", signal.order_type)
    is_up = (side is Side.BUY) is is_entry
    rounded = ceil_price(raw, market.instrument) if is_up else floor_price(raw, market.instrument)
    trigger = _in_range(rounded, raw, "triggerPrice", market.instrument)
    if mark > 0 and (trigger - mark) * side.sign <= 0:
        where = "above" if side is Side.BUY else "below"
        raise Refused(
            "price_invalid",
            f"triggerPrice: found {plain(trigger)}, expected it {where} the mark {plain(mark)} for a {side} stop, it would fire at "
            "once; correct it, or send a market order",
            field="triggerPrice",
        )
    return trigger


def _in_range(price: Decimal, raw: Decimal, name: str, instrument: Instrument) -> Decimal:
    if ZERO < price <= instrument.quote_max and price >= instrument.quote_min:
        return price
    raise Refused(
        "price_invalid",
        f"{name}: found {plain(raw)}, expected between {plain(max(instrument.quote_min, instrument.quote_tick))} and "
        f"{plain(instrument.quote_max)}, the exchange's range in this market; correct the price",
        field=name,
    )


def _level(level: Amount, reference: Decimal, direction: int, market: MarketView) -> Decimal:
    if not level.is_percent:
        return DOWNWARDS.multiply(level.value, market.unit_factor)
    # Rounded towards the entry already here, so that the grid cannot carry it back out.
    distance = DOWNWARDS.divide(DOWNWARDS.multiply(reference, level.value), _PERCENT)
    return DOWNWARDS.add(reference, distance) if direction > 0 else _UPWARDS.subtract(reference, distance)


def _entries(prices: Prices) -> tuple[tuple[str, Decimal], ...]:
    """Every price that the entry may have: levels must be on the right side of all of them."""
    named = [("expected price", prices.reference), ("market price", prices.nearest)]
    if prices.signal is not None and prices.limit is None and prices.trigger is None:
        named.append(("signal price", prices.signal))
    return tuple(named)


def _held(side: Side) -> str:
    return "long" if side is Side.BUY else "short"


def _missing(name: str, order_type: OrderType) -> Refused:
    return Refused("price_missing", f"{name}: missing, a {order_type} order needs it; add {name}", field=name)


def _bad_trail(found: str, expected: str) -> Refused:
    return Refused("trailing_stop_invalid", f"trailingStop: found {found}, expected {expected}", field="trailingStop")
