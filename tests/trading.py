"""Builders of accounts, markets, orders and limits for tests of pure code. Instruments have the rules of real markets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from kekbridge.alerts.signal import Action, Signal
from kekbridge.model import (
    UNCOMMITTED,
    AccountSnapshot,
    Commitment,
    Instrument,
    Limits,
    Mark,
    OrderIntent,
    OrderType,
    Position,
    Purpose,
    Reservation,
    Side,
    Webhook,
    WebhookSettings,
)

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)
BTC, ETH, PEPE = "PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_1000PEPE_USDC"
D = Decimal


def instrument(symbol: str = BTC, **changes: Any) -> Instrument:
    """An instrument with BTC's rules on mainnet in 2025, with changes."""
    rules: dict[str, Any] = {
        "quote_min": D(0),
        "quote_max": D(200_000),
        "quote_tick": D("0.1"),
        "base_min": D("0.00001"),
        "base_max": D(10),
        "base_tick": D("0.00001"),
        "min_notional": D(10),
        "price_range": D("0.01"),
        "price_scope": D("0.6"),
        "base_imr": D("0.01"),
        "base_mmr": D("0.006"),
        "imr_factor": D("0.000000375"),
    }
    return Instrument(symbol=symbol, **(rules | changes))


INSTRUMENTS = {
    BTC: instrument(),
    ETH: instrument(ETH, quote_tick=D("0.01"), base_min=D("0.0001"), base_tick=D("0.0001"), base_max=D(200)),
    PEPE: instrument(
        PEPE,
        quote_max=D(1),
        quote_tick=D("0.000001"),
        base_min=D(10),
        base_tick=D(10),
        base_max=D(42_000_000),
        base_imr=D("0.1"),
    ),
}
MARKS = {BTC: D(65_000), ETH: D(1800), PEPE: D("0.0118")}


def snapshot(
    positions: Mapping[str, str] | None = None,
    *,
    marks: Mapping[str, Decimal] | None = None,
    instruments: Mapping[str, Instrument] | None = None,
    **changes: Any,
) -> AccountSnapshot:
    """An account worth 100,000 USDC with signed positions by symbol, opened at the mark."""
    prices = MARKS if marks is None else marks
    values: dict[str, Any] = {
        "taken_at": NOW,
        "instruments": INSTRUMENTS if instruments is None else instruments,
        "marks": {symbol: Mark(price, NOW) for symbol, price in prices.items()},
        "positions": {
            symbol: Position(symbol=symbol, quantity=D(size), average_open_price=prices.get(symbol) or MARKS[symbol])
            for symbol, size in (positions or {}).items()
        },
        "account_value": D(100_000),
        "free_collateral": D(100_000),
        "leverage": {BTC: D(10), ETH: D(10), PEPE: D(10)},
    }
    return AccountSnapshot(**(values | changes))


def signal(action: Action, symbol: str | None = "BTCUSDT.P", **fields: Any) -> Signal:
    return Signal(action=action, symbol=symbol, **fields)


def webhook(limits: Limits | None = None, **settings: Any) -> Webhook:
    """A webhook with the default limits or the given ones."""
    return Webhook(
        id="W",
        name="test",
        enabled=True,
        created_at=NOW,
        settings=WebhookSettings(limits=limits or Limits(), **settings),
    )


NO_LIMITS = Limits(min_order_size=None, max_notional=None, max_leverage=None, max_open_positions=None)


def entry(quantity: str = "0.1", side: Side = Side.BUY, symbol: str = BTC, **fields: Any) -> OrderIntent:
    """A market entry at the mark."""
    values: dict[str, Any] = {
        "symbol": symbol,
        "side": side,
        "order_type": OrderType.MARKET,
        "quantity": D(quantity),
        "purpose": Purpose.ENTRY,
        "reference_price": MARKS[symbol],
    }
    return OrderIntent(**(values | fields))


def exit_order(quantity: str = "0.1", side: Side = Side.SELL, **fields: Any) -> OrderIntent:
    """A reduce-only market order."""
    return entry(quantity, side, purpose=Purpose.EXIT, reduce_only=True, **fields)


def commitments_of(*reservations: Reservation) -> dict[str, Commitment]:
    """The sums by symbol that Usage holds for these reservations."""
    commitments: dict[str, Commitment] = {}
    for one in reservations:
        commitments[one.symbol] = commitments.get(one.symbol, UNCOMMITTED).plus(
            one.quantity,
            is_entry=one.is_entry,
            is_resting=one.is_resting,
            is_margined=one.is_margined,
            price=one.price,
        )
    return commitments


def reservation(quantity: str, symbol: str = BTC, *, client_order_id: str = "kb-1", **fields: Any) -> Reservation:
    """The reservation of an entry of signed `quantity`, valued at the mark."""
    values: dict[str, Any] = {
        "client_order_id": client_order_id,
        "webhook_id": "W",
        "symbol": symbol,
        "quantity": D(quantity),
        "notional": abs(D(quantity)) * MARKS[symbol],
        "is_entry": True,
        "is_resting": False,
    }
    return Reservation(**(values | fields))
