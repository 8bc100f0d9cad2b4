"""Order sizes: from an alert's quantity (coins, USDC, percent, risk) to one that the exchange accepts.

The only place where quantities are rounded, always down. Must not know the account, the market or the order's purpose beyond its
arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_DOWN, Context, Decimal
from typing import Final

from kekbridge.alerts.signal import QuantityType
from kekbridge.errors import Refused
from kekbridge.formatting import format_decimal
from kekbridge.model import ZERO, Instrument

# Inexact divisions must err on the small side, and sums of long decimals must not be rounded at 28 digits.
ROUND_DOWN_CONTEXT: Final = Context(prec=80, rounding=ROUND_DOWN)
#: More orders than these in one market at a time would only stand in each other's way at the exchange's rate limit.
MAX_CLOSING_ORDERS: Final = 20
_PERCENT: Final = Decimal(100)
_TWELVE_DECIMALS: Final = Decimal("1e-12")
_CENT: Final = Decimal("0.01")


def floor_quantity(quantity: Decimal, instrument: Instrument) -> Decimal:
    """The largest size up to `quantity` that the exchange accepts; zero if `quantity` is below `base_min`.

    The grid starts at `base_min`, not at zero (Orderly: size filter, docs/internals/orderly.md section 5).
    """
    if quantity < instrument.base_min or quantity <= 0:
        return ZERO
    if instrument.base_tick <= 0:
        return quantity
    steps = ROUND_DOWN_CONTEXT.divide_int(
        ROUND_DOWN_CONTEXT.subtract(quantity, instrument.base_min), instrument.base_tick
    )
    return ROUND_DOWN_CONTEXT.add(instrument.base_min, ROUND_DOWN_CONTEXT.multiply(steps, instrument.base_tick))


def smallest_quantity(instrument: Instrument, price: Decimal | None = None) -> Decimal:
    """The smallest size on the grid; with a price, the smallest that is also worth `min_notional` USDC at that price."""
    if price is None or price <= 0:
        return instrument.base_min
    quantity = ROUND_DOWN_CONTEXT.divide(instrument.min_notional, price)
    least = floor_quantity(quantity, instrument) or instrument.base_min
    while ROUND_DOWN_CONTEXT.multiply(least, price) < instrument.min_notional and instrument.base_tick > 0:
        least = ROUND_DOWN_CONTEXT.add(least, instrument.base_tick)
    return least


def closing_sizes(quantity: Decimal, instrument: Instrument) -> tuple[Decimal, ...]:
    """Sizes of the orders that close `quantity` base units; more than one only above `base_max`. Each is accepted by the exchange.

    They leave less than one step, or all of a `quantity` below `base_min`: no order can close that. More than 20 orders are never
    returned; what they leave is then larger, and closed by asking again.
    """
    sizes: list[Decimal] = []
    left = quantity
    largest = floor_quantity(instrument.base_max, instrument)
    while left > instrument.base_max and len(sizes) < MAX_CLOSING_ORDERS:
        # The last order needs base_min, too: the one before it is made smaller for that.
        with_rest = floor_quantity(ROUND_DOWN_CONTEXT.subtract(left, instrument.base_min), instrument)
        sizes.append(min(largest, with_rest) or largest)
        left = ROUND_DOWN_CONTEXT.subtract(left, sizes[-1])
    if left <= instrument.base_max and (rest := floor_quantity(left, instrument)) > 0:
        sizes.append(rest)
    return tuple(sizes)


def check_entry_size(quantity: Decimal, *, wanted: Decimal, price: Decimal, instrument: Instrument) -> None:
    """Check that the exchange accepts an opening order of `quantity` (on the grid); `wanted` is the size before rounding.

    Raises Refused: quantity_too_small (base_min or min_notional; names the smallest accepted size), order_too_large (base_max).
    """
    if quantity <= 0 or ROUND_DOWN_CONTEXT.multiply(quantity, price) < instrument.min_notional:
        least = smallest_quantity(instrument, price)
        raise Refused(
            "quantity_too_small",
            f"quantity: found {format_12dp(wanted)} {instrument.base}, worth {format_usdc(wanted * price)} USDC, expected at least "
            f"{format_12dp(least)} {instrument.base} (steps of {format_12dp(instrument.base_tick)}, at least "
            f"{format_12dp(instrument.min_notional)} USDC); send {format_12dp(least)} or more",
            field="quantity",
        )
    if quantity > instrument.base_max:
        raise Refused(
            "order_too_large",
            f"quantity: found {format_12dp(quantity)} {instrument.base}, expected at most {format_12dp(instrument.base_max)}, the "
            "exchange's maximum order size in this market; send less, or several alerts",
            field="quantity",
        )


def to_base_units(
    value: Decimal,
    kind: QuantityType,
    *,
    price: Decimal,
    account_value: Decimal,
    position: Decimal,
    stop_price: Decimal | None = None,
) -> Decimal:
    """Convert `value` of `kind` at `price` to base units, not rounded yet.

    usd: value / price. percent_equity: that share of `account_value` as notional. percent_position: that share of the absolute
    `position`. risk_percent and risk_usd: the size that loses that share of `account_value`, or that amount, between `price` and
    `stop_price`.
    Raises Refused(quantity_type_unsupported) if the position or stop that the kind needs is missing.
    """
    match kind:
        case QuantityType.BASE:
            return value
        case QuantityType.USD:
            return ROUND_DOWN_CONTEXT.divide(value, price)
        case QuantityType.PERCENT_EQUITY:
            return ROUND_DOWN_CONTEXT.divide(_share(value, account_value), price)
        case QuantityType.PERCENT_POSITION:
            if position == 0:
                raise _unsupported("percent_position", "without an open position", "use base or usd")
            return _share(value, abs(position))
        case QuantityType.RISK_PERCENT | QuantityType.RISK_USD:
            if stop_price is None or stop_price == price:
                raise _unsupported(kind, "without a stopLoss to measure the risk", "add stopLoss")
            risk = _share(value, account_value) if kind is QuantityType.RISK_PERCENT else value
            return ROUND_DOWN_CONTEXT.divide(risk, abs(ROUND_DOWN_CONTEXT.subtract(price, stop_price)))


def split_quantity(quantity: Decimal, shares: Sequence[Decimal | None], instrument: Instrument) -> tuple[Decimal, ...]:
    """Split an entry's `quantity` among its take-profits: sizes on the grid that never exceed it together.

    `shares` are percent; None takes an equal part of the remainder. If the whole entry is to be closed, the last take-profit also gets
    what rounding left over. Raises Refused(quantity_too_small) if a part is below the smallest order.
    """
    if len(shares) == 1 and shares[0] is None:
        return (quantity,)
    given = sum((share for share in shares if share is not None), ZERO)
    open_shares = [share for share in shares if share is None]
    even = ROUND_DOWN_CONTEXT.divide(_PERCENT - given, Decimal(len(open_shares))) if open_shares else ZERO
    sizes = [floor_quantity(_share(even if share is None else share, quantity), instrument) for share in shares]
    if open_shares or given == _PERCENT:
        sizes[-1] = floor_quantity(quantity - sum(sizes[:-1], ZERO), instrument)
    if min(sizes) <= 0:
        raise Refused(
            "quantity_too_small",
            f"takeProfit: {format_12dp(quantity)} {instrument.base} cannot be split among {len(shares)} take-profits, each needs at least "
            f"{format_12dp(instrument.base_min)}; send fewer take-profits or a larger quantity",
            field="takeProfit",
        )
    return tuple(sizes)


def format_12dp(value: Decimal) -> str:
    """Cut a number to twelve decimals, without exponent and trailing zeros."""
    return format_decimal(ROUND_DOWN_CONTEXT.quantize(value, _TWELVE_DECIMALS))


def format_usdc(value: Decimal) -> str:
    """An amount of USDC in cents; amounts below 1 USDC keep more digits."""
    return format_12dp(ROUND_DOWN_CONTEXT.quantize(value, _CENT) if abs(value) >= 1 else value)


def _share(percent: Decimal, whole: Decimal) -> Decimal:
    return ROUND_DOWN_CONTEXT.divide(ROUND_DOWN_CONTEXT.multiply(percent, max(whole, ZERO)), _PERCENT)


def _unsupported(kind: str, why: str, fix: str) -> Refused:
    return Refused("quantity_type_unsupported", f"quantityType: found {kind} {why}; {fix}", field="quantityType")
