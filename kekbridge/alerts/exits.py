"""Read stop loss, take-profits and trailing stop of an alert: a price, or a percent of the entry such as `"2%"`.

Whether a level is on the right side of the market is checked in planning/prices.py, where the market is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from kekbridge.alerts.numbers import parse_amount
from kekbridge.alerts.redaction import clip, show
from kekbridge.alerts.signal import Amount, TakeProfitSpec
from kekbridge.errors import Refused
from kekbridge.formatting import escape_unprintable

_MAX_TAKE_PROFITS = 10
_HUNDRED = Decimal(100)
_MAX_PERCENT = Decimal(1000)
_LEVEL_NAMES = frozenset({"price", "percent", "share"})


def read_stop_loss(raw: object) -> Amount:
    """Read a positive price or percent of the entry; a percent must be below 100. Raises Refused(stop_loss_invalid)."""
    level = parse_amount(raw)
    if level is None or level.value <= 0 or (level.is_percent and level.value >= _HUNDRED):
        raise Refused(
            "stop_loss_invalid",
            f'stopLoss: found {show(raw)}, expected a price such as 64000 or a percent of the entry such as "2%"',
            field="stopLoss",
        )
    return level


def read_trailing_stop(raw: object) -> Amount:
    """Read a positive distance in price or percent; a percent must be below 100. Raises Refused(trailing_stop_invalid)."""
    distance = parse_amount(raw)
    if distance is None or distance.value <= 0 or (distance.is_percent and distance.value >= _HUNDRED):
        raise Refused(
            "trailing_stop_invalid",
            f'trailingStop: found {show(raw)}, expected a distance in price such as 500 or in percent such as "1.5%"',
            field="trailingStop",
        )
    return distance


def read_take_profits(raw: object) -> tuple[TakeProfitSpec, ...]:
    """Read one level, or a list of levels or of `{"price"|"percent": …, "share": percent of the entry}`.

    Raises Refused(take_profit_invalid), also if the shares add up to more than 100 percent.
    """
    if not isinstance(raw, list):
        return (TakeProfitSpec(_level(raw)),)
    if len(raw) > _MAX_TAKE_PROFITS:
        raise _invalid(f"found {len(raw)} levels, expected at most {_MAX_TAKE_PROFITS}")
    specs = tuple(_read_level_spec(one) for one in raw)
    total = sum((spec.share for spec in specs if spec.share is not None), Decimal(0))
    if total > _HUNDRED or (total == _HUNDRED and any(spec.share is None for spec in specs)):
        raise _invalid(f"found shares of {total} percent in total, expected at most 100 and a share for each level")
    return specs


def _read_level_spec(raw: object) -> TakeProfitSpec:
    if not isinstance(raw, Mapping):
        return TakeProfitSpec(_level(raw))
    unknown = [name for name in raw if name not in _LEVEL_NAMES]
    if unknown:
        raise _invalid(
            f"found the field '{clip(escape_unprintable(unknown[0]), 40)}' in a level, expected price or percent, and share"
        )
    price, percent = raw.get("price"), raw.get("percent")
    if (price is None) == (percent is None):
        raise _invalid("expected either price or percent in each level")
    level = _level(price if price is not None else percent)
    if percent is not None:
        level = Amount(level.value, is_percent=True)
    return TakeProfitSpec(level, _share(raw.get("share")))


def _share(raw: object) -> Decimal | None:
    if raw is None:
        return None
    amount = parse_amount(raw)
    # A bare 0.5 could mean half or half a percent, and a wrong guess would close too much or too little.
    if amount is None or not 0 < amount.value <= _HUNDRED or (not amount.is_percent and amount.value < 1):
        raise _invalid(f'found the share {show(raw)}, expected a percent of the entry such as 50 or "50%"')
    return amount.value


def _level(raw: object) -> Amount:
    level = parse_amount(raw)
    if level is None or level.value <= 0 or (level.is_percent and level.value > _MAX_PERCENT):
        raise _invalid(f'found {show(raw)}, expected a price such as 68000 or a percent of the entry such as "4%"')
    return level


def _invalid(found: str) -> Refused:
    return Refused("take_profit_invalid", f"takeProfit: {found}", field="takeProfit")
