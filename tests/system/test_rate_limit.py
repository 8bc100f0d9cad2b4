"""Rate limits of entries in a running bridge: shared by all webhooks, and what they leave of an alert that also closes or cancels."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import load_settings
from kekbridge.model import OrderStatus, RateLimits
from kekbridge.reports import limits
from kekbridge.store import alerts
from tests.bridge import ETH, running_bridge
from tests.waiting import until


async def test_entries_of_many_webhooks_meet_one_limit_and_exits_pass(tmp_path: Path) -> None:
    """Of twelve entries at once from three webhooks with a limit of five, seven get 429 with Retry-After; a close still trades."""
    async with running_bridge(tmp_path, risk__rate_per_minute=5) as bridge:
        for name in ("one", "two", "three"):
            bridge.add_webhook(name)
        bodies = [
            bridge.message(name, action="buy", quantity="0.001") for name in ("one", "two", "three") for _ in range(4)
        ]

        async def post(body: dict[str, object]) -> tuple[int, str | None, dict[str, object]]:
            url = bridge.daemon.info.webhook_url
            async with bridge.session.post(url, data=json.dumps(body)) as answer:
                return answer.status, answer.headers.get("Retry-After"), await answer.json()

        answers = await asyncio.gather(*map(post, bodies))
        taken = [status for status, _, _ in answers if status < 300]
        refused = [(header, body) for status, header, body in answers if status == 429]
        assert (len(taken), len(refused)) == (5, 7)
        for header, body in refused:
            assert body["code"] == "rate_limited"
            assert header == str(body["retryAfter"])
            assert 0 < int(str(header)) <= 60
        await bridge.until_settled()
        status, answer = await bridge.send("one", action="close")
        assert (status < 300, answer["success"]) == (True, True)
        status, answer = await bridge.send("two", action="buy", quantity="0.001")
        assert (status, answer["code"]) == (429, "rate_limited")
        settings = load_settings(environment={}, overrides={"risk.rate_per_minute": 5})
        shown = await bridge.daemon.database.read(limits.read, settings, at=bridge.clock())
        (line,) = [line for line in shown["scopes"][0]["limits"] if line.name == "alerts a minute"]
        assert (line.limit, line.used, line.left) == ("5", "5", "0")


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"steps": [{"action": "close"}, {"action": "buy", "symbol": "ETHUSDT.P", "quantity": 1}]}, 0),
        ({"action": "flip"}, 0),
        (
            {
                "action": "sell",
                "quantity": "0.03",
                "marketPosition": "short",
                "marketPositionSize": "0.02",
                "prevMarketPosition": "long",
                "prevMarketPositionSize": "0.01",
            },
            0,
        ),
        ({"steps": [{"action": "cancel_all"}, {"action": "buy", "quantity": "0.01"}]}, Decimal("0.01")),
    ],
    ids=["steps", "flip", "reversal", "cancel"],
)
async def test_the_rest_of_an_alert_beyond_the_limit_is_executed(
    tmp_path: Path, fields: dict[str, Any], left: Decimal
) -> None:
    """Promise 6: TradingView does not send again after a 429, and a position must not stay open for it. Only the entry is left out."""
    async with running_bridge(tmp_path) as bridge:
        bridge.add_webhook(rates=RateLimits(per_minute=2))
        assert (await bridge.send())[0] < 300
        assert (await bridge.send(action="ping"))[0] < 300
        assert (await bridge.send(symbol="NOPE"))[0] == 422  # neither an entry nor counted as one
        resting = {"orderType": "limit", "limitPrice": "60000"}
        entered, _ = await bridge.send(**resting)
        assert entered < 300
        status, answer = await bridge.send(**fields)
        assert (status < 300, answer["success"], answer["stopped"]["code"]) == (True, True, "rate_limited")
        fields_id = answer["alertId"]

        async def is_done() -> bool:
            return await bridge.position() == left

        await until(is_done)
        assert ETH not in await bridge.positions()
        assert (await bridge.send(action="ping"))[0] < 300
        refused, answer = await bridge.send()
        assert (refused, answer["code"]) == (429, "rate_limited")
        if left:

            async def is_done_with_cancels() -> bool:
                alert = await bridge.daemon.database.read(alerts.find, fields_id)
                orders = await bridge.orders()
                is_canceled = all(order.status is not OrderStatus.ACCEPTED for order in orders)
                return is_canceled and (alert.status, alert.code) == ("done", "rate_limited")

            await until(is_done_with_cancels)
