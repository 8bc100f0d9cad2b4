"""Webhooks over the JSON API: the founding document in, URL and credentials out; a webhook made here trades at once."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.store import journal, webhooks
from kekbridge.webhooks.registry import Credentials
from tests.admin.client import ApiClient
from tests.bridge import BTC, running_bridge

PATH = "/api/portfolio/webhooks"
DOCUMENT: dict[str, Any] = {
    "name": "btc",
    "allowedSymbols": ["BTC"],
    "maxOrderSize": 0.5,
    "dailyLimit": 20000,
    "riskParameters": {"maxLeverage": 5, "maxDailyLoss": "500", "requireStopLoss": False},
}
# Documents that are refused: status, code, field.
REFUSED: tuple[tuple[dict[str, Any], int, str, str | None], ...] = (
    ({}, 422, "field_invalid", "name"),
    ({"name": "with space"}, 422, "field_invalid", "name"),
    ({"name": "x", "maxOrderSiz": 1}, 422, "field_unknown", "maxOrderSiz"),
    ({"name": "x", "riskParameters": {"maxLeverage": 500}}, 422, "field_invalid", "riskParameters.maxLeverage"),
    (
        {"name": "x", "riskParameters": {"minOrderSize": 2}, "maxOrderSize": 1},
        422,
        "field_invalid",
        "riskParameters.minOrderSize",
    ),
    ({"name": "x", "allowedSymbols": ["BTX"]}, 422, "field_invalid", "allowedSymbols"),
    ({"name": "x", "settings": {"profile": "nobodys"}}, 422, "field_invalid", "settings.profile"),
    ({"name": "x", "riskParameters": {"tradingHours": "always"}}, 422, "field_invalid", "riskParameters.tradingHours"),
    ({"name": "x", "settings": {"defaults": {"qantity": "1"}}}, 422, "field_invalid", "settings.defaults"),
    ({"name": "btc"}, 409, "name_taken", "name"),
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with running_bridge(tmp_path, admin__port=0) as bridge:
        yield ApiClient.of(bridge)


async def create(api: ApiClient, **headers: str) -> dict[str, Any]:
    status, made = await api.call("POST", PATH, DOCUMENT, headers=headers)
    assert status == 201
    return dict(made)


async def test_a_webhook_made_by_the_document_trades(api: ApiClient) -> None:
    """URL, apiKey and apiSecret of the answer sign an order that is executed within the limits that the document set."""
    made = await create(api)
    assert (made["allowedSymbols"], made["maxOrderSize"], made["dailyLimit"]) == ([BTC], "0.5", "20000")
    assert made["riskParameters"]["maxLeverage"] == "5"
    api.bridge.credentials["btc"] = Credentials(made["apiKey"], made["apiSecret"])

    async def send(quantity: str) -> dict[str, Any]:
        body = json.dumps(api.bridge.message("btc", quantity=quantity)).encode()
        mac = hmac.new(made["apiSecret"].encode(), body, hashlib.sha256).hexdigest()
        async with api.session.post(made["webhookUrl"], data=body, headers={"X-Webhook-Signature": mac}) as answer:
            return dict(await answer.json())

    assert (await send("0.01"))["status"] == "filled"
    assert (await send("0.6"))["code"] == "order_too_large"
    assert await api.bridge.position() == Decimal("0.01")


async def test_a_webhook_is_shown_changed_rotated_and_deleted(api: ApiClient) -> None:
    """By name or id; a secret only when asked for; a change changes what it names, and the same change again changes nothing."""
    made = await create(api)
    (listed,) = (await api.get(PATH))["webhooks"]
    shown = await api.get(f"{PATH}/btc")
    assert "apiSecret" not in listed | shown
    assert (await api.get(f"{PATH}/{made['id']}?secret=true"))["apiSecret"] == made["apiSecret"]
    change = {"name": "btc2", "enabled": False, "maxOrderSize": None, "riskParameters": {"cooldownS": "5m"}}
    status, changed = await api.call("PATCH", f"{PATH}/btc", change)
    assert (status, changed["name"], changed["enabled"], changed["maxOrderSize"]) == (200, "btc2", False, None)
    assert (changed["dailyLimit"], changed["riskParameters"]["cooldownS"]) == ("20000", 300)
    events = len(await api.bridge.daemon.database.read(journal.latest, limit=1000))
    assert await api.call("PATCH", f"{PATH}/btc2", change) == (200, changed)
    assert await api.call("PATCH", f"{PATH}/btc2", {}) == (200, changed)
    assert len(await api.bridge.daemon.database.read(journal.latest, limit=1000)) == events
    _, rotated = await api.call("POST", f"{PATH}/btc2/rotate", {"graceS": 0})
    assert rotated["apiKey"] != made["apiKey"]
    assert (await api.get(f"{PATH}/btc2"))["keys"][0]["state"] == "ended"
    assert (await api.call("DELETE", f"{PATH}/btc2"))[0] == 200
    await api.get(f"{PATH}/btc2", 404)
    assert await api.bridge.daemon.database.read(webhooks.list_all) == ()


async def test_a_lost_answer_is_given_again(api: ApiClient) -> None:
    """With an Idempotency-Key the same request makes one webhook and returns the same credentials; without, the name is taken."""
    headers = {"Idempotency-Key": "create-btc"}
    made = await create(api, **headers)
    assert await create(api, **headers) == made
    assert len(await api.bridge.daemon.database.read(webhooks.list_all)) == 1


async def test_refused_documents(api: ApiClient) -> None:
    """Nothing is created; each names the field by its path in the document, and no option of the command line."""
    await create(api)
    for document, status, code, field in REFUSED:
        found, data = await api.call("POST", PATH, document)
        assert (found, data["code"], data["field"]) == (status, code, field), data
        assert "--" not in data["error"]
    assert (await api.call("POST", f"{PATH}/btc/rotate", {"graceS": -1}))[0] == 422
    assert (await api.call("PATCH", f"{PATH}/btc", {"apiSecret": "x"}))[0] == 422
    await api.get(f"{PATH}/btx", 404)
    assert len(await api.bridge.daemon.database.read(webhooks.list_all)) == 1
