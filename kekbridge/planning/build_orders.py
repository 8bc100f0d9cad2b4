"""Build the orders for a position change: close first, then open, every number on the exchange's grid.

These orders are judged and sent as they are; only resize() adapts their size to the real position right before an order is sent.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from kekbridge.alerts.signal import Amount, Signal
from kekbridge.errors import Refused
from kekbridge.model import (
    ZERO,
    AccountSnapshot,
    Instrument,
    OrderIntent,
    OrderType,
    Purpose,
    Side,
    TakeProfit,
    WebhookSettings,
)
from kekbridge.planning.market_view import MarketView
from kekbridge.planning.prices import (
    Prices,
    ceil_price,
    floor_price,
    prices_for,
    stop_price,
    take_profit_prices,
    trailing_distance,
)
from kekbridge.planning.sizing import (
    MAX_CLOSING_ORDERS,
    ROUND_DOWN_CONTEXT,
    check_entry_size,
    closing_sizes,
    floor_quantity,
    format_12dp,
    smallest_quantity,
    split_quantity,
)
from kekbridge.planning.target import PositionChange, side_of

_STOPS = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})


class PlannedOrders(Struct, frozen=True):
    """The orders of one step."""

    #: In the order in which they must be sent.
    intents: tuple[OrderIntent, ...]
    #: What was rounded or left out.
    notes: tuple[str, ...] = ()


def build_orders(
    change: PositionChange, signal: Signal, *, settings: WebhookSettings, market: MarketView, first_leg: int
) -> PlannedOrders:
    """Build the orders for `change`: exits of the opposite position, then an entry of the rest, then its trailing stop.

    Legs are numbered from `first_leg`; an entry after an exit waits for it (`after_leg`). Raises Refused.
    """
    market = market.seen_as(change.part)
    side = side_of(change.delta)
    wanted = abs(change.delta)
    open_against = abs(market.projected) if market.projected * side.sign < 0 else ZERO
    to_close = min(wanted, open_against)
    to_open = wanted - to_close
    if to_close > 0 and to_open > 0 and floor_quantity(to_close, market.instrument) == 0:
        to_close, to_open = ZERO, wanted  # a remainder too small to close becomes part of the entry
    exits = _exit_orders(change, signal, side, to_close, market, is_reversal=to_open > 0)
    notes = _rounding_note(to_close, sum((intent.quantity for intent in exits), ZERO), market)
    if to_open == 0:
        return PlannedOrders(exits, notes=notes)
    if exits and signal.order_type in _STOPS:
        raise Refused(
            "order_type_unsupported",
            f"orderType: found {signal.order_type}, which would close {format_12dp(to_close)} {market.instrument.base} and open the "
            "other side, expected one or the other; send a close first, or use market",
            field="orderType",
        )
    after_leg = first_leg + len(exits) - 1 if exits else None
    entry = _entry_order(
        change, signal, side, to_open, market, settings, after_leg=after_leg, may_be_dropped=bool(exits)
    )
    if entry is None:
        least = format_12dp(smallest_quantity(market.instrument, market.exit_mark()))
        note = f"after the close {format_12dp(to_open)} {market.instrument.base} is left, below the smallest order of {least}: not opened"
        return PlannedOrders(exits, notes=(*notes, note))
    notes += _rounding_note(to_open, entry.quantity, market)
    if signal.trailing_stop is None:
        return PlannedOrders((*exits, entry), notes=notes)
    trailing = _trailing_stop(signal.trailing_stop, entry, market, after_leg=first_leg + len(exits))
    return PlannedOrders((*exits, entry, trailing), notes=notes)


def resize(
    intent: OrderIntent, snapshot: AccountSnapshot, *, left_open: Decimal = ZERO, others: Decimal = ZERO
) -> OrderIntent | None:
    """Size an order by the real position right before it is sent; None if nothing is left to do.

    Exits follow the position (`close_fraction`), never exceed it or what was open or expected when they were admitted, and never change
    sides, unless the target is flat: then the open position is closed on either side. An entry with a `target_quantity` trades what is
    missing to it; it grows only by `left_open`, what the earlier legs of its alert were to close and did not: what others traded in the
    meantime is not its own. Size and prices are on the grid as it is now.

    `others`: what other webhooks hold of the position now. The position is the intent's `part` of it.
    """
    position = intent.part.of(snapshot.position_quantity(intent.symbol, intent.margin_mode), others)
    instrument = snapshot.instruments.get(intent.symbol)
    if instrument is None:
        return intent
    intent = _on_grid(intent, instrument)
    if intent.purpose is Purpose.ENTRY:
        return _resized_entry(intent, position, instrument, left_open)
    if not intent.reduce_only:
        return intent
    if intent.target_quantity == 0 and position != 0:
        intent = replace(intent, side=side_of(-position))
    if position * intent.side.sign >= 0:
        return None
    open_quantity = abs(position)
    wanted = intent.quantity
    if intent.close_fraction is not None:
        wanted = ROUND_DOWN_CONTEXT.multiply(open_quantity, min(intent.close_fraction, Decimal(1)))
        if intent.largest_quantity is not None:
            wanted = min(wanted, intent.largest_quantity)
    quantity = floor_quantity(min(wanted, open_quantity, instrument.base_max), instrument)
    if quantity <= 0:
        return None
    return _with_quantity(intent, quantity, instrument)


# ----------------------------------------------------------------------------------------------------------------- orders


def _exit_orders(
    change: PositionChange, signal: Signal, side: Side, quantity: Decimal, market: MarketView, *, is_reversal: bool
) -> tuple[OrderIntent, ...]:
    """Reduce-only orders for `quantity`; more than one only if it exceeds the exchange's maximum order size."""
    if quantity == 0:
        return ()
    market.check_open(signal.order_type, is_entry=False)
    prices = prices_for(signal, side, market, is_entry=False)
    is_whole = is_reversal or change.close_fraction == 1
    fraction = Decimal(1) if is_whole else change.close_fraction
    sizes = _closing_sizes(quantity, market.instrument)
    intent = OrderIntent(
        symbol=market.symbol,
        side=side,
        order_type=signal.order_type,
        quantity=sizes[0],
        purpose=Purpose.EXIT,
        reference_price=prices.reference,
        reduce_only=True,
        limit_price=prices.limit,
        trigger_price=prices.trigger,
        slippage=signal.slippage if signal.order_type is OrderType.MARKET else None,
        signal_price=prices.signal,
        # Each of several orders would take its fraction of what the previous one left: those close by quantity.
        close_fraction=None if len(sizes) > 1 else fraction,
        target_quantity=ZERO if change.target == 0 and not is_reversal else None,
        largest_quantity=None if len(sizes) > 1 or fraction is None else _largest_exit(fraction, market),
        part=change.part,
    )
    return tuple(replace(intent, quantity=size) for size in sizes)


