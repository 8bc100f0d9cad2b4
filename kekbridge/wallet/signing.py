"""Wallet signatures with eth-account (the extra `wallet`): sign, recover the signer, derive addresses and account ids.

A wallet's private key is an argument only and never stored. Vectors: docs/internals/orderly.md section 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from kekbridge.errors import ConfigError

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_PRIVATE_KEY = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
_SIGNATURE = re.compile(r"(?:0x)?([0-9a-fA-F]{130})")


def is_available() -> bool:
    """True if the extra `wallet` is installed."""
    return find_spec("eth_account") is not None


def check_address(text: str) -> str:
    """Return a wallet address without surrounding spaces. Raises ConfigError unless it is 0x and 40 hex digits."""
    if not _ADDRESS.fullmatch(text.strip()):
        raise ConfigError(f"wallet address: found {text[:60]!r}, expected 0x and 40 hex digits")
    return text.strip()


def checksummed(address: str) -> str:
    """The address in its mixed-case form (EIP-55) if the extra `wallet` is installed, else unchanged."""
    if not is_available():
        return address
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(address))


def check_signature(text: str) -> str:
    """Return a wallet's 65-byte signature as `0x…` in lower case. Raises ConfigError."""
    match = _SIGNATURE.fullmatch(text.strip().strip('"'))
    if match is None:
        raise ConfigError(
            f"signature: found {len(text.strip())} characters, expected 0x and 130 hex digits as the wallet returns them"
        )
    return f"0x{match[1].lower()}"


def sign(typed: Mapping[str, Any], private_key: str) -> str:
    """Sign typed data with a wallet's private key; return `0x` and 65 bytes in hex. Raises ConfigError."""
    _require_extra()
    from eth_account import Account

    signed = Account.sign_message(_signable(typed), private_key=_key_of(private_key))
    return "0x" + bytes(signed.signature).hex()


def digest(typed: Mapping[str, Any]) -> bytes:
    """The digest that is signed: keccak256 of 0x19 0x01, the hash of the domain and the hash of the message."""
    _require_extra()
    from eth_utils.crypto import keccak

    signable = _signable(typed)
    return bytes(keccak(b"\x19" + signable.version + signable.header + signable.body))


def signer_of(typed: Mapping[str, Any], signature: str) -> str:
    """The address that signed. A wrong signature gives another address, so compare it. Raises ConfigError if it is not a signature."""
    _require_extra()
    from eth_account import Account

    try:
        return str(Account.recover_message(_signable(typed), signature=bytes.fromhex(signature.removeprefix("0x"))))
    except Exception as error:  # eth-keys raises its own types for values outside the curve
        raise ConfigError(f"signature: not a valid wallet signature ({type(error).__name__})") from None


def address_of(private_key: str) -> str:
    """The address of a wallet's private key. Raises ConfigError."""
    _require_extra()
    from eth_account import Account

    return str(Account.from_key(_key_of(private_key)).address)


def account_id(address: str, broker_id: str) -> str:
    """keccak256(abi.encode(address, keccak256(broker id))): the exchange's id of this wallet's account at this broker."""
    _require_extra()
    from eth_utils.crypto import keccak

    wallet = bytes.fromhex(check_address(address).removeprefix("0x"))
    return "0x" + bytes(keccak(wallet.rjust(32, b"\0") + keccak(text=broker_id))).hex()


def _key_of(private_key: str) -> str:
    match = _PRIVATE_KEY.fullmatch(private_key.strip())
    if match is None:
        raise ConfigError(
            f"wallet key: found {len(private_key.strip())} characters, expected 64 hex digits; nothing was signed"
        )
    return f"0x{match[1]}"


def _signable(typed: Mapping[str, Any]) -> Any:
    from eth_account.messages import encode_typed_data

    return encode_typed_data(full_message=dict(typed))


def _require_extra() -> None:
    if not is_available():
        raise ConfigError(
            "this needs the extra `wallet`; install it with `pip install 'kekbridge[wallet]'`, or sign in your wallet"
        )
