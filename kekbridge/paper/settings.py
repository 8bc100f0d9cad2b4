"""What can be chosen about a paper exchange. Values only; the meaning lives where they are used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

PAPER_BROKER_ID: Final = "kek_ai"
PAPER_BROKER_NAME: Final = "Kek AI"
PAPER_ADDRESS: Final = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1"
"""The documented test wallet (private key: 32 bytes of 01), orderly-api.md section 3."""
PAPER_ACCOUNT_ID: Final = "0x1486549202a0f260571dee401599c58ec79b04953008749ff2ab32576130bd83"
"""keccak256(address, keccak256("kek_ai")), orderly-api.md section 3."""
PAPER_USER_ID: Final = 24871
PAPER_ORDERLY_KEY: Final = "ed25519:2NFSkcrwowCy1xrmJ83mMc6zVGHjqYRifYPtEiK67eMY"
PAPER_ORDERLY_SECRET: Final = "ed25519:29hkcEUVRrRn9NYhjUV2orQnNWY1ZsuQNadKbRSWjRTx"  # noqa: S105  public on purpose
PAPER_KEY_SCOPE: Final = "read,trading"
PAPER_KEY_TAG: Final = "kekbridge-paper"


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
