"""Trading mode and trading state."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Which exchange receives the orders. Only `daemon/` acts on the difference."""

    PAPER = "paper"
    TESTNET = "testnet"
    LIVE = "live"


class TradingState(StrEnum):
    """Which orders may be sent. Stored; `halted` and `exits_only` survive a restart."""

    RUNNING = "running"
    EXITS_ONLY = "exits_only"
    HALTED = "halted"
