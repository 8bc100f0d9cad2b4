"""The rate limit shared by all webhooks, in a running bridge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from kekbridge.config import load_settings
from kekbridge.reports import limits
from tests.bridge import running_bridge


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
