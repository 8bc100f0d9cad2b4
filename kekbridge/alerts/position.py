"""Read the strategy's own position from an alert and check that action and quantity agree with it.

A strategy alert names the order that filled and the position before and after it (docs/internals/tradingview.md section 2.1). This is
redundant, so contradictions are detected and refused. planning/target.py decides what to trade for a target.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from kekbridge.alerts.numbers import parse_decimal
from kekbridge.alerts.redaction import show
from kekbridge.alerts.signal import Action, PositionSide, TargetPosition
from kekbridge.errors import Refused

Lookup = Callable[[str], object]

# TradingView's sizes are doubles: 0.1 + 0.2 arrives as 0.30000000000000004.
_NOISE = Decimal("1e-9")
_ONE = Decimal(1)
_RANK = {PositionSide.SHORT: -1, PositionSide.FLAT: 0, PositionSide.LONG: 1}


def read_target(value: Lookup, *, scale: Decimal | None = None) -> TargetPosition | None:
    """Read the position after the fill (and before it, if given) from marketPosition… or the signed positionSize; None without either.

    A size of 1e-9 of the others, or of `scale` (the order's contracts), is the rounding noise of doubles: flat.
    Raises Refused: field_invalid for an unreadable value, inconsistent_position for fields that contradict each other.
    """
    signed = _signed_size(value("positionSize"))
    noise = _NOISE * max(_scale_of(value), abs(scale) if scale is not None else _ONE, _ONE)
    if signed is not None and abs(signed) <= noise:
        signed = Decimal(0)
    side, size = _state(value, "marketPosition", "marketPositionSize", noise)
    if side is None:
        if signed is None:
            return None
        side, size = _side_of(signed), parse_decimal(value("marketPositionSize"))
    if size is None and signed is not None:
        size = abs(signed)
    if size is None:
        raise _inconsistent(
            "marketPositionSize",
            f"marketPosition is {side} but its size is missing",
            'add "marketPositionSize":"{{strategy.market_position_size}}"',
        )
    previous_side, previous_size = _state(value, "prevMarketPosition", "prevMarketPositionSize", noise)
    target = TargetPosition(side=side, size=size, previous_side=previous_side, previous_size=previous_size)
    if signed is not None and not nearly_equal(signed, target.signed):
        raise _inconsistent("positionSize", f"positionSize is {signed} but marketPosition is {side} {size}", _FIX)
    return target


def check_agreement(action: Action, contracts: Decimal | None, target: TargetPosition) -> None:
    """Check that `action` and `contracts` (base units) lead from the previous position to the new one.

    `contracts`: None if the quantity is not the strategy's own (percent, USD); then only directions are compared.
    Raises Refused(inconsistent_position).
    """
    now, before = target.signed, target.previous_signed
    if action is Action.CLOSE:
        _check_close(target)
        return
    if action is Action.FLIP:
        if target.previous_side is not None and not is_reversal(target):
            raise _inconsistent("action", f"a flip cannot lead from {target.previous_side} to {target.side}", _FIX)
        return
    direction = 1 if action is Action.BUY else -1
    if before is not None:
        change = now - before
        if nearly_equal(now, before):
            raise _inconsistent("marketPosition", f"the position is the same before and after the fill ({now})", _FIX)
        if (change > 0) != (direction > 0):
            raise _inconsistent("action", f"a {action} cannot lead from {before} to {now}", _FIX)
        if contracts is not None and not nearly_equal(abs(change), contracts):
            raise _inconsistent(
                "quantity",
                f"quantity is {contracts} but the position changes by {abs(change)} ({before} to {now})",
                _FIX,
            )
    elif target.previous_side is not None:
        step = _RANK[target.side] - _RANK[target.previous_side]
        if step * direction < 0 or (step == 0 and target.side is PositionSide.FLAT):
            raise _inconsistent("action", f"a {action} cannot lead from {target.previous_side} to {target.side}", _FIX)


def with_implied_previous(target: TargetPosition, action: Action, contracts: Decimal | None) -> TargetPosition:
    """Add the position before the fill, derived from the order, if the alert does not have it."""
    if target.previous_signed is not None or contracts is None or action not in (Action.BUY, Action.SELL):
        return target
    change = contracts if action is Action.BUY else -contracts
    before = Decimal(0) if nearly_equal(target.signed, change) else target.signed - change  # float noise around flat
    side = _side_of(before)
    if target.previous_side is not None and target.previous_side is not side:
        raise _inconsistent(
            "prevMarketPosition",
            f"prevMarketPosition is {target.previous_side} but the order implies {side}",
            _FIX,
        )
    return TargetPosition(side=target.side, size=target.size, previous_side=side, previous_size=abs(before))


def is_exit(target: TargetPosition, action: Action) -> bool:
    """Return whether the fill only reduced the position: then it is executed reduce-only and no limit blocks it."""
    if target.side is PositionSide.FLAT:
        return True
    before = target.previous_signed
    if before is not None:
        return before * target.signed > 0 and abs(target.signed) < abs(before)
    # A sell after which the strategy is still long was a partial close.
    return action is (Action.SELL if target.side is PositionSide.LONG else Action.BUY)


def is_reversal(target: TargetPosition) -> bool:
    """Return whether the fill led from one side to the other."""
    return target.previous_side is not None and _RANK[target.side] * _RANK[target.previous_side] == -1


def closed_percent(target: TargetPosition) -> Decimal | None:
    """Percent of the previous position that the fill closed; None if the previous size is unknown or zero."""
    if target.previous_size is None or target.previous_size == 0:
        return None
    return (target.previous_size - target.size) / target.previous_size * 100


_FIX = "take action, quantity and the position fields all from the strategy.* placeholders"


def _side(value: Lookup, name: str) -> PositionSide | None:
    word = value(name)
    if word is None:
        return None
    try:
        return PositionSide(word.lower() if isinstance(word, str) else "")
    except ValueError:
        raise Refused(
            "field_invalid",
            f"{name}: found {show(word)}, expected long, short or flat; use the strategy.* placeholder",
            field=name,
        ) from None


def _state(value: Lookup, side_name: str, size_name: str, noise: Decimal) -> tuple[PositionSide | None, Decimal | None]:
    """Side and size from two fields; (None, None) without a side."""
    side = _side(value, side_name)
    if side is None:
        return None, None
    raw = value(size_name)
    if raw is None:
        return side, Decimal(0) if side is PositionSide.FLAT else None
    size = parse_decimal(raw)
    if size is not None and 0 < abs(size) <= noise:
        return PositionSide.FLAT, Decimal(0)
    if size is None or size < 0:
        raise Refused(
            "field_invalid",
            f"{size_name}: found {show(raw)}, expected a plain number without a sign; use positionSize for a signed size",
            field=size_name,
        )
    if (size == 0) != (side is PositionSide.FLAT):
        raise _inconsistent(size_name, f"the position is {side} with size {size}", _FIX)
    return side, size


def _scale_of(value: Lookup) -> Decimal:
    """The largest size that the message names."""
    sizes = (parse_decimal(value(name)) for name in ("marketPositionSize", "prevMarketPositionSize", "positionSize"))
    return max((abs(size) for size in sizes if size is not None), default=Decimal(0))


def _signed_size(raw: object) -> Decimal | None:
    if raw is None:
        return None
    size = parse_decimal(raw)
    if size is None:
        raise Refused(
            "field_invalid",
            f"positionSize: found {show(raw)}, expected a plain number, negative for a short",
            field="positionSize",
        )
    return size


def _side_of(signed: Decimal) -> PositionSide:
    return PositionSide.LONG if signed > 0 else PositionSide.SHORT if signed < 0 else PositionSide.FLAT


def nearly_equal(one: Decimal, other: Decimal) -> bool:
    """Return whether two sizes are equal apart from the rounding noise of doubles."""
    return abs(one - other) <= _NOISE * max(abs(one), abs(other))


def _inconsistent(field: str, found: str, fix: str) -> Refused:
    return Refused("inconsistent_position", f"{field}: {found}; {fix}", field=field)


def _check_close(target: TargetPosition) -> None:
    if target.side is PositionSide.FLAT:
        return
    before = target.previous_signed
    if target.previous_side not in (None, target.side) or (before is not None and abs(target.signed) >= abs(before)):
        raise _inconsistent("action", f"a close cannot lead to {target.side} {target.size}", _FIX)
