"""Alerts as people really send them, over HTTP to a running bridge: answers, positions and protection at the exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from kekbridge.model import Mode, Side
from kekbridge.webhooks import registry
from tests.alert_cases import (
    CASES,
    CaseAnswer,
    CaseResult,
    Delivery,
    PositionSet,
    deliveries,
    find_fault,
    prior_positions,
    settings_of,
)
from tests.bridge import Bridge, running_bridge
from tests.waiting import until

_GROUPS = 12
_PLAYED = sorted(CASES)


@pytest.fixture
async def traded(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(tmp_path) as opened:
        await opened.control("prices", {"PERP_BTC_USDC": "65000", "PERP_ETH_USDC": "1800", "PERP_SOL_USDC": "140"})
        yield opened


def add_webhooks(bridge: Bridge, case: dict[str, Any]) -> list[str]:
    """Create the case's webhooks; return their keys."""
    keys = []
    for settings in settings_of(case):
        with bridge.daemon.database.transaction() as connection:
            _, credentials = registry.create(
                connection,
                bridge.daemon.sealer,
                name=str(ULID()),
                settings=settings,
                mode=Mode.PAPER,
                now=bridge.clock(),
            )
        keys.append(credentials.api_key)
    return keys


async def send(bridge: Bridge, delivery: Delivery) -> CaseAnswer:
    url = bridge.daemon.info.webhook_url
    if delivery.path is not None:
        url = url.split("/api/")[0] + delivery.path
    async with bridge.session.request(delivery.method, url, data=delivery.body, headers=delivery.headers) as response:
        body = await response.json() if delivery.method != "HEAD" else {}
        return CaseAnswer(response.status, body)


async def play(bridge: Bridge, case: dict[str, Any]) -> CaseResult:
    prior = prior_positions(case)
    await _trade_to(bridge, {})  # what webhooks of earlier cases hold is theirs
    await _trade_to(bridge, prior)
    earlier = {algo["algo_order_id"] for algo in (await bridge.control("state"))["open_algo_orders"]}
    keys = add_webhooks(bridge, case)
    gap_s = case.get("send", {}).get("gap_s", 0)
    sending: list[asyncio.Task[CaseAnswer]] = []
    answers: list[CaseAnswer] = []
    for each in deliveries(case, keys, now=bridge.clock()):
        if isinstance(each, PositionSet):
            await _trade_to(bridge, each.positions)
        elif gap_s:
            sending.append(asyncio.create_task(send(bridge, each)))
            await asyncio.sleep(gap_s)
        else:
            answers.append(await send(bridge, each))
    answers += [await each for each in sending]
    await bridge.until_settled()
    state = await bridge.control("state")
    held = {symbol: Decimal(size) for symbol, size in state["positions"].items() if Decimal(size)}
    new = [algo for algo in state["open_algo_orders"] if algo["algo_order_id"] not in earlier]
    return CaseResult(answers, held, _protection(new))


async def _trade_to(bridge: Bridge, wanted: Mapping[str, Decimal]) -> None:
    """Trade to these positions by hand, so that the fills lead to them."""
    held = await bridge.positions()
    for symbol in held.keys() | wanted.keys():
        change = wanted.get(symbol, Decimal(0)) - held.get(symbol, Decimal(0))
        if change:
            side = Side.BUY if change > 0 else Side.SELL
            await bridge.place_elsewhere(symbol=symbol, side=side, quantity=abs(change))
    await bridge.until_positions(wanted)
    book = bridge.daemon.trading.book
    await until(
        lambda: all(book.holdings.total(symbol) == wanted.get(symbol, 0) for symbol in held.keys() | wanted.keys())
    )


def _protection(algo_orders: list[dict[str, Any]]) -> list[tuple[str, Decimal]]:
    """Kind and trigger price of every live protective order, also inside brackets."""
    found: list[tuple[str, Decimal]] = []
    for algo in algo_orders:
        kind = str(algo["algo_type"]).lower()
        if kind in ("stop_loss", "take_profit", "trailing_stop"):
            found.append((kind, Decimal(str(algo.get("trigger_price") or 0))))
        found += _protection(algo.get("child_orders") or [])
    return found


@pytest.mark.parametrize("group", range(_GROUPS))
async def test_cases(traded: Bridge, group: int) -> None:
    """Each message ends as its sender meant it, or is refused with the cause; never a 3xx or 5xx."""
    faults = {}
    for case_id in _PLAYED[group::_GROUPS]:
        traded.clock.offset += timedelta(seconds=1)  # two cases with equal fields are two alerts
        result = await play(traded, CASES[case_id])
        fault = find_fault(CASES[case_id], result)
        if fault is not None:
            faults[case_id] = fault
        assert all(answer.status < 500 and answer.status // 100 != 3 for answer in result.answers), case_id
    assert faults == {}
