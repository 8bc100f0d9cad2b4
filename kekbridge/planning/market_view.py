"""One market as one alert meets it: its rules, its mark, the position that will be there, and the unit the sender counts in.

Made once per step by translate.py; everything after it reads prices and positions from here, already in the exchange's units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from kekbridge.alerts import symbols
from kekbridge.alerts.signal import Signal
from kekbridge.errors import Refused
from kekbridge.model import ZERO, AccountSnapshot, Instrument, OrderType, WebhookSettings
from kekbridge.planning.sizing import DOWNWARDS

# Orderly's market states, docs/internals/orderly.md section 14. A missing status means active; an undocumented one takes exits only.
_ACTIVE = frozenset({"", "ACTIVE"})
_SHUT = frozenset({"NEW", "PENDING", "DELISTED"})
_RESTING = frozenset({OrderType.LIMIT, OrderType.POST_ONLY})


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketView:
    """`projected` is the signed position once our orders on their way have traded; `fallback_price` serves exits without a mark."""

    instrument: Instrument
    unit_factor: Decimal
    is_inverse: bool
    mark: Decimal | None
    fallback_price: Decimal | None
    projected: Decimal
    account_value: Decimal
    warnings: tuple[str, ...] = ()

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    def base_units(self, contracts: Decimal) -> Decimal:
        """The sender's number of coins as the market counts them. Raises Refused on an inverse chart, where contracts are USD."""
        if self.is_inverse:
            raise Refused(
                "quantity_type_unsupported",
                "quantityType: found contracts of an inverse market, which count USD and not coins; "
                "add quantityType usd, percent_equity or risk_percent, or use the chart of a linear market",
                field="quantityType",
            )
        return DOWNWARDS.divide(contracts, self.unit_factor)

    def price(self, price: Decimal | None) -> Decimal | None:
        """A price of the sender's chart in the market's units."""
        return None if price is None else DOWNWARDS.multiply(price, self.unit_factor)

    def entry_mark(self) -> Decimal:
        """The mark. Raises Refused(no_mark_price): nothing may be opened blindly."""
        if self.mark is None:
            raise Refused(
                "no_mark_price",
                f"symbol: no mark price of {self.symbol} is known, expected one before anything is opened; send again in a moment",
                field="symbol",
            )
        return self.mark

    def exit_mark(self) -> Decimal:
        """The mark, else the position's own price: an exit must not fail because a price is missing."""
        return self.mark if self.mark is not None else self.fallback_price or ZERO

    def check_open(self, order_type: OrderType, *, is_entry: bool) -> None:
        """Raise Refused(market_closed) when the market takes no such order now (Orderly: status, section 14)."""
        status = self.instrument.status.upper()
        if status in _ACTIVE:
            return
        if status == "POST_ONLY":
            allowed, takes = order_type in _RESTING, "limit and post_only orders only"
        elif status in _SHUT:
            allowed, takes = False, "no orders"
        else:
            allowed, takes = not is_entry, "closing orders only"
        if not allowed:
            raise Refused(
                "market_closed",
                f"symbol: {self.symbol} is {status} and takes {takes}; wait until it is ACTIVE",
                field="symbol",
            )


def read_market(
    signal: Signal, *, settings: WebhookSettings, snapshot: AccountSnapshot, pending: Mapping[str, Decimal]
) -> MarketView:
    """The market that a signal names. Raises Refused with one of the symbol_… codes."""
    match = resolve(signal, settings=settings, snapshot=snapshot)
    position = snapshot.positions.get(match.symbol)
    return MarketView(
        instrument=snapshot.instruments[match.symbol],
        unit_factor=match.unit_factor,
        is_inverse=match.is_inverse,
        mark=snapshot.mark_price(match.symbol),
        fallback_price=(position.mark_price or position.average_open_price) if position else None,
        projected=snapshot.position_quantity(match.symbol) + pending.get(match.symbol, ZERO),
        account_value=snapshot.account_value,
        warnings=match.warnings,
    )


def resolve(signal: Signal, *, settings: WebhookSettings, snapshot: AccountSnapshot) -> symbols.SymbolMatch:
    """The listed market behind the sender's spelling. Raises Refused: symbol_missing, symbol_unknown, …"""
    if signal.symbol is None:
        raise Refused("symbol_missing", 'symbol: missing, expected a ticker; add "symbol":"{{ticker}}"', field="symbol")
    return symbols.resolve(
        signal.symbol,
        exchange=signal.exchange,
        listed=snapshot.instruments,
        aliases=settings.aliases,
        rescale_units=settings.rescale_units,
    )
