"""How much: from what an alert wants (coins, USDC, percent, risk) to a size that the exchange takes.

The only place where quantities are rounded, always down. Must not know the account, a market or what an order is for beyond its
arguments; moves.py asks it for sizes, legs.py puts them on the exchange's grid and has them checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_DOWN, Context, Decimal
from typing import Final

from kekbridge.alerts.signal import QuantityType
from kekbridge.errors import Refused
from kekbridge.model import ZERO, Instrument

# Divisions that do not come out even must err on the small side, and sums of long texts must not be rounded at 28 digits.
DOWNWARDS: Final = Context(prec=80, rounding=ROUND_DOWN)
_PERCENT: Final = Decimal(100)
_TWELVE_DECIMALS: Final = Decimal("1e-12")
_CENT: Final = Decimal("0.01")


def on_grid(quantity: Decimal, instrument: Instrument) -> Decimal:
    """The largest size that is not above `quantity` and that the exchange takes; zero when even `base_min` is above it.

    The grid starts at `base_min`, not at zero (Orderly: size filter, docs/internals/orderly.md section 5).
    """
    if quantity < instrument.base_min or quantity <= 0:
        return ZERO
    if instrument.base_tick <= 0:
        return quantity
    steps = DOWNWARDS.divide_int(DOWNWARDS.subtract(quantity, instrument.base_min), instrument.base_tick)
    return DOWNWARDS.add(instrument.base_min, DOWNWARDS.multiply(steps, instrument.base_tick))


def smallest_quantity(instrument: Instrument, price: Decimal | None = None) -> Decimal:
    """The smallest size on the grid; with a price, the smallest that is also worth `min_notional` USDC at it."""
    if price is None or price <= 0:
        return instrument.base_min
    worth = DOWNWARDS.divide(instrument.min_notional, price)
    least = on_grid(worth, instrument) or instrument.base_min
    while DOWNWARDS.multiply(least, price) < instrument.min_notional and instrument.base_tick > 0:
        least = DOWNWARDS.add(least, instrument.base_tick)
    return least


def check_entry_size(quantity: Decimal, *, wanted: Decimal, price: Decimal, instrument: Instrument) -> None:
    """Raise Refused when an opening order of `quantity` (already on the grid) is under or over what the exchange takes.

    Codes: quantity_too_small (base_min, min_notional; the smallest size that would do is named), order_too_large (base_max).
    """
    if quantity <= 0 or DOWNWARDS.multiply(quantity, price) < instrument.min_notional:
        least = smallest_quantity(instrument, price)
        raise Refused(
            "quantity_too_small",
            f"quantity: found {plain(wanted)} {instrument.base}, worth {dollars(wanted * price)} USDC, expected at least "
            f"{plain(least)} {instrument.base} (steps of {plain(instrument.base_tick)}, at least "
            f"{plain(instrument.min_notional)} USDC); send {plain(least)} or more",
            field="quantity",
        )
    if quantity > instrument.base_max:
        raise Refused(
            "order_too_large",
            f"quantity: found {plain(quantity)} {instrument.base}, expected at most {plain(instrument.base_max)}, the exchange's "
            "largest order in this market; send less, or several alerts",
            field="quantity",
        )


def quantity_of(
    value: Decimal,
    kind: QuantityType,
    *,
    price: Decimal,
    account_value: Decimal,
    position: Decimal,
    stop_price: Decimal | None = None,
) -> Decimal:
    """Base units, not rounded yet, that `value` of `kind` means at `price`.

    usd: value / price. percent_equity: that share of `account_value` as notional. percent_position: that share of the absolute
    `position`. risk_percent: the size that loses that share of `account_value` between `price` and `stop_price`.
    Raises Refused(quantity_type_unsupported) when the kind needs what is not there.
    """
    match kind:
        case QuantityType.BASE:
            return value
        case QuantityType.USD:
            return DOWNWARDS.divide(value, price)
        case QuantityType.PERCENT_EQUITY:
            return DOWNWARDS.divide(_share(value, account_value), price)
        case QuantityType.PERCENT_POSITION:
            if position == 0:
                raise _unsupported("percent_position", "without an open position to take a share of", "use base or usd")
            return _share(value, abs(position))
        case QuantityType.RISK_PERCENT:
            if stop_price is None or stop_price == price:
                raise _unsupported("risk_percent", "without a stopLoss to measure the risk by", "add stopLoss")
            return DOWNWARDS.divide(_share(value, account_value), abs(DOWNWARDS.subtract(price, stop_price)))


def shares_of(quantity: Decimal, shares: Sequence[Decimal | None], instrument: Instrument) -> tuple[Decimal, ...]:
    """Sizes of several take-profits of one entry, each on the grid, never more than `quantity` together.

    `shares` are percent; None takes an even part of what the others leave. When all of it is to be closed, the last one takes the
    crumbs that rounding left. Raises Refused(quantity_too_small) when a part is under the smallest order.
    """
    if len(shares) == 1 and shares[0] is None:
        return (quantity,)
    given = sum((share for share in shares if share is not None), ZERO)
    open_shares = [share for share in shares if share is None]
    even = DOWNWARDS.divide(_PERCENT - given, Decimal(len(open_shares))) if open_shares else ZERO
    sizes = [on_grid(_share(even if share is None else share, quantity), instrument) for share in shares]
    if open_shares or given == _PERCENT:
        sizes[-1] = on_grid(quantity - sum(sizes[:-1], ZERO), instrument)
    if min(sizes) <= 0:
        raise Refused(
            "quantity_too_small",
            f"takeProfit: {plain(quantity)} {instrument.base} cannot be shared by {len(shares)} take-profits, each needs at least "
            f"{plain(instrument.base_min)}; send fewer take-profits or a larger quantity",
            field="takeProfit",
        )
    return tuple(sizes)


def plain(value: Decimal) -> str:
    """A number for people: no exponent, no trailing zeros, at most twelve decimals."""
    text = format(DOWNWARDS.quantize(value, _TWELVE_DECIMALS), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def dollars(value: Decimal) -> str:
    """An amount of USDC for people: cents, and more digits only where cents would hide it."""
    return plain(DOWNWARDS.quantize(value, _CENT) if abs(value) >= 1 else value)


def _share(percent: Decimal, whole: Decimal) -> Decimal:
    return DOWNWARDS.divide(DOWNWARDS.multiply(percent, max(whole, ZERO)), _PERCENT)


def _unsupported(kind: str, why: str, fix: str) -> Refused:
    return Refused("quantity_type_unsupported", f"quantityType: found {kind} {why}; {fix}", field="quantityType")
