"""Stop loss, take-profits and trailing stop as an alert writes them: a price, or a percent of the entry such as `"2%"`.

Whether a level lies on the right side of the market is decided in translate.py, where the market is known. Called by fields.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from kekbridge.alerts.numbers import amount_of, decimal_of
from kekbridge.alerts.redaction import clip, show
from kekbridge.alerts.signal import Amount, TakeProfitSpec
from kekbridge.errors import Refused
from kekbridge.formatting import escape_unprintable

_MOST_TAKE_PROFITS = 10
_WHOLE = Decimal(100)
_FARTHEST_PERCENT = Decimal(1000)
_LEVEL_NAMES = frozenset({"price", "percent", "share"})


def read_stop_loss(written: object) -> Amount:
    """Price or percent of the entry, positive; a percent under 100. Raises Refused(stop_loss_invalid)."""
    level = amount_of(written)
    if level is None or level.value <= 0 or (level.is_percent and level.value >= _WHOLE):
        raise Refused(
            "stop_loss_invalid",
            f'stopLoss: found {show(written)}, expected a price such as 64000 or a percent of the entry such as "2%"',
            field="stopLoss",
        )
    return level


def read_trailing_stop(written: object) -> Amount:
    """Distance in price or percent, positive; a percent under 100. Raises Refused(trailing_stop_invalid)."""
    distance = amount_of(written)
    if distance is None or distance.value <= 0 or (distance.is_percent and distance.value >= _WHOLE):
        raise Refused(
            "trailing_stop_invalid",
            f'trailingStop: found {show(written)}, expected a distance in price such as 500 or in percent such as "1.5%"',
            field="trailingStop",
        )
    return distance


def read_take_profits(written: object) -> tuple[TakeProfitSpec, ...]:
    """One level, or a list of levels or of `{"price"|"percent": …, "share": percent of the entry}`.

    Raises Refused(take_profit_invalid); shares together may not exceed 100 percent.
    """
    if not isinstance(written, list):
        return (TakeProfitSpec(_level(written)),)
    if len(written) > _MOST_TAKE_PROFITS:
        raise _invalid(f"found {len(written)} levels, expected at most {_MOST_TAKE_PROFITS}")
    wishes = tuple(_wish(one) for one in written)
    total = sum((wish.share for wish in wishes if wish.share is not None), Decimal(0))
    if total > _WHOLE or (total == _WHOLE and any(wish.share is None for wish in wishes)):
        raise _invalid(
            f"found shares of {total} percent together, expected at most 100 and something left for each level"
        )
    return wishes


def _wish(written: object) -> TakeProfitSpec:
    if not isinstance(written, Mapping):
        return TakeProfitSpec(_level(written))
    unknown = [name for name in written if name not in _LEVEL_NAMES]
    if unknown:
        raise _invalid(
            f"found the field '{clip(escape_unprintable(unknown[0]), 40)}' in a level, expected price or percent, and share"
        )
    price, percent = written.get("price"), written.get("percent")
    if (price is None) == (percent is None):
        raise _invalid("expected either price or percent in each level")
    level = _level(price if price is not None else percent)
    if percent is not None:
        level = Amount(level.value, is_percent=True)
    return TakeProfitSpec(level, _share(written.get("share")))


def _share(written: object) -> Decimal | None:
    if written is None:
        return None
    amount = amount_of(written)
    # A bare 0.5 could mean half or half a percent: nobody closes half a percent, but a wrong guess closes too little or too much.
    if amount is None or not 0 < amount.value <= _WHOLE or (not amount.is_percent and amount.value < 1):
        raise _invalid(f'found the share {show(written)}, expected a percent of the entry such as 50 or "50%"')
    return amount.value


def _level(written: object) -> Amount:
    level = amount_of(written)
    if level is None or level.value <= 0 or (level.is_percent and level.value > _FARTHEST_PERCENT):
        raise _invalid(f'found {show(written)}, expected a price such as 68000 or a percent of the entry such as "4%"')
    return level


def _invalid(found: str) -> Refused:
    return Refused("take_profit_invalid", f"takeProfit: {found}", field="takeProfit")


def read_leverage(written: object) -> Decimal:
    """A whole number from 1 to 100 (the highest of any Orderly market). Raises Refused(leverage_invalid)."""
    leverage = decimal_of(written)
    if leverage is None or not 1 <= leverage <= _WHOLE or leverage != leverage.to_integral_value():
        raise Refused(
            "leverage_invalid",
            f"leverage: found {show(written)}, expected a whole number from 1 to 100 such as 5",
            field="leverage",
        )
    return leverage.to_integral_value()


def read_slippage(written: object) -> Decimal:
    """How far the market may be from the signal price, as a fraction: `"0.5%"` and `0.005` are 0.005.

    A bare number over 0.1 is refused: whoever writes 0.5 means half a percent more often than half the price.
    Raises Refused(slippage_invalid).
    """
    amount = amount_of(written)
    limit = _WHOLE if amount is not None and amount.is_percent else Decimal("0.1")
    if amount is None or not 0 < amount.value <= limit or (amount.is_percent and amount.value == _WHOLE):
        raise Refused(
            "slippage_invalid",
            f'slippage: found {show(written)}, expected a percent such as "0.5%" or a fraction up to 0.1 such as 0.005',
            field="slippage",
        )
    return amount.value / 100 if amount.is_percent else amount.value
