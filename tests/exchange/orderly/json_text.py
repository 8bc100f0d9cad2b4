"""JSON as an exchange writes it: decimals as numbers, digit for digit."""

from __future__ import annotations

import json
from decimal import Decimal


def to_json(value: object) -> str:
    """Write a value as JSON; a Decimal is a number in its own notation, and NaN is the word that JSON does not have."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{to_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(to_json(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)
