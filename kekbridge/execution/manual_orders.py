"""Orders of the operator in a running daemon: close a position, flatten the account, cancel an order.

What is sent is stored like an alert with its orders (webhook "(by hand)") and tracked like any other order. It is sent beside the queue,
also while trading is halted: the operator has decided. Realized P&L counts for the webhook whose entry opened the position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from ulid import ULID

from kekbridge.errors import NotFound, StoreUnavailable
from kekbridge.exchange.base import Exchange, request_text
from kekbridge.execution import transitions
from kekbridge.execution.book import Book, with_ms_times
from kekbridge.execution.direct_orders import CLOSE_LIFE, OPERATOR, SETTLE_WITHIN_S, SendCloses, send_directly
from kekbridge.execution.manual_cancel import (
    CanceledOrder,
    cancel_listed,
    canceled_order,
    denied_by_hand,
    find_order,
    is_waiting_entry,
    overtaken_by_hand,
)
from kekbridge.execution.submitter import OrderSubmitter
from kekbridge.execution.updates import OrderUpdates
from kekbridge.log import get_logger
from kekbridge.model import FIRST_PROTECTIVE_LEG, MarginMode, Order, OrderIntent, OrderStatus, client_order_id_of
from kekbridge.store import codec, facts, orders
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import amounts_to_json
from kekbridge.store.database import Database
from kekbridge.store.facts import AlertFact

log = get_logger("kekbridge.execution.manual_orders")

#: Shown as the webhook of what was done by hand.
BY_HAND: Final = "(by hand)"
_PERMIT_WITHIN_S: Final = 10.0


class ManualOrders:
    """The operator's orders of one daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        submitter: OrderSubmitter,
        updates: OrderUpdates,
        cancel: Callable[[str], Awaitable[str | None]],
        clock: Callable[[], datetime],
    ) -> None:
        """`cancel` cancels an order of ours by its client order id; it returns None, or why that failed."""
        self._book = book
        self._database = database
        self._exchange = exchange
        self._submitter = submitter
        self._updates = updates
        self._cancel = cancel
        self._clock = clock

    def sender(self, message: Mapping[str, object]) -> SendCloses:
        """What `flatten` and a close by hand send with. `message`: what was asked for, as the stored alert shows it: `action`, `by`, and
        for one market its `symbol`.
        """
        return partial(self._send, message)

    def end_waiting_entries(self, symbol: str, *, by: str) -> tuple[Order, ...]:
        """End the entries of a market that were not sent yet, of every webhook: the operator closes its position. Returns them."""
        now = self._clock()
        waiting = sorted(
            (order for order in self._book.queued.values() if is_waiting_entry(order, symbol)),
            key=lambda order: order.sequence,
        )
        return tuple(self._book.change(order, overtaken_by_hand(order, by=by, now=now), now=now) for order in waiting)

    def open_entries(self, symbol: str) -> int:
        """Number of unfinished entries of a market, which may still open a position."""
        return sum(order.is_entry for order in self._book.by_symbol.get(symbol, {}).values())

    async def cancel(self, name: str, *, by: str) -> CanceledOrder:
        """Cancel one open order, ours or not (manual_cancel.py); a queued one is denied.

        Raises NotFound, ConfigError if it is not clear which, or for one that protects an open position, ExchangeUnavailable.
        """
        try:
            found = await find_order(self._exchange, name, self._book.orders.values())
        except NotFound:
            ended = await self._database.read(orders.find, name.strip())
            if ended is None:
                raise
            raise NotFound("not_found", f"{ended.client_order_id} is not open any more: it is {ended.status}") from None
        if found.order is not None:
            return await self._cancel_own(found.order, by)
        return await cancel_listed(self._exchange, found.listed)

    async def _cancel_own(self, order: Order, by: str) -> CanceledOrder:
        self._book.note("cancel_by_hand", order, now=self._clock(), data={"by": by})
        error: str | None = None
        queued = self._book.queued.get(order.client_order_id)
        if queued is not None:
            self._book.change(queued, denied_by_hand(queued, by=by, now=self._clock()), now=self._clock())
        else:
            error = await self._cancel(order.client_order_id)
        order = self._book.current(order)
        log.info("canceled_by_hand", client_order_id=order.client_order_id, status=order.status, error=error or "")
        return canceled_order(order, f"{error}; cancelling it goes on" if error else "")

    # --------------------------------------------------------------------------------------------------------------- sending

    async def _send(self, message: Mapping[str, object], intents: Sequence[OrderIntent]) -> Sequence[Order]:
        """As `SendCloses`, stored. A full disk does not keep a position open: then they are sent without being stored."""
        found: list[Order] = []
        for start in range(0, len(intents), FIRST_PROTECTIVE_LEG):
            some = intents[start : start + FIRST_PROTECTIVE_LEG]
            try:
                found += await self._send_stored(message, some)
            except StoreUnavailable as error:
                log.error("closes_not_stored", detail="they are sent anyway", error=error.message)
                found += await send_directly(self._exchange, self._clock)(some)
        return found

    async def _send_stored(self, message: Mapping[str, object], intents: Sequence[OrderIntent]) -> Sequence[Order]:
        """Store the orders as one alert's, send them side by side, wait for their end. Raises StoreUnavailable if none was sent."""
        owners = {intent.symbol: await self._owner_of(intent) for intent in intents}
        now = codec.truncate_to_ms(self._clock())
        identifier = str(ULID.from_datetime(now))
        placed = tuple(
            self._new_order(identifier, leg, intent, owners[intent.symbol], now) for leg, intent in enumerate(intents)
        )
        for order in placed:
            self._book.add(order)
        row = facts.alert_entry(
            AlertFact(
                alert=_alert_of(identifier, message, now),
                orders=placed,
                message=amounts_to_json(message),
                request=request_text(self._exchange, placed[0]),
            ),
            "alert_admitted",
        )
        await self._submitter.submit_new(placed, row, within_s=_PERMIT_WITHIN_S)
        # What was not accepted is not sent again by the queue: the next round asks with sizes of its own.
        for order in placed:
            queued = self._book.queued.get(order.client_order_id)
            if queued is not None:
                self._end(queued, queued.code or "exchange_busy", queued.error or "the exchange did not take it")
        with self._updates.wait_for(identifier, [self._book.current(order) for order in placed]) as waiter:
            await waiter.wait(SETTLE_WITHIN_S)
        ended = tuple(self._book.current(order) for order in placed)
        log.info(str(message["action"]), alert_id=identifier, statuses=[order.status.value for order in ended])
        return ended

    def _new_order(self, identifier: str, leg: int, intent: OrderIntent, owner: str, now: datetime) -> Order:
        order = Order(
            client_order_id=client_order_id_of(identifier, leg),
            alert_id=identifier,
            webhook_id=owner,
            leg=leg,
            sequence=self._book.next_sequence(),
            intent=intent,
            status=OrderStatus.SUBMITTING,
            created_at=now,
            expires_at=now + CLOSE_LIFE,
            attempt=1,
            submitted_at=now,
        )
        return with_ms_times(order)

    async def _owner_of(self, intent: OrderIntent) -> str:
        """Whose realized P&L a close is: that of the webhook which entered this market last; alerts open cross positions only."""
        if intent.margin_mode is not MarginMode.CROSS:
            return OPERATOR
        known = self._book.entrant(intent.symbol)
        return known or await self._database.read(orders.last_entrant, intent.symbol) or OPERATOR

    def _end(self, order: Order, code: str, error: str) -> None:
        now = self._clock()
        self._book.change(order, transitions.denied(order, code=code, error=error, now=now), now=now)


def _alert_of(identifier: str, message: Mapping[str, object], now: datetime) -> StoredAlert:
    """The row that the orders belong to. It claims no identity, so it is no alert for rates and repeats."""
    symbol = message.get("symbol")
    return StoredAlert(
        id=identifier,
        webhook_id=None,
        webhook_name=BY_HAND,
        alert_id=None,
        identity=None,
        fingerprint=hashlib.sha256(f"{identifier} {amounts_to_json(message)}".encode()).hexdigest(),
        received_at=now,
        fired_at=None,
        remote=str(message["by"]),
        proof="by hand",
        payload=message,
        action=str(message["action"]),
        symbol=None if symbol is None else str(symbol),
        is_exit=True,
        status=OrderStatus.SUBMITTING.value,
        code=None,
        error=None,
        field=None,
        verdicts=(),
        warnings=(),
        answer_status=None,
        answer=None,
        stages={},
        updated_at=now,
    )
