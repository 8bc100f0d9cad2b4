"""Key-value settings that survive a restart, and the trading state, which is stored among them.

Values are JSON; their meaning belongs to the module that writes them. The trading state is here because each admission reads it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from kekbridge.model import LimitBreach, TradingState
from kekbridge.store import cache, codec, events
from kekbridge.store.codec import from_json, to_json

ACCOUNT: Final = "account"
EQUITY_PEAK: Final = "equity_peak"
_TABLE: Final = "settings"
_STRICTNESS: Final = (TradingState.RUNNING, TradingState.EXITS_ONLY, TradingState.HALTED)
_BY_LIMIT: Final = "limit "  # begins `by` of a breach


@dataclass(frozen=True, slots=True, kw_only=True)
class TradingControl:
    """The trading state of a scope and who set it."""

    #: What may be traded now.
    state: TradingState
    #: One line for the trader.
    reason: str = ""
    #: Who set it: `command line`, `web page`…, or `limit <rule>` for a breach.
    by: str = ""
    since: datetime | None = None
    #: When trading resumes by itself; None: when the trader resumes.
    until: datetime | None = None


_RUNNING: Final = TradingControl(state=TradingState.RUNNING)


# ------------------------------------------------------------------------------------------------------- key and value


def get_value(connection: sqlite3.Connection, key: str) -> Any | None:
    """The value of a key, numbers with a fraction as Decimal; None if it is not set."""
    row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return None if row is None else from_json(row[0])


def set_value(connection: sqlite3.Connection, key: str, value: object, *, now: datetime) -> None:
    """Set a key to a value that JSON can hold; amounts and times are stored as text."""
    cache.invalidate(connection, _TABLE)
    connection.execute(
        "INSERT INTO settings (key, value, updated_at) VALUES (?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
        (key, to_json(value), codec.time_text(now)),
    )


def remove(connection: sqlite3.Connection, key: str) -> bool:
    """Delete a key; False if it was not set."""
    if not cache.get_or_load(connection, _TABLE, key, _is_set, key):
        return False
    cache.invalidate(connection, _TABLE)
    connection.execute("DELETE FROM settings WHERE key = ?", (key,))
    return True


def _is_set(connection: sqlite3.Connection, key: str) -> bool:
    return connection.execute("SELECT 1 FROM settings WHERE key = ?", (key,)).fetchone() is not None


# ------------------------------------------------------------------------------------------------------- trading state


def trading_control(connection: sqlite3.Connection, *, now: datetime, scope: str = ACCOUNT) -> TradingControl:
    """The trading state of one scope; a stop whose end has passed is running again."""
    return _control(get_value(connection, _state_key(scope)), now)


def effective_state(
    connection: sqlite3.Connection, *, now: datetime, webhook_id: str | None = None, ignore_breaches: bool = False
) -> TradingState:
    """The stricter of the account's state and, if given, the webhook's; `ignore_breaches` as in `state_and_peak`."""
    scopes = (ACCOUNT,) if webhook_id is None else (ACCOUNT, webhook_id)
    controls = (trading_control(connection, now=now, scope=scope) for scope in scopes)
    return _strictest(control.state for control in controls if not (ignore_breaches and _is_breach(control)))


def state_and_peak(
    connection: sqlite3.Connection, webhook_id: str, *, now: datetime, ignore_breaches: bool = False
) -> tuple[TradingControl, Decimal | None]:
    """The effective trading state with its reason, and the equity peak: what an admission needs from this table, in one query.

    `ignore_breaches`: for the recheck of an order that was admitted while there was room, and for which the limits are checked again.
    """
    stored, peak = cache.get_or_load(
        connection, _TABLE, ("state and peak", webhook_id), _stored_state_and_peak, webhook_id
    )
    controls = [_control(one, now) for one in stored]
    if ignore_breaches:
        controls = [control for control in controls if not _is_breach(control)]
    control = max(controls, key=lambda one: _STRICTNESS.index(one.state), default=_RUNNING)
    return control, peak


def set_trading_state(
    connection: sqlite3.Connection,
    state: TradingState,
    *,
    reason: str,
    by: str,
    now: datetime,
    until: datetime | None = None,
    scope: str = ACCOUNT,
) -> None:
    """Halt, restrict to exits, or resume the account or one webhook (`scope` = its id). Applies from the next admission."""
    control = TradingControl(state=state, reason=reason, by=by, since=now, until=until)
    set_value(connection, _state_key(scope), control, now=now)
    data = {"scope": scope, "state": state, "reason": reason, "by": by, "until": until}
    events.append(connection, "trading_state", now=now, data=data)


def close_for_entries(connection: sqlite3.Connection, *, reason: str, by: str, now: datetime) -> None:
    """Restrict the account to exits until the trader resumes; does nothing if it is restricted as strictly already."""
    control = trading_control(connection, now=now)
    if control.state is TradingState.RUNNING or control.until is not None:
        set_trading_state(connection, TradingState.EXITS_ONLY, reason=reason, by=by, now=now)


def close_for_breach(connection: sqlite3.Connection, breach: LimitBreach, *, webhook_id: str, now: datetime) -> bool:
    """Close the breach's scope for entries; False if it is closed at least as long already. One event per breach, not per denied alert."""
    scope = ACCOUNT if breach.scope == ACCOUNT else webhook_id
    control = trading_control(connection, now=now, scope=scope)
    if control.state is TradingState.HALTED:
        return False  # stricter than a breach
    if control.state is TradingState.EXITS_ONLY and control.until in (None, breach.until):
        return False
    exits_only = TradingState.EXITS_ONLY
    reason = f"{breach.reason}" + (f", until {breach.until:%Y-%m-%d %H:%M} UTC" if breach.until else "")
    set_trading_state(
        connection,
        exits_only,
        reason=reason,
        by=f"{_BY_LIMIT}{breach.rule}",
        now=now,
        until=breach.until,
        scope=scope,
    )
    return True


