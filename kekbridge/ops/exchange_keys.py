"""Record of the Orderly keys whose secrets are in the vault, by account and without the secrets.

Needed because some vaults cannot list what they hold; the secret's name in the vault follows from the account.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import base58
from nacl.signing import SigningKey

from kekbridge.model import Mode
from kekbridge.store import codec, journal, settings
from kekbridge.vault import MASTER_KEY, OpenVault, orderly_secret
from kekbridge.vault.base import REPLICA_SECRETS
from kekbridge.vault.standby import OTHER_MASTER_KEY, STANDBY_KEY

#: Name in the vault of a key that is generated but not registered yet.
PENDING: Final = "orderly-pending"
_SETTING: Final = "orderly_keys"
_IN_USE: Final = "orderly_key_in_use"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that was added or registered here."""

    #: Orderly account, 0x and 64 hex digits.
    account_id: str
    #: Public key, `ed25519:` and base58.
    orderly_key: str
    #: Venue of the account: testnet or live.
    mode: Mode
    #: When its secret was stored in the vault.
    added_at: datetime


def missing_key_fix(vault: OpenVault) -> str:
    """What to do when a vault has no exchange key: register the one that was generated, if there is one, else add one. May block."""
    if vault.get(PENDING) is not None:
        return "register the one that was generated with `kekbridge keys register`"
    return "add one with `kekbridge keys add`"


def new_secret() -> str:
    """Generate an ed25519 secret in the exchange's notation: `ed25519:` and base58 of the 32-byte seed."""
    return "ed25519:" + base58.b58encode(bytes(SigningKey.generate())).decode("ascii")


def public_key(secret: str) -> str:
    """The public key of a secret that `new_secret` made, in the exchange's notation."""
    seed = base58.b58decode(secret.removeprefix("ed25519:"))
    return "ed25519:" + base58.b58encode(bytes(SigningKey(seed).verify_key)).decode("ascii")


def add_key(connection: sqlite3.Connection, key: KnownKey, *, now: datetime) -> None:
    """Record a key whose secret was stored in the vault; it replaces the account's earlier one, as in the vault."""
    rows = _rows(connection) | {
        key.account_id: {
            "orderly_key": key.orderly_key,
            "mode": key.mode.value,
            "added_at": codec.time_text(key.added_at),
        }
    }
    settings.set_value(connection, _SETTING, rows, now=now)
    data = {"account_id": key.account_id, "orderly_key": key.orderly_key, "mode": key.mode.value}
    journal.append(connection, "orderly_key_added", now=now, data=data)


def remove_key(connection: sqlite3.Connection, account_id: str, *, now: datetime) -> None:
    """Record that the account's key was removed from the vault; an unknown account is no error."""
    rows = _rows(connection)
    removed = rows.pop(account_id, None)
    if removed is None:
        return
    settings.set_value(connection, _SETTING, rows, now=now)
    data = {"account_id": account_id, "orderly_key": removed["orderly_key"]}
    journal.append(connection, "orderly_key_removed", now=now, data=data)


def known_keys(connection: sqlite3.Connection) -> tuple[KnownKey, ...]:
    """Return every recorded key, oldest first."""
    keys = [
        KnownKey(account_id, row["orderly_key"], Mode(row["mode"]), codec.parse_time(row["added_at"]))
        for account_id, row in _rows(connection).items()
    ]
    return tuple(sorted(keys, key=lambda key: (key.added_at, key.account_id)))


def note_in_use(connection: sqlite3.Connection, account_id: str, orderly_key: str, *, now: datetime) -> None:
    """Record with which key a daemon on this database trades: a standby that takes over removes it at the exchange."""
    values = {"account_id": account_id, "orderly_key": orderly_key}
    if settings.get_value(connection, _IN_USE) != values:
        settings.set_value(connection, _IN_USE, values, now=now)


def trading_keys(connection: sqlite3.Connection, account_id: str) -> tuple[str, ...]:
    """Every key of an account that a daemon on this database trades with, or may start to trade with."""
    used = settings.get_value(connection, _IN_USE)
    rows = [
        *([used] if isinstance(used, dict) else []),
        *({"account_id": k, **row} for k, row in _rows(connection).items()),
    ]
    found = [str(row["orderly_key"]) for row in rows if str(row["account_id"]).lower() == account_id.lower()]
    return tuple(dict.fromkeys(found))


def secret_names(connection: sqlite3.Connection | None, account_id: str) -> tuple[str, ...]:
    """Return the names that may exist in the vault: master key, pending key, notification URLs, a replica's and a standby's, accounts'."""
    accounts = [account_id] if account_id else []
    if connection is not None:
        accounts += [key.account_id for key in known_keys(connection)]
    fixed = (MASTER_KEY, PENDING, "notify-urls", *REPLICA_SECRETS, STANDBY_KEY, OTHER_MASTER_KEY)
    return tuple(dict.fromkeys((*fixed, *map(orderly_secret, accounts))))


def _rows(connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
    stored = settings.get_value(connection, _SETTING)
    return dict(stored) if isinstance(stored, dict) else {}
