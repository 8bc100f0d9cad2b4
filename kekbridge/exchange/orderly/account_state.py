"""The bridge's picture of the account: REST answers, stream messages and own fills in, one immutable AccountSnapshot out.

Its one hard duty is order in time: nothing old may undo something newer. It asks nobody anything; whoever hears the exchange tells it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from kekbridge.exchange.orderly import parsing
from kekbridge.exchange.orderly.parsing import PositionRow
from kekbridge.model import ZERO, AccountSnapshot, Fill, Instrument, MarginMode, Mark, Position

Key = tuple[str, MarginMode]

# How long the exchange's own reads may trail behind an execution
# (docs/internals/reliability.md section 6 counts up to 3 s). A list of positions that
# was made longer than this after our last fill is the truth, also when it lacks the position.
READ_LAG_MS: Final = 5_000
_REMEMBERED_FILLS: Final = (
    2_000  # more than the exchange executes of ours between two reads of the totals, which hold the older ones
)
_BASIS_POINT: Final = Decimal("0.0001")
_IMR_EXPONENT: Final = Decimal("0.8")
_ONE: Final = Decimal(1)


@dataclass(slots=True)
class _Held:
    """A position and how new it is: `seq` and `changed_ms` as reported, `filled_ms` the newest own fill that is in it."""

    position: Position
    seq: int | None = None
    changed_ms: int = 0
    filled_ms: int = 0
    _shown: tuple[Position, Position] | None = None  # made from `position`, with the last mark

    def at_mark(self, mark: Mark | None) -> Position:
        """The position at this mark; the same object until one of the two changes."""
        if mark is None:
            return self.position
        shown = self._shown
        if shown is None or shown[0] is not self.position or shown[1].mark_price != mark.price:
            shown = self._shown = self.position, replace(self.position, mark_price=mark.price)
        return shown[1]


class AccountState:
    """Mutable holder behind `snapshot`. `clock` gives the local time as aware UTC; times of the exchange are ms."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._instruments: Mapping[str, Instrument] = MappingProxyType({})
        self._marks: dict[str, Mark] = {}  # replaced as a whole, as the leverage: a snapshot shows what it was then
        self._held: dict[Key, _Held] = {}
        self._leverage: dict[str, Decimal] = {}
        self._max_leverage: Decimal | None = None
        self._taker_fee_rate = ZERO
        self._account_value = ZERO
        self._free_collateral = ZERO
        self._heard_at: datetime | None = None
        self._totals_ms = 0
        self._fills: OrderedDict[str, None] = OrderedDict()
        self._snapshot: AccountSnapshot | None = None

    # ----------------------------------------------------------------------------------------------------------- out

    @property
    def snapshot(self) -> AccountSnapshot | None:
        """The picture now; None until positions and rules were read once. The same object until something changes."""
        if self._heard_at is None or not self._instruments:
            return None
        if self._snapshot is None:
            self._snapshot = self._build(self._heard_at)
        elif self._snapshot.taken_at != self._heard_at:
            self._snapshot = replace(self._snapshot, taken_at=self._heard_at)
        return self._snapshot

    @property
    def heard_at(self) -> datetime | None:
        """When the exchange was last heard about the account."""
        return self._heard_at

    def leverage_of(self, symbol: str) -> Decimal | None:
        return self._leverage.get(symbol)

    # ------------------------------------------------------------------------------------------------------------ in

    def mark_alive(self) -> None:
        """The exchange was heard and nothing had changed: a stream's ping while all topics are subscribed."""
        self._heard_at = self._clock()

    def apply_instruments(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Replace the trading rules; returns how many symbols are tradable now. Unreadable and builder-owned rows are left out."""
        found: dict[str, Instrument] = {}
        for row in rows:
            if row.get("broker_id"):
                continue  # community markets: isolated margin only, another's listing (docs/internals/orderly.md section 13)
            try:
                instrument = parsing.instrument(row)
            except parsing.ParseError:
                continue
            found[instrument.symbol] = instrument
        if found:
            self._instruments = MappingProxyType(found)
            self._snapshot = None
        return len(found)

    def apply_marks(self, prices: Mapping[str, Decimal], at: datetime) -> None:
        """Mark prices observed at a time; an older observation does not replace a newer one."""
        marks = dict(self._marks)
        for symbol, price in prices.items():
            known = marks.get(symbol)
            if price > 0 and (known is None or known.at <= at):
                marks[symbol] = Mark(price, at)
        self._marks = marks
        self._snapshot = None

    def apply_info(self, data: Mapping[str, Any]) -> None:
        """`GET /v1/client/info`. Fee rates there are basis points (section 9)."""
        rate = parsing.decimal_or_none(data.get("futures_taker_fee_rate"))
        if rate is None:
            rate = parsing.decimal_or_none(data.get("taker_fee_rate"))
        self._taker_fee_rate = ZERO if rate is None else rate * _BASIS_POINT
        self._max_leverage = parsing.decimal_or_none(data.get("max_leverage"))
        self._snapshot = None

    def apply_leverage(self, symbol: str, leverage: Decimal) -> None:
        if self._leverage.get(symbol) != leverage:
            self._leverage = {**self._leverage, symbol: leverage}
            self._snapshot = None

    def apply_account(self, data: Mapping[str, Any], *, answered_ms: int) -> None:
        """`GET /v1/positions`, the whole account, made by the exchange at `answered_ms` (its clock).

        A row or a gap that is older than our newest fill of that symbol is not believed yet; the next answer will be.
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
            self._take(key, row, is_settled=self._is_settled(key, answered_ms))
        for key, held in self._held.items():
            if key not in seen and held.position.quantity and self._is_settled(key, answered_ms):
                held.position = replace(held.position, quantity=ZERO, unsettled_pnl=ZERO, cost_position=ZERO)
        if answered_ms >= self._totals_ms:
            self._totals_ms = answered_ms
            value = parsing.decimal_or_none(data.get("account_value"))
            if value is None:
                value = parsing.decimal_or_none(data.get("total_collateral_value"))
            self._account_value = ZERO if value is None else value
            self._free_collateral = parsing.decimal_or_none(data.get("free_collateral")) or ZERO
        self._heard_at = self._clock()
        self._snapshot = None

    def apply_positions(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Changed positions from the stream (after `snake_keys`); returns whether any was news."""
        is_news = False
        for raw in rows:
            try:
                row = parsing.position_row(raw)
            except parsing.ParseError:
                continue
            is_news |= self._take((row.position.symbol, row.position.margin_mode), row, is_settled=False)
        self._heard_at = self._clock()
        return is_news

    def is_opened_by(self, fill: Fill, margin_mode: MarginMode) -> bool:
        """True when an execution not yet applied opens the position or adds to it, and nothing newer has told the position already."""
        held = self._held.get((fill.symbol, margin_mode))
        if fill.trade_id in self._fills:
            return False
        if held is None:
            return True
        is_told = self._is_told(held, parsing.milliseconds(fill.executed_at))
        return not is_told and held.position.quantity * fill.side.sign >= 0

    def apply_fill(self, fill: Fill, margin_mode: MarginMode = MarginMode.CROSS) -> bool:
        """An own execution, before the exchange's next word on the position; returns whether it changed the picture.

        Applied once per trade id, and not when a report at least as new has already told the position.
        """
        if fill.trade_id in self._fills:
            return False
        self._fills[fill.trade_id] = None
        if len(self._fills) > _REMEMBERED_FILLS:
            self._fills.popitem(last=False)
        at = parsing.milliseconds(fill.executed_at)
        key = (fill.symbol, margin_mode)
        held = self._held.setdefault(key, _Held(Position(fill.symbol, ZERO, ZERO, margin_mode)))
        if self._is_told(held, at):
            return False
        before = held.position
        held.position = filled(before, fill)
        held.filled_ms = max(held.filled_ms, at)
        self._free_collateral -= fill.fee + self._margin_of_growth(before, held.position, fill.price)
        self._heard_at = self._clock()
        self._snapshot = None
        return True

    # ------------------------------------------------------------------------------------------------------- private

    def _is_told(self, held: _Held, at_ms: int) -> bool:
        """True when the exchange has already told the position with an execution of that moment in it."""
        return held.changed_ms >= at_ms or at_ms + READ_LAG_MS < self._totals_ms

    def _take(self, key: Key, row: PositionRow, *, is_settled: bool) -> bool:
        held = self._held.setdefault(key, _Held(Position(key[0], ZERO, ZERO, key[1])))
        if not is_settled and _is_older(row, held):
            return False
        is_news = held.position.quantity != row.position.quantity
        position = row.position
        if position.leverage is not None:
            self.apply_leverage(position.symbol, position.leverage)
        held.position = position
        held.seq = row.seq if row.seq is not None else held.seq
        held.changed_ms = max(held.changed_ms, row.changed_ms)
        if is_settled:
            held.seq, held.changed_ms = row.seq, row.changed_ms
        self._snapshot = None
        return is_news

    def _is_settled(self, key: Key, answered_ms: int) -> bool:
        """Whether an answer made at that time must know of everything we know of this position."""
        held = self._held.get(key)
        return held is None or answered_ms > max(held.filled_ms, held.changed_ms) + READ_LAG_MS

    def _margin_of_growth(self, before: Position, after: Position, price: Decimal) -> Decimal:
        """Initial margin that a fill ties up (section 10), until the exchange says the free collateral itself.

        What a reducing fill sets free is not added: too little room is refused, too much is lost.
        """
        growth = abs(after.quantity) - abs(before.quantity)
        if growth <= 0:
            return ZERO
        leverage = self._leverage.get(after.symbol)
        ratio = 1 / leverage if leverage else ZERO
        rules = self._instruments.get(after.symbol)
        if rules is not None:
            notional = abs(after.quantity) * price
            ratio = max(ratio, rules.base_imr)
            # The power is the dearest sum of a fill and counts for big positions only: it is never over the notional itself, or over 1.
            if rules.imr_factor * max(notional, _ONE) > ratio:
                ratio = max(ratio, rules.imr_factor * notional**_IMR_EXPONENT)
        return growth * price * ratio

    def _build(self, heard_at: datetime) -> AccountSnapshot:
        cross: dict[str, Position] = {}
        others: list[Position] = []
        for (symbol, mode), held in self._held.items():
            if not held.position.quantity:
                continue  # rows of quantity zero stay while unsettled PnL is left (section 9)
            position = held.at_mark(self._marks.get(symbol))
            if mode is MarginMode.CROSS:
                cross[symbol] = position
            else:
                others.append(position)
        return AccountSnapshot(
            taken_at=heard_at,
            instruments=self._instruments,
            marks=MappingProxyType(self._marks),
            positions=MappingProxyType(cross),
            account_value=self._account_value,
            free_collateral=self._free_collateral,
            leverage=MappingProxyType(self._leverage),
            max_leverage=self._max_leverage,
            taker_fee_rate=self._taker_fee_rate,
            other_positions=tuple(others),
        )


def filled(position: Position, fill: Fill) -> Position:
    """A position after one execution, by the ledger's arithmetic (docs/internals/orderly.md section 10); funding comes later."""
    change = fill.quantity * fill.side.sign
    after = position.quantity + change
    if after == 0:
        average = ZERO
    elif position.quantity == 0 or (position.quantity > 0) != (after > 0):
        average = fill.price  # opened, or flipped past zero
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
        return True  # made before our newest fill: it would undo it
    if row.seq is not None and held.seq is not None and row.seq != held.seq:
        return row.seq < held.seq
    return row.changed_ms < held.changed_ms
