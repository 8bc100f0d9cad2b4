"""What the protection controller does next, decided without an exchange: one step at a time, and in simulated markets over many."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.execution.protection_plan import (
    CancelExits,
    CancelOrder,
    Coverage,
    EntryExits,
    ExitOrder,
    ExitPlan,
    Market,
    Memory,
    Place,
    Role,
    Withdraw,
    after_outage,
    plan_exits,
    role_of,
    share_position,
    slot_of,
    unclosed_quantity,
)
from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType, Purpose, Side, TakeProfit
from kekbridge.model.orders import ExitKind, ExitStatus, OrderStatusReport
from tests.store.factories import NOW, intent, status_report
from tests.trading import instrument as market_rules

D = Decimal
S = OrderStatus
BTC = market_rules(base_tick=D("0.0001"), base_min=D("0.0001"), base_max=D(10), quote_tick=D("0.1"))


def entry(executed: str = "0.02", status: OrderStatus = S.FILLED, **changes: Any) -> Order:
    """A long entry at 65,000 with a stop at 60,000."""
    wanted = intent(**{"quantity": D("0.02"), "stop_loss": D(60_000), **changes})
    return _order(wanted, leg=0, status=status, executed=executed)


def _order(wanted: OrderIntent, *, leg: int, status: OrderStatus, executed: str = "0", attempt: int = 1) -> Order:
    return Order(
        client_order_id=f"kb-{leg}",
        alert_id="a",
        webhook_id="w",
        leg=leg,
        sequence=leg,
        intent=wanted,
        status=status,
        created_at=NOW,
        expires_at=NOW,
        executed_quantity=D(executed),
        attempt=attempt,
        finished_at=NOW if status.is_final else None,
    )


def bracket(
    *, stop: str = "0.02", take_profit: OrderStatus | None = None, closed: str = "0", size: str = "0.02"
) -> OrderStatusReport:
    """The exchange's report of a filled bracket; `stop`: size of its live stop loss, 0: none; `size`: of its take-profit."""
    is_live = D(stop) > 0
    legs = [
        ExitStatus(
            kind=ExitKind.STOP_LOSS,
            trigger_price=D(60_000),
            status=S.ACCEPTED if is_live else S.REJECTED,
            executed_quantity=D(closed),
        )
    ]
    if take_profit is not None:
        legs.append(
            ExitStatus(kind=ExitKind.TAKE_PROFIT, trigger_price=D(70_000), status=take_profit, executed_quantity=D(0))
        )
    return status_report(
        "kb-0",
        S.FILLED,
        D("0.02"),
        is_algo=True,
        stop_is_live=is_live,
        live_stop_quantity=D(stop),
        live_take_profit_quantity=D(size if take_profit is S.ACCEPTED else 0),
        exits=tuple(legs),
    )


def stop_intent(quantity: str = "0.02", trigger: str = "60000", **changes: Any) -> OrderIntent:
    values: dict[str, Any] = {
        "side": Side.SELL,
        "order_type": OrderType.STOP,
        "quantity": D(quantity),
        "purpose": Purpose.PROTECT,
        "reduce_only": True,
        "reference_price": D(trigger),
        "trigger_price": D(trigger),
        "after_leg": 0,
    }
    return intent(**values | changes)


TRAILING = stop_intent(trailing_callback_rate=D("0.02"), trigger_price=None, reference_price=D(65_000))


def placed(
    wanted: OrderIntent,
    status: OrderStatus = S.ACCEPTED,
    *,
    executed: str = "0",
    age_s: float = 10.0,
    leg: int = 50,
    is_found: bool = True,
    attempt: int = 1,
) -> ExitOrder:
    """An order that was added, and the exchange's report about it."""
    order = _order(wanted, leg=leg, status=status, executed=executed, attempt=attempt)
    report = None
    if is_found and status in (S.ACCEPTED, S.PARTIALLY_FILLED, S.FILLED):
        report = status_report(order.client_order_id, status, D(executed), quantity=wanted.quantity)
    return ExitOrder(order=order, report=report, age_s=age_s)


def plan(
    view: EntryExits,
    *,
    position: str = "0.02",
    mark: str = "65000",
    memory: Memory | None = None,
    elapsed_s: float = 0.5,
    busy: Any = (),
    **market: Any,
) -> ExitPlan:
    return plan_exits(
        view,
        Market(instrument=BTC, position=D(position), mark=D(mark), **market),
        memory or Memory(naked_s=2.0),
        elapsed_s=elapsed_s,
        place_within_s=3.0,
        busy=busy,
    )


