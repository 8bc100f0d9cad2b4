"""Running sums of the account's exposure: always those of a computation from scratch, whatever changed in between."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.model import UNCOMMITTED, AccountSnapshot, Commitment, MarginMode, Mark, Position, Usage
from kekbridge.risk.account_exposure import AccountExposure
from tests.trading import BTC, ETH, NOW, PEPE, D, commitments_of, instrument, reservation, snapshot

SYMBOLS = (BTC, ETH, PEPE, "PERP_SOL_USDC")
# Many digits and sizes far apart: a sum that is rounded anywhere would show.
sizes = st.decimals(-3, 3, places=9) | st.sampled_from([D(0), D("1e-60"), D("1e60")])
prices = st.decimals("0.0001", 90_000, places=7) | st.sampled_from([D("1e-40"), D("1e40")])
symbols = st.sampled_from(SYMBOLS)
commitments = st.just(UNCOMMITTED) | st.builds(
    lambda quantity, price, is_entry, is_margined: commitments_of(
        reservation(str(quantity), notional=abs(quantity) * price, is_entry=is_entry, is_margined=is_margined)
    )[BTC],
    sizes,
    prices,
    st.booleans(),
    st.booleans(),
)
positions = st.builds(
    lambda symbol, quantity, opened_at, mark: Position(symbol, quantity, opened_at, mark_price=mark),
    symbols,
    sizes,
    prices,
    st.none() | prices,
)
changes = st.one_of(
    st.tuples(st.just("commit"), symbols, commitments),
    st.tuples(st.just("uncommit"), symbols, st.none()),
    st.tuples(st.just("position"), symbols, st.none() | positions),
    st.tuples(st.just("mark"), symbols, st.none() | prices),
    st.tuples(st.just("leverage"), symbols, st.none() | st.decimals(1, 50, places=1)),
    st.tuples(st.just("rules"), symbols, st.sampled_from([D("0.01"), D("0.1"), D("0.3")])),
    st.tuples(st.just("max_leverage"), symbols, st.none() | st.just(D(5))),
    st.tuples(st.just("isolated"), symbols, st.lists(positions, max_size=3)),
    st.tuples(st.just("same data"), symbols, st.none()),
)


def with_change(state: AccountSnapshot, kind: str, symbol: str, value: object) -> AccountSnapshot:
    """The snapshot after a change of one symbol's data; None removes it."""

    def changed(mapping: object, new: object) -> dict[str, object]:
        entries = {key: one for key, one in dict(mapping).items() if key != symbol}  # type: ignore[call-overload]
        return entries if value is None else {**entries, symbol: new}

    match kind:
        case "position":
            held = replace(value, symbol=symbol) if isinstance(value, Position) else None
            return replace(state, positions=changed(state.positions, held))
        case "mark":
            return replace(state, marks=changed(state.marks, Mark(value, NOW) if isinstance(value, Decimal) else None))
        case "leverage":
            return replace(state, leverage=changed(state.leverage, value))
        case "rules":
            return replace(state, instruments=changed(state.instruments, instrument(symbol, base_imr=value)))
        case "max_leverage":
            return replace(state, max_leverage=value)
        case "isolated":
            assert isinstance(value, list)
            isolated = tuple(replace(one, margin_mode=MarginMode.ISOLATED) for one in value)
            return replace(state, other_positions=isolated)
        case _:
            return replace(state)


@given(
    st.lists(st.tuples(changes, st.booleans(), st.none() | symbols), min_size=1, max_size=25),
    st.dictionaries(symbols, commitments, max_size=2),
    st.sampled_from([("BTC",), (ETH, "SOL"), ()]),
)
def test_running_sums_equal_sums_from_scratch(
    steps: list[tuple[tuple[str, str, object], bool, str | None]],
    overlay: dict[str, Commitment],
    names: tuple[str, ...],
) -> None:
    """Positions, marks, rules, leverage and orders change in any order, and the sums are read in between or not: they equal those of a
    new instance to the last digit. Commitments change in place, as their owner changes them.
    """
    running, state = AccountExposure(), snapshot({BTC: "0.5", ETH: "-2"})
    held = {BTC: commitments_of(reservation("0.2"))[BTC]}
    for (kind, symbol, value), is_read, excluded in steps:
        if kind == "commit":
            assert isinstance(value, Commitment)
            held[symbol] = value
        elif kind == "uncommit":
            held.pop(symbol, None)
        else:
            state = with_change(state, kind, symbol, value)
        if not is_read:
            continue
        for usage in (
            Usage(now=NOW, commitments=held),
            Usage(now=NOW, commitments=held, changed_commitments=overlay),
        ):
            assert running.total(state, usage, excluding=excluded) == (
                AccountExposure().total(state, usage, excluding=excluded)
            )
            assert running.unrealized_pnl(state, usage, names) == AccountExposure().unrealized_pnl(state, usage, names)
            assert running.unrealized_pnl(state, usage) == AccountExposure().unrealized_pnl(state, usage)


