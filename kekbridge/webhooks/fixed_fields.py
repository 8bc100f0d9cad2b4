"""Check the values of default and locked fields as an alert would: one that every alert is refused for is not stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from kekbridge.alerts.field_names import canonical_name
from kekbridge.alerts.message_check import read_value
from kekbridge.alerts.signal import Signal
from kekbridge.errors import ConfigError, Refused, RequestRefused
from kekbridge.formatting import market
from kekbridge.model import WebhookSettings
from kekbridge.planning.prices import is_near


def check_fixed_fields(settings: WebhookSettings, marks: Mapping[str, Decimal]) -> None:
    """Raise ConfigError for a default or locked field for which every alert that uses it would be refused. `marks`: prices now, if known.

    Not part of `registry.check_settings`: values of before this check must not keep other settings from being changed.
    """
    for option, fields in (("--default", settings.defaults), ("--lock", settings.locked)):
        for name, value in fields.items():
            try:
                step = read_value(name, value)
                if step is not None:
                    _check_fixed_price(name, value, step, settings.limits.allowed_symbols or (), marks)
            except RequestRefused as refusal:
                text = refusal.message.removeprefix(f"{canonical_name(name)}: ")
                raise ConfigError(f"{option} {name}={value}: {text}", field=option.removeprefix("--")) from None


def _check_fixed_price(
    name: str, value: str, step: Signal, symbols: Sequence[str], marks: Mapping[str, Decimal]
) -> None:
    """Raise Refused for a stop or target at a price that cannot be that of every alert's market."""
    levels = [step.stop_loss] if canonical_name(name) == "stopLoss" else []
    levels += [each.level for each in step.take_profits] if canonical_name(name) == "takeProfit" else []
    for level in levels:
        if level is None or level.is_percent:
            continue
        hint = (
            f"write {name}={level.value:f}% for a distance"
            if level.value <= 50
            else f'write a distance such as {name}="2%"'
        )
        if len(symbols) != 1:
            text = f"found the price {level.value:f}, which fits one market at most; {hint}, or allow one market (--allowed-symbols)"
            raise Refused("field_invalid", text, field=name)
        mark = marks.get(symbols[0])
        if mark is not None and not is_near(level.value, mark):
            raise Refused(
                "field_invalid", f"found a price far from {market(symbols[0])} at {mark:f}; {hint}", field=name
            )
