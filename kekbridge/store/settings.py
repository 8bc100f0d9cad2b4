"""Key-value settings that survive a restart, and the trading state, which is stored among them.

Values are JSON; their meaning belongs to the module that writes them. The trading state is here because each admission reads it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from kekbridge.model import LimitBreach, TradingState
from kekbridge.store import codec, journal
from kekbridge.store.codec import from_json, to_json
from kekbridge.store.transaction import note_change

ACCOUNT: Final = "account"
EQUITY_PEAK: Final = "equity_peak"
_STRICTNESS: Final = (TradingState.RUNNING, TradingState.EXITS_ONLY, TradingState.HALTED)
#: Begins `by` of a state that a limit has set; the rule follows.
BY_LIMIT: Final = "limit "
#: `by` of the states that the day's totals have set, which count an order once, when it is admitted.
BY_TOTALS: Final = (f"{BY_LIMIT}daily_limit", f"{BY_LIMIT}daily_orders")


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


def has_key(connection: sqlite3.Connection, prefix: str) -> bool:
    """True if a key that begins with `prefix` is set."""
    return bool(connection.execute("SELECT 1 FROM settings WHERE key GLOB ? LIMIT 1", (f"{prefix}*",)).fetchone())


def set_value(connection: sqlite3.Connection, key: str, value: object, *, now: datetime) -> None:
    """Set a key to a value that JSON can hold; amounts and times are stored as text."""
    note_change(connection, "settings")
    connection.execute(
        "INSERT INTO settings (key, value, updated_at) VALUES (?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
        (key, to_json(value), codec.time_text(now)),
    )


def remove(connection: sqlite3.Connection, key: str) -> bool:
    """Delete a key; False if it was not set."""
    return connection.execute("DELETE FROM settings WHERE key = ?", (key,)).rowcount > 0


# ------------------------------------------------------------------------------------------------------- trading state


def trading_control(connection: sqlite3.Connection, *, now: datetime, scope: str = ACCOUNT) -> TradingControl:
    """The trading state of one scope; a stop whose end has passed is running again."""
    return _control(get_value(connection, _state_key(scope)), now)


def stored_controls(connection: sqlite3.Connection) -> dict[str, TradingControl]:
    """The trading state of every scope that ever had one, as stored: `strictest` looks at their ends."""
    prefix = _state_key("")
    rows = connection.execute("SELECT key, value FROM settings WHERE key LIKE ?", (prefix + "%",))
    return {key.removeprefix(prefix): control_from(from_json(value)) for key, value in rows}


def strictest(
    controls: Mapping[str, TradingControl],
    webhook_id: str,
    *,
    now: datetime,
    ignore_breaches: bool = False,
    ignored: Collection[str] = (),
) -> TradingControl:
    """The stricter of the account's state and the webhook's at a time.

    `ignore_breaches`: for the recheck of an order that was admitted while there was room, and for which the limits are checked again.
    `ignored`: states that these have set do not count.
    """
    found = _RUNNING
    for scope in (ACCOUNT, webhook_id):
        control = controls.get(scope)
        if control is None or control.by in ignored or (ignore_breaches and control.by.startswith(BY_LIMIT)):
            continue
        control = control_at(control, now)
        if _STRICTNESS.index(control.state) > _STRICTNESS.index(found.state):
            found = control
    return found


def closing_scope(
    controls: Mapping[str, TradingControl], webhook_id: str, *, now: datetime, ignore_breaches: bool = False
) -> str:
    """Whose state `strictest` has returned: ACCOUNT, or the webhook's id."""
    of_account = strictest(controls, ACCOUNT, now=now, ignore_breaches=ignore_breaches)
    found = strictest(controls, webhook_id, now=now, ignore_breaches=ignore_breaches)
    return ACCOUNT if of_account.state is found.state else webhook_id


def equity_peak(connection: sqlite3.Connection) -> Decimal | None:
    """The equity peak in USDC; None before the first mark."""
    peak = get_value(connection, EQUITY_PEAK)
    return None if peak is None else Decimal(str(peak))


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
    journal.append(connection, "trading_state", now=now, data=state_data(scope, control))


def closed_for_entries(current: TradingControl | None, *, reason: str, by: str, now: datetime) -> TradingControl | None:
    """Exits only until the trader resumes; None if the account's `current` state is as strict already."""
    if (
        current is not None
        and (found := control_at(current, now)).state is not TradingState.RUNNING
        and found.until is None
    ):
        return None
    return TradingControl(state=TradingState.EXITS_ONLY, reason=reason, by=by, since=now)


def breach_control(current: TradingControl | None, breach: LimitBreach, *, now: datetime) -> TradingControl | None:
    """The state that a breach leads to from `current`; None if the scope is closed at least as long already."""
    current = _RUNNING if current is None else control_at(current, now)
    if current.state is TradingState.HALTED:
        return None  # stricter than a breach
    if current.state is TradingState.EXITS_ONLY and current.until in (None, breach.until):
        return None
    reason = f"{breach.reason}" + (f", until {breach.until:%Y-%m-%d %H:%M} UTC" if breach.until else "")
    return TradingControl(
        state=TradingState.EXITS_ONLY, reason=reason, by=f"{BY_LIMIT}{breach.rule}", since=now, until=breach.until
    )


def close_for_breach(connection: sqlite3.Connection, breach: LimitBreach, *, webhook_id: str, now: datetime) -> bool:
    """Close the breach's scope for entries; False if it is closed at least as long already. One event per breach, not per denied alert."""
    scope = ACCOUNT if breach.scope == ACCOUNT else webhook_id
    control = breach_control(trading_control(connection, now=now, scope=scope), breach, now=now)
    if control is None:
        return False
    set_trading_state(
        connection, control.state, reason=control.reason, by=control.by, now=now, until=control.until, scope=scope
    )
    return True


def state_data(scope: str, control: TradingControl) -> Mapping[str, object]:
    """The data of the journal's row `trading_state`."""
    return {
        "scope": scope,
        "state": control.state,
        "reason": control.reason,
        "by": control.by,
        "until": control.until,
    }


def store_state(connection: sqlite3.Connection, data: Mapping[str, Any], *, now: datetime) -> None:
    """Write the state that a row `trading_state` says. Only for projector.py."""
    control = control_from({**data, "since": codec.time_text(now)})
    set_value(connection, _state_key(data["scope"]), control, now=now)


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


def _control(stored: Any | None, now: datetime) -> TradingControl:
    return _RUNNING if stored is None else control_at(control_from(stored), now)


def control_from(stored: Mapping[str, Any]) -> TradingControl:
    """A trading state from its JSON."""
    return TradingControl(
        state=TradingState(stored["state"]),
        reason=stored["reason"],
        by=stored["by"],
        since=codec.optional_time(stored["since"]),
        until=codec.optional_time(stored["until"]),
    )


def control_at(control: TradingControl, now: datetime) -> TradingControl:
    """The state at a time: a stop whose end has passed is running again."""
    if control.until is not None and control.until <= now:
        return TradingControl(state=TradingState.RUNNING, reason=f"{control.reason} (over)", since=control.until)
    return control


def _state_key(scope: str) -> str:
    return f"trading_state:{scope}"
