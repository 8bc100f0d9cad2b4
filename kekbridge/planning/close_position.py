"""Close a position as it is, no matter who opened it: the orders of `flatten` and of a close by hand. Pure.

Sizes are those that an alert's close gets, too (sizing.py).
"""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from kekbridge.model import ZERO, AccountSnapshot, MarginMode, OrderIntent, OrderType, Position, Purpose, Side
from kekbridge.planning.sizing import ROUND_DOWN_CONTEXT, closing_sizes, format_12dp


class Dust(Struct, frozen=True):
    """A part of a position that no order can close: it is below the exchange's smallest order."""

    symbol: str
    margin_mode: MarginMode
    #: Base units, short negative.
    quantity: Decimal
    #: The smallest order in this market, in base units.
    minimum: Decimal

    def describe(self) -> str:
        """One line for the trader."""
        base = self.symbol.split("_")[1]
        mode = " isolated" if self.margin_mode is MarginMode.ISOLATED else ""
        return f"{format_12dp(self.quantity)} {base}{mode} is dust: below {format_12dp(self.minimum)} {base}, the exchange's smallest order"


class Closing(Struct, frozen=True):
    """The orders that close a position, or a part of it."""

    #: Reduce-only market orders in the position's own margin mode; more than one only above the exchange's largest order.
    intents: tuple[OrderIntent, ...]
    #: What stays open and cannot be closed; None: nothing, or what was meant to stay open.
    dust: Dust | None = None


def close_position(position: Position, snapshot: AccountSnapshot, *, quantity: Decimal | None = None) -> Closing:
    """Close `quantity` base units of a position, at most all of it; None: all of it.

    Of a market without trading rules (delisted, or listed by a broker) one order of the exact size: the exchange then says what it takes.
    """
    held = abs(position.quantity)
    wanted = held if quantity is None else min(quantity, held)
    instrument = snapshot.instruments.get(position.symbol)
    sizes = (wanted,) if instrument is None else closing_sizes(wanted, instrument)
    intent = OrderIntent(
        symbol=position.symbol,
        side=Side.SELL if position.quantity > 0 else Side.BUY,
        order_type=OrderType.MARKET,
        quantity=ZERO,
        purpose=Purpose.EXIT,
        reference_price=snapshot.mark_price(position.symbol) or position.mark_price or position.average_open_price,
        reduce_only=True,
        margin_mode=position.margin_mode,
    )
    left = ROUND_DOWN_CONTEXT.subtract(held, sum(sizes, ZERO))
    dust = None
    if instrument is not None and 0 < left < instrument.base_min:
        signed = left if position.quantity > 0 else -left
        dust = Dust(position.symbol, position.margin_mode, signed, instrument.base_min)
    return Closing(tuple(replace(intent, quantity=size) for size in sizes), dust)
