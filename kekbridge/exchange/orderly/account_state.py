"""Account state: merge REST replies, stream messages and own fills into one immutable AccountSnapshot.

Keeps them in order of time: nothing old may overwrite anything newer. No I/O; its callers pass in what they received.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from msgspec.structs import replace

from kekbridge.exchange.orderly import parsing
from kekbridge.exchange.orderly.parsing import PositionRow
from kekbridge.model import ZERO, AccountSnapshot, Fill, Instrument, MarginMode, Mark, Position

Key = tuple[str, MarginMode]

# How long the exchange's own reads may lag behind an execution (docs/internals/reliability.md section 6 counts up to 3 s). A list of
# positions made later than this after our last fill is believed, also if it lacks the position.
READ_LAG_MS: Final = 5_000
# More than the exchange executes for one account between two reads of the totals, which include the older ones.
_MAX_FILL_IDS: Final = 2_000
DELISTED: Final = "DELISTED"
_BASIS_POINT: Final = Decimal("0.0001")
_IMR_EXPONENT: Final = Decimal("0.8")
_ONE: Final = Decimal(1)


@dataclass(slots=True)
class _Held:
    """A position and how recent it is."""

    position: Position
    #: Sequence number of the last report; None if it had none.
    seq: int | None = None
    #: Time of the last change that a report contained, ms of the exchange's clock.
    changed_ms: int = 0
    #: Time of the newest own fill that is included, ms of the exchange's clock.
    filled_ms: int = 0
    #: `position` and its copy at the last mark price.
    _marked: tuple[Position, Position] | None = None

    def at_mark(self, mark: Mark | None) -> Position:
        """The position at this mark price; the same object until either changes."""
        if mark is None:
            return self.position
        marked = self._marked
        if marked is None or marked[0] is not self.position or marked[1].mark_price != mark.price:
            marked = self._marked = self.position, replace(self.position, mark_price=mark.price)
        return marked[1]


class AccountState:
    """Mutable state behind `snapshot`. `clock` is the local time as aware UTC; times of the exchange are Unix ms."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._instruments: Mapping[str, Instrument] = MappingProxyType({})
        self._missing_instruments: frozenset[str] = frozenset()  # not in the last list
        # Replaced, never changed: snapshots share these mappings, and who compares snapshots sees which of them differ.
        self._marks: Mapping[str, Mark] = MappingProxyType({})
        self._positions: dict[Key, _Held] = {}
        self._leverage: Mapping[str, Decimal] = MappingProxyType({})
        self._max_leverage: Decimal | None = None
        self._taker_fee_rate = ZERO
        self._rwa_symbols: frozenset[str] = frozenset()
        self._rwa_taker_fee_rate: Decimal | None = None
        self._account_value = ZERO
        self._free_collateral = ZERO
        self._confirmed_at: datetime | None = None
        self._totals_ms = 0
        self._fill_ids: OrderedDict[str, None] = OrderedDict()
        self._snapshot: AccountSnapshot | None = None

    # ----------------------------------------------------------------------------------------------------------- out

    @property
    def snapshot(self) -> AccountSnapshot | None:
        """The account now; None until positions and trading rules were read once. The same object until something changes."""
        if self._confirmed_at is None or not self._instruments:
            return None
        if self._snapshot is None:
            self._snapshot = self._build(self._confirmed_at)
        elif self._snapshot.taken_at != self._confirmed_at:
            self._snapshot = replace(self._snapshot, taken_at=self._confirmed_at)
        return self._snapshot

    @property
    def confirmed_at(self) -> datetime | None:
        """When the exchange last confirmed this state (UTC, local clock)."""
        return self._confirmed_at

    def leverage_of(self, symbol: str) -> Decimal | None:
        return self._leverage.get(symbol)

    # ------------------------------------------------------------------------------------------------------------ in

    def mark_alive(self) -> None:
        """Confirm the state: a frame of a fully subscribed stream reported no change."""
        self._confirmed_at = self._clock()

    def apply_instruments(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Replace the trading rules; return how many symbols have some. Rows that are unreadable or owned by a broker are left out.

        A market that is listed no more, in two reads in a row, keeps its last rules with the status DELISTED: what is held in it can still
        be named and sized.
        """
        instruments: dict[str, Instrument] = {}
        for row in rows:
            if row.get("broker_id"):
                continue  # community markets: isolated margin only, listed by a broker (docs/internals/orderly.md section 13)
            try:
                instrument = parsing.instrument(row)
            except parsing.ParseError:
                continue
            instruments[instrument.symbol] = instrument
        if instruments:
            missing = self._instruments.keys() - instruments.keys()
            gone = {
                symbol: replace(known, status=DELISTED) if symbol in self._missing_instruments else known
                for symbol, known in self._instruments.items()
                if symbol in missing
            }
            self._missing_instruments = frozenset(missing)
            self._instruments = MappingProxyType(instruments | gone)
            self._snapshot = None
        return len(instruments)

    @property
    def instruments(self) -> Mapping[str, Instrument]:
        """Trading rules and status of each market, by symbol. Immutable."""
        return self._instruments

    def apply_marks(self, prices: Mapping[str, Decimal], at: datetime) -> None:
        """Set mark prices observed at a time (local clock); an older observation does not replace a newer one."""
        marks = dict(self._marks)
        for symbol, price in prices.items():
            known = marks.get(symbol)
            if price > 0 and (known is None or known.at <= at):
                marks[symbol] = Mark(price, at)
        self._marks = MappingProxyType(marks)
        self._snapshot = None

    def apply_info(self, data: Mapping[str, Any]) -> None:
        """Set fee rate and maximum leverage from `GET /v1/client/info`, where fee rates are basis points (section 9)."""
        rate = parsing.decimal_or_none(data.get("futures_taker_fee_rate"))
        if rate is None:
            rate = parsing.decimal_or_none(data.get("taker_fee_rate"))
        self._taker_fee_rate = ZERO if rate is None else rate * _BASIS_POINT
        rwa_rate = parsing.decimal_or_none(data.get("rwa_taker_fee_rate"))
        self._rwa_taker_fee_rate = None if rwa_rate is None else rwa_rate * _BASIS_POINT
        self._max_leverage = parsing.decimal_or_none(data.get("max_leverage"))
        self._snapshot = None

    def apply_rwa_symbols(self, symbols: frozenset[str]) -> None:
        """Set which markets are of real-world assets: they have a fee rate of their own."""
        self._rwa_symbols = symbols
        self._snapshot = None

    def apply_leverage(self, symbol: str, leverage: Decimal) -> None:
        if self._leverage.get(symbol) != leverage:
            self._leverage = MappingProxyType({**self._leverage, symbol: leverage})
            self._snapshot = None

    def apply_account(self, data: Mapping[str, Any], *, answered_ms: int) -> None:
        """Set the whole account from `GET /v1/positions`, written by the exchange at `answered_ms` (its clock).

        A row that is older than our newest fill of that symbol is ignored, and so is a missing row; a later reply will have them right.
        """
        rows = [row for row in data.get("rows") or () if isinstance(row, Mapping)]
        seen: set[Key] = set()
        for raw in rows:
            try:
                row = parsing.position_row(raw)
            except parsing.ParseError:
                continue
            key = (row.position.symbol, row.position.margin_mode)
            seen.add(key)
            self._apply_position(key, row, is_settled=self._is_settled(key, answered_ms))
        for key, held in self._positions.items():
            if key not in seen and held.position.quantity and self._is_settled(key, answered_ms):
                held.position = replace(held.position, quantity=ZERO, unsettled_pnl=ZERO, cost_position=ZERO)
        if answered_ms >= self._totals_ms:
            self._totals_ms = answered_ms
            value = parsing.decimal_or_none(data.get("account_value"))
            if value is None:
                value = parsing.decimal_or_none(data.get("total_collateral_value"))
            self._account_value = ZERO if value is None else value
            self._free_collateral = parsing.decimal_or_none(data.get("free_collateral")) or ZERO
        self._confirmed_at = self._clock()
        self._snapshot = None

    def apply_positions(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Set positions from the stream (after `snake_keys`); return whether a quantity changed."""
        has_changed = False
        for raw in rows:
            try:
                row = parsing.position_row(raw)
            except parsing.ParseError:
                continue
            has_changed |= self._apply_position((row.position.symbol, row.position.margin_mode), row, is_settled=False)
        self._confirmed_at = self._clock()
        return has_changed

    def is_opened_by(self, fill: Fill) -> bool:
        """True if an execution not yet applied opens or enlarges the position, and no report at least as new has included it."""
        held = self._positions.get((fill.symbol, fill.margin_mode))
        if fill.trade_id in self._fill_ids:
            return False
        if held is None:
            return True
        is_reported = self._is_reported(held, parsing.milliseconds(fill.executed_at))
        return not is_reported and held.position.quantity * fill.side.sign >= 0

    def apply_fill(self, fill: Fill) -> bool:
        """Apply an own execution ahead of the exchange's next position report; return whether the position changed.

        Applied once per trade id, and not if a report at least as new has already included it.
        """
        if fill.trade_id in self._fill_ids:
            return False
        self._fill_ids[fill.trade_id] = None
        if len(self._fill_ids) > _MAX_FILL_IDS:
            self._fill_ids.popitem(last=False)
        at = parsing.milliseconds(fill.executed_at)
        key = (fill.symbol, fill.margin_mode)
        held = self._positions.setdefault(key, _Held(Position(fill.symbol, ZERO, ZERO, fill.margin_mode)))
        if self._is_reported(held, at):
            return False
        before = held.position
        held.position = position_after(before, fill)
        held.filled_ms = max(held.filled_ms, at)
        self._free_collateral -= fill.fee + self._margin_of_growth(before, held.position, fill.price)
        self._confirmed_at = self._clock()
        self._snapshot = None
        return True

    # ------------------------------------------------------------------------------------------------------- private

    def _is_reported(self, held: _Held, at_ms: int) -> bool:
        """True if the last report of the position includes an execution of that time."""
        return held.changed_ms >= at_ms or at_ms + READ_LAG_MS < self._totals_ms

    def _apply_position(self, key: Key, row: PositionRow, *, is_settled: bool) -> bool:
        held = self._positions.setdefault(key, _Held(Position(key[0], ZERO, ZERO, key[1])))
        if not is_settled and _is_older(row, held):
            return False
        has_changed = held.position.quantity != row.position.quantity
        position = row.position
        if position.leverage is not None and position.margin_mode is MarginMode.CROSS:
            self.apply_leverage(position.symbol, position.leverage)
        held.position = position
        held.seq = row.seq if row.seq is not None else held.seq
        held.changed_ms = max(held.changed_ms, row.changed_ms)
        if is_settled:
            held.seq, held.changed_ms = row.seq, row.changed_ms
        self._snapshot = None
        return has_changed

    def _is_settled(self, key: Key, answered_ms: int) -> bool:
        """True if a reply written at that time must include everything known of this position."""
        held = self._positions.get(key)
        return held is None or answered_ms > max(held.filled_ms, held.changed_ms) + READ_LAG_MS

    def _margin_of_growth(self, before: Position, after: Position, price: Decimal) -> Decimal:
        """Initial margin that a fill uses (section 10), until the exchange reports the free collateral itself.

        What a reducing fill frees is not added: too little denies an order, too much could lose money.
        """
        growth = abs(after.quantity) - abs(before.quantity)
        if growth <= 0:
            return ZERO
        leverage = self._leverage.get(after.symbol) if after.margin_mode is MarginMode.CROSS else after.leverage
        ratio = 1 / leverage if leverage else ZERO
        rules = self._instruments.get(after.symbol)
        if rules is not None:
            notional = abs(after.quantity) * price
            ratio = max(ratio, rules.base_imr)
            # The power is slow and matters for big positions only: it is never larger than the notional itself, or 1.
            if rules.imr_factor * max(notional, _ONE) > ratio:
                ratio = max(ratio, rules.imr_factor * notional**_IMR_EXPONENT)
        return growth * price * ratio

    def _build(self, confirmed_at: datetime) -> AccountSnapshot:
        cross: dict[str, Position] = {}
        others: list[Position] = []
        for (symbol, mode), held in self._positions.items():
            if not held.position.quantity:
                continue  # rows of quantity zero remain while there is unsettled PnL (section 9)
            position = held.at_mark(self._marks.get(symbol))
            if mode is MarginMode.CROSS:
                cross[symbol] = position
            else:
                others.append(position)
        return AccountSnapshot(
            taken_at=confirmed_at,
            instruments=self._instruments,
            marks=self._marks,
            positions=MappingProxyType(cross),
            account_value=self._account_value,
            free_collateral=self._free_collateral,
            leverage=self._leverage,
            max_leverage=self._max_leverage,
            taker_fee_rate=self._taker_fee_rate,
            own_taker_fee_rates=MappingProxyType(
                {} if self._rwa_taker_fee_rate is None else dict.fromkeys(self._rwa_symbols, self._rwa_taker_fee_rate)
            ),
            other_positions=tuple(others),
        )


def position_after(position: Position, fill: Fill) -> Position:
    """The position after one execution, by the exchange's arithmetic (docs/internals/orderly.md section 10), without funding."""
    change = fill.quantity * fill.side.sign
    after = position.quantity + change
    if after == 0:
        average = ZERO
    elif position.quantity == 0 or (position.quantity > 0) != (after > 0):
        average = fill.price  # opened, or flipped through zero
    elif abs(after) > abs(position.quantity):
        average = (position.average_open_price * abs(position.quantity) + fill.price * fill.quantity) / abs(after)
    else:
        average = position.average_open_price
    return replace(
        position,
        quantity=after,
        average_open_price=average,
        cost_position=position.cost_position + change * fill.price + fill.fee,
        updated_at=fill.executed_at,
    )


def _is_older(row: PositionRow, held: _Held) -> bool:
    if row.changed_ms < held.filled_ms:
        return True  # older than our newest fill: it would undo it
    if row.seq is not None and held.seq is not None and row.seq != held.seq:
        return row.seq < held.seq
    return row.changed_ms < held.changed_ms
