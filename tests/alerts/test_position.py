"""The strategy's position in an alert (docs/internals/tradingview.md section 2.1): contradictions and the trader's own sizes."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.message import interpret, read_message
from kekbridge.alerts.signal import Amount, PositionSide, QuantityType, Signal, TargetPosition
from kekbridge.errors import Refused
from kekbridge.model import Instrument, WebhookSettings
from kekbridge.planning.market_view import MarketView
from kekbridge.planning.target import PositionChange, position_change

ZERO = Decimal(0)
BTC = Instrument(
    symbol="PERP_BTC_USDC", quote_min=ZERO, quote_max=Decimal(1_000_000), quote_tick=Decimal("0.1"), base_min=Decimal("0.00001"),
    base_max=Decimal(100), base_tick=Decimal("0.00001"), min_notional=Decimal(10), price_range=Decimal("0.03"),
    price_scope=Decimal("0.6"), base_imr=Decimal("0.02"), base_mmr=Decimal("0.01"), imr_factor=ZERO,
)  # fmt: skip


def message(action: str, quantity: str | None, before: str, now: str, **more: Any) -> dict[str, Any]:
    """A strategy's alert, from its signed positions before and after the fill."""

    def position_fields(prefix: str, signed: Decimal) -> dict[str, str]:
        side = "long" if signed > 0 else "short" if signed < 0 else "flat"
        size = prefix + "Position" + "Size" if prefix != "market" else "marketPositionSize"
        name = "marketPosition" if prefix == "market" else prefix + "Position"
        return {name: side, size: str(abs(signed))}

    fields = {
        "action": action,
        "symbol": "BTCUSDT.P",
        **position_fields("market", Decimal(now)),
        **position_fields("prevMarket", Decimal(before)),
    }
    return {**fields, **({"quantity": quantity} if quantity else {}), **more}


def read(fields: dict[str, Any], **settings: Any) -> Signal:
    alert = interpret(read_message(json.dumps(fields).encode()), WebhookSettings(**settings))
    (signal,) = alert.steps
    return signal


def refusal(fields: dict[str, Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        read(fields)
    return caught.value


def change(signal: Signal, held: str, **settings: Any) -> PositionChange:
    market = MarketView(
        instrument=BTC, unit_factor=Decimal(1), is_inverse=False, mark=Decimal(65000), fallback_price=None,
        projected=Decimal(held), account_value=Decimal(100_000),
    )  # fmt: skip
    return position_change(signal, settings=WebhookSettings(**settings), market=market)


@pytest.mark.parametrize(
    ("action", "quantity", "before", "now", "is_exit"),
    [
        ("buy", "0.5", "0", "0.5", False),
        ("sell", "0.5", "0", "-0.5", False),
        ("buy", "0.5", "0.5", "1", False),
        ("sell", "0.2", "0.5", "0.3", True),
        ("buy", "0.2", "-0.5", "-0.3", True),
        ("sell", "0.5", "0.5", "0", True),
        ("buy", "0.5", "-0.5", "0", True),
        ("sell", "1", "0.5", "-0.5", False),
        ("buy", "0.7", "-0.2", "0.5", False),
        ("sell", "0.30000000000000004", "0.3", "0", True),
        ("close", None, "0.5", "0", True),
        ("close", "0.2", "0.5", "0.3", True),
        ("flip", None, "0.5", "-0.5", False),
    ],
)
def test_consistent_alerts_are_read(action: str, quantity: str | None, before: str, now: str, is_exit: bool) -> None:
    """The target is kept, and a fill that only reduces the position is reduce-only."""
    signal = read(message(action, quantity, before, now))
    assert signal.target is not None
    assert (signal.target.previous_signed, signal.target.signed) == (Decimal(before), Decimal(now))
    assert signal.reduce_only is is_exit


@pytest.mark.parametrize(
    ("action", "quantity", "before", "now"),
    [
        ("buy", "0.5", "0.5", "0"),
        ("sell", "0.5", "0", "0.5"),
        ("buy", "0.5", "0", "0"),
        ("sell", "0.5", "0.5", "0.5"),
        ("buy", "0.4", "0", "0.5"),
        ("sell", "0.5", "0.5", "-0.5"),
        ("close", None, "0.5", "1"),
        ("close", None, "0.5", "-0.5"),
        ("close", None, "0.5", "0.5"),
        ("flip", None, "0.5", "1"),
    ],
)
def test_contradictions_are_refused(action: str, quantity: str | None, before: str, now: str) -> None:
    """Action and contracts must lead from the position before to the position after."""
    assert refusal(message(action, quantity, before, now)).code == "inconsistent_position"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"marketPosition": "long", "marketPositionSize": "0"}, "inconsistent_position"),
        ({"marketPosition": "flat", "marketPositionSize": "1"}, "inconsistent_position"),
        ({"marketPosition": "long", "marketPositionSize": "-1"}, "field_invalid"),
        ({"marketPosition": "long", "marketPositionSize": "na"}, "field_invalid"),
        ({"marketPosition": "long", "marketPositionSize": "1", "positionSize": "-1"}, "inconsistent_position"),
        ({"marketPosition": "short", "marketPositionSize": "1", "prevMarketPosition": "flat"}, "inconsistent_position"),
    ],
)
def test_impossible_positions_are_refused(fields: dict[str, str], code: str) -> None:
    """Side and size must agree, and a buy from flat never ends short."""
    assert refusal({"action": "buy", "symbol": "BTC", "quantity": "1", **fields}).code == code