def places(found: ExitPlan) -> list[tuple[Role, Decimal]]:
    return [(role_of(each.intent), each.intent.quantity) for each in found.actions if isinstance(each, Place)]


def stopped(*orders: ExitOrder, report: OrderStatusReport | None = None, **changes: Any) -> EntryExits:
    values: dict[str, Any] = {"entry": entry(), "report": report or bracket(stop="0"), "wants_stop": True}
    return EntryExits(orders=orders, **values | changes)


# ------------------------------------------------------------------------------------------------------------------- stop loss


def test_a_live_stop_needs_nothing() -> None:
    """The bracket's stop is as large as the position: settled, and what covers it is the entry's own."""
    found = plan(stopped(report=bracket()))
    assert (found.actions, found.stop, found.is_settled, found.uncovered) == ((), Coverage.OWN, True, D(0))


@pytest.mark.parametrize(
    ("position", "wanted"),
    [("0.02", "0.02"), ("0.0123456", "0.0123"), ("0.00019", "0.0001"), ("0.00009", None)],
)
def test_a_missing_stop_has_the_size_of_what_is_left(position: str, wanted: str | None) -> None:
    """Rounded down to the step; a remainder below the smallest order can be neither covered nor closed."""
    found = plan(stopped(), position=position)
    assert places(found) == ([] if wanted is None else [(Role.STOP, D(wanted))])
    assert found.stop is (Coverage.DUST if wanted is None else Coverage.MISSING)
    assert found.dust == D(position) - D(wanted or 0)


def test_prices_are_on_the_grid_as_it_is_now() -> None:
    """The tick has become coarser since the entry: a stop is never looser for it, a take-profit never farther away."""
    coarse = replace(BTC, quote_tick=D(7))
    view = replace(_laddered(), report=bracket(stop="0"))
    found = plan_exits(
        view,
        Market(instrument=coarse, position=D("0.02"), mark=D(65_000)),
        Memory(naked_s=1.0),
        elapsed_s=0.5,
        place_within_s=3.0,
    )
    stop, near, far = (each.intent for each in found.actions if isinstance(each, Place))
    assert stop.trigger_price == D(60_004)
    assert [each.take_profits[0].trigger_price for each in (near, far)] == [D(65_996), D(66_997)]
    live = placed(_take_profit("0.01", "65996"))
    assert [role for role, _ in places(plan(replace(view, orders=(live,))))].count(Role.TAKE_PROFIT) == 2
    again = plan_exits(
        replace(view, orders=(live,)),
        Market(instrument=coarse, position=D("0.02"), mark=D(65_000)),
        Memory(naked_s=1.0),
        elapsed_s=0.5,
        place_within_s=3.0,
    )
    assert [role for role, _ in places(again)].count(Role.TAKE_PROFIT) == 1


def test_a_stop_above_the_largest_order_is_placed_in_parts() -> None:
    """At most base_max each; the next part follows once the first is live."""
    view = stopped(entry=entry("25", quantity=D(25)))
    assert places(plan(view, position="25")) == [(Role.STOP, D(10))]
    first = placed(stop_intent("10"))
    assert places(plan(replace(view, orders=(first,)), position="25")) == [(Role.STOP, D(10))]
    second = placed(stop_intent("10"), leg=51)
    assert places(plan(replace(view, orders=(first, second)), position="25")) == [(Role.STOP, D(5))]


def test_a_refused_stop_is_sent_again_as_the_same_order() -> None:
    """The draft is used again, with the size that is missing now."""
    draft = placed(stop_intent("0.02"), S.QUEUED)
    (action,) = plan(stopped(draft), position="0.01").actions
    assert isinstance(action, Place)
    assert (action.draft, action.intent.quantity) == (draft.order, D("0.01"))


@pytest.mark.parametrize("naked_s", [0.0, 2.9, 3.0, 100.0])
def test_the_position_is_closed_when_its_stop_is_missing_for_too_long(naked_s: float) -> None:
    """Before `place_within_s` the stop is placed, from then on the uncovered part is closed."""
    found = plan(stopped(), memory=Memory(naked_s=naked_s), elapsed_s=0.0)
    assert places(found) == [(Role.CLOSE if naked_s >= 3.0 else Role.STOP, D("0.02"))]
    assert found.memory.naked_s == naked_s


def test_after_an_outage_the_stop_is_tried_first() -> None:
    """Time in which nobody was answered does not count; when it is over and the deadline has passed, the stop comes before the close."""
    memory = after_outage(Memory(naked_s=60.0))
    first = plan(stopped(), memory=memory, elapsed_s=0.0)
    assert places(first) == [(Role.STOP, D("0.02"))]
    assert places(plan(stopped(), memory=first.memory, elapsed_s=2.0)) == [(Role.CLOSE, D("0.02"))]


