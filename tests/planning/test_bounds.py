"""The bounds that a message states itself: `symbols` and `maxQuantity`."""

from __future__ import annotations

from decimal import Decimal

import pytest

from kekbridge.alerts.signal import Action, Amount, QuantityType, Signal
from kekbridge.errors import Refused
from kekbridge.model import WebhookSettings
from kekbridge.planning.translate import Plan, translate
from tests.trading import BTC, PEPE, D, signal, snapshot


def planned(step: Signal, *, held: str | None = None) -> Plan:
    return translate(
        step, settings=WebhookSettings(rescale_units=True), snapshot=snapshot({BTC: held} if held else None)
    )


def entry(symbol: str = "BTCUSDT.P", quantity: str = "0.05", **bounds: object) -> Signal:
    """An order to buy `quantity` coins."""
    size = {"quantity": Amount(D(quantity)), "quantity_type": QuantityType.BASE}
    return signal(Action.BUY, symbol, **size, **bounds)


@pytest.mark.parametrize(
    ("step", "code", "field"),
    [
        (entry("ETHUSDT.P", symbols=("BTCUSDT.P",)), "symbol_not_allowed", "symbol"),
        (entry("ETHUSDT.P", symbols=("BTCUSDT.P", "NOSUCHUSDT.P")), "symbol_not_allowed", "symbol"),
        (signal(Action.CLOSE, "ETHUSDT.P", symbols=("BTCUSDT.P",)), "symbol_not_allowed", "symbol"),
        (signal(Action.CANCEL, "ETHUSDT.P", symbols=("BTCUSDT.P",)), "symbol_not_allowed", "symbol"),
        (entry(max_quantity=Decimal("0.04")), "order_too_large", "maxQuantity"),
        (entry("PEPEUSDT.P", "3000000", max_quantity=Decimal(2_999_000)), "order_too_large", "maxQuantity"),
    ],
)
def test_a_message_cannot_leave_its_own_bounds(step: Signal, code: str, field: str) -> None:
    """Another market than the listed ones and a larger entry are refused by name; a coin's size is that of the sender's chart."""
    with pytest.raises(Refused) as refused:
        planned(step)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert "\n" not in refused.value.message


def test_orders_within_the_bounds_pass() -> None:
    """A market may be listed in any spelling, and an entry may be as large as the bound."""
    assert planned(entry(symbols=("PERP_BTC_USDC", "ETHUSDT.P"), max_quantity=Decimal("0.05"))).symbol == BTC
    assert planned(entry("PEPEUSDT.P", "3000000", max_quantity=Decimal(3_000_000))).symbol == PEPE


def test_no_size_bounds_an_exit() -> None:
    """A close larger than `maxQuantity` is sent whole: a bound never keeps a position open."""
    order = planned(signal(Action.CLOSE, "BTCUSDT.P", max_quantity=Decimal("0.01")), held="0.3").intents[0]
    assert (order.reduce_only, order.quantity) == (True, D("0.3"))
