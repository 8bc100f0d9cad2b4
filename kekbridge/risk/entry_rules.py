"""Risk rules on how and when an entry is made: stop loss, slippage, cool-down, trading hours.

Part of `RULES` in rules.py, which sets their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from kekbridge.errors import ConfigError
from kekbridge.model import ZERO, Verdict
from kekbridge.risk.check import Bounds, RuleInput, allow, check_maxima, deny, fix_for, no_limit
from kekbridge.risk.limits import limit_number, percent
from kekbridge.risk.trading_hours import next_opening


def check_stop_loss(bounds: Bounds[bool], checked: RuleInput) -> Sequence[Verdict]:
    """Require a stop loss. A trailing stop does not count: it is a separate order and cannot be placed together with the entry."""
    stop = checked.intent.stop_loss
    found = "none" if stop is None else limit_number(stop)
    verdicts = []
    for scope, _ in bounds:
        if stop is not None:
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
    return check_maxima(
        [(scope, limits.farthest_stop) for scope, limits in checked.scopes],
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
    own = checked.intent.slippage
    bounds = [
        (scope, _tighter(limits.max_slippage, own if scope == "webhook" else None)) for scope, limits in checked.scopes
    ]
    if all(bound is None for _, bound in bounds):
        return [no_limit("slippage_too_high", scope) for scope, _ in bounds]
    return check_maxima(
        bounds,
        "slippage_too_high",
        "max_slippage",
        max(ZERO, (mark - signal) * checked.intent.side.sign / signal),
        percent,
        lambda shown: f"the mark {limit_number(mark)} is {shown} worse than the signal's {limit_number(signal)}, which",
        "check the chart's exchange, raise slippage",
    )


def _tighter(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def check_cooldown(bounds: Bounds[int], checked: RuleInput) -> Sequence[Verdict]:
    """Require a pause since the webhook's last entry in this symbol."""
    last = checked.usage.last_entry_at.get(checked.intent.symbol)
    verdicts = []
    for scope, pause in bounds:
        if last is None:
            verdicts.append(allow("cooldown", scope, "no entry yet", f"{pause} s"))
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


def check_trading_hours(bounds: Bounds[str], checked: RuleInput) -> Sequence[Verdict]:
    """Deny entries outside the trading hours."""
    clock = _time_of_week(checked.usage.now.replace(second=0, microsecond=0))
    verdicts = []
    for scope, text in bounds:
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
