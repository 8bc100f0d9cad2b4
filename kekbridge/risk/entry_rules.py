"""Rules on how and when an entry is made: its stop loss, the price it would get, the pause between entries, the hours of trading.

Part of the list in rules.py, which says in which order they are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from kekbridge.errors import ConfigError
from kekbridge.model import ZERO, Verdict
from kekbridge.risk import trading_hours as hours
from kekbridge.risk.check import NO_LIMIT, RuleInput, allow, at_most, deny, fix_for, within
from kekbridge.risk.limits import limit_number, percent


def stop_loss(case: RuleInput) -> Sequence[Verdict]:
    """A trailing stop does not count: it is an order of its own and cannot be placed together with the entry."""
    stop = case.intent.stop_loss
    found = "none" if stop is None else limit_number(stop)
    verdicts = []
    for scope, limits in case.scopes:
        if not limits.require_stop_loss:
            verdicts.append(allow("stop_loss_required", scope, found, "not required"))
        elif stop is not None:
            verdicts.append(allow("stop_loss_required", scope, found, "required"))
        else:
            text = f"the {scope} requires a stop loss and the alert has none; add stopLoss as a price or a percent"
            verdicts.append(deny("stop_loss_required", scope, found, "required", text))
    return verdicts


def stop_distance(case: RuleInput) -> Sequence[Verdict]:
    """How far the stop loss is from the entry, as a share of it."""
    stop, entry = case.intent.stop_loss, case.intent.reference_price
    if stop is None or entry <= 0:
        return ()
    return within(
        case,
        "stop_loss_too_far",
        "max_stop_distance",
        abs(entry - stop) / entry,
        percent,
        lambda shown: f"the stop loss {limit_number(stop)} is {shown} from the entry {limit_number(entry)}, that",
        "move it nearer",
    )


def slippage(case: RuleInput) -> Sequence[Verdict]:
    """How much worse the mark is than the price the chart showed. A better price is no slippage."""
    signal = case.intent.signal_price
    if signal is None or signal <= 0:
        return ()
    mark = case.snapshot.mark_price(case.intent.symbol)
    if mark is None:
        return ()
    found = max(ZERO, (mark - signal) * case.intent.side.sign / signal)
    shown = percent(found)
    verdicts = []
    for scope, limits in case.scopes:
        bounds = (limits.max_slippage, case.intent.slippage if scope == "webhook" else None)
        told = at_most(
            "slippage_too_high",
            scope,
            found,
            min((bound for bound in bounds if bound is not None), default=None),
            percent,
            lambda shown: (
                f"the mark {limit_number(mark)} is {shown} worse than the signal's {limit_number(signal)}, that"
            ),
            "max_slippage",
            "check the chart's venue, raise slippage",
            shown=shown,
        )
        verdicts.append(told)
    return verdicts


def cooldown(case: RuleInput) -> Sequence[Verdict]:
    """How long ago the webhook last entered this symbol."""
    last = case.usage.last_entry_at.get(case.intent.symbol)
    verdicts = []
    for scope, limits in case.scopes:
        pause = limits.cooldown_s
        if not pause or last is None:
            verdicts.append(
                allow("cooldown", scope, "no entry yet" if last is None else "-", f"{pause} s" if pause else NO_LIMIT)
            )
            continue
        passed_s = int((case.now - last).total_seconds())
        found, limit = f"{passed_s} s", f"at least {pause} s"
        if case.now - last >= timedelta(seconds=pause):
            verdicts.append(allow("cooldown", scope, found, limit))
            continue
        text = f"the last entry in {case.intent.symbol} was {passed_s} s ago, the {scope}'s cool-down is {pause} s; "
        text += f"wait {pause - passed_s} s, or {fix_for(scope, 'cooldown', 'lower')}"
        verdicts.append(deny("cooldown", scope, found, limit, text))
    return verdicts


@lru_cache(maxsize=16)
def _time_of_week(minute: datetime) -> str:
    return f"{minute:%a %H:%M} UTC"


def trading_hours(case: RuleInput) -> Sequence[Verdict]:
    """Whether positions may be opened at this time of the week."""
    clock = _time_of_week(case.now.replace(second=0, microsecond=0))
    verdicts = []
    for scope, limits in case.scopes:
        text = limits.trading_hours
        if not text:
            verdicts.append(allow("outside_trading_hours", scope, clock, NO_LIMIT))
            continue
        try:
            opens_at = hours.next_opening(text, case.now)
        except ConfigError as error:  # a limit that cannot be read must not become no limit
            verdicts.append(deny("outside_trading_hours", scope, clock, text, error.message))
            continue
        if opens_at == case.now:
            verdicts.append(allow("outside_trading_hours", scope, clock, text))
            continue
        opening = "never" if opens_at is None else f"{opens_at:%a %Y-%m-%d %H:%M} UTC"
        reason = f"it is {clock}, the {scope} opens positions {text} only; the next opening is {opening}"
        verdicts.append(deny("outside_trading_hours", scope, clock, text, reason))
    return verdicts
