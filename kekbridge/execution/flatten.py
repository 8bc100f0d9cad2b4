"""Emergency: cancel every order and close every position of the account, and look until it is flat.

Needs nothing but an exchange client, so that it works when the daemon is down or stuck. The caller halts trading first; otherwise a
queued entry could open again what was just closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ulid import ULID

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import Accepted, Exchange
from kekbridge.model import (
    ZERO,
    AccountSnapshot,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Position,
    Purpose,
    Side,
    client_order_id_of,
)

_PAUSE_S = 0.5
_CLOSE_LIFE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class FlattenResult:
    """What is left: nothing, if all went well. `trouble` is the last thing the exchange said against it."""

    positions_closed: int
    orders_left: int
    positions_left: tuple[Position, ...]
    trouble: str
    isolated: tuple[Position, ...] = ()

    @property
    def is_flat(self) -> bool:
        return not self.positions_left and not self.orders_left


async def flatten(
    exchange: Exchange, *, clock: Callable[[], datetime], deadline_s: float, tell: Callable[[str], None]
) -> FlattenResult:
    """Cancel plain and algo orders of all types, close all cross positions reduce-only, and verify; repeat until flat or out of time.

    Foreign orders and positions included: the operator asked for everything. Isolated positions are reported, not closed:
    kekbridge never opens one, and its client names the cross margin mode in every order.
    """
    started = asyncio.get_running_loop().time()
    closed: set[str] = set()
    trouble = ""
    round_number = 0
    while True:
        try:
            trouble = await _cancel_all(exchange, tell) or trouble
            snapshot = await exchange.refresh()
            for position in _open(snapshot):
                tell(f"closing {position.symbol}: {position.quantity}")
                trouble = await _close(exchange, position, snapshot, round_number, clock()) or trouble
                closed.add(position.symbol)
            await asyncio.sleep(_PAUSE_S)
            snapshot = await exchange.refresh()
            left = _open(snapshot)
            orders = await exchange.open_orders()
        except ExchangeUnavailable as error:
            trouble, left, orders = error.message, _open(exchange.snapshot), ()
            if asyncio.get_running_loop().time() - started >= deadline_s:
                raise
            await asyncio.sleep(_PAUSE_S)
            continue
        if (not left and not orders) or asyncio.get_running_loop().time() - started >= deadline_s:
            isolated = tuple(each for each in snapshot.other_positions if each.quantity)
            return FlattenResult(len(closed), len(orders), left, trouble if left or orders else "", isolated)
        round_number += 1
        await asyncio.sleep(_PAUSE_S)


async def _cancel_all(exchange: Exchange, tell: Callable[[str], None]) -> str:
    tell("cancelling every order, plain and algo")
    answer = await exchange.cancel_all()
    return "" if isinstance(answer, Accepted) else str(answer)


def _open(snapshot: AccountSnapshot | None) -> tuple[Position, ...]:
    return () if snapshot is None else tuple(each for each in snapshot.positions.values() if each.quantity)


async def _close(
    exchange: Exchange, position: Position, snapshot: AccountSnapshot, round_number: int, now: datetime
) -> str:
    """One reduce-only market order for the whole position; the trouble in words, or nothing."""
    identifier = str(ULID.from_datetime(now))
    price = snapshot.mark_price(position.symbol) or position.mark_price or position.average_open_price
    order = Order(
        client_order_id=client_order_id_of(identifier, min(round_number, 99)),
        alert_id=identifier,
        webhook_id="operator",
        leg=min(round_number, 99),
        sequence=0,
        intent=OrderIntent(
            symbol=position.symbol,
            side=Side.SELL if position.quantity > ZERO else Side.BUY,
            order_type=OrderType.MARKET,
            quantity=abs(position.quantity),
            purpose=Purpose.EXIT,
            reference_price=price,
            reduce_only=True,
        ),
        status=OrderStatus.SUBMITTING,
        created_at=now,
        expires_at=now + _CLOSE_LIFE,
    )
    answer = await exchange.submit(order)
    return "" if isinstance(answer, Accepted) else str(answer)
