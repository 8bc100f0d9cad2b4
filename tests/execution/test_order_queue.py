"""The queue: which order may be sent next, and which has to wait, expire or be denied."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.execution import order_queue, transitions
from kekbridge.execution.book import Book
from kekbridge.execution.order_queue import QueueHead, left_open
from kekbridge.model import (
    FIRST_RETRY_LEG,
    NEVER,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Purpose,
    Side,
    client_order_id_of,
)
from kekbridge.planning.build_orders import resize
from tests.store.factories import EXPIRES, NOW, admitting, exit_intent, intent, new_alert
from tests.stored import accept, add_protective, bring, claim, report, store_alert
from tests.trading import BTC, snapshot

ETH, SOL = "PERP_ETH_USDC", "PERP_SOL_USDC"
SETTLE_S = 10.0
S = OrderStatus


@pytest.fixture
def book() -> Book:
    """In memory only: the queue reads nothing else."""
    return Book()


def put(book: Book, *intents: OrderIntent) -> tuple[Order, ...]:
    return store_alert(book, new_alert(), admitting(*intents)).orders


def heads(book: Book, seconds: float = 0, **changes: object) -> list[QueueHead]:
    options: dict[str, object] = {"settle_within_s": SETTLE_S, "concurrency": 5} | changes
    return order_queue.heads(book, now=NOW + timedelta(seconds=seconds), **options)  # type: ignore[arg-type]


def names(book: Book, seconds: float = 0, **changes: object) -> list[str]:
    """The orders that may be sent."""
    found = heads(book, seconds, **changes)
    assert all(head.next_step == "send" for head in found)
    return [head.order.client_order_id for head in found]


def ids(*orders: Order) -> list[str]:
    return [order.client_order_id for order in orders]


def fill(book: Book, order: Order) -> Order:
    return report(book, order, S.FILLED, order.intent.quantity)


BRACKET = {"stop_loss": Decimal(60_000)}
LIMIT = {"order_type": OrderType.LIMIT, "limit_price": Decimal(60_000)}


# ------------------------------------------------------------------------------------------------------------------- order


def test_first_in_first_out_within_a_symbol(book: Book) -> None:
    """Only the oldest open order of a symbol is returned, until it no longer holds back others."""
    first, second = put(book, exit_intent())[0], put(book, exit_intent())[0]
    assert names(book) == ids(first)
    first = claim(book, first)
    assert names(book) == []
    first = book.change(first, transitions.unknown(first, reason="x"), now=NOW)
    assert names(book) == []
    first = accept(book, first)
    assert names(book) == []  # its outcome is to come
    fill(book, first)
    assert names(book) == ids(second)


def test_symbols_do_not_wait_for_each_other_and_exits_go_first(book: Book) -> None:
    """Symbols are independent; of several symbols one with an exit comes before older entries."""
    entry = put(book, intent(**BRACKET))[0]
    other = put(book, intent(symbol=ETH))[0]
    leaving = put(book, exit_intent(symbol=SOL))[0]
    assert names(book) == ids(leaving, entry, other)


def test_plain_entries_of_one_side_go_together(book: Book) -> None:
    """Whichever fills first, the position is the same: a burst of one side needs no round trip each."""
    first, second, third = (put(book, intent())[0] for _ in range(3))
    assert names(book) == ids(first, second, third)
    claim(book, first)
    assert names(book) == ids(second, third)
    opposite = put(book, intent(side=Side.SELL))[0]
    last = put(book, intent())[0]
    assert names(book) == ids(second, third)
    for name in ids(first, second, third):
        order = book.orders[name]
        fill(book, order if order.status is S.SUBMITTING else claim(book, order))
    assert names(book) == ids(opposite)
    assert last.client_order_id in book.queued


@pytest.mark.parametrize("blocked", ["unknown", "queued again"])
def test_nothing_overtakes_an_order_that_may_have_to_be_sent_again(book: Book, blocked: str) -> None:
    """An unknown order may exist or not; a deferred one keeps its place."""
    first = claim(book, put(book, intent())[0])
    put(book, intent())
    if blocked == "unknown":
        book.change(first, transitions.unknown(first, reason="x"), now=NOW)
    else:
        due = NOW + timedelta(seconds=2)
        book.change(first, transitions.deferred(first, next_attempt_at=due), now=NOW)
        assert len(names(book, 2)) == 2
    assert names(book) == []


def test_exit_waits_for_an_older_entry_of_its_symbol(book: Book) -> None:
    """Overtaking within a symbol would close nothing and then open: orders keep the order of the alerts."""
    entry, leaving = put(book, intent())[0], put(book, exit_intent())[0]
    assert names(book) == ids(entry)
    # While no entry may be sent at all, exits must not wait behind them.
    assert names(book, entries_allowed=False) == ids(leaving)


def test_unknown_entry_holds_exits_back_even_without_entries_allowed(book: Book) -> None:
    """A close sized while an entry may or may not exist could have the wrong size."""
    entry = claim(book, put(book, intent())[0])
    put(book, exit_intent())
    book.change(entry, transitions.unknown(entry, reason="x"), now=NOW)
    assert names(book, entries_allowed=False) == []


def test_resting_order_holds_back_no_other(book: Book) -> None:
    """A limit order may rest in the book for days; later orders trade in the meantime."""
    resting = put(book, intent(**LIMIT))[0]
    later = put(book, exit_intent())[0]
    accept(book, claim(book, resting))
    assert names(book) == ids(later)


def test_protective_order_holds_back_no_other(book: Book) -> None:
    """It is placed beside whatever trades."""
    entry = bring(book, put(book, intent())[0], S.FILLED)
    later = put(book, exit_intent())[0]
    stop = exit_intent(order_type=OrderType.STOP, trigger_price=Decimal(1), purpose=Purpose.PROTECT)
    protective = add_protective(book, entry, stop)
    assert protective.status is S.SUBMITTING
    assert names(book) == ids(later)


def test_order_that_does_not_settle_holds_back_others_for_a_while_only(book: Book) -> None:
    """An exchange that stays silent about an accepted order must not block its symbol for ever."""
    accept(book, claim(book, put(book, exit_intent())[0]))
    later = put(book, exit_intent())[0]
    assert names(book, SETTLE_S - 0.001) == []
    assert names(book, SETTLE_S) == ids(later)


def test_prepared_orders_hold_back_others_but_are_not_returned(book: Book) -> None:
    """An order that waits for its leverage or a permit has a task of its own."""
    first, second, other = put(book, intent(**BRACKET))[0], put(book, intent())[0], put(book, intent(symbol=ETH))[0]
    assert names(book, preparing={first.client_order_id}) == ids(other)
    assert names(book, preparing={second.client_order_id}) == ids(first, other)


def test_concurrency_counts_symbols_in_flight(book: Book) -> None:
    """Not orders: a symbol that is in flight may have more; one beyond the limit waits, and an exit comes first."""
    first = put(book, intent())[0]
    more = put(book, intent())[0]
    other = put(book, intent(symbol=ETH))[0]
    assert names(book, concurrency=1) == ids(first, more)
    claim(book, first)
    assert names(book, concurrency=1) == ids(more)
    assert names(book, concurrency=2) == ids(more, other)
    leaving = put(book, exit_intent(symbol=SOL))[0]
    assert names(book, concurrency=2) == ids(leaving, more)


# -------------------------------------------------------------------------------------------------------------------- legs


@pytest.mark.parametrize("ending", [S.FILLED, S.CANCELED])
def test_later_leg_follows_when_the_earlier_one_is_done(book: Book, ending: OrderStatus) -> None:
    """A flip closes first; the new position is opened when the close is finished, not merely accepted."""
    close, entry = put(book, exit_intent(), intent(symbol=ETH, after_leg=0))
    assert names(book) == ids(close)
    close = accept(book, claim(book, close))
    assert names(book) == []
    report(book, close, ending, close.intent.quantity)
    assert names(book) == ids(entry)


@pytest.mark.parametrize(("ending", "executed", "left"), [(S.FILLED, "1", "0"), (S.CANCELED, "0.4", "0.6")])
def test_what_an_earlier_leg_left_open(book: Book, ending: OrderStatus, executed: str, left: str) -> None:
    """A close of 1 that filled 0.4 left 0.6, which the entry behind it may add; one that filled left nothing."""
    close, entry = put(book, exit_intent(quantity=Decimal(1)), intent(after_leg=0))
    assert left_open(book, entry) == 0
    report(book, accept(book, claim(book, close)), ending, Decimal(executed))
    assert left_open(book, entry) == Decimal(left)
    assert left_open(book, close) == 0


def _retried(book: Book, order: Order, executed: str) -> tuple[Order, Order]:
    """An exit that the exchange canceled after it had executed this much, with the retry of its rest."""
    order = report(book, accept(book, claim(book, order)), S.CANCELED, Decimal(executed))
    leg = order.leg + FIRST_RETRY_LEG
    retry = replace(
        order,
        client_order_id=client_order_id_of(order.alert_id, leg),
        leg=leg,
        sequence=book.next_sequence(),
        intent=order_queue.retry_of(order, order.intent.quantity - order.executed_quantity),
        status=S.QUEUED,
        order_id=None,
        executed_quantity=Decimal(0),
        average_price=None,
        attempt=0,
        submitted_at=None,
        accepted_at=None,
        finished_at=None,
    )
    book.append_order(retry, now=NOW)
    return order, retry


def test_a_leg_waits_for_the_last_retry_of_the_leg_before_it(book: Book) -> None:
    """Then nothing is left for an entry to make up for, except what the last one left."""
    close, entry = put(book, exit_intent(quantity=Decimal(1)), intent(after_leg=0))
    close, retry = _retried(book, close, "0.4")
    assert names(book) == ids(retry)
    assert order_queue.first_try(book, retry) == close
    retry, second = _retried(book, retry, "0.5")
    assert second.intent.quantity == Decimal("0.1")
    assert names(book) == ids(second)
    second = report(book, accept(book, claim(book, second)), S.CANCELED, Decimal("0.07"))
    assert left_open(book, entry) == Decimal("0.03")
    assert names(book) == ids(entry)


@given(
    asked=st.integers(1, 1000),
    at_cancel=st.integers(0, 1000),
    later=st.integers(0, 1000),
    fraction=st.sampled_from([None, "0.25", "1"]),
    held=st.integers(0, 2000),
)
def test_a_retry_never_closes_more_than_is_left(
    asked: int, at_cancel: int, later: int, fraction: str | None, held: int
) -> None:
    """Of what the alert asked for, also after a late fill of the order before it, and of the position."""
    book = Book()
    step = Decimal("0.001")
    wanted = exit_intent(
        symbol=BTC, quantity=asked * step, close_fraction=None if fraction is None else Decimal(fraction)
    )
    executed = min(at_cancel, asked) * step
    close, retry = _retried(book, put(book, wanted)[0], str(executed))
    executed = max(executed, min(later, asked) * step)
    if executed > close.executed_quantity:
        report(book, close, S.FILLED, executed)
    limited = order_queue.limited_to_rest(book, retry).intent
    sized = resize(limited, snapshot({BTC: str(held * step)} if held else None))
    left = min(asked * step - executed, held * step)
    assert (Decimal(0) if sized is None else sized.quantity) == left


NOT_RETRIED: list[tuple[dict[str, object], dict[str, object]]] = [
    ({"purpose": Purpose.ENTRY}, {}),
    ({"purpose": Purpose.PROTECT}, {}),
    ({"order_type": OrderType.LIMIT, "limit_price": Decimal(60_000)}, {}),
    ({}, {"status": S.FILLED}),
    ({}, {"cancel_requested_at": NOW}),
    ({}, {"expires_at": EXPIRES}),
]


@pytest.mark.parametrize(("wanted", "changes"), NOT_RETRIED)
def test_what_is_not_sent_again(book: Book, wanted: dict[str, object], changes: dict[str, object]) -> None:
    """Only a market exit of an alert that the exchange canceled by itself leaves a rest."""
    canceled = replace(put(book, exit_intent(quantity=Decimal(1)))[0], status=S.CANCELED, expires_at=NEVER)
    assert order_queue.rest_of(canceled) == 1
    assert order_queue.rest_of(replace(canceled, intent=replace(canceled.intent, **wanted), **changes)) == 0


def test_close_with_nothing_to_close_lets_the_next_leg_follow(book: Book) -> None:
    """Flipping from flat: the close is denied with nothing_to_close, and the entry is sent."""
    close, entry = put(book, exit_intent(), intent(after_leg=0))
    book.change(close, transitions.denied(close, code="nothing_to_close", error="flat", now=NOW), now=NOW)
    assert names(book) == ids(entry)


@pytest.mark.parametrize("ending", ["denied", "rejected", "expired", "given up", "missing"])
def test_later_leg_fails_when_the_earlier_one_failed(book: Book, ending: str) -> None:
    """It must neither be sent nor wait for ever."""
    close, entry = put(book, exit_intent(), intent(after_leg=7 if ending == "missing" else 0))
    if ending == "given up":
        close = bring(book, close, S.UNKNOWN)
        book.change(close, transitions.closed_unknown(close, reason="x", now=NOW), now=NOW)
    else:
        bring(book, close, S.CANCELED if ending == "missing" else OrderStatus(ending))
    assert heads(book) == [QueueHead(entry, "leg_failed")]


def test_failed_leg_holds_back_no_other(book: Book) -> None:
    """It takes no place from the order behind it, and both are returned at once."""
    close, entry = put(book, exit_intent(), intent(after_leg=0))
    bring(book, close, S.DENIED)
    later = put(book, exit_intent())[0]
    assert [(head.order.client_order_id, head.next_step) for head in heads(book)] == [
        (later.client_order_id, "send"),
        (entry.client_order_id, "leg_failed"),
    ]


# ------------------------------------------------------------------------------------------------------------- age and time


def test_expired_order_is_returned_to_be_finished(book: Book) -> None:
    """Never to be sent, and it takes no place from those behind it, nor one of the symbols in flight."""
    first, second = put(book, exit_intent())[0], put(book, exit_intent())[0]
    claim(book, put(book, intent(symbol=ETH))[0])
    late = (EXPIRES - NOW).total_seconds()
    assert names(book, late - 0.001) == ids(first)
    assert heads(book, late, concurrency=1) == [QueueHead(first, "expired"), QueueHead(second, "expired")]


def test_next_due_is_the_earliest_deferred_order(book: Book) -> None:
    """The dispatcher sleeps until then; None if nothing is deferred."""
    assert order_queue.next_due(book, now=NOW) is None
    for seconds in (5, 3):
        order = claim(book, put(book, exit_intent(symbol=f"PERP_{seconds}_USDC"))[0])
        due = NOW + timedelta(seconds=seconds)
        book.change(order, transitions.deferred(order, next_attempt_at=due), now=NOW)
    put(book, intent())
    assert order_queue.next_due(book, now=NOW) == 3
    assert order_queue.next_due(book, now=NOW + timedelta(seconds=9)) == 0


# ----------------------------------------------------------------------------------------------- a new order, sent at once


def is_free(book: Book, wanted: OrderIntent, *, seconds: float = 0, concurrency: int = 5) -> bool:
    order = put(Book(), wanted)[0]
    return order_queue.is_symbol_free(
        book, order, now=NOW + timedelta(seconds=seconds), settle_within_s=SETTLE_S, concurrency=concurrency
    )


def test_new_order_goes_at_once_if_nothing_holds_it_back(book: Book) -> None:
    """It must never overtake: queued, submitting and unknown orders of the symbol hold back, and so do unsettled ones."""
    assert is_free(book, exit_intent())
    first = put(book, exit_intent())[0]
    assert not is_free(book, exit_intent())
    assert is_free(book, exit_intent(symbol=ETH))
    first = claim(book, first)
    assert not is_free(book, exit_intent())
    first = accept(book, first)
    assert not is_free(book, exit_intent())
    assert is_free(book, exit_intent(), seconds=SETTLE_S)
    fill(book, first)
    assert is_free(book, exit_intent())


def test_new_plain_entry_may_overlap(book: Book) -> None:
    """Beside entries of its side that are in flight, but never before one that is queued."""
    first = claim(book, put(book, intent())[0])
    assert is_free(book, intent())
    assert not is_free(book, intent(side=Side.SELL))
    assert not is_free(book, intent(**BRACKET))
    book.change(first, transitions.unknown(first, reason="x"), now=NOW)
    assert not is_free(book, intent())


def test_new_order_beyond_the_concurrency_waits(book: Book) -> None:
    """Symbols whose orders merely rest or are protected do not count."""
    claim(book, put(book, intent(symbol=SOL))[0])
    assert not is_free(book, intent(), concurrency=1)
    assert is_free(book, intent(), concurrency=2)
    accept(book, claim(book, put(book, intent(symbol=ETH, **LIMIT))[0]))
    assert is_free(book, intent(), concurrency=2)


# ------------------------------------------------------------------------------------------------------------------ overlap


@pytest.mark.parametrize(
    "changes",
    [
        {"side": Side.SELL},
        LIMIT,
        BRACKET,
        {"reduce_only": True},
        {"leverage": Decimal(5)},
        {"close_fraction": Decimal(1)},
        {"target_quantity": Decimal(1)},
        {"after_leg": 0},
        {"trailing_callback_rate": Decimal("0.1")},
    ],
)
def test_only_plain_entries_overlap(book: Book, changes: dict[str, object]) -> None:
    """Orders sized by the position, brackets, limit orders and those that may change the leverage wait, and are waited for."""
    plain, other = put(book, intent())[0], put(book, intent(**changes))[0]
    assert order_queue.can_overlap(plain, [plain])
    assert not order_queue.can_overlap(plain, [plain, other])
    assert not order_queue.can_overlap(other, [plain])


KINDS = st.lists(
    st.tuples(st.sampled_from(["buy", "sell", "exit", "bracket", "other"]), st.sampled_from([1, 2])), max_size=8
)
STEPS = st.lists(st.sampled_from(["send", "accept", "fill", "unknown", "defer"]), max_size=20)


@given(KINDS, STEPS, st.integers(1, 3))
def test_no_order_is_overtaken(kinds: list[tuple[str, int]], steps: list[str], concurrency: int) -> None:
    """Whatever happens: of two orders of a symbol the later is in flight only if both are plain entries of one side, never beside an
    unknown one, and no more symbols are in flight than allowed."""
    book = Book()
    wanted = {
        "buy": intent(),
        "sell": intent(side=Side.SELL),
        "exit": exit_intent(),
        "bracket": intent(**BRACKET),
        "other": intent(leverage=Decimal(3)),
    }
    for kind, number in kinds:
        put(book, replace(wanted[kind], symbol=f"PERP_{number}_USDC"))
    for step in steps:
        in_flight = [order for order in book.orders.values() if order.status is not S.QUEUED]
        if step == "send":
            for head in heads(book, concurrency=concurrency):
                claim(book, head.order)
                after = [order for order in book.orders.values() if order.status is not S.QUEUED]
                of_symbol = [order for order in after if order.intent.symbol == head.order.intent.symbol]
                others = [order for order in of_symbol if order.client_order_id != head.order.client_order_id]
                assert not others or order_queue.can_overlap(head.order, others)
                queued_before = [
                    order
                    for order in book.by_symbol[head.order.intent.symbol].values()
                    if order.status is S.QUEUED and order.sequence < head.order.sequence
                ]
                assert queued_before == []
            assert (
                len({order.intent.symbol for order in book.orders.values() if order.status is not S.QUEUED})
                <= concurrency
            )
        elif in_flight:
            order = in_flight[0]
            if step == "accept" and order.status is not S.ACCEPTED:
                accept(book, order)
            elif step == "fill":
                fill(book, order)
            elif step == "unknown" and order.status is S.SUBMITTING:
                book.change(order, transitions.unknown(order, reason="x"), now=NOW)
            elif step == "defer" and order.status is S.SUBMITTING:
                book.change(order, transitions.deferred(order, next_attempt_at=NOW), now=NOW)
