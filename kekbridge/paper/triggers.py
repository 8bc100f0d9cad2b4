"""When an algo order fires: whether the mark has reached a trigger, and how a trailing stop's trigger follows the mark.

Arithmetic on one node; who calls it stores what changed (orderly-api.md section 7).
"""

from __future__ import annotations

from decimal import Decimal

from kekbridge.paper.models import ZERO, Algo


def is_reached(node: Algo, mark: Decimal) -> bool:
    """True when the mark stands at or beyond a fixed trigger that is active."""
    if not node.is_activated or node.trigger_price is None or node.side is None:
        return False
    if node.algo_type in ("STOP", "STOP_LOSS"):
        return mark >= node.trigger_price if node.side == "BUY" else mark <= node.trigger_price
    if node.algo_type == "TAKE_PROFIT":
        return mark <= node.trigger_price if node.side == "BUY" else mark >= node.trigger_price
    return False


def trail(node: Algo, mark: Decimal) -> bool:
    """Move a trailing stop's trigger behind the best mark since its activation; True when the mark has come back to it."""
    sell = node.side == "SELL"
    if not node.is_activated:
        start = node.activated_price or mark
        if not (mark >= start if sell else mark <= start):
            return False
        node.is_activated = True
    extreme = node.extreme_price if node.extreme_price is not None else mark
    node.extreme_price = max(extreme, mark) if sell else min(extreme, mark)
    rate = node.callback_rate
    distance = (node.callback_value or ZERO) if rate is None else node.extreme_price * rate
    node.trigger_price = node.extreme_price - distance if sell else node.extreme_price + distance
    return mark <= node.trigger_price if sell else mark >= node.trigger_price
