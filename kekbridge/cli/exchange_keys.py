"""Which Orderly keys this data directory has: remembered by account, without their secrets, for people and for the vault's commands.

The secrets live in the vault under names that follow from the account; a vault cannot always list what it holds, this record can.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import base58
from nacl.signing import SigningKey

from kekbridge.model import Mode
from kekbridge.store import codec, events, settings
from kekbridge.vault import MASTER_KEY, orderly_secret

PENDING: Final = "orderly-pending"
"""The vault's name for a key that was generated and is not registered yet."""
_KNOWN: Final = "orderly_keys"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that was entered or registered here; `mode` says at which venue."""

    account_id: str
    orderly_key: str
    mode: Mode
    added_at: datetime


def new_secret() -> str:
    """A fresh ed25519 secret as the exchange's tools write it: `ed25519:` and base58 of the 32-byte seed."""
    return "ed25519:" + base58.b58encode(bytes(SigningKey.generate())).decode("ascii")


def add_key(connection: sqlite3.Connection, key: KnownKey, *, now: datetime) -> None:
    """Note a key whose secret was put into the vault; the account's older one is replaced, as it is in the vault."""
    rows = _rows(connection) | {
        key.account_id: {
            "orderly_key": key.orderly_key,
            "mode": key.mode.value,
            "added_at": codec.time_text(key.added_at),
        }
    }
    settings.set_value(connection, _KNOWN, rows, now=now)
    data = {"account_id": key.account_id, "orderly_key": key.orderly_key, "mode": key.mode.value}
    events.append(connection, "orderly_key_added", now=now, data=data)


def remove_key(connection: sqlite3.Connection, account_id: str, *, now: datetime) -> None:
    """Note that the account's key was removed here; one that is not known is no error."""
    rows = _rows(connection)
    removed = rows.pop(account_id, None)
    if removed is None:
        return
    settings.set_value(connection, _KNOWN, rows, now=now)
    data = {"account_id": account_id, "orderly_key": removed["orderly_key"]}
    events.append(connection, "orderly_key_removed", now=now, data=data)


def known_key(connection: sqlite3.Connection) -> tuple[KnownKey, ...]:
    """Every key that was entered or registered here and not removed, oldest first."""
    keys = [
        KnownKey(account_id, row["orderly_key"], Mode(row["mode"]), codec.parse_time(row["added_at"]))
        for account_id, row in _rows(connection).items()
    ]
    return tuple(sorted(keys, key=lambda key: (key.added_at, key.account_id)))


def secret_names(connection: sqlite3.Connection | None, account_id: str) -> tuple[str, ...]:
    """The vault's names that may hold something: master key, a pending key, the configured account's and every known account's."""
    accounts = [account_id] if account_id else []
    if connection is not None:
        accounts += [key.account_id for key in known_key(connection)]
    return tuple(dict.fromkeys((MASTER_KEY, PENDING, "notify-urls", *map(orderly_secret, accounts))))


def _rows(connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
    stored = settings.get_value(connection, _KNOWN)
    return dict(stored) if isinstance(stored, dict) else {}
