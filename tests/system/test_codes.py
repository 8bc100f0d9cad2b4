"""Every published code is provoked in a running bridge, or listed here with the test that provokes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.codes import CODES
from kekbridge.model import Limits, Order, OrderStatus, RateLimits, TradingState
from kekbridge.store import alerts, rejected_requests, webhooks
from tests.bridge import Bridge, Clock, running_bridge
from tests.paths import ROOT
from tests.waiting import until

BTC = "PERP_BTC_USDC"
NOON = datetime(2026, 3, 11, 12, tzinfo=UTC)  # far from midnight, when daily limits reset
BUY: dict[str, Any] = {"action": "buy", "quantity": "0.01"}
LONG = {"marketPosition": "long", "marketPositionSize": "1"}

# Codes that need another machine, another process or a special listener: (test file, a text in it).
ELSEWHERE = {
    "body_timeout": ("ingress/test_listener_hostile.py", "body_timeout"),
    "method_not_allowed": ("ingress/test_listener.py", "405"),
    "certificate_not_allowed": ("ingress/tls/test_client_certificates.py", "certificate_not_allowed"),
    "invalid_http": ("ingress/test_listener_hostile.py", "invalid_http"),
    "too_many_refused": ("ingress/test_listener_hostile.py", "too_many_refused"),
    "locked_out": ("ingress/test_listener_hostile.py", "locked_out"),
    "internal_error": ("ingress/test_listener.py", "internal_error"),
    "store_unavailable": ("ingress/test_listener.py", "store_unavailable"),
    "exchange_unreachable": ("exchange/orderly/test_client.py", "exchange_unreachable"),
    "exchange_busy": ("exchange/orderly/test_client.py", "exchange_busy"),
    "symbol_ambiguous": ("alerts/test_symbols.py", "symbol_ambiguous"),
    "market_closed": ("planning/test_translate.py", "market_closed"),
    "overtaken_by_exit": ("execution/test_dispatcher.py", "overtaken_by_exit"),
    "isolated_position": ("system/test_margin_modes.py", "isolated_position"),
    "canceled_by_hand": ("execution/test_manual_orders.py", "canceled_by_hand"),
    "exit_canceled": ("execution/test_exit_watch.py", "exit_canceled"),
    "superseded": ("execution/test_exit_watch.py", "superseded"),
    "withdrawn": ("execution/test_protection_controller.py", "withdrawn"),
    "no_mark_price": ("risk/test_rules.py", "no_mark_price"),
    "not_ready": ("risk/test_rules.py", "not_ready"),
    "config_invalid": ("test_config.py", "ConfigError"),
    "name_taken": ("admin/test_webhook_api.py", "name_taken"),
    "vault_unavailable": ("vault/test_vault.py", "VaultError"),
    "already_running": ("store/test_lock.py", "AlreadyRunning"),
    "bridge_unavailable": ("cli/test_control.py", "BridgeUnavailable"),
    "vault_out_of_reach": ("cli/test_context.py", "a_stopped_services_vault_is_out_of_reach"),
    "no_access": ("cli/test_control.py", "NoAccess"),
    "bridge_not_found": ("cli/test_bridges.py", "looked in"),
    "key_missing": ("ops/test_key_registration.py", "no key to register"),
    "not_installed": ("cli/test_installation.py", "no service is installed"),
    "not_locked_out": ("cli/test_lockouts.py", "not locked out"),
    "field_missing": ("admin/test_api.py", "field_missing"),
    "forbidden": ("admin/test_api.py", "forbidden"),
    "invalid_form": ("admin/test_admin.py", "send it as a browser does"),
    "key_reused": ("admin/test_api.py", "key_reused"),
    "not_possible": ("admin/test_json_requests.py", "not_possible"),
    "too_many_streams": ("admin/test_events.py", "too_many_streams"),
    "unsupported_media_type": ("admin/test_api.py", "unsupported_media_type"),
    "wrong_host": ("admin/test_api.py", "wrong_host"),
}

# Alerts to a webhook without limits, by the code of their response.
MESSAGES: dict[str, dict[str, Any]] = {
    "placeholder_unexpanded": {**BUY, "symbol": "{{ticker}}"},
    "action_missing": {"action": None, "quantity": "1"},
    "action_unknown": {"action": "hodl"},
    "field_unknown": {**BUY, "stoploss": "2%"},
    "no_position": {**BUY, "action": "add"},
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

# Limits, and an order that breaches each.
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
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(
        tmp_path, clock=Clock.starting_at(NOON), queue__max_waiting=3, queue__attempts=1
    ) as opened:
        await opened.control("prices", {BTC: "50000"})
        opened.add_webhook("main", limits=Limits(max_leverage=None, max_notional=None))
        yield opened


async def test_every_code_is_provoked(bridge: Bridge) -> None:
    """Each code in the table is caused by an alert, a limit or an event."""
    met: dict[str, int] = {}
    for provoke in (_bodies, _authentication, _messages, _limits, _states, _orders, _queue):
        met |= await provoke(bridge)
    unmet = CODES.keys() - met.keys() - ELSEWHERE.keys()
    assert not unmet, f"nothing provoked {sorted(unmet)}"
    for code, status in met.items():
        assert CODES[code].status in (status, None) or status == 0, (code, status)


@pytest.mark.parametrize("code", sorted(ELSEWHERE))
def test_other_codes_are_provoked_in_the_named_file(code: str) -> None:
    """The file named for a code exists and contains the text."""
    file, text = ELSEWHERE[code]
    assert text in (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert code in CODES


async def _bodies(bridge: Bridge) -> dict[str, int]:
    """Bodies that need no webhook; a 401 has its reason in the log only."""
    met = {}
    for code, body in BODIES.items():
        status, answer = await bridge.post(body)
        if status == 401:
            met["unauthorized"] = status
            assert answer["code"] == "unauthorized"
        else:
            assert answer["code"] == code, answer
        met[code] = status
    async with bridge.session.get(bridge.daemon.info.url + "/nothing") as missing:
        met["not_found"] = missing.status

    def are_stored() -> bool:
        with bridge.daemon.database.snapshot() as connection:
            return {"api_key_missing", "api_key_unknown"} <= {
                one.code for one in rejected_requests.list_recent(connection)
            }

    await until(are_stored)
    return met


async def _authentication(bridge: Bridge) -> dict[str, int]:
    """Alerts that are rejected before they are read as an order."""
    bridge.add_webhook("signed", require_signature=True)
    bridge.add_webhook("restricted", allowed_addresses=("203.0.113.0/24",))
    bridge.add_webhook("off")
    one_a_day, tiny = RateLimits(per_minute=1, per_hour=1, per_day=1), Limits(max_order_size=Decimal("0.001"))
    bridge.add_webhook("slow", rates=one_a_day, limits=tiny)
    off = await bridge.daemon.database.read(webhooks.find, "off")
    await bridge.daemon.database.write(webhooks.disable, off.id, now=bridge.clock())
    old, early = bridge.clock() - timedelta(hours=1), bridge.clock() + timedelta(minutes=5)
    met = {
        "signature_missing": (await bridge.send("signed", **BUY))[0],
        "signature_invalid": (await bridge.send("signed", **BUY, signature="v1:apiKey:" + "0" * 64))[0],
        "address_not_allowed": (await bridge.send("restricted", **BUY))[0],
        "webhook_disabled": (await bridge.send("off", **BUY))[0],
        "timestamp_missing": (await bridge.send(**BUY, timestamp=None))[0],
        "timestamp_stale": (await bridge.send(**BUY, timestamp=old.strftime("%Y-%m-%dT%H:%M:%SZ")))[0],
        "timestamp_future": (await bridge.send(**BUY, timestamp=early.strftime("%Y-%m-%dT%H:%M:%SZ")))[0],
    }
    keyless = json.dumps(bridge.message(**BUY, apiKey=None)).encode()
    url = f"{bridge.daemon.info.webhook_url}/{bridge.credentials['main'].api_key}"
    async with bridge.session.post(url, data=keyless) as response:
        met["key_in_path_off"] = response.status
    await bridge.send("slow", **BUY)  # denied by another limit: it counts
    met["rate_limited"] = (await bridge.send("slow", **BUY))[0]
    same: dict[str, Any] = {"alertId": "twice", "timestamp": bridge.clock().strftime("%Y-%m-%dT%H:%M:%SZ")}
    await bridge.send(action="cancel", **same)
    met["alert_id_reused"] = (await bridge.send(action="close", **same))[0]
    return met


async def _messages(bridge: Bridge) -> dict[str, int]:
    met = {}
    for code, fields in MESSAGES.items():
        status, answer = await bridge.send(**fields)
        assert answer.get("code") == code, (code, answer)
        met[code] = status
    bridge.add_webhook("follower", follow="position")
    status, answer = await bridge.send("follower", **BUY)
    assert answer["code"] == "position_missing"
    return met | {"position_missing": status}


async def _limits(bridge: Bridge) -> dict[str, int]:
    met = {}
    for code, (limits, fields) in LIMITS.items():
        bridge.add_webhook(f"limit-{code}", limits=Limits(**limits))
        status, answer = await bridge.send(f"limit-{code}", **fields)
        assert answer.get("code") == code, (code, answer)
        met[code] = status
    met |= await _used_up(bridge)
    return met


async def _used_up(bridge: Bridge) -> dict[str, int]:
    """Limits that depend on earlier trades or losses."""
    bridge.add_webhook("few", limits=Limits(daily_orders=1, cooldown_s=None))
    bridge.add_webhook("calm", limits=Limits(cooldown_s=600))
    bridge.add_webhook("narrow", limits=Limits(max_open_positions=1))
    bridge.add_webhook("careful", limits=Limits(max_daily_loss=Decimal(10)))
    bridge.add_webhook("steady", limits=Limits(max_drawdown=Decimal("0.0001")))
    bridge.add_webhook("following", follow="position", resync=True, reorder_ms=10)
    met = {}
    for webhook, code, fields in (
        ("few", "daily_orders", BUY),
        ("calm", "cooldown", BUY),
        ("narrow", "too_many_positions", {**BUY, "symbol": "ETHUSDT.P"}),
    ):
        assert (await bridge.send(webhook, **BUY))[0] == 200
        await bridge.until_settled()
        status, answer = await bridge.send(webhook, **fields)
        assert answer.get("code") == code, (code, answer)
        met[code] = status
    await bridge.set_positions(BTC="1", SOL="1")
    opened = {**LONG, "symbol": "SOLUSDT.P", "action": "buy", "quantity": "1", "prevMarketPosition": "flat"}
    status, answer = await bridge.send("following", **opened)
    assert answer.get("code") == "already_in_position", answer
    met["already_in_position"] = status
    earlier = (bridge.clock() - timedelta(seconds=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status, answer = await bridge.send("following", **{**opened, "timestamp": earlier})
    assert answer.get("code") == "out_of_date", answer
    met["out_of_date"] = status
    await bridge.daemon.operator_services.equity.run()
    await bridge.control("prices", {BTC: "49000"})

    async def is_seen() -> bool:
        snapshot = await bridge.daemon.exchange.refresh()
        return snapshot.mark_price(BTC) == 49000

    await until(is_seen)
    for webhook, code in (("careful", "daily_loss"), ("steady", "drawdown")):
        status, answer = await bridge.send(webhook, **BUY)
        assert answer.get("code") == code, (code, answer)
        met[code] = status
    await bridge.control("prices", {BTC: "50000"})
    await bridge.set_positions(BTC="0")
    return met


async def _states(bridge: Bridge) -> dict[str, int]:
    met = {}
    for state, code in ((TradingState.HALTED, "trading_halted"), (TradingState.EXITS_ONLY, "exits_only")):
        await bridge.set_state(state)
        status, answer = await bridge.send(**BUY)
        assert answer["code"] == code
        met[code] = status
    await bridge.set_state(TradingState.RUNNING)
    return met


async def _orders(bridge: Bridge) -> dict[str, int]:
    """Codes of stored orders: canceled, rejected, unknown, expired, or an earlier leg failed."""
    await bridge.send(**BUY, alertId="resting", orderType="limit", limitPrice="40000")
    await bridge.control("faults", {"fault": "refuse", "code": -1005, "message": "not today", "count": 1})
    status, refused = await bridge.send(**BUY)
    assert refused["code"] == "orderly:-1005", refused
    met = {"exchange_rejected": status}

    await bridge.control("faults", {"fault": "refuse", "code": -1005, "message": "not today", "count": 1})
    await bridge.send(steps=[{"action": "buy", "quantity": "0.01"}, {"action": "buy", "quantity": "0.02"}])
    await bridge.until_settled()
    met["earlier_leg_failed"] = _status_of(await bridge.orders(), "earlier_leg_failed")

    with _entries_held(bridge):
        await bridge.send(**BUY, orderType="limit", limitPrice="40000")
        await bridge.send(action="cancel")
        await bridge.until_settled()
    met["canceled_by_alert"] = _status_of(await bridge.orders(), "canceled_by_alert")
    return met | await _late_or_failed(bridge)


async def _late_or_failed(bridge: Bridge) -> dict[str, int]:
    """Expired in the queue; sent without an answer; leverage not set; cancel failed."""
    with _entries_held(bridge):
        await bridge.send(**BUY, orderType="limit", limitPrice="40000")
        await bridge.jump_to(bridge.clock() + timedelta(seconds=70))
        await bridge.until_settled()
    met = {"alert_expired": _status_of(await bridge.orders(), "alert_expired")}

    lost = {"fault": "lose_answer", "path": "/v1/order", "method": "POST", "count": 1}
    silent = [{"fault": "read_lag", "delay_ms": 3000}, {"fault": "withhold_reports"}]
    await bridge.control("faults", {"faults": [lost, *silent]})
    status, unknown = await bridge.send(**BUY)
    assert status == 202, unknown

    async def is_unknown() -> bool:
        return any(order.status is OrderStatus.UNKNOWN for order in await bridge.orders())

    await until(is_unknown)
    assert "outcome_unknown" in {order.code for order in await bridge.orders()}
    met["outcome_unknown"] = 200
    await bridge.control("faults", {})
    await bridge.until_settled()

    await bridge.control("faults", {"fault": "server_error", "path": "/v1/client/leverages", "when": "after"})
    status, answer = await bridge.send(**BUY, leverage="3")
    assert answer["code"] == "leverage_not_set", answer
    met["leverage_not_set"] = status
    await bridge.control("faults", {})

    _, resting = await bridge.send(**BUY, orderType="limit", limitPrice="49500")
    await bridge.control("faults", {"fault": "server_error", "method": "DELETE"})
    cancel = json.dumps(bridge.message(action="cancel", alertId="not-cancelled")).encode()
    await bridge.post(cancel)

    async def is_requested() -> bool:
        return (await bridge.order(resting)).cancel_requested_at is not None

    await until(is_requested)
    await bridge.control("prices", {BTC: "49400"})  # filled before it could be cancelled

    async def has_failed() -> bool:
        found = (await bridge.daemon.database.read(alerts.search, limit=1000)).alerts
        return any((one.alert_id, one.code) == ("not-cancelled", "cancel_failed") for one in found)

    await until(has_failed)
    status, answer = await bridge.post(cancel)
    assert answer["code"] == "cancel_failed", answer
    await bridge.control("faults", {})
    await bridge.control("prices", {BTC: "50000"})
    return met | {"cancel_failed": status}


def _status_of(orders: tuple[Order, ...], code: str) -> int:
    assert code in {order.code for order in orders}
    return 422


async def _queue(bridge: Bridge) -> dict[str, int]:
    """More entries than the queue may hold."""
    with _entries_held(bridge):
        answers = await asyncio.gather(*(bridge.send(**BUY, orderType="limit", limitPrice="40000") for _ in range(8)))
    await bridge.until_settled()
    full = [status for status, answer in answers if answer.get("code") == "queue_full"]
    return {"queue_full": full[0]} if full else {}


@contextmanager
def _entries_held(bridge: Bridge) -> Iterator[None]:
    """Keep new entries queued, as after five orders without an answer."""
    breaker = bridge.daemon.trading.submitter.breaker
    for _ in range(5):
        breaker.record(was_unknown=True)
    yield
    breaker.close()
