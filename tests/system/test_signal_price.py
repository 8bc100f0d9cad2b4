"""Without a live price, paper trades at the alert's price."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.system.forked import ForkedProcess, run_cli
from tests.system.harness import call, free_port, timestamp


def test_paper_trades_at_the_alerts_price_without_a_better_one(tmp_path: Path) -> None:
    """Prices: live Orderly marks when reachable, else the alert's signal price, else the snapshot; an override wins over all."""
    data_dir = tmp_path / "data"
    webhook = run_cli("webhook", "create", "open", "--no-require-signature", "--json", data_dir=data_dir)
    environment = {
        "KEKBRIDGE_DATA_DIR": str(data_dir),
        "KEKBRIDGE_PAPER_PORT": "0",
        "KEKBRIDGE_PAPER_PRICES": "static",
        "KEKBRIDGE_VAULT_BACKEND": "key_file",
    }
    daemon = ForkedProcess(
        ["serve", "--port", str(free_port()), "--json"], environment=environment, log=tmp_path / "log"
    )
    try:
        started = daemon.start()
        alert = {"apiKey": json.loads(webhook)["apiKey"], "action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.001"}
        assert _send(started, {**alert, "alertId": "first", "price": "97000.5"})["executedPrice"] == 97000.5
        # Only whoever holds the webhook's key moves the market.
        forged = _send(started, {**alert, "apiKey": "wh_test_" + "x" * 32, "alertId": "forged", "price": "10000"})
        assert (forged["code"], _mark(started)) == ("unauthorized", "97000.5")
        call(f"{started['paperUrl']}/paper/prices", {"PERP_BTC_USDC": "65000"})
        assert _send(started, {**alert, "alertId": "second", "price": "98000"})["executedPrice"] == 65000
    finally:
        daemon.kill()


def _mark(started: dict[str, Any]) -> str:
    return str(call(f"{started['paperUrl']}/paper/state")["marks"]["PERP_BTC_USDC"])


def _send(started: dict[str, Any], alert: dict[str, str]) -> dict[str, Any]:
    answer: dict[str, Any] = call(started["webhookUrl"], {**alert, "timestamp": timestamp()})
    return answer
