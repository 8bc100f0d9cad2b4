"""Where orders go, and what the daemon may do at the moment."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Where orders go. Only daemon.py acts on the difference."""

    PAPER = "paper"
    TESTNET = "testnet"
    LIVE = "live"


class TradingState(StrEnum):
    """What the daemon may do now. Persisted; `halt` and `exits_only` survive a restart."""

    RUNNING = "running"
    EXITS_ONLY = "exits_only"
    HALTED = "halted"