def test_a_stop_that_the_price_has_passed_is_a_close() -> None:
    """A stop order would be refused, so the uncovered part is closed at once, unless the entry's own exit is being matched."""
    assert places(plan(stopped(), mark="59999")) == [(Role.CLOSE, D("0.02"))]
    assert places(plan(stopped(), mark="59999", memory=Memory(was_live=True))) == []


def test_no_second_close_before_the_first_is_resolved() -> None:
    """It could close a position that is not this entry's."""
    close = stop_intent(order_type=OrderType.MARKET, trigger_price=None)
    pending = placed(close, S.UNKNOWN, is_found=False)
    assert places(plan(stopped(pending), memory=Memory(naked_s=10.0))) == []


def test_a_stop_without_an_answer_is_sent_again_soon() -> None:
    """Two stops do less harm than none: not within the first second, then as an order of its own."""
    for age_s, count in ((0.5, 0), (1.5, 1)):
        pending = placed(stop_intent(), S.SUBMITTING, age_s=age_s, is_found=False)
        assert len(places(plan(stopped(pending)))) == count


def test_a_slot_that_is_busy_is_left_alone() -> None:
    """An order of this kind is being sent, or waits for its next try."""
    assert plan(stopped(), busy={(Role.STOP, None)}).actions == ()


def test_a_stop_too_many_is_cancelled() -> None:
    """The bracket's stop was only invisible: after longer than a read may lag the other goes."""
    view = stopped(placed(stop_intent()), report=bracket())
    found = plan(view)
    assert (found.actions, found.is_settled) == ((), False)
    (action,) = plan(view, memory=replace(found.memory, surplus_s=4.0)).actions
    assert isinstance(action, CancelOrder)


def test_exits_go_with_their_position() -> None:
    """Live ones are cancelled, drafts withdrawn; then it is over."""
    live, draft = placed(stop_intent()), placed(stop_intent(), S.QUEUED, leg=51)
    found = plan(stopped(live, draft, is_closed=True), position="0", is_flat=True)
    assert {type(action) for action in found.actions} == {CancelOrder, Withdraw}
    assert plan(stopped(is_closed=True), position="0", is_flat=True).is_over


def test_the_own_exits_of_a_webhook_that_left_are_cancelled() -> None:
    """Where another webhook still holds a position, the exchange does not remove them."""
    view = stopped(report=bracket(), is_closed=True)
    assert [type(action) for action in plan(view, position="0").actions] == [CancelExits]
    assert plan(view, position="0", is_flat=True).actions == ()


def test_an_own_stop_larger_than_the_webhooks_part_is_replaced() -> None:
    """First one of the right size, then the large one goes; never without a stop in between, and only beside what others hold."""
    view = stopped(report=bracket())
    assert plan(view, position="0.01").actions == ()
    found = plan(view, position="0.01", is_shared=True)
    assert (places(found), found.stop, found.uncovered) == ([(Role.STOP, D("0.01"))], Coverage.OWN, D(0))
    replaced = plan(replace(view, orders=(placed(stop_intent("0.01")),)), position="0.01", is_shared=True)
    assert [type(action) for action in replaced.actions] == [CancelExits]


def test_an_added_stop_larger_than_what_is_left_is_replaced() -> None:
    """As the entry's own: alone it stays, since the exchange cuts it; beside others its successor comes first, and must be visible."""
    large, small = placed(stop_intent("0.02")), placed(stop_intent("0.01"), leg=51)
    assert plan(stopped(large), position="0.01").actions == ()
    found = plan(stopped(large), position="0.01", is_shared=True)
    assert (places(found), found.stop, found.uncovered) == ([(Role.STOP, D("0.01"))], Coverage.REPLACED, D(0))
    unseen = placed(stop_intent("0.01"), age_s=0.5, leg=51, is_found=False)
    assert plan(stopped(large, unseen), position="0.01", is_shared=True).actions == ()
    assert plan(stopped(large, small), position="0.01", is_shared=True).actions == (CancelOrder(large.order),)
    settled = plan(stopped(small), position="0.01", is_shared=True)
    assert (settled.actions, settled.stop, settled.is_settled) == ((), Coverage.REPLACED, True)


