"""Operations on webhooks: the same data however they are run, checked before anything is opened."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from kekbridge.errors import ConfigError, KekbridgeError, NotFound
from kekbridge.model import Mode
from kekbridge.ops.operations import Operations
from kekbridge.ops.webhook_operations import (
    CreateWebhook,
    DeleteWebhook,
    DisableWebhook,
    EditWebhook,
    EnableWebhook,
    RotateWebhook,
    SendAlert,
    ShowCredentials,
    ShowWebhook,
    smallest_size,
)
from kekbridge.store import journal, webhooks
from tests.ops.operating import Desk
from tests.trading import BTC, instrument, snapshot


async def test_a_webhooks_life(desk: Desk) -> None:
    """Create, show, edit, rename, rotate, disable, enable, delete: each returns the webhook as it is now."""
    run = Operations(desk).run
    made = await run(CreateWebhook(name="a", options={"max_notional": "500"}))
    assert made["settings"]["limits"]["maxNotional"] == "500"
    shown = await run(ShowWebhook(webhook="a"))
    assert "apiSecret" not in shown
    assert [key["state"] for key in shown["keys"]] == ["valid"]
    assert (await run(ShowCredentials(webhook=made["id"])))["apiSecret"] == made["apiSecret"]
    edited = await run(EditWebhook(webhook="a", options={"max_notional": "none"}, new_name="b"))
    assert (edited["name"], edited["settings"]["limits"]["maxNotional"]) == ("b", None)
    rotated = await run(RotateWebhook(webhook="b", grace_s=60))
    assert rotated["apiSecret"] != made["apiSecret"]
    assert [one["prefix"] for one in rotated["replaced"]] == [made["apiKey"][:12]]
    assert (await run(DisableWebhook(webhook="b")))["enabled"] is False
    assert (await run(EnableWebhook(webhook="b")))["enabled"] is True
    assert await run(DeleteWebhook(webhook="b")) == {"id": made["id"], "name": "b", "deleted": True}
    with pytest.raises(NotFound):
        await run(ShowWebhook(webhook="b"))


async def test_an_edit_without_options_only_renames(desk: Desk) -> None:
    """The history does not claim that settings were changed."""
    run = Operations(desk).run
    await run(CreateWebhook(name="a"))
    await run(EditWebhook(webhook="a", new_name="b"))
    kinds = [event.kind for event in await desk.database.read(journal.list_events)]
    assert kinds == ["webhook_created", "key_added", "webhook_renamed"]


async def test_keys_name_the_mode_in_force(tmp_path: Any) -> None:
    """A key of live mode has another prefix than one of paper and testnet."""
    for mode, prefix in ((Mode.LIVE, "wh_live_"), (Mode.TESTNET, "wh_test_")):
        desk = Desk(tmp_path / mode.value, mode=mode)
        made = await Operations(desk).run(CreateWebhook(name="a"))
        await desk.database.close()
        assert made["apiKey"].startswith(prefix)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: CreateWebhook(name=""),
        lambda: CreateWebhook(name="a", options={"max_leverage": "1000"}),
        lambda: EditWebhook(webhook="a", options={"cooldown": "soon"}),
        lambda: EditWebhook(webhook="a", new_name="a b"),
    ],
    ids=["no name", "leverage", "cooldown", "new name"],
)
def test_what_cannot_be_is_refused_when_it_is_written_down(wrong: Any) -> None:
    """Before a database or a vault is opened, or a daemon is asked."""
    with pytest.raises(ConfigError):
        wrong()


async def test_a_contradiction_with_stored_settings_changes_nothing(desk: Desk) -> None:
    """Options that are right alone may be wrong for this webhook."""
    run = Operations(desk).run
    await run(CreateWebhook(name="a", options={"max_order_size": "1"}))
    with pytest.raises(ConfigError, match="no order could pass"):
        await run(EditWebhook(webhook="a", options={"min_order_size": "2"}, new_name="b"))
    (webhook,) = await desk.database.read(webhooks.list_all)
    assert webhook.name == "a"


@contextmanager
def answering(status: int, body: str) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A server that answers every POST the same way; yields its URL and what it received."""
    received: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            received.append((dict(self.headers), self.rfile.read(length)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_an_alert_is_sent_signed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """apiKey and signature are added, the response comes back as it is, and no proxy is asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    run = Operations(desk).run
    made = await run(CreateWebhook(name="a"))
    with answering(422, '{"success": false, "price": 1.5}') as (url, received):
        reply = await run(SendAlert(webhook="a", message='{"action": "buy", "at": "{{timenow}}"}', url=url))
    assert (reply["httpStatus"], reply["body"]) == (422, {"success": False, "price": "1.5"})
    ((headers, body),) = received
    message = json.loads(body)
    assert (message["apiKey"], message["action"]) == (made["apiKey"], "buy")
    assert "{{" not in message["at"]
    assert headers["X-Webhook-Signature"].startswith("sha256=")


async def test_a_dry_run_carries_its_limits(desk: Desk) -> None:
    """In the flag that the signature covers."""
    run = Operations(desk).run
    await run(CreateWebhook(name="a"))
    with answering(200, "{}") as (url, received):
        await run(
            SendAlert(webhook="a", message="{}", dry_run=True, limits={"maxNotional": "5"}, is_replay=True, url=url)
        )
    flag = {name.lower(): value for name, value in received[0][0].items()}["x-kekbridge-dry-run"]
    assert json.loads(flag) == {"limits": {"maxNotional": "5"}, "replay": True}


@pytest.mark.parametrize(
    ("body", "url", "expected"),
    [
        ("<html>", None, "without JSON"),
        ("{}", "http://127.0.0.1:9/x", "is `kekbridge serve` running"),
        ("{}", "ftp://x", "expected a URL such as"),
    ],
)
async def test_an_unusable_response_is_one_line(desk: Desk, body: str, url: str | None, expected: str) -> None:
    """What answered, or why nothing did."""
    run = Operations(desk).run
    await run(CreateWebhook(name="a"))
    with answering(200, body) as (usual, _), pytest.raises(KekbridgeError, match=expected):
        await run(SendAlert(webhook="a", url=url or usual))


@pytest.mark.parametrize("least", [None, Decimal("0.001"), Decimal("0.0500001"), Decimal(3)])
@pytest.mark.parametrize("mark", ["65000", "0.37", "64999.9"])
def test_the_order_that_is_tried_is_the_smallest_allowed(mark: str, least: Decimal | None) -> None:
    """On the grid, of the least size and value, and at most two steps above what would be refused."""
    market = instrument()
    found = snapshot(marks={BTC: Decimal(mark)})
    size = smallest_size(found, BTC, least)
    assert size % market.base_tick == 0
    assert size >= max(market.base_min, least or 0)
    assert size * Decimal(mark) >= market.min_notional
    smaller = size - 2 * market.base_tick
    assert smaller < market.base_min or smaller < (least or 0) or smaller * Decimal(mark) < market.min_notional


def test_nothing_is_tried_without_a_price() -> None:
    """An unknown market is an error, not an order of no size."""
    with pytest.raises(ConfigError, match="no price"):
        smallest_size(snapshot(), "PERP_NONE_USDC")
