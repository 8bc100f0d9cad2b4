"""EIP-712 typed data of the two messages that a wallet signs off-chain: register an account, add an Orderly key.

Pure data in the shape that wallets accept (`eth_signTypedData_v4`); signs and sends nothing. Fields and domain:
docs/internals/orderly.md section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from kekbridge.errors import ConfigError

# Signed off-chain and verified by no contract: a placeholder address.
OFF_CHAIN_CONTRACT: Final = "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"
DAY_MS: Final = 86_400_000
SCOPES: Final = ("read", "trading", "asset")
#: How long the exchange accepts a message after its timestamp, ms.
VALID_MS: Final = 300_000
REGISTRATION: Final = "Registration"
ADD_ORDERLY_KEY: Final = "AddOrderlyKey"

_DOMAIN_FIELDS: Final = (
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
)
_REGISTRATION_FIELDS: Final = (
    ("brokerId", "string"),
    ("chainId", "uint256"),
    ("timestamp", "uint64"),
    ("registrationNonce", "uint256"),
)
_ADD_KEY_FIELDS: Final = (
    ("brokerId", "string"),
    ("chainId", "uint256"),
    ("orderlyKey", "string"),
    ("scope", "string"),
    ("timestamp", "uint64"),
    ("expiration", "uint64"),
)

_FIELDS: Final = {REGISTRATION: _REGISTRATION_FIELDS, ADD_ORDERLY_KEY: _ADD_KEY_FIELDS}
_MEANINGS: Final = {
    "brokerId": "the exchange's front end that the account belongs to",
    "chainId": "the chain that the wallet is on",
    "registrationNonce": "the exchange's number for this request, valid once, for two minutes",
    "orderlyKey": "the public key that may sign in your name; its secret is in this bridge's vault",
}
_SCOPE_MEANINGS: Final = {
    "read": "read: see the account",
    "trading": "trading: place and cancel orders",
    "asset": "asset: MOVE FUNDS",
}


def registration(*, broker_id: str, chain_id: int, timestamp_ms: int, nonce: int) -> dict[str, Any]:
    """The message that registers a wallet's account at a broker. `nonce` is from the exchange, valid once, for two minutes."""
    message = {"brokerId": broker_id, "chainId": chain_id, "timestamp": timestamp_ms, "registrationNonce": nonce}
    return _typed(REGISTRATION, chain_id, message)


def add_orderly_key(
    *, broker_id: str, chain_id: int, orderly_key: str, scope: str, timestamp_ms: int, expires_ms: int
) -> dict[str, Any]:
    """The message that adds an ed25519 key to the account.

    `scope` like `read,trading`; times are Unix ms; the exchange accepts at most 365 days from `timestamp_ms` to `expires_ms`.
    """
    message = {
        "brokerId": broker_id,
        "chainId": chain_id,
        "orderlyKey": orderly_key,
        "scope": scope,
        "timestamp": timestamp_ms,
        "expiration": expires_ms,
    }
    return _typed(ADD_ORDERLY_KEY, chain_id, message)


def from_message(message: Mapping[str, object]) -> dict[str, Any]:
    """The typed data of a message's fields. Raises ConfigError unless they are exactly those of one of the two messages."""
    for name, fields in _FIELDS.items():
        if message.keys() == {field for field, _ in fields} and all(
            type(message[field]) is (str if kind == "string" else int) for field, kind in fields
        ):
            return _typed(name, int(str(message["chainId"])), message)
    raise ConfigError(
        f"message: found the fields {', '.join(map(str, message))[:200] or 'none'}, expected those of"
        f" {' or '.join(_FIELDS)} as they were prepared"
    )


def describe(typed: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every field of a message that a wallet is asked to sign: its name, its value as signed, and what it means. The domain comes last."""
    message, domain = typed["message"], typed["domain"]
    rows = [(name, str(message[name]), _meaning(name, message[name])) for name, _ in _FIELDS[typed["primaryType"]]]
    contract = "a placeholder: no contract is called, nothing is sent to a chain and no gas is paid"
    return [*rows, ("domain", f"{domain['name']} {domain['version']}", "who the message is for"),
            ("verifyingContract", str(domain["verifyingContract"]), contract)]  # fmt: skip


def _meaning(name: str, value: Any) -> str:
    match name:
        case "scope":
            return ", ".join(_SCOPE_MEANINGS.get(one, one) for one in str(value).split(","))
        case "timestamp" | "expiration":
            moment = datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
            return f"now: {moment}" if name == "timestamp" else f"the key expires on {moment}"
        case _:
            return _MEANINGS[name]


def _typed(name: str, chain_id: int, message: Mapping[str, object]) -> dict[str, Any]:
    return {
        "types": {
            "EIP712Domain": [{"name": field, "type": kind} for field, kind in _DOMAIN_FIELDS],
            name: [{"name": field, "type": kind} for field, kind in _FIELDS[name]],
        },
        "primaryType": name,
        "domain": {"name": "Orderly", "version": "1", "chainId": chain_id, "verifyingContract": OFF_CHAIN_CONTRACT},
        "message": dict(message),
    }
