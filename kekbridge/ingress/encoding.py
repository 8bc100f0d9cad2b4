"""Writes answers as JSON with exact numbers: a Decimal becomes a JSON number in plain notation, every digit as it is.

json.dumps would need a float for that. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

# One encoder for all: json.dumps with options of its own makes a new one for each value.
_encode: Final = json.JSONEncoder(allow_nan=False).encode


def to_json(value: object) -> str:
    """Compact JSON, ASCII only. Raises TypeError for what JSON cannot hold, ValueError for NaN and infinity."""
    if isinstance(value, str):
        return _encode(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("JSON has no NaN and no infinity")
        return format(value, "f")
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_encode(str(key))}:{to_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(to_json(inner) for inner in value) + "]"
    return _encode(value)
