"""How far the account could be drawn out: the worst position, notional and margin that what is open and on its way can add up to.

Arithmetic only; rules.py compares it with limits. Entries count as if all of them fill. Exits count only where they make
room for the other side (a reversal), never as a reason to allow more on the same side: they may still fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

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
# What Orderly gives an account that never set it; used only while the exchange has not told the leverage in force.
_UNTOLD_LEVERAGE: Final = Decimal(10)


@dataclass(frozen=True, slots=True)
class PositionRange:
    """The largest long and short position that may come about, as absolute base units."""

    long: Decimal
    short: Decimal

    @property
    def largest(self) -> Decimal:
        return max(self.long, self.short)

    def on(self, side: Side) -> Decimal:
        return self.long if side is Side.BUY else self.short


def range_of(position: Decimal, sums: SideTotals) -> PositionRange:
    """Worst case of one symbol: its signed position and what its open orders may still trade."""
    return PositionRange(*sides(position, sums))


def sides(position: Decimal, sums: SideTotals) -> tuple[Decimal, Decimal]:
    """The long and the short of `reach_of`, without an object around them: it is asked for every symbol with every order."""
    from_below = position if position >= ZERO else min(ZERO, position + sums.exit_buys)
    from_above = position if position <= ZERO else max(ZERO, position - sums.exit_sells)
    long, short = from_below + sums.entry_buys, sums.entry_sells - from_above
    return long if long > ZERO else ZERO, short if short > ZERO else ZERO


def range_in(symbol: str, snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> PositionRange:
    return range_of(snapshot.position_quantity(symbol), commitments.get(symbol, UNCOMMITTED).open)


def committed(before: Commitment, intent: OrderIntent, *, is_resting: bool = False) -> Commitment:
    """What is committed in the intent's symbol once the order is, too."""
    return before.plus(
        intent.signed_quantity,
        is_entry=not intent.reduce_only,
        is_resting=is_resting,
        is_margined=False,
        price=abs(intent.notional / intent.quantity) if intent.quantity else ZERO,
    )


