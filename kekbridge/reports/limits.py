"""Every limit of the account and the webhooks with its current use, for `risk show`, the dashboards and the statistics.

Read-only. Names and amounts are formatted by risk/limits.py, like the messages of the rules.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, tzinfo
from typing import Any

from kekbridge.config import Settings
from kekbridge.model import AccountSnapshot, EquityMark, Limits, MarginMode
from kekbridge.reports.states import state_fix, state_text
from kekbridge.risk.drawdown import next_midnight
from kekbridge.risk.limits import LimitLine, account_limits, breaches_of, describe_usage
from kekbridge.store import equity, positions, rate_limits, settings, webhooks
from kekbridge.store.rate_limits import RateUse
from kekbridge.store.usage import read_usage


def read(
    connection: sqlite3.Connection,
    configured: Settings,
    only: str | None = None,
    *,
    at: datetime,
    zone: tzinfo | None = UTC,
) -> dict[str, Any]:
    """The account's equity and the limits of all scopes, or of the account and webhook `only`. Raises NotFound for an unknown webhook.

    `zone`: of the time at which a closed scope opens (None: the machine's).
    """
    mark = equity.latest(connection)
    account = _account(connection, mark)
    chosen = (webhooks.find(connection, only),) if only else webhooks.list_all(connection)
    of_account = account_limits(**configured.risk.limits())
    rates = rate_limits.use_of_account(connection, configured.risk.rates, at)
    scopes = [_scope(connection, "account", settings.ACCOUNT, of_account, rates, account, at, zone)]
    for one in chosen:
        rates = rate_limits.use_of_webhook(connection, one.id, one.settings.rates, at)
        scopes.append(_scope(connection, one.name, one.id, one.settings.limits, rates, account, at, zone))
    return {
        "at": at,
        "equity": None if mark is None else mark.value,
        "equityPeak": settings.get_value(connection, settings.EQUITY_PEAK),
        "equityAt": None if mark is None else mark.at,
        "scopes": scopes,
    }


def still_exceeded(
    connection: sqlite3.Connection, configured: Settings, only: str | None = None, *, at: datetime
) -> list[tuple[str, str, str, datetime | None]]:
    """Limits that close a scope for entries and are used up: scope (ACCOUNT or a webhook's id), name, rule, end.

    As stored: the equity of the last mark, the positions as last seen. `only`: of the account and this webhook.
    """
    mark = equity.latest(connection)
    account = _account(connection, mark)
    chosen = (webhooks.find(connection, only),) if only else webhooks.list_all(connection)
    scopes = [(settings.ACCOUNT, "account", account_limits(**configured.risk.limits()))]
    scopes += [(one.id, one.name, one.settings.limits) for one in chosen]
    found: list[tuple[str, str, str, datetime | None]] = []
    for key, name, limits in scopes:
        usage = read_usage(connection, key, now=at)
        kind = "account" if key == settings.ACCOUNT else "webhook"
        is_account = key == settings.ACCOUNT
        traded = usage.account_traded_today if is_account else usage.traded_today
        orders = usage.account_orders_today if is_account else usage.orders_today
        if limits.daily_limit is not None and traded >= limits.daily_limit:
            found.append((key, name, "daily_limit", next_midnight(at)))
        if limits.daily_orders is not None and orders >= limits.daily_orders:
            found.append((key, name, "daily_orders", next_midnight(at)))
        if account is not None:
            found += [(key, name, one.rule, one.until) for one in breaches_of(kind, limits, usage, account, now=at)]
    return found


def _scope(
    connection: sqlite3.Connection,
    name: str,
    key: str,
    limits: Limits,
    rates: tuple[RateUse, ...],
    account: AccountSnapshot | None,
    at: datetime,
    zone: tzinfo | None,
) -> dict[str, Any]:
    usage = read_usage(connection, key, now=at)
    control = settings.trading_control(connection, now=at, scope=key)
    kind = "account" if key == settings.ACCOUNT else "webhook"
    return {
        "scope": kind,
        "name": name,
        "state": control.state,
        "reason": control.reason,
        "until": control.until,
        "stateText": state_text(control, at, zone),
        "stateFix": state_fix(control, at, scope=key, name=name),
        "limits": (*describe_usage(limits, usage, at, scope=kind, snapshot=account), *map(_rate_line, rates)),
    }


def _rate_line(use: RateUse) -> LimitLine:
    """One rate limit: a sliding window. Each alert counts until it is as old as the window; exits have none."""
    window = {60: "a minute", 3600: "an hour", 86_400: "a day"}[use.length_s]
    return LimitLine(
        name=f"alerts {window}",
        limit=f"{use.limit:,}",
        used=f"{use.used:,}" + (f" and {use.exits:,} exit{'' if use.exits == 1 else 's'}" if use.exits else ""),
        left=f"{max(use.limit - use.used, 0):,}",
        resets=f"each after {window}",
    )


def _account(connection: sqlite3.Connection, mark: EquityMark | None) -> AccountSnapshot | None:
    """The account as last stored, from the latest equity mark and the positions; None before the first mark."""
    if mark is None:
        return None
    held = positions.list_all(connection)
    return AccountSnapshot(
        taken_at=mark.at,
        instruments={},
        marks={},
        positions={one.symbol: one for one in held if one.margin_mode is MarginMode.CROSS},
        account_value=mark.value,
        free_collateral=mark.value,
        other_positions=tuple(one for one in held if one.margin_mode is not MarginMode.CROSS),
    )
