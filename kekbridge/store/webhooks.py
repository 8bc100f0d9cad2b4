"""Webhooks and their keys. Secrets are sealed before they come here and stay sealed.

Keys are only looked up by their keyed hash; authentication is in ingress/auth.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from kekbridge.errors import ConfigError, NotFound
from kekbridge.formatting import did_you_mean
from kekbridge.model import Webhook, WebhookSettings
from kekbridge.store import codec, journal, strategy_positions
from kekbridge.store.codec import settings_from_json, to_json
from kekbridge.store.settings import get_value, set_value
from kekbridge.store.transaction import note_change

_VERSION: Final = "webhooks_version"
_COLUMNS: Final = "w.id, w.name, w.enabled, w.created_at, w.settings"
_KEY_COLUMNS: Final = (
    "k.id AS key_id, k.webhook_id, k.prefix, k.sealed_key, k.sealed_secret, k.created_at AS key_created_at, k.expires_at,"
    " k.revoked_at, k.last_used_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookKey:
    """One credential of a webhook."""

    id: str
    webhook_id: str
    #: First characters of the apiKey, to recognise it.
    prefix: str
    #: apiKey and apiSecret, sealed under the master key.
    sealed_key: bytes = field(repr=False)
    sealed_secret: bytes = field(repr=False)
    created_at: datetime
    #: Not valid from this time on; None: valid until revoked.
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


# ---------------------------------------------------------------------------------------------------------------- webhooks


def create(
    connection: sqlite3.Connection, *, webhook_id: str, name: str, settings: WebhookSettings, now: datetime
) -> Webhook:
    """Add a webhook, enabled, without keys. Raises ConfigError if the name is taken."""
    _require_free_name(connection, name)
    at = codec.time_text(now)
    connection.execute(
        "INSERT INTO webhooks (id, name, enabled, settings, created_at, updated_at) VALUES (?, ?, 1, ?, ?, ?)",
        (webhook_id, name, to_json(settings), at, at),
    )
    _record_change(connection, "webhook_created", webhook_id, now, {"name": name, "settings": settings})
    return get(connection, webhook_id)


def get(connection: sqlite3.Connection, webhook_id: str) -> Webhook:
    """The webhook with this id. Raises NotFound."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM webhooks w WHERE w.id = ?", (webhook_id,)).fetchone()
    if row is None:
        raise NotFound("not_found", f"there is no webhook with id {webhook_id}; `kekbridge webhook list` shows them")
    return _webhook(row)


def find(connection: sqlite3.Connection, name_or_id: str) -> Webhook:
    """The webhook with this name, else with this id. Raises NotFound, which suggests the nearest name."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM webhooks w WHERE w.name = ?1 OR w.id = ?1 ORDER BY w.name <> ?1 LIMIT 1",
        (name_or_id,),
    ).fetchone()
    if row is not None:
        return _webhook(row)
    names = [name for (name,) in connection.execute("SELECT name FROM webhooks ORDER BY name")]
    hint = did_you_mean(name_or_id, names, otherwise="`kekbridge webhook list` shows them")
    raise NotFound("not_found", f"there is no webhook named {name_or_id}; {hint}")


def list_all(connection: sqlite3.Connection) -> tuple[Webhook, ...]:
    """Every webhook, oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM webhooks w ORDER BY w.created_at, w.id")
    return tuple(_webhook(row) for row in rows)


def rename(connection: sqlite3.Connection, webhook_id: str, name: str, *, now: datetime) -> Webhook:
    """Rename a webhook. Raises NotFound, or ConfigError if the name is taken."""
    before = get(connection, webhook_id)
    if name == before.name:
        return before
    _require_free_name(connection, name, webhook_id)
    connection.execute(
        "UPDATE webhooks SET name = ?, updated_at = ? WHERE id = ?", (name, codec.time_text(now), webhook_id)
    )
    _record_change(connection, "webhook_renamed", webhook_id, now, {"from": before.name, "to": name})
    return get(connection, webhook_id)


