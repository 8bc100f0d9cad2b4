"""Close the position of one market by hand: all of it, a quantity or a share, no matter who opened it.

Needs only an exchange client and a way to send orders, as `flatten` does: the daemon stores what it sends (manual_orders.py), a command
without a daemon does not (direct_orders.py). Sizes are those of planning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from msgspec import Struct

from kekbridge.errors import ConfigError, ExchangeUnavailable, NotFound
from kekbridge.exchange.base import Exchange
from kekbridge.execution.direct_orders import SendCloses, why_open
from kekbridge.model import AccountSnapshot, MarginMode, Order, OrderIntent, Position
from kekbridge.planning.close_position import Closing, Dust, close_position
from kekbridge.planning.sizing import ROUND_DOWN_CONTEXT, format_12dp

_PAUSE_S: Final = 0.5
_WHOLE: Final = Decimal(100)


class CloseRequest(Struct, frozen=True, kw_only=True):
    """What the operator wants to close."""

    #: Such as `PERP_BTC_USDC`.
    symbol: str
    #: Base units; None: all, or `share`.
    quantity: Decimal | None = None
    #: Percent of the position, above 0 and at most 100; None: all, or `quantity`.
    share: Decimal | None = None
    #: Of which position; None: of the one that is open, or of both.
    margin_mode: MarginMode | None = None

    @property
    def is_whole(self) -> bool:
        return self.quantity is None and (self.share is None or self.share >= _WHOLE)


class CloseResult(Struct, frozen=True, kw_only=True):
    """What a close by hand did."""

    symbol: str
    #: True if everything that was to be closed is, but for dust.
    is_closed: bool
    #: Every order that was sent, as it is now; empty if there was only dust.
    orders: tuple[Order, ...]
    #: What is open in this market now, cross and isolated.
    positions_left: tuple[Position, ...]
    #: Parts that are too small for any order.
    dust: tuple[Dust, ...]
    #: Why it is not closed, on one line; empty if it is.
    trouble: str


async def plan_close(exchange: Exchange, request: CloseRequest) -> tuple[OrderIntent, ...]:
    """The orders that `close_by_hand` would send now; none if there is only dust. Raises as it does."""
    snapshot = await exchange.refresh()
    positions = _positions_of(snapshot, request)
    return _orders_of(_closings(positions, snapshot, _wanted(positions, snapshot, request)))


async def close_by_hand(
    exchange: Exchange, request: CloseRequest, *, send: SendCloses, deadline_s: float
) -> CloseResult:
    """Close with reduce-only market orders in the position's own margin mode; what was refused is tried again until `deadline_s` is over.

    Raises NotFound without a position, ConfigError if it is not clear what to close or no order can be that small, ExchangeUnavailable
    if nothing was sent.
    """
    now = asyncio.get_running_loop().time
    give_up_at = now() + deadline_s
    snapshot = await _refresh(exchange, give_up_at)
    positions = _positions_of(snapshot, request)
    wanted = _wanted(positions, snapshot, request)
    sent: list[Order] = []
    trouble = ""
    while True:
        closings = _closings(positions, snapshot, wanted)
        intents = _orders_of(closings)
        if not intents:
            break
        orders = await send(intents)
        sent += orders
        wanted = _what_is_missing(wanted, orders)
        trouble = why_open(orders)
        # One that may still trade is not sent again: it would close more than was asked for.
        if not trouble or any(not order.status.is_final for order in orders) or now() >= give_up_at:
            break
        await asyncio.sleep(_PAUSE_S)
        try:
            snapshot = await _refresh(exchange, give_up_at)
        except ExchangeUnavailable as error:
            trouble = f"{trouble}; {error.message}"
            break
        positions = [
            each for each in snapshot.open_positions() if each.symbol == request.symbol and _is_wanted(each, request)
        ]
    is_closed = bool(sent) and (not trouble or not intents)
    dust = tuple(closing.dust for closing in closings.values() if closing.dust is not None)
    return CloseResult(
        symbol=request.symbol,
        is_closed=is_closed,
        orders=tuple(sent),
        positions_left=await _positions_left(exchange, request.symbol),
        dust=dust,
        trouble="" if is_closed else trouble or "; ".join(part.describe() for part in dust),
    )


async def _refresh(exchange: Exchange, give_up_at: float) -> AccountSnapshot:
    """A fresh snapshot, as soon as the exchange gives one. `give_up_at`: in the loop's time. Raises ExchangeUnavailable."""
    while True:
        try:
            return await exchange.refresh()
        except ExchangeUnavailable:
            if asyncio.get_running_loop().time() >= give_up_at:
                raise
        await asyncio.sleep(_PAUSE_S)


