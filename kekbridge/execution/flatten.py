"""Emergency: cancel every order and close every position of the account, and verify that it is flat.

Needs only an exchange client, so that it works when the daemon is down or stuck. The caller halts trading first; otherwise a queued entry
could reopen what was just closed.
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
)

_PAUSE_S = 0.5
_CLOSE_LIFE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class FlattenResult:
    """What was closed, and what is left; nothing is left if all went well."""

    #: Number of positions that were closed.
    positions_closed: int
    #: Number of orders that are still open.
    orders_left: int
    #: Positions that are still open.
    positions_left: tuple[Position, ...]
    #: Last error of the exchange; empty when nothing is left.
    error: str
    #: Isolated positions of the account, which are never closed.
    isolated: tuple[Position, ...] = ()

    @property
    def is_flat(self) -> bool:
        return not self.positions_left and not self.orders_left


async def flatten(
    exchange: Exchange, *, clock: Callable[[], datetime], deadline_s: float, on_progress: Callable[[str], None]
) -> FlattenResult:
    """Cancel plain and algo orders of all types, close all cross positions reduce-only, and verify; repeat until flat or out of time.

    Includes orders and positions that kekbridge did not open: the operator asked for everything. Isolated positions are reported, not
    closed: kekbridge never opens one, and its client sets the cross margin mode in every order. `on_progress` gets one line per step.
    Raises ExchangeUnavailable if the exchange cannot be reached until `deadline_s` seconds are over.
    """
    started = asyncio.get_running_loop().time()
    closed: set[str] = set()
    error = ""
    round_number = 0
    while True:
        try:
            error = await _cancel_all(exchange, on_progress) or error
            snapshot = await exchange.refresh()
            for position in _open(snapshot):
                on_progress(f"closing {position.symbol}: {position.quantity}")
                error = await _close(exchange, position, snapshot, round_number, clock()) or error
                closed.add(position.symbol)
            await asyncio.sleep(_PAUSE_S)
            snapshot = await exchange.refresh()
            left = _open(snapshot)
            orders = await exchange.open_orders()
        except ExchangeUnavailable as unavailable:
            error = unavailable.message
            if asyncio.get_running_loop().time() - started >= deadline_s:
                raise
            await asyncio.sleep(_PAUSE_S)
            continue
        if (not left and not orders) or asyncio.get_running_loop().time() - started >= deadline_s:
            isolated = tuple(each for each in snapshot.other_positions if each.quantity)
            return FlattenResult(len(closed), len(orders), left, error if left or orders else "", isolated)
        round_number += 1
        await asyncio.sleep(_PAUSE_S)


async def _cancel_all(exchange: Exchange, on_progress: Callable[[str], None]) -> str:
    """Cancel every order; returns the error, or an empty string."""
    on_progress("cancelling every order, plain and algo")
    result = await exchange.cancel_all()
    return "" if isinstance(result, Accepted) else str(result)


def _open(snapshot: AccountSnapshot) -> tuple[Position, ...]:
    return tuple(each for each in snapshot.positions.values() if each.quantity)


async def _close(
    exchange: Exchange, position: Position, snapshot: AccountSnapshot, round_number: int, now: datetime
) -> str:
    """Send one reduce-only market order for the whole position; returns the error, or an empty string."""
    identifier = str(ULID.from_datetime(now))
    price = snapshot.mark_price(position.symbol) or position.mark_price or position.average_open_price
    order = Order(
        client_order_id=f"kf-{identifier}",  # not `kb-`: the store has no row of it (history_check.py)
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
    result = await exchange.submit(order)
    return "" if isinstance(result, Accepted) else str(result)
