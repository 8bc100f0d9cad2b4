"""How far the account could be drawn out: the worst position, notional and margin that what is open and on its way can add up to.

Arithmetic only; rules.py compares it with limits. Entries count as if all of them fill. Exits count only where they make
room for the other side (a reversal), never as a reason to allow more on the same side: they may still fail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

from kekbridge.model import ZERO, AccountSnapshot, Fill, Instrument, OrderIntent, Reservation, Side

_MARGIN: Final = Context(prec=28)
_POWER: Final = Decimal("0.8")
# What Orderly gives an account that never set it; used only while the exchange has not told the leverage in force.
_UNTOLD_LEVERAGE: Final = Decimal(10)


@dataclass(frozen=True, slots=True)
class Reach:
    """The largest long and short position that may come about, as absolute base units."""

    long: Decimal
    short: Decimal

    @property
    def largest(self) -> Decimal:
        return max(self.long, self.short)

    def on(self, side: Side) -> Decimal:
        return self.long if side is Side.BUY else self.short


def reach_of(position: Decimal, reservations: Iterable[Reservation]) -> Reach:
    """Worst case of one symbol: its signed position and the reservations of that symbol."""
    entry_buys = entry_sells = exit_buys = exit_sells = ZERO
    for reserved in reservations:
        size = abs(reserved.quantity)
        if reserved.is_entry and reserved.quantity > 0:
            entry_buys += size
        elif reserved.is_entry:
            entry_sells += size
        elif reserved.quantity > 0:
            exit_buys += size
        else:
            exit_sells += size
    from_below = position if position >= 0 else min(ZERO, position + exit_buys)
    from_above = position if position <= 0 else max(ZERO, position - exit_sells)
    return Reach(long=max(ZERO, from_below + entry_buys), short=max(ZERO, entry_sells - from_above))


def reservation_for(intent: OrderIntent, webhook_id: str, name: str = "") -> Reservation:
    """The room that an order takes while it is not final."""
    return Reservation(
        client_order_id=name,
        webhook_id=webhook_id,
        symbol=intent.symbol,
        quantity=intent.signed_quantity,
        notional=intent.notional,
        is_entry=not intent.reduce_only,
        is_resting=False,
    )


def reach_in(symbol: str, snapshot: AccountSnapshot, reservations: Sequence[Reservation]) -> Reach:
    return reach_of(snapshot.position_quantity(symbol), (one for one in reservations if one.symbol == symbol))


def by_symbol(reservations: Iterable[Reservation]) -> Mapping[str, list[Reservation]]:
    """Reservations grouped, so that a full queue is gone through once and not once for every symbol."""
    groups: defaultdict[str, list[Reservation]] = defaultdict(list)
    for one in reservations:
        groups[one.symbol].append(one)
    return groups


def gross_notional(snapshot: AccountSnapshot, reservations: Sequence[Reservation]) -> Decimal:
    """USDC value of everything open at its worst, isolated positions included, at the mark (else the price known of it)."""
    symbols = {symbol for symbol, position in snapshot.positions.items() if position.quantity != 0}
    symbols |= {one.symbol for one in reservations if one.is_entry}
    total = sum(
        (
            reach_in(symbol, snapshot, reservations).largest * price_of(symbol, snapshot, reservations)
            for symbol in symbols
        ),
        ZERO,
    )
    for foreign in snapshot.other_positions:
        price = snapshot.mark_price(foreign.symbol) or foreign.mark_price or foreign.average_open_price
        total += abs(foreign.quantity) * price
    return total


def price_of(symbol: str, snapshot: AccountSnapshot, reservations: Sequence[Reservation] = ()) -> Decimal:
    """The mark; without one the position's own price, or what a reservation was made at."""
    mark = snapshot.mark_price(symbol)
    if mark is not None:
        return mark
    position = snapshot.positions.get(symbol)
    if position is not None:
        return position.mark_price or position.average_open_price
    prices = (abs(one.notional / one.quantity) for one in reservations if one.symbol == symbol and one.quantity != 0)
    return max(prices, default=ZERO)


def open_symbols(snapshot: AccountSnapshot, reservations: Sequence[Reservation]) -> frozenset[str]:
    """Symbols with a position, whoever opened it, or with an entry on its way."""
    held = {symbol for symbol, position in snapshot.positions.items() if position.quantity != 0}
    held |= {position.symbol for position in snapshot.other_positions if position.quantity != 0}
    return frozenset(held | {one.symbol for one in reservations if one.is_entry})