def resume_all(connection: sqlite3.Connection, *, reason: str, by: str, now: datetime) -> tuple[str, ...]:
    """Resume the account and every webhook that is not running; return the ids of those webhooks."""
    prefix = _state_key("")
    keys = [
        key for (key,) in connection.execute("SELECT key FROM settings WHERE key LIKE ? ORDER BY key", (prefix + "%",))
    ]
    scopes = [key.removeprefix(prefix) for key in keys]
    closed = [
        scope
        for scope in scopes
        if scope != ACCOUNT and trading_control(connection, now=now, scope=scope).state is not TradingState.RUNNING
    ]
    for scope in (ACCOUNT, *closed):
        set_trading_state(connection, TradingState.RUNNING, reason=reason, by=by, now=now, scope=scope)
    return tuple(closed)


def has_elapsed_stop(connection: sqlite3.Connection, *, now: datetime) -> bool:
    """True if `resume_elapsed` would resume a scope."""
    return bool(_elapsed_stops(connection, now))


def resume_elapsed(connection: sqlite3.Connection, *, now: datetime) -> tuple[str, ...]:
    """Resume every scope whose stop has ended, with an event each; return those scopes.

    Admissions ignore an ended stop anyway; this makes the stored state and the notifications say so.
    """
    rows = _elapsed_stops(connection, now)
    for key, value in rows:
        stopped = from_json(value)
        reason = f"{stopped['reason']} (over)"
        scope = key.removeprefix(_state_key(""))
        set_trading_state(connection, TradingState.RUNNING, reason=reason, by=stopped["by"], now=now, scope=scope)
    return tuple(key.removeprefix(_state_key("")) for key, _ in rows)


def _elapsed_stops(connection: sqlite3.Connection, now: datetime) -> list[tuple[str, str]]:
    """Key and stored state of stopped scopes whose end has passed."""
    return connection.execute(
        "SELECT key, value FROM settings WHERE key LIKE ? AND json_extract(value, '$.state') <> 'running'"
        " AND json_extract(value, '$.until') <= ? ORDER BY key",
        (_state_key("") + "%", codec.time_text(now)),
    ).fetchall()


def _stored_state_and_peak(
    connection: sqlite3.Connection, webhook_id: str
) -> tuple[tuple[Mapping[str, Any], ...], Decimal | None]:
    rows = connection.execute(
        "SELECT key, value FROM settings WHERE key IN (?, ?, ?)",
        (_state_key(ACCOUNT), _state_key(webhook_id), EQUITY_PEAK),
    )
    values = {key: from_json(value) for key, value in rows}
    peak = values.pop(EQUITY_PEAK, None)
    return tuple(values.values()), None if peak is None else Decimal(str(peak))


def _control(stored: Any | None, now: datetime) -> TradingControl:
    if stored is None:
        return TradingControl(state=TradingState.RUNNING)
    control = TradingControl(
        state=TradingState(stored["state"]),
        reason=stored["reason"],
        by=stored["by"],
        since=codec.optional_time(stored["since"]),
        until=codec.optional_time(stored["until"]),
    )
    if control.until is not None and control.until <= now:
        return TradingControl(state=TradingState.RUNNING, reason=f"{control.reason} (over)", since=control.until)
    return control


def _is_breach(control: TradingControl) -> bool:
    return control.by.startswith(_BY_LIMIT)


def _strictest(states: Iterable[TradingState]) -> TradingState:
    return max(states, key=_STRICTNESS.index, default=TradingState.RUNNING)


def _state_key(scope: str) -> str:
    return f"trading_state:{scope}"
