"""What the exchange took over of a position, as a fill: liquidations and auto-deleveraging have no trade of their own. Pure.

A fill of this kind is an execution like any other: it moves the position, has a price and a fee, and realizes P&L once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Final

from kekbridge.exchange.base import ClosedPosition, LiquidatedPart
from kekbridge.model import ZERO, Fill, MarginMode, Side
from kekbridge.store.codec import EXACT

LIQUIDATION: Final = "liquidation"
ADL: Final = "adl"
#: The line of a position that a liquidation closed is written within this time of it.
SAME_TIME: Final = timedelta(seconds=60)
# Finer than any figure of the exchange.
_SMALLEST: Final = Decimal("1e-8")


def is_takeover(fill: Fill) -> bool:
    """True for a fill that one of these functions made."""
    return fill.trade_id.startswith((f"{LIQUIDATION}-", f"{ADL}-"))


def liquidation_name(taken: LiquidatedPart) -> str:
    """Trade id of the fill of a liquidated part."""
    return f"{LIQUIDATION}-{taken.id}-{taken.symbol}"


def liquidation_fill(taken: LiquidatedPart, realized_pnl: Decimal | None, margin_mode: MarginMode) -> Fill:
    """The fill of a liquidated part; `realized_pnl` in USDC, before its fee; None while it is not known."""
    name = liquidation_name(taken)
    return Fill(
        trade_id=name,
        order_id=name,
        client_order_id=None,
        symbol=taken.symbol,
        side=Side.SELL if taken.quantity > 0 else Side.BUY,
        price=taken.price,
        quantity=abs(taken.quantity),
        fee=taken.fee,
        realized_pnl=realized_pnl,
        is_maker=False,
        executed_at=taken.at,
        margin_mode=margin_mode,
    )


def realized_at_average(taken: LiquidatedPart, average: Decimal) -> Decimal:
    """What a liquidated part realized of a position with this average price, in USDC: the exchange's own arithmetic."""
    return EXACT.multiply(taken.quantity, EXACT.subtract(taken.price, average))


def line_of(taken: LiquidatedPart, lines: Iterable[ClosedPosition]) -> ClosedPosition | None:
    """The line of the position that a liquidated part belongs to; None if the exchange does not list it (yet).

    Of a cross and an isolated position on the same side: the one that was closed by a liquidation, next to its time.
    """
    found = [
        line
        for line in lines
        if line.symbol == taken.symbol
        and line.is_long == (taken.quantity > 0)
        and line.opened_at <= taken.at <= line.closed_at + SAME_TIME
    ]
    return min(found, key=lambda line: (line.kind != "liquidated", abs(line.closed_at - taken.at)), default=None)


def realized_of_line(taken: LiquidatedPart, line: ClosedPosition, known: Iterable[Fill]) -> Decimal | None:
    """What a liquidated part realized by the line of its position; None if the other executions leave less than the part.

    `known`: every other execution of that position. Where they leave more, its share of the rest, in USDC.
    """
    quantity, realized = rest_of(line, known)
    if quantity < abs(taken.quantity):
        return None
    if quantity == abs(taken.quantity):
        return realized
    return (realized * abs(taken.quantity) / quantity).quantize(_SMALLEST)


def rest_of(line: ClosedPosition, known: Iterable[Fill]) -> tuple[Decimal, Decimal]:
    """Quantity (base units) and realized P&L (USDC) of a line that the known fills of its market do not explain."""
    quantity, realized = line.quantity, line.realized_pnl
    closing = Side.SELL if line.is_long else Side.BUY
    for fill in known:
        if not _is_part(fill, line):
            continue
        if fill.realized_pnl:
            realized = EXACT.subtract(realized, fill.realized_pnl)
        if fill.side is closing:
            quantity = EXACT.subtract(quantity, fill.quantity)
    return max(quantity, ZERO), realized


def adl_name(line: ClosedPosition) -> str:
    """Trade id of the fill that a line leads to: a line that grows leads to one fill for each part."""
    return f"{ADL}-{line.id}-{line.quantity.normalize():f}"


def adl_fill(line: ClosedPosition, known: Iterable[Fill]) -> Fill | None:
    """The fill of what auto-deleveraging took over of a position; None if the known fills explain the line."""
    before = list(known)
    quantity, realized = rest_of(line, before)
    if line.kind != ADL or not quantity:
        return None
    closing = Side.SELL if line.is_long else Side.BUY
    value = EXACT.multiply(line.average_close, line.quantity)
    for fill in before:
        if _is_part(fill, line) and fill.side is closing:
            value = EXACT.subtract(value, EXACT.multiply(fill.price, fill.quantity))
    name = adl_name(line)
    return Fill(
        trade_id=name,
        order_id=name,
        client_order_id=None,
        symbol=line.symbol,
        side=closing,
        price=(value / quantity).quantize(_SMALLEST) if value > 0 else line.average_close,
        quantity=quantity,
        fee=ZERO,
        realized_pnl=realized,
        is_maker=False,
        executed_at=line.closed_at,
        margin_mode=line.margin_mode,
    )


def _is_part(fill: Fill, line: ClosedPosition) -> bool:
    """True for an execution of the position that a line is about."""
    is_position = fill.symbol == line.symbol and fill.margin_mode is line.margin_mode
    return is_position and line.opened_at <= fill.executed_at <= line.closed_at
