"""A key is registered by a wallet's signatures at the paper exchange, which verifies them; whatever is wrong leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kekbridge.daemon.orderly_keys import OrderlyKeys
from kekbridge.errors import ConfigError, ExchangeUnavailable, NotFound, OperatorError, VaultError
from kekbridge.model import Mode
from kekbridge.ops import exchange_keys
from kekbridge.ops.key_registration import DiscardPendingKey, PrepareKey, RegisterKey, SignedMessage, check_scope
from kekbridge.ops.operations import Operations
from kekbridge.ops.vault_operations import GenerateKey, ListKeys, ShowOwnAddress
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PaperSettings
from kekbridge.vault import orderly_secret
from kekbridge.wallet import signing
from tests.ops.operating import Desk, MemoryVault

WALLET_KEY, OTHER_KEY = "03" * 32, "04" * 32
# The first key's address, and its account at the broker kek_ai.
WALLET = "0x3325a78425F17a7E487Eb5666b2bFd93aBb06c70"
ACCOUNT = "0xcb5816b9e10313e4a05c34282f47267e4a1ccbadb0d1c844e584256fbd127154"
VENUE: dict[str, Any] = {"mode": Mode.PAPER, "wallet": WALLET, "broker_id": "kek_ai"}


@dataclass
class Registering:
    """A paper exchange, and what operations work on."""

    desk: Desk
    paper: PaperExchange

    async def run(self, operation: Any) -> Any:
        return await Operations(self.desk).run(operation)

    async def prepare(self, **changes: Any) -> list[dict[str, Any]]:
        """The messages to sign, with a key that is generated for them."""
        prepared = await self.run(PrepareKey(**VENUE, generate=True, **changes))
        messages: list[dict[str, Any]] = prepared["messages"]
        return messages

    async def register(self, messages: list[dict[str, Any]], *, wallet_key: str = WALLET_KEY) -> Any:
        signed = tuple(
            SignedMessage(message=each["message"], signature=signing.sign(each, wallet_key)) for each in messages
        )
        return await self.run(RegisterKey(**VENUE, signed=signed))

    @property
    def accounts(self) -> set[str]:
        """Those of wallets at the exchange, without the one that it comes with."""
        return set(self.paper.exchange.state.wallets) - {PAPER_ACCOUNT_ID}

    @property
    def keys(self) -> set[str]:
        """Keys at the exchange, without its own."""
        return set(self.paper.exchange.state.keys) - {PAPER_ORDERLY_KEY}


@pytest.fixture
async def registering(tmp_path: Path) -> AsyncIterator[Registering]:
    paper = PaperExchange(tmp_path / "paper", settings=PaperSettings(prices="static", rate_limits=False))
    await paper.start()
    desk = Desk(tmp_path / "data")
    desk.keys = OrderlyKeys(desk.settings, paper.base_url)
    yield Registering(desk, paper)
    await desk.database.close()
    await paper.close()


async def test_a_wallet_without_an_account_signs_twice(registering: Registering) -> None:
    """Account and key are registered, the key is kept under the account's name and works, and the same signatures do nothing twice."""
    messages = await registering.prepare(days=30)
    assert [each["primaryType"] for each in messages] == ["Registration", "AddOrderlyKey"]
    assert {each["domain"]["chainId"] for each in messages} == {421614}
    done = await registering.register(messages)
    assert (done["accountId"], done["scopes"]) == (ACCOUNT, ["read", "trading"])
    assert {one["level"] for one in done["checks"]} == {"ok"}
    assert registering.keys == {done["orderlyKey"]}
    assert set(registering.desk.secrets.secrets) == {orderly_secret(ACCOUNT)}
    known = await registering.desk.database.read(exchange_keys.known_keys)
    assert [(one.account_id, one.orderly_key) for one in known] == [(ACCOUNT, done["orderlyKey"])]
    listed = await registering.run(ListKeys(mode=Mode.PAPER, account_id=ACCOUNT))
    assert [(one["orderlyKey"], one["isHere"]) for one in listed] == [(done["orderlyKey"], True)]
    with pytest.raises(NotFound, match="no key to register"):
        await registering.register(messages)


async def test_a_wallet_with_an_account_signs_the_key_only(registering: Registering) -> None:
    """A registration alone returns the account; the key that follows is one message, by the address in any case."""
    messages = await registering.prepare()
    assert (await registering.register(messages[:1]))["accountId"] == ACCOUNT
    assert registering.keys == set()
    prepared = await registering.run(PrepareKey(**VENUE | {"wallet": WALLET.lower()}))
    assert (prepared["wallet"], prepared["accountId"], prepared["isNew"]) == (WALLET, ACCOUNT, False)
    (message,) = prepared["messages"]
    assert message["message"]["orderlyKey"] == messages[1]["message"]["orderlyKey"] == prepared["orderlyKey"]
    assert (await registering.register([message]))["orderlyKey"] == prepared["orderlyKey"]


