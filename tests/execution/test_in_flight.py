"""In-flight orders: which may be sent beside which; no order is added twice or kept after its removal."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.execution.in_flight import InFlightOrders, can_overlap, sent_only_after
from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType, Side
from tests.trading import ETH, NOW, PEPE, D, entry, exit_order


def order(client_order_id: str, intent: OrderIntent | None = None) -> Order:
    return Order(
        client_order_id=client_order_id,
        alert_id=f"alert of {client_order_id}",
        webhook_id="W",
        leg=0,
        sequence=0,
        intent=intent or entry(),
        status=OrderStatus.QUEUED,
        created_at=NOW,
        expires_at=NOW,
    )


def test_a_symbol_is_free_again_once_its_orders_are_removed() -> None:
    """Removing an order twice, or one that was never added, has no effect."""
    in_flight = InFlightOrders(concurrency=5)
    close, later = order("a", exit_order()), order("b", exit_order())
    assert in_flight.try_add(close)
    assert not in_flight.try_add(later)
    in_flight.remove(later)
    assert not in_flight.try_add(later)
    in_flight.remove(close)
    in_flight.remove(close)
    assert in_flight.try_add(later)
    assert in_flight.ids == {"b"}


def test_concurrency_limits_the_number_of_symbols() -> None:
    """Concurrency counts symbols, not orders."""
    in_flight = InFlightOrders(concurrency=2)
    assert in_flight.try_add(order("a"))
    assert in_flight.try_add(order("b", entry(symbol=ETH)))
    assert not in_flight.try_add(order("c", entry(symbol=PEPE)))
    in_flight.remove(order("a"))
    assert in_flight.try_add(order("c", entry(symbol=PEPE)))
    assert len(in_flight) == 2


def test_an_order_is_added_once() -> None:
    """The queue may show an order again before it is claimed: it must not be sent twice."""
    in_flight = InFlightOrders(concurrency=5)
    assert in_flight.try_add(order("a"))
    assert not in_flight.try_add(order("a"))


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
def test_an_order_that_depends_on_earlier_ones_overlaps_with_none(changes: dict[str, Any]) -> None:
    """Another side, a size that follows from the position, a stop, a price, a leverage: one after the other, in either order."""
    plain, other = order("a"), order("b", entry(**changes))
    assert not can_overlap(other, [plain])
    assert not can_overlap(plain, [other])


def test_exits_overlap_with_no_entry() -> None:
    """A close is sized by the position, which the entries before it are about to change."""
    assert not can_overlap(order("a", exit_order()), [order("b")])
    assert not can_overlap(order("a"), [order("b", exit_order())])


def test_an_entry_is_added_once_the_exchange_accepted_those_before_it() -> None:
    """The order of admission is the order at the exchange: no order is sent before the one ahead of it is known to be accepted."""
    in_flight = InFlightOrders(concurrency=1)
    first, second = order("a"), order("b")
    assert in_flight.try_add(first)
    assert not in_flight.try_add(second)
    in_flight.mark_accepted(first, 1.0)
    assert in_flight.try_add(second)
    assert not in_flight.try_add(order("c"))


class Pipeline:
    """Orders claimed ahead at an exchange that answered within 10 ms so far, and their `on_clear` callbacks' results."""

    def __init__(self, *names: str) -> None:
        self.in_flight = InFlightOrders(concurrency=1)
        self.called: dict[str, bool] = {}
        self.orders = {name: order(name) for name in names}
        early = order("early")
        assert self.in_flight.try_add(early)
        self.in_flight.mark_accepted(early, 0.01)
        self.in_flight.remove(early)
        for each in self.orders.values():
            assert self.in_flight.try_add(each, pipelined=True)

    def wait(self, *names: str) -> None:
        for name in names:
            self.in_flight.on_clear(self.orders[name], partial(self.called.__setitem__, name))


def test_a_claimed_order_is_clear_once_those_before_it_are_accepted() -> None:
    """Claimed together, sent one after the other: the first at once, each further one when the exchange has accepted all before it."""
    pipeline = Pipeline("a", "b", "c")
    pipeline.wait("c", "b", "a")
    assert pipeline.called == {"a": True}
    pipeline.in_flight.mark_accepted(pipeline.orders["a"], 0.01)
    assert pipeline.called == {"a": True, "b": True}
    pipeline.in_flight.remove(pipeline.orders["a"])
    assert "c" not in pipeline.called
    pipeline.in_flight.mark_accepted(pipeline.orders["b"], 0.01)
    assert pipeline.called == {"a": True, "b": True, "c": True}


@pytest.mark.parametrize("ending", ["mark_blocked", "remove"])
@pytest.mark.parametrize("is_early", [True, False])
def test_orders_behind_one_that_was_not_accepted_are_not_clear(ending: str, *, is_early: bool) -> None:
    """Rejected, deferred, unknown or removed: those behind it are requeued, including one that registers its callback only afterwards."""
    pipeline = Pipeline("a", "b", "c")
    if is_early:
        pipeline.wait("a", "b", "c")
    getattr(pipeline.in_flight, ending)(pipeline.orders["a"])
    if not is_early:
        pipeline.wait("b", "c")
    assert (pipeline.called["b"], pipeline.called["c"]) == (False, False)
    assert not pipeline.in_flight.try_add(order("d"), pipelined=True)
    for name in ("a", "b", "c"):
        pipeline.in_flight.remove(pipeline.orders[name])
    assert pipeline.in_flight.try_add(order("d"), pipelined=True)


