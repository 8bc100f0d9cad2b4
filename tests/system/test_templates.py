"""Templates of `kekbridge template`, filled in as TradingView does, are accepted by a running bridge: every kind and profile."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from kekbridge.alerts.profiles import PROFILES
from kekbridge.alerts.template import KINDS, build, fill
from kekbridge.errors import ConfigError
from kekbridge.model import Order
from tests.bridge import Bridge, running_bridge

BTC = "PERP_BTC_USDC"
FOREIGN = sorted(set(PROFILES) - {"seed"})
# Kinds that the profile's message format cannot express.
WITHOUT = {(profile, "pine") for profile in FOREIGN}


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(tmp_path) as opened:
        await opened.control("prices", {BTC: "65000"})
        yield opened


def values_of(bridge: Bridge, *, before: str, after: str) -> dict[str, str]:
    """Return the placeholder values of a strategy's fill between two positions, neither of them short."""
    change = Decimal(after) - Decimal(before)
    return {
        "ticker": "BTCUSDT.P",
        "exchange": "BYBIT",
        "timenow": bridge.clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "close": "65000",
        "strategy.order.action": "buy" if change > 0 else "sell",
        "strategy.order.contracts": str(abs(change)),
        "strategy.order.price": "65000.000000000002",
        "strategy.market_position": "long" if Decimal(after) else "flat",
        "strategy.market_position_size": after,
        "strategy.prev_market_position": "long" if Decimal(before) else "flat",
        "strategy.prev_market_position_size": before,
        "strategy.position_size": after,
        "syminfo.ticker": "BTCUSDT.P",
        "side": "buy",
        "str.tostring(quantity)": "0.01",
        "str.tostring(close)": "65000",
        "str.tostring(timenow)": str(int(bridge.clock().timestamp() * 1000)),
    }


def pine_message(source: str, function: str, values: dict[str, str]) -> str:
    """Evaluate the printed Pine function: literals joined with the values of its expressions."""
    expression = source.split(f"\n{function}(", 1)[1].split("=>\n", 1)[1].split("\n", 1)[0].strip()
    parts = re.findall(r"'[^']*'|[^+\s][^+]*", expression)
    return "".join(part[1:-1] if part.startswith("'") else values[part.strip()] for part in parts)


async def trade(bridge: Bridge, message: str) -> Order:
    """Send a message; return the last order it led to."""
    status, answer = await bridge.post(message.encode())
    assert status in (200, 202), answer
    assert answer["success"] is True
    return (await bridge.until_settled())[-1]


@pytest.mark.parametrize("profile", sorted(PROFILES))
async def test_every_kind_is_accepted(bridge: Bridge, profile: str) -> None:
    """A signed message of each kind is accepted and ends at the expected position."""
    credentials = bridge.add_webhook("main", profile=profile, require_signature=True)
    followed = bridge.add_webhook("followed", profile=profile, require_signature=True, follow="position", reorder_ms=50)
    wanted = Decimal(0)
    for kind in KINDS:
        if (profile, kind) in WITHOUT:
            with pytest.raises(ConfigError):
                build(kind, api_key="k" * 20, api_secret="s", profile=profile)
            continue
        given = {"quantity": "0.01", "stop_loss": "2%"} if kind == "indicator" else {}
        if profile not in ("seed", "kekdex", "traderspost"):
            given.pop("stop_loss", None)
        used = followed if kind == "position" else credentials
        template = build(kind, api_key=used.api_key, api_secret=used.api_secret, profile=profile, **given)
        before = wanted
        wanted = _expected(kind, before)
        values = values_of(bridge, before=str(max(before, Decimal(0))), after=str(max(wanted, Decimal(0))))
        message = (
            pine_message(template.message, "kekOrder", values) if kind == "pine" else fill(template.message, values)
        )
        if kind == "ping":
            status, answer = await bridge.post(message.encode())
            assert (status, answer["code"]) == (200, "pong")
            continue
        await trade(bridge, message)
        assert await bridge.position() == wanted, (kind, message)
        await bridge.until_positions({BTC: wanted} if wanted else {})
        if wanted < 0:
            await bridge.set_positions(BTC="0")
            wanted = Decimal(0)


def _expected(kind: str, before: Decimal) -> Decimal:
    """Return the position after a template of this kind, filled in by `values_of`, was traded."""
    return {
        "strategy": Decimal("0.05"),
        "indicator": before + Decimal("0.01"),
        "close": Decimal(0),
        "flip": -before,
        "position": Decimal("0.02"),
        "pine": before + Decimal("0.01"),
    }.get(kind, before)


async def test_a_flip_reverses_a_position(bridge: Bridge) -> None:
    """The flip template on an open long ends in a short of the same size."""
    credentials = bridge.add_webhook("main", require_signature=True)
    await bridge.set_positions(BTC="0.02")
    template = build("flip", api_key=credentials.api_key, api_secret=credentials.api_secret)
    await trade(bridge, fill(template.message, values_of(bridge, before="0.02", after="0")))
    assert await bridge.position() == Decimal("-0.02")


async def test_the_pine_close_closes(bridge: Bridge) -> None:
    """The second function of the Pine snippet builds a message that closes the whole position."""
    credentials = bridge.add_webhook("main", require_signature=True)
    await bridge.set_positions(BTC="0.02")
    template = build("pine", api_key=credentials.api_key, api_secret=credentials.api_secret)
    await trade(bridge, pine_message(template.message, "kekClose", values_of(bridge, before="0.02", after="0")))
    assert await bridge.position() == 0


async def test_a_changed_field_is_rejected(bridge: Bridge) -> None:
    """A message with a changed signed field is answered 401 and places no order."""
    credentials = bridge.add_webhook("main", require_signature=True)
    template = build("indicator", api_key=credentials.api_key, api_secret=credentials.api_secret, quantity="0.01")
    message = json.loads(fill(template.message, values_of(bridge, before="0", after="0.01")))
    status, _ = await bridge.post(json.dumps({**message, "quantity": "1"}).encode())
    assert (status, await bridge.orders()) == (401, ())


async def test_the_front_ends_own_message_is_accepted(bridge: Bridge) -> None:
    """KEK DEX suggests this body to its users; its `signature` is an order id, so the webhook must not require one."""
    credentials = bridge.add_webhook("kek", profile="kekdex")
    body = {
        "action": "{{strategy.order.action}}",
        "symbol": "{{ticker}}",
        "quantity": "{{strategy.order.contracts}}",
        "price": "{{strategy.order.price}}",
        "orderType": "market",
        "stopLoss": "63000",
        "takeProfit": "68000",
        "apiKey": credentials.api_key,
        "signature": "Long entry",
        "timestamp": "{{timenow}}",
    }
    order = await trade(bridge, fill(json.dumps(body), values_of(bridge, before="0", after="0.05")))
    assert (order.intent.quantity, order.intent.stop_loss) == (Decimal("0.05"), Decimal(63000))
    assert [one.trigger_price for one in order.intent.take_profits] == [Decimal(68000)]
