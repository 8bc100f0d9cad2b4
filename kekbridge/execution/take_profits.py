"""Places the take-profits that an entry's own request could not carry, once the entry has executed.

They are reduce-only orders of their own, sized by what really executed, that the exchange removes with the position (bodies.py says why
one request cannot hold them). Durable as protective orders: a restart goes on where it stood. The stop loss is protect.py's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Exchange, SubmitResult, request_text
from kekbridge.log import get_logger
from kekbridge.model import ZERO, AccountSnapshot, Order, OrderIntent, OrderStatus
from kekbridge.store import protection
from kekbridge.store import protection as protections
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.take_profits")

_PAUSE_S = 0.5
_READ_LAG_S = 4.0  # a position may be visible this much later than its fill: "flat" is believed only after it
_TRIES = 3  # per take-profit: a refusal is not answered by asking for ever
_LIFE = timedelta(days=1)
_NOT_THERE = (OrderStatus.REJECTED, OrderStatus.DENIED, OrderStatus.EXPIRED, OrderStatus.UNKNOWN)
_IN_FLIGHT = (OrderStatus.QUEUED, OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)


class TakeProfitPlacer:
    """One per daemon. `submit` is pipeline.submit."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        clock: Callable[[], datetime],
        submit: Callable[[Order], Awaitable[SubmitResult | None]],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._clock = clock
        self._submit = submit
        self._woken = asyncio.Event()
        self._flat_since: dict[str, float] = {}

    def wake(self) -> None:
        """An entry with several take-profits executed."""
        self._woken.set()

    async def run(self) -> None:
        """For ever: place what is missing whenever something executed; ask again soon while anything is not decided."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                for entry in await self._database.read(protection.entries_missing_take_profits):
                    if not await self._step(entry):
                        self._woken.set()
            except KekbridgeError as error:
                log.error("take_profits_not_placed", code=error.code, error=error.message)
                self._woken.set()
            await asyncio.sleep(_PAUSE_S)

    async def _step(self, entry: Order) -> bool:
        """Place what one entry lacks; True when there is nothing to do before the next fill."""
        snapshot = self._exchange.snapshot
        instrument = snapshot.instruments.get(entry.intent.symbol) if snapshot else None
        if snapshot is None or instrument is None:
            return False
        if self._is_flat(entry, snapshot):
            await self._finish(entry, "the position is gone")
            return True
        made = await self._database.read(protections.orders_for, entry)
        missing = [
            lacking
            for wish in self._exchange.exits_after_fill(entry.intent, entry.executed_quantity, instrument)
            if (lacking := _lacking(wish, made, instrument.base_min)) is not None
        ]
        for intent in missing:
            await self._place(entry, intent, snapshot)
        if missing or any(_is_in_flight(order) for order in made):
            return False  # believed only when it is stored as accepted
        if entry.status.is_final:
            await self._finish(entry, "every take-profit is at the exchange, or was refused there")
        return True

    def _is_flat(self, entry: Order, snapshot: AccountSnapshot) -> bool:
        """True once no position in the entry's direction has been seen for longer than a read may lag behind a fill."""
        now = asyncio.get_running_loop().time()
        if snapshot.position_quantity(entry.intent.symbol) * entry.intent.side.sign > 0 or not entry.status.is_final:
            self._flat_since.pop(entry.client_order_id, None)
            return False
        return now - self._flat_since.setdefault(entry.client_order_id, now) > _READ_LAG_S

    async def _place(self, entry: Order, intent: OrderIntent, snapshot: AccountSnapshot) -> None:
        if _is_reached(intent, snapshot):
            intent = replace(intent, take_profits=(), signal_price=intent.take_profits[0].trigger_price)
        now = self._clock()
        order = await self._database.write(
            protections.add_order,
            entry,
            intent,
            now=now,
            expires_at=now + _LIFE,
            request_text=partial(request_text, self._exchange),
        )
        log.info("take_profit", client_order_id=order.client_order_id, quantity=str(intent.quantity))
        await self._submit(order)

    async def _finish(self, entry: Order, detail: str) -> None:
        self._flat_since.pop(entry.client_order_id, None)
        await self._database.write(protection.finish_take_profits, entry, detail=detail, now=self._clock())


def _lacking(wish: OrderIntent, made: tuple[Order, ...], smallest: Decimal) -> OrderIntent | None:
    """The take-profit for what earlier orders at the same price do not cover yet; None when nothing tradable is missing."""
    trigger = wish.take_profits[0].trigger_price
    same = [order for order in made if _trigger_of(order) == trigger]
    refused = sum(_is_not_there(order) for order in same)
    placed = sum((order.intent.quantity for order in same if not _is_not_there(order)), ZERO)
    missing = wish.quantity - placed
    if missing < smallest or refused >= _TRIES:
        return None
    return replace(wish, quantity=missing, take_profits=(replace(wish.take_profits[0], quantity=missing),))


def _is_in_flight(order: Order) -> bool:
    return order.finished_at is None and order.status in _IN_FLIGHT


def _is_not_there(order: Order) -> bool:
    """True when the exchange never had it: refused, or given up after its outcome was unknown."""
    return order.finished_at is not None and order.status in _NOT_THERE


def _trigger_of(order: Order) -> Decimal | None:
    """At which price an order takes profit; None for the stops and closes that protect.py makes."""
    return order.intent.take_profits[0].trigger_price if order.intent.take_profits else order.intent.signal_price


def _is_reached(intent: OrderIntent, snapshot: AccountSnapshot) -> bool:
    """True when the mark has passed the take-profit already: an order that waits for it would be refused, its share is sold now."""
    mark = snapshot.mark_price(intent.symbol)
    trigger = intent.take_profits[0].trigger_price
    return mark is not None and (mark - trigger) * intent.side.sign <= 0
