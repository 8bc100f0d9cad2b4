"""Strict parsing of numbers and percents in alerts to exact decimals.

Nothing is repaired: `1,250.5`, ` 1`, `1_000`, `$5`, `NaN`, full-width digits and huge exponents are not accepted.
"""

from __future__ import annotations

import re
from decimal import Decimal

from kekbridge.alerts.signal import Amount

# Forty digits hold every double printed in full; exponents up to twelve allow 1e-05 and the like, but no huge numbers.
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE]([+-]?[0-9]{1,2}))?")
_LARGEST_EXPONENT = 12


class NumberText(str):
    """A JSON number as written: its digits are what was signed and what becomes a Decimal."""

    __slots__ = ()


def parse_decimal(value: object) -> Decimal | None:
    """Parse a JSON number, or a text that is one plain decimal number; None for anything else.

    A minus sign is accepted so that callers can distinguish negative from invalid; a plus sign and a bare leading dot are not.
    """
    if not isinstance(value, str):
        return None  # booleans, null, lists and objects are not numbers
    match = _NUMBER.fullmatch(value)
    if match is None:
        return None
    exponent = match.group(1)
    if exponent is not None and abs(int(exponent)) > _LARGEST_EXPONENT:
        return None
    return Decimal(value)


def parse_amount(value: object) -> Amount | None:
    """Parse a plain number, or one directly followed by `%`; None for anything else."""
    if isinstance(value, str) and value.endswith("%"):
        percent = parse_decimal(value[:-1])
        return None if percent is None else Amount(percent, is_percent=True)
    number = parse_decimal(value)
    return None if number is None else Amount(number)
