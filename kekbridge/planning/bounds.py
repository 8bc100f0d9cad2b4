"""Check an alert against the bounds that its message states under its signature: `symbols` and `maxQuantity`. Pure.

They hold for a copy of the message, too, whose placeholders somebody else filled in.

Source: docs/alerts.md, `symbols` and `maxQuantity`.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from kekbridge.alerts.redaction import show
from kekbridge.alerts.signal import Signal
from kekbridge.errors import Refused, RequestRefused
from kekbridge.model import ZERO, AccountSnapshot, OrderIntent, Purpose, WebhookSettings
from kekbridge.planning.market_view import MarketView, resolve_symbol
from kekbridge.planning.sizing import ROUND_DOWN_CONTEXT, format_12dp


def check_symbol(signal: Signal, symbol: str, *, settings: WebhookSettings, snapshot: AccountSnapshot) -> None:
    """Raise Refused(symbol_not_allowed) if the message names `symbols`, and the market is none of them, also for exits and cancels."""
    if signal.symbols and symbol not in _listed(signal, settings, snapshot):
        raise Refused(
            "symbol_not_allowed",
            f"symbol: found {show(signal.symbol or '')}, the message's own symbols are {show(', '.join(signal.symbols))}; print a new"
            " template for another market",
            field="symbol",
        )


def check_size(signal: Signal, intents: Iterable[OrderIntent], market: MarketView) -> None:
    """Raise Refused(order_too_large) if the entries of a step exceed the message's own `maxQuantity`. Exits pass."""
    if signal.max_quantity is None:
        return
    largest = ROUND_DOWN_CONTEXT.divide(signal.max_quantity, market.unit_factor)
    size = sum((intent.quantity for intent in intents if intent.purpose is Purpose.ENTRY), ZERO)
    if size > largest:
        raise Refused(
            "order_too_large",
            f"quantity: found {format_12dp(size)} {market.instrument.base}, the message's own maxQuantity is {format_12dp(largest)};"
            " print a new template for larger orders",
            field="maxQuantity",
        )


def _listed(signal: Signal, settings: WebhookSettings, snapshot: AccountSnapshot) -> set[str]:
    found = set()
    for text in signal.symbols:
        try:
            found.add(resolve_symbol(replace(signal, symbol=text), settings=settings, snapshot=snapshot).symbol)
        except RequestRefused:
            continue  # no longer listed: allows no market
    return found
