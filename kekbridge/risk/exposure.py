"""Worst-case exposure of one symbol: the position, notional and margin that its open positions and orders can add up to.

Arithmetic only: account_exposure.py adds the symbols up, rules.py compares with limits. Entries count as if all of them fill. Exits
count only where they make room for the other side (a reversal), never as a reason to allow more on the same side: they may still fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from functools import lru_cache
from typing import Final

from msgspec import Struct

from kekbridge.model import (
    UNCOMMITTED,
    ZERO,
    AccountSnapshot,
    Commitment,
    Fill,
    Instrument,
    OrderIntent,
    Side,
    SideTotals,
)

_MARGIN: Final = Context(prec=28)
_ONE: Final = Decimal(1)
_POWER: Final = Decimal("0.8")
# Orderly's default for an account that never set it; used only until the exchange has reported the leverage in force.
_DEFAULT_LEVERAGE: Final = Decimal(10)


class PositionRange(Struct, frozen=True):
    """The largest long and the largest short position that can result."""

    #: Base units.
    long: Decimal
    #: Base units, absolute.
    short: Decimal

    @property
    def largest(self) -> Decimal:
        return max(self.long, self.short)

    def on(self, side: Side) -> Decimal:
        return self.long if side is Side.BUY else self.short


def _largest_sides(position: Decimal, sums: SideTotals) -> tuple[Decimal, Decimal]:
    """Largest long and largest short (absolute) from a signed position and its open orders.

    A tuple instead of a PositionRange: computed for every symbol with every order.
    """
    from_below = position if position >= ZERO else min(ZERO, position + sums.exit_buys)
    from_above = position if position <= ZERO else max(ZERO, position - sums.exit_sells)
    long, short = from_below + sums.entry_buys, sums.entry_sells - from_above
    return long if long > ZERO else ZERO, short if short > ZERO else ZERO


def range_of(position: Decimal, sums: SideTotals) -> PositionRange:
    """Worst case of one symbol: its signed position and what its open orders may still trade."""
    return PositionRange(*_largest_sides(position, sums))


def largest_position(position: Decimal, sums: SideTotals) -> Decimal:
    """The largest absolute position of one symbol that can result, on either side."""
    return max(_largest_sides(position, sums))


def committed(before: Commitment, intent: OrderIntent, *, is_resting: bool = False) -> Commitment:
    """Commitment of the intent's symbol with the order included."""
    return before.plus(
        intent.signed_quantity,
        is_entry=not intent.reduce_only,
        is_resting=is_resting,
        is_margined=False,
        price=abs(intent.notional / intent.quantity) if intent.quantity else ZERO,
    )


def price_of(symbol: str, snapshot: AccountSnapshot, commitment: Commitment = UNCOMMITTED) -> Decimal:
    """The mark; without one the position's price, else the price at which an open order was valued."""
    mark = snapshot.marks.get(symbol)
    if mark is not None:
        return mark.price
    position = snapshot.positions.get(symbol)
    if position is not None:
        return position.mark_price or position.average_open_price
    return commitment.price


def is_open(symbol: str, snapshot: AccountSnapshot, commitment: Commitment) -> bool:
    """Return whether the symbol has any position, including an isolated one, or an open entry."""
    return (
        commitment.has_entry
        or bool(snapshot.position_quantity(symbol))
        or any(other.symbol == symbol and other.quantity for other in snapshot.other_positions)
    )


def isolated_notional(symbol: str, snapshot: AccountSnapshot) -> Decimal:
    """Notional in USDC of a symbol's isolated positions at the mark (else the last known price)."""
    total = ZERO
    for other in snapshot.other_positions:
        if other.symbol == symbol:
            price = snapshot.mark_price(symbol) or other.mark_price or other.average_open_price
            total += abs(other.quantity) * price
    return total


def unrealized_pnl(symbol: str, snapshot: AccountSnapshot) -> Decimal:
    """Unrealized P&L in USDC of a symbol's positions at the mark; zero while no mark is known."""
    total = ZERO
    mark = snapshot.mark_price(symbol)
    position = snapshot.positions.get(symbol)
    for held in (*(() if position is None else (position,)), *snapshot.other_positions):
        price = mark or held.mark_price
        if price is not None and held.symbol == symbol:
            total += held.quantity * (price - held.average_open_price)
    return total


@lru_cache(maxsize=4096)
def names_symbol(names: tuple[str, ...], symbol: str) -> bool:
    """Return whether a list of allowed symbols contains `symbol`, by its exchange name or by its base (`BTC`)."""
    parts = symbol.split("_")
    base = parts[1] if len(parts) > 1 else symbol
    return any(name in (symbol, base) or name.upper() in (symbol, base) for name in names)


