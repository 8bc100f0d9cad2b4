"""The Keys tab: rotate and revoke by form; keys are shown by their first characters only."""

from __future__ import annotations

import re

from kekbridge.ops.webhook_operations import ShowCredentials
from kekbridge.store import webhooks
from kekbridge.webhooks.registry import key_state
from tests.admin.session import Browser


async def test_keys_are_rotated_and_revoked(browser: Browser) -> None:
    """After a confirmation that says when it is the last one; a revoked key cannot be revoked again. A wrong grace time answers 422."""
    key = await browser.log_in()
    database, run = browser.bridge.daemon.database, browser.bridge.daemon.operations.run
    webhook = await database.read(webhooks.find, "main")
    base = f"/webhooks/{webhook.id}"
    secret = await run(ShowCredentials(webhook="main"))
    page = await browser.page(f"{base}/keys")
    assert secret["apiKey"][:12] in page
    assert secret["apiKey"] not in page
    assert secret["apiSecret"] not in page
    status, page = await browser.post(f"{base}/rotate", key=key, grace="forever")
    assert (status, "Found &#39;forever&#39;, expected one of" in page) == (422, True)
    assert (await browser.post(f"{base}/rotate", key=key, grace="3600"))[0] == 303
    old, new = await database.read(webhooks.list_keys, webhook.id)
    assert [key_state(one, browser.bridge.clock()) for one in (old, new)] == ["ending", "valid"]
    assert "The new key is in force." in await browser.page(f"{base}/keys?new=1")
    links = re.findall(rf'href="({base}/keys/\w+/revoke)"', await browser.page(f"{base}/keys"))
    assert len(links) == 2
    assert "the only valid key" not in await browser.page(links[1])
    assert (await browser.post(links[1], key="guess"))[0] == 403
    assert (await browser.post(links[1], key=key))[0] == 303
    await browser.page(links[1], 404)
    assert "the only valid key" in await browser.page(links[0])
    await browser.post(links[0], key=key)
    page = await browser.page(base)
    assert ("has no valid key" in page, "create a new one" in page) == (True, True)
    status, _ = await browser.bridge.send(action="ping", symbol=None)
    assert status == 401
