"""Webhooks and keys: found by name and by keyed hash, changed with immediate effect, never with a secret in the clear."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.errors import ConfigError, NotFound
from kekbridge.model import Limits, RateLimits, Webhook, WebhookSettings
from kekbridge.store import journal, webhooks
from tests.store.factories import NOW, new_alert
from tests.stored import book_on, store_alert

FULL = WebhookSettings(
    limits=Limits(
        allowed_symbols=("PERP_BTC_USDC", "PERP_ETH_USDC"),
        min_order_size=Decimal("0.00000001"),
        max_order_size=None,
        daily_limit=Decimal("10000.50"),
        daily_orders=7,
        cooldown_s=60,
        require_stop_loss=True,
        trading_hours="Mon-Fri 08:00-20:00",
    ),
    rates=RateLimits(per_minute=1, per_hour=2, per_day=3),
    require_signature=False,
    max_timestamp_age_s=120,
    follow="position",
    defaults={"symbol": "BTCUSDT.P"},
    locked={"quantity": "0.01"},
    aliases={"XBT": "PERP_BTC_USDC"},
    allowed_addresses=("tradingview", "10.0.0.0/8"),
)


def make(connection: sqlite3.Connection, name: str = "main", settings: WebhookSettings = FULL) -> Webhook:
    return webhooks.create(connection, webhook_id=f"id-{name}", name=name, settings=settings, now=NOW)


def give_key(connection: sqlite3.Connection, webhook: Webhook, number: int = 1) -> bytes:
    lookup = bytes([number]) * 32
    webhooks.add_key(
        connection,
        key_id=f"key-{number}",
        webhook_id=webhook.id,
        lookup=lookup,
        prefix="wh_test_ab",
        sealed_key=b"sealed key",
        sealed_secret=b"sealed secret",
        now=NOW,
    )
    return lookup


@pytest.mark.parametrize("settings", [FULL, WebhookSettings()])
def test_settings_read_back_exactly(connection: sqlite3.Connection, settings: WebhookSettings) -> None:
    """Every limit is what the trader set: no digit lost, None stays None."""
    made = make(connection, settings=settings)
    assert made.settings == settings
    assert made == webhooks.get(connection, made.id) == webhooks.find(connection, "main")
    assert webhooks.list_all(connection) == (made,)
    assert made.enabled


def test_settings_of_a_newer_version_are_read(connection: sqlite3.Connection) -> None:
    """After a downgrade known settings apply and unknown ones are ignored; missing ones take their default."""
    made = make(connection)
    stored = json.loads(connection.execute("SELECT settings FROM webhooks").fetchone()[0])
    stored["later"] = {"a": 1}
    stored["limits"]["also_later"] = "2"
    del stored["rates"]["per_day"]
    connection.execute("UPDATE webhooks SET settings = ?", (json.dumps(stored),))
    found = webhooks.get(connection, made.id).settings
    assert found == replace(FULL, rates=RateLimits(per_minute=1, per_hour=2))


def test_amounts_in_settings_are_plain_text(connection: sqlite3.Connection) -> None:
    """Readable with any SQLite tool: 0.00000001, never 1E-8, never a float."""
    make(connection)
    limits = json.loads(connection.execute("SELECT settings FROM webhooks").fetchone()[0])["limits"]
    assert (limits["min_order_size"], limits["daily_limit"]) == ("0.00000001", "10000.50")


def test_errors_for_taken_and_unknown_names(connection: sqlite3.Connection) -> None:
    """One line with the fix."""
    make(connection, "scalper")
    make(connection, "swing")
    with pytest.raises(ConfigError, match="scalper already exists"):
        make(connection, "scalper")
    with pytest.raises(ConfigError, match="already exists"):
        webhooks.rename(connection, "id-swing", "scalper", now=NOW)
    with pytest.raises(ConfigError, match="scalper already exists"):
        make(connection, "Scalper")  # two names that differ in case only are mixed up
    with pytest.raises(ConfigError, match="scalper already exists"):
        webhooks.rename(connection, "id-swing", "SCALPER", now=NOW)
    assert webhooks.rename(connection, "id-swing", "Swing", now=NOW).name == "Swing"
    with pytest.raises(NotFound, match="did you mean scalper"):
        webhooks.find(connection, "scaler")
    with pytest.raises(NotFound, match="webhook list"):
        webhooks.find(connection, "zzz")
    for change in (webhooks.enable, webhooks.disable, webhooks.delete):
        with pytest.raises(NotFound):
            change(connection, "missing", now=NOW)


def test_changes_take_effect_and_increase_the_version(connection: sqlite3.Connection) -> None:
    """A daemon that caches webhooks notices every change by one number."""
    made = make(connection)
    versions = [webhooks.version(connection)]
    calmer = replace(FULL, rates=RateLimits(per_minute=5))
    assert webhooks.rename(connection, made.id, "other", now=NOW).name == "other"
    versions.append(webhooks.version(connection))
    assert webhooks.change_settings(connection, made.id, calmer, now=NOW).settings == calmer
    versions.append(webhooks.version(connection))
    assert not webhooks.disable(connection, made.id, now=NOW).enabled
    versions.append(webhooks.version(connection))
    assert webhooks.enable(connection, made.id, now=NOW).enabled
    versions.append(webhooks.version(connection))
    give_key(connection, made)
    versions.append(webhooks.version(connection))
    webhooks.delete(connection, made.id, now=NOW)
    versions.append(webhooks.version(connection))
    assert versions == sorted(set(versions))
    assert webhooks.list_all(connection) == ()


def test_key_finds_its_webhook_until_it_ends(connection: sqlite3.Connection) -> None:
    """Several keys are valid at once; expired and revoked ones find nothing, a disabled webhook is still found (403)."""
    made = make(connection)
    old, new = give_key(connection, made, 1), give_key(connection, made, 2)
    found = webhooks.find_by_lookup(connection, old, NOW)
    assert found is not None
    webhook, key = found
    assert (webhook, key.id, key.sealed_secret) == (made, "key-1", b"sealed secret")
    assert webhooks.find_by_lookup(connection, b"\x09" * 32, NOW) is None
    grace = NOW + timedelta(hours=1)
    webhooks.expire_key(connection, "key-1", at=grace, now=NOW)
    assert webhooks.find_by_lookup(connection, old, grace - timedelta(milliseconds=1)) is not None
    assert webhooks.find_by_lookup(connection, old, grace) is None
    webhooks.expire_key(connection, "key-1", at=grace + timedelta(hours=9), now=NOW)
    assert webhooks.find_by_lookup(connection, old, grace) is None
    webhooks.disable(connection, made.id, now=NOW)
    disabled = webhooks.find_by_lookup(connection, new, NOW)
    assert disabled is not None
    assert not disabled[0].enabled
    webhooks.revoke_key(connection, "key-2", now=NOW)
    assert webhooks.find_by_lookup(connection, new, NOW) is None
    assert [key.revoked_at for key in webhooks.list_keys(connection, made.id)] == [None, NOW]


def test_last_use_only_moves_forward(connection: sqlite3.Connection) -> None:
    """Recorded in bulk and late, but never backwards; unknown keys are ignored."""
    made = make(connection)
    give_key(connection, made)
    webhooks.touch_keys(connection, {"key-1": NOW + timedelta(seconds=5), "gone": NOW})
    webhooks.touch_keys(connection, {"key-1": NOW})
    assert webhooks.list_keys(connection, made.id)[0].last_used_at == NOW + timedelta(seconds=5)


def test_deleting_a_webhook_keeps_its_history(connection: sqlite3.Connection) -> None:
    """Keys are deleted; alerts, orders and events stay for `explain`."""
    made = make(connection)
    lookup = give_key(connection, made)
    alert = new_alert(webhook_id=made.id)
    store_alert(book_on(connection), alert)
    webhooks.delete(connection, made.id, now=NOW)
    assert webhooks.find_by_lookup(connection, lookup, NOW) is None
    assert webhooks.list_keys(connection, made.id) == ()
    assert len(journal.of_alert(connection, alert.id)) == 1


def test_secrets_are_not_shown(connection: sqlite3.Connection) -> None:
    """Neither a key's repr nor the history contains what was sealed."""
    made = make(connection)
    lookup = give_key(connection, made)
    shown = repr(webhooks.list_keys(connection, made.id)) + repr(journal.list_events(connection))
    assert "sealed key" not in shown
    assert "sealed secret" not in shown
    assert lookup.hex() not in shown