# ---------------------------------------------------------------------------------------------------------------- margin


def least_margin_ratio(instrument: Instrument, leverage: Decimal) -> Decimal:
    """The initial margin ratio of a small notional: max(1/leverage, base_imr)."""
    return max(_MARGIN.divide(_ONE, leverage), instrument.base_imr)


def initial_margin(notional: Decimal, least_ratio: Decimal, instrument: Instrument) -> Decimal:
    """Initial margin in USDC. Orderly: IMR = max(1/leverage, base_imr, imr_factor * notional^0.8), docs/internals/orderly.md section 10."""
    ratio = least_ratio
    # notional^0.8 is at most max(notional, 1), so most orders do not need the costly power.
    if notional > ZERO and instrument.imr_factor * (notional if notional > _ONE else _ONE) > ratio:
        ratio = max(ratio, _MARGIN.multiply(instrument.imr_factor, _MARGIN.power(notional, _POWER)))
    return notional * ratio if notional else ZERO


def leverage_in_force(symbol: str, snapshot: AccountSnapshot) -> Decimal:
    """Leverage of a symbol as set at the exchange, else the account's, else the exchange's default."""
    leverage = snapshot.leverage.get(symbol) or snapshot.max_leverage
    return leverage if leverage is not None and leverage > 0 else _DEFAULT_LEVERAGE


def margin_of(symbol: str, quantity: Decimal, leverage: Decimal, price: Decimal, snapshot: AccountSnapshot) -> Decimal:
    """Initial margin in USDC of `quantity` base units; zero for a symbol that is not listed."""
    instrument = snapshot.instruments.get(symbol)
    if instrument is None or not quantity:
        return ZERO
    return initial_margin(quantity * price, least_margin_ratio(instrument, leverage), instrument)


def margin_needed(intent: OrderIntent, snapshot: AccountSnapshot, before: Commitment, largest: Decimal) -> Decimal:
    """USDC that `intent` takes from the free collateral: initial margin in its symbol beyond what the exchange already reserves, plus
    the taker fee. Zero or less if the symbol's exposure does not grow. `before`: the symbol's commitment without it; `largest`: the
    symbol's `largest_position` with it.
    """
    symbol = intent.symbol
    position, mark = snapshot.position_quantity(symbol), price_of(symbol, snapshot, before)
    price = max(intent.reference_price, mark)
    known = largest_position(position, before.margined)
    in_force = leverage_in_force(symbol, snapshot)
    reserved = margin_of(symbol, known, in_force, mark, snapshot)
    margin = margin_of(symbol, largest, intent.leverage or in_force, price, snapshot)
    return margin - reserved + intent.notional * snapshot.taker_fee_rate_of(symbol)


def margin_promised(
    instrument: Instrument, leverage: Decimal, price: Decimal, *, largest: Decimal, margined: Decimal
) -> Decimal:
    """Margin in USDC for a symbol's open entries that the exchange has not reserved yet: what the largest position that can result needs
    beyond the largest of the `margined` orders.
    """
    if largest == margined:
        return ZERO
    ratio = least_margin_ratio(instrument, leverage)
    needed = initial_margin(largest * price, ratio, instrument)
    return max(ZERO, needed - initial_margin(margined * price, ratio, instrument))


def went_flat(side: Side, held: Decimal, executions: Sequence[Fill]) -> bool:
    """Return whether a position on `side` was flat or reversed at some point between these fills (oldest first), which led to `held`.

    Computed backwards from what is held. Without an earlier closing fill the answer is False: then a fill is known that the position
    does not show yet.
    """
    for index in range(len(executions) - 1, -1, -1):
        fill = executions[index]
        held -= fill.quantity * fill.side.sign * side.sign
        if held <= 0:
            return any(earlier.side is not side for earlier in executions[:index])
    return False


def was_left(side: Side, held: Decimal, fills: Sequence[Fill], *, first: int = 0) -> bool:
    """Return whether a position on `side` was open and then flat or reversed, between these fills (oldest first), which led to `held`.

    `held`: signed, positive on `side`, in base units. Looked at from before the fill of index `first` on.
    """
    path = [held]
    for fill in reversed(fills[first:]):
        path.append(path[-1] - fill.quantity * fill.side.sign * side.sign)
    is_open = False
    for position in reversed(path):
        if position > 0:
            is_open = True
        elif is_open:
            return True
    return False
