"""Emergency: cancel what may open a position, close every position of the account, and verify that it is flat.

Needs only an exchange client, so that it works when the daemon is down or stuck (direct_orders.py); in the daemon the closes are stored
orders (manual_orders.py). The caller halts trading first; otherwise a queued entry could reopen what was just closed. The stops of a
position stay until it is gone: one that cannot be closed keeps its protection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import Accepted, Exchange, Rejected, Retryable, SubmitResult
from kekbridge.execution.direct_orders import SendCloses, why_open
from kekbridge.model import AccountSnapshot, MarginMode, OrderIntent, Position
from kekbridge.model.orders import OrderStatusReport
from kekbridge.planning.close_position import Closing, Dust, close_position

_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class FlattenResult:
    """What was closed, and what is left; nothing is left if all went well."""

    #: Number of positions that were open and are gone, but for dust.
    positions_closed: int
    #: Number of orders that are still open.
    orders_left: int
    #: Positions that are still open and could be closed, cross and isolated.
    positions_left: tuple[Position, ...]
    #: Last error of the exchange; empty when nothing is left.
    error: str
    #: What is left of positions and is too small for any order.
    dust: tuple[Dust, ...] = ()

    @property
    def is_flat(self) -> bool:
        return not self.positions_left and not self.orders_left


async def flatten(
    exchange: Exchange,
    *,
    send: SendCloses,
    deadline_s: float,
    on_progress: Callable[[str], None],
) -> FlattenResult:
    """Cancel entries, close all positions reduce-only, then cancel what is left of their orders; repeat until flat or out of time.

    Includes orders and positions that kekbridge did not open, cross and isolated: the operator asked for everything. Sizes are those of
    planning: split at the exchange's largest order, on its grid; dust is reported. `on_progress` gets one line per step. Raises
    ExchangeUnavailable if the exchange cannot be reached until `deadline_s` seconds are over.
    """
    now = asyncio.get_running_loop().time
    give_up_at = now() + deadline_s
    opened: set[tuple[str, MarginMode]] = set()
    error = ""
    while True:
        try:
            on_progress("cancelling orders that may open a position")
            error = _error_of([await exchange.cancel_entries()]) or error
            error = await _close_all(exchange, send, opened, on_progress) or error
            await asyncio.sleep(_PAUSE_S)
            left, dust = _what_is_left(await exchange.refresh())
            error = await _cancel_useless_orders(exchange, left, on_progress) or error
            orders = await exchange.open_orders()
        except ExchangeUnavailable as unavailable:
            error = unavailable.message
            if now() >= give_up_at:
                raise
            await asyncio.sleep(_PAUSE_S)
            continue
        if (not left and not orders) or now() >= give_up_at:
            closed = len(opened - {(each.symbol, each.margin_mode) for each in left})
            return FlattenResult(closed, len(orders), left, error if left or orders else "", dust)
        await asyncio.sleep(_PAUSE_S)


async def _close_all(
    exchange: Exchange,
    send: SendCloses,
    opened: set[tuple[str, MarginMode]],
    on_progress: Callable[[str], None],
) -> str:
    """Send orders that close every open position; returns the last error, or an empty string."""
    snapshot = await exchange.refresh()
    intents: list[OrderIntent] = []
    for position, closing in _closings(snapshot):
        if not closing.intents:
            continue
        mode = " isolated" if position.margin_mode is MarginMode.ISOLATED else ""
        on_progress(f"closing {position.symbol}{mode}: {position.quantity}")
        opened.add((position.symbol, position.margin_mode))
        intents += closing.intents
    return why_open(await send(intents)) if intents else ""


def _closings(snapshot: AccountSnapshot) -> list[tuple[Position, Closing]]:
    return [(each, close_position(each, snapshot)) for each in snapshot.open_positions()]


def _what_is_left(snapshot: AccountSnapshot) -> tuple[tuple[Position, ...], tuple[Dust, ...]]:
    """Open positions that can be closed, and those that are too small for any order."""
    closings = _closings(snapshot)
    dust = tuple(closing.dust for _, closing in closings if closing.dust is not None and not closing.intents)
    return tuple(position for position, closing in closings if closing.intents), dust


async def _cancel_useless_orders(
    exchange: Exchange, left: tuple[Position, ...], on_progress: Callable[[str], None]
) -> str:
    """Cancel the orders that protect no open position any more, with few requests if none does; returns the last error."""
    if not left:
        on_progress("cancelling every order, plain and algo")
        return _error_of([await exchange.cancel_all()])
    kept = {(each.symbol, each.margin_mode) for each in left}
    useless = [order for order in await exchange.open_orders() if not _protects(order, kept)]
    return _error_of([await exchange.cancel(order) for order in useless])


def _protects(order: OrderStatusReport, positions: set[tuple[str, MarginMode]]) -> bool:
    modes = MarginMode if order.margin_mode is None else (order.margin_mode,)
    return not order.may_open and any((order.symbol, mode) in positions for mode in modes)


def _error_of(results: Sequence[SubmitResult]) -> str:
    """The last failure among results, with the exchange's code; an empty string without one."""
    failed = [result for result in results if not isinstance(result, Accepted)]
    if not failed:
        return ""
    match failed[-1]:
        case Rejected(code, message) | Retryable(code, message):
            return f"{code}: {message}"
        case unknown:
            return unknown.reason
