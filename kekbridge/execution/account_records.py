"""What happened to the account without an order of ours: transfers, funding, liquidations, auto-deleveraging.

Read completely from the exchange's lists, recorded once in the book, whose totals and limits count it. Sends nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from kekbridge.errors import ExchangeUnavailable, KekbridgeError, StoreUnavailable
from kekbridge.exchange.base import ClosedPosition, Exchange, LiquidatedPart, Transfer
from kekbridge.execution import takeovers
from kekbridge.execution.book import Book
from kekbridge.execution.complete_reads import CompleteReads
from kekbridge.execution.tracker import OrderTracker
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Fill, MarginMode
from kekbridge.store import codec, equity, facts, fills
from kekbridge.store.database import Database
from kekbridge.store.facts import OwnedFill
from kekbridge.store.read_positions import RecordKind

log = get_logger("kekbridge.execution.account_records")

# How far back the records of a new data directory are read.
_FIRST_TRANSFERS: Final = timedelta(minutes=10)  # the first mark of equity includes the earlier ones
_FIRST_FUNDING: Final = timedelta(days=30)
_FIRST_TAKEOVERS: Final = timedelta(days=1)
# Positions remembered with the price at which they were opened, for liquidations of them.
_MOST_AVERAGES: Final = 1_000


class AccountRecords:
    """Reads and records them for one daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        tracker: OrderTracker,
        clock: Callable[[], datetime],
    ) -> None:
        self._book = book
        self._database = database
        self._exchange = exchange
        self._tracker = tracker
        self._clock = clock
        self._reads = CompleteReads(database, exchange)
        # By symbol, margin mode and side (long): of the position seen last.
        self._averages: dict[tuple[str, MarginMode, bool], Decimal] = {}
        exchange.listen_account(self._remember_averages)

    async def read_transfers(self) -> None:
        """Record deposits and withdrawals. Raises ExchangeUnavailable, StoreUnavailable."""
        await self._reads.read(RecordKind.TRANSFERS, self._transfers_since, first=self._clock() - _FIRST_TRANSFERS)

    async def read_others(self) -> None:
        """Record the rest, each kind by itself. Raises the first ExchangeUnavailable or StoreUnavailable once all were tried."""
        now = self._clock()
        first_takeovers = now - _FIRST_TAKEOVERS
        failed: list[KekbridgeError] = []
        for kind, record_since, first in (
            (RecordKind.FUNDING, self._funding_since, now - _FIRST_FUNDING),
            (RecordKind.LIQUIDATIONS, self._liquidations_since, first_takeovers),
            (RecordKind.POSITIONS, self._deleveraged_since, first_takeovers),
        ):
            try:
                await self._reads.read(kind, record_since, first=first)
            except (ExchangeUnavailable, StoreUnavailable) as error:
                log.warning("records_not_read", kind=kind.value, error=error.message)
                failed.append(error)
        if failed:
            raise failed[0]

    # ------------------------------------------------------------------------------------------- transfers and funding

    async def _transfers_since(self, since: datetime) -> bool:
        found = await self._exchange.transfers(since)
        if not found:
            return True
        oldest = min(each.flow.at for each in found)
        known = await self._database.read(equity.known_transfers, since=oldest)
        for transfer in found:
            earlier = known.get(transfer.id)
            if earlier is None and transfer.flow.amount and transfer.flow.at >= since:
                self._record_transfer(transfer)
            elif earlier is not None and earlier.amount and not transfer.flow.amount:
                self._record_transfer(transfer)  # a withdrawal that failed
        return True

    def _record_transfer(self, transfer: Transfer) -> None:
        amount = transfer.flow.amount
        what = "deposit" if amount > 0 else "withdrawal" if amount else "failed withdrawal"
        data = {
            "id": transfer.id,
            "booked_at": codec.truncate_to_ms(transfer.flow.at),
            "amount": amount,
            "what": what,
        }
        self._book.append(facts.plain_entry("transfer", at=codec.truncate_to_ms(self._clock()), data=data))

    async def _funding_since(self, since: datetime) -> bool:
        payments = await self._exchange.funding_payments(since)
        known = set(await self._database.read(equity.known_funding, since=since - timedelta(seconds=1)))
        for payment in payments:
            if payment.created_at is None:
                continue
            key = (payment.symbol, payment.margin_mode.value, codec.time_text(payment.created_at))
            if key not in known:
                known.add(key)
                await self._tracker.find_entrant(payment.symbol)
                self._book.record_funding(payment, payment.created_at)
        return True

    # ------------------------------------------------------------------------------------------------------- takeovers

    async def _liquidations_since(self, since: datetime) -> bool:
        """Record liquidated parts; False while it is not known yet what one of them realized."""
        parts = await self._exchange.liquidations(since)
        names = [takeovers.liquidation_name(part) for part in parts]
        known = {owned.fill.trade_id: owned.fill for owned in await self._database.read(_find_all, names)}
        open_ = [
            part
            for part, name in zip(parts, names, strict=True)
            if name not in known or known[name].realized_pnl is None
        ]
        if not open_:
            return True
        await self._tracker.sync_fills()  # what else closed the position is subtracted from its history
        lines = await self._exchange.closed_positions(min(part.at for part in open_) - takeovers.SAME_TIME)
        snapshot = await self._exchange.refresh()
        is_complete = True
        for part in open_:
            realized, margin_mode = await self._realized(part, lines, snapshot)
            is_complete = is_complete and realized is not None
            await self._record(takeovers.LIQUIDATION, takeovers.liquidation_fill(part, realized, margin_mode))
        return is_complete

    async def _realized(
        self, part: LiquidatedPart, lines: Iterable[ClosedPosition], snapshot: AccountSnapshot
    ) -> tuple[Decimal | None, MarginMode]:
        """What a liquidated part realized, before its fee, and of which position, which the exchange's list of liquidations does not say.

        From its history once it is closed, else at its average price.
        """
        line = takeovers.line_of(part, lines)
        if line is not None:
            known = await self._explaining(line, takeovers.liquidation_name(part))
            realized = takeovers.realized_of_line(part, line, known)
            if realized is not None:
                return realized, line.margin_mode
        is_long = part.quantity > 0
        for position in (*snapshot.positions.values(), *snapshot.other_positions):
            if position.symbol == part.symbol and position.quantity and (position.quantity > 0) is is_long:
                return takeovers.realized_at_average(part, position.average_open_price), position.margin_mode
        for margin_mode in MarginMode:
            average = self._averages.get((part.symbol, margin_mode, is_long))
            if average is not None:
                return takeovers.realized_at_average(part, average), margin_mode
        return None, MarginMode.CROSS

    async def _deleveraged_since(self, since: datetime) -> bool:
        """Record what auto-deleveraging took over. A history without it is one of ordinary closings."""
        for line in await self._exchange.closed_positions(since):
            name = takeovers.adl_name(line)
            if line.kind != takeovers.ADL:
                continue
            if not await self._database.read(_find_all, [name]):
                fill = takeovers.adl_fill(line, await self._explaining(line, name))
                if fill is not None:
                    await self._record(takeovers.ADL, fill)
        return True

    async def _explaining(self, line: ClosedPosition, name: str) -> tuple[Fill, ...]:
        """Every execution in the market of a line since its position was opened, without the one of this name."""
        trades = [fill for fill in await self._exchange.trades_since(line.opened_at) if fill.symbol == line.symbol]
        recorded = await self._database.read(fills.list_fills, symbol=line.symbol, since=line.opened_at, limit=100_000)
        taken = [fill for fill in recorded if takeovers.is_takeover(fill) and fill.trade_id != name]
        return (*trades, *taken)

    async def _record(self, kind: str, fill: Fill) -> None:
        if await self._tracker.record_trades([fill]):
            data = {
                "symbol": fill.symbol,
                "side": fill.side.value.lower(),
                "quantity": fill.quantity,
                "price": fill.price,
                "realized_pnl": fill.realized_pnl,
                "fee": fill.fee,
            }
            self._book.append(facts.plain_entry(kind, at=codec.truncate_to_ms(fill.executed_at), data=data))
            log.error(kind, symbol=fill.symbol, side=fill.side.value, quantity=fill.quantity, price=fill.price)

    def _remember_averages(self, snapshot: AccountSnapshot) -> None:
        for position in (*snapshot.positions.values(), *snapshot.other_positions):
            if position.quantity and position.average_open_price:
                key = (position.symbol, position.margin_mode, position.quantity > 0)
                self._averages[key] = position.average_open_price
        while len(self._averages) > _MOST_AVERAGES:
            del self._averages[next(iter(self._averages))]


def _find_all(connection: sqlite3.Connection, trade_ids: Iterable[str]) -> tuple[OwnedFill, ...]:
    found: Mapping[str, OwnedFill | None] = {trade_id: fills.find(connection, trade_id) for trade_id in trade_ids}
    return tuple(each for each in found.values() if each is not None)