def _largest_exit(fraction: Decimal, market: MarketView) -> Decimal:
    """How much an exit may close, whichever of our orders in flight trade: what was opened later does not belong to it."""
    return ROUND_DOWN_CONTEXT.multiply(max(abs(market.projected), abs(market.position)), fraction)


def _closing_sizes(quantity: Decimal, instrument: Instrument) -> tuple[Decimal, ...]:
    """As `closing_sizes`. Raises Refused if nothing can be closed, or not all of it."""
    sizes = closing_sizes(quantity, instrument)
    if not sizes:
        raise Refused(
            "quantity_too_small",
            f"quantity: found {format_12dp(quantity)} {instrument.base} to close, expected at least {format_12dp(instrument.base_min)}, "
            f"the exchange's smallest order; close {format_12dp(instrument.base_min)} or more",
            field="quantity",
        )
    if quantity - sum(sizes, ZERO) >= instrument.base_min:
        raise Refused(
            "order_too_large",
            f"quantity: closing {format_12dp(quantity)} {instrument.base} would take more than {MAX_CLOSING_ORDERS} orders of "
            f"{format_12dp(instrument.base_max)}, the exchange's maximum; close it in parts",
            field="quantity",
        )
    return sizes


def _entry_order(
    change: PositionChange,
    signal: Signal,
    side: Side,
    wanted: Decimal,
    market: MarketView,
    settings: WebhookSettings,
    *,
    after_leg: int | None,
    may_be_dropped: bool,
) -> OrderIntent | None:
    """The opening order with its stop loss and take-profits; None if it `may_be_dropped` and is below the smallest order."""
    market.check_open(signal.order_type, is_entry=True)
    prices = prices_for(signal, side, market, is_entry=True)
    quantity = floor_quantity(wanted, market.instrument)
    if may_be_dropped and quantity < smallest_quantity(market.instrument, prices.reference):
        return None
    check_entry_size(quantity, wanted=wanted, price=prices.reference, instrument=market.instrument)
    stop_loss = stop_price(signal, side, prices, market)
    take_profits = _take_profits(signal, side, quantity, prices, market)
    if (stop_loss is not None or take_profits) and signal.order_type not in (OrderType.MARKET, OrderType.LIMIT):
        raise Refused(
            "order_type_unsupported",
            f"orderType: found {signal.order_type} with a stopLoss or takeProfit, expected market or limit: only with "
            "those the exchange accepts an entry and its exits in one request",
            field="orderType",
        )
    target = change.target
    if target is None and after_leg is not None:
        target = ROUND_DOWN_CONTEXT.add(market.projected, change.delta)
    return OrderIntent(
        symbol=market.symbol,
        side=side,
        order_type=signal.order_type,
        quantity=quantity,
        purpose=Purpose.ENTRY,
        reference_price=prices.reference,
        limit_price=prices.limit,
        trigger_price=prices.trigger,
        stop_loss=stop_loss,
        take_profits=take_profits,
        slippage=_slippage_bound(signal, settings),
        signal_price=prices.signal if signal.order_type is OrderType.MARKET else None,
        leverage=signal.leverage,
        after_leg=after_leg,
        target_quantity=target,
        part=change.part,
    )


