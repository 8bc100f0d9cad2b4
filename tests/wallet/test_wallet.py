"""Wallet messages: the published vectors of digest, signature and account id, and errors that quote no secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kekbridge.errors import ConfigError
from kekbridge.wallet import signing, typed_data
from kekbridge.wallet.chains import CHAINS

WALLET_KEY = "01" * 32
ADDRESS = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1"
KEY_A = "ed25519:FAe4sisG95oZ42w7buUn5qEE4TAnfTTFPiguZUHmhiF"

REGISTRATION = typed_data.registration(
    broker_id="woofi_dex", chain_id=421614, timestamp_ms=1685973017064, nonce=194528949540
)
ADD_KEY = typed_data.add_orderly_key(
    broker_id="woofi_dex",
    chain_id=421614,
    orderly_key=KEY_A,
    scope="read,trading",
    timestamp_ms=1685973094398,
    expires_ms=1717509094398,
)
VECTORS = [
    (
        REGISTRATION,
        "af4cc2ee33cf1fb7a9f0dde49002a46991b7911f298c595a396574dd4d411e82",
        "0x3f9b6697f611fed83da915df5ea4250988635dea0183f4073a09f4bf7873576976a66034068e9a01cb0e2841279ad14eeb06af823e80ef76747"
        "aae6882f6b3381c",
    ),
    (
        ADD_KEY,
        "889345eb867dc22f6896efc3ce8d806c398303dea913110597053bed63f668f2",
        "0x4934087ae18ffe6dba714811b040629068537b822340c8fee7f6ed183e0b051c5c39cb4f544d10713ce3ffc9b73afa26766e59269c4ca20c3f1"
        "0014293e492151b",
    ),
]


@pytest.mark.parametrize(("typed", "digest", "signature"), VECTORS)
def test_published_vectors(typed: dict[str, Any], digest: str, signature: str) -> None:
    """Digest and signature of both messages are those of docs/internals/orderly.md section 3, and recovering gives the wallet."""
    assert signing.digest(typed).hex() == digest
    assert signing.sign(typed, WALLET_KEY) == signature
    assert signing.sign(typed, f" 0x{WALLET_KEY}\n") == signature
    assert signing.signer_of(typed, signature) == ADDRESS


@pytest.mark.parametrize(
    ("broker", "account"),
    [
        ("woofi_pro", "0xe1cf681ebec78feeb3ed9aff12394e3cb79fe243f74450d4a5075082227aade4"),
        ("woofi_dex", "0x5f62d983208f89b4e53111d5ba79deb4abc633b7c2b75e68f0ef8cfdb4c3b313"),
        ("kek_ai", "0x1486549202a0f260571dee401599c58ec79b04953008749ff2ab32576130bd83"),
    ],
)
def test_account_ids(broker: str, account: str) -> None:
    """The account id depends on wallet and broker only, not on the case of the address."""
    assert signing.account_id(ADDRESS, broker) == account
    assert signing.account_id(ADDRESS.lower().replace("0X", "0x"), broker) == account


def test_every_signed_field_counts() -> None:
    """Changing any field changes the digest: nothing that the wallet shows can be swapped afterwards."""
    digests = {signing.digest(ADD_KEY)}
    for field, value in (
        ("brokerId", "kek_ai"),
        ("chainId", 42161),
        ("orderlyKey", KEY_A + "x"),
        ("scope", "read,trading,asset"),
        ("timestamp", 1),
        ("expiration", 1),
    ):
        digests.add(signing.digest(ADD_KEY | {"message": ADD_KEY["message"] | {field: value}}))
    assert len(digests) == 7


@pytest.mark.parametrize("typed", [REGISTRATION, ADD_KEY], ids=["registration", "key"])
def test_typed_data_follows_from_the_fields(typed: dict[str, Any]) -> None:
    """Types and domain are ours, whatever came back from elsewhere; fields that are missing, new or of another type are refused."""
    message = typed["message"]
    assert typed_data.from_message(json.loads(json.dumps(message))) == typed
    for wrong in (
        {},
        message | {"extra": 1},
        message | {"timestamp": str(message["timestamp"])},
        message | {"chainId": True},
        {name: value for name, value in message.items() if name != "brokerId"},
    ):
        with pytest.raises(ConfigError, match="message: found the fields"):
            typed_data.from_message(wrong)


def test_every_signed_field_is_described() -> None:
    """What a person is shown has each field that the wallet signs, with its value, and names the scope that moves funds."""
    for typed in (REGISTRATION, ADD_KEY):
        shown = {name: value for name, value, _ in typed_data.describe(typed)}
        assert typed["message"].items() <= {name: int(v) if v.isdigit() else v for name, v in shown.items()}.items()
        assert shown["verifyingContract"] == typed["domain"]["verifyingContract"]
    meanings = {name: meaning for name, _, meaning in typed_data.describe(ADD_KEY)}
    assert meanings["scope"] == "read: see the account, trading: place and cancel orders"
    assert meanings["expiration"] == "the key expires on 2024-06-04 13:51 UTC"
    asset = ADD_KEY | {"message": ADD_KEY["message"] | {"scope": "read,asset"}}
    assert "MOVE FUNDS" in {name: meaning for name, _, meaning in typed_data.describe(asset)}["scope"]


def test_chains_are_as_wallets_know_them() -> None:
    """Ids in hex, as wallet_switchEthereumChain takes them; practice never signs what the live exchange would accept."""
    assert {mode: chain.hex_id for mode, chain in CHAINS.items()} == {
        "paper": "0x66eee", "testnet": "0x66eee", "live": "0xa4b1",
    }  # fmt: skip
    assert CHAINS["live"].to_add()["rpcUrls"] == ["https://arb1.arbitrum.io/rpc"]
    assert signing.checksummed(ADDRESS.lower()) == ADDRESS


def test_address_of_a_private_key() -> None:
    """The wallet's address is derived, so it need not be typed beside the key."""
    assert signing.address_of(WALLET_KEY) == ADDRESS


@pytest.mark.parametrize("key", ["", "01" * 31, "zz" * 32, "01" * 33])
def test_a_bad_wallet_key_is_not_quoted(key: str) -> None:
    """The error has its length, never the key."""
    with pytest.raises(ConfigError) as refused:
        signing.sign(ADD_KEY, key)
    assert len(key) < 4 or key not in refused.value.message
    assert "64 hex digits" in refused.value.message


def test_signatures_are_accepted_as_wallets_print_them() -> None:
    """Quotes, case and a missing 0x do not matter; length and digits do."""
    signature = VECTORS[0][2]
    assert signing.check_signature(f' "{signature[2:].upper()}"\n') == signature
    for wrong in ("0x12", signature[:-2], signature[:-1] + "g"):
        with pytest.raises(ConfigError):
            signing.check_signature(wrong)
    with pytest.raises(ConfigError):
        signing.signer_of(ADD_KEY, "0x" + "ff" * 65)


def test_addresses_are_checked() -> None:
    """An address of the wrong length would register the wrong account."""
    assert signing.check_address(f" {ADDRESS} ") == ADDRESS
    for wrong in ("", "0x12", ADDRESS[2:], ADDRESS + "0"):
        with pytest.raises(ConfigError):
            signing.check_address(wrong)
