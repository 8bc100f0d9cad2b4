"""A trader's day on the paper exchange, hour by hour, with a clock that the test moves: everything the README promises about limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.model import Limits, TradingState
from kekbridge.store import alerts, equity, settings, webhooks
from tests.bridge import Bridge, Clock, running_bridge

MORNING = datetime(2026, 3, 10, 8, 0, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 11, tzinfo=UTC)
BTC = "PERP_BTC_USDC"


async def order(bridge: Bridge, wanted: str, **fields: Any) -> None:
    """Send an alert, and expect a fill and the position `wanted`."""
    status, answer = await bridge.send(**fields)
    assert (status, answer["status"]) == (200, "filled"), answer
    await bridge.until_settled()
    assert await bridge.position() == Decimal(wanted)
    await bridge.until_positions({BTC: Decimal(wanted)} if Decimal(wanted) else {})


async def test_a_day(tmp_path: Path) -> None:
    """Ping, entry with bracket, add, partial close, flip, drift, resync, daily limit -> exits only, a close passes, midnight resumes."""
    async with running_bridge(tmp_path, clock=Clock.starting_at(MORNING)) as bridge:
        await bridge.control("prices", {BTC: "50000"})
        bridge.add_webhook("main", limits=Limits(daily_limit=Decimal(20_000)))
        bridge.add_webhook("follower", follow="position", reorder_ms=50)
        bridge.add_webhook("resyncing", follow="position", resync=True, reorder_ms=50)

        assert await bridge.send(action="ping", symbol=None) == (200, await _pong(bridge))
        await order(bridge, "0.1", action="buy", quantity="0.1", stopLoss="2%", takeProfit="4%")
        [bracket] = (await bridge.control("state"))["open_algo_orders"]
        assert bracket["algo_type"] == "BRACKET"
        await order(bridge, "0.15", action="buy", quantity="0.05")
        await order(bridge, "0.1", action="close", quantity="0.05")
        await order(bridge, "-0.1", action="flip")

        await _drift_and_resync(bridge)
        await _daily_limit_is_breached(bridge)

        await bridge.jump_to(MIDNIGHT + timedelta(seconds=30))
        await order(bridge, "0.02", action="buy", quantity="0.02")


async def _pong(bridge: Bridge) -> dict[str, object]:
    """Return the expected response to a heartbeat, which is stored and does not trade."""
    [stored] = (await bridge.daemon.database.read(alerts.search)).alerts
    assert (stored.action, stored.status, await bridge.orders()) == ("ping", "ignored", ())
    return {"success": True, "alertId": stored.alert_id, "status": "ignored", "code": "pong"}


async def _drift_and_resync(bridge: Bridge) -> None:
    """The strategy is long 0.1, the account short 0.1: this is reported, and corrected only with resync."""
    position = {
        "action": "buy",
        "quantity": "0.05",
        "marketPosition": "long",
        "marketPositionSize": "0.15",
        "prevMarketPosition": "long",
        "prevMarketPositionSize": "0.1",
    }
    await order(bridge, "-0.05", webhook="follower", alertId="drifted", **position)
    [stored] = [one for one in (await bridge.daemon.database.read(alerts.search)).alerts if one.alert_id == "drifted"]
    assert any(warning.startswith("drift: the strategy held 0.1") for warning in stored.warnings)
    # Beside the -0.05 of the other two.
    await order(bridge, "0.10", webhook="resyncing", alertId="resynced", **position)
    await order(bridge, "0.05", webhook="main", action="sell", quantity="0.05", reduceOnly=True)


async def _daily_limit_is_breached(bridge: Bridge) -> None:
    """Beyond the daily limit an entry is denied, then only exits pass until midnight, on this webhook only."""
    status, answer = await bridge.send(action="buy", quantity="0.1")
    assert (status, answer["code"]) == (422, "daily_limit")
    status, answer = await bridge.send(action="buy", quantity="0.001")
    assert (status, answer["code"]) == (422, "exits_only")
    assert "until 2026-03-11 00:00 UTC" in answer["error"]

    def control(scope: str) -> TradingState:
        with bridge.daemon.database.snapshot() as connection:
            return settings.trading_control(connection, now=bridge.clock(), scope=scope).state

    main = await bridge.daemon.database.read(webhooks.find, "main")
    assert control(main.id) is TradingState.EXITS_ONLY
    assert control("account") is TradingState.RUNNING
    await order(bridge, "0", action="close")


async def test_a_drawdown_closes_the_account_until_the_peak_is_reset(tmp_path: Path) -> None:
    """A fall from the peak beyond the limit leaves exits only; a withdrawal is no loss; `resume --reset-peak` opens again."""
    async with running_bridge(tmp_path, clock=Clock.starting_at(MORNING), risk__max_drawdown="0.05") as bridge:
        await bridge.control("prices", {BTC: "50000"})
        bridge.add_webhook("main")
        await order(bridge, "1", action="buy", quantity="1")
        await bridge.daemon.operator_services.equity.run()
        await bridge.jump_to(MORNING + timedelta(hours=1))
        await bridge.control("transfer", {"amount": "-40000"})
        await bridge.jump_to(MORNING + timedelta(hours=1, minutes=1))
        await bridge.daemon.operator_services.equity.run()
        assert await _state(bridge) is TradingState.RUNNING

        await bridge.jump_to(MORNING + timedelta(hours=2))
        await bridge.control("prices", {BTC: "46000"})
        await bridge.daemon.operator_services.equity.run()
        assert await _state(bridge) is TradingState.EXITS_ONLY
        status, answer = await bridge.send(action="buy", quantity="0.1")
        assert (status, answer["code"]) == (422, "exits_only")
        assert "drawdown" in answer["error"]

        await bridge.jump_to(MORNING + timedelta(days=2))
        await bridge.control("prices", {BTC: "46000"})
        await bridge.daemon.operator_services.equity.run()
        assert await _state(bridge) is TradingState.EXITS_ONLY
        await bridge.daemon.database.write(equity.reset_peak, by="test", now=bridge.clock())
        bridge.daemon.trading.book.resume_all(reason="test", by="test", now=bridge.clock())
        await bridge.daemon.operator_services.equity.run()
        assert await _state(bridge) is TradingState.RUNNING
        await order(bridge, "0", action="close")


async def _state(bridge: Bridge) -> TradingState:
    return (await bridge.daemon.database.read(settings.trading_control, now=bridge.clock())).state
