"""Strict parsing of numbers and percents in alerts to exact decimals.

Nothing is repaired: `1,250.5`, ` 1`, `1_000`, `$5`, `NaN`, full-width digits and huge exponents are not accepted.
"""

from __future__ import annotations

import re
from decimal import Decimal

from kekbridge.alerts.signal import Amount

# Forty digits hold every double printed in full. Exponents allow 1e-05 and the like and the rounding noise of doubles, such as the
# 1.1102230246251565e-16 that is left of a closed position, but no huge numbers.
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE]([+-]?[0-9]{1,2}))?")
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -24, 12
# Usual causes of texts that are no number, and what to do.
_DAMAGED_NUMBERS = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (r"[0-9],[0-9]", "a comma is neither a decimal point nor skipped; write a point, and no thousands separators"),
        (r"^\s*(?:nan|na|null|none|-?inf|-?infinity|undefined)\s*$", "send the field only if the script has a value"),
        (r"^\{[0-9]", "str.format did not fill its placeholder; use str.tostring"),
        (r"^[+.]", "a number begins with a digit, such as 0.5"),
        (r"[0-9]\s*[a-z$€]|^\s*[$€]", "write the number without a unit"),
        (r"^\s|\s$|[0-9]\s+[0-9]", "write it without spaces"),
    )
)


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
    if exponent is not None and not _SMALLEST_EXPONENT <= int(exponent) <= _LARGEST_EXPONENT:
        return None
    return Decimal(value)


def no_number_hint(value: object) -> str:
    """What keeps a text from being a plain number, as the end of a refusal; empty if nothing is to be said.

    It never proposes another number: nobody knows whether 1,250 was meant as 1.25 or as 1250.
    """
    if not isinstance(value, str):
        return ""
    return next((f"; {hint}" for pattern, hint in _DAMAGED_NUMBERS if pattern.search(value)), "")


def parse_amount(value: object) -> Amount | None:
    """Parse a plain number, or one directly followed by `%`; None for anything else."""
    if isinstance(value, str) and value.endswith("%"):
        percent = parse_decimal(value[:-1])
        return None if percent is None else Amount(percent, is_percent=True)
    number = parse_decimal(value)
    return None if number is None else Amount(number)
