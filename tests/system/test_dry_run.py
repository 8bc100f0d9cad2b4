"""`webhook test`, `replay` and `risk show` beside a running bridge: they show its decisions, and a dry run changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.cli.main import run_command
from kekbridge.ingress.http import DryRun, proven_bytes
from kekbridge.model import Limits
from kekbridge.store import alerts, journal
from kekbridge.store import orders as order_rows
from tests.bridge import Bridge, running_bridge

BTC = "PERP_BTC_USDC"
Run = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
async def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bridge]:
    monkeypatch.setenv("KEKBRIDGE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "key_file")
    async with running_bridge(tmp_path) as opened:
        await opened.control("prices", {BTC: "50000"})
        opened.add_webhook("main", require_signature=True, limits=Limits(max_order_size=Decimal("0.5")))
        yield opened


@pytest.fixture
def run(bridge: Bridge, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with --json beside the bridge; return its exit code and decoded output."""

    async def run_arguments(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        sends = arguments[0] in ("replay", "webhook")
        url = ("--url", bridge.daemon.info.webhook_url) if sends else ()
        code = await asyncio.to_thread(run_command, [*arguments, *url, "--json"])
        out = capsys.readouterr().out
        lines = [line for line in out.splitlines() if line.startswith("{")]
        return code, json.loads(lines[-1], parse_float=Decimal) if lines else None

    return run_arguments


def body_file(bridge: Bridge, directory: Path, **fields: Any) -> str:
    """Write an alert to a file, with a placeholder for the timestamp that the command fills in."""
    file = directory / "alert.json"
    message = {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01", "timestamp": "{{timenow}}", **fields}
    file.write_text(json.dumps(message), encoding="utf-8")
    return str(file)


async def _stored_counts(bridge: Bridge) -> tuple[int, int, int]:
    """Count the stored alerts, orders and events."""
    stored = (await bridge.daemon.database.read(alerts.search, limit=1000)).alerts
    return len(stored), len(await bridge.orders()), (await bridge.daemon.database.read(journal.head))[0]


async def test_a_dry_run_shows_the_order_that_is_then_sent(bridge: Bridge, run: Run, tmp_path: Path) -> None:
    """It shows verdicts and the exact request and stores nothing; the real alert then sends that request with another client order id."""
    file = body_file(bridge, tmp_path, stopLoss="2%")
    before = await _stored_counts(bridge)
    code, result = await run("webhook", "test", "main", "--body", file, "--dry-run")
    assert (code, result["dryRun"], result["status"], result["httpStatus"]) == (0, True, "admitted", 200)
    assert all(verdict["passed"] for verdict in result["verdicts"])
    assert await _stored_counts(bridge) == before
    assert await bridge.position() == 0

    code, answered = await run("webhook", "test", "main", "--body", file)
    assert (code, answered["status"]) == (0, "filled")
    [order] = await bridge.orders()
    details = await bridge.daemon.database.read(order_rows.details, order.client_order_id)
    shown, sent = result["orders"][0]["request"], json.loads(details.request or "")
    assert shown["algo_type"] == "BRACKET"
    assert shown | {"client_order_id": ""} == sent | {"client_order_id": ""}
    assert await bridge.position() == Decimal("0.01")


async def test_a_dry_run_is_denied_as_the_alert_would_be(bridge: Bridge, run: Run, tmp_path: Path) -> None:
    """It has the code and status of the real response; exit code 1."""
    file = body_file(bridge, tmp_path, quantity="1")
    code, result = await run("webhook", "test", "main", "--body", file, "--dry-run")
    assert (code, result["status"], result["httpStatus"], result["code"]) == (1, "denied", 422, "order_too_large")
    code, answered = await run("webhook", "test", "main", "--body", file)
    assert (code, answered["httpStatus"], answered["code"]) == (1, 422, "order_too_large")


async def test_without_a_body_it_is_a_heartbeat(bridge: Bridge, run: Run) -> None:
    """`webhook test NAME` alone sends a signed ping, which is stored and answered and never trades."""
    code, answered = await run("webhook", "test", "main")
    assert (code, answered["code"]) == (0, "pong")
    assert await bridge.orders() == ()


async def test_the_dry_run_flag_needs_a_signature(bridge: Bridge) -> None:
    """Without the secret an observed message cannot be dry-run, nor a dry run be turned into an order."""
    keys = bridge.credentials["main"]
    body = json.dumps(bridge.message(action="buy", quantity="0.01")).encode()

    def signed(data: bytes) -> str:
        return hmac.new(keys.api_secret.encode(), data, hashlib.sha256).hexdigest()

    flag = DryRun().flag
    status, _ = await bridge.post(body, {"X-Kekbridge-Dry-Run": flag, "X-Webhook-Signature": signed(body)})
    assert status == 401
    status, _ = await bridge.post(body, {"X-Webhook-Signature": signed(proven_bytes(body, flag))})
    assert status == 401
    status, result = await bridge.post(
        body, {"X-Kekbridge-Dry-Run": flag, "X-Webhook-Signature": signed(proven_bytes(body, flag))}
    )
    assert (status, result["dryRun"]) == (200, True)
    assert await bridge.orders() == ()


async def test_a_replay_shows_what_an_old_alert_would_do_now(bridge: Bridge, run: Run, tmp_path: Path) -> None:
    """A stored alert is decided for the present account, another limit or another webhook; it never trades."""
    await run("webhook", "test", "main", "--body", body_file(bridge, tmp_path))
    [stored] = (await bridge.daemon.database.read(alerts.search)).alerts
    await bridge.until_settled()
    before = await _stored_counts(bridge)
    bridge.add_webhook("tight", limits=Limits(max_notional=Decimal(100)))
    code, result = await run("replay", stored.id)
    assert (code, result["status"], result["orders"][0]["request"]["order_quantity"]) == (0, "admitted", "0.01")
    code, result = await run("replay", stored.id, "--against-limits", "max-order-size=0.005")
    assert (code, result["code"]) == (1, "order_too_large")
    code, result = await run("replay", stored.id, "--webhook", "tight")
    assert (code, result["code"]) == (1, "notional_too_large")
    code, result = await run("replay", stored.id, "--webhook", "tight", "--against-limits", "max-notional=none")
    assert (code, result["status"]) == (0, "admitted")
    assert (await _stored_counts(bridge))[:2] == before[:2]
    assert (await run("replay", stored.id, "--against-limits", "no-such=1"))[0] == 2


async def test_an_alert_whose_text_was_removed_is_explained_but_not_replayed(
    bridge: Bridge, run: Run, tmp_path: Path
) -> None:
    """After store.keep_payloads_days the message is removed; its report, its orders and the history's hash chain are complete."""
    await run("webhook", "test", "main", "--body", body_file(bridge, tmp_path))
    await bridge.until_settled()
    bridge.clock.jump_to(bridge.clock() + timedelta(days=91))
    await bridge.daemon.operator_services.jobs.run_now("retention")
    [stored] = (await bridge.daemon.database.read(alerts.search)).alerts
    assert list(stored.payload) == ["removed"]
    code, result = await run("explain", stored.id)
    assert (code, result["status"], len(result["orders"])) == (0, "filled", 1)
    assert (await run("replay", stored.id))[0] == 2
    assert await bridge.daemon.database.read(journal.verify) is None


async def test_risk_show_counts_what_was_used(bridge: Bridge, run: Run, tmp_path: Path) -> None:
    """After an order of 500 USDC the daily limit shows limit, used, left and reset time."""
    bridge.add_webhook("daily", limits=Limits(daily_limit=Decimal(2000)))
    await bridge.send("daily", action="buy", quantity="0.01")
    await bridge.until_settled()
    await bridge.daemon.operator_services.equity.run()
    code, book = await run("risk", "show", "--webhook", "daily")
    assert code == 0
    [account, webhook] = book["scopes"]
    assert (account["scope"], webhook["name"], webhook["state"]) == ("account", "daily", "running")
    lines = {line["name"]: line for line in webhook["limits"]}
    traded = lines["traded a day"]
    assert (traded["limit"], traded["used"], traded["left"]) == ("2,000.00 USDC", "500.00 USDC", "1,500.00 USDC")
    assert traded["resets"].startswith("00:00 UTC")
    assert Decimal(book["equityPeak"]) > 0
