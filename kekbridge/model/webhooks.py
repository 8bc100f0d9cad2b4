"""A door for alerts and everything its owner may set: limits, rates, and how messages are read.

Values only: risk/ judges by the limits, alerts/ reads by the settings, store/codec.py writes both down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Alerts a webhook may send in any sliding minute, hour and day; exits are counted apart under the same numbers."""

    per_minute: int = 10
    per_hour: int = 100
    per_day: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a webhook, or the whole account, may do. None means no limit. Exits pass every one of these.

    Sizes in base units, notionals and losses in USDC, ratios as fractions (0.05 = 5 %). Defaults: docs/internals/architecture.md section 6.
    """

    allowed_symbols: tuple[str, ...] | None = None
    min_order_size: Decimal | None = Decimal("0.001")
    max_order_size: Decimal | None = Decimal(1000)
    max_position_size: Decimal | None = None
    max_notional: Decimal | None = None
    daily_limit: Decimal | None = None
    daily_orders: int | None = None
    max_daily_loss: Decimal | None = None
    max_drawdown: Decimal | None = None
    max_leverage: Decimal | None = Decimal(10)
    leverage_policy: str = "refuse"
    max_open_positions: int | None = 10
    require_stop_loss: bool = False
    max_stop_distance: Decimal | None = None
    max_slippage: Decimal | None = None
    cooldown_s: int | None = None
    trading_hours: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Everything about a webhook that its owner may change while the daemon runs."""

    limits: Limits = field(default_factory=Limits)
    rates: RateLimits = field(default_factory=RateLimits)
    require_signature: bool = True
    require_timestamp: bool = True
    max_timestamp_age_s: int | None = None
    follow: str = "signal"  # "signal": each alert is an order; "position": alerts name a target position
    profile: str = "seed"
    defaults: Mapping[str, str] = field(default_factory=dict)
    locked: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    rescale_units: bool = False
    allow_empty_stop_loss: bool = False
    resync: bool = False
    reorder_ms: int = 500
    allowed_addresses: tuple[str, ...] = ()
    expect_alert_every_s: int | None = None  # an alert (a ping does) is expected at least so often; None: nobody waits
    alert_expires_at: datetime | None = None  # when the alert at TradingView ends, as its owner read it there


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A named door for alerts; its credentials are not part of this value."""

    id: str
    name: str
    enabled: bool
    created_at: datetime
    settings: WebhookSettings = field(default_factory=WebhookSettings)


WEBHOOK_PATH: Final = "/api/webhooks/tradingview"  # where alerts come in; part of every URL that is printed
