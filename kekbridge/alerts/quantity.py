"""How much an alert wants: the number, what it counts, and how that fits with the strategy's own position.

A number and its unit belong together: a webhook default never lends its unit to a message's number. Called by fields.py.
"""

from __future__ import annotations

import re
from decimal import Decimal

from kekbridge.alerts.field_source import FieldSource
from kekbridge.alerts.numbers import NumberText, amount_of, decimal_of
from kekbridge.alerts.position import closed_share, is_about, is_exit
from kekbridge.alerts.redaction import show
from kekbridge.alerts.signal import Action, Amount, PositionSide, QuantityType, TargetPosition
from kekbridge.errors import Refused

Wanted = tuple[Amount | None, QuantityType | None, TargetPosition | None]

_PERCENT_TYPES = frozenset({QuantityType.PERCENT_EQUITY, QuantityType.PERCENT_POSITION, QuantityType.RISK_PERCENT})
# Spellings of other services, letters only. A bare "percent" is not among them: of what?
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
}


def contracts_of(source: FieldSource, target: TargetPosition) -> Decimal | None:
    """The quantity as the strategy's own contracts, which must agree with its position; None when it is the trader's own size.

    A quantity without a type is the strategy's. With a type it is the trader's, unless it is base units and just what the position
    changed by: then it is {{strategy.order.contracts}} with its unit written out.
    """
    written, unit = decimal_of(source.message_value("quantity")), source.message_value("quantityType")
    if unit is None or written is None:
        return written
    if _read_type(unit) is not QuantityType.BASE:
        return None
    before = target.previous_signed
    return written if before is None or is_about(abs(target.signed - before), written) else None


def read_quantity(source: FieldSource, action: Action, target: TargetPosition | None, *, reduce_only: bool) -> Wanted:
    """Quantity, its unit, and the target to keep. Percent units come with `Amount.is_percent` set.

    The target is dropped where the order is sized by something else than the strategy's contracts (a lock, USD, a percent): then
    the strategy's size says nothing about ours. Raises Refused with one of the quantity_… codes.
    """
    if target is not None and is_exit(target, action):
        return _exit_to_target(source, action, target)
    quantity, unit = _read_pair(source, action, reduce_only=reduce_only)
    follows_target = target is not None and source.settings.follow == "position"
    if quantity is None and action in (Action.BUY, Action.SELL) and not follows_target:
        raise Refused(
            "quantity_missing",
            "quantity: missing, an order that opens needs one; add quantity, or give the webhook a default quantity",
            field="quantity",
        )
    if target is not None and not follows_target and _is_sized_otherwise(source, target):
        target = None
    return quantity, unit, target


def _exit_to_target(source: FieldSource, action: Action, target: TargetPosition) -> Wanted:
    """A fill that only made the strategy's position smaller. Its contracts count only where ours were sized by contracts too."""
    if action is Action.CLOSE:
        quantity, unit = _read_pair(source, action, reduce_only=True)
        return quantity, unit, target
    was_entry, source.is_entry = source.is_entry, True  # the locks and units that our entry was sized by
    try:
        is_otherwise = _is_sized_otherwise(source, target)
    finally:
        source.is_entry = was_entry
    if not is_otherwise:
        quantity, unit = _read_pair(source, action, reduce_only=True)
        return quantity, unit, target
    share = closed_share(target)
    if target.side is PositionSide.FLAT or source.settings.follow == "position":
        return None, None, target
    if share is None:
        raise Refused(
            "inconsistent_position",
            "prevMarketPositionSize: missing, expected it to know which share of the position to close; take the position "
            "fields from the strategy.* placeholders",
            field="prevMarketPositionSize",
        )
    return Amount(share, is_percent=True), QuantityType.PERCENT_POSITION, None


def _is_sized_otherwise(source: FieldSource, target: TargetPosition) -> bool:
    if source.locked("quantity") is not None or source.locked("quantityType") is not None:
        return True
    if source.message_value("quantity") is None:
        return source.default("quantity") is not None
    return contracts_of(source, target) is None