def test_a_large_stop_is_no_reason_to_close() -> None:
    """Its successor is refused for longer than the deadline: what is left is covered by the large one all the while."""
    found = plan(stopped(report=bracket()), position="0.01", is_shared=True, memory=Memory(naked_s=100.0))
    assert (places(found), found.memory.naked_s) == ([(Role.STOP, D("0.01"))], 0.0)


def test_a_stop_of_dust_does_not_close_what_others_hold() -> None:
    """What is left is below the smallest order: no stop can cover it, and the large one would close far more."""
    found = plan(stopped(report=bracket()), position="0.00005", is_shared=True)
    assert [type(action) for action in found.actions] == [CancelExits]
    assert plan(stopped(report=bracket()), position="0.00005").actions == ()


def test_the_exits_of_an_entry_that_executes_follow_it() -> None:
    """Their size may be reported as that of the whole order before it has filled."""
    view = stopped(entry=entry("0.01", S.PARTIALLY_FILLED), report=bracket())
    assert plan(view, position="0.01", is_shared=True).actions == ()


# ------------------------------------------------------------------------------------------------------------------ take-profits


def _take_profit(quantity: str, trigger: str = "66000") -> OrderIntent:
    return stop_intent(
        quantity,
        order_type=OrderType.MARKET,
        trigger_price=None,
        take_profits=(TakeProfit(D(trigger), D(quantity)),),
    )


def _laddered(*orders: ExitOrder, **changes: Any) -> EntryExits:
    ladder = (_take_profit("0.01"), _take_profit("0.01", "67000"))
    return stopped(*orders, report=bracket(), take_profits=ladder, **changes)


def test_missing_take_profits_are_placed_and_never_close_the_position() -> None:
    """However long they are missing."""
    found = plan(_laddered(), memory=Memory(naked_s=10_000.0))
    assert places(found) == [(Role.TAKE_PROFIT, D("0.01"))] * 2


def test_a_take_profit_that_filled_is_not_placed_again() -> None:
    """Nor one that is live, or whose outcome is not known."""
    filled = placed(_take_profit("0.01"), S.FILLED, executed="0.01")
    pending = placed(_take_profit("0.01", "67000"), S.UNKNOWN, is_found=False, leg=51)
    assert places(plan(_laddered(filled, pending), position="0.01")) == []


def test_a_take_profit_too_many_is_cancelled() -> None:
    """The first was only invisible when the second was placed; parts that grew with the entry's fills all stay."""
    first = placed(_take_profit("0.01"))
    second = placed(_take_profit("0.01"), leg=51)
    other = placed(_take_profit("0.01", "67000"), leg=52)
    assert plan(_laddered(first, second, other)).actions == (CancelOrder(second.order),)
    parts = (placed(_take_profit("0.004")), placed(_take_profit("0.006"), leg=51))
    assert plan(_laddered(*parts, other)).actions == ()


@pytest.mark.parametrize("triggers", [("66000", "66000"), ("66000", "66000.04")], ids=["equal", "equal on the grid"])
def test_levels_of_one_price_are_one_order(triggers: tuple[str, str]) -> None:
    """Of their whole quantity, also if only the rounding to the tick makes them equal; what is live or executed counts once."""
    ladder = tuple(_take_profit("0.006", trigger) for trigger in triggers)
    view = stopped(report=bracket(), take_profits=ladder)
    assert places(plan(view)) == [(Role.TAKE_PROFIT, D("0.012"))]
    first = placed(_take_profit("0.006"))
    assert places(plan(replace(view, orders=(first,)))) == [(Role.TAKE_PROFIT, D("0.006"))]
    second = placed(_take_profit("0.006"), S.FILLED, executed="0.006", leg=51)
    assert plan(replace(view, orders=(first, second))).actions == ()


def test_a_take_profit_larger_than_what_is_left_is_replaced() -> None:
    """Beside others only: the large one goes first, since both would close more than is left."""
    view = stopped(placed(_take_profit("0.02")), report=bracket(stop="0"), wants_stop=False)
    view = replace(view, take_profits=(_take_profit("0.02"),))
    assert plan(view, position="0.01").actions == ()
    assert plan(view, position="0.01", is_shared=True).actions == (CancelOrder(view.orders[0].order),)
    gone = replace(view, orders=(placed(_take_profit("0.02"), S.CANCELED),))
    assert places(plan(gone, position="0.01", is_shared=True)) == [(Role.TAKE_PROFIT, D("0.01"))]


