"""Read an alert's quantity and its unit, and decide whether the strategy's position or the trader's own size applies.

A number and its unit belong together: the unit of a default quantity is never applied to a message's number.
"""

from __future__ import annotations

import re
from decimal import Decimal

from kekbridge.alerts.field_source import FieldSource
from kekbridge.alerts.numbers import NumberText, no_number_hint, parse_amount, parse_decimal
from kekbridge.alerts.position import closed_percent, is_exit, nearly_equal
from kekbridge.alerts.redaction import show
from kekbridge.alerts.signal import Action, Amount, PositionSide, QuantityType, TargetPosition
from kekbridge.errors import Refused

_Sizing = tuple[Amount | None, QuantityType | None, TargetPosition | None]

_ENTRIES = (Action.BUY, Action.SELL, Action.ADD)
_HUNDRED = Decimal(100)
_PERCENT_TYPES = frozenset({QuantityType.PERCENT_EQUITY, QuantityType.PERCENT_POSITION, QuantityType.RISK_PERCENT})
# Spellings of other services, letters only. A bare "percent" is missing because it does not say of what.
_TYPES = {
    "base": QuantityType.BASE,
    "usd": QuantityType.USD,
    "usdc": QuantityType.USD,
    "quote": QuantityType.USD,
    "notional": QuantityType.USD,
    "percentequity": QuantityType.PERCENT_EQUITY,
    "percentofequity": QuantityType.PERCENT_EQUITY,
    "equitypercent": QuantityType.PERCENT_EQUITY,
    "percentposition": QuantityType.PERCENT_POSITION,
    "percentofposition": QuantityType.PERCENT_POSITION,
    "positionpercent": QuantityType.PERCENT_POSITION,
    "riskpercent": QuantityType.RISK_PERCENT,
    "percentrisk": QuantityType.RISK_PERCENT,
    "riskusd": QuantityType.RISK_USD,
    "riskusdc": QuantityType.RISK_USD,
    "riskdollaramount": QuantityType.RISK_USD,
}


def strategy_contracts(source: FieldSource, target: TargetPosition) -> Decimal | None:
    """Return the quantity if it is the strategy's own contracts, which must agree with its position; None if it is the trader's size.

    A quantity without a type is the strategy's. With a type it is the trader's, unless it is in base units and equals the change of
    position: then it is {{strategy.order.contracts}} with its unit written out.
    """
    raw, unit = parse_decimal(source.message_value("quantity")), source.message_value("quantityType")
    if unit is None or raw is None:
        return raw
    if _read_type(unit) is not QuantityType.BASE:
        return None
    before = target.previous_signed
    return raw if before is None or nearly_equal(abs(target.signed - before), raw) else None


def read_quantity(
    source: FieldSource,
    action: Action,
    target: TargetPosition | None,
    *,
    reduce_only: bool,
    is_whole: bool = False,
    may_be_missing: bool = False,
    keeps_target: bool = False,
) -> _Sizing:
    """Return quantity, unit, and the target to keep. Percent units have `Amount.is_percent` set.

    The target is dropped if the order is sized by anything but the strategy's contracts (a lock, USD, a percent): then
    the strategy's size does not apply to ours, unless it `keeps_target`. `is_whole`: without a quantity the whole position.
    Raises Refused with one of the quantity_… codes.
    """
    if target is not None and is_exit(target, action) and not keeps_target:
        return _exit_to_target(source, action, target)
    quantity, unit = _read_pair(source, action, reduce_only=reduce_only)
    if quantity is None and is_whole:
        return Amount(_HUNDRED, is_percent=True), QuantityType.PERCENT_POSITION, target
    follows_target = target is not None and source.settings.follow == "position"
    if quantity is None and action in _ENTRIES and not follows_target and not may_be_missing:
        raise Refused(
            "quantity_missing",
            "quantity: missing, an entry needs one; add quantity, or give the webhook a default quantity",
            field="quantity",
        )
    if target is not None and not follows_target and not keeps_target and _has_own_size(source, target):
        target = None
    return quantity, unit, target


def _exit_to_target(source: FieldSource, action: Action, target: TargetPosition) -> _Sizing:
    """Size an exit of the strategy. Its contracts count only if our entry was sized by contracts too."""
    if action is Action.CLOSE:
        quantity, unit = _read_pair(source, action, reduce_only=True)
        return quantity, unit, target
    was_entry, source.is_entry = source.is_entry, True  # use the locks and defaults that sized our entry
    try:
        has_own_size = _has_own_size(source, target)
    finally:
        source.is_entry = was_entry
    if not has_own_size:
        quantity, unit = _read_pair(source, action, reduce_only=True)
        return quantity, unit, target
    share = closed_percent(target)
    if target.side is PositionSide.FLAT or source.settings.follow == "position":
        return None, None, target
    if share is None:
        raise Refused(
            "inconsistent_position",
            "prevMarketPositionSize: missing, expected it to derive the share of the position to close; take the position "
            "fields from the strategy.* placeholders",
            field="prevMarketPositionSize",
        )
    return Amount(share, is_percent=True), QuantityType.PERCENT_POSITION, None


