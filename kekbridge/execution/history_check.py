"""Compare the store's history with the exchange's at a start: is the database older than the orders that were sent?

A restored backup, a lost write-ahead log or a copied directory would admit alerts again that were traded already, with limits that do
not know it. So an order of ours that the store does not know closes the account for entries (store/lost_orders.py). Sends nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from kekbridge.exchange.base import Exchange
from kekbridge.execution.book import Book
from kekbridge.formatting import amount
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import codec, journal, lost_orders
from kekbridge.store.database import Database
from kekbridge.store.lost_orders import LostOrder

log = get_logger("kekbridge.execution.history_check")

_OURS: Final = "kb-"
# Orders are known to the store in another order than they were accepted in, by clocks that differ.
_OVERLAP: Final = timedelta(hours=1)


class HistoryCheck:
    """One per daemon; `run` once per start, after the first refresh and before anything trades."""

    def __init__(self, *, book: Book, database: Database, exchange: Exchange, clock: Callable[[], datetime]) -> None:
        self._book = book
        self._database = database
        self._exchange = exchange
        self._clock = clock

    async def run(self) -> None:
        """Close the account for entries if orders were lost; on a new directory, record what the account holds already.

        Raises ExchangeUnavailable, StoreUnavailable.
        """
        if await self._database.read(lost_orders.pending) is not None:
            return  # closed, until the trader resumes
        sent = await self._database.read(lost_orders.sent_between)
        if sent is None:
            await self._adopt()
            return
        oldest, newest = sent
        accepted = await self._database.read(lost_orders.accepted_until)
        since = max(oldest, newest - _OVERLAP, accepted or oldest)
        found = [
            report
            for report in await self._exchange.orders_since(since)
            if (report.client_order_id or "").startswith(_OURS) and (report.created_at or since) >= since
        ]
        names = {str(report.client_order_id) for report in found}
        unknown = await self._database.read(lost_orders.not_stored, names)
        await self._database.write(lost_orders.first_check, now=self._clock())
        if unknown:
            await self._close([report for report in found if report.client_order_id in unknown])

    async def _close(self, lost: Sequence[OrderStatusReport]) -> None:
        now = self._clock()
        await self._database.write(lost_orders.record, [_lost_order(report) for report in lost], now=now)
        reason = f"the database does not know {len(lost)} of its orders at the exchange: run `kekbridge doctor`, then `kekbridge resume`"
        log.error("history_incomplete", orders=len(lost), newest=str(lost[0].client_order_id))
        self._book.close_for_entries(reason=reason, by="kekbridge", now=now)
        await self._database.flush()

    async def _adopt(self) -> None:
        """A directory without orders: say once what its account holds that no alert of its own has opened."""
        held, orders = _held(await self._exchange.refresh()), await self._exchange.open_orders()
        is_new = await self._database.write(_record_adoption, held, len(orders), now=self._clock())
        if is_new and (held or orders):
            log.warning("account_adopted", positions=list(held), orders=len(orders))


def _lost_order(report: OrderStatusReport) -> LostOrder:
    return LostOrder(
        client_order_id=str(report.client_order_id),
        symbol=report.symbol,
        side=report.side.value,
        quantity=amount(report.quantity),
        executed_quantity=amount(report.executed_quantity),
        status=report.status.value,
        created_at="" if report.created_at is None else codec.time_text(report.created_at),
    )


def _held(snapshot: AccountSnapshot) -> tuple[str, ...]:
    """`0.5 PERP_BTC_USDC` for each open position."""
    positions = (*snapshot.positions.values(), *snapshot.other_positions)
    return tuple(f"{amount(each.quantity)} {each.symbol}" for each in positions if each.quantity)


def _record_adoption(connection: sqlite3.Connection, held: tuple[str, ...], orders: int, *, now: datetime) -> bool:
    """Append the event `account_adopted` at the first start of a directory, if there is anything to adopt."""
    is_first = lost_orders.first_check(connection, now=now)
    if is_first and (held or orders):
        data = {"positions": ", ".join(held) or "none", "orders": orders}
        journal.append(connection, "account_adopted", now=now, data=data)
    return is_first
