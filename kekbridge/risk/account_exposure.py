"""Running sums of the account's worst-case exposure over all symbols, so that a decision does not add every market up again.

Pure: the sums are those of the snapshot and the usage of the call, whatever was asked before. One instance per account, kept beside its
commitments and used by one thread; a new instance computes from scratch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Context, Decimal
from typing import Final

from msgspec import Struct

from kekbridge.model import UNCOMMITTED, ZERO, AccountSnapshot, Commitment, Usage
from kekbridge.risk import exposure

# What a symbol adds is rounded to Python's default of 28 digits; its sums are never rounded, so that adding and subtracting in any order
# gives the same total as a sum from scratch, to the last digit. This many digits hold any two numbers, however different in size.
_SUMS: Final = Context(prec=3_000_000)


class Exposure(Struct, frozen=True):
    """What some symbols add up to in the worst case."""

    #: Symbols with a position, isolated ones included, or an open entry.
    open_symbols: int = 0
    #: Notional of positions and open orders in USDC.
    notional: Decimal = ZERO
    #: Margin in USDC for open entries that the exchange has not reserved yet.
    margin_promised: Decimal = ZERO

    def exchange(self, old: Exposure, new: Exposure) -> Exposure:
        """The exact sum with `new` in place of `old`."""
        return Exposure(
            self.open_symbols - old.open_symbols + new.open_symbols,
            _SUMS.add(_SUMS.subtract(self.notional, old.notional), new.notional),
            _SUMS.add(_SUMS.subtract(self.margin_promised, old.margin_promised), new.margin_promised),
        )


_NOTHING: Final = Exposure()


class AccountExposure:
    """Sums over all symbols. A call computes only the symbols whose position, mark, trading rules, leverage or commitment was replaced
    since the call before.

    These are compared by identity: a snapshot and its mappings must never change in place. `Usage.commitments` may, as its values are
    immutable.
    """

    def __init__(self) -> None:
        self._snapshot: AccountSnapshot | None = None
        self._commitments: dict[str, Commitment] = {}
        self._by_symbol: dict[str, Exposure] = {}
        self._total = _NOTHING  # the sum of `_by_symbol`
        self._outdated: set[str] = set()  # symbols of which `_by_symbol` is not up to date
        self._pnl_by_symbol: dict[str, Decimal] = {}
        self._pnl = ZERO  # the sum of `_pnl_by_symbol`
        self._pnl_of: dict[tuple[str, ...], Decimal] = {}  # its sums by allowed symbols
        self._outdated_pnl: set[str] = set()  # symbols of which `_pnl_by_symbol` is not up to date

    def total(self, snapshot: AccountSnapshot, usage: Usage, *, excluding: str | None = None) -> Exposure:
        """The exposure of all symbols, or of all but one."""
        self._take_over(snapshot, usage.commitments)
        for symbol in [symbol for symbol in self._outdated if symbol != excluding]:
            new = _exposure_of(symbol, snapshot, self._commitments.get(symbol, UNCOMMITTED))
            self._total = self._total.exchange(self._by_symbol.get(symbol, _NOTHING), new)
            self._by_symbol[symbol] = new
            self._outdated.remove(symbol)
        total = self._total
        if excluding is not None:
            total = total.exchange(self._by_symbol.get(excluding, _NOTHING), _NOTHING)
        for symbol, own in usage.changed_commitments.items():
            if symbol != excluding:
                new = _exposure_of(symbol, snapshot, own)
                total = total.exchange(self._by_symbol.get(symbol, _NOTHING), new)
        return total

    def unrealized_pnl(self, snapshot: AccountSnapshot, usage: Usage, names: tuple[str, ...] | None = None) -> Decimal:
        """Unrealized P&L in USDC at the mark, of the symbols in `names` only if given. Positions without a known mark count as zero."""
        self._take_over(snapshot, usage.commitments)
        for symbol in [*self._outdated_pnl]:
            pnl = exposure.unrealized_pnl(symbol, snapshot)
            self._pnl = _SUMS.add(_SUMS.subtract(self._pnl, self._pnl_by_symbol.get(symbol, ZERO)), pnl)
            self._pnl_by_symbol[symbol] = pnl
            self._pnl_of.clear()
            self._outdated_pnl.remove(symbol)
        if names is None:
            return self._pnl
        if names not in self._pnl_of:
            total = ZERO
            for symbol, pnl in self._pnl_by_symbol.items():
                if exposure.names_symbol(names, symbol):
                    total = _SUMS.add(total, pnl)
            self._pnl_of[names] = total
        return self._pnl_of[names]

    # ----------------------------------------------------------------------------------------------------------- private

    def _take_over(self, snapshot: AccountSnapshot, commitments: Mapping[str, Commitment]) -> None:
        """Take over the snapshot and the commitments; what differs from those before is outdated in the sums."""
        known = self._commitments
        # Membership and index instead of `get`: every market is compared for every order, and this needs no call.
        replaced = [symbol for symbol, own in commitments.items() if symbol not in known or known[symbol] is not own]
        for symbol in replaced:
            known[symbol] = commitments[symbol]
        self._outdated.update(replaced)
        if len(known) != len(commitments):
            for symbol in known.keys() - commitments.keys():
                del known[symbol]
                self._outdated.add(symbol)
        if snapshot is not self._snapshot:
            moved = _moved_symbols(self._snapshot, snapshot, known)
            self._snapshot = snapshot
            self._outdated |= moved
            self._outdated_pnl |= moved


def _exposure_of(symbol: str, snapshot: AccountSnapshot, own: Commitment) -> Exposure:
    position, price = snapshot.position_quantity(symbol), exposure.price_of(symbol, snapshot, own)
    largest = exposure.largest_position(position, own.open)
    notional, promised = largest * price, ZERO
    if snapshot.other_positions:
        notional += exposure.isolated_notional(symbol, snapshot)
    instrument = snapshot.instruments.get(symbol) if own.has_new_entry else None
    if instrument is not None:
        promised = exposure.margin_promised(
            instrument,
            exposure.leverage_in_force(symbol, snapshot),
            price,
            largest=largest,
            margined=exposure.largest_position(position, own.margined),
        )
    return Exposure(1 if exposure.is_open(symbol, snapshot, own) else 0, notional, promised)


def _moved_symbols(before: AccountSnapshot | None, after: AccountSnapshot, committed: Iterable[str]) -> set[str]:
    """Symbols with a position or with a commitment of which `after` has other data than `before`."""
    symbols = {*committed, *after.positions, *(position.symbol for position in after.other_positions)}
    if before is None:
        return symbols
    symbols.update(before.positions, (position.symbol for position in before.other_positions))
    if before.max_leverage != after.max_leverage:
        return symbols
    moved: set[str] = set()
    if before.other_positions != after.other_positions:
        moved.update([position.symbol for position in before.other_positions + after.other_positions])
    pairs: tuple[tuple[Mapping[str, object], Mapping[str, object]], ...] = (
        (before.positions, after.positions),
        (before.marks, after.marks),
        (before.instruments, after.instruments),
        (before.leverage, after.leverage),
    )
    for old, new in pairs:
        if old is not new:
            moved.update([symbol for symbol in symbols if old.get(symbol) is not new.get(symbol)])
    return moved