@pytest.mark.parametrize("has_stop", [False, True])
def test_the_own_take_profit_larger_than_what_is_left_is_replaced(has_stop: bool) -> None:
    """Also of a bracket without a stop, or whose stop was lost and placed again; not while it fires."""
    stops = (placed(stop_intent("0.01")),) if has_stop else ()
    view = stopped(*stops, report=bracket(stop="0", take_profit=S.ACCEPTED), wants_stop=has_stop)
    assert plan(view, position="0.01").actions == ()
    assert [type(action) for action in plan(view, position="0.01", is_shared=True).actions] == [CancelExits]
    fired = plan(view, position="0.01", is_shared=True, mark="70001")
    assert (fired.actions, fired.is_settled) == ((), False)
    gone = replace(view, report=bracket(stop="0", take_profit=S.CANCELED))
    assert places(plan(gone, position="0.01", is_shared=True)) == [(Role.TAKE_PROFIT, D("0.01"))]


def test_a_take_profit_that_the_price_has_passed_closes_its_share() -> None:
    """A trigger order would be refused."""
    (first, _) = (each for each in plan(_laddered(), mark="66500").actions if isinstance(each, Place))
    assert (first.intent.take_profits, first.intent.signal_price) == ((), D(66_000))
    assert slot_of(first.intent) == (Role.TAKE_PROFIT, D(66_000))


@pytest.mark.parametrize("status", [S.CANCELED, S.REJECTED])
def test_a_lost_take_profit_of_the_bracket_is_placed_again(status: OrderStatus) -> None:
    """It ended without trading although the position is open."""
    found = plan(stopped(report=bracket(take_profit=status)))
    assert places(found) == [(Role.TAKE_PROFIT, D("0.02"))]


# --------------------------------------------------------------------------------------------------------------- trailing stops


def _trailed(*orders: ExitOrder) -> EntryExits:
    return EntryExits(entry=entry(stop_loss=None), report=None, orders=orders, trailing=TRAILING)


def _draft(attempt: int = 1) -> ExitOrder:
    return placed(TRAILING, S.QUEUED, leg=1, attempt=attempt)


def test_a_trailing_stop_is_sent_once_its_entry_has_executed() -> None:
    """With what the entry executed, under its own id."""
    (action,) = plan(_trailed(_draft(attempt=0)), position="0.015").actions
    assert isinstance(action, Place)
    assert (action.draft, action.intent.quantity) == (_draft(attempt=0).order, D("0.015"))


def test_a_failed_trailing_stop_gets_a_plain_stop_beside_it() -> None:
    """Measured from the best price since the entry, rounded to the tighter side."""
    found = plan(_trailed(_draft()), mark="65000", memory=Memory(best=D("66000.01")))
    assert places(found) == [(Role.TRAILING, D("0.02")), (Role.FALLBACK, D("0.02"))]
    (_, fallback) = (each.intent for each in found.actions if isinstance(each, Place))
    assert fallback.trigger_price is not None
    assert fallback.trigger_price >= D("66000.01") * D("0.98")
    assert fallback.trigger_price % BTC.quote_tick == 0


def test_a_price_beyond_the_trailing_stop_is_a_close() -> None:
    """As the trailing stop would have done; however long it is missing, nothing else closes the position."""
    assert (Role.CLOSE, D("0.02")) in places(plan(_trailed(_draft()), mark="63000", memory=Memory(best=D(65_000))))
    late = plan(_trailed(_draft()), memory=Memory(naked_s=10_000.0))
    assert Role.CLOSE not in {role for role, _ in places(late)}


def test_the_fallback_goes_once_the_trailing_stop_has_caught_up() -> None:
    """Until then the tighter of the two stays beside it."""
    fallback = placed(stop_intent(trigger="64680", signal_price=D(66_000)))
    view = _trailed(placed(TRAILING, leg=1), fallback)
    assert plan(view, mark="65000").actions == ()
    (action,) = plan(view, mark="66000").actions
    assert action == CancelOrder(fallback.order)


def test_a_larger_trailing_stop_goes_when_nothing_is_lost_by_it() -> None:
    """Beside others. A new one starts from the mark: a plain stop stays where the old one would fire until it has caught up."""
    old, new = placed(TRAILING, leg=1), placed(replace(TRAILING, quantity=D("0.01")), leg=51)
    assert old.report is not None
    old = replace(old, report=replace(old.report, extreme_price=D(66_000)))  # nothing else has seen this price
    assert plan(_trailed(old), position="0.01").actions == ()
    first = plan(_trailed(old), position="0.01", is_shared=True)
    assert places(first) == [(Role.TRAILING, D("0.01"))]
    second = plan(_trailed(old, new), position="0.01", memory=first.memory, is_shared=True)
    assert places(second) == [(Role.FALLBACK, D("0.01"))]
    fallback = placed(stop_intent("0.01", trigger="64680", signal_price=D(66_000)), leg=52)
    third = plan(_trailed(old, new, fallback), position="0.01", memory=second.memory, is_shared=True)
    assert third.actions == (CancelOrder(old.order),)
    view = _trailed(new, fallback)
    assert plan(view, position="0.01", memory=third.memory, is_shared=True).actions == ()
    last = plan(view, position="0.01", memory=third.memory, is_shared=True, mark="66000")
    assert last.actions == (CancelOrder(fallback.order),)


