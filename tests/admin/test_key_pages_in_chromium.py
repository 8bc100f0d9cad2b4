"""The keys page in a real browser, with a wallet that signs as browser wallets do: a key is registered, or one line says why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kekbridge.ops.vault_operations import ShowVault
from kekbridge.ops.web_token import read_token
from kekbridge.store.daemon_addresses import admin_address
from kekbridge.vault import orderly_secret
from tests.admin.browser import CHROMIUM, Page, open_page
from tests.admin.browser_wallet import BrowserWallet
from tests.admin.test_in_chromium import artifacts
from tests.bridge import Bridge, running_bridge

pytestmark = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="Chromium is not installed")
WALLET_KEY = "06" * 32
ACCOUNT = "0xfebdae3d87c07236295bffd62aad3eb12657e2ed05bb40c1dd03b1fa1141c3ef"  # of this key at the broker kek_ai


async def sign_in(page: Page, bridge: Bridge) -> str:
    """Sign the browser in; return the address of the keys page."""
    with bridge.daemon.database.snapshot() as connection:
        url = admin_address(connection)
    assert url is not None
    await page.goto(url)
    await page.fill("input[name=token]", str(read_token(bridge.data_dir)))
    await page.press("main button")
    return f"{url}/keys"


async def choose(page: Page, name: str = "Test Wallet") -> str:
    """Press the wallet's button, once the script has found the wallet; return what is to be signed."""
    await page.until_text("[data-choices]", name)
    await page.evaluate("document.querySelector('[data-choices] button').click()")
    return await page.until_text("[data-messages]", "Sign in")


async def sign(page: Page, outcome: str) -> None:
    """Press the button under the messages; wait for a line."""
    await page.evaluate("document.querySelector('[data-messages] > button').click()")
    await page.until_text("[data-say]", outcome)


async def take_picture(page: Page, name: str) -> None:
    """Of the whole page, which is no wider than the screen."""
    screenshot = artifacts() / f"{name}.png"
    await page.picture(screenshot)
    assert int.from_bytes(screenshot.read_bytes()[16:20]) == int(name.rpartition("-")[2])


async def names(bridge: Bridge) -> set[str]:
    """What the vault holds, without the master key."""
    return set((await bridge.daemon.operations.run(ShowVault()))["names"]) - {"master-key"}


async def test_a_key_is_registered_with_the_wallet(tmp_path: Path, chromium: str) -> None:
    """No wallet; one without discovery, rejected; another account chosen in it; then signed: only the last leaves anything."""
    wallet = BrowserWallet(private_key=WALLET_KEY, rejects={"eth_requestAccounts", "wallet_addEthereumChain"})
    async with running_bridge(tmp_path, admin__port=0) as bridge, open_page(chromium) as page:
        await page.be_wide(1280)
        keys_page = await sign_in(page, bridge)
        await page.goto(keys_page)
        await page.until_text("[data-say]", "No wallet was found in this browser.")

        await wallet.join(page, announces=False)
        await page.goto(keys_page)
        await page.until_text("[data-choices]", "Browser wallet")
        await page.evaluate("document.querySelector('[data-choices] button').click()")
        await page.until_text("[data-say]", "You rejected it in the wallet.")
        wallet.rejects.remove("eth_requestAccounts")
        await choose(page, "Browser wallet")
        await sign(page, "You rejected it in the wallet.")  # to add the chain
        assert (wallet.chain_id, wallet.signed, await names(bridge)) == (1, [], set())

        await wallet.join(page)
        await page.goto(keys_page)
        wallet.calls, wallet.rejects = [], {"eth_signTypedData_v4"}
        shown = await choose(page)
        for words in (
            "Registration",
            "AddOrderlyKey",
            "read: see the account, trading: place and cancel orders",
            "421614",
        ):
            assert words in shown
        assert wallet.calls == ["eth_requestAccounts"]  # nothing else is asked of the wallet before it was shown
        await sign(page, "You rejected it in the wallet. Nothing was registered.")
        assert [each for each in wallet.calls if each.startswith("wallet_")] == [
            "wallet_switchEthereumChain", "wallet_addEthereumChain", "wallet_switchEthereumChain",
        ]  # fmt: skip
        assert await names(bridge) == set()

        wallet.rejects = set()
        await choose(page)
        wallet.private_key = "07" * 32
        await sign(page, "Choose the wallet again.")
        assert (wallet.signed, await names(bridge)) == ([], set())

        wallet.private_key, wallet.chain_id = WALLET_KEY, 1
        await choose(page)
        for width, dark in ((1280, False), (390, True)):
            await page.be_wide(width, dark=dark)
            await take_picture(page, f"keys-sign-{width}")
        await sign(page, "Registered.")
        assert [each["primaryType"] for each in wallet.signed] == ["Registration", "AddOrderlyKey"]
        done = await page.text("[data-messages]")
        assert wallet.signed[1]["message"]["orderlyKey"] in done
        assert ACCOUNT in done
        assert await names(bridge) == {orderly_secret(ACCOUNT)}
        assert (await bridge.journal("key_added"))[0]["orderly_key"] in done

        await page.press("[data-messages] a")
        assert ACCOUNT in await page.text()
        for width in (1280, 390):
            await page.be_wide(width)
            await take_picture(page, f"keys-{width}")
        assert page.errors == []
