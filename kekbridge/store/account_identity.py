"""The exchange account and mode that a data directory belongs to, remembered from the first start on.

Orders, fills, peaks and limits are those of one account: another account or mode on the same directory is refused, never mixed in.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kekbridge.errors import ConfigError
from kekbridge.model import Mode
from kekbridge.store import codec, settings

_KEY: Final = "account_identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountIdentity:
    """An account at one venue."""

    #: Where it trades.
    mode: Mode
    #: The exchange's id of the account; empty if only the mode is known.
    account_id: str
    #: First start on the directory (UTC); None before it.
    since: datetime | None = None

    def is_same(self, other: AccountIdentity) -> bool:
        """True for the same mode and account; ids are compared without case, an unknown one is not compared."""
        is_known = bool(self.account_id and other.account_id)
        return self.mode is other.mode and (not is_known or self.account_id.lower() == other.account_id.lower())

    def __str__(self) -> str:
        return f"{self.mode.value} account {self.account_id}" if self.account_id else f"mode {self.mode.value}"


def remembered(connection: sqlite3.Connection) -> AccountIdentity | None:
    """The account of this directory; None before its first start."""
    stored: Any = settings.get_value(connection, _KEY)
    if stored is None:
        return None
    return AccountIdentity(
        mode=Mode(stored["mode"]), account_id=stored["account_id"], since=codec.parse_time(stored["since"])
    )


def remember(connection: sqlite3.Connection, account: AccountIdentity, *, now: datetime) -> None:
    """Remember the account as that of this directory."""
    values = {"mode": account.mode.value, "account_id": account.account_id, "since": codec.time_text(now)}
    settings.set_value(connection, _KEY, values, now=now)


def require_same(known: AccountIdentity | None, wanted: AccountIdentity, directory: object) -> None:
    """Raises ConfigError (found, expected, what to do) if the directory belongs to another account or mode."""
    if known is None or known.is_same(wanted):
        return
    since = f" since {known.since:%Y-%m-%d}" if known.since else ""
    raise ConfigError(
        f"data directory {directory} belongs to {known}{since}, the settings name {wanted}; their orders, limits and statistics must not"
        " be mixed: use another directory (--data-dir or KEKBRIDGE_DATA_DIR), or set mode and exchange.account_id back"
    )
