"""Place the take-profits that an entry's own request could not carry, once the entry has executed.

They are reduce-only orders, sized by what was executed, that the exchange removes with the position (exchange/orderly/requests.py explains
why one request cannot hold them). Stored as protective orders, so a restart continues. The stop loss is guarded by stop_guard.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Exchange, SubmitResult
from kekbridge.log import get_logger
from kekbridge.model import ZERO, AccountSnapshot, Order, OrderIntent, OrderStatus
from kekbridge.store import projector, protection
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.take_profits")

_PAUSE_S = 0.5
_READ_LAG_S = 4.0  # a position may be visible this much later than its fill: "flat" is trusted only after it
_ATTEMPTS = 3  # per take-profit
_LIFE = timedelta(days=1)
_NOT_AT_EXCHANGE = (OrderStatus.REJECTED, OrderStatus.DENIED, OrderStatus.EXPIRED, OrderStatus.UNKNOWN)
_IN_FLIGHT = (OrderStatus.QUEUED, OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)


class TakeProfitPlacer:
    """Places take-profits for every executed entry that lacks some; one per daemon."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        clock: Callable[[], datetime],
        submit: Callable[..., Awaitable[tuple[Order, SubmitResult | None]]],
    ) -> None:
        """`submit` is OrderSubmitter.submit."""
        self._database = database
        self._exchange = exchange
        self._clock = clock
        self._submit = submit
        self._wake_event = asyncio.Event()
        self._flat_since: dict[str, float] = {}  # loop time, by the entry's client order id

    def wake(self) -> None:
        """An entry with several take-profits executed."""
        self._wake_event.set()

    async def run(self) -> None:
        """Until cancelled: place what is missing whenever an entry executed; check again soon while anything is in flight."""
        while True:
            await self._wake_event.wait()
            self._wake_event.clear()
            try:
                for entry in await self._database.read(protection.entries_missing_take_profits):
                    if not await self._step(entry):
                        self._wake_event.set()
            except KekbridgeError as error:
                log.error("take_profits_not_placed", code=error.code, error=error.message)
                self._wake_event.set()
            await asyncio.sleep(_PAUSE_S)

    async def _step(self, entry: Order) -> bool:
        """Place what one entry lacks; True if there is nothing to do before the next fill."""
        snapshot = self._exchange.snapshot
        instrument = snapshot.instruments.get(entry.intent.symbol) if snapshot else None
        if snapshot is None or instrument is None:
            return False
        if self._is_flat(entry, snapshot):
            await self._finish(entry, "the position is gone")
            return True
        placed = await self._database.read(protection.orders_for, entry)
        missing = [
            intent
            for wanted in self._exchange.exits_after_fill(entry.intent, entry.executed_quantity, instrument)
            if (intent := _missing(wanted, placed, instrument.base_min)) is not None
        ]
        for intent in missing:
            await self._place(entry, intent, snapshot)
        if missing or any(_is_in_flight(order) for order in placed):
            return False  # done only once it is stored as accepted
        if entry.status.is_final:
            await self._finish(entry, "every take-profit is at the exchange, or was rejected there")
        return True

    def _is_flat(self, entry: Order, snapshot: AccountSnapshot) -> bool:
        """True once the account has shown no position in the entry's direction for longer than a read may lag behind a fill."""
        now = asyncio.get_running_loop().time()
        if snapshot.position_quantity(entry.intent.symbol) * entry.intent.side.sign > 0 or not entry.status.is_final:
            self._flat_since.pop(entry.client_order_id, None)
            return False
        return now - self._flat_since.setdefault(entry.client_order_id, now) > _READ_LAG_S

    async def _place(self, entry: Order, intent: OrderIntent, snapshot: AccountSnapshot) -> None:
        if _is_reached(intent, snapshot):
            intent = replace(intent, take_profits=(), signal_price=intent.take_profits[0].trigger_price)
        order, _ = await self._submit(entry, intent, expires_at=self._clock() + _LIFE)
        log.info("take_profit", client_order_id=order.client_order_id, quantity=str(intent.quantity))

    async def _finish(self, entry: Order, detail: str) -> None:
        self._flat_since.pop(entry.client_order_id, None)
        ended = protection.take_profits_entry(entry, detail=detail, now=self._clock())
        await self._database.write(projector.record, ended)


def _missing(wanted: OrderIntent, placed: tuple[Order, ...], min_quantity: Decimal) -> OrderIntent | None:
    """The take-profit for what earlier orders at the same price do not cover yet; None if nothing tradable is missing."""
    trigger = wanted.take_profits[0].trigger_price
    same = [order for order in placed if _trigger_of(order) == trigger]
    failed = sum(_is_not_at_exchange(order) for order in same)
    covered = sum((order.intent.quantity for order in same if not _is_not_at_exchange(order)), ZERO)
    missing = wanted.quantity - covered
    if missing < min_quantity or failed >= _ATTEMPTS:
        return None
    return replace(wanted, quantity=missing, take_profits=(replace(wanted.take_profits[0], quantity=missing),))


def _is_in_flight(order: Order) -> bool:
    return order.finished_at is None and order.status in _IN_FLIGHT


def _is_not_at_exchange(order: Order) -> bool:
    """True if the exchange never had it: rejected, or closed after its outcome stayed unknown."""
    return order.finished_at is not None and order.status in _NOT_AT_EXCHANGE


def _trigger_of(order: Order) -> Decimal | None:
    """The price at which an order takes profit; None for the stops and closes of stop_guard.py."""
    return order.intent.take_profits[0].trigger_price if order.intent.take_profits else order.intent.signal_price


def _is_reached(intent: OrderIntent, snapshot: AccountSnapshot) -> bool:
    """True if the mark price has passed the take-profit already: a trigger order would be rejected, so its share is closed now."""
    mark = snapshot.mark_price(intent.symbol)
    trigger = intent.take_profits[0].trigger_price
    return mark is not None and (mark - trigger) * intent.side.sign <= 0
