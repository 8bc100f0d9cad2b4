"""EIP-712 typed data of the two messages that a wallet signs off-chain: register an account, add an Orderly key.

Pure data in the shape that wallets accept (`eth_signTypedData_v4`); signs and sends nothing. Fields and domain:
docs/internals/orderly.md section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Signed off-chain and verified by no contract: a placeholder address.
OFF_CHAIN_CONTRACT: Final = "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"
CHAINS: Final = {"live": 42161, "testnet": 421614}  # Arbitrum and its test network; any chain of the broker works
DAY_MS: Final = 86_400_000
SCOPES: Final = ("read", "trading", "asset")

_DOMAIN_FIELDS: Final = (
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
)
_REGISTRATION: Final = (
    ("brokerId", "string"),
    ("chainId", "uint256"),
    ("timestamp", "uint64"),
    ("registrationNonce", "uint256"),
)
_ADD_ORDERLY_KEY: Final = (
    ("brokerId", "string"),
    ("chainId", "uint256"),
    ("orderlyKey", "string"),
    ("scope", "string"),
    ("timestamp", "uint64"),
    ("expiration", "uint64"),
)


def registration(*, broker_id: str, chain_id: int, timestamp_ms: int, nonce: int) -> dict[str, Any]:
    """The message that registers a wallet's account at a broker. `nonce` is from the exchange, valid once, for two minutes."""
    message = {"brokerId": broker_id, "chainId": chain_id, "timestamp": timestamp_ms, "registrationNonce": nonce}
    return _typed("Registration", _REGISTRATION, chain_id, message)


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
    return _typed("AddOrderlyKey", _ADD_ORDERLY_KEY, chain_id, message)


def _typed(
    name: str, fields: tuple[tuple[str, str], ...], chain_id: int, message: Mapping[str, object]
) -> dict[str, Any]:
    return {
        "types": {
            "EIP712Domain": [{"name": field, "type": kind} for field, kind in _DOMAIN_FIELDS],
            name: [{"name": field, "type": kind} for field, kind in fields],
        },
        "primaryType": name,
        "domain": {"name": "Orderly", "version": "1", "chainId": chain_id, "verifyingContract": OFF_CHAIN_CONTRACT},
        "message": dict(message),
    }
