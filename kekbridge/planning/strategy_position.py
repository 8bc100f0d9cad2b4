"""Find the newest step of a strategy, in whatever order its messages arrived.

A later second is newer. Fills of one second share their timestamp, but each names the position before and after it: they form a chain
whose end is the strategy's position (docs/internals/tradingview.md sections 2.1 and 2.2). target.py decides what to do with a
message that is not the newest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Context, Decimal
from itertools import groupby

from kekbridge.alerts.signal import TargetPosition
from kekbridge.model import StrategyHistory, StrategyStep

# TradingView stops an alert that fires 15 times in 3 minutes, and a message is refused as stale long before 32 more have arrived.
_MAX_STEPS = 32
# TradingView's sizes are doubles: 0.1 + 0.2 and 0.3 must be the same position.
_EXACT = Context(prec=10)
_SMALLEST = Decimal("1e-8")


def add_step(
    history: StrategyHistory | None, target: TargetPosition, *, fired_at: datetime, held: Decimal
) -> tuple[StrategyHistory, StrategyStep | None]:
    """Add a message's step to the history; also return the newer step that has overtaken it, or None if it is the newest itself.

    `held`: the account's position in the strategy's contracts, assumed to be the strategy's own while there is no history.
    """
    before = target.previous_signed
    step = StrategyStep(
        fired_at=fired_at, before=None if before is None else _normalized(before), now=_normalized(target.signed)
    )
    start, steps = (_normalized(held), ()) if history is None else (history.start, history.steps)
    steps = (*steps, step)
    newest = _newest(start, steps)
    is_newest = newest.now == step.now and newest.fired_at == step.fired_at
    return _shortened(start, steps), None if is_newest else newest


def last_position(history: StrategyHistory | None) -> Decimal | None:
    """The strategy's signed position by the messages so far, in its contracts; None without any."""
    if history is None:
        return None
    return _newest(history.start, history.steps).now if history.steps else history.start


def _newest(start: Decimal | None, steps: Iterable[StrategyStep]) -> StrategyStep:
    """The last step of the last second; the position before that second is found the same way."""
    last: StrategyStep | None = None
    for _, group in groupby(sorted(steps, key=_fired_at), key=_fired_at):
        last = _last_of(tuple(group), start if last is None else last.now)
    if last is None:
        raise ValueError("no steps, expected at least one")
    return last


def _last_of(steps: Sequence[StrategyStep], start: Decimal | None) -> StrategyStep:
    """The end of the chain that the steps of one second form; the last to arrive if the chain is ambiguous.

    A position that is reached once more often than it is left is an end. While a link is missing there are several: the fragment that
    follows from the start is then not the last one. Without any, the strategy went in a circle and is back at the start.
    """
    if any(step.before is None for step in steps):
        return steps[-1]
    balance = Counter(step.now for step in steps)
    balance.subtract(step.before for step in steps if step.before is not None)
    ends = {position for position, count in balance.items() if count > 0}
    if not ends and start is not None:
        ends = {start}
    if len(ends) > 1:
        ends.discard(_follow_chain(steps, start))
    return next((step for step in reversed(steps) if step.now in ends), steps[-1])


def _follow_chain(steps: Iterable[StrategyStep], position: Decimal | None) -> Decimal | None:
    """Follow the chain from `position`, using each step once, in order of arrival where several fit; return its end."""
    remaining = list(steps)
    while (following := next((step for step in remaining if step.before == position), None)) is not None:
        remaining.remove(following)
        position = following.now
    return position


def _shortened(start: Decimal | None, steps: tuple[StrategyStep, ...]) -> StrategyHistory:
    """Drop the oldest steps beyond the maximum."""
    excess = len(steps) - _MAX_STEPS
    if excess <= 0:
        return StrategyHistory(start=start, steps=steps)
    dropped = sorted(steps, key=_fired_at)[:excess]
    kept = list(steps)
    for step in dropped:
        kept.remove(step)
    return StrategyHistory(start=_newest(start, dropped).now, steps=tuple(kept))


def _fired_at(step: StrategyStep) -> datetime:
    return step.fired_at


def _normalized(size: Decimal) -> Decimal:
    """Remove the rounding noise of doubles, so that equal positions compare equal."""
    rounded = _EXACT.plus(size)
    return Decimal(0) if abs(rounded) < _SMALLEST else rounded.normalize(_EXACT)
