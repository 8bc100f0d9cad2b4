"""Conservation laws under random orders, prices, funding and settlements: nothing is made, nothing is lost."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kekbridge.paper.codec import Refusal
from kekbridge.paper.models import ZERO
from tests.examples import examples
from tests.paper.bench import Bench

BTC, ETH = "PERP_BTC_USDC", "PERP_ETH_USDC"
START = {BTC: Decimal(65000), ETH: Decimal(1800)}

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
STORY = st.lists(st.one_of(ORDERS, ORDERS, ORDERS, PRICES, PRICES, FUNDING, SETTLE, CANCEL), max_size=30)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A directory for the many benches of one property."""
    return tmp_path


def play(bench: Bench, step: dict[str, object]) -> None:
    """One step of a story."""
    engine, venue = bench.venue.engine, bench.venue
    symbol = str(step.get("symbol", BTC))
    mark = engine.marks[symbol].price
    tick = engine.instruments[symbol].quote_tick
    match step["kind"]:
        case "order":
            quantity = Decimal(str(step["steps"])) * engine.instruments[symbol].base_tick * 5
            with engine.transaction():
                venue.arm({})
                venue.arm({"fault": "partial_fills", "parts": step["parts"], "count": 1})
            with contextlib.suppress(Refusal):
                bench.order(
                    symbol=symbol,
                    side=step["side"],
                    order_type=step["order_type"],
                    order_quantity=str(quantity),
                    order_price=str((mark // tick + int(str(step["ticks"]))) * tick),
                    reduce_only=step["reduce_only"],
                    margin_mode=step["margin_mode"],
                )
        case "price":
            bench.price(symbol, (mark * (1000 + int(str(step["move"]))) / 1000).quantize(tick))
        case "funding":
            with engine.transaction():
                venue.clearing.pay_funding(symbol, Decimal(int(str(step["rate"]))) / 10_000, bench.now)
                venue.liquidation.check()
        case "settle":
            with engine.transaction():
                venue.clearing.settle(None, bench.now)
        case "cancel":
            with engine.transaction():
                venue.trading.cancel_all(None)
    bench.run()


def owed_by_trades(bench: Bench) -> Decimal:
    """What the account is worth, reckoned from trades, liquidations and funding alone."""
    engine = bench.venue.engine
    worth = engine.account.started_with
    held = dict.fromkeys(engine.instruments, ZERO)
    for trade in engine.trades.values():
        quantity = trade.quantity if trade.side == "BUY" else -trade.quantity
        held[trade.symbol] += quantity
        worth -= quantity * trade.price + trade.fee
    for event in bench.ledger.journal():
        if event["event"] == "funding":
            worth -= Decimal(event["funding_fee"])
    return worth + sum((quantity * engine.marks[symbol].price for symbol, quantity in held.items()), ZERO)


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(story=STORY)
def test_value_equals_trades_fees_and_funding_exactly(room: Path, story: list[dict[str, object]]) -> None:
    """balance + Σ(position × mark − cost) = start − Σ(signed cash of trades) − fees − funding, to the last digit."""
    path = room / "paper.db"
    for old in room.glob("paper.db*"):
        old.unlink()
    bench = Bench(path)
    try:
        for step in story:
            play(bench, step)
        engine = bench.venue.engine
        if engine.entries["liquidations"]:
            return  # liquidation fees and the insurance fund are checked in test_liquidation
        value = engine.account.balance
        for position in engine.positions.values():
            value += position.qty * engine.marks[position.symbol].price - position.cost
        assert value == bench.venue.clearing.margin().account_value == owed_by_trades(bench)
    finally:
        bench.ledger.close()


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(story=STORY)
def test_orders_never_overfill_and_reduce_only_never_flips(room: Path, story: list[dict[str, object]]) -> None:
    """executed ≤ quantity, trades add up to executed, and no reduce-only fill opens or turns a position."""
    path = room / "paper.db"
    for old in room.glob("paper.db*"):
        old.unlink()
    bench = Bench(path)
    try:
        for step in story:
            play(bench, step)
        engine = bench.venue.engine
        held: dict[tuple[str, str], Decimal] = {}
        liquidated = bool(engine.entries["liquidations"])
        for trade in engine.trades.values():
            order = engine.orders[trade.order_id]
            key = (trade.symbol, trade.margin_mode)
            before = held.get(key, ZERO)
            after = before + (trade.quantity if trade.side == "BUY" else -trade.quantity)
            held[key] = after
            if order.reduce_only and not liquidated:
                assert abs(after) < abs(before)
                assert after * before >= 0
        for order in engine.orders.values():
            trades = engine.trades_of[order.order_id]
            assert order.executed == sum((t.quantity for t in trades), ZERO) <= order.quantity
            assert order.fee == sum((t.fee for t in trades), ZERO)
            assert (order.status == "FILLED") == (order.executed == order.quantity)
        if not liquidated:
            assert held == {key: p.qty for key, p in engine.positions.items() if key in held}
    finally:
        bench.ledger.close()


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(story=STORY)
def test_a_restart_changes_nothing(room: Path, story: list[dict[str, object]]) -> None:
    """What is read back from the file equals what was in memory, row by row."""
    path = room / "paper.db"
    for old in room.glob("paper.db*"):
        old.unlink()
    bench = Bench(path)
    for step in story:
        play(bench, step)
    before = bench.venue.engine
    bench.ledger.close()
    again = Bench(path)
    try:
        after = again.venue.engine
        assert after.account == before.account
        assert after.orders == before.orders
        assert after.trades == before.trades
        assert after.open_orders == before.open_orders
        stored = {key: p for key, p in before.positions.items() if p.updated}
        assert {key: p for key, p in after.positions.items() if p.updated} == stored
    finally:
        again.ledger.close()
