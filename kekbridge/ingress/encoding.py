"""Writes answers as JSON with exact numbers: a Decimal becomes a JSON number in plain notation, every digit as it is.

json.dumps would need a float for that. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal


def to_json(value: object) -> str:
    """Compact JSON, ASCII only. Raises TypeError for what JSON cannot hold, ValueError for NaN and infinity."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("JSON has no NaN and no infinity")
        return format(value, "f")
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(key))}:{to_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(to_json(inner) for inner in value) + "]"
    return json.dumps(value, allow_nan=False)