def test_a_restart_remembers_the_best_price_of_the_last_fallback() -> None:
    """It is stored with the order."""
    fallback = placed(stop_intent(trigger="64680", signal_price=D(66_000)))
    found = plan(_trailed(_draft(), fallback), mark="65000", memory=Memory())
    assert found.memory.best == D(66_000)
    assert places(found) == [(Role.TRAILING, D("0.02"))]


@given(
    moves=st.lists(st.tuples(st.integers(-80, 80), st.booleans()), max_size=40),
    side=st.sampled_from(Side),
)
def test_the_fallback_is_never_looser_than_the_trailing_stop(moves: list[tuple[int, bool]], side: Side) -> None:
    """Whatever the price does and whichever creates fail: a fallback is tighter than the trailing stop when it is placed, and the position
    is closed only at a price at which the trailing stop would have fired."""
    trailing = replace(TRAILING, side=side.opposite)
    view = EntryExits(entry=entry(stop_loss=None, side=side), report=None, orders=(), trailing=trailing)
    memory, mark, best = Memory(), D(65_000), D(65_000)
    drafts = (replace(_draft(), order=replace(_draft().order, intent=trailing)),)
    live: tuple[ExitOrder, ...] = ()
    for index, (move, is_refused) in enumerate(moves):
        mark += 10 * move
        best = max(best, mark) if side is Side.BUY else min(best, mark)
        level = best * (1 - side.sign * D("0.02"))
        found = plan(replace(view, orders=(*drafts, *live)), mark=str(mark), memory=memory)
        memory = found.memory
        for action in found.actions:
            if isinstance(action, CancelOrder):
                live = tuple(each for each in live if each.order != action.order)
            if not isinstance(action, Place) or is_refused:
                continue
            if role_of(action.intent) is Role.FALLBACK:
                assert action.intent.trigger_price is not None
                assert (action.intent.trigger_price - level) * side.sign >= 0
                assert (mark - action.intent.trigger_price) * side.sign > 0
                live = (*live, placed(action.intent, leg=60 + index))
            if role_of(action.intent) is Role.CLOSE:
                # At most one tick tighter, since levels are on the grid.
                assert (mark - level) * side.sign <= BTC.quote_tick
                return
        triggers = [each.order.intent.trigger_price for each in live]
        if any(trigger is not None and (mark - trigger) * side.sign <= 0 for trigger in triggers):
            return  # it has fired


# ---------------------------------------------------------------------------------------------------------------------- sharing


def test_what_the_exits_closed_is_not_open_any_more() -> None:
    """Those of the bracket and those that were added."""
    filled = placed(_take_profit("0.01"), S.FILLED, executed="0.005")
    assert unclosed_quantity(stopped(filled, report=bracket(closed="0.004"))) == D("0.011")


@given(
    unclosed=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=6),
    position=st.integers(0, 20),
    part=st.integers(0, 20),
)
def test_entries_share_no_more_than_the_position(unclosed: list[tuple[str, int]], position: int, part: int) -> None:
    """Nor those of a webhook more than it holds; without a close by something else, each keeps what it has."""
    entries = [(str(index), webhook, D(quantity)) for index, (webhook, quantity) in enumerate(unclosed)]
    of_webhooks = {"a": D(min(part, position)), "b": D(position - min(part, position))}
    for known in (None, of_webhooks):
        shares = share_position(entries, D(position), known)
        assert sum(shares.values()) <= position
        assert all(shares[name] <= quantity for name, _, quantity in entries)
        for webhook, held in (known or {}).items():
            assert sum(shares[name] for name, owner, _ in entries if owner == webhook) <= held
    if sum(quantity for _, quantity in unclosed) <= position:
        assert share_position(entries, D(position)) == {name: quantity for name, _, quantity in entries}


def test_newer_entries_are_served_first() -> None:
    """What is left of a position that was partly closed belongs to the last entries."""
    entries = [("old", "a", D(2)), ("new", "a", D(2))]
    assert share_position(entries, D(3)) == {"new": D(2), "old": D(1)}


# ------------------------------------------------------------------------------------------------------------------ convergence

