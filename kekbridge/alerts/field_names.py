"""Field names of an alert: canonical names, accepted spellings, and which of them carry identity or credentials."""

from __future__ import annotations

import re
from types import MappingProxyType

# Identify sender and alert; common to all steps of a message, never part of an order.
IDENTITY_FIELDS = frozenset({"apiKey", "alertId", "timestamp", "signature"})

# Define an order. Any other name is judged by unknown_fields.py (docs/internals/architecture.md section 5).
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
        "symbols",
        "maxQuantity",
    }
)

STEPS_FIELD = "steps"

CANONICAL_FIELDS = IDENTITY_FIELDS | ORDER_FIELDS | {STEPS_FIELD}

# Where alerts written for other services carry their secret. Read only if there is no apiKey, and only if the value looks like
# a kekbridge key: another service's secret must never be mistaken for one.
CREDENTIAL_FIELDS = ("apikey", "secret", "passphrase", "token", "key")
KEY_PREFIXES = ("wh_live_", "wh_test_")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


#: Canonical name by every accepted spelling of every field.
SPELLINGS = MappingProxyType({**{_snake(name): name for name in CANONICAL_FIELDS}, **{n: n for n in CANONICAL_FIELDS}})

#: Every accepted spelling of every field.
ALL_SPELLINGS = frozenset(SPELLINGS)

# Canonical name by every spelling of the identity fields; another service's credential field keeps its own name.
IDENTITY_NAMES = MappingProxyType(
    {**{n: own for n, own in SPELLINGS.items() if own in IDENTITY_FIELDS}, **{n: n for n in CREDENTIAL_FIELDS}}
)
# Every spelling of the fields that change when the same alert is sent again.
STAMP_NAMES = frozenset({n for n, own in SPELLINGS.items() if own in ("timestamp", "signature")})


def squeeze(name: str) -> str:
    """The letters and digits of a name in lower case: `Stop-Loss` -> `stoploss`. Equal for all spellings of one name."""
    return re.sub(r"[^A-Za-z0-9]", "", name).lower()


def canonical_name(name: str) -> str:
    """Return `orderType` for `order_type` and `orderType`; an unknown name is returned unchanged (case matters)."""
    return SPELLINGS.get(name, name)
