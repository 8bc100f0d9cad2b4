"""A webhook in one line: what it accepts now, its markets and largest order, its last alert. `webhook list` and the pages show the same."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, tzinfo

from msgspec import Struct

from kekbridge.formatting import amount, market, money
from kekbridge.model import Webhook
from kekbridge.reports.states import state_fix, state_text
from kekbridge.store import alerts, settings, webhooks
from kekbridge.store.settings import TradingControl


class WebhookSummary(Struct, frozen=True, kw_only=True):
    """One webhook and its state."""

    webhook: Webhook
    #: Strictest trading state that applies to it.
    control: TradingControl
    #: Whose state that is: `account`, or the webhook's id.
    scope: str
    #: `enabled`, `disabled`, or what it accepts: `exits only until 00:00 (daily limit)`.
    state: str
    #: What makes it take entries again; empty if it does, or if it is disabled.
    fix: str
    #: When its last alert came; None: never.
    last_alert_at: datetime | None


def read_all(connection: sqlite3.Connection, *, now: datetime, zone: tzinfo | None = UTC) -> list[WebhookSummary]:
    """Every webhook, oldest first; times of day in `zone` (None: the machine's)."""
    return [_summary(connection, one, now=now, zone=zone) for one in webhooks.list_all(connection)]


def read(connection: sqlite3.Connection, webhook_id: str, *, now: datetime) -> WebhookSummary:
    """The webhook with this id. Raises NotFound."""
    return _summary(connection, webhooks.get(connection, webhook_id), now=now, zone=UTC)


def _summary(connection: sqlite3.Connection, webhook: Webhook, *, now: datetime, zone: tzinfo | None) -> WebhookSummary:
    controls = settings.stored_controls(connection)
    control = settings.strictest(controls, webhook.id, now=now)
    scope = settings.closing_scope(controls, webhook.id, now=now)
    last = alerts.search(connection, webhook=webhook.id, limit=1).alerts
    return WebhookSummary(
        webhook=webhook,
        control=control,
        scope=scope,
        state=accepted_text(state_text(control, now, zone), is_enabled=webhook.enabled),
        fix=state_fix(control, now, scope=scope, name=webhook.name) if webhook.enabled else "",
        last_alert_at=last[-1].received_at if last else None,
    )


def accepted_text(state: str, *, is_enabled: bool) -> str:
    """What a webhook accepts now, from its trading state as text."""
    if not is_enabled:
        return "disabled"
    return "enabled" if state == "running" else state


def markets_text(webhook: Webhook) -> str:
    """The markets that it may trade: `BTC, ETH`, `any`, `none`."""
    allowed = webhook.settings.limits.allowed_symbols
    return "any" if allowed is None else ", ".join(map(market, allowed)) or "none"


def largest_order_text(webhook: Webhook) -> str | None:
    """The limits of one order: in coins, in USDC, or both; None without one."""
    limits = webhook.settings.limits
    coins = None if limits.max_order_size is None else amount(limits.max_order_size)
    value = None if limits.max_notional is None else f"{money(limits.max_notional)} USDC"
    return ", ".join(text for text in (coins, value) if text) or None
