"""Lanes: what may be sent beside what, and that a place is never given twice or kept for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.lanes import Lanes, may_join
from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType, Side
from tests.trading import ETH, NOW, PEPE, D, entry, exit_of


def order(name: str, intent: OrderIntent | None = None) -> Order:
    return Order(
        client_order_id=name,
        alert_id=f"alert of {name}",
        webhook_id="W",
        leg=0,
        sequence=0,
        intent=intent or entry(),
        status=OrderStatus.QUEUED,
        created_at=NOW,
        expires_at=NOW,
    )


def test_a_symbol_is_free_again_when_its_orders_left() -> None:
    """`leave` makes room, and calling it twice, or for an order that never entered, makes no more."""
    lanes = Lanes(concurrency=5)
    close, later = order("a", exit_of()), order("b", exit_of())
    assert lanes.enter(close)
    assert not lanes.enter(later)
    lanes.leave(later)
    assert not lanes.enter(later)
    lanes.leave(close)
    lanes.leave(close)
    assert lanes.enter(later)
    assert lanes.names == {"b"}


def test_only_so_many_symbols_are_busy() -> None:
    """Concurrency counts symbols: another order of a busy one is no further lane."""
    lanes = Lanes(concurrency=2)
    assert lanes.enter(order("a"))
    assert lanes.enter(order("b", entry(symbol=ETH)))
    assert not lanes.enter(order("c", entry(symbol=PEPE)))
    lanes.leave(order("a"))
    assert lanes.enter(order("c", entry(symbol=PEPE)))
    assert len(lanes) == 2


def test_an_order_enters_once() -> None:
    """The queue may show an order again before it is claimed: it must not be sent twice."""
    lanes = Lanes(concurrency=5)
    assert lanes.enter(order("a"))
    assert not lanes.enter(order("a"))


@pytest.mark.parametrize(
    "changes",
    [
        {"side": Side.SELL},
        {"order_type": OrderType.LIMIT, "limit_price": D(64_000)},
        {"stop_loss": D(60_000)},
        {"reduce_only": True},
        {"leverage": D(5)},
        {"target_quantity": D(1)},
        {"after_leg": 0},
        {"trailing_callback_rate": D("0.01")},
    ],
)
def test_whatever_depends_on_what_came_before_waits(changes: dict[str, Any]) -> None:
    """Another side, a size that follows from the position, a stop, a price, a leverage: in turn, and nothing joins it either."""
    plain, other = order("a"), order("b", entry(**changes))
    assert not may_join(other, [plain])
    assert not may_join(plain, [other])


def test_exits_wait_and_are_waited_for() -> None:
    """A close is sized by the position, which the entries before it are about to change."""
    assert not may_join(order("a", exit_of()), [order("b")])
    assert not may_join(order("a"), [order("b", exit_of())])


def test_an_entry_joins_when_the_exchange_took_those_before_it() -> None:
    """The order of admission is the order at the exchange: nobody leaves before the one in front is known to be there."""
    lanes = Lanes(concurrency=1)
    first, second = order("a"), order("b")
    assert lanes.enter(first)
    assert not lanes.enter(second)
    lanes.was_taken(first)
    assert lanes.enter(second)
    assert not lanes.enter(order("c"))


@given(st.lists(st.sampled_from([Side.BUY, Side.SELL]), max_size=8))
def test_entries_join_their_own_side_only(sides: list[Side]) -> None:
    """Whatever the order of arrival, all orders under way in a lane are of one side."""
    lanes = Lanes(concurrency=1)
    inside: list[Side] = []
    for number, side in enumerate(sides):
        each = order(str(number), entry(str(number + 1), side=side))
        if lanes.enter(each):
            inside.append(side)
            lanes.was_taken(each)
    assert len(set(inside)) <= 1
    assert len(inside) == sum(side is sides[0] for side in sides)
    assert len(lanes) == len(inside)
