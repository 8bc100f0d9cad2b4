"""Settings and account identity of a paper exchange: constants and plain values.

Imports no third-party package, so that a command can print the identity without loading the server.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

# The account of every paper exchange. The key's seed is the SHA-256 of a published sentence, so anyone can compute the
# secret: it is worthless outside a paper exchange.
PAPER_BROKER_ID: Final = "kek_ai"
PAPER_BROKER_NAME: Final = "Kek AI"
#: Documented test wallet; its private key is 32 bytes of 01 (docs/internals/orderly.md, section 3).
PAPER_ADDRESS: Final = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1"
#: keccak256(address, keccak256("kek_ai")) (docs/internals/orderly.md, section 3).
PAPER_ACCOUNT_ID: Final = "0x1486549202a0f260571dee401599c58ec79b04953008749ff2ab32576130bd83"
PAPER_USER_ID: Final = 24871
PAPER_ORDERLY_KEY: Final = "ed25519:2NFSkcrwowCy1xrmJ83mMc6zVGHjqYRifYPtEiK67eMY"
PAPER_ORDERLY_SECRET: Final = "ed25519:29hkcEUVRrRn9NYhjUV2orQnNWY1ZsuQNadKbRSWjRTx"  # noqa: S105  public on purpose
PAPER_KEY_SCOPE: Final = "read,trading"
PAPER_KEY_TAG: Final = "kekbridge-paper"


def now_ms() -> int:
    """Return the wall-clock time in ms since the epoch, the unit of every Orderly timestamp."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Options:
    """What the exchange does where Orderly's answer is not known (docs/internals/orderly.md, section 18); may change while it runs."""

    #: See PaperSettings.
    reduce_only_needs_position: bool
    bracket_exits_count: bool


@dataclass(frozen=True, slots=True)
class PaperSettings:
    """Settings of one paper exchange. The defaults are a fresh KEK DEX account at live prices."""

    #: Source of mark prices: Orderly's public feed, or the built-in snapshot.
    prices: Literal["live", "static"] = "live"
    #: USDC balance of a fresh account.
    balance: Decimal = Decimal(100_000)
    #: Taker fee in basis points.
    taker_fee_bps: Decimal = Decimal("4.5")
    #: Maker fee in basis points.
    maker_fee_bps: Decimal = Decimal("1.5")
    #: The same in markets of real-world assets.
    rwa_taker_fee_bps: Decimal = Decimal(5)
    rwa_maker_fee_bps: Decimal = Decimal(0)
    #: Leverage of a fresh account, capped at each symbol's maximum.
    leverage: int = 10
    #: Highest leverage that the account may choose.
    max_leverage: int = 100
    #: Whether the rate limits of the real exchange apply.
    rate_limits: bool = True
    #: Whether the account is registered at start. False: its wallet has to register first, like a new one.
    registered: bool = True
    #: Seed of faults that are armed with a probability.
    seed: int = 0
    #: Time from acceptance of an order to its matching, ms.
    match_delay_ms: int = 3
    #: How long creates are rejected after a liquidation, ms.
    liquidation_freeze_ms: int = 1000
    #: Whether a reduce-only create is rejected when there is nothing to reduce. False: it is accepted, then canceled.
    reduce_only_needs_position: bool = False
    #: Whether the exits of brackets count among the 10 untriggered TP_SL orders.
    bracket_exits_count: bool = False
    #: Listed symbols; None: all of the snapshot.
    instruments: tuple[str, ...] | None = None
    #: Start mark prices in USDC by symbol; other symbols start at the snapshot price.
    marks: Mapping[str, Decimal] = field(default_factory=dict)
    #: Overrides of instrument fields by symbol, such as `{"PERP_BTC_USDC": {"base_max": Decimal(1)}}`.
    rules: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    #: Base URL of the REST API that live prices come from.
    live_url: str = "https://api.orderly.org"
    #: URL of the public stream that live prices come from.
    live_stream_url: str = "wss://ws-evm.orderly.org/ws/stream/OqdphuyCtYWxwzhxyLLjOWNdFP7sQt8RPWzmb5xY"
    #: Pause between two attempts to reach the price feed, seconds.
    live_interval_s: float = 2.0
    #: Timeout of a request to the price feed, seconds.
    live_timeout_s: float = 2.0
