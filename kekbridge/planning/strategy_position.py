"""Which step of a strategy is the newest, however its messages arrived.

A later second is newer. Fills of one second share their timestamp, but each names the position before and after it: they are links of one
chain, and the end of the chain is where the strategy stands
(docs/internals/tradingview.md sections 2.1 and 2.2). What is to be done with a message
that is not the newest is decided in moves.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Context, Decimal
from itertools import groupby

from kekbridge.alerts.signal import TargetPosition
from kekbridge.model import StrategyHistory, StrategyStep

# TradingView stops an alert that fires 15 times in 3 minutes, and a message is refused as stale long before 32 more have come.
_MOST_STEPS = 32
# TradingView's sizes are doubles: 0.1 + 0.2 and 0.3 must be the same position.
_EXACT = Context(prec=10)
_SMALLEST = Decimal("1e-8")


def add_step(
    course: StrategyHistory | None, target: TargetPosition, *, fired_at: datetime, held: Decimal
) -> tuple[StrategyHistory, StrategyStep | None]:
    """Add a message to the course; also returns the newer step that has overtaken it, or None when it is itself the newest.

    `held`: the account's position in the strategy's contracts, taken for the strategy's own while nothing else is known.
    """
    before = target.previous_signed
    step = StrategyStep(fired_at=fired_at, before=None if before is None else _clean(before), now=_clean(target.signed))
    start, steps = (_clean(held), ()) if course is None else (course.start, course.steps)
    steps = (*steps, step)
    newest = _newest(start, steps)
    is_newest = newest.now == step.now and newest.fired_at == step.fired_at
    return _shortened(start, steps), None if is_newest else newest


def _newest(start: Decimal | None, steps: Iterable[StrategyStep]) -> StrategyStep:
    """The last step of the last second; what stands before that second is reckoned the same way."""
    last: StrategyStep | None = None
    for _, group in groupby(sorted(steps, key=_fired_at), key=_fired_at):
        last = _last_of(tuple(group), start if last is None else last.now)
    if last is None:
        raise ValueError("no steps, expected at least one")
    return last


def _last_of(steps: Sequence[StrategyStep], start: Decimal | None) -> StrategyStep:
    """The end of the chain that the steps of one second form; the one that came last where they do not tell.

    A position that is reached once more than it is left is an end. While a link is missing there are several: the piece that
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
        ends.discard(_walk(steps, start))
    return next((step for step in reversed(steps) if step.now in ends), steps[-1])


def _walk(steps: Iterable[StrategyStep], position: Decimal | None) -> Decimal | None:
    """Where the steps lead that follow from `position`, each taken once, in the order of their arrival where there is a choice."""
    left = list(steps)
    while (following := next((step for step in left if step.before == position), None)) is not None:
        left.remove(following)
        position = following.now
    return position


def _shortened(start: Decimal | None, steps: tuple[StrategyStep, ...]) -> StrategyHistory:
    """The course without the oldest steps, once there are too many."""
    too_many = len(steps) - _MOST_STEPS
    if too_many <= 0:
        return StrategyHistory(start=start, steps=steps)
    dropped = sorted(steps, key=_fired_at)[:too_many]
    kept = list(steps)
    for step in dropped:
        kept.remove(step)
    return StrategyHistory(start=_newest(start, dropped).now, steps=tuple(kept))


def _fired_at(step: StrategyStep) -> datetime:
    return step.fired_at


def _clean(size: Decimal) -> Decimal:
    """The same position as the same number, without the noise of doubles."""
    rounded = _EXACT.plus(size)
    return Decimal(0) if abs(rounded) < _SMALLEST else rounded.normalize(_EXACT)