def test_the_previous_position_is_derived() -> None:
    """Action, contracts and the position after the fill imply the position before."""
    signal = read({"action": "sell", "symbol": "SOL", "quantity": "12", "positionSize": "-12"})
    assert signal.target == TargetPosition(
        side=PositionSide.SHORT, size=Decimal(12), previous_side=PositionSide.FLAT, previous_size=ZERO
    )
    partial = read({"action": "sell", "symbol": "SOL", "quantity": "2", "positionSize": "3"})
    assert partial.reduce_only
    assert partial.target is not None
    assert partial.target.previous_signed == 5


def test_an_exit_needs_no_quantity() -> None:
    """A target of flat is enough."""
    assert read(message("sell", None, "0.5", "0")).reduce_only


SIZES = st.integers(min_value=-500, max_value=500).map(lambda n: Decimal(n) / 100)


@given(SIZES, SIZES)
def test_every_real_step_of_a_strategy_is_accepted(before: Decimal, now: Decimal) -> None:
    """No consistent fill is refused, and exits are exactly the fills that reduce the position without crossing zero."""
    if before == now:
        return
    action = "buy" if now > before else "sell"
    signal = read(message(action, str(abs(now - before)), str(before), str(now)))
    shrinks = before * now >= 0 and abs(now) < abs(before)
    assert signal.reduce_only is shrinks


@given(SIZES, SIZES, SIZES)
def test_a_wrong_quantity_is_never_accepted(before: Decimal, now: Decimal, quantity: Decimal) -> None:
    """Contracts that differ from the change of position are a contradiction."""
    if before == now or quantity <= 0 or quantity == abs(now - before):
        return
    assert (
        refusal(message("buy" if now > before else "sell", str(quantity), str(before), str(now))).code
        == "inconsistent_position"
    )


# ------------------------------------------------------------------------------------------- sizes of the trader's own

OWN = {"quantityType": "base"}
STEPS = [
    ("buy", "0", "0.5", "0", "0.02"),
    ("sell", "0.5", "-0.5", "0.02", "-0.02"),
    ("sell", "0.5", "-0.5", "0", "-0.02"),  # after a stop-out the new side is still opened
    ("sell", "0.5", "-0.5", "-0.02", "-0.02"),  # already there: nothing to do
    ("buy", "-0.5", "0.5", "-0.02", "0.02"),
    ("sell", "0.5", "0", "0.02", "0"),
    ("sell", "0.5", "0", "0", "0"),
    ("sell", "1", "0.5", "0.04", "0.02"),  # half of the strategy's position, half of ours
    ("buy", "0.5", "1", "0.02", "0.04"),
]


@pytest.mark.parametrize(("action", "before", "now", "held", "after"), STEPS)
@pytest.mark.parametrize("source", ["message", "lock", "default"])
def test_own_sizes_follow_the_strategys_steps(
    action: str, before: str, now: str, held: str, after: str, source: str
) -> None:
    """Entries and reversals have the trader's size, exits the strategy's proportion."""
    contracts = str(abs(Decimal(now) - Decimal(before)))
    if source == "message":
        signal = read(message(action, "0.02", before, now, **OWN))
    elif source == "lock":
        signal = read(message(action, contracts, before, now), locked={"quantity": "0.02"})
    else:
        signal = read(message(action, None, before, now), defaults={"quantity": "0.02"})
    decided = change(signal, held)
    assert Decimal(held) + decided.delta == Decimal(after)


def test_contracts_with_their_unit_written_out_are_still_contracts() -> None:
    """With quantityType base, a reversal's doubled {{strategy.order.contracts}} is not the trader's own size."""
    signal = read(message("sell", "1", "0.5", "-0.5", **OWN))
    assert signal.target is not None
    assert change(signal, "0").delta == Decimal("-0.5")


def test_percent_of_equity_with_a_strategys_position() -> None:
    """Entries are sized by equity, exits by the strategy."""
    entry = read(message("buy", "10", "0", "0.5", quantityType="percent_equity"))
    assert (entry.target, entry.quantity) == (None, Amount(Decimal(10), is_percent=True))
    exit_ = read(message("sell", "10", "0.5", "0", quantityType="percent_equity"))
    assert exit_.target is not None
    assert (exit_.reduce_only, exit_.quantity) == (True, None)
    partial = read(message("sell", "10", "0.5", "0.3", quantityType="percent_equity"))
    assert (partial.quantity_type, partial.quantity) == (
        QuantityType.PERCENT_POSITION,
        Amount(Decimal(40), is_percent=True),
    )


def test_position_mode_keeps_the_target() -> None:
    """In position mode the target counts, not the quantity."""
    signal = read(message("buy", "10", "0", "0.5", quantityType="percent_equity"), follow="position")
    assert signal.target is not None
    assert change(signal, "0", follow="position").delta == Decimal("0.5")