def _take_profits(
    signal: Signal, side: Side, quantity: Decimal, prices: Prices, market: MarketView
) -> tuple[TakeProfit, ...]:
    if not signal.take_profits:
        return ()
    triggers = take_profit_prices(signal, side, prices, market)
    sizes = split_quantity(quantity, [spec.share for spec in signal.take_profits], market.instrument)
    return tuple(TakeProfit(trigger, size) for trigger, size in zip(triggers, sizes, strict=True))


def _trailing_stop(distance: Amount, entry: OrderIntent, market: MarketView, *, after_leg: int) -> OrderIntent:
    """A reduce-only trailing stop after the entry. The exchange has none inside a bracket, so it is a separate order."""
    if not entry.order_type.is_immediate:
        raise Refused(
            "order_type_unsupported",
            f"orderType: found {entry.order_type} with a trailingStop, expected market, ioc or fok: a trailing stop can only be placed "
            "once the entry has filled; use stopLoss for resting entries",
            field="orderType",
        )
    rate, value = trailing_distance(distance, market)
    return OrderIntent(
        symbol=entry.symbol,
        side=entry.side.opposite,
        order_type=OrderType.STOP,  # it rests: no one waits for its fill
        quantity=entry.quantity,
        purpose=Purpose.PROTECT,
        reference_price=entry.reference_price,
        reduce_only=True,
        trailing_callback_rate=rate,
        trailing_callback_value=value,
        after_leg=after_leg,
    )


def _slippage_bound(signal: Signal, settings: WebhookSettings) -> Decimal | None:
    """The tighter of the alert's and the webhook's slippage (a fraction), for market orders; the exchange fills nothing beyond it."""
    if signal.order_type is not OrderType.MARKET:
        return None
    bounds = [bound for bound in (signal.slippage, settings.limits.max_slippage) if bound is not None]
    return min(bounds) if bounds else None


# ---------------------------------------------------------------------------------------------------------------- helpers


def _on_grid(intent: OrderIntent, instrument: Instrument) -> OrderIntent:
    """The order with size and prices rounded to the instrument's grid, which may have become coarser since; as in prices.py."""
    is_buy = intent.side is Side.BUY
    limit = _rounded(intent.limit_price, instrument, up=not is_buy)
    trigger = _rounded(intent.trigger_price, instrument, up=is_buy is (intent.purpose is Purpose.ENTRY))
    stop_loss = _rounded(intent.stop_loss, instrument, up=is_buy)
    take_profits = tuple(
        replace(each, trigger_price=_rounded(each.trigger_price, instrument, up=not is_buy) or each.trigger_price)
        for each in intent.take_profits
    )
    prices = (limit, trigger, stop_loss, take_profits)
    if prices != (intent.limit_price, intent.trigger_price, intent.stop_loss, intent.take_profits):
        intent = replace(
            intent, limit_price=limit, trigger_price=trigger, stop_loss=stop_loss, take_profits=take_profits
        )
    quantity = floor_quantity(intent.quantity, instrument)
    return intent if quantity <= 0 else _with_quantity(intent, quantity, instrument)


def _rounded(price: Decimal | None, instrument: Instrument, *, up: bool) -> Decimal | None:
    if price is None:
        return None
    return ceil_price(price, instrument) if up else floor_price(price, instrument)


def _resized_entry(
    intent: OrderIntent, position: Decimal, instrument: Instrument, left_open: Decimal
) -> OrderIntent | None:
    if intent.target_quantity is None:
        return intent
    missing = ROUND_DOWN_CONTEXT.subtract(intent.target_quantity, position)
    if missing * intent.side.sign <= 0:
        return None
    wanted = min(abs(missing), ROUND_DOWN_CONTEXT.add(intent.quantity, left_open))
    quantity = floor_quantity(min(wanted, instrument.base_max), instrument)
    if quantity < smallest_quantity(instrument, intent.reference_price):
        return None
    return _with_quantity(intent, quantity, instrument)


def _with_quantity(intent: OrderIntent, quantity: Decimal, instrument: Instrument) -> OrderIntent:
    """Change the order's size; take-profits keep their shares, those that become too small are dropped."""
    if quantity == intent.quantity:
        return intent
    scaled = tuple(
        TakeProfit(take_profit.trigger_price, size)
        for take_profit in intent.take_profits
        if (size := _scaled(take_profit.quantity, quantity, intent.quantity, instrument)) > 0
    )
    return replace(intent, quantity=quantity, take_profits=scaled)


def _scaled(part: Decimal, new_whole: Decimal, old_whole: Decimal, instrument: Instrument) -> Decimal:
    if part == old_whole:
        return new_whole
    return floor_quantity(
        ROUND_DOWN_CONTEXT.divide(ROUND_DOWN_CONTEXT.multiply(part, new_whole), old_whole), instrument
    )


def _rounding_note(wanted: Decimal, quantity: Decimal, market: MarketView) -> tuple[str, ...]:
    if wanted == quantity:
        return ()
    step = format_12dp(market.instrument.base_tick)
    return (
        f"quantity {format_12dp(wanted)} was rounded down to {format_12dp(quantity)} {market.instrument.base} (steps of {step})",
    )
