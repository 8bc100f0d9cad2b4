"""The documented filters an order must pass before it is accepted (orderly-api.md section 5). Pure.

Each check raises a Refusal with the exchange's code or returns nothing.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_UP, Decimal

from kekbridge.paper.codec import Refusal, plain
from kekbridge.paper.instruments import Instrument

_MAX_DECIMALS = 8


def check_price(instrument: Instrument, price: Decimal, name: str = "order_price") -> None:
    """quote_min ≤ price ≤ quote_max, on the tick; -1103."""
    if not instrument.quote_min <= price <= instrument.quote_max or price <= 0:
        raise Refusal(
            -1103,
            f"{name} {plain(price)} must be between {plain(instrument.quote_min)} and {plain(instrument.quote_max)}.",
        )
    if (price - instrument.quote_min) % instrument.quote_tick != 0:
        raise Refusal(-1103, f"{name} {plain(price)} is not a multiple of {plain(instrument.quote_tick)}.")


def check_range(instrument: Instrument, mark: Decimal, side: str, price: Decimal) -> None:
    """Price range and price scope around the mark; -1105."""
    width, scope = instrument.price_range, instrument.price_scope
    if side == "BUY":
        low, high = mark * (1 - scope), mark * (1 + width)
    else:
        low, high = mark * (1 - width), mark * (1 + scope)
    if not low <= price <= high:
        raise Refusal(
            -1105,
            f"order_price {plain(price)} must be between {plain(low)} and {plain(high)} (mark {plain(mark)}).",
        )


def check_size(instrument: Instrument, quantity: Decimal, name: str = "order_quantity") -> None:
    """base_min ≤ quantity ≤ base_max, on the step, at most 8 decimals; -1104."""
    if not instrument.base_min <= quantity <= instrument.base_max:
        raise Refusal(
            -1104,
            f"{name} {plain(quantity)} must be between {plain(instrument.base_min)} and {plain(instrument.base_max)}.",
        )
    if (quantity - instrument.base_min) % instrument.base_tick != 0 or decimals(quantity) > _MAX_DECIMALS:
        raise Refusal(-1104, f"{name} {plain(quantity)} is not a multiple of {plain(instrument.base_tick)}.")


def check_visible(instrument: Instrument, visible: Decimal, quantity: Decimal) -> None:
    """0 ≤ visible ≤ quantity and on the step; -1005 and -1104."""
    if not 0 <= visible <= quantity:
        raise Refusal(-1005, f"visible_quantity must be between 0 and {plain(quantity)}.")
    if visible % instrument.base_tick != 0:
        raise Refusal(-1104, f"visible_quantity must be a multiple of {plain(instrument.base_tick)}.")


def check_notional(instrument: Instrument, price: Decimal, quantity: Decimal) -> None:
    """price × quantity at least min_notional (equality accepted, orderly-api.md section 5); -1102."""
    if price * quantity < instrument.min_notional:
        raise Refusal(
            -1102,
            f"The order value {plain(price * quantity)} must be at least {plain(instrument.min_notional)} USDC.",
        )


def decimals(value: Decimal) -> int:
    """How many decimals a number really has."""
    exponent = value.normalize().as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else 0


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """The multiple of `step` at or below `value`."""
    return (value / step).to_integral_value(ROUND_DOWN) * step


def ceil_to(value: Decimal, step: Decimal) -> Decimal:
    """The multiple of `step` at or above `value`."""
    return (value / step).to_integral_value(ROUND_UP) * step
