"""Endpoints that a wallet signs: any wallet gets an account of its own, signatures are verified, errors have Orderly's codes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ADDRESS, PaperSettings
from tests import eth_wallet
from tests.paper.trader import Trader

# docs/internals/orderly.md section 3.
_TYPES: dict[str, list[tuple[str, str]]] = {
    "Registration": [
        ("brokerId", "string"), ("chainId", "uint256"), ("timestamp", "uint64"), ("registrationNonce", "uint256"),
    ],
    "AddOrderlyKey": [
        ("brokerId", "string"), ("chainId", "uint256"), ("orderlyKey", "string"), ("scope", "string"),
        ("timestamp", "uint64"), ("expiration", "uint64"),
    ],
}  # fmt: skip
KEY_B = "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj"
WALLET_KEY = "02" * 32
DAY_MS = 86_400_000


def signed(kind: str, message: dict[str, Any], wallet_key: str) -> dict[str, Any]:
    """The body that a front end posts, signed as a wallet does."""
    typed = {
        "types": {
            "EIP712Domain": [{"name": name, "type": of} for name, of in (
                ("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address"),
            )],
            kind: [{"name": name, "type": of} for name, of in _TYPES[kind]],
        },
        "primaryType": kind,
        "domain": {
            "name": "Orderly", "version": "1", "chainId": message["chainId"],
            "verifyingContract": "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC",
        },
        "message": message,
    }  # fmt: skip
    signature = eth_wallet.signature(typed, wallet_key)
    address = eth_wallet.address(wallet_key)
    return {"message": message | {"chainType": "EVM"}, "signature": signature, "userAddress": address}


def now() -> int:
    return time.time_ns() // 1_000_000


def key_message(orderly_key: str, **changes: Any) -> dict[str, Any]:
    fields = {"brokerId": "kek_ai", "chainId": 421614, "orderlyKey": orderly_key, "scope": "read,trading"}
    return fields | {"timestamp": now(), "expiration": now() + 30 * DAY_MS} | changes


async def registration(trader: Trader, **changes: Any) -> dict[str, Any]:
    _, answer = await trader.raw("GET", "/v1/registration_nonce")
    nonce = int(answer["data"]["registration_nonce"])
    return {"brokerId": "kek_ai", "chainId": 421614, "timestamp": now(), "registrationNonce": nonce} | changes


async def test_each_wallet_has_an_account_and_keys_of_its_own(trader: Trader) -> None:
    """Its id is keccak256(address, keccak256(broker)); another account's keys are neither listed nor found."""
    assert (await trader.raw("GET", f"/v1/get_account?address={PAPER_ADDRESS}&broker_id=kek_ai"))[1]["data"][
        "account_id"
    ] == PAPER_ACCOUNT_ID
    address = eth_wallet.address(WALLET_KEY)
    status, _ = await trader.raw("GET", f"/v1/get_account?address={address}&broker_id=kek_ai")
    assert status == 400
    _, made = await trader.raw(
        "POST", "/v1/register_account", signed("Registration", await registration(trader), WALLET_KEY)
    )
    account_id = made["data"]["account_id"]
    assert account_id != PAPER_ACCOUNT_ID
    _, owner = await trader.raw("GET", f"/v1/public/account?account_id={account_id}")
    assert owner["data"]["address"] == address
    status, added = await trader.raw("POST", "/v1/orderly_key", signed("AddOrderlyKey", key_message(KEY_B), WALLET_KEY))
    assert (status, added["data"]["orderly_key"]) == (200, KEY_B)
    for of, status in ((account_id, 200), (PAPER_ACCOUNT_ID, 400)):
        assert (await trader.raw("GET", f"/v1/get_orderly_key?account_id={of}&orderly_key={KEY_B}"))[0] == status
    listed = {one["orderly_key"] for one in (await trader.ok("GET", "/v1/client/key_info"))["rows"]}
    assert listed == {trader.orderly_key}
    assert await trader.rejected("POST", "/v1/client/remove_orderly_key", {"orderly_key": KEY_B}) == (400, -1006)


async def test_accounts_of_wallets_survive_a_restart(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Wallet and key are stored with the exchange's other rows."""
    for number in range(2):
        paper = PaperExchange(tmp_path, settings=PaperSettings(prices="static", rate_limits=False))
        await paper.start()
        trader = Trader(session, paper.base_url)
        if number == 0:
            await trader.raw(
                "POST", "/v1/register_account", signed("Registration", await registration(trader), WALLET_KEY)
            )
        status, added = await trader.raw(
            "POST", "/v1/orderly_key", signed("AddOrderlyKey", key_message(KEY_B), WALLET_KEY)
        )
        assert (status, added["success"]) == (200, True)
        await paper.close()


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"timestamp": 1685973017064}, 400, 2),
        ({"brokerId": "nobody"}, 400, 15),
        ({"registrationNonce": 7}, 400, 2),
        ({"chainId": "arbitrum"}, 400, -1005),
    ],
)
async def test_wrong_registrations_have_orderlys_codes(
    trader: Trader, changes: dict[str, Any], status: int, code: int
) -> None:
    """Too old, unknown broker, a nonce that was not issued, and a field that is no number."""
    good = await registration(trader)
    body = signed(
        "Registration",
        good | {name: v for name, v in changes.items() if isinstance(v, int) or name == "brokerId"},
        WALLET_KEY,
    )
    body["message"] |= changes
    found = await trader.raw("POST", "/v1/register_account", body)
    assert (found[0], found[1]["code"]) == (status, code)


async def test_signatures_are_verified(trader: Trader) -> None:
    """A field changed after signing, another address, and bytes that are no signature: codes 9, 9 and 3; a nonce works once."""
    body = signed("Registration", await registration(trader), WALLET_KEY)
    for wrong, code in (
        (body | {"message": body["message"] | {"chainId": 42161}}, 9),
        (body | {"userAddress": PAPER_ADDRESS}, 9),
        (body | {"signature": "0x" + "ff" * 65}, 3),
    ):
        assert (await trader.raw("POST", "/v1/register_account", wrong))[1]["code"] == code
    assert (await trader.raw("POST", "/v1/register_account", body))[0] == 200
    assert (await trader.raw("POST", "/v1/register_account", body))[1]["code"] == 2
    for changes, code in (
        ({"scope": "read,everything"}, -1005),
        ({"expiration": now() + 400 * DAY_MS}, -1005),
        ({"orderlyKey": trader.orderly_key}, -1005),
        ({"timestamp": now() - 301_000}, 2),
    ):
        wrong = signed("AddOrderlyKey", key_message(KEY_B, **changes), WALLET_KEY)
        assert (await trader.raw("POST", "/v1/orderly_key", wrong))[1]["code"] == code
    unregistered = signed("AddOrderlyKey", key_message(KEY_B), "05" * 32)
    assert (await trader.raw("POST", "/v1/orderly_key", unregistered))[1]["code"] == -1006
