"""Checks: each fault of a key, a clock or a connection is a named check with its fix."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import ExchangeSettings
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.model.check import Check
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET, PaperSettings

Control = Callable[..., Awaitable[Any]]
OTHER_SECRET = "ed25519:4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw"


async def run_checks(base_url: str, *, name: str = "live", **changes: Any) -> dict[str, Check]:
    """The checks by name, as a client with that base URL shows them."""
    secret = changes.pop("secret", PAPER_ORDERLY_SECRET)
    clock = changes.pop("clock", lambda: datetime.now(UTC))
    signer = Signer(changes.pop("account_id", PAPER_ACCOUNT_ID), secret)
    exchange = OrderlyExchange(name, base_url, signer, ExchangeSettings(**changes), clock=clock)
    try:
        found = await exchange.checks()
    finally:
        await exchange.close()
    for check in found:
        assert "\n" not in check.text + check.fix
        assert secret.removeprefix("ed25519:") not in check.text + check.fix
        assert check.level == "ok" or check.fix or check.name in ("exchange", "clock", "expiry")
    return {check.name: check for check in found}


def in_days(days: float) -> int:
    return int((time.time() + days * 86_400) * 1000)


async def test_all_ok(paper: PaperExchange) -> None:
    """A new paper exchange: every check is ok."""
    found = await run_checks(paper.base_url, name="paper")
    assert set(found) == {"exchange", "clock", "key", "scopes", "expiry", "addresses", "account", "markets"}
    assert {check.level for check in found.values()} == {"ok"}


async def test_no_address_rule(paper: PaperExchange) -> None:
    """With real money a key that works from every address is a warning (S10)."""
    assert (await run_checks(paper.base_url))["addresses"].level == "warning"


@pytest.mark.parametrize(
    ("scope", "level"),
    [("read,trading", "ok"), ("read,trading,asset", "warning"), ("read", "broken"), ("trading", "broken")],
)
async def test_scopes(paper: PaperExchange, control: Control, scope: str, level: str) -> None:
    """Trading and reading are required; permission to move funds is too much."""
    await control("/paper/keys", {"orderly_key": PAPER_ORDERLY_KEY, "scope": scope})
    assert (await run_checks(paper.base_url))["scopes"].level == level


@pytest.mark.parametrize(("days", "level"), [(13.5, "warning"), (15, "ok"), (-1, "broken")])
async def test_expiry(paper: PaperExchange, control: Control, days: float, level: str) -> None:
    """Under 14 days is a warning, more is ok, past is broken."""
    await control("/paper/keys", {"orderly_key": PAPER_ORDERLY_KEY, "expiration": in_days(days)})
    found = await run_checks(paper.base_url)
    assert found["expiry" if "expiry" in found else "key"].level == level


async def test_unknown_key(paper: PaperExchange) -> None:
    """A key unknown to the exchange is broken, and the other checks still run."""
    found = await run_checks(paper.base_url, secret=OTHER_SECRET)
    assert found["key"].level == "broken"
    assert found["addresses"].level == "broken"
    assert found["account"].level == "ok"


async def test_other_broker(paper: PaperExchange) -> None:
    """The broker is read from the exchange and compared, never assumed (docs/internals/orderly.md section 3)."""
    found = await run_checks(paper.base_url, broker_id="woofi_pro")
    assert found["account"].level == "warning"
    assert "kek_ai" in found["account"].text


async def test_clock_off(tmp_path: Path) -> None:
    """A clock ten minutes off is reported, and signed checks still succeed: the offset is corrected."""
    paper_exchange = PaperExchange(
        tmp_path, settings=PaperSettings(prices="static"), clock=lambda: time.time_ns() // 1_000_000 + 600_000
    )
    url = await paper_exchange.start()
    try:
        found = await run_checks(url, name="paper")
    finally:
        await paper_exchange.close()
    assert found["clock"].level == "warning"
    assert "600" in found["clock"].text
    assert found["addresses"].level == "ok"


async def test_maintenance(paper: PaperExchange, control: Control) -> None:
    """Maintenance is the first check."""
    await control("/paper/faults", {"fault": "maintenance"})
    assert (await run_checks(paper.base_url))["exchange"].level == "warning"


async def test_unreachable_exchange() -> None:
    """An exchange that cannot be reached is one broken check, not eight."""
    found = await run_checks("http://127.0.0.1:9")
    assert [check.level for check in found.values()] == ["broken"]


async def test_clock_jump_is_corrected(paper: PaperExchange) -> None:
    """Our clock jumps by an hour at run time: the next reply corrects the offset, and signed calls work again."""
    shift = timedelta(0)
    signer = Signer(PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET)
    exchange = OrderlyExchange(
        "paper", paper.base_url, signer, ExchangeSettings(), clock=lambda: datetime.now(UTC) + shift
    )
    try:
        assert (await exchange.checks())[1].level == "ok"
        shift = timedelta(hours=1)
        await exchange.account_api.system_info()
        assert await exchange.account_api.keys()
        assert exchange.health.clock_offset_ms is not None
        assert abs(exchange.health.clock_offset_ms + 3_600_000) < 5_000
    finally:
        await exchange.close()