def test_nothing_overlaps_with_a_blocked_order() -> None:
    """Nothing is claimed behind an order of unknown outcome, although it is still in flight."""
    pipeline = Pipeline("a", "b")
    assert pipeline.in_flight.overlappable_ids == {"a", "b"}
    pipeline.in_flight.mark_blocked(pipeline.orders["a"])
    assert pipeline.in_flight.overlappable_ids == frozenset()
    assert pipeline.in_flight.ids == {"a", "b"}


@pytest.mark.parametrize(("slowest_s", "depth"), [(0.001, 10), (0.025, 10), (0.1, 2), (0.2, 1), (3.0, 1)])
def test_the_pipeline_is_deeper_at_a_faster_exchange(slowest_s: float, depth: int) -> None:
    """As many orders are claimed ahead as should be accepted before their claims expire; at a slow exchange none."""
    in_flight = InFlightOrders(concurrency=1)
    for after_s in (0.001, slowest_s, 0.001):
        early = order("early")
        in_flight.try_add(early)
        in_flight.mark_accepted(early, after_s)
        in_flight.remove(early)
    assert [in_flight.try_add(order(str(number)), pipelined=True) for number in range(12)].count(True) == depth


def test_nothing_is_claimed_ahead_after_an_order_that_was_not_accepted() -> None:
    """Where one is rejected the next may be too: nothing is claimed ahead until some are accepted again."""
    pipeline = Pipeline("a")
    pipeline.in_flight.mark_blocked(pipeline.orders["a"])
    pipeline.in_flight.remove(pipeline.orders["a"])
    assert pipeline.in_flight.try_add(order("b"), pipelined=True)
    assert not pipeline.in_flight.try_add(order("c"), pipelined=True)


def test_nothing_is_claimed_ahead_before_the_first_response() -> None:
    """How fast the exchange is is not known yet."""
    in_flight = InFlightOrders(concurrency=1)
    assert in_flight.try_add(order("a"), pipelined=True)
    assert not in_flight.try_add(order("b"), pipelined=True)


def test_an_unclaimed_order_is_added_only_if_it_may_be_sent_now() -> None:
    """An order that acquires its permit before it is claimed cannot wait behind others: it would not wait for `on_clear`."""
    pipeline = Pipeline("a")
    assert not pipeline.in_flight.try_add(order("b"))
    pipeline.in_flight.mark_accepted(pipeline.orders["a"], 0.01)
    assert pipeline.in_flight.try_add(order("b"))


@given(st.lists(st.sampled_from(["add", "accept", "block", "remove"]), max_size=40))
def test_orders_are_sent_in_the_order_they_were_added(steps: list[str]) -> None:
    """Whatever happens, an order is clear only when all that were added before it are accepted, or were removed after that."""
    in_flight = InFlightOrders(concurrency=1)
    added: list[Order] = []  # in the order of addition
    accepted: set[str] = set()
    cleared: dict[str, bool] = {}
    for number, step in enumerate(["add", "accept", *steps]):
        sendable = [
            each for each in added if cleared.get(each.client_order_id) and each.client_order_id not in accepted
        ]
        if step == "add":
            each = order(str(number))
            if in_flight.try_add(each, pipelined=True):
                added.append(each)
                in_flight.on_clear(each, partial(cleared.__setitem__, str(number)))
        elif step == "accept" and sendable:
            accepted.add(sendable[0].client_order_id)
            in_flight.mark_accepted(sendable[0], 0.001)
        elif step == "block" and sendable:
            in_flight.mark_blocked(sendable[0])
            in_flight.remove(sendable[0])
            added.remove(sendable[0])
        elif step == "remove" and added and added[0].client_order_id in accepted:
            in_flight.remove(added.pop(0))
        requeued = [each for each in added if cleared.get(each.client_order_id) is False]
        for each in requeued:
            in_flight.remove(each)
            added.remove(each)
        sendable = [
            each for each in added if cleared.get(each.client_order_id) and each.client_order_id not in accepted
        ]
        assert len(sendable) <= 1
        for each in sendable:
            assert all(other.client_order_id in accepted for other in added[: added.index(each)])


def test_what_a_start_may_conclude() -> None:
    """Of two orders in flight the later one was sent only after the earlier was accepted, if the two may overlap at all."""
    first, second = replace(order("a"), sequence=1), replace(order("b"), sequence=2)
    assert sent_only_after(second, first)
    assert not sent_only_after(first, second)
    assert not sent_only_after(second, replace(first, intent=entry(symbol=ETH)))
    assert not sent_only_after(second, replace(first, intent=entry(side=Side.SELL)))
    assert not sent_only_after(second, replace(first, intent=exit_order()))
    assert not sent_only_after(replace(second, intent=exit_order()), first)


@given(st.lists(st.sampled_from([Side.BUY, Side.SELL]), max_size=8))
def test_only_entries_of_one_side_overlap(sides: list[Side]) -> None:
    """Whatever the order of arrival, all orders of a symbol in flight are of one side."""
    in_flight = InFlightOrders(concurrency=1)
    added: list[Side] = []
    for number, side in enumerate(sides):
        each = order(str(number), entry(str(number + 1), side=side))
        if in_flight.try_add(each):
            added.append(side)
            in_flight.mark_accepted(each, 1.0)
    assert len(set(added)) <= 1
    assert len(added) == sum(side is sides[0] for side in sides)
    assert len(in_flight) == len(added)
