"""Risk rules on how and when an entry is made: stop loss, slippage, cool-down, trading hours.

Part of `RULES` in rules.py, which sets their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from kekbridge.errors import ConfigError
from kekbridge.model import ZERO, Verdict
from kekbridge.risk.check import NO_LIMIT, RuleInput, allow, check_maximum, check_scopes, deny, fix_for
from kekbridge.risk.limits import limit_number, percent
from kekbridge.risk.trading_hours import next_opening


def check_stop_loss(checked: RuleInput) -> Sequence[Verdict]:
    """Require a stop loss. A trailing stop does not count: it is a separate order and cannot be placed together with the entry."""
    stop = checked.intent.stop_loss
    found = "none" if stop is None else limit_number(stop)
    verdicts = []
    for scope, limits in checked.scopes:
        if not limits.require_stop_loss:
            verdicts.append(allow("stop_loss_required", scope, found, "not required"))
        elif stop is not None:
            verdicts.append(allow("stop_loss_required", scope, found, "required"))
        else:
            text = f"the {scope} requires a stop loss and the alert has none; add stopLoss as a price or a percent"
            verdicts.append(deny("stop_loss_required", scope, found, "required", text))
    return verdicts


def check_stop_distance(checked: RuleInput) -> Sequence[Verdict]:
    """Limit the distance of the stop loss from the entry, as a fraction of the entry price."""
    stop, entry = checked.intent.stop_loss, checked.intent.reference_price
    if stop is None or entry <= 0:
        return ()
    return check_scopes(
        checked,
        "stop_loss_too_far",
        "max_stop_distance",
        abs(entry - stop) / entry,
        percent,
        lambda shown: f"the stop loss {limit_number(stop)} is {shown} from the entry {limit_number(entry)}, which",
        "move it closer",
    )


def check_slippage(checked: RuleInput) -> Sequence[Verdict]:
    """Limit how much worse the mark is than the signal's price. A better price is no slippage."""
    signal = checked.intent.signal_price
    if signal is None or signal <= 0:
        return ()
    mark = checked.snapshot.mark_price(checked.intent.symbol)
    if mark is None:
        return ()
    found = max(ZERO, (mark - signal) * checked.intent.side.sign / signal)
    shown = percent(found)
    verdicts = []
    for scope, limits in checked.scopes:
        bounds = (limits.max_slippage, checked.intent.slippage if scope == "webhook" else None)
        verdict = check_maximum(
            "slippage_too_high",
            scope,
            found,
            min((bound for bound in bounds if bound is not None), default=None),
            percent,
            lambda shown: (
                f"the mark {limit_number(mark)} is {shown} worse than the signal's {limit_number(signal)}, which"
            ),
            "max_slippage",
            "check the chart's exchange, raise slippage",
            shown=shown,
        )
        verdicts.append(verdict)
    return verdicts


def check_cooldown(checked: RuleInput) -> Sequence[Verdict]:
    """Require a pause since the webhook's last entry in this symbol."""
    last = checked.usage.last_entry_at.get(checked.intent.symbol)
    verdicts = []
    for scope, limits in checked.scopes:
        pause = limits.cooldown_s
        if not pause or last is None:
            verdicts.append(
                allow("cooldown", scope, "no entry yet" if last is None else "-", f"{pause} s" if pause else NO_LIMIT)
            )
            continue
        passed_s = int((checked.usage.now - last).total_seconds())
        found, limit = f"{passed_s} s", f"at least {pause} s"
        if checked.usage.now - last >= timedelta(seconds=pause):
            verdicts.append(allow("cooldown", scope, found, limit))
            continue
        text = f"the last entry in {checked.intent.symbol} was {passed_s} s ago, the {scope}'s cool-down is {pause} s; "
        text += f"wait {pause - passed_s} s, or {fix_for(scope, 'cooldown', 'lower')}"
        verdicts.append(deny("cooldown", scope, found, limit, text))
    return verdicts


@lru_cache(maxsize=16)
def _time_of_week(minute: datetime) -> str:
    return f"{minute:%a %H:%M} UTC"


def check_trading_hours(checked: RuleInput) -> Sequence[Verdict]:
    """Deny entries outside the trading hours."""
    clock = _time_of_week(checked.usage.now.replace(second=0, microsecond=0))
    verdicts = []
    for scope, limits in checked.scopes:
        text = limits.trading_hours
        if not text:
            verdicts.append(allow("outside_trading_hours", scope, clock, NO_LIMIT))
            continue
        try:
            opens_at = next_opening(text, checked.usage.now)
        except ConfigError as error:  # an unreadable limit must not become no limit
            verdicts.append(deny("outside_trading_hours", scope, clock, text, error.message))
            continue
        if opens_at == checked.usage.now:
            verdicts.append(allow("outside_trading_hours", scope, clock, text))
            continue
        opening = "never" if opens_at is None else f"{opens_at:%a %Y-%m-%d %H:%M} UTC"
        reason = f"it is {clock}, the {scope} opens positions only at {text}; the next opening is {opening}"
        verdicts.append(deny("outside_trading_hours", scope, clock, text, reason))
    return verdicts
