"""Drawdown and daily loss: the equity peak adjusted for deposits and withdrawals, and which denials breach a limit.

Pure arithmetic over equity marks; ops/equity.py collects them, store/equity.py stores them, rules.py and `risk show` use the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from itertools import pairwise
from typing import Final

from kekbridge.model import ZERO, AccountSnapshot, EquityMark, Flow, LimitBreach, Limits, Usage, Verdict
from kekbridge.risk.account_exposure import AccountExposure

# The clocks differ, and a transfer may show in the account a little before or after its own timestamp.
FLOW_WINDOW: Final = timedelta(minutes=2)
_RATIO: Final = Context(prec=28)


def follow_peak(
    base: EquityMark, before: Decimal | None, values: Sequence[tuple[datetime, Decimal]], flows: Sequence[Flow]
) -> tuple[EquityMark, ...]:
    """Continue the peak over the equity `values` (time, USDC) after `base`; `before` is the value of the mark before the base, if any.

    A flow scales the peak as it scaled equity, so that the drawdown in percent is the same before and after it. It is attributed to the
    change of equity that it fits best within two minutes of its own time; one that fits the change before the base is in its peak already.
    """
    seen = [(base.at, base.value), *values]
    steps = [base.value - before if before is not None else ZERO]
    steps += [later - earlier for (_, earlier), (_, later) in pairwise(seen)]
    flowed = [ZERO] * len(seen)
    for flow in flows:
        step = _step_of(flow, [at for at, _ in seen], steps)
        if step:
            flowed[step] += flow.amount
    marks = [base]
    for (at, value), moved in zip(values, flowed[1:], strict=True):
        marks.append(EquityMark(at, value, moved, max(_scaled(marks[-1].peak, value, moved), value)))
    return tuple(marks[1:])


def drawdown_of(peak: Decimal | None, value: Decimal) -> Decimal:
    """The fall from the peak as a fraction; zero without a peak."""
    return ZERO if peak is None or peak <= 0 else max(ZERO, (peak - value) / peak)


def loss_of_day(
    sums: AccountExposure,
    usage: Usage,
    snapshot: AccountSnapshot,
    allowed_symbols: tuple[str, ...] | None,
    scope: str,
) -> Decimal:
    """Today's loss in USDC, negative for a gain: realized today plus unrealized at the mark.

    A webhook is charged with all positions in its allowed symbols: a net position cannot be split by webhook.
    """
    realized = usage.account_realized_today if scope == "account" else usage.realized_today
    return -(realized + sums.unrealized_pnl(snapshot, usage, allowed_symbols))


def breach_of(denial: Verdict, *, notional: Decimal, limits: Limits, now: datetime) -> LimitBreach | None:
    """Return the breach if a denied entry closes its scope: a daily limit until 00:00 UTC, the drawdown until `resume`.

    An order that alone exceeds the whole daily limit is denied for its size and closes nothing.
    """
    if denial.rule == "drawdown":
        return LimitBreach(scope=denial.scope, rule="drawdown", reason=f"drawdown {denial.found}", until=None)
    if denial.rule not in ("daily_limit", "daily_orders", "daily_loss"):
        return None
    if denial.rule == "daily_limit" and (limits.daily_limit is None or notional > limits.daily_limit):
        return None
    return LimitBreach(scope=denial.scope, rule=denial.rule, reason=_used_up(denial), until=next_midnight(now))


def _used_up(denial: Verdict) -> str:
    """`daily limit of 20,000.00 USDC used up`."""
    limit = denial.limit.removeprefix("at most ").removeprefix("under ")
    if denial.rule == "daily_loss":
        return f"daily loss of {denial.found}, limit {limit}"
    return (
        f"limit of {limit} orders a day used up" if denial.rule == "daily_orders" else f"daily limit of {limit} used up"
    )


def next_midnight(now: datetime) -> datetime:
    """When daily limits reset; days are UTC."""
    today = now.astimezone(UTC)
    return datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=1)


def _step_of(flow: Flow, times: Sequence[datetime], steps: Sequence[Decimal]) -> int:
    """Index of the equity change that the flow caused; 0 if it belongs to the base or earlier, or to no mark yet.

    Beside a loss or gain of its own size it fits none: then it is in the first mark at or after its own time.
    """
    due = next((index for index, at in enumerate(times) if at >= flow.at), None)
    near = [index for index, at in enumerate(times) if abs(at - flow.at) <= FLOW_WINDOW or index == due]
    fitting = [index for index in near if 2 * abs(steps[index] - flow.amount) <= abs(flow.amount)]
    if not fitting:
        return due or 0
    return min(fitting, key=lambda index: abs(steps[index] - flow.amount))


def _scaled(peak: Decimal, value: Decimal, flow: Decimal) -> Decimal:
    if flow == 0:
        return peak
    without = value - flow
    return peak * _RATIO.divide(value, without) if without > 0 and value > 0 else value
