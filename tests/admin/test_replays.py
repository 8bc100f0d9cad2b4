"""Requests under an Idempotency-Key: done once, bounded in number and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from multidict import CIMultiDict

from kekbridge.admin.replays import Replays
from kekbridge.errors import ConfigError


class Bodied:
    """A request with a key and a body."""

    def __init__(self, key: str, body: bytes = b"{}") -> None:
        self.headers, self.method, self.path_qs = CIMultiDict({"Idempotency-Key": key}), "POST", "/api/x"
        self._body = body

    async def read(self) -> bytes:
        return self._body


async def test_results_are_kept_for_an_hour_and_bounded() -> None:
    """Within an hour the first result; later, or after 4,096 other keys, it is done again. A key must be printable and short."""
    now = datetime(2026, 11, 29, tzinfo=UTC)
    replays = Replays(lambda: now)
    count = 0

    async def action() -> int:
        nonlocal count
        count += 1
        return count

    async def send(key: str) -> int:
        request: Any = Bodied(key)
        return int(await replays.run(request, action))

    assert (await send("a"), await send("a"), await send("b")) == (1, 1, 2)
    now += timedelta(hours=1, seconds=1)
    assert await send("c") == 3
    assert await send("a") == 4
    for number in range(4095):
        await send(f"other-{number}")
    assert await send("a") == 4
    for number in range(4095, 4097):
        await send(f"other-{number}")
    assert await send("a") == count
    for key in ("x" * 201, "tab\there"):
        with pytest.raises(ConfigError, match="Idempotency-Key: found"):
            await send(key)
