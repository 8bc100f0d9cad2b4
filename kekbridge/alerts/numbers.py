"""Numbers as alerts write them: exact decimals from strict text, percents, and the refusal of everything that only looks like one.

Nothing is repaired: `1,250.5`, ` 1`, `1_000`, `$5`, `NaN`, full-width digits and exponent bombs are not numbers here.
"""

from __future__ import annotations

import re
from decimal import Decimal

from kekbridge.alerts.signal import Amount

# Forty digits hold every double that a script can print in full; twelve powers of ten hold 1e-05 and the like but no bomb.
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE]([+-]?[0-9]{1,2}))?")
_LARGEST_EXPONENT = 12


class NumberText(str):
    """A JSON number, kept as the text it was written as: its digits are what was signed and what becomes a Decimal."""

    __slots__ = ()


def decimal_of(value: object) -> Decimal | None:
    """The exact value of a JSON number or of a text that is one plain decimal number; None for anything else.

    A minus sign is read so that callers can tell "negative" from "not a number"; a plus sign and a bare leading dot are not accepted.
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


def amount_of(value: object) -> Amount | None:
    """A plain number, or one directly followed by `%`; None for anything else."""
    if isinstance(value, str) and value.endswith("%"):
        percent = decimal_of(value[:-1])
        return None if percent is None else Amount(percent, is_percent=True)
    plain = decimal_of(value)
    return None if plain is None else Amount(plain)
