"""The names an alert may use: canonical fields, their other spelling, and which of them carry identity or credentials.

Data and one lookup; payload.py, fields.py, signature.py and profiles.py agree on names through this module only.
"""

from __future__ import annotations

import re
from types import MappingProxyType

# Who sent it and which alert it is: common to all steps of a message, never part of an order.
IDENTITY_FIELDS = frozenset({"apiKey", "alertId", "timestamp", "signature"})

# What decides an order. A field that is not here is kept in the log and otherwise ignored (docs/internals/architecture.md section 5).
ORDER_FIELDS = frozenset(
    {
        "action",
        "symbol",
        "exchange",
        "quantity",
        "quantityType",
        "price",
        "orderType",
        "limitPrice",
        "triggerPrice",
        "stopLoss",
        "takeProfit",
        "trailingStop",
        "reduceOnly",
        "leverage",
        "slippage",
        "marketPosition",
        "marketPositionSize",
        "prevMarketPosition",
        "prevMarketPositionSize",
        "positionSize",
        "comment",
    }
)

STEPS_FIELD = "steps"

CANONICAL_FIELDS = IDENTITY_FIELDS | ORDER_FIELDS | {STEPS_FIELD}

# Where alerts written for other services carry their secret. Read only when there is no apiKey, and only when the value looks like
# one of our keys: another service's secret must never be mistaken for ours.
CREDENTIAL_FIELDS = ("apikey", "secret", "passphrase", "token", "key")
KEY_PREFIXES = ("wh_live_", "wh_test_")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


_SPELLINGS = MappingProxyType({**{_snake(name): name for name in CANONICAL_FIELDS}, **{n: n for n in CANONICAL_FIELDS}})

# Every spelling of what says who sent a message and which alert it is, with our name for it; a foreign credential keeps its own.
IDENTITY_NAMES = MappingProxyType(
    {**{n: own for n, own in _SPELLINGS.items() if own in IDENTITY_FIELDS}, **{n: n for n in CREDENTIAL_FIELDS}}
)
# Every spelling of what changes when the same alert is sent again.
STAMP_NAMES = frozenset({n for n, own in _SPELLINGS.items() if own in ("timestamp", "signature")})


def canonical_name(name: str) -> str:
    """`order_type` and `orderType` are `orderType`; a name that is not ours comes back unchanged (case matters)."""
    return _SPELLINGS.get(name, name)
