"""A pasted message on a running bridge: what it means, its dry run, and its way on paper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kekbridge.errors import ConfigError
from kekbridge.model import Mode
from kekbridge.ops.message_trial import TryMessage
from kekbridge.ops.webhook_operations import CreateWebhook, MakeTemplate, RevokeWebhookKey, ShowWebhook
from kekbridge.store import alerts
from tests.bridge import Bridge, running_bridge
from tests.ops.operating import Desk


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(tmp_path) as bridge:
        yield bridge


async def tried(bridge: Bridge, webhook: str, message: str, **parameters: Any) -> dict[str, Any]:
    found = await bridge.daemon.operations.run(TryMessage(webhook=webhook, message=message, **parameters))
    assert isinstance(found, dict)
    return found


async def test_a_message_is_explained_and_decided(bridge: Bridge) -> None:
    """Placeholders are filled from the market; the verdict is that of a dry run: nothing is stored. An old message's age is not judged."""
    run = bridge.daemon.operations.run
    await run(CreateWebhook(name="a", options={"max_order_size": "0.5"}))
    made = await run(MakeTemplate(webhook="a", kind="indicator", fields={"quantity": "0.02", "stop_loss": "2%"}))
    found = await tried(bridge, "a", made["message"])
    assert found["values"]["ticker"] == "BTCUSDT.P"
    assert found["check"]["orders"] == ["buy 0.02 coins of BTCUSDT.P; at a signal price of 65000; stop loss 2%"]
    assert (found["proof"], found["ignoresAge"], found["asLikely"]) == (None, False, None)
    assert (found["reply"]["httpStatus"], found["reply"]["body"]["success"]) == (200, True)
    assert found["reply"]["body"]["orders"][0]["quantity"] == "0.02"
    denied = await tried(
        bridge,
        "a",
        '{"action":"buy","symbol":"ETH","quantity":"{{plot_0}}","timestamp":"2026-01-01T00:00:00Z"}',
        values={"plot_0": "7"},
    )
    assert (denied["values"], denied["ignoresAge"]) == ({"plot_0": "7"}, True)
    assert denied["reply"]["body"]["code"] == "order_too_large"
    assert (await bridge.daemon.database.read(alerts.search)).alerts == ()


async def test_another_services_message(bridge: Bridge) -> None:
    """It is read in the webhook's format and in its own; an array gets the key, too; a text that is no message is only explained."""
    await bridge.daemon.operations.run(CreateWebhook(name="a", options={"require_timestamp": False}))
    found = await tried(
        bridge, "a", '{"ticker":"BTCUSDT","action":"buy","quantity":1,"stopLoss":{"type":"stop","percent":5}}'
    )
    assert found["asLikely"]["profile"] == "traderspost"
    assert found["asLikely"]["orders"] == ["buy 1 coins of BTCUSDT; stop loss 5%"]
    assert found["reply"]["body"]["success"] is False
    steps = await tried(
        bridge, "a", '[{"action":"close","symbol":"BTC"},{"action":"buy","symbol":"BTC","quantity":"0.01"}]'
    )
    assert steps["reply"]["body"]["dryRun"] is True
    broken = await tried(bridge, "a", "buy BTC now")
    assert (broken["reply"], broken["proof"]) == (None, None)
    assert broken["check"]["error"]


async def test_a_message_that_no_alert_could_prove(bridge: Bridge) -> None:
    """A foreign or revoked key and a changed field are named to the owner; nothing is sent, so that no address is locked out."""
    run = bridge.daemon.operations.run
    made = await run(CreateWebhook(name="a"))
    await run(CreateWebhook(name="b"))
    message = (await run(MakeTemplate(webhook="a", kind="ping")))["message"]
    assert (await tried(bridge, "a", message))["proof"] is None
    assert "that of webhook a" in (await tried(bridge, "b", message))["proof"]
    changed = await tried(bridge, "a", message.replace('"ping"', '"close"'))
    assert "a signed field was changed" in changed["proof"]
    assert changed["reply"] is None
    unknown = await tried(bridge, "a", message.replace(made["apiKey"], "wh_test_" + "x" * 32))
    assert "unknown, expired or revoked" in unknown["proof"]
    (key,) = (await run(ShowWebhook(webhook="a")))["keys"]
    await run(RevokeWebhookKey(webhook="a", key=key["id"]))
    assert "has no valid key" in (await tried(bridge, "a", message))["proof"]


async def test_a_message_is_sent_on_paper(bridge: Bridge) -> None:
    """It becomes an alert with an order, as if TradingView had sent it."""
    await bridge.daemon.operations.run(CreateWebhook(name="a"))
    message = '{"action":"buy","symbol":"{{ticker}}","quantity":"0.01","timestamp":"{{timenow}}"}'
    found = await tried(bridge, "a", message, sends=True)
    assert (found["reply"]["httpStatus"], found["reply"]["body"]["status"]) == (200, "filled")
    assert (await bridge.daemon.database.read(alerts.search)).alerts[0].webhook_name == "a"


async def test_only_paper_sends(desk: Desk, bridge: Bridge) -> None:
    """With real money a pasted message is never one click from an order; without a daemon nothing is decided."""
    desk.mode, desk.bridge = Mode.LIVE, bridge.daemon
    with pytest.raises(ConfigError, match="paper mode only"):
        await TryMessage(webhook="a", message="{}", sends=True).run(desk)
    desk.bridge = None
    with pytest.raises(ConfigError, match="kekbridge serve"):
        await TryMessage(webhook="a", message="{}").run(desk)