# Orders from 0.001 to 0.02 in steps of 0.0001, so that stops come in parts and remainders are dust.
ODD = replace(BTC, base_min=D("0.001"), base_max=D("0.02"))


class _Simulated:
    """A long entry at a simulated exchange, which executes what its plan says unless it refuses."""

    def __init__(self, name: str, webhook: str, size: Decimal, *, has_stop: bool, own: str, levels: list[int]) -> None:
        """`own`: the exits of its own request: "none", "stop", "take_profit" or "both". `levels`: of its other take-profits."""
        self.name, self.webhook, self.has_stop = name, webhook, has_stop
        self.entry = entry(str(size), quantity=size, stop_loss=D(60_000) if has_stop else None)
        self.own_stop = size if own in ("stop", "both") and has_stop else D(0)
        self.own_take_profit = size if own in ("take_profit", "both") else None
        share = size / (len(levels) + 1)
        self.ladder = tuple(_take_profit(str(share.quantize(D("0.0001"))), str(66_000 + level)) for level in levels)
        self.added: tuple[ExitOrder, ...] = ()
        self.trailing: OrderIntent | None = None
        if has_stop and not self.own_stop:
            self.added = (placed(stop_intent(str(size)), leg=50),)  # in place of one that was lost
        self.extremes: dict[str, Decimal] = {}  # best mark since a trailing stop was placed, by client order id
        self.memory = Memory()
        self.best = D(65_000)

    def with_trailing(self) -> None:
        self.trailing = replace(TRAILING, quantity=self.entry.executed_quantity)
        self._add(self.trailing, leg=1, mark=D(65_000))

    def view(self) -> EntryExits:
        legs = [ExitStatus(kind=ExitKind.STOP_LOSS, trigger_price=D(60_000), status=S.ACCEPTED, executed_quantity=D(0))]
        if not self.own_stop:
            legs = [replace(legs[0], status=S.CANCELED)]
        if self.own_take_profit is not None:
            status = S.ACCEPTED if self.own_take_profit else S.CANCELED
            legs.append(
                ExitStatus(kind=ExitKind.TAKE_PROFIT, trigger_price=D(70_000), status=status, executed_quantity=D(0))
            )
        report = status_report(
            "kb-0",
            S.FILLED,
            self.entry.executed_quantity,
            is_algo=True,
            stop_is_live=bool(self.own_stop),
            live_stop_quantity=self.own_stop,
            live_take_profit_quantity=self.own_take_profit or D(0),
            exits=tuple(legs),
        )
        return EntryExits(
            entry=self.entry,
            report=report,
            orders=self.added,
            wants_stop=self.has_stop,
            trailing=self.trailing,
            take_profits=self.ladder,
        )

    def follow(self, mark: Decimal) -> None:
        self.best = max(self.best, mark)
        self.extremes = {name: max(extreme, mark) for name, extreme in self.extremes.items()}

    def apply(self, action: Any, *, mark: Decimal) -> None:
        match action:
            case Place():
                self._add(action.intent, leg=100 + len(self.added) + len(self.extremes), mark=mark)
            case CancelOrder(order=order):
                self.added = tuple(each for each in self.added if each.order != order)
            case CancelExits():
                self.own_stop = D(0)
                self.own_take_profit = None if self.own_take_profit is None else D(0)
            case Withdraw():
                raise AssertionError("nothing is a draft here")

    def _add(self, wanted: OrderIntent, *, leg: int, mark: Decimal) -> None:
        assert wanted.quantity <= ODD.base_max or wanted is self.trailing
        taken = {each.order.leg for each in self.added}
        leg = next(free for free in range(leg, leg + 1000) if free not in taken)
        self.added = (*self.added, placed(wanted, leg=leg))
        self.extremes[f"kb-{leg}"] = mark

    def live(self, *roles: Role) -> Decimal:
        return sum((each.remaining for each in self.added if each.role in roles), D(0))

    def stops(self) -> Decimal:
        return self.own_stop + self.live(Role.STOP)

    def trails_at(self, quantity: Decimal) -> Decimal | None:
        """Where the last of this quantity would be closed by trailing stops and what stands in for them; None if some of it would not."""
        found = [
            (
                self.extremes[each.order.client_order_id] * D("0.98")
                if each.role is Role.TRAILING
                else each.order.intent.trigger_price or D(0),
                each.remaining,
            )
            for each in self.added
            if each.role in (Role.TRAILING, Role.FALLBACK)
        ]
        for level, remaining in sorted(found, reverse=True):
            quantity -= remaining
            if not _grid(quantity):
                return level
        return None


