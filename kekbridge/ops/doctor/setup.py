"""Checks of the set-up in the store: webhooks, limits, trading state, unknown orders. Read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from kekbridge.config import Settings
from kekbridge.errors import ConfigError
from kekbridge.model import Limits, Mode, RateLimits, TradingState, Webhook
from kekbridge.model.check import Check
from kekbridge.paper.settings import PAPER_ACCOUNT_ID
from kekbridge.risk.limits import account_limits, tighter
from kekbridge.store import lost_orders, webhooks
from kekbridge.store import settings as stored_settings
from kekbridge.store.account_identity import AccountIdentity, remembered, require_same

#: Name of the check that lists orders which the database does not know.
LOST_ORDERS: Final = "lost orders"
# Limits that keep a runaway strategy from emptying an account; each webhook needs one of them.
_LOSS_LIMITS: Final = ("daily_limit", "daily_orders", "max_daily_loss", "max_drawdown")


def checks(connection: sqlite3.Connection, settings: Settings, now: datetime) -> list[Check]:
    """Check webhooks, limits, trading state and unknown orders."""
    found = [webhook for webhook in webhooks.list_all(connection) if webhook.enabled]
    return [
        *_account(connection, settings),
        *_webhooks(found),
        *_limits(found, account_limits(**settings.risk.limits()), settings.mode),
        _rate(settings.risk.rates),
        *_trading(connection, found, now),
        *_unknown(connection),
        *_lost(connection),
    ]


def _account(connection: sqlite3.Connection, settings: Settings) -> Iterable[Check]:
    known = remembered(connection)
    account_id = settings.exchange.account_id or (PAPER_ACCOUNT_ID if settings.mode is Mode.PAPER else "")
    if known is None:
        return
    try:
        require_same(known, AccountIdentity(mode=settings.mode, account_id=account_id), "in use")
    except ConfigError as error:
        yield Check("account", "broken", error.message, "use another --data-dir for another account or mode")
    else:
        yield Check("account", "ok", f"the data directory belongs to {known}")


def _webhooks(found: list[Webhook]) -> Iterable[Check]:
    if not found:
        fix = "`kekbridge webhook create NAME`"
        yield Check("webhooks", "warning", "no webhook is enabled: every alert is refused", fix)
        return
    unsigned = _names(webhook for webhook in found if not webhook.settings.require_signature)
    if unsigned:
        text = f"no signature required: {unsigned}; a leaked message lets others send any message"
        yield Check(
            "signatures", "warning", text, "`kekbridge webhook edit NAME --require-signature` and a new template"
        )
    undated = _names(webhook for webhook in found if not webhook.settings.require_timestamp)
    if undated:
        text = f"no timestamp required: {undated}; an old message can be replayed"
        yield Check("timestamps", "warning", text, "`kekbridge webhook edit NAME --require-timestamp`")
    exposed = _names(webhook for webhook in found if webhook.settings.key_in_path)
    if exposed:
        text = f"key accepted in the URL: {exposed}; whoever sees the URL can send orders"
        yield Check("keys in URLs", "warning", text, "`kekbridge webhook edit NAME --no-key-in-path`")
    if not unsigned and not undated:
        yield Check("webhooks", "ok", f"{len(found)} enabled, with signature and timestamp")


def _limits(found: list[Webhook], account: Limits, mode: Mode) -> Iterable[Check]:
    """In paper mode a missing limit is no warning."""
    unlimited = [
        webhook
        for webhook in found
        if all(getattr(tighter(webhook.settings.limits, account), limit) is None for limit in _LOSS_LIMITS)
    ]
    if unlimited:
        level: Any = "ok" if mode is Mode.PAPER else "warning"
        fix = "`kekbridge webhook edit NAME --max-daily-loss 500 --daily-limit 20000`, or [risk] in the settings"
        yield Check("limits", level, f"no daily limit, loss cut-off or drawdown: {_names(unlimited)}", fix)
    elif found:
        yield Check("limits", "ok", "every webhook has a daily limit, loss cut-off or drawdown")
    stopless = _names(webhook for webhook in found if not tighter(webhook.settings.limits, account).require_stop_loss)
    if stopless and mode is not Mode.PAPER:
        fix = "`kekbridge webhook edit NAME --require-stop-loss`"
        yield Check("stop loss", "warning", f"entries pass without a stop loss: {stopless}", fix)


def _rate(rates: RateLimits) -> Check:
    """The rate limit of all webhooks together: each has its own, but there may be many."""
    numbers = ((rates.per_minute, "a minute"), (rates.per_hour, "an hour"), (rates.per_day, "a day"))
    windows = ", ".join(f"{number:,} {window}" for number, window in numbers if number)
    if not windows:
        return Check(
            "rates", "warning", "all webhooks together may send any number of alerts", "set [risk] rate_per_minute"
        )
    return Check("rates", "ok", f"all webhooks together: at most {windows}")


def _trading(connection: sqlite3.Connection, found: list[Webhook], now: datetime) -> Iterable[Check]:
    scopes = [(stored_settings.ACCOUNT, "the account"), *((one.id, f"webhook {one.name}") for one in found)]
    closed = False
    for scope, name in scopes:
        control = stored_settings.trading_control(connection, now=now, scope=scope)
        if control.state is not TradingState.RUNNING:
            closed = True
            text = f"{name} is {control.state.value.replace('_', ' ')}: {control.reason}"
            yield Check("trading", "warning", text, "`kekbridge resume` once the reason is resolved")
    if not closed:
        yield Check("trading", "ok", "entries and exits are allowed")


def _unknown(connection: sqlite3.Connection) -> Iterable[Check]:
    count = connection.execute(
        "SELECT COUNT(*) FROM orders WHERE status = 'unknown' AND finished_at IS NULL"
    ).fetchone()[0]
    if count:
        text = f"{count} {'order has' if count == 1 else 'orders have'} no known outcome"
        yield Check(
            "orders", "warning", text, "the daemon looks them up; `kekbridge orders --status unknown` lists them"
        )


def _names(found: Iterable[Webhook]) -> str:
    return ", ".join(webhook.name for webhook in found)


def _lost(connection: sqlite3.Connection) -> Iterable[Check]:
    """Every order that a start found at the exchange and not in the database."""
    found = lost_orders.pending(connection)
    if found is None:
        return
    text = f"the exchange has {found.count} orders of this bridge that the database does not know: an older backup, or lost files"
    fix = (
        "cancel or close at the exchange what you do not want, then `kekbridge resume`; entries are refused until then"
    )
    yield Check(LOST_ORDERS, "broken", text, fix)
    for order in found.orders:
        yield Check("lost order", "warning", str(order))
