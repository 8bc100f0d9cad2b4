"""Worst-case exposure of the account: the position, notional and margin that open positions and orders can add up to.

Arithmetic only; rules.py compares it with limits. Entries count as if all of them fill. Exits count only where they make
room for the other side (a reversal), never as a reason to allow more on the same side: they may still fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
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


def range_in(symbol: str, snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> PositionRange:
    """Worst case of one symbol: its signed position and what its open orders may still trade."""
    return PositionRange(*_largest_sides(snapshot.position_quantity(symbol), commitments.get(symbol, UNCOMMITTED).open))


def committed(before: Commitment, intent: OrderIntent, *, is_resting: bool = False) -> Commitment:
    """Commitment of the intent's symbol with the order included."""
    return before.plus(
        intent.signed_quantity,
        is_entry=not intent.reduce_only,
        is_resting=is_resting,
        is_margined=False,
        price=abs(intent.notional / intent.quantity) if intent.quantity else ZERO,
    )


def gross_notional(snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> Decimal:
    """Worst-case notional in USDC of all positions and orders, isolated positions included, at the mark (else the last known price)."""
    total = ZERO
    for symbol in _exposed_symbols(snapshot, commitments):
        own = commitments.get(symbol, UNCOMMITTED)
        worst = max(_largest_sides(snapshot.position_quantity(symbol), own.open))
        total += worst * price_of(symbol, snapshot, own)
    for other in snapshot.other_positions:
        price = snapshot.mark_price(other.symbol) or other.mark_price or other.average_open_price
        total += abs(other.quantity) * price
    return total


def price_of(symbol: str, snapshot: AccountSnapshot, commitment: Commitment = UNCOMMITTED) -> Decimal:
    """The mark; without one the position's price, else the price at which an open order was valued."""
    mark = snapshot.marks.get(symbol)
    if mark is not None:
        return mark.price
    position = snapshot.positions.get(symbol)
    if position is not None:
        return position.mark_price or position.average_open_price
    return commitment.price


def open_symbols(snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> frozenset[str]:
    """Symbols with any position, including isolated ones, or with an open entry."""
    others = {position.symbol for position in snapshot.other_positions if position.quantity}
    return frozenset(_exposed_symbols(snapshot, commitments) | others)


def _exposed_symbols(snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> set[str]:
    """Symbols with a cross position or an open entry."""
    held = {symbol for symbol, position in snapshot.positions.items() if position.quantity}
    held.update([symbol for symbol, commitment in commitments.items() if commitment.has_entry])
    return held


def unrealized_pnl(snapshot: AccountSnapshot, symbols: Sequence[str] | None = None) -> Decimal:
    """Unrealised P&L in USDC at the mark, of `symbols` only if given. Positions without a known mark count as zero."""
    total = ZERO
    marks = snapshot.marks
    for position in (*snapshot.positions.values(), *snapshot.other_positions):
        if symbols is not None and not names_symbol(symbols, position.symbol):
            continue
        mark = marks.get(position.symbol)
        price = mark.price if mark and mark.price else position.mark_price
        if price is not None:
            total += position.quantity * (price - position.average_open_price)
    return total


def names_symbol(names: Sequence[str], symbol: str) -> bool:
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
    if instrument is None:
        return ZERO
    return initial_margin(quantity * price, least_margin_ratio(instrument, leverage), instrument)


def margin_needed(intent: OrderIntent, snapshot: AccountSnapshot, before: Commitment, after_it: Commitment) -> Decimal:
    """USDC that `intent` takes from the free collateral: initial margin in its symbol beyond what the exchange already reserves, plus
    the taker fee. Zero or less if the symbol's exposure does not grow. `before`, `after_it`: the symbol's commitment without and with it.
    """
    symbol = intent.symbol
    position, mark = snapshot.position_quantity(symbol), price_of(symbol, snapshot, before)
    price = max(intent.reference_price, mark)
    after, known = max(_largest_sides(position, after_it.open)), max(_largest_sides(position, before.margined))
    in_force = leverage_in_force(symbol, snapshot)
    reserved = margin_of(symbol, known, in_force, mark, snapshot)
    margin = margin_of(symbol, after, intent.leverage or in_force, price, snapshot)
    return margin - reserved + intent.notional * snapshot.taker_fee_rate


def margin_promised(excluded: str, snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> Decimal:
    """Margin in USDC for open entries in symbols other than `excluded` that the exchange has not reserved yet."""
    total = ZERO
    for symbol, own in commitments.items():
        if symbol == excluded or not own.has_new_entry:
            continue
        instrument = snapshot.instruments.get(symbol)
        position = snapshot.position_quantity(symbol)
        after, known = max(_largest_sides(position, own.open)), max(_largest_sides(position, own.margined))
        if instrument is None or after == known:
            continue
        price, ratio = (
            price_of(symbol, snapshot, own),
            least_margin_ratio(instrument, leverage_in_force(symbol, snapshot)),
        )
        total += max(
            ZERO, initial_margin(after * price, ratio, instrument) - initial_margin(known * price, ratio, instrument)
        )
    return total


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
