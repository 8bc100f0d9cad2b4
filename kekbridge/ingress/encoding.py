"""Writes answers as JSON with exact numbers: a Decimal becomes a JSON number in plain notation, every digit as it is.

json.dumps would need a float for that. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from json.encoder import encode_basestring_ascii as _quoted
from typing import Final

# One encoder for all: json.dumps with options of its own makes a new one for each value.
_encode: Final = json.JSONEncoder(allow_nan=False).encode


def to_json(value: object) -> str:
    """Compact JSON, ASCII only. Raises TypeError for what JSON cannot hold, ValueError for NaN and infinity."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("JSON has no NaN and no infinity")
        return format(value, "f")
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is int:
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_quoted(str(key))}:{to_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(to_json(inner) for inner in value) + "]"
    return _encode(value)
