"""Addresses of the running daemon, stored for CLI commands."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Final

from kekbridge.config import Settings
from kekbridge.errors import ConfigError, StoreUnavailable
from kekbridge.log import get_logger
from kekbridge.model import Mode
from kekbridge.store import settings
from kekbridge.store.database import Database

log = get_logger("kekbridge.store.daemon_addresses")

_EXCHANGE_ADDRESS: Final = "exchange_address"
_ADMIN_ADDRESS: Final = "admin_address"


async def save_exchange_address(database: Database, url: str, *, now: datetime) -> None:
    """Save the exchange's address for commands that call it directly: the embedded paper exchange may use another port than usual."""
    await _save(database, _EXCHANGE_ADDRESS, url, now)


async def save_admin_address(database: Database, url: str | None, *, now: datetime) -> None:
    """Save the address of the admin listener; None: it does not listen."""
    await _save(database, _ADMIN_ADDRESS, url, now)


async def _save(database: Database, name: str, url: str | None, now: datetime) -> None:
    try:
        await database.write(settings.set_value, name, url, now=now)
    except StoreUnavailable as error:
        log.warning("address_not_noted", name=name, error=error.message)


def admin_address(connection: sqlite3.Connection) -> str | None:
    """Address of the admin listener of the last daemon; None if none has run yet, or its port was in use."""
    stored = settings.get_value(connection, _ADMIN_ADDRESS)
    return None if stored is None else str(stored)


def exchange_address(connection: sqlite3.Connection, configured: Settings) -> str | None:
    """Address of the paper exchange that the last daemon used; None if mode or settings determine the address.

    Raises ConfigError if no daemon has run in paper mode yet.
    """
    if configured.mode is not Mode.PAPER or configured.exchange.base_url:
        return None
    stored = settings.get_value(connection, _EXCHANGE_ADDRESS)
    if stored is None:
        raise ConfigError("no paper exchange has run on this data directory yet; `kekbridge serve` starts one")
    return str(stored)