async def test_a_lost_answer_loses_no_key(registering: Registering) -> None:
    """The exchange has the key, its answer was lost: the next attempt keeps the key without a signature."""
    messages = await registering.prepare()
    registering.paper.exchange.arm_faults({"fault": "lose_answer", "path": "/v1/orderly_key", "count": 1})
    with pytest.raises(ExchangeUnavailable):
        await registering.register(messages)
    assert exchange_keys.PENDING in registering.desk.secrets.secrets
    assert await registering.prepare() == []
    done = await registering.register([])
    assert registering.keys == {done["orderlyKey"]}
    assert set(registering.desk.secrets.secrets) == {orderly_secret(ACCOUNT)}


def too_old(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"timestamp": message["timestamp"] - 301_000}


def of_another_broker(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"brokerId": "woofi_pro"}


def for_another_key(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"orderlyKey": PAPER_ORDERLY_KEY} if "orderlyKey" in message else message


def with_another_nonce(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"registrationNonce": 1} if "registrationNonce" in message else message


@pytest.mark.parametrize(
    ("change", "wallet_key", "text"),
    [
        (None, OTHER_KEY, "not by 0x"),
        (too_old, WALLET_KEY, "older than 5 minutes"),
        (of_another_broker, WALLET_KEY, "for broker woofi_pro, not kek_ai"),
        (for_another_key, WALLET_KEY, "another key was generated meanwhile"),
        (with_another_nonce, WALLET_KEY, "nonce is unknown, used or expired"),
    ],
)
async def test_what_is_wrong_leaves_nothing_behind(
    registering: Registering, change: Callable[[dict[str, Any]], dict[str, Any]] | None, wallet_key: str, text: str
) -> None:
    """One line says what; no account and no key at the exchange, and the key stays pending for the next attempt."""
    messages = await registering.prepare()
    if change is not None:
        messages = [each | {"message": change(each["message"])} for each in messages]
    with pytest.raises(OperatorError, match=text) as refused:
        await registering.register(messages, wallet_key=wallet_key)
    assert "\n" not in refused.value.message
    assert (registering.accounts, registering.keys) == (set(), set())
    assert set(registering.desk.secrets.secrets) == {exchange_keys.PENDING}


async def test_a_signature_over_other_fields_is_not_sent(registering: Registering) -> None:
    """A message that was changed after it was signed is refused here, before the exchange sees it."""
    messages = await registering.prepare()
    signatures = [signing.sign(each, WALLET_KEY) for each in messages]
    longer = messages[1]["message"] | {"scope": "read,trading,asset"}
    signed = (
        SignedMessage(message=messages[0]["message"], signature=signatures[0]),
        SignedMessage(message=longer, signature=signatures[1]),
    )
    with pytest.raises(ConfigError, match="the message was changed; nothing was sent"):
        await registering.run(RegisterKey(**VENUE, signed=signed))
    assert registering.accounts == set()


async def test_messages_come_in_order_and_as_prepared(registering: Registering) -> None:
    """Wrong order, twice the same, and fields that were not prepared are refused before the vault is opened."""
    registration, key = (each["message"] for each in await registering.prepare())
    wrong: tuple[list[dict[str, Any]], ...] = ([key, registration], [key, key], [key | {"tag": "x"}], [{}])
    for messages in wrong:
        signed = tuple(SignedMessage(message=each, signature="0x" + "1" * 130) for each in messages)
        with pytest.raises(ConfigError, match="found"):
            RegisterKey(**VENUE, signed=signed)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"wallet": "0x12"}, "40 hex digits"),
        ({"broker_id": "KEK AI"}, "lower-case letters"),
        ({"days": 0}, "expected 1 to 365"),
        ({"days": 366}, "expected 1 to 365"),
        ({"scope": "read"}, "expected read,trading"),
    ],
)
def test_wrong_parameters_are_named(changes: dict[str, Any], text: str) -> None:
    """Before anything is generated or asked."""
    with pytest.raises(ConfigError, match=text):
        PrepareKey(**VENUE | changes)
    assert check_scope("trading, read") == "read,trading"


async def test_a_key_is_generated_only_when_asked(registering: Registering) -> None:
    """And only the pending key that is meant is discarded."""
    with pytest.raises(NotFound, match="keys generate"):
        await registering.run(PrepareKey(**VENUE))
    pending = (await registering.run(GenerateKey(mode=Mode.PAPER)))["orderlyKey"]
    assert await registering.run(DiscardPendingKey(orderly_key=PAPER_ORDERLY_KEY)) == {"discarded": False}
    assert exchange_keys.PENDING in registering.desk.secrets.secrets
    assert await registering.run(DiscardPendingKey(orderly_key=pending)) == {"discarded": True}
    assert registering.desk.secrets.secrets == {}


async def test_a_key_that_can_trade_is_never_kept_in_the_clear(tmp_path: Path) -> None:
    """A vault for paper mode refuses it before a wallet is asked to sign, also when a key of practice is pending."""
    desk = Desk(tmp_path / "data", vault=MemoryVault(is_plain=True))
    await Operations(desk).run(GenerateKey(mode=Mode.PAPER))
    with pytest.raises(VaultError, match="for paper mode only"):
        await Operations(desk).run(PrepareKey(**VENUE | {"mode": Mode.LIVE}, generate=True))
    await desk.database.close()


async def test_the_exchange_names_our_address(registering: Registering) -> None:
    """What a restriction to this machine would contain."""
    assert await registering.run(ShowOwnAddress(mode=Mode.PAPER)) == {"address": "127.0.0.1"}
