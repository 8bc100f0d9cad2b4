"""The master key of a data directory: made once, whoever comes first, and never replaced in silence.

`vault.json` beside the database names the key (not its value) and the vault it was made in. If the key is then missing or another one,
that is an error for the operator: with a new key no stored webhook would open again.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from kekbridge.errors import VaultError
from kekbridge.vault.base import MASTER_KEY, OpenVault
from kekbridge.vault.files import only_one, read_private, write_private
from kekbridge.vault.sealing import MASTER_KEY_BYTES, master_key_id

_NOTE = "vault.json"


def master_key(vault: OpenVault) -> bytes:
    """The 32-byte master key of the vault's data directory, made now if this is a new one.

    Processes that start together get the same key. Raises VaultError when the key that belongs to the data directory is not there.
    """
    with only_one(vault.data_dir):
        stored = vault.get(MASTER_KEY)
        key = _make(vault) if stored is None else _decode(stored, vault)
        _check_note(vault, key)
    return key


def remembered_vault(data_dir: Path) -> str | None:
    """The name of the vault in which this data directory's master key was last seen, None for a new directory."""
    note = _read_note(data_dir)
    return note.get("vault") if note else None


def move_secrets(source: OpenVault, target: OpenVault, names: Sequence[str]) -> None:
    """Move the master key and the named secrets to another vault: all are written and read back before any is deleted.

    Raises VaultError; then the source still holds everything.
    """
    with only_one(source.data_dir):
        values = {
            name: value for name in dict.fromkeys((MASTER_KEY, *names)) if (value := source.get(name)) is not None
        }
        if MASTER_KEY not in values:
            raise VaultError(f"the {source.place.title} holds no master key: nothing to move")
    for name, value in values.items():
        target.set(name, value)
        if target.get(name) != value:
            raise VaultError(f"the {target.place.title} did not keep {name}; nothing was removed from the old vault")
    _write_note(target, _decode(values[MASTER_KEY], target))
    for name in values:
        source.delete(name)


def _make(vault: OpenVault) -> bytes:
    note = _read_note(vault.data_dir)
    if note:
        raise VaultError(
            f"the master key of {vault.data_dir} (key {note['key']}) was made in the vault {note['vault']!r} and is not in the"
            f" {vault.description}; make that vault available again, or set vault.backend to it"
        )
    if not vault.is_writable:
        raise VaultError(
            f"there is no master-key in the {vault.place.title}; make one with"
            " `head -c 32 /dev/urandom | base64` and give it to the service under the name master-key"
        )
    key = secrets.token_bytes(MASTER_KEY_BYTES)
    vault.set(MASTER_KEY, key)
    if vault.get(MASTER_KEY) != key:
        raise VaultError(f"the {vault.place.title} did not keep the master key; choose another vault.backend")
    return key


def _decode(stored: bytes, vault: OpenVault) -> bytes:
    """The key itself, or its base64 or hex text as people put it into a secrets directory."""
    if len(stored) == MASTER_KEY_BYTES:
        return stored
    text = stored.strip()
    for decode in (binascii.unhexlify, _decode_base64):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == MASTER_KEY_BYTES:
            return key
    raise VaultError(
        f"the master-key in the {vault.place.title} has {len(stored)} bytes,"
        f" expected {MASTER_KEY_BYTES} raw bytes or their base64 or hex text"
    )


def _decode_base64(text: bytes) -> bytes:
    padded = text + b"=" * (-len(text) % 4)
    return base64.b64decode(padded.translate(bytes.maketrans(b"-_", b"+/")), validate=True)


def _check_note(vault: OpenVault, key: bytes) -> None:
    note = _read_note(vault.data_dir)
    found = master_key_id(key)
    if note and note["key"] != found:
        raise VaultError(
            f"the master key in the {vault.place.title} is {found}, but {vault.data_dir} was sealed with {note['key']}"
            f" (made in the vault {note['vault']!r}); restore that key, or use another data directory"
        )
    if not note or note["vault"] != vault.name:
        _write_note(vault, key)


def _read_note(data_dir: Path) -> dict[str, str] | None:
    content = read_private(data_dir / _NOTE)
    if content is None:
        return None
    try:
        note = json.loads(content)
        return {"key": str(note["key"]), "vault": str(note["vault"])}
    except (ValueError, KeyError, TypeError):
        raise VaultError(f"{data_dir / _NOTE} is damaged: restore it from a backup") from None


def _write_note(vault: OpenVault, key: bytes) -> None:
    note = {"key": master_key_id(key), "vault": vault.name}
    write_private(vault.data_dir / _NOTE, json.dumps(note).encode() + b"\n")