ISOLATED = Position(PEPE, D(1000), D("0.01"), MarginMode.ISOLATED)


@pytest.mark.parametrize(
    ("kind", "symbol", "value"),
    [
        ("commit", BTC, commitments_of(reservation("0.7"))[BTC]),
        ("uncommit", BTC, None),
        ("position", BTC, Position(BTC, D("0.6"), D(65_000))),
        ("position", BTC, None),
        ("position", ETH, None),
        ("mark", BTC, D(65_001)),
        ("mark", BTC, None),
        ("leverage", BTC, D(9)),
        ("leverage", BTC, None),
        ("rules", BTC, D("0.3")),
        ("max_leverage", BTC, D(4)),
        ("isolated", BTC, [ISOLATED, replace(ISOLATED, symbol=BTC)]),
        ("isolated", BTC, []),
    ],
)
def test_each_change_of_a_symbol_is_noticed(kind: str, symbol: str, value: object) -> None:
    """A single change between two decisions changes the sums, to those of a new instance."""
    cross = {BTC: Position(BTC, D("0.5"), D(64_000), mark_price=D(64_500)), ETH: Position(ETH, D(-2), D(1700))}
    state = snapshot(other_positions=(ISOLATED,), leverage={BTC: D(8)})
    state = replace(state, positions=cross)
    held = commitments_of(reservation("0.2"), reservation("5000", PEPE))
    running = AccountExposure()

    def read(sums: AccountExposure) -> tuple[object, ...]:
        usage = Usage(now=NOW, commitments=held)
        return sums.total(state, usage), sums.unrealized_pnl(state, usage), sums.unrealized_pnl(state, usage, ("BTC",))

    before = read(running)
    if kind == "commit":
        assert isinstance(value, Commitment)
        held[symbol] = value
    elif kind == "uncommit":
        del held[symbol]
    else:
        state = with_change(state, kind, symbol, value)
    assert read(running) == read(AccountExposure())
    assert read(running) != before


@given(st.dictionaries(symbols, commitments), st.dictionaries(symbols, commitments), symbols)
def test_changed_commitments_replace_those_of_their_symbols(
    held: dict[str, Commitment], changed: dict[str, Commitment], excluded: str
) -> None:
    """An overlay gives the sums of a copy of all commitments with the changed ones in it."""
    state = snapshot({BTC: "0.5", ETH: "-2"})
    overlaid = Usage(now=NOW, commitments=held, changed_commitments=changed)
    copied = Usage(now=NOW, commitments={**held, **changed})
    for symbol in SYMBOLS:
        assert overlaid.commitment(symbol) == copied.commitment(symbol)
        assert overlaid.pending(symbol) == copied.pending(symbol)
    for excluding in (None, excluded):
        assert AccountExposure().total(state, overlaid, excluding=excluding) == (
            AccountExposure().total(state, copied, excluding=excluding)
        )


@given(st.lists(positions, max_size=4, unique_by=lambda one: one.symbol), st.lists(positions, max_size=3))
def test_unrealized_pnl_is_summed_exactly(cross: list[Position], isolated: list[Position]) -> None:
    """Quantity times the distance of the mark from the average price, cross and isolated; positions without a mark count as zero."""
    state = snapshot(marks={BTC: D(65_000)})
    state = replace(state, positions={one.symbol: one for one in cross}, other_positions=tuple(isolated))
    by_symbol: dict[str, Decimal] = {}
    for one in (*cross, *isolated):
        price = D(65_000) if one.symbol == BTC else one.mark_price
        if price is not None:
            pnl = one.quantity * (price - one.average_open_price)
            by_symbol[one.symbol] = by_symbol.get(one.symbol, D(0)) + pnl
    found = AccountExposure().unrealized_pnl(state, Usage(now=NOW))
    assert Fraction(found) == sum(map(Fraction, by_symbol.values()))


def test_a_symbol_is_counted_once_however_it_is_open() -> None:
    """A cross position, an isolated one and an open entry of one market are one open symbol."""
    both = (Position(BTC, D(1), D(65_000), MarginMode.ISOLATED), Position(ETH, D(1), D(1800), MarginMode.ISOLATED))
    state = snapshot({BTC: "0.5"}, other_positions=both)
    usage = Usage(now=NOW, commitments=commitments_of(reservation("0.1")))
    assert AccountExposure().total(state, usage).open_symbols == 2
    assert AccountExposure().total(state, usage, excluding=BTC).open_symbols == 1
