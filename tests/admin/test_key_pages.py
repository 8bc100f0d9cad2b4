"""The keys page and its JSON: keys are shown, entered, restricted and removed; a wallet's signatures register one."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kekbridge.model import TradingState
from kekbridge.ops.exchange_keys import PENDING, new_secret, public_key
from kekbridge.ops.vault_operations import ShowVault
from kekbridge.ops.web_token import read_token
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ADDRESS, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from kekbridge.store.daemon_addresses import admin_address
from kekbridge.store.settings import trading_control
from kekbridge.vault import orderly_secret
from kekbridge.vault.base import SEALED_FILE
from kekbridge.vault.passphrase import PassphraseVault
from kekbridge.wallet import signing
from tests.admin.session import Browser
from tests.bridge import Bridge, running_bridge
from tests.cli.venues import PASSPHRASE, live_environment, running_venue

PAPER_WALLET_KEY = "01" * 32
OWN_NAME = orderly_secret(PAPER_ACCOUNT_ID)


@dataclass
class KeyVisitor:
    """A session with the pages of a running bridge."""

    bridge: Bridge
    url: str
    token: str
    session: aiohttp.ClientSession
    form_key: str = ""

    async def sign_in(self) -> None:
        await self.session.post(f"{self.url}/login", data={"token": self.token})
        found = re.search(r'name="key" value="([\w-]+)"', await self.text("/keys"))
        assert found is not None
        self.form_key = found[1]

    async def text(self, path: str, status: int = 200) -> str:
        async with self.session.get(self.url + path) as answer:
            assert answer.status == status
            return await answer.text()

    async def post(self, path: str, fields: Iterable[tuple[str, str]] = ()) -> tuple[int, str]:
        """Send a form with the session's form key; redirects are followed."""
        body = [("key", self.form_key), *fields]
        async with self.session.post(self.url + path, data=body) as answer:
            return answer.status, await answer.text()

    async def api(self, what: str, **fields: str | list[str]) -> tuple[int, Any]:
        pairs = [
            (name, one) for name, value in fields.items() for one in ([value] if isinstance(value, str) else value)
        ]
        status, text = await self.post(f"/keys/wallet/{what}", pairs)
        return status, json.loads(text)

    async def secrets(self) -> set[str]:
        return set((await self.bridge.daemon.operations.run(ShowVault()))["names"]) - {"master-key"}


@pytest.fixture
async def visitor(browser: Browser) -> KeyVisitor:
    """Signed in."""
    visitor = KeyVisitor(browser.bridge, browser.url, browser.token, browser.session)
    await visitor.sign_in()
    return visitor


def signatures(ready: dict[str, Any], wallet_key: str) -> list[str]:
    """What a wallet returns for the messages, which it gets as text."""
    return [signing.sign(json.loads(each["typed"]), wallet_key) for each in ready["messages"]]


async def test_a_wallets_key_is_registered_restricted_and_removed(visitor: KeyVisitor) -> None:
    """For the bridge's own account: listed with its days, tied to this machine, and revoked; the key in use stays."""
    status, ready = await visitor.api("prepare", wallet=PAPER_ADDRESS.lower(), days="30")
    assert (status, ready["wallet"], ready["accountId"]) == (200, PAPER_ADDRESS, PAPER_ACCOUNT_ID)
    (message,) = ready["messages"]
    typed = json.loads(message["typed"])
    assert int(ready["chain"]["chainId"], 16) == typed["domain"]["chainId"]
    shown = dict(re.findall(r"<dt>(\w+)</dt><dd>([^<]*)", ready["html"]))
    assert typed["message"].items() <= {name: int(v) if v.isdigit() else v for name, v in shown.items()}.items()
    status, done = await visitor.api(
        "register", attempt=ready["attempt"], signature=signatures(ready, PAPER_WALLET_KEY)
    )
    assert (status, done["orderlyKey"]) == (200, ready["orderlyKey"])
    assert "practice" in done["lines"][-1]
    assert await visitor.secrets() == {OWN_NAME}

    page = await visitor.text("/keys")
    for key, words in (
        (PAPER_ORDERLY_KEY, "this bridge signs with it"),
        (done["orderlyKey"], "in the vault, for practice"),
    ):
        row = next(one for one in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if key in one)
        assert words in row
    assert re.search(r">(29|30)<", row)
    assert f"/keys/remove?key={PAPER_ORDERLY_KEY}" not in page
    assert "127.0.0.1" in await visitor.text("/keys/restrict")
    assert "127.0.0.1" in (await visitor.post("/keys/restrict", [("address", "127.0.0.1")]))[1]
    assert "127.0.0.1" not in (await visitor.post("/keys/restrict", [("address", "any")]))[1]

    assert "goes on trading" in await visitor.text(f"/keys/remove?key={done['orderlyKey']}")
    assert "can send no order" in await visitor.text(f"/keys/remove?key={PAPER_ORDERLY_KEY}")
    assert (await visitor.post("/keys/remove", [("orderly_key", PAPER_ORDERLY_KEY)]))[0] == 409
    assert visitor.bridge.daemon.readiness().is_ready
    assert (
        "Removed keys, not shown: 1" in (await visitor.post("/keys/remove", [("orderly_key", done["orderlyKey"])]))[1]
    )
    assert await visitor.secrets() == set()


