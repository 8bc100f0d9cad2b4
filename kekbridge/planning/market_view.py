"""The market of one alert step: instrument, mark, projected position, and the conversion from the sender's units.

Created once per step by translate.py; later stages read prices and positions from it, in the exchange's units.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from kekbridge.alerts import symbols
from kekbridge.alerts.signal import Signal
from kekbridge.errors import Refused
from kekbridge.model import (
    ZERO,
    AccountSnapshot,
    Instrument,
    MarginMode,
    OrderType,
    PositionPart,
    WebhookSettings,
)
from kekbridge.planning.sizing import ROUND_DOWN_CONTEXT

# Orderly's market states, docs/internals/orderly.md section 14. An empty status means active; an undocumented one accepts exits only.
_ACTIVE = frozenset({"", "ACTIVE"})
_CLOSED = frozenset({"NEW", "PENDING", "DELISTED"})
_RESTING = frozenset({OrderType.LIMIT, OrderType.POST_ONLY})


class MarketView(Struct, frozen=True, kw_only=True):
    """A market and the account's position in it, or the `part` of it that counts."""

    #: The exchange's rules of the market.
    instrument: Instrument
    #: Units of the sender's ticker in one unit of the market, such as 1000 for PEPE on PERP_1000PEPE_USDC.
    unit_factor: Decimal
    #: The sender's contracts count USD, not coins.
    is_inverse: bool
    #: Mark price; None if unknown.
    mark: Decimal | None
    #: Price of the open position, used by exits without a mark.
    fallback_price: Decimal | None
    #: Signed position in base units once our orders in flight have traded.
    projected: Decimal
    #: Account value in USDC.
    account_value: Decimal
    #: Signed part of the account's projected position in base units that other webhooks hold.
    others: Decimal = ZERO
    #: Which part of the account's position `projected` and `position` are.
    part: PositionPart = PositionPart.WHOLE
    #: Signed position in base units as the exchange shows it.
    position: Decimal = ZERO
    #: Signed quantity of an isolated position beside it, which alerts do not touch.
    isolated: Decimal = ZERO
    #: Remarks on how the symbol was resolved.
    warnings: tuple[str, ...] = ()

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    def seen_as(self, part: PositionPart) -> MarketView:
        """The same market with that part of the account's position. Of a view of the whole position only."""
        projected, position = part.of(self.projected, self.others), part.of(self.position, self.others)
        return replace(self, part=part, projected=projected, position=position)

    def base_units(self, contracts: Decimal) -> Decimal:
        """Convert the sender's coins to units of the market. Raises Refused on an inverse chart, where contracts count USD."""
        if self.is_inverse:
            raise Refused(
                "quantity_type_unsupported",
                "quantityType: found contracts of an inverse market, which count USD and not coins; "
                "add quantityType usd, percent_equity or risk_percent, or use the chart of a linear market",
                field="quantityType",
            )
        return ROUND_DOWN_CONTEXT.divide(contracts, self.unit_factor)

    def price(self, price: Decimal | None) -> Decimal | None:
        """Convert a price of the sender's chart to the market's units."""
        return None if price is None else ROUND_DOWN_CONTEXT.multiply(price, self.unit_factor)

    def entry_mark(self) -> Decimal:
        """The mark. Raises Refused(no_mark_price): no position is opened without one."""
        if self.mark is None:
            raise Refused(
                "no_mark_price",
                f"symbol: no mark price of {self.symbol} is known, an entry needs one; send again in a moment",
                field="symbol",
            )
        return self.mark

    def exit_mark(self) -> Decimal:
        """The mark, else the position's price: an exit must not fail because a price is missing."""
        return self.mark if self.mark is not None else self.fallback_price or ZERO

    def check_open(self, order_type: OrderType, *, is_entry: bool) -> None:
        """Check that the market accepts such an order in its current status. Raises Refused(market_closed)."""
        status = self.instrument.status.upper()
        if status in _ACTIVE:
            return
        if status == "POST_ONLY":
            allowed, accepted = order_type in _RESTING, "limit and post_only orders only"
        elif status in _CLOSED:
            allowed, accepted = False, "no orders"
        else:
            allowed, accepted = not is_entry, "closing orders only"
        if not allowed:
            raise Refused(
                "market_closed",
                f"symbol: {self.symbol} is {status} and accepts {accepted}; wait until it is ACTIVE",
                field="symbol",
            )


def no_orders(_symbol: str) -> Decimal:
    """The pending quantity of an account without orders in flight."""
    return ZERO


def no_others(_symbol: str, _position: Decimal) -> Decimal:
    """What other webhooks hold where there is one."""
    return ZERO


def read_market(
    signal: Signal,
    *,
    settings: WebhookSettings,
    snapshot: AccountSnapshot,
    pending: Callable[[str], Decimal] = no_orders,
    others: Callable[[str, Decimal], Decimal] = no_others,
) -> MarketView:
    """Build the view of the market that a signal names. Raises Refused with one of the symbol_… codes.

    `pending`: signed quantity of our own orders in a symbol that are certain to trade; `others`: what other webhooks hold of a symbol's
    signed position.
    """
    match = resolve_symbol(signal, settings=settings, snapshot=snapshot)
    position = snapshot.positions.get(match.symbol)
    quantity = snapshot.position_quantity(match.symbol)
    return MarketView(
        instrument=snapshot.instruments[match.symbol],
        unit_factor=match.unit_factor,
        is_inverse=match.is_inverse,
        mark=snapshot.mark_price(match.symbol),
        fallback_price=(position.mark_price or position.average_open_price) if position else None,
        projected=quantity + pending(match.symbol),
        others=others(match.symbol, quantity),
        position=quantity,
        account_value=snapshot.account_value,
        isolated=snapshot.position_quantity(match.symbol, MarginMode.ISOLATED),
        warnings=match.warnings,
    )


def resolve_symbol(signal: Signal, *, settings: WebhookSettings, snapshot: AccountSnapshot) -> symbols.SymbolMatch:
    """Find the listed market for the sender's spelling. Raises Refused with one of the symbol_… codes."""
    if signal.symbol is None:
        raise Refused("symbol_missing", 'symbol: missing, expected a ticker; add "symbol":"{{ticker}}"', field="symbol")
    return symbols.resolve(
        signal.symbol,
        exchange=signal.exchange,
        listed=snapshot.instruments,
        aliases=settings.aliases,
        rescale_units=settings.rescale_units,
    )