def change_settings(
    connection: sqlite3.Connection, webhook_id: str, settings: WebhookSettings, *, now: datetime
) -> Webhook:
    """Replace a webhook's settings; they apply to its next alert. Raises NotFound."""
    get(connection, webhook_id)
    connection.execute(
        "UPDATE webhooks SET settings = ?, updated_at = ? WHERE id = ?",
        (to_json(settings), codec.time_text(now), webhook_id),
    )
    _record_change(connection, "webhook_changed", webhook_id, now, {"settings": settings})
    return get(connection, webhook_id)


def enable(connection: sqlite3.Connection, webhook_id: str, *, now: datetime) -> Webhook:
    """Accept a webhook's alerts again. Raises NotFound."""
    return _set_enabled(connection, webhook_id, enabled=True, now=now)


def disable(connection: sqlite3.Connection, webhook_id: str, *, now: datetime) -> Webhook:
    """Refuse a webhook's alerts until it is enabled. Raises NotFound."""
    return _set_enabled(connection, webhook_id, enabled=False, now=now)


def delete(connection: sqlite3.Connection, webhook_id: str, *, now: datetime) -> None:
    """Delete a webhook and its keys; its alerts, orders and events stay. Raises NotFound."""
    webhook = get(connection, webhook_id)
    strategy_positions.remove(connection, webhook_id)
    connection.execute("DELETE FROM webhooks WHERE id = ?", (webhook_id,))
    _record_change(connection, "webhook_deleted", webhook_id, now, {"name": webhook.name})


def version(connection: sqlite3.Connection) -> int:
    """A number that grows with every change of a webhook or key, so that caches know when they are stale."""
    return int(get_value(connection, _VERSION) or 0)


# -------------------------------------------------------------------------------------------------------------------- keys


def add_key(
    connection: sqlite3.Connection,
    *,
    key_id: str,
    webhook_id: str,
    lookup: bytes,
    prefix: str,
    sealed_key: bytes,
    sealed_secret: bytes,
    now: datetime,
) -> WebhookKey:
    """Add a credential; several may be valid at once. `lookup` is the keyed hash of the apiKey. Raises NotFound."""
    get(connection, webhook_id)
    connection.execute(
        "INSERT INTO webhook_keys (id, webhook_id, lookup, prefix, sealed_key, sealed_secret, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key_id, webhook_id, lookup, prefix, sealed_key, sealed_secret, codec.time_text(now)),
    )
    _record_change(connection, "key_added", webhook_id, now, {"key_id": key_id, "prefix": prefix})
    return _get_key(connection, key_id)


def find_by_lookup(connection: sqlite3.Connection, lookup: bytes, now: datetime) -> tuple[Webhook, WebhookKey] | None:
    """Webhook (enabled or not) and key of a keyed hash; None if there is none, or the key is expired or revoked."""
    row = connection.execute(
        f"SELECT {_COLUMNS}, {_KEY_COLUMNS} FROM webhook_keys k JOIN webhooks w ON w.id = k.webhook_id"
        " WHERE k.lookup = ? AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?)",
        (lookup, codec.time_text(now)),
    ).fetchone()
    return None if row is None else (_webhook(row), _key(row))


def list_keys(connection: sqlite3.Connection, webhook_id: str) -> tuple[WebhookKey, ...]:
    """Every key of a webhook, valid or not, oldest first."""
    rows = connection.execute(
        f"SELECT {_KEY_COLUMNS} FROM webhook_keys k WHERE k.webhook_id = ? ORDER BY k.created_at, k.id",
        (webhook_id,),
    )
    return tuple(_key(row) for row in rows)


def revoke_key(connection: sqlite3.Connection, key_id: str, *, now: datetime) -> WebhookKey:
    """Invalidate a key immediately. Raises NotFound."""
    key = _get_key(connection, key_id)
    connection.execute(
        "UPDATE webhook_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (codec.time_text(now), key_id)
    )
    _record_change(connection, "key_revoked", key.webhook_id, now, {"key_id": key_id, "prefix": key.prefix})
    return _get_key(connection, key_id)


