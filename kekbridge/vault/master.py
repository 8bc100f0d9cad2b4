"""The master key of a data directory: created once, by the first process, and never replaced silently.

`vault.json` beside the database holds the key's id (not its value) and the vault it was created in. A missing or different key is an
error for the operator: with a new key no stored webhook secret could be opened.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from kekbridge.errors import VaultError
from kekbridge.vault.base import MASTER_KEY, OpenVault
from kekbridge.vault.files import exclusive_lock, read_private, write_private
from kekbridge.vault.recovery import MASTER_KEY_BYTES
from kekbridge.vault.sealing import decode_master_key, master_key_id

_RECORD = "vault.json"


def master_key(vault: OpenVault) -> bytes:
    """The 32-byte master key of the vault's data directory, created now for a new one.

    Processes that start together get the same key. Raises VaultError if the vault does not hold the data directory's key.
    """
    with exclusive_lock(vault.data_dir):
        stored = vault.get(MASTER_KEY)
        key = _create(vault) if stored is None else decode_master_key(stored, vault.title)
        _check_record(vault, key)
    return key


def held_master_key(vault: OpenVault) -> bytes | None:
    """The master key that a vault holds; None if it holds none. Creates and records nothing. Raises VaultError."""
    stored = vault.get(MASTER_KEY)
    return None if stored is None else decode_master_key(stored, vault.title)


def recorded_vault(data_dir: Path) -> str | None:
    """The name of the vault that last held this data directory's master key; None for a new directory."""
    record = _read_record(data_dir)
    return record.get("vault") if record else None


def move_secrets(source: OpenVault, target: OpenVault, names: Sequence[str]) -> None:
    """Move the master key and the named secrets to another vault: write all and read them back before deleting any.

    Raises VaultError; then the source still holds everything.
    """
    with exclusive_lock(source.data_dir):
        values = {
            name: value for name in dict.fromkeys((MASTER_KEY, *names)) if (value := source.get(name)) is not None
        }
        if MASTER_KEY not in values:
            raise VaultError(f"the {source.title} holds no master key: nothing to move")
    for name, value in values.items():
        target.set(name, value)
        if target.get(name) != value:
            raise VaultError(f"the {target.title} did not store {name}; nothing was removed from the old vault")
    _write_record(target, decode_master_key(values[MASTER_KEY], target.title))
    for name in values:
        source.delete(name)


def _create(vault: OpenVault) -> bytes:
    record = _read_record(vault.data_dir)
    if record:
        raise VaultError(
            f"the master key of {vault.data_dir} (key {record['key']}) was created in the vault {record['vault']!r} and is not in the"
            f" {vault.description}; make that vault available again, or set vault.backend to it"
        )
    if not vault.is_writable:
        raise VaultError(
            f"there is no master-key in the {vault.title}; create one with"
            " `head -c 32 /dev/urandom | base64` and give it to the service under the name master-key"
        )
    key = secrets.token_bytes(MASTER_KEY_BYTES)
    vault.set(MASTER_KEY, key)
    if vault.get(MASTER_KEY) != key:
        raise VaultError(f"the {vault.title} did not store the master key; choose another vault.backend")
    return key


def _check_record(vault: OpenVault, key: bytes) -> None:
    record = _read_record(vault.data_dir)
    found = master_key_id(key)
    if record and record["key"] != found:
        raise VaultError(
            f"the master key in the {vault.title} is {found}, but {vault.data_dir} was sealed with {record['key']}"
            f" (created in the vault {record['vault']!r}); restore that key, or use another data directory"
        )
    if not record or record["vault"] != vault.name:
        _write_record(vault, key)


def _read_record(data_dir: Path) -> dict[str, str] | None:
    content = read_private(data_dir / _RECORD)
    if content is None:
        return None
    try:
        record = json.loads(content)
        return {"key": str(record["key"]), "vault": str(record["vault"])}
    except (ValueError, KeyError, TypeError):
        raise VaultError(f"{data_dir / _RECORD} is damaged: restore it from a backup") from None


def _write_record(vault: OpenVault, key: bytes) -> None:
    record = {"key": master_key_id(key), "vault": vault.name}
    write_private(vault.data_dir / _RECORD, json.dumps(record).encode() + b"\n")
