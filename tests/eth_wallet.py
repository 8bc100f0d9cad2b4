"""A wallet that signs as front ends have it sign, without kekbridge's own code."""

from __future__ import annotations

from typing import Any

# eth_account is imported where it is used: it takes half a second, which only the workers that sign shall need.


def signature(typed: dict[str, Any], private_key: str) -> str:
    """Sign typed data with a private key (64 hex digits)."""
    from eth_account import Account
    from eth_account.messages import encode_typed_data

    signed = Account.sign_message(encode_typed_data(full_message=typed), private_key="0x" + private_key)
    return "0x" + bytes(signed.signature).hex()


def address(private_key: str) -> str:
    """The address of a private key (64 hex digits)."""
    from eth_account import Account

    return str(Account.from_key("0x" + private_key).address)
