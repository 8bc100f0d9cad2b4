"""Invariants of the whole exchange under random orders, prices, funding, settlements and restarts."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kekbridge.paper.codec import ApiError
from kekbridge.paper.models import ZERO
from tests.examples import examples
from tests.paper.offline_exchange import OfflineExchange

BTC, ETH = "PERP_BTC_USDC", "PERP_ETH_USDC"

SYMBOLS = st.sampled_from([BTC, ETH])
ORDERS = st.fixed_dictionaries(
    {
        "kind": st.just("order"),
        "symbol": SYMBOLS,
        "side": st.sampled_from(["BUY", "SELL"]),
        "order_type": st.sampled_from(["MARKET", "LIMIT", "IOC", "FOK", "POST_ONLY"]),
        "steps": st.integers(20, 4000),
        "ticks": st.integers(-80, 80),
        "reduce_only": st.booleans(),
        "margin_mode": st.sampled_from(["CROSS", "CROSS", "ISOLATED"]),
        "parts": st.integers(1, 3),
    }
)
PRICES = st.fixed_dictionaries({"kind": st.just("price"), "symbol": SYMBOLS, "move": st.integers(-80, 80)})
FUNDING = st.fixed_dictionaries({"kind": st.just("funding"), "symbol": SYMBOLS, "rate": st.integers(-30, 30)})
SETTLE = st.just({"kind": "settle"})
CANCEL = st.just({"kind": "cancel"})
STEPS = st.lists(st.one_of(ORDERS, ORDERS, ORDERS, PRICES, PRICES, FUNDING, SETTLE, CANCEL), max_size=30)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for the database of each example."""
    return tmp_path


def apply_step(offline: OfflineExchange, step: dict[str, object]) -> None:
    """Apply one random step to the exchange."""
    state, exchange = offline.exchange.state, offline.exchange
    symbol = str(step.get("symbol", BTC))
    mark = state.marks[symbol].price
    tick = state.instruments[symbol].quote_tick
    match step["kind"]:
        case "order":
            quantity = Decimal(str(step["steps"])) * state.instruments[symbol].base_tick * 5
            with state.transaction():
                exchange.arm_faults({})
                exchange.arm_faults({"fault": "partial_fills", "parts": step["parts"], "count": 1})
            with contextlib.suppress(ApiError):
                offline.order(
                    symbol=symbol,
                    side=step["side"],
                    order_type=step["order_type"],
                    order_quantity=str(quantity),
                    order_price=str((mark // tick + int(str(step["ticks"]))) * tick),
                    reduce_only=step["reduce_only"],
                    margin_mode=step["margin_mode"],
                )
        case "price":
            offline.price(symbol, (mark * (1000 + int(str(step["move"]))) / 1000).quantize(tick))
        case "funding":
            with state.transaction():
                exchange.portfolio.pay_funding(symbol, Decimal(int(str(step["rate"]))) / 10_000, offline.now)
                exchange.liquidation.check()
        case "settle":
            with state.transaction():
                exchange.portfolio.settle(None, offline.now)
        case "cancel":
            with state.transaction():
                exchange.matching.cancel_all(None)
    offline.run()


def value_from_trades(offline: OfflineExchange) -> Decimal:
    """Return the account value computed from trades and funding alone."""
    state = offline.exchange.state
    worth = state.account.started_with
    held = dict.fromkeys(state.instruments, ZERO)
    for trade in state.trades.values():
        quantity = trade.quantity if trade.side == "BUY" else -trade.quantity
        held[trade.symbol] += quantity
        worth -= quantity * trade.price + trade.fee
    for event in offline.journal.events():
        if event["event"] == "funding":
            worth -= Decimal(event["funding_fee"])
    return worth + sum((quantity * state.marks[symbol].price for symbol, quantity in held.items()), ZERO)


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_value_equals_trades_fees_and_funding_exactly(directory: Path, steps: list[dict[str, object]]) -> None:
    """balance + Σ(position × mark − cost) = start − Σ(signed cash of trades) − fees − funding, to the last digit."""
    path = directory / "paper.db"
    for old in directory.glob("paper.db*"):
        old.unlink()
    offline = OfflineExchange(path)
    try:
        for step in steps:
            apply_step(offline, step)
        state = offline.exchange.state
        if state.history["liquidations"]:
            return  # liquidation fees and the insurance fund are tested in test_liquidation.py
        value = state.account.balance
        for position in state.positions.values():
            value += position.qty * state.marks[position.symbol].price - position.cost
        assert value == offline.exchange.portfolio.margin().account_value == value_from_trades(offline)
    finally:
        offline.journal.close()


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_orders_never_overfill_and_reduce_only_never_flips(directory: Path, steps: list[dict[str, object]]) -> None:
    """executed ≤ quantity, trades add up to executed, and no reduce-only fill opens or flips a position."""
    path = directory / "paper.db"
    for old in directory.glob("paper.db*"):
        old.unlink()
    offline = OfflineExchange(path)
    try:
        for step in steps:
            apply_step(offline, step)
        state = offline.exchange.state
        held: dict[tuple[str, str], Decimal] = {}
        liquidated = bool(state.history["liquidations"])
        for trade in state.trades.values():
            order = state.orders[trade.order_id]
            key = (trade.symbol, trade.margin_mode)
            before = held.get(key, ZERO)
            after = before + (trade.quantity if trade.side == "BUY" else -trade.quantity)
            held[key] = after
            if order.reduce_only and not liquidated:
                assert abs(after) < abs(before)
                assert after * before >= 0
        for order in state.orders.values():
            trades = state.trades_of[order.order_id]
            assert order.executed == sum((t.quantity for t in trades), ZERO) <= order.quantity
            assert order.fee == sum((t.fee for t in trades), ZERO)
            assert (order.status == "FILLED") == (order.executed == order.quantity)
        if not liquidated:
            assert held == {key: p.qty for key, p in state.positions.items() if key in held}
    finally:
        offline.journal.close()


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_restart_restores_every_row(directory: Path, steps: list[dict[str, object]]) -> None:
    """Rows read from the file equal those in memory."""
    path = directory / "paper.db"
    for old in directory.glob("paper.db*"):
        old.unlink()
    offline = OfflineExchange(path)
    for step in steps:
        apply_step(offline, step)
    before = offline.exchange.state
    offline.journal.close()
    again = OfflineExchange(path)
    try:
        after = again.exchange.state
        assert after.account == before.account
        assert after.orders == before.orders
        assert after.trades == before.trades
        assert after.open_orders == before.open_orders
        stored = {key: p for key, p in before.positions.items() if p.updated}
        assert {key: p for key, p in after.positions.items() if p.updated} == stored
    finally:
        again.journal.close()