def expire_key(connection: sqlite3.Connection, key_id: str, *, at: datetime, now: datetime) -> WebhookKey:
    """Let a key expire at `at` (the grace time of a rotation); an earlier expiry is kept. Raises NotFound."""
    key = _get_key(connection, key_id)
    connection.execute(
        "UPDATE webhook_keys SET expires_at = min(coalesce(expires_at, ?1), ?1) WHERE id = ?2",
        (codec.time_text(at), key_id),
    )
    _record_change(connection, "key_expires", key.webhook_id, now, {"key_id": key_id, "prefix": key.prefix, "at": at})
    return _get_key(connection, key_id)


def touch_keys(connection: sqlite3.Connection, used: Mapping[str, datetime]) -> None:
    """Record when keys (by id) were last used; times older than the stored ones are ignored."""
    connection.executemany(
        "UPDATE webhook_keys SET last_used_at = max(coalesce(last_used_at, ''), ?) WHERE id = ?",
        [(codec.time_text(at), key_id) for key_id, at in used.items()],
    )


def reseal_keys(connection: sqlite3.Connection, reseal: Callable[[bytes, bytes], tuple[bytes, bytes, bytes]]) -> int:
    """Seal every credential under another master key; return how many there are.

    `reseal`: from the sealed apiKey and apiSecret to the new lookup and both sealed again.
    """
    rows = connection.execute("SELECT id, sealed_key, sealed_secret FROM webhook_keys").fetchall()
    for key_id, sealed_key, sealed_secret in rows:
        connection.execute(
            "UPDATE webhook_keys SET lookup = ?, sealed_key = ?, sealed_secret = ? WHERE id = ?",
            (*reseal(sealed_key, sealed_secret), key_id),
        )
    return len(rows)


def _set_enabled(connection: sqlite3.Connection, webhook_id: str, *, enabled: bool, now: datetime) -> Webhook:
    get(connection, webhook_id)
    connection.execute(
        "UPDATE webhooks SET enabled = ?, updated_at = ? WHERE id = ?", (enabled, codec.time_text(now), webhook_id)
    )
    _record_change(connection, "webhook_enabled" if enabled else "webhook_disabled", webhook_id, now, {})
    return get(connection, webhook_id)


def _require_free_name(connection: sqlite3.Connection, name: str, webhook_id: str = "") -> None:
    """Raise ConfigError if a webhook other than `webhook_id` has the name; `Default` beside `default` would be mixed up."""
    row = connection.execute(
        "SELECT name FROM webhooks WHERE name = ? COLLATE NOCASE AND id <> ?", (name, webhook_id)
    ).fetchone()
    if row is not None:
        raise ConfigError(
            f"a webhook named {row[0]} already exists; use another name, or `kekbridge webhook edit {row[0]}`",
            code="name_taken",
            field="name",
        )


def _record_change(
    connection: sqlite3.Connection, kind: str, webhook_id: str, now: datetime, data: Mapping[str, object]
) -> None:
    set_value(connection, _VERSION, version(connection) + 1, now=now)
    note_change(connection, "webhooks")
    journal.append(connection, kind, now=now, data={"webhook_id": webhook_id, **data})


def _get_key(connection: sqlite3.Connection, key_id: str) -> WebhookKey:
    row = connection.execute(f"SELECT {_KEY_COLUMNS} FROM webhook_keys k WHERE k.id = ?", (key_id,)).fetchone()
    if row is None:
        raise NotFound("not_found", f"there is no webhook key with id {key_id}; `kekbridge webhook show` lists them")
    return _key(row)


def _webhook(row: sqlite3.Row) -> Webhook:
    return Webhook(
        id=row[0],
        name=row[1],
        enabled=bool(row[2]),
        created_at=codec.parse_time(row[3]),
        settings=settings_from_json(row[4]),
    )


def _key(row: sqlite3.Row) -> WebhookKey:
    return WebhookKey(
        id=row["key_id"],
        webhook_id=row["webhook_id"],
        prefix=row["prefix"],
        sealed_key=row["sealed_key"],
        sealed_secret=row["sealed_secret"],
        created_at=codec.parse_time(row["key_created_at"]),
        expires_at=codec.optional_time(row["expires_at"]),
        revoked_at=codec.optional_time(row["revoked_at"]),
        last_used_at=codec.optional_time(row["last_used_at"]),
    )
