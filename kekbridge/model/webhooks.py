"""A webhook and its settings: limits, rates, and how its messages are read.

Values only: risk/ applies the limits, alerts/ reads by the settings, store/codec.py stores both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

#: Path of the alert endpoint; part of every URL that is printed.
WEBHOOK_PATH: Final = "/api/webhooks/tradingview"


_MANDATORY_STOP_DISTANCE: Final = Decimal("0.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Entries allowed in a sliding window; 0 is no limit. Exits have none.

    A watchlist alert fires for all its markets at once, and TradingView does not send a refused one again.
    """

    #: In any minute, hour and day.
    per_minute: int = 60
    per_hour: int = 600
    per_day: int = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a webhook or of the whole account; None is no limit. Exits pass all of them.

    Defaults: docs/internals/architecture.md section 6.
    """

    #: Symbols that may be traded.
    allowed_symbols: tuple[str, ...] | None = None
    #: Order size in base units.
    min_order_size: Decimal | None = Decimal("0.001")
    max_order_size: Decimal | None = None
    #: Position in base units, open orders included.
    max_position_size: Decimal | None = None
    #: USDC of one order.
    max_notional: Decimal | None = Decimal(10_000)
    #: USDC traded and reserved per UTC day.
    daily_limit: Decimal | None = None
    #: Entries per UTC day.
    daily_orders: int | None = None
    #: Realized loss per UTC day in USDC.
    max_daily_loss: Decimal | None = None
    #: Drawdown from the equity peak, as a fraction (0.05 = 5 %).
    max_drawdown: Decimal | None = None
    max_leverage: Decimal | None = Decimal(10)
    #: An order that asks for more leverage: `refuse` it, or `lower` its leverage.
    leverage_policy: str = "refuse"
    max_open_positions: int | None = 10
    require_stop_loss: bool = False
    #: Distance of the stop loss from the entry price, as a fraction; see `farthest_stop`.
    max_stop_distance: Decimal | None = None
    #: How much worse than the alert's price the mark, and a market order's fill, may be, as a fraction.
    max_slippage: Decimal | None = None
    #: Minimum seconds between two entries in one symbol.
    cooldown_s: int | None = None
    #: When entries are allowed, such as `Mon-Fri 07:00-22:00 UTC` (risk/trading_hours.py).
    trading_hours: str | None = None

    @property
    def farthest_stop(self) -> Decimal | None:
        """Maximum distance of a stop loss: a mandatory one has a maximum even if none is set, so that it cannot be a mere formality."""
        if self.max_stop_distance is not None or not self.require_stop_loss:
            return self.max_stop_distance
        return _MANDATORY_STOP_DISTANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Everything about a webhook that its owner may change while the daemon runs."""

    #: Risk limits of this webhook; those of the account apply besides.
    limits: Limits = field(default_factory=Limits)
    #: Alerts it may send.
    rates: RateLimits = field(default_factory=RateLimits)
    #: False: the random apiKey alone authenticates the sender.
    require_signature: bool = True
    require_timestamp: bool = True
    #: Maximum age of an alert in seconds; None: `auth.max_timestamp_age_s`.
    max_timestamp_age_s: int | None = None
    #: `signal`: each alert is an order; `position`: alerts name a target position.
    follow: str = "signal"
    #: Message format (alerts/profiles.py).
    profile: str = "seed"
    #: Field values for messages that lack them.
    defaults: Mapping[str, str] = field(default_factory=dict)
    #: Field values that no message can override.
    locked: Mapping[str, str] = field(default_factory=dict)
    #: Ticker -> symbol.
    aliases: Mapping[str, str] = field(default_factory=dict)
    #: Trade PEPE alerts on the 1000PEPE instrument, with sizes divided by 1000.
    rescale_units: bool = False
    #: Read an empty `stopLoss` as "none" instead of refusing the alert.
    allow_empty_stop_loss: bool = False
    #: Position mode: correct a difference from the strategy's position instead of only reporting it.
    resync: bool = False
    #: An order against an open position closes it first and then opens its full size (swing trading).
    reverse: bool = False
    #: The key may be the last part of the URL, for texts that cannot be edited.
    key_in_path: bool = False
    #: Milliseconds to wait for an alert that this one, with a strategy's position, may have overtaken.
    reorder_ms: int = 500
    #: Networks that may send; empty: every address.
    allowed_addresses: tuple[str, ...] = ()
    #: Notify the owner when no alert (a ping counts) arrived for this many seconds; None: never.
    expect_alert_every_s: int | None = None
    #: When the alert expires at TradingView, as its owner read it there.
    alert_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A named endpoint configuration; its credentials are not part of this value."""

    id: str
    #: Unique; as the owner named it.
    name: str
    #: False: its alerts are refused.
    enabled: bool
    created_at: datetime
    settings: WebhookSettings = field(default_factory=WebhookSettings)
