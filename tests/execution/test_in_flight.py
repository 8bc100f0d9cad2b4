"""Lanes: what may be sent beside what, and that a place is never given twice or kept for ever."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.execution.in_flight import InFlightOrders, can_overlap, sent_only_after
from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType, Side
from tests.trading import ETH, NOW, PEPE, D, entry, exit_order


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
    lanes = InFlightOrders(concurrency=5)
    close, later = order("a", exit_order()), order("b", exit_order())
    assert lanes.try_add(close)
    assert not lanes.try_add(later)
    lanes.remove(later)
    assert not lanes.try_add(later)
    lanes.remove(close)
    lanes.remove(close)
    assert lanes.try_add(later)
    assert lanes.ids == {"b"}


def test_only_so_many_symbols_are_busy() -> None:
    """Concurrency counts symbols: another order of a busy one is no further lane."""
    lanes = InFlightOrders(concurrency=2)
    assert lanes.try_add(order("a"))
    assert lanes.try_add(order("b", entry(symbol=ETH)))
    assert not lanes.try_add(order("c", entry(symbol=PEPE)))
    lanes.remove(order("a"))
    assert lanes.try_add(order("c", entry(symbol=PEPE)))
    assert len(lanes) == 2


def test_an_order_enters_once() -> None:
    """The queue may show an order again before it is claimed: it must not be sent twice."""
    lanes = InFlightOrders(concurrency=5)
    assert lanes.try_add(order("a"))
    assert not lanes.try_add(order("a"))


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
    assert not can_overlap(other, [plain])
    assert not can_overlap(plain, [other])


def test_exits_wait_and_are_waited_for() -> None:
    """A close is sized by the position, which the entries before it are about to change."""
    assert not can_overlap(order("a", exit_order()), [order("b")])
    assert not can_overlap(order("a"), [order("b", exit_order())])


def test_an_entry_joins_when_the_exchange_took_those_before_it() -> None:
    """The order of admission is the order at the exchange: nobody leaves before the one in front is known to be there."""
    lanes = InFlightOrders(concurrency=1)
    first, second = order("a"), order("b")
    assert lanes.try_add(first)
    assert not lanes.try_add(second)
    lanes.mark_accepted(first, 1.0)
    assert lanes.try_add(second)
    assert not lanes.try_add(order("c"))


class Line:
    """Lanes whose exchange answered within 10 ms so far, and what those that stand in line were told."""

    def __init__(self, *names: str) -> None:
        self.lanes = InFlightOrders(concurrency=1)
        self.told: dict[str, bool] = {}
        self.orders = {name: order(name) for name in names}
        early = order("early")
        assert self.lanes.try_add(early)
        self.lanes.mark_accepted(early, 0.01)
        self.lanes.remove(early)
        for each in self.orders.values():
            assert self.lanes.try_add(each, pipelined=True)

    def wait(self, *names: str) -> None:
        for name in names:
            self.lanes.on_clear(self.orders[name], partial(self.told.__setitem__, name))


def test_in_line_each_is_told_when_the_one_before_it_is_taken() -> None:
    """Claimed together, sent one after the other: the first at once, each further one when the exchange has all before it."""
    line = Line("a", "b", "c")
    line.wait("c", "b", "a")
    assert line.told == {"a": True}
    line.lanes.mark_accepted(line.orders["a"], 0.01)
    assert line.told == {"a": True, "b": True}
    line.lanes.remove(line.orders["a"])
    assert "c" not in line.told
    line.lanes.mark_accepted(line.orders["b"], 0.01)
    assert line.told == {"a": True, "b": True, "c": True}


@pytest.mark.parametrize("ending", ["mark_blocked", "remove"])
@pytest.mark.parametrize("is_early", [True, False])
def test_behind_one_that_was_not_taken_nobody_leaves(ending: str, *, is_early: bool) -> None:
    """Refused, put off, unknown or given up: whoever stands behind it goes back to the queue, also one that asks only afterwards."""
    line = Line("a", "b", "c")
    if is_early:
        line.wait("a", "b", "c")
    getattr(line.lanes, ending)(line.orders["a"])
    if not is_early:
        line.wait("b", "c")
    assert (line.told["b"], line.told["c"]) == (False, False)
    assert not line.lanes.try_add(order("d"), pipelined=True)
    for name in ("a", "b", "c"):
        line.lanes.remove(line.orders[name])
    assert line.lanes.try_add(order("d"), pipelined=True)


def test_what_is_blocked_is_not_passable() -> None:
    """Nothing is claimed behind an order of which nobody knows, though it is under way still."""
    line = Line("a", "b")
    assert line.lanes.overlappable_ids == {"a", "b"}
    line.lanes.mark_blocked(line.orders["a"])
    assert line.lanes.overlappable_ids == frozenset()
    assert line.lanes.ids == {"a", "b"}


@pytest.mark.parametrize(("slowest_s", "longest"), [(0.001, 10), (0.025, 10), (0.1, 2), (0.2, 1), (3.0, 1)])
def test_the_line_is_as_long_as_the_exchange_is_quick(slowest_s: float, longest: int) -> None:
    """Claimed ahead is what should be through before its claim grows old; at a slow exchange nothing."""
    lanes = InFlightOrders(concurrency=1)
    for after_s in (0.001, slowest_s, 0.001):
        early = order("early")
        lanes.try_add(early)
        lanes.mark_accepted(early, after_s)
        lanes.remove(early)
    assert [lanes.try_add(order(str(number)), pipelined=True) for number in range(12)].count(True) == longest


def test_after_one_that_was_not_taken_lines_are_short() -> None:
    """Where one is refused the next one may be, too: nothing is claimed ahead until some were taken again."""
    line = Line("a")
    line.lanes.mark_blocked(line.orders["a"])
    line.lanes.remove(line.orders["a"])
    assert line.lanes.try_add(order("b"), pipelined=True)
    assert not line.lanes.try_add(order("c"), pipelined=True)


def test_before_the_first_answer_there_is_no_line() -> None:
    """Nobody knows yet how quick the exchange is."""
    lanes = InFlightOrders(concurrency=1)
    assert lanes.try_add(order("a"), pipelined=True)
    assert not lanes.try_add(order("b"), pipelined=True)


def test_only_the_front_enters_unclaimed() -> None:
    """An order that waits for its place in the rate window before it is claimed does not stand in line: it would not wait there."""
    line = Line("a")
    assert not line.lanes.try_add(order("b"))
    line.lanes.mark_accepted(line.orders["a"], 0.01)
    assert line.lanes.try_add(order("b"))


@given(st.lists(st.sampled_from(["line_up", "taken", "refused", "leave"]), max_size=40))
def test_the_order_of_the_line_is_the_order_of_leaving(steps: list[str]) -> None:
    """Whatever happens, an order is told to leave only when all that entered before it were taken or had left as taken."""
    lanes = InFlightOrders(concurrency=1)
    inside: list[Order] = []  # in the order of entering
    taken: set[str] = set()
    told: dict[str, bool] = {}
    for number, step in enumerate(["line_up", "taken", *steps]):
        in_front = [each for each in inside if told.get(each.client_order_id) and each.client_order_id not in taken]
        if step == "line_up":
            each = order(str(number))
            if lanes.try_add(each, pipelined=True):
                inside.append(each)
                lanes.on_clear(each, partial(told.__setitem__, str(number)))
        elif step == "taken" and in_front:
            taken.add(in_front[0].client_order_id)
            lanes.mark_accepted(in_front[0], 0.001)
        elif step == "refused" and in_front:
            lanes.mark_blocked(in_front[0])
            lanes.remove(in_front[0])
            inside.remove(in_front[0])
        elif step == "leave" and inside and inside[0].client_order_id in taken:
            lanes.remove(inside.pop(0))
        sent_off = [each for each in inside if told.get(each.client_order_id) is False]
        for each in sent_off:
            lanes.remove(each)
            inside.remove(each)
        leaving = [each for each in inside if told.get(each.client_order_id) and each.client_order_id not in taken]
        assert len(leaving) <= 1
        for each in leaving:
            assert all(other.client_order_id in taken for other in inside[: inside.index(each)])


def test_what_a_start_may_conclude() -> None:
    """Of two orders in flight the later one left only after the earlier was taken, where the lanes let it stand in line at all."""
    first, second = replace(order("a"), sequence=1), replace(order("b"), sequence=2)
    assert sent_only_after(second, first)
    assert not sent_only_after(first, second)
    assert not sent_only_after(second, replace(first, intent=entry(symbol=ETH)))
    assert not sent_only_after(second, replace(first, intent=entry(side=Side.SELL)))
    assert not sent_only_after(second, replace(first, intent=exit_order()))
    assert not sent_only_after(replace(second, intent=exit_order()), first)


@given(st.lists(st.sampled_from([Side.BUY, Side.SELL]), max_size=8))
def test_entries_join_their_own_side_only(sides: list[Side]) -> None:
    """Whatever the order of arrival, all orders under way in a lane are of one side."""
    lanes = InFlightOrders(concurrency=1)
    inside: list[Side] = []
    for number, side in enumerate(sides):
        each = order(str(number), entry(str(number + 1), side=side))
        if lanes.try_add(each):
            inside.append(side)
            lanes.mark_accepted(each, 1.0)
    assert len(set(inside)) <= 1
    assert len(inside) == sum(side is sides[0] for side in sides)
    assert len(lanes) == len(inside)
