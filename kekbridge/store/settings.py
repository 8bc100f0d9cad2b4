"""Small facts that must survive a restart, by key: the trading state above all.

Values are JSON. What a key means is the business of whoever writes it, except for the trading state, which lives here because
every admission reads it in its own transaction.
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
_TABLE: Final = "settings"
EQUITY_PEAK: Final = "equity_peak"

_TIGHTNESS: Final = (TradingState.RUNNING, TradingState.EXITS_ONLY, TradingState.HALTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TradingControl:
    """Who set the trading state of a scope, why, since when, and until when (None: until somebody resumes)."""

    state: TradingState
    reason: str = ""
    by: str = ""
    since: datetime | None = None
    until: datetime | None = None


_RUNNING: Final = TradingControl(state=TradingState.RUNNING)
_BY_LIMIT: Final = "limit "


def get_value(connection: sqlite3.Connection, key: str) -> Any | None:
    """The value of a key, numbers with a fraction as Decimal; None when it was never set."""
    row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return None if row is None else from_json(row[0])


def remove(connection: sqlite3.Connection, key: str) -> bool:
    """Forget a key; False when it was never set."""
    if not cache.get_or_load(connection, _TABLE, key, _is_set, key):
        return False
    cache.invalidate(connection, _TABLE)
    connection.execute("DELETE FROM settings WHERE key = ?", (key,))
    return True


def _is_set(connection: sqlite3.Connection, key: str) -> bool:
    return connection.execute("SELECT 1 FROM settings WHERE key = ?", (key,)).fetchone() is not None


def set_value(connection: sqlite3.Connection, key: str, value: object, *, now: datetime) -> None:
    """Set a key to anything JSON can hold; amounts and times are stored as text."""
    cache.invalidate(connection, _TABLE)
    connection.execute(
        "INSERT INTO settings (key, value, updated_at) VALUES (?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
        (key, to_json(value), codec.to_text(now)),
    )


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
    """Halt, restrict to exits or resume: the whole account, or one webhook (`scope` = its id). Applies to the next admission."""
    control = TradingControl(state=state, reason=reason, by=by, since=now, until=until)
    set_value(connection, _state_key(scope), control, now=now)
    data = {"scope": scope, "state": state, "reason": reason, "by": by, "until": until}
    events.append(connection, "trading_state", now=now, data=data)


def close_for_entries(connection: sqlite3.Connection, *, reason: str, by: str, now: datetime) -> None:
    """The account takes exits only until somebody resumes; nothing when it is closed as tightly already."""
    control = trading_control(connection, now=now)
    if control.state is TradingState.RUNNING or control.until is not None:
        set_trading_state(connection, TradingState.EXITS_ONLY, reason=reason, by=by, now=now)


def trip(connection: sqlite3.Connection, tripped: LimitBreach, *, webhook_id: str, now: datetime) -> bool:
    """Close the trip's scope for entries; False when it is closed at least as long already. One event per trip, not per refused alert."""
    scope = ACCOUNT if tripped.scope == ACCOUNT else webhook_id
    control = trading_control(connection, now=now, scope=scope)
    if control.state is TradingState.HALTED:
        return False  # tighter than a trip
    if control.state is TradingState.EXITS_ONLY and control.until in (None, tripped.until):
        return False
    exits_only = TradingState.EXITS_ONLY
    reason = f"{tripped.reason}" + (f", until {tripped.until:%Y-%m-%d %H:%M} UTC" if tripped.until else "")
    set_trading_state(
        connection,
        exits_only,
        reason=reason,
        by=f"{_BY_LIMIT}{tripped.rule}",
        now=now,
        until=tripped.until,
        scope=scope,
    )
    return True


def resume_all(connection: sqlite3.Connection, *, reason: str, by: str, now: datetime) -> tuple[str, ...]:
    """Resume the account and every webhook that is not running; returns the ids of those webhooks."""
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


def end_what_is_over(connection: sqlite3.Connection, *, now: datetime) -> tuple[str, ...]:
    """Resume every scope whose stop had an end that has passed, and tell it; returns those scopes.

    Admissions let alerts pass from that moment on anyway; this is so that the record says so, and somebody hears of it.
    """
    rows = _over(connection, now)
    for key, value in rows:
        stopped = from_json(value)
        reason = f"{stopped['reason']} (over)"
        scope = key.removeprefix(_state_key(""))
        set_trading_state(connection, TradingState.RUNNING, reason=reason, by=stopped["by"], now=now, scope=scope)
    return tuple(key.removeprefix(_state_key("")) for key, _ in rows)


def has_something_over(connection: sqlite3.Connection, *, now: datetime) -> bool:
    """Whether `end_what_is_over` would find anything."""
    return bool(_over(connection, now))


def _over(connection: sqlite3.Connection, now: datetime) -> list[tuple[str, str]]:
    """Stopped scopes whose end has passed: key and stored state."""
    return connection.execute(
        "SELECT key, value FROM settings WHERE key LIKE ? AND json_extract(value, '$.state') <> 'running'"
        " AND json_extract(value, '$.until') <= ? ORDER BY key",
        (_state_key("") + "%", codec.to_text(now)),
    ).fetchall()


def trading_control(connection: sqlite3.Connection, *, now: datetime, scope: str = ACCOUNT) -> TradingControl:
    """The trading state of one scope; what had an end that has passed is running again."""
    return _control(get_value(connection, _state_key(scope)), now)


def effective_state(
    connection: sqlite3.Connection, *, now: datetime, webhook_id: str | None = None, without_trips: bool = False
) -> TradingState:
    """The tighter one of the account's state and, if given, the webhook's; `without_trips` as in `state_and_peak`."""
    scopes = (ACCOUNT,) if webhook_id is None else (ACCOUNT, webhook_id)
    controls = (trading_control(connection, now=now, scope=scope) for scope in scopes)
    return tightest(control.state for control in controls if not (without_trips and _is_trip(control)))


def state_and_peak(
    connection: sqlite3.Connection, webhook_id: str, *, now: datetime, without_trips: bool = False
) -> tuple[TradingControl, Decimal | None]:
    """What an admission needs from this table, in one look: the effective trading state with its reason, and the equity peak.

    `without_trips` leaves out what a limit closed by itself: for an order that was admitted while there was room, and that every limit
    judges anew anyway.
    """
    stored, peak = cache.get_or_load(
        connection, _TABLE, ("state and peak", webhook_id), _stored_state_and_peak, webhook_id
    )
    controls = [_control(one, now) for one in stored]
    if without_trips:
        controls = [control for control in controls if not _is_trip(control)]
    control = max(controls, key=lambda one: _TIGHTNESS.index(one.state), default=_RUNNING)
    return control, peak


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


def _is_trip(control: TradingControl) -> bool:
    return control.by.startswith(_BY_LIMIT)


def tightest(states: Iterable[TradingState]) -> TradingState:
    return max(states, key=_TIGHTNESS.index, default=TradingState.RUNNING)


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


def _state_key(scope: str) -> str:
    return f"trading_state:{scope}"
