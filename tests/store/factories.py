"""Values for tests of the store, with defaults for every field."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from kekbridge.model import Fill, OrderIntent, OrderStatus, OrderType, Purpose, RateLimits, Side, Usage, WebhookSettings
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import webhooks

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)
EXPIRES = NOW + timedelta(seconds=60)
NO_RATES = RateLimits(per_minute=0, per_hour=0, per_day=0)

_numbers = count(1)


def intent(**changes: Any) -> OrderIntent:
    """A market buy of 0.01 BTC at 65,000: 650 USDC."""
    values: dict[str, Any] = {
        "symbol": "PERP_BTC_USDC",
        "side": Side.BUY,
        "order_type": OrderType.MARKET,
        "quantity": Decimal("0.01"),
        "purpose": Purpose.ENTRY,
        "reference_price": Decimal(65000),
    }
    return OrderIntent(**values | changes)


def status_report(client_order_id: str, status: OrderStatus, executed: Decimal, **changes: Any) -> OrderStatusReport:
    """A report about a market order."""
    values: dict[str, Any] = {
        "order_id": "9001",
        "client_order_id": client_order_id,
        "is_algo": False,
        "symbol": "PERP_BTC_USDC",
        "side": Side.BUY,
        "order_type": OrderType.MARKET,
        "venue_type": None,
        "status": status,
        "quantity": Decimal("0.01"),
        "executed_quantity": executed,
        "average_price": Decimal(65000) if executed else None,
        "limit_price": None,
        "trigger_price": None,
        "fee": Decimal(0),
        "realized_pnl": None,
        "reduce_only": False,
        "reason": "",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return OrderStatusReport(**values | changes)


def exit_intent(**changes: Any) -> OrderIntent:
    """A reduce-only market sell that closes the buy of `intent`."""
    return intent(**{"side": Side.SELL, "purpose": Purpose.EXIT, "reduce_only": True} | changes)


def new_alert(**changes: Any) -> NewAlert:
    """An alert with its own identity, received at NOW; its id looks like a ULID, and later ones are larger."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "id": f"01KF{number:022d}",
        "webhook_id": "hook",
        "webhook_name": "default",
        "alert_id": f"alert-{number}",
        "identity": f"id:alert-{number}",
        "window_s": None,
        "markets": ("PERP_BTC_USDC",),
        "fingerprint": f"print-{number}",
        "received_at": NOW,
        "fired_at": None,
        "remote": "192.0.2.7",
        "proof": "header",
        "payload": {"action": "buy", "symbol": "BTCUSDT.P", "quantity": Decimal("0.01")},
        "action": "buy",
        "symbol": "BTCUSDT.P",
    }
    return NewAlert(**values | changes)


def admitting(*intents: OrderIntent, **changes: Any) -> Any:
    """A decision function that admits these orders for any usage."""

    def decide(usage: Usage) -> Decision:
        return Decision(status="admitted", intents=intents or (intent(),), **changes)

    return decide


def fill(**changes: Any) -> Fill:
    """A taker fill of 0.01 BTC at 65,000."""
    values: dict[str, Any] = {
        "trade_id": f"trade-{next(_numbers)}",
        "order_id": "1001",
        "client_order_id": None,
        "symbol": "PERP_BTC_USDC",
        "side": Side.BUY,
        "price": Decimal(65000),
        "quantity": Decimal("0.01"),
        "fee": Decimal("0.2925"),
        "realized_pnl": Decimal(0),
        "is_maker": False,
        "executed_at": NOW,
    }
    return Fill(**values | changes)


def create_webhook(connection: sqlite3.Connection, webhook_id: str, *, name: str, keys: Iterable[str]) -> None:
    """A webhook with default settings; each key is looked up by its own id and holds no secret."""
    webhooks.create(connection, webhook_id=webhook_id, name=name, settings=WebhookSettings(), now=NOW)
    for key in keys:
        webhooks.add_key(
            connection,
            key_id=key,
            webhook_id=webhook_id,
            lookup=key.encode(),
            prefix=key,
            sealed_key=b"",
            sealed_secret=b"",
            now=NOW,
        )
