"""Every limit of the account and the webhooks with its current use, for `risk show`, the dashboards and the statistics.

Read-only. Names and amounts are formatted by risk/limits.py, like the messages of the rules.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any

from kekbridge.config import Settings
from kekbridge.model import AccountSnapshot, EquityMark, Limits, MarginMode
from kekbridge.risk.limits import LimitLine, account_limits, describe_usage
from kekbridge.store import equity, positions, rate_limits, settings, webhooks
from kekbridge.store.rate_limits import RateUse
from kekbridge.store.usage import read_usage


def read(
    connection: sqlite3.Connection, configured: Settings, only: str | None = None, *, at: datetime
) -> dict[str, Any]:
    """The account's equity and the limits of all scopes, or of the account and webhook `only`. Raises NotFound for an unknown webhook."""
    mark = equity.latest(connection)
    account = _account(connection, mark)
    chosen = (webhooks.find(connection, only),) if only else webhooks.list_all(connection)
    of_account = account_limits(**configured.risk.limits())
    rates = rate_limits.use_of_account(connection, configured.risk.rates, at)
    scopes = [_scope(connection, "account", settings.ACCOUNT, of_account, rates, account, at)]
    for one in chosen:
        rates = rate_limits.use_of_webhook(connection, one.id, one.settings.rates, at)
        scopes.append(_scope(connection, one.name, one.id, one.settings.limits, rates, account, at))
    return {
        "at": at,
        "equity": None if mark is None else mark.value,
        "equityPeak": settings.get_value(connection, settings.EQUITY_PEAK),
        "equityAt": None if mark is None else mark.at,
        "scopes": scopes,
    }


def _scope(
    connection: sqlite3.Connection,
    name: str,
    key: str,
    limits: Limits,
    rates: tuple[RateUse, ...],
    account: AccountSnapshot | None,
    at: datetime,
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
        "limits": (*describe_usage(limits, usage, at, scope=kind, snapshot=account), *map(_rate_line, rates)),
    }


def _rate_line(use: RateUse) -> LimitLine:
    """One rate limit: a sliding window. Each alert counts until it is as old as the window; exits have none."""
    window = {60: "a minute", 3600: "an hour", 86_400: "a day"}[use.length_s]
    return LimitLine(
        name=f"alerts {window}",
        limit=f"{use.limit:,}",
        used=f"{use.used:,}" + (f" and {use.exits:,} exits" if use.exits else ""),
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
