"""Domain model: frozen value types shared by every package, one file per topic, imported from here.

No behaviour beyond arithmetic on their own fields, no I/O, no imports from the rest of the package. Money, prices and sizes are Decimal,
times are aware UTC datetimes; a quantity is in base units (coins) and a notional in USDC unless stated otherwise.
"""

from __future__ import annotations

from kekbridge.model.market import ZERO, AccountSnapshot, Instrument, MarginMode, Mark, Position
from kekbridge.model.orders import (
    FIRST_PROTECTIVE_LEG,
    FIRST_RETRY_LEG,
    NEVER,
    CancelRequest,
    Fill,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    OvertakenEntries,
    PositionPart,
    Purpose,
    Side,
    TakeProfit,
    client_order_id_of,
)
from kekbridge.model.risk import (
    UNCOMMITTED,
    Commitment,
    EquityMark,
    Flow,
    LimitBreach,
    RateExcess,
    Reservation,
    SideTotals,
    Usage,
    Verdict,
)
from kekbridge.model.state import Mode, TradingState
from kekbridge.model.strategy import StrategyHistory, StrategyStep
from kekbridge.model.webhooks import Limits, RateLimits, Webhook, WebhookSettings

__all__ = [
    "FIRST_PROTECTIVE_LEG",
    "FIRST_RETRY_LEG",
    "NEVER",
    "UNCOMMITTED",
    "ZERO",
    "AccountSnapshot",
    "CancelRequest",
    "Commitment",
    "EquityMark",
    "Fill",
    "Flow",
    "Instrument",
    "LimitBreach",
    "Limits",
    "MarginMode",
    "Mark",
    "Mode",
    "Order",
    "OrderIntent",
    "OrderStatus",
    "OrderType",
    "OvertakenEntries",
    "Position",
    "PositionPart",
    "Purpose",
    "RateExcess",
    "RateLimits",
    "Reservation",
    "Side",
    "SideTotals",
    "StrategyHistory",
    "StrategyStep",
    "TakeProfit",
    "TradingState",
    "Usage",
    "Verdict",
    "Webhook",
    "WebhookSettings",
    "client_order_id_of",
]
