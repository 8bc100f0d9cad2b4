"""Endpoints signed by a wallet: register the account, add a key. See docs/internals/orderly.md, section 3.

Any wallet can register. Each has an account id of its own, as at the real exchange, but all accounts are the one portfolio that the
paper exchange has. eth-account, which verifies the signatures, is imported with the first request: trading does not need it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

from kekbridge.paper.api import ApiRoute, Call
from kekbridge.paper.codec import ApiError, parse_integer
from kekbridge.paper.models import ApiKey, PaperWallet
from kekbridge.paper.settings import PAPER_BROKER_ID
from kekbridge.paper.state import YEAR_MS

# Error codes of these calls only.
_EXPIRED, _BAD_SIGNATURE, _OTHER_WALLET, _NO_BROKER = 2, 3, 9, 15
#: How long a registration nonce is valid.
NONCE_MS: Final = 120_000
_WINDOW_MS: Final = 300_000
_CONTRACT: Final = "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"
_FIELDS: Final = {
    "Registration": (
        ("brokerId", "string"),
        ("chainId", "uint256"),
        ("timestamp", "uint64"),
        ("registrationNonce", "uint256"),
    ),
    "AddOrderlyKey": (
        ("brokerId", "string"),
        ("chainId", "uint256"),
        ("orderlyKey", "string"),
        ("scope", "string"),
        ("timestamp", "uint64"),
        ("expiration", "uint64"),
    ),
}
_DOMAIN: Final = (("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address"))


def registration_nonce(call: Call) -> object:
    nonce = str(random.randrange(10**11, 10**12))
    nonces = call.exchange.nonces
    for old in [one for one, at in nonces.items() if call.now - at > NONCE_MS]:
        del nonces[old]
    nonces[nonce] = call.now
    return {"registration_nonce": nonce}


def register_account(call: Call) -> object:
    message = _verified_message(call, "Registration")
    issued = call.exchange.nonces.pop(str(message["registrationNonce"]), None)
    if issued is None or call.now - issued > NONCE_MS:
        raise ApiError(_EXPIRED, "The registration nonce is unknown, used or expired.", status=400)
    address = str(call.body["userAddress"])
    wallet = call.exchange.state.wallet(address)
    if wallet is None:
        wallet = PaperWallet(address, _account_id(address))
        call.exchange.state.add(wallet)
        call.exchange.state.record_event("account_registered", account_id=wallet.account_id)
    return {"account_id": wallet.account_id}


def add_key(call: Call) -> object:
    message = _verified_message(call, "AddOrderlyKey")
    wallet = call.exchange.state.wallet(str(call.body["userAddress"]))
    if wallet is None:
        raise ApiError(-1006, "The account is not registered.")
    name, expiration = str(message["orderlyKey"]), message["expiration"]
    if not name.startswith("ed25519:"):
        raise ApiError(-1005, "orderlyKey must begin with ed25519: .")
    scopes = set(str(message["scope"]).split(","))
    if not scopes <= {"read", "trading", "asset"}:
        raise ApiError(-1005, "scope must be of read, trading and asset.")
    if not call.now < expiration <= call.now + YEAR_MS + _WINDOW_MS:
        raise ApiError(-1005, "expiration must be within 365 days.")
    state = call.exchange.state
    if name in state.keys and state.keys[name].account_id != wallet.account_id:
        raise ApiError(-1005, "The key belongs to another account.")
    tag = str(message.get("tag") or "") or None
    key = ApiKey(name, str(message["scope"]), expiration, tag, account_id=wallet.account_id)
    state.add(key)
    state.record_event("key_added", orderly_key=name, scope=key.scope, expiration=expiration)
    return {"id": len(state.keys), "orderly_key": name}


def _verified_message(call: Call, kind: str) -> dict[str, Any]:
    """Return the message of a body after checking its wallet signature; ApiError if anything is wrong."""
    message, signature, address = (call.body.get(name) for name in ("message", "signature", "userAddress"))
    if not isinstance(message, Mapping) or not isinstance(signature, str) or not isinstance(address, str):
        raise ApiError(-1005, "message, signature and userAddress are required.")
    fields: dict[str, Any] = dict(message)
    for name, type_ in _FIELDS[kind]:
        if name not in fields:
            raise ApiError(-1005, f"message.{name} is required.")
        if type_ != "string":
            fields[name] = parse_integer(fields[name], name)
    signed = {name: fields[name] for name, _ in _FIELDS[kind]}
    if _recover_signer(kind, signed, signature).lower() != address.lower():
        raise ApiError(_OTHER_WALLET, "The address and the signature do not match.", status=400)
    if fields["brokerId"] != PAPER_BROKER_ID:
        raise ApiError(_NO_BROKER, "The broker id does not exist.", status=400)
    if abs(call.now - fields["timestamp"]) > _WINDOW_MS:
        raise ApiError(_EXPIRED, "The timestamp has expired.", status=400)
    return fields


def _account_id(address: str) -> str:
    """keccak256 of the padded address and the broker's hash (docs/internals/orderly.md, section 3)."""
    from eth_utils.crypto import keccak  # comes with eth-account, which has just verified a signature

    padded = bytes.fromhex(address.lower().removeprefix("0x")).rjust(32, b"\0")
    return "0x" + bytes(keccak(padded + keccak(text=PAPER_BROKER_ID))).hex()


def _recover_signer(kind: str, message: dict[str, Any], signature: str) -> str:
    try:
        from eth_account import Account
        from eth_account.messages import encode_typed_data
    except ImportError:
        raise ApiError(-1000, "Verifying a wallet signature requires the package eth-account.") from None
    typed = {
        "types": {
            "EIP712Domain": [{"name": name, "type": type_} for name, type_ in _DOMAIN],
            kind: [{"name": name, "type": type_} for name, type_ in _FIELDS[kind]],
        },
        "primaryType": kind,
        "domain": {
            "name": "Orderly",
            "version": "1",
            "chainId": message["chainId"],
            "verifyingContract": _CONTRACT,
        },
        "message": message,
    }
    try:
        raw = bytes.fromhex(signature.removeprefix("0x"))
        return str(Account.recover_message(encode_typed_data(full_message=typed), signature=raw))
    except Exception:  # eth-keys raises exceptions of its own for values outside the curve
        raise ApiError(_BAD_SIGNATURE, "The signature is not valid.", status=400) from None


ROUTES = (
    ApiRoute("GET", "/v1/registration_nonce", registration_nonce),
    ApiRoute("POST", "/v1/register_account", register_account),
    ApiRoute("POST", "/v1/orderly_key", add_key),
)
