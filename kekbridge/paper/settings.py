"""What can be chosen about a paper exchange. Values only; the meaning lives where they are used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal


def now_ms() -> int:
    """Wall-clock time in integer milliseconds, as on the wire."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class PaperSettings:
    """Settings of one paper exchange; the defaults are a fresh KEK DEX account on live prices.

    `instruments` restricts the listed symbols, `marks` sets start prices, `rules` overrides single fields of an
    instrument (for example `{"PERP_BTC_USDC": {"base_max": Decimal(1)}}`). With `registered` False the account's wallet has to
    register first, as a new one does.
    """

    prices: Literal["live", "static"] = "live"
    balance: Decimal = Decimal(100_000)
    taker_fee_bps: Decimal = Decimal("4.5")
    maker_fee_bps: Decimal = Decimal("1.5")
    leverage: int = 10
    max_leverage: int = 100
    rate_limits: bool = True
    registered: bool = True
    seed: int = 0
    match_delay_ms: int = 3
    liquidation_freeze_ms: int = 1000
    instruments: tuple[str, ...] | None = None
    marks: Mapping[str, Decimal] = field(default_factory=dict)
    rules: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    live_url: str = "https://api.orderly.org"
    live_stream_url: str = "wss://ws-evm.orderly.org/ws/stream/OqdphuyCtYWxwzhxyLLjOWNdFP7sQt8RPWzmb5xY"
    live_interval_s: float = 2.0
    live_timeout_s: float = 2.0