def _has_own_size(source: FieldSource, target: TargetPosition) -> bool:
    if source.locked("quantity") is not None or source.locked("quantityType") is not None:
        return True
    if source.message_value("quantity") is None:
        return source.default("quantity") is not None
    return strategy_contracts(source, target) is None


def _read_pair(source: FieldSource, action: Action, *, reduce_only: bool) -> tuple[Amount | None, QuantityType | None]:
    raw, raw_unit = _choose(source)
    if raw is None:
        return None, None
    quantity = parse_amount(raw)
    if quantity is None:
        raise Refused(
            "quantity_not_a_number",
            f"quantity: found {show(raw)}, expected a plain number such as 0.01{no_number_hint(raw)}",
            field="quantity",
        )
    if quantity.value <= 0:
        raise _not_positive(raw, quantity.value)
    unit = None if raw_unit is None else _read_type(raw_unit)
    if quantity.is_percent and unit is None:
        unit = _percent_of(source, action, reduce_only=reduce_only, raw=raw)
    return _checked(quantity, unit or QuantityType.BASE, reduce_only=reduce_only)


def _not_positive(raw: object, value: Decimal) -> Refused:
    if value < 0:
        cause = "the side is in action; a signed position belongs in positionSize"
    else:
        cause = 'a size below 0.001? str.format("{0}") keeps three decimals only, use str.tostring'
    return Refused(
        "quantity_not_positive", f"quantity: found {show(raw)}, expected more than zero; {cause}", field="quantity"
    )


def _choose(source: FieldSource) -> tuple[object, object]:
    """Choose the quantity that applies, with its own unit."""
    locked_unit = source.locked("quantityType")
    if source.locked("quantity") is not None:
        return source.value("quantity"), locked_unit
    sent, sent_unit = source.message_value("quantity"), source.message_value("quantityType")
    default, default_unit = source.default("quantity"), source.default("quantityType")
    if sent is not None:
        if locked_unit is not None:
            return sent, source.value("quantityType")
        # A default unit without a default number applies to the message's number; with one it belongs to that default.
        return sent, sent_unit if sent_unit is not None or default is not None else default_unit
    unit = locked_unit if locked_unit is not None else default_unit
    if (
        default is not None
        and sent_unit is not None
        and _read_type(sent_unit) is not (QuantityType.BASE if unit is None else _read_type(unit))
    ):
        raise Refused(
            "quantity_missing",
            f"quantity: missing for quantityType {show(sent_unit)}, the webhook's default has another unit; add quantity",
            field="quantity",
        )
    return default, unit


def _percent_of(source: FieldSource, action: Action, *, reduce_only: bool, raw: object) -> QuantityType:
    if reduce_only or action is Action.CLOSE:
        return QuantityType.PERCENT_POSITION
    raise Refused(
        "quantity_type_missing",
        f"quantity: found {show(raw)} without quantityType on an entry, expected a type; "
        'add "quantityType":"percent_equity", or another one',
        field="quantity",
    )


def _checked(quantity: Amount, unit: QuantityType, *, reduce_only: bool) -> tuple[Amount, QuantityType]:
    if quantity.is_percent and unit not in _PERCENT_TYPES:
        raise Refused(
            "quantity_type_unsupported",
            f"quantityType: found {unit} for a quantity with a percent sign, expected a percent type; leave % or the type out",
            field="quantityType",
        )
    if reduce_only and (unit is QuantityType.PERCENT_EQUITY or unit.is_risk):
        raise Refused(
            "quantity_type_unsupported",
            f"quantityType: found {unit} on an exit, expected base, usd or percent_position; an exit is a part of the position",
            field="quantityType",
        )
    if unit is QuantityType.RISK_PERCENT and quantity.value > _HUNDRED:
        raise Refused(
            "quantity_type_unsupported",
            f"quantity: found a risk of {quantity.value} percent, expected at most 100",
            field="quantity",
        )
    return Amount(quantity.value, is_percent=unit in _PERCENT_TYPES), unit


def _read_type(raw: object) -> QuantityType:
    is_word = isinstance(raw, str) and not isinstance(raw, NumberText) and raw.isascii()
    unit = _TYPES.get(re.sub(r"[ _-]", "", str(raw)).lower()) if is_word else None
    if unit is None:
        raise Refused(
            "quantity_type_unknown",
            f"quantityType: found {show(raw)}, expected base, usd, percent_equity, percent_position, risk_percent or risk_usd",
            field="quantityType",
        )
    return unit
