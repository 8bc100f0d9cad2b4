"""Filters that an order must pass to be accepted: price, price range, quantity, notional.

See docs/internals/orderly.md, section 5. Pure: each check returns None or raises an ApiError with Orderly's code.
Prices are in USDC, quantities in base units.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_UP, Decimal

from kekbridge.paper.codec import ApiError, format_decimal
from kekbridge.paper.instruments import PaperInstrument

_MAX_DECIMALS = 8


def check_status(instrument: PaperInstrument, *, reduce_only: bool) -> None:
    """Require a market that takes the order: every order if ACTIVE or POST_ONLY, else at most reduce-only ones; ApiError -1005."""
    if instrument.status in ("ACTIVE", "POST_ONLY"):
        return
    if not reduce_only or instrument.status not in ("REDUCE_ONLY", "DELISTING"):
        raise ApiError(-1005, f"The market {instrument.symbol} is {instrument.status}.")


def check_price(instrument: PaperInstrument, price: Decimal, name: str = "order_price") -> None:
    """Require quote_min ≤ price ≤ quote_max, on the tick; ApiError -1103. `name` is the field named in the error."""
    if not instrument.quote_min <= price <= instrument.quote_max or price <= 0:
        raise ApiError(
            -1103,
            f"{name} {format_decimal(price)} must be between {format_decimal(instrument.quote_min)} "
            f"and {format_decimal(instrument.quote_max)}.",
        )
    if (price - instrument.quote_min) % instrument.quote_tick != 0:
        raise ApiError(
            -1103, f"{name} {format_decimal(price)} is not a multiple of {format_decimal(instrument.quote_tick)}."
        )


def check_range(instrument: PaperInstrument, mark: Decimal, side: str, price: Decimal) -> None:
    """Require a price within the price range and price scope around the mark price; ApiError -1105."""
    width, scope = instrument.price_range, instrument.price_scope
    if side == "BUY":
        low, high = mark * (1 - scope), mark * (1 + width)
    else:
        low, high = mark * (1 - width), mark * (1 + scope)
    if not low <= price <= high:
        raise ApiError(
            -1105,
            f"order_price {format_decimal(price)} must be between {format_decimal(low)} "
            f"and {format_decimal(high)} (mark {format_decimal(mark)}).",
        )


def check_size(instrument: PaperInstrument, quantity: Decimal, name: str = "order_quantity") -> None:
    """Require base_min ≤ quantity ≤ base_max, on the step, with at most 8 decimals; ApiError -1104."""
    if not instrument.base_min <= quantity <= instrument.base_max:
        raise ApiError(
            -1104,
            f"{name} {format_decimal(quantity)} must be between {format_decimal(instrument.base_min)} "
            f"and {format_decimal(instrument.base_max)}.",
        )
    if (quantity - instrument.base_min) % instrument.base_tick != 0 or decimals(quantity) > _MAX_DECIMALS:
        raise ApiError(
            -1104, f"{name} {format_decimal(quantity)} is not a multiple of {format_decimal(instrument.base_tick)}."
        )


def check_visible(instrument: PaperInstrument, visible: Decimal, quantity: Decimal) -> None:
    """Require 0 ≤ visible ≤ quantity (ApiError -1005), on the step (ApiError -1104)."""
    if not 0 <= visible <= quantity:
        raise ApiError(-1005, f"visible_quantity must be between 0 and {format_decimal(quantity)}.")
    if visible % instrument.base_tick != 0:
        raise ApiError(-1104, f"visible_quantity must be a multiple of {format_decimal(instrument.base_tick)}.")


def check_notional(instrument: PaperInstrument, price: Decimal, quantity: Decimal) -> None:
    """Require price × quantity ≥ min_notional, in USDC; ApiError -1102. Equality passes."""
    if price * quantity < instrument.min_notional:
        raise ApiError(
            -1102,
            f"The order value {format_decimal(price * quantity)} must be at least {format_decimal(instrument.min_notional)} USDC.",
        )


def decimals(value: Decimal) -> int:
    """Number of decimals without trailing zeros."""
    exponent = value.normalize().as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else 0


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """The multiple of `step` at or below `value`."""
    return (value / step).to_integral_value(ROUND_DOWN) * step


def ceil_to(value: Decimal, step: Decimal) -> Decimal:
    """The multiple of `step` at or above `value`."""
    return (value / step).to_integral_value(ROUND_UP) * step
