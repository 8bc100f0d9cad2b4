"""Where the daemon can be found, for the commands beside it: noted by the daemon when it listens, read by whoever runs a command."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Final

from kekbridge.config import Settings
from kekbridge.errors import ConfigError, StoreUnavailable
from kekbridge.log import get_logger
from kekbridge.model import Mode
from kekbridge.store import settings as store_settings
from kekbridge.store.database import Database

log = get_logger("kekbridge.store.daemon_addresses")

_EXCHANGE_ADDRESS: Final = "exchange_address"
_ADMIN_ADDRESS: Final = "admin_address"


async def save_exchange_address(database: Database, url: str, *, now: datetime) -> None:
    """For commands that must reach the exchange without the daemon: the embedded one may have had to take another port."""
    await _note(database, _EXCHANGE_ADDRESS, url, now)


async def save_admin_address(database: Database, url: str, *, now: datetime) -> None:
    """Where the operator's requests are taken."""
    await _note(database, _ADMIN_ADDRESS, url, now)


async def _note(database: Database, name: str, url: str, now: datetime) -> None:
    try:
        await database.write(store_settings.set_value, name, url, now=now)
    except StoreUnavailable as error:
        log.warning("address_not_noted", name=name, error=error.message)


def admin_address(connection: sqlite3.Connection) -> str | None:
    """Where the daemon that last ran took the operator's requests; None before the first."""
    known = store_settings.get_value(connection, _ADMIN_ADDRESS)
    return None if known is None else str(known)


def exchange_address(connection: sqlite3.Connection, settings: Settings) -> str | None:
    """Where the daemon that last ran in paper mode found its exchange, for commands beside it; None when the settings say it.

    Raises ConfigError when there is no way to know.
    """
    if settings.mode is not Mode.PAPER or settings.exchange.base_url:
        return None
    known = store_settings.get_value(connection, _EXCHANGE_ADDRESS)
    if known is None:
        raise ConfigError("no paper exchange has run on this data directory yet; `kekbridge serve` starts one")
    return str(known)