async def test_an_attempt_ends_in_one_line(visitor: KeyVisitor) -> None:
    """Used twice, of another session, too late, signed by another wallet, without signatures: nothing is registered."""

    async def refusal(ready: dict[str, Any], signed: list[str]) -> str:
        status, answer = await visitor.api("register", attempt=ready["attempt"], signature=signed)
        assert (status, answer["success"], "\n" in answer["error"]) == (409, False, False)
        return str(answer["error"])

    _, ready = await visitor.api("prepare", wallet=PAPER_ADDRESS)
    first_key = visitor.form_key
    await visitor.sign_in()  # a new session
    assert "another session" in await refusal(ready, signatures(ready, PAPER_WALLET_KEY))
    assert visitor.form_key != first_key

    _, ready = await visitor.api("prepare", wallet=PAPER_ADDRESS)
    assert "not by 0x" in await refusal(ready, signatures(ready, "02" * 32))
    assert "finished before" in await refusal(ready, signatures(ready, PAPER_WALLET_KEY))

    _, ready = await visitor.api("prepare", wallet=PAPER_ADDRESS)
    assert "found 0, expected 1; nothing was sent" in await refusal(ready, [])

    _, ready = await visitor.api("prepare", wallet=PAPER_ADDRESS)
    visitor.bridge.clock.offset += timedelta(minutes=5)
    assert "expired at the exchange; nothing was sent" in await refusal(ready, signatures(ready, PAPER_WALLET_KEY))
    assert await visitor.secrets() == {PENDING}
    assert await visitor.bridge.journal("key_added") == []


async def test_a_canceled_attempt_deletes_its_key(visitor: KeyVisitor) -> None:
    """But not a key that was pending before, nor one that is being registered."""
    _, ready = await visitor.api("prepare", wallet=PAPER_ADDRESS)
    assert await visitor.api("cancel", attempt=ready["attempt"]) == (200, {"discarded": True})
    assert await visitor.secrets() == set()
    assert "kekbridge keys register" in (await visitor.post("/keys/generate"))[1]
    _, ready = await visitor.api("prepare", wallet=PAPER_ADDRESS)
    for _ in range(2):
        assert await visitor.api("cancel", attempt=ready["attempt"]) == (200, {"discarded": False})
    assert await visitor.secrets() == {PENDING}
    await visitor.post("/keys/discard", [("orderly_key", ready["orderlyKey"])])
    assert await visitor.secrets() == set()


async def test_only_a_signed_in_browser_prepares(visitor: KeyVisitor) -> None:
    """Without the form key, with a token instead of a session, and with a wrong wallet or lifetime."""
    for fields, status, words in (
        ({"wallet": "0x12"}, 409, "40 hex digits"),
        ({"wallet": PAPER_ADDRESS, "days": "1000"}, 409, "days: found '1000'"),
    ):
        found = await visitor.api("prepare", **fields)
        assert (found[0], words in found[1]["error"]) == (status, True)
    visitor.form_key = "guessed"
    assert (await visitor.api("prepare", wallet=PAPER_ADDRESS))[0] == 403
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {visitor.token}"}) as script:
        answer = await script.post(f"{visitor.url}/keys/wallet/prepare", data={"wallet": PAPER_ADDRESS})
        assert (answer.status, "kekbridge keys register" in await answer.text()) == (409, True)
    assert await visitor.secrets() == set()