_ENTRIES = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(10, 450),
        st.booleans(),
        st.sampled_from(["none", "stop", "take_profit", "both"]),
        st.lists(st.sampled_from([0, 0, 100, 200]), max_size=3),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@given(entries=_ENTRIES, unprotected=st.sampled_from([0, 300]), data=st.data())
def test_the_exits_converge_to_what_is_left(entries: list[Any], unprotected: int, data: st.DataObject) -> None:
    """Webhooks close parts by other orders while the exchange executes or refuses what each plan asks for, in this order or another.

    - What a mandatory stop covers of an entry is never less than what is left of it, and nothing is closed for the lack of one.
    - A trailing stop never becomes looser.
    - Once nothing is refused, the plans end with nothing to do; then stops, take-profits and trailing stops are each as large as what is
      left of their entry on the grid, or larger only where nobody else holds any of the position.
    """
    market = [
        _Simulated(str(index), webhook, D(size) / 10_000, has_stop=has_stop, own=own, levels=levels)
        for index, (webhook, size, has_stop, own, levels, _) in enumerate(entries)
    ]
    for each, (*_, has_trailing) in zip(market, entries, strict=True):
        if has_trailing:
            each.with_trailing()
    holds = {
        name: sum((each.entry.executed_quantity for each in market if each.webhook == name), D(0)) for name in "ab"
    }
    others, mark = D(unprotected) / 10_000, D(65_000)

    def parts() -> dict[str, Decimal]:
        unclosed = [(each.name, each.webhook, each.entry.executed_quantity) for each in market]
        return dict(share_position(unclosed, sum(holds.values(), others), holds))

    def plans() -> list[tuple[_Simulated, ExitPlan]]:
        held, position = parts(), sum(holds.values(), others)
        found = []
        for each in market:
            shared = Market(
                instrument=ODD, position=held[each.name], mark=mark, is_shared=position > held[each.name], is_flat=False
            )
            made = plan_exits(each.view(), shared, each.memory, elapsed_s=5.0, place_within_s=3.0)
            each.memory = made.memory
            found.append((each, made))
        return found

    def check() -> None:
        held = parts()
        for each in market:
            part = _grid(held[each.name])
            assert not each.has_stop or not _grid(part - each.stops())
            if each.trailing is not None and part:
                level = each.trails_at(part)
                assert level is not None
                assert level >= each.best * D("0.98")

    def step(*, is_refusing: bool) -> bool:
        made = [(each, action) for each, found in plans() for action in found.actions]
        assert all(role_of(action.intent) is not Role.CLOSE for _, action in made if isinstance(action, Place))
        for each, action in data.draw(st.permutations(made)) if is_refusing else made:
            if not (is_refusing and data.draw(st.booleans())):
                each.apply(action, mark=mark)
            check()
        return bool(made)

    for _ in range(data.draw(st.integers(0, 4))):
        mark += 50 * data.draw(st.integers(-4, 4))
        name = data.draw(st.sampled_from("ab"))
        holds[name] -= D(data.draw(st.integers(0, int(holds[name] * 10_000)))) / 10_000
        for each in market:
            each.follow(mark)
        step(is_refusing=True)
    rounds = 0
    while step(is_refusing=False):
        rounds += 1
        assert rounds < 20
    held, position = parts(), sum(holds.values(), others)
    for each in market:
        left = held[each.name]
        if not left:
            continue
        is_shared, part = position > left, _grid(left)
        stops, trailing = each.stops(), each.live(Role.TRAILING)
        for wanted, live in ((each.has_stop, stops), (each.trailing is not None, trailing)):
            assert not _grid(part - live) if wanted else live == 0
            assert live <= part or not is_shared
        take_profits = [one for one in each.added if one.role is Role.TAKE_PROFIT]
        for trigger in {level.take_profits[0].trigger_price for level in each.ladder}:
            size = sum((one.quantity for one in each.ladder if one.take_profits[0].trigger_price == trigger), D(0))
            covered = sum((one.remaining for one in take_profits if slot_of(one.order.intent)[1] == trigger), D(0))
            assert covered <= size
            assert not _grid(min(size, left) - covered)
        sizes = [one.remaining for one in take_profits] + [each.own_take_profit or D(0)]
        assert not is_shared or all(size <= left for size in sizes)
        assert each.live(Role.FALLBACK) <= left or not is_shared


def _grid(quantity: Decimal) -> Decimal:
    """What of it an order can be made of."""
    return quantity.quantize(D("0.0001")) if quantity >= ODD.base_min else D(0)
