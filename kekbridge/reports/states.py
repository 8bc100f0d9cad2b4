"""Trading states for people: what a scope accepts now and until when, and what opens it again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from kekbridge.formatting import duration, soon
from kekbridge.model import TradingState
from kekbridge.store.settings import ACCOUNT, BY_LIMIT, TradingControl


@dataclass(frozen=True, slots=True)
class _Limit:
    label: str
    option: str
    setting: str


# Rules that close a scope for entries (risk/drawdown.py), with what raises them.
_LIMITS: Final = {
    "daily_limit": _Limit("daily limit", "--daily-limit", "daily_limit"),
    "daily_orders": _Limit("orders a day", "--daily-orders", "daily_orders"),
    "daily_loss": _Limit("daily loss", "--max-daily-loss", "max_daily_loss"),
    "drawdown": _Limit("drawdown", "--max-drawdown", "max_drawdown"),
}


def state_text(control: TradingControl, now: datetime, zone: tzinfo | None = UTC) -> str:
    """`running`, `halted (by hand)`, `exits only until 00:00 (daily limit)`, `exits only until resume (drawdown)`."""
    if control.state is TradingState.RUNNING:
        return "running"
    limit = _limit_of(control)
    why = limit.label if limit is not None else control.reason
    reason = f" ({why})" if why else ""
    if control.state is TradingState.HALTED:
        return f"halted{reason}"
    end = "" if limit is None else " until resume"
    if control.until is not None:
        end = f" until {soon(control.until, now, zone)}"
    return f"exits only{end}{reason}"


def state_fix(control: TradingControl, now: datetime, *, scope: str, name: str) -> str:
    """What opens the scope again; empty if it runs. `scope`: whose state it is, ACCOUNT or a webhook's id; `name`: of the webhook."""
    if control.state is TradingState.RUNNING:
        return ""
    limit = _limit_of(control)
    is_account = scope == ACCOUNT
    resumed = "`kekbridge resume`" if is_account else f"`kekbridge resume --webhook {name}`"
    if limit is None:
        return resumed
    raised = (
        f"[risk] {limit.setting} and restart" if is_account else f"{limit.option} (`kekbridge webhook edit {name}`)"
    )
    if limit.setting == "max_drawdown":
        return f"`kekbridge resume --reset-peak`, or raise {raised}, then {resumed}"
    waited = f", or wait {duration(control.until - now)}" if control.until is not None else ""
    return f"raise {raised}, then {resumed}{waited}"


def close_again_text(rule: str, until: datetime | None, now: datetime, *, scope: str, name: str) -> str:
    """Why a scope that was resumed closes again, when, and what prevents it."""
    limit = _LIMITS[rule]
    who = "the account" if scope == ACCOUNT else f"webhook {name}"
    control = TradingControl(state=TradingState.EXITS_ONLY, by=f"{BY_LIMIT}{rule}", until=until)
    when = "the next entry closes it" if rule in ("daily_limit", "daily_orders") else "within a minute it closes"
    end = "" if until is None else f", for {duration(until - now)}"
    return (
        f"{who} is still over its {limit.label}: {when} again{end}; {state_fix(control, now, scope=scope, name=name)}"
    )


def _limit_of(control: TradingControl) -> _Limit | None:
    return _LIMITS.get(control.by.removeprefix(BY_LIMIT)) if control.by.startswith(BY_LIMIT) else None
