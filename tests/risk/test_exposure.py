"""Worst-case exposure from commitments, and whether a position went flat between fills."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.model import UNCOMMITTED, AccountSnapshot, Fill, OrderIntent, Reservation, Side, Usage
from kekbridge.risk import exposure
from kekbridge.risk.account_exposure import AccountExposure
from kekbridge.risk.check import with_order
from kekbridge.risk.exposure import was_left, went_flat
from tests.trading import BTC, ETH, NOW, PEPE, commitments_of, entry, exit_order, reservation, snapshot

D = Decimal

# Sizes and prices with many digits: a sum that lost one would show.
_sizes = st.decimals("-3", 3, places=8)
_reservations = st.builds(
    lambda symbol, quantity, price, is_entry, is_resting, is_margined: reservation(
        str(quantity),
        symbol,
        notional=abs(quantity) * price,
        is_entry=is_entry,
        is_resting=is_resting,
        is_margined=is_margined,
    ),
    st.sampled_from([BTC, ETH, PEPE]),
    _sizes,
    st.decimals("0.0001", 90_000, places=6),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
_intents = st.builds(
    lambda make, quantity, side, symbol, price: make(quantity, side, symbol=symbol, reference_price=price),
    st.sampled_from([entry, exit_order]),
    st.decimals("0.00001", 2, places=8),
    st.sampled_from(Side),
    st.sampled_from([BTC, ETH]),
    st.decimals("0.01", 90_000, places=3),
)
_held = st.fixed_dictionaries({}, optional={BTC: _sizes.map(str), ETH: _sizes.map(str)})


@given(st.lists(_reservations, max_size=12), _intents, _held, st.sampled_from([None, BTC, ETH, PEPE]))
def test_commitments_equal_a_sum_over_all_open_orders(
    reservations: list[Reservation], intent: OrderIntent, held: dict[str, str], unmarked: str | None
) -> None:
    """Worst position, notional, margin and certain trades are the same from commitments as from every open order."""
    state = snapshot(held)
    state = replace(state, marks={symbol: mark for symbol, mark in state.marks.items() if symbol != unmarked})
    sums = commitments_of(*reservations)
    before = sums.get(intent.symbol, UNCOMMITTED)
    this = Reservation(
        client_order_id="",
        webhook_id="",
        symbol=intent.symbol,
        quantity=intent.signed_quantity,
        notional=intent.notional,
        is_entry=not intent.reduce_only,
        is_resting=False,
    )
    for symbol in sums:
        own = [one for one in reservations if one.symbol == symbol]
        assert exposure.range_of(state.position_quantity(symbol), sums[symbol].open) == _range(symbol, state, own)
        assert exposure.price_of(symbol, state, sums[symbol]) == _price(symbol, state, own)
        assert sums[symbol].sure == sum(one.quantity for one in own if not one.is_resting)
    usage = Usage(now=NOW, commitments=sums)
    total = AccountExposure().total(state, usage)
    assert total.notional == _gross_notional(state, reservations)
    open_symbols = {
        *(symbol for symbol, quantity in held.items() if D(quantity)),
        *(one.symbol for one in reservations if one.is_entry),
    }
    assert total.open_symbols == len(open_symbols)
    assert {symbol for symbol in (BTC, ETH, PEPE) if exposure.is_open(symbol, state, usage.commitment(symbol))} == (
        open_symbols
    )
    others = AccountExposure().total(state, usage, excluding=intent.symbol)
    assert others.margin_promised == _margin_promised(intent.symbol, state, reservations)
    position = state.position_quantity(intent.symbol)
    largest = exposure.largest_position(position, exposure.committed(before, intent).open)
    assert exposure.margin_needed(intent, state, before, largest) == _margin_needed(intent, state, reservations, this)
    after = with_order(usage, intent)
    assert AccountExposure().total(state, after).notional == _gross_notional(state, [*reservations, this])
    assert exposure.range_of(position, after.commitment(intent.symbol).open) == _range(
        intent.symbol, state, [*reservations, this]
    )


# ------------------------------------------------------------------------------ reference: computed from every open order


def _range(symbol: str, state: AccountSnapshot, reservations: Sequence[Reservation]) -> exposure.PositionRange:
    position = state.position_quantity(symbol)
    own = [one for one in reservations if one.symbol == symbol]
    buys = sum((one.quantity for one in own if one.is_entry and one.quantity > 0), D(0))
    sells = sum((-one.quantity for one in own if one.is_entry and one.quantity <= 0), D(0))
    exit_buys = sum((one.quantity for one in own if not one.is_entry and one.quantity > 0), D(0))
    exit_sells = sum((-one.quantity for one in own if not one.is_entry and one.quantity <= 0), D(0))
    from_below = position if position >= 0 else min(D(0), position + exit_buys)
    from_above = position if position <= 0 else max(D(0), position - exit_sells)
    return exposure.PositionRange(long=max(D(0), from_below + buys), short=max(D(0), sells - from_above))


def _price(symbol: str, state: AccountSnapshot, reservations: Sequence[Reservation]) -> Decimal:
    mark = state.mark_price(symbol)
    if mark is not None:
        return mark
    position = state.positions.get(symbol)
    if position is not None:
        return position.mark_price or position.average_open_price
    prices = (abs(one.notional / one.quantity) for one in reservations if one.symbol == symbol and one.quantity != 0)
    return max(prices, default=D(0))


def _gross_notional(state: AccountSnapshot, reservations: Sequence[Reservation]) -> Decimal:
    symbols = {symbol for symbol, position in state.positions.items() if position.quantity != 0}
    symbols |= {one.symbol for one in reservations if one.is_entry}
    worths = (_range(symbol, state, reservations).largest * _price(symbol, state, reservations) for symbol in symbols)
    return sum(worths, D(0))


def _margin_promised(excluded: str, state: AccountSnapshot, reservations: Sequence[Reservation]) -> Decimal:
    total = D(0)
    for symbol in {one.symbol for one in reservations if one.is_entry and not one.is_margined} - {excluded}:
        price, leverage = _price(symbol, state, reservations), exposure.leverage_in_force(symbol, state)
        margined = [one for one in reservations if one.is_margined]
        after = exposure.margin_of(symbol, _range(symbol, state, reservations).largest, leverage, price, state)
        known = exposure.margin_of(symbol, _range(symbol, state, margined).largest, leverage, price, state)
        total += max(D(0), after - known)
    return total


def _margin_needed(
    intent: OrderIntent, state: AccountSnapshot, reservations: Sequence[Reservation], this: Reservation
) -> Decimal:
    symbol = intent.symbol
    mark, leverage = _price(symbol, state, reservations), exposure.leverage_in_force(symbol, state)
    after = _range(symbol, state, [*reservations, this]).largest
    known = _range(symbol, state, [one for one in reservations if one.is_margined]).largest
    reserved = exposure.margin_of(symbol, known, leverage, mark, state)
    margin = exposure.margin_of(symbol, after, intent.leverage or leverage, max(intent.reference_price, mark), state)
    return margin - reserved + intent.notional * state.taker_fee_rate


# ----------------------------------------------------------------------------------------------------------- executions


@given(
    st.sampled_from(Side),
    st.integers(1, 3),
    st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=6),
)
def test_went_flat_is_derived_from_the_fills(side: Side, entered: int, fills: list[tuple[bool, int]]) -> None:
    """True if the position was flat or reversed at some point since the entry."""
    executions, open_now, was_flat = [], entered, False
    for number, (is_more, size) in enumerate(fills):
        executions.append(_fill(number, side if is_more else side.opposite, size))
        open_now += size if is_more else -size
        was_flat = was_flat or open_now <= 0
    assume(open_now > 0)
    assert went_flat(side, D(open_now), executions) is was_flat


def test_a_fill_that_the_position_does_not_show_yet_is_no_proof() -> None:
    """The account shows only the entry: subtracting the new fill must not look as if the entry had been closed."""
    assert not went_flat(Side.BUY, D(1), [_fill(1, Side.BUY, 1)])


def _fill(number: int, side: Side, size: int) -> Fill:
    moment = datetime(2026, 1, 15, 10, 30, number, tzinfo=UTC)
    return Fill(
        trade_id=str(number), order_id="1", client_order_id=None, symbol=BTC, side=side, price=D(65000), quantity=D(size),
        fee=D(0), realized_pnl=None, is_maker=False, executed_at=moment,
    )  # fmt: skip


@given(
    side=st.sampled_from(Side),
    start=st.integers(-3, 3),
    fills=st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=6),
    first=st.integers(0, 6),
)
def test_was_left_is_derived_from_the_fills(side: Side, start: int, fills: list[tuple[bool, int]], first: int) -> None:
    """A position counts once it is open on its side, from the given fill on."""
    path = [start]
    for is_own, quantity in fills:
        path.append(path[-1] + (quantity if is_own else -quantity))
    executions = [
        _fill(number, side if is_own else side.opposite, quantity) for number, (is_own, quantity) in enumerate(fills)
    ]
    looked_at = path[min(first, len(fills)) :]
    opened = next((index for index, held in enumerate(looked_at) if held > 0), None)
    expected = opened is not None and any(held <= 0 for held in looked_at[opened:])
    assert was_left(side, D(path[-1]), executions, first=first) is expected