async def _positions_left(exchange: Exchange, symbol: str) -> tuple[Position, ...]:
    """As the exchange shows them now, else as it showed them last."""
    try:
        snapshot: AccountSnapshot | None = await exchange.refresh()
    except ExchangeUnavailable:
        snapshot = exchange.snapshot
    return () if snapshot is None else tuple(each for each in snapshot.open_positions() if each.symbol == symbol)


# --------------------------------------------------------------------------------------------------------------------- pure


def _is_wanted(position: Position, request: CloseRequest) -> bool:
    return request.margin_mode in (None, position.margin_mode)


def _positions_of(snapshot: AccountSnapshot, request: CloseRequest) -> list[Position]:
    """The open positions that are meant: one, or both of a market if all is to be closed. Raises NotFound, ConfigError."""
    found = [each for each in snapshot.open_positions() if each.symbol == request.symbol and _is_wanted(each, request)]
    if not found:
        mode = "" if request.margin_mode is None else f"{request.margin_mode.lower()} "
        raise NotFound("not_found", f"{request.symbol} has no open {mode}position; `kekbridge positions` lists them")
    if len(found) > 1 and not request.is_whole:
        raise ConfigError(f"{request.symbol} has a cross and an isolated position; say which with --margin-mode")
    return found


def _wanted(
    positions: Sequence[Position], snapshot: AccountSnapshot, request: CloseRequest
) -> Mapping[MarginMode, Decimal | None]:
    """Base units to close of each position; None: all. Raises ConfigError for less than any order."""
    wanted: dict[MarginMode, Decimal | None] = {}
    for position in positions:
        quantity = request.quantity
        if not request.is_whole and request.share is not None:
            held = abs(position.quantity)
            quantity = ROUND_DOWN_CONTEXT.divide(ROUND_DOWN_CONTEXT.multiply(held, request.share), _WHOLE)
        instrument = snapshot.instruments.get(position.symbol)
        if quantity is not None and instrument is not None and quantity < instrument.base_min:
            raise ConfigError(
                f"found {format_12dp(quantity)} {instrument.base} to close, expected at least"
                f" {format_12dp(instrument.base_min)}, the exchange's smallest order"
            )
        wanted[position.margin_mode] = quantity
    return wanted


def _closings(
    positions: Sequence[Position], snapshot: AccountSnapshot, wanted: Mapping[MarginMode, Decimal | None]
) -> dict[MarginMode, Closing]:
    return {
        position.margin_mode: close_position(position, snapshot, quantity=wanted[position.margin_mode])
        for position in positions
        if position.margin_mode in wanted
    }


def _orders_of(closings: Mapping[MarginMode, Closing]) -> tuple[OrderIntent, ...]:
    return tuple(intent for closing in closings.values() for intent in closing.intents)


def _what_is_missing(
    wanted: Mapping[MarginMode, Decimal | None], orders: Sequence[Order]
) -> Mapping[MarginMode, Decimal | None]:
    """What is still to be closed after these orders."""
    left = dict(wanted)
    for order in orders:
        quantity = left[order.intent.margin_mode]
        if quantity is not None:
            left[order.intent.margin_mode] = ROUND_DOWN_CONTEXT.subtract(quantity, order.executed_quantity)
    return left