def gross_notional(snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> Decimal:
    """USDC value of everything open at its worst, isolated positions included, at the mark (else the price known of it)."""
    total = ZERO
    for symbol in _symbols_at_stake(snapshot, commitments):
        own = commitments.get(symbol, UNCOMMITTED)
        worst = max(sides(snapshot.position_quantity(symbol), own.open))
        total += worst * price_of(symbol, snapshot, own)
    for foreign in snapshot.other_positions:
        price = snapshot.mark_price(foreign.symbol) or foreign.mark_price or foreign.average_open_price
        total += abs(foreign.quantity) * price
    return total


def price_of(symbol: str, snapshot: AccountSnapshot, commitment: Commitment = UNCOMMITTED) -> Decimal:
    """The mark; without one the position's own price, or what an open order was valued at."""
    mark = snapshot.marks.get(symbol)
    if mark is not None:
        return mark.price
    position = snapshot.positions.get(symbol)
    if position is not None:
        return position.mark_price or position.average_open_price
    return commitment.price


def open_symbols(snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> frozenset[str]:
    """Symbols with a position, whoever opened it, or with an entry on its way."""
    others = {position.symbol for position in snapshot.other_positions if position.quantity}
    return frozenset(_symbols_at_stake(snapshot, commitments) | others)


def _symbols_at_stake(snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> set[str]:
    """Symbols with a cross position, or with an entry on its way."""
    held = {symbol for symbol, position in snapshot.positions.items() if position.quantity}
    held.update([symbol for symbol, commitment in commitments.items() if commitment.has_entry])
    return held


def unrealized_pnl(snapshot: AccountSnapshot, symbols: Sequence[str] | None = None) -> Decimal:
    """USDC won or lost on open positions at the mark; of some symbols only, when given. Unknown marks count nothing."""
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
    """Whether a list of allowed symbols holds `symbol`, by its exchange name or by its base (`BTC`)."""
    parts = symbol.split("_")
    base = parts[1] if len(parts) > 1 else symbol
    return any(name in (symbol, base) or name.upper() in (symbol, base) for name in names)


# ---------------------------------------------------------------------------------------------------------------- margin


def least_margin_ratio(instrument: Instrument, leverage: Decimal) -> Decimal:
    """The initial margin ratio while the notional is too small to count in it: max(1/leverage, base_imr)."""
    return max(_MARGIN.divide(_ONE, leverage), instrument.base_imr)


def initial_margin(notional: Decimal, least_ratio: Decimal, instrument: Instrument) -> Decimal:
    """USDC. Orderly: IMR = max(1/leverage, base_imr, imr_factor * notional^0.8), docs/internals/orderly.md section 10."""
    ratio = least_ratio
    # notional^0.8 is at most the notional (or 1): for most orders the costly power need not be taken.
    if notional > ZERO and instrument.imr_factor * (notional if notional > _ONE else _ONE) > ratio:
        ratio = max(ratio, _MARGIN.multiply(instrument.imr_factor, _MARGIN.power(notional, _POWER)))
    return notional * ratio if notional else ZERO


def leverage_in_force(symbol: str, snapshot: AccountSnapshot) -> Decimal:
    """Leverage of a symbol as the exchange has it, else the account's, else the exchange's default."""
    leverage = snapshot.leverage.get(symbol) or snapshot.max_leverage
    return leverage if leverage is not None and leverage > 0 else _UNTOLD_LEVERAGE


def margin_of(symbol: str, quantity: Decimal, leverage: Decimal, price: Decimal, snapshot: AccountSnapshot) -> Decimal:
    """Initial margin in USDC of `quantity` base units; zero for a symbol without rules."""
    instrument = snapshot.instruments.get(symbol)
    if instrument is None:
        return ZERO
    return initial_margin(quantity * price, least_margin_ratio(instrument, leverage), instrument)


def margin_needed(intent: OrderIntent, snapshot: AccountSnapshot, before: Commitment, after_it: Commitment) -> Decimal:
    """USDC that `intent` would take from the free collateral: more initial margin in its symbol than the exchange already holds
    back, and the taker fee. Zero or less when the symbol's exposure does not grow. `before` and `after_it`: what is committed in its
    symbol without and with the intent.
    """
    symbol = intent.symbol
    position, mark = snapshot.position_quantity(symbol), price_of(symbol, snapshot, before)
    price = max(intent.reference_price, mark)
    after, known = max(sides(position, after_it.open)), max(sides(position, before.margined))
    in_force = leverage_in_force(symbol, snapshot)
    held_back = margin_of(symbol, known, in_force, mark, snapshot)
    margin = margin_of(symbol, after, intent.leverage or in_force, price, snapshot)
    return margin - held_back + intent.notional * snapshot.taker_fee_rate


def margin_promised(but: str, snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> Decimal:
    """USDC of margin that entries on their way in other symbols will take, which the exchange does not know of yet."""
    total = ZERO
    for symbol, own in commitments.items():
        if symbol == but or not own.has_new_entry:
            continue
        instrument = snapshot.instruments.get(symbol)
        position = snapshot.position_quantity(symbol)
        after, known = max(sides(position, own.open)), max(sides(position, own.margined))
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


def was_left(side: Side, held: Decimal, executions: Sequence[Fill]) -> bool:
    """True when a position on `side` was gone for a moment between these executions (oldest first), which led to `held` of it now.

    Reckoned backwards from what is held. Nothing was left where nothing was closed before: then a fill is known that the position does
    not show yet.
    """
    for index in range(len(executions) - 1, -1, -1):
        fill = executions[index]
        held -= fill.quantity * fill.side.sign * side.sign
        if held <= 0:
            return any(earlier.side is not side for earlier in executions[:index])
    return False