def unrealized_pnl(snapshot: AccountSnapshot, symbols: Sequence[str] | None = None) -> Decimal:
    """USDC won or lost on open positions at the mark; of some symbols only, when given. Unknown marks count nothing."""
    total = ZERO
    for position in (*snapshot.positions.values(), *snapshot.other_positions):
        if symbols is not None and not names_symbol(symbols, position.symbol):
            continue
        mark = snapshot.mark_price(position.symbol) or position.mark_price
        if mark is not None:
            total += position.quantity * (mark - position.average_open_price)
    return total


def names_symbol(names: Sequence[str], symbol: str) -> bool:
    """Whether a list of allowed symbols holds `symbol`, by its exchange name or by its base (`BTC`)."""
    parts = symbol.split("_")
    base = parts[1] if len(parts) > 1 else symbol
    return any(name in (symbol, base) or name.upper() in (symbol, base) for name in names)


# ---------------------------------------------------------------------------------------------------------------- margin


def initial_margin_ratio(instrument: Instrument, leverage: Decimal, notional: Decimal) -> Decimal:
    """Orderly: IMR = max(1/leverage, base_imr, imr_factor * notional^0.8), orderly-api.md section 10."""
    ratio = max(_MARGIN.divide(Decimal(1), leverage), instrument.base_imr)
    # notional^0.8 is at most the notional (or 1): for most orders the costly power need not be taken.
    if notional > 0 and instrument.imr_factor * max(notional, Decimal(1)) > ratio:
        ratio = max(ratio, _MARGIN.multiply(instrument.imr_factor, _MARGIN.power(notional, _POWER)))
    return ratio


def leverage_in_force(symbol: str, snapshot: AccountSnapshot) -> Decimal:
    """Leverage of a symbol as the exchange has it, else the account's, else the exchange's default."""
    leverage = snapshot.leverage.get(symbol) or snapshot.max_leverage
    return leverage if leverage is not None and leverage > 0 else _UNTOLD_LEVERAGE


def margin_of(symbol: str, quantity: Decimal, leverage: Decimal, price: Decimal, snapshot: AccountSnapshot) -> Decimal:
    """Initial margin in USDC of `quantity` base units; zero for a symbol without rules."""
    instrument = snapshot.instruments.get(symbol)
    notional = quantity * price
    if instrument is None or notional == 0:
        return ZERO
    return notional * initial_margin_ratio(instrument, leverage, notional)


def margin_needed(intent: OrderIntent, snapshot: AccountSnapshot, reservations: Sequence[Reservation]) -> Decimal:
    """USDC that `intent` would take from the free collateral: more initial margin in its symbol than the exchange already holds
    back, and the taker fee. Zero or less when the symbol's exposure does not grow.
    """
    mark = price_of(intent.symbol, snapshot, reservations)
    price = max(intent.reference_price, mark)
    with_this = (*reservations, reservation_for(intent, ""))
    after = reach_in(intent.symbol, snapshot, with_this).largest
    known = reach_in(intent.symbol, snapshot, [one for one in reservations if one.is_margined]).largest
    in_force = leverage_in_force(intent.symbol, snapshot)
    held_back = margin_of(intent.symbol, known, in_force, mark, snapshot)
    margin = margin_of(intent.symbol, after, intent.leverage or in_force, price, snapshot)
    return margin - held_back + intent.notional * snapshot.taker_fee_rate


def margin_promised(but: str, snapshot: AccountSnapshot, reservations: Sequence[Reservation]) -> Decimal:
    """USDC of margin that entries on their way in other symbols will take, which the exchange does not know of yet."""
    total = ZERO
    for symbol, own in by_symbol(reservations).items():
        if symbol == but or not any(one.is_entry and not one.is_margined for one in own):
            continue
        price, leverage = price_of(symbol, snapshot, own), leverage_in_force(symbol, snapshot)
        margined = [one for one in own if one.is_margined]
        after = margin_of(symbol, reach_in(symbol, snapshot, own).largest, leverage, price, snapshot)
        known = margin_of(symbol, reach_in(symbol, snapshot, margined).largest, leverage, price, snapshot)
        total += max(ZERO, after - known)
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
