"""Every published code is provoked in a running bridge, or named here with the test that provokes it: no code without a cause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.codes import CODES
from kekbridge.model import Limits, Order, OrderStatus, RateLimits, TradingState
from kekbridge.store import alerts, rejected_requests, settings
from tests.paths import ROOT
from tests.system.desk import Desk, open_desk
from tests.waiting import until

BTC = "PERP_BTC_USDC"
NOON = datetime(2026, 3, 11, 12, tzinfo=UTC)  # far from the midnight at which daily limits begin again
BUY: dict[str, Any] = {"action": "buy", "quantity": "0.01"}
LONG = {"marketPosition": "long", "marketPositionSize": "1"}

# Codes whose cause needs another machine, another process or a special door: (test file, a text that stands in it).
ELSEWHERE = {
    "body_timeout": ("ingress/test_listener_hostile.py", "body_timeout"),
    "method_not_allowed": ("ingress/test_listener.py", "405"),
    "certificate_not_allowed": ("ingress/tls/test_client_certificates.py", "certificate_not_allowed"),
    "locked_out": ("ingress/test_listener_hostile.py", "locked_out"),
    "internal_error": ("ingress/test_listener.py", "internal_error"),
    "store_unavailable": ("ingress/test_listener.py", "store_unavailable"),
    "exchange_unreachable": ("exchange/orderly/test_client.py", "exchange_unreachable"),
    "exchange_busy": ("exchange/orderly/test_client.py", "exchange_busy"),
    "symbol_ambiguous": ("alerts/test_symbols.py", "symbol_ambiguous"),
    "market_closed": ("planning/test_translate.py", "market_closed"),
    "overtaken_by_exit": ("execution/test_dispatcher.py", "overtaken_by_exit"),
    "no_mark_price": ("risk/test_rules.py", "no_mark_price"),
    "not_ready": ("risk/test_rules.py", "not_ready"),
    "config_invalid": ("test_config.py", "ConfigError"),
    "vault_unavailable": ("vault/test_vault.py", "VaultError"),
    "already_running": ("store/test_database.py", "AlreadyRunning"),
}

# Messages on a webhook without limits, and the code that each is answered with.
MESSAGES: dict[str, dict[str, Any]] = {
    "placeholder_unexpanded": {**BUY, "symbol": "{{ticker}}"},
    "action_missing": {"quantity": "1"},
    "action_unknown": {"action": "hodl"},
    "quantity_missing": {"action": "buy"},
    "quantity_not_a_number": {**BUY, "quantity": "1,000"},
    "quantity_not_positive": {**BUY, "quantity": "0"},
    "quantity_type_missing": {**BUY, "quantity": "10%"},
    "quantity_type_unknown": {**BUY, "quantityType": "lots"},
    "quantity_type_unsupported": {**BUY, "quantity": "10%", "quantityType": "base"},
    "quantity_too_small": {**BUY, "quantity": "0.0000001"},
    "price_missing": {**BUY, "orderType": "limit"},
    "price_invalid": {**BUY, "orderType": "limit", "limitPrice": "-1"},
    "order_type_unknown": {**BUY, "orderType": "iceberg"},
    "order_type_unsupported": {**BUY, "orderType": "ioc", "limitPrice": "50000", "stopLoss": "2%"},
    "stop_loss_empty": {**BUY, "stopLoss": ""},
    "take_profit_empty": {**BUY, "takeProfit": ""},
    "stop_loss_wrong_side": {**BUY, "stopLoss": "60000"},
    "take_profit_wrong_side": {**BUY, "takeProfit": "40000"},
    "stop_loss_invalid": {**BUY, "stopLoss": "near"},
    "take_profit_invalid": {**BUY, "takeProfit": "far"},
    "trailing_stop_invalid": {**BUY, "trailingStop": "behind"},
    "leverage_invalid": {**BUY, "leverage": "2.5"},
    "slippage_invalid": {**BUY, "slippage": "200%"},
    "inconsistent_position": {**BUY, **LONG, "prevMarketPosition": "long", "prevMarketPositionSize": "1"},
    "symbol_missing": {**BUY, "symbol": None},
    "symbol_invalid": {**BUY, "symbol": "BTC USDT"},
    "symbol_unknown": {**BUY, "symbol": "NOSUCHUSDT.P"},
    "symbol_not_tradable": {**BUY, "symbol": "BTC1!"},
    "symbol_unit_mismatch": {**BUY, "symbol": "PEPEUSDT.P"},
    "symbol_exchange_refused": {**BUY, "symbol": "BTCUSD", "exchange": "NYSE"},
    "delayed_data": {**BUY, "exchange": "BYBIT_DL"},
    "nothing_to_close": {"action": "close"},
    "pong": {"action": "ping", "symbol": None},
    "margin_insufficient": {**BUY, "quantity": "9", "leverage": "1"},
    "field_invalid": {**BUY, "reduceOnly": "perhaps"},
}

# One limit each, and the order that meets it.
LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "symbol_not_allowed": ({"allowed_symbols": ("PERP_ETH_USDC",)}, BUY),
    "order_too_small": ({"min_order_size": Decimal(1)}, BUY),
    "order_too_large": ({"max_order_size": Decimal("0.002")}, BUY),
    "notional_too_large": ({"max_notional": Decimal(100)}, BUY),
    "position_too_large": ({"max_position_size": Decimal("0.005")}, BUY),
    "daily_limit": ({"daily_limit": Decimal(100)}, BUY),
    "leverage_too_high": ({"max_leverage": Decimal(2)}, {**BUY, "leverage": "5"}),
    "stop_loss_required": ({"require_stop_loss": True}, BUY),
    "stop_loss_too_far": ({"max_stop_distance": Decimal("0.01")}, {**BUY, "stopLoss": "5%"}),
    "slippage_too_high": ({"max_slippage": Decimal("0.001")}, {**BUY, "price": "45000"}),
    "outside_trading_hours": ({"trading_hours": "Mon 00:00-00:01 UTC"}, BUY),  # NOON is a Wednesday
}

BODIES: dict[str, bytes] = {
    "empty_body": b"",
    "invalid_json": b'{"a":',
    "not_an_order": b"BTC crossed above 100",
    "invalid_encoding": b'{"a":"\xff"}',
    "duplicate_key": b'{"a":1,"a":2}',
    "body_too_large": b'{"a":"' + b"x" * 70_000 + b'"}',
    "api_key_missing": b'{"action":"buy"}',
    "api_key_unknown": b'{"apiKey":"wh_test_nobody","action":"buy"}',
}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path, start=NOON, queue__max_waiting=3, queue__attempts=1) as opened:
        await opened.control("prices", {BTC: "50000"})
        opened.add_webhook("main", limits=Limits(max_leverage=None))
        yield opened


async def test_every_code_is_provoked(desk: Desk) -> None:
    """Each code is met by a message, a limit or an event; the table has none that nothing can cause."""
    met: dict[str, int] = {}
    for provoke in (_bodies, _door, _messages, _limits, _states, _orders, _queue):
        met |= await provoke(desk)
    unmet = CODES.keys() - met.keys() - ELSEWHERE.keys()
    assert not unmet, f"nothing provoked {sorted(unmet)}"
    for code, status in met.items():
        assert CODES[code].status in (status, None) or status == 0, (code, status)


@pytest.mark.parametrize("code", sorted(ELSEWHERE))
def test_the_others_are_provoked_where_it_says(code: str) -> None:
    """The file named for a code exists and speaks of it."""
    file, text = ELSEWHERE[code]
    path = ROOT / "tests" / file
    path = path if path.exists() else ROOT / "tests" / "system" / file
    assert text in path.read_text(encoding="utf-8")
    assert code in CODES


async def _bodies(desk: Desk) -> dict[str, int]:
    """Bodies that no webhook is needed for; 401 tells its reason to the log alone."""
    met = {}
    for code, body in BODIES.items():
        status, answer = await desk.post(body)
        if status == 401:
            met["unauthorized"] = status
            assert answer["code"] == "unauthorized"
        else:
            assert answer["code"] == code, answer
        met[code] = status
    async with desk.session.get(desk.daemon.info.url + "/nothing") as missing:
        met["not_found"] = missing.status

    def told() -> bool:
        with desk.daemon.database.snapshot() as connection:
            return {"api_key_missing", "api_key_unknown"} <= {
                one.code for one in rejected_requests.list_recent(connection)
            }

    await until(told)
    return met


async def _door(desk: Desk) -> dict[str, int]:
    """Who may not come in, or not like this."""
    desk.add_webhook("signed", require_signature=True)
    desk.add_webhook("shut", allowed_addresses=("203.0.113.0/24",))
    desk.add_webhook("off")
    desk.add_webhook("slow", rates=RateLimits(per_minute=1, per_hour=1, per_day=1))
    with desk.daemon.database.transaction() as connection:
        connection.execute("UPDATE webhooks SET enabled = 0 WHERE name = 'off'")
    old, early = desk.clock() - timedelta(hours=1), desk.clock() + timedelta(minutes=5)
    met = {
        "signature_missing": (await desk.send("signed", **BUY))[0],
        "signature_invalid": (await desk.send("signed", **BUY, signature="v1:apiKey:" + "0" * 64))[0],
        "address_not_allowed": (await desk.send("shut", **BUY))[0],
        "webhook_disabled": (await desk.send("off", **BUY))[0],
        "timestamp_missing": (await desk.send(**BUY, timestamp=None))[0],
        "timestamp_stale": (await desk.send(**BUY, timestamp=old.strftime("%Y-%m-%dT%H:%M:%SZ")))[0],
        "timestamp_future": (await desk.send(**BUY, timestamp=early.strftime("%Y-%m-%dT%H:%M:%SZ")))[0],
    }
    await desk.send("slow", action="ping", symbol=None)
    met["rate_limited"] = (await desk.send("slow", action="ping"))[0]
    await desk.send(action="ping", alertId="twice")
    met["alert_id_reused"] = (await desk.send(action="close", alertId="twice"))[0]
    return met


async def _messages(desk: Desk) -> dict[str, int]:
    met = {}
    for code, fields in MESSAGES.items():
        status, answer = await desk.send(**fields)
        assert answer.get("code") == code, (code, answer)
        met[code] = status
    desk.add_webhook("follower", follow="position")
    status, answer = await desk.send("follower", **BUY)
    assert answer["code"] == "position_missing"
    return met | {"position_missing": status}


async def _limits(desk: Desk) -> dict[str, int]:
    met = {}
    for code, (limits, fields) in LIMITS.items():
        desk.add_webhook(f"limit-{code}", limits=Limits(**limits))
        status, answer = await desk.send(f"limit-{code}", **fields)
        assert answer.get("code") == code, (code, answer)
        met[code] = status
    met |= await _used_up(desk)
    return met


async def _used_up(desk: Desk) -> dict[str, int]:
    """Limits that only show after something traded or was lost."""
    desk.add_webhook("few", limits=Limits(daily_orders=1, cooldown_s=None))
    desk.add_webhook("calm", limits=Limits(cooldown_s=600))
    desk.add_webhook("narrow", limits=Limits(max_open_positions=1))
    desk.add_webhook("careful", limits=Limits(max_daily_loss=Decimal(10)))
    desk.add_webhook("steady", limits=Limits(max_drawdown=Decimal("0.0001")))
    desk.add_webhook("following", follow="position", resync=True, reorder_ms=10)
    met = {}
    for webhook, code, fields in (
        ("few", "daily_orders", BUY),
        ("calm", "cooldown", BUY),
        ("narrow", "too_many_positions", {**BUY, "symbol": "ETHUSDT.P"}),
    ):
        assert (await desk.send(webhook, **BUY))[0] == 200
        await desk.settled()
        status, answer = await desk.send(webhook, **fields)
        assert answer.get("code") == code, (code, answer)
        met[code] = status
    await desk.hold(BTC="1")
    status, answer = await desk.send(
        "following", **{**LONG, "action": "buy", "quantity": "1", "prevMarketPosition": "flat"}
    )
    assert answer.get("code") == "already_in_position", answer
    met["already_in_position"] = status
    earlier = (desk.clock() - timedelta(seconds=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status, answer = await desk.send(
        "following", **{**LONG, "action": "buy", "quantity": "1", "prevMarketPosition": "flat", "timestamp": earlier}
    )
    assert answer.get("code") == "out_of_date", answer
    met["out_of_date"] = status
    await desk.daemon.operator_services.equity.run()
    await desk.control("prices", {BTC: "49000"})

    async def is_seen() -> bool:
        snapshot = await desk.daemon.exchange.refresh()
        return snapshot.mark_price(BTC) == 49000

    await until(is_seen)
    for webhook, code in (("careful", "daily_loss"), ("steady", "drawdown")):
        status, answer = await desk.send(webhook, **BUY)
        assert answer.get("code") == code, (code, answer)
        met[code] = status
    await desk.control("prices", {BTC: "50000"})
    await desk.hold(BTC="0")
    return met


async def _states(desk: Desk) -> dict[str, int]:
    met = {}
    for state, code in ((TradingState.HALTED, "trading_halted"), (TradingState.EXITS_ONLY, "exits_only")):
        await _set_state(desk, state)
        status, answer = await desk.send(**BUY)
        assert answer["code"] == code
        met[code] = status
    await _set_state(desk, TradingState.RUNNING)
    return met


async def _set_state(desk: Desk, state: TradingState) -> None:
    await desk.daemon.database.write(settings.set_trading_state, state, reason="test", by="test", now=desk.clock())


async def _orders(desk: Desk) -> dict[str, int]:
    """Codes that an order gets on its way: cancelled, refused, lost, too late, its step before failed."""
    await desk.send(**BUY, alertId="resting", orderType="limit", limitPrice="40000")
    await desk.control("faults", {"fault": "refuse", "code": -1005, "message": "not today", "count": 1})
    status, refused = await desk.send(**BUY)
    assert refused["code"] == "orderly:-1005", refused
    met = {"exchange_rejected": status}

    await desk.control("faults", {"fault": "refuse", "code": -1005, "message": "not today", "count": 1})
    await desk.send(steps=[{"action": "buy", "quantity": "0.01"}, {"action": "buy", "quantity": "0.02"}])
    await desk.settled()
    met["earlier_leg_failed"] = _status_of(await desk.orders(), "earlier_leg_failed")

    with _entries_held(desk):
        await desk.send(**BUY, orderType="limit", limitPrice="40000")
        await desk.send(action="cancel")
        await desk.settled()
    met["canceled_by_alert"] = _status_of(await desk.orders(), "canceled_by_alert")
    return met | await _late(desk)


async def _late(desk: Desk) -> dict[str, int]:
    """Too old when its turn comes; sent and not answered; not to be cancelled."""
    with _entries_held(desk):
        await desk.send(**BUY, orderType="limit", limitPrice="40000")
        await desk.jump_to(desk.clock() + timedelta(seconds=70))
        await desk.settled()
    met = {"alert_expired": _status_of(await desk.orders(), "alert_expired")}

    lost = {"fault": "lose_answer", "path": "/v1/order", "method": "POST", "count": 1}
    silent = [{"fault": "read_lag", "delay_ms": 3000}, {"fault": "withhold_reports"}]
    await desk.control("faults", {"faults": [lost, *silent]})
    status, unknown = await desk.send(**BUY)
    assert status == 202, unknown

    async def is_unknown() -> bool:
        return any(order.status is OrderStatus.UNKNOWN for order in await desk.orders())

    await until(is_unknown)
    assert "outcome_unknown" in {order.code for order in await desk.orders()}
    met["outcome_unknown"] = 200
    await desk.control("faults", {})
    await desk.settled()

    await desk.control("faults", {"fault": "server_error", "path": "/v1/client/leverages", "when": "after"})
    status, answer = await desk.send(**BUY, leverage="3")
    assert answer["code"] == "leverage_not_set", answer
    met["leverage_not_set"] = status
    await desk.control("faults", {})

    await desk.send(**BUY, orderType="limit", limitPrice="40000")
    await desk.control("faults", {"fault": "server_error", "method": "DELETE"})
    await desk.send(action="cancel", alertId="not-cancelled")

    async def has_failed() -> bool:
        found = (await desk.daemon.database.read(alerts.search, limit=1000)).alerts
        return any((one.alert_id, one.code) == ("not-cancelled", "cancel_failed") for one in found)

    await until(has_failed)
    status, answer = await desk.send(action="cancel", alertId="not-cancelled")
    assert answer["code"] == "cancel_failed", answer
    await desk.control("faults", {})
    return met | {"cancel_failed": status}


def _status_of(orders: tuple[Order, ...], code: str) -> int:
    assert code in {order.code for order in orders}
    return 422


async def _queue(desk: Desk) -> dict[str, int]:
    """More entries than may wait."""
    with _entries_held(desk):
        answers = await asyncio.gather(*(desk.send(**BUY, orderType="limit", limitPrice="40000") for _ in range(8)))
    await desk.settled()
    full = [status for status, answer in answers if answer.get("code") == "queue_full"]
    return {"queue_full": full[0]} if full else {}


@contextmanager
def _entries_held(desk: Desk) -> Iterator[None]:
    """Keep new entries in the queue, as after five orders without an answer."""
    breaker = desk.daemon.trading.submitter.breaker
    for _ in range(5):
        breaker.record(was_unknown=True)
    yield
    breaker.close()