async def test_an_existing_key_is_entered_and_never_shown(visitor: KeyVisitor) -> None:
    """A wrong one is refused beside its field with the account kept and the secret gone; a right one goes to the vault."""
    secret = new_secret()
    page = await visitor.text("/keys")
    assert 'type="password"' in page
    for account, entered, words in (
        (PAPER_ACCOUNT_ID, secret, "does not know"),  # not registered
        (PAPER_ACCOUNT_ID, "", "found nothing"),
        ("0x12", "ed25519:nonsense", "found"),
    ):
        status, page = await visitor.post("/keys/add", [("account", account), ("secret", entered)])
        assert status == 422
        assert f'value="{account}"' in page
        assert words in page
        assert not entered or entered not in page
    assert await visitor.secrets() == set()
    await visitor.bridge.control("keys", {"orderly_key": public_key(secret)})
    status, page = await visitor.post("/keys/add", [("account", PAPER_ACCOUNT_ID), ("secret", secret)])
    assert (status, public_key(secret) in page, secret in page) == (200, True, False)
    assert await visitor.secrets() == {OWN_NAME}


async def test_the_page_works_without_the_exchange(visitor: KeyVisitor) -> None:
    """It says that the keys cannot be shown, and still takes one."""
    await visitor.bridge.fault("server_error", path="/v1/client/key_info", status=500)
    page = await visitor.text("/keys")
    assert "The keys at the exchange cannot be shown" in page
    assert "Store the key" in page


@pytest.fixture
async def live_visitor(tmp_path: Path) -> AsyncIterator[KeyVisitor]:
    """Signed in to a bridge in live mode, at a paper exchange, whose key is in an encrypted vault."""
    with running_venue(tmp_path / "venue") as venue:
        environment = live_environment(tmp_path, venue.base_url)
        vault = PassphraseVault.open(tmp_path / "data" / SEALED_FILE, PASSPHRASE)
        vault.set(OWN_NAME, PAPER_ORDERLY_SECRET.encode())
        settings: dict[str, Any] = {
            "mode": "live",
            "exchange.account_id": PAPER_ACCOUNT_ID,
            "vault.backend": "file",
            "vault.secrets_dir": environment["KEKBRIDGE_VAULT_SECRETS_DIR"],
        }
        async with (
            running_bridge(tmp_path, venue.base_url, admin__port=0, **settings) as bridge,
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
        ):
            with bridge.daemon.database.snapshot() as connection:
                url = str(admin_address(connection))
            visitor = KeyVisitor(bridge, url, str(read_token(bridge.data_dir)), session)
            await visitor.sign_in()
            yield visitor


async def test_replacing_and_removing_the_key_in_use(live_visitor: KeyVisitor) -> None:
    """A new key is used after a restart, which the page says; removing the one in use halts trading, as the page had said."""
    visitor = live_visitor
    _, ready = await visitor.api("prepare", wallet=signing.address_of("02" * 32))
    assert f"Not the account that this bridge trades, {PAPER_ACCOUNT_ID}" in ready["summary"]
    assert await visitor.api("cancel", attempt=ready["attempt"]) == (200, {"discarded": True})
    _, ready = await visitor.api("prepare", wallet=PAPER_ADDRESS)
    assert (ready["chain"]["chainName"], "Not the account" in ready["summary"]) == ("Arbitrum One", False)
    status, done = await visitor.api(
        "register", attempt=ready["attempt"], signature=signatures(ready, PAPER_WALLET_KEY)
    )
    assert (status, "Restart the bridge" in done["lines"][1]) == (200, True)
    page = await visitor.text("/keys")
    for words in ("this bridge signs with it", "from the next start on", "restart it to use the one in the vault"):
        assert words in page
    assert "trading is halted" in await visitor.text(f"/keys/remove?key={PAPER_ORDERLY_KEY}")
    status, page = await visitor.post("/keys/remove", [("orderly_key", PAPER_ORDERLY_KEY)])
    assert (status, "does not know any more" in page) == (200, True)
    with visitor.bridge.daemon.database.snapshot() as connection:
        assert trading_control(connection, now=visitor.bridge.clock()).state is TradingState.HALTED
    assert await visitor.secrets() == {OWN_NAME}