def _read_pair(source: FieldSource, action: Action, *, reduce_only: bool) -> tuple[Amount | None, QuantityType | None]:
    written, written_unit = _choose(source)
    if written is None:
        return None, None
    quantity = amount_of(written)
    if quantity is None:
        raise Refused(
            "quantity_not_a_number",
            f"quantity: found {show(written)}, expected a plain number such as 0.01; no thousands separators, signs or units",
            field="quantity",
        )
    if quantity.value <= 0:
        raise Refused(
            "quantity_not_positive",
            f'quantity: found {show(written)}, expected more than zero; str.format("{{0}}") keeps three decimals only, '
            "use str.tostring",
            field="quantity",
        )
    unit = None if written_unit is None else _read_type(written_unit)
    if quantity.is_percent and unit is None:
        unit = _percent_of(source, action, reduce_only=reduce_only, written=written)
    return _checked(quantity, unit or QuantityType.BASE, reduce_only=reduce_only)


def _choose(source: FieldSource) -> tuple[object, object]:
    """The number that counts with the unit that belongs to it."""
    locked_unit = source.locked("quantityType")
    if source.locked("quantity") is not None:
        return source.value("quantity"), locked_unit
    said, said_unit = source.message_value("quantity"), source.message_value("quantityType")
    default, default_unit = source.default("quantity"), source.default("quantityType")
    if said is not None:
        if locked_unit is not None:
            return said, source.value("quantityType")
        # A default unit alone says how this webhook reads numbers; beside a default number it is that number's unit.
        return said, said_unit if said_unit is not None or default is not None else default_unit
    unit = locked_unit if locked_unit is not None else default_unit
    if (
        default is not None
        and said_unit is not None
        and _read_type(said_unit) is not (QuantityType.BASE if unit is None else _read_type(unit))
    ):
        raise Refused(
            "quantity_missing",
            f"quantity: missing beside quantityType {show(said_unit)}, and the webhook's default is in another unit; add quantity",
            field="quantity",
        )
    return default, unit


def _percent_of(source: FieldSource, action: Action, *, reduce_only: bool, written: object) -> QuantityType:
    if reduce_only or action is Action.CLOSE:
        return QuantityType.PERCENT_POSITION
    raise Refused(
        "quantity_type_missing",
        f"quantity: found {show(written)} on an order that opens, expected to be told of what; "
        'add "quantityType":"percent_equity", or another type',
        field="quantity",
    )


def _checked(quantity: Amount, unit: QuantityType, *, reduce_only: bool) -> tuple[Amount, QuantityType]:
    if quantity.is_percent and unit not in _PERCENT_TYPES:
        raise Refused(
            "quantity_type_unsupported",
            f"quantityType: found {unit} for a quantity with a percent sign, expected a percent type; leave % or the type out",
            field="quantityType",
        )
    if reduce_only and unit in (QuantityType.PERCENT_EQUITY, QuantityType.RISK_PERCENT):
        raise Refused(
            "quantity_type_unsupported",
            f"quantityType: found {unit} on an exit, expected base, usd or percent_position; an exit is a part of the position",
            field="quantityType",
        )
    if unit is QuantityType.RISK_PERCENT and quantity.value > Decimal(100):
        raise Refused(
            "quantity_type_unsupported",
            f"quantity: found a risk of {quantity.value} percent, expected at most 100",
            field="quantity",
        )
    return Amount(quantity.value, is_percent=unit in _PERCENT_TYPES), unit


def _read_type(written: object) -> QuantityType:
    is_word = isinstance(written, str) and not isinstance(written, NumberText) and written.isascii()
    unit = _TYPES.get(re.sub(r"[ _-]", "", str(written)).lower()) if is_word else None
    if unit is None:
        raise Refused(
            "quantity_type_unknown",
            f"quantityType: found {show(written)}, expected base, usd, percent_equity, percent_position or risk_percent",
            field="quantityType",
        )
    return unit
