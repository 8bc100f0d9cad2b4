"""The book: sums that equal their recomputation, usage that decisions see, fills once, states, and changes that are given back."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from kekbridge.execution import transitions
from kekbridge.execution.book import MOST_FILLS, Book, with_ms_times
from kekbridge.model import (
    UNCOMMITTED,
    ZERO,
    LimitBreach,
    Order,
    OrderStatus,
    OrderType,
    PositionPart,
    Purpose,
    Side,
    SideTotals,
    StrategyHistory,
    TradingState,
)
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import codec
from kekbridge.store.facts import OrderFact
from kekbridge.store.journal import Entry
from kekbridge.store.reservations import DayTotals, commitment_of
from kekbridge.store.settings import ACCOUNT, TradingControl
from tests.examples import examples
from tests.histories import HISTORY, Account, Step
from tests.store.factories import EXPIRES, NOW, admitting, exit_intent, fill, intent, new_alert
from tests.stored import accept, bring, claim, report, store_alert, store_order

BTC, ETH = "PERP_BTC_USDC", "PERP_ETH_USDC"
DAY = "2026-01-15"
S = OrderStatus


@pytest.fixture
def rows() -> list[Entry]:
    """What the book appended."""
    return []


@pytest.fixture
def published() -> list[Order]:
    """Every changed order, as waiters get it."""
    return []


@pytest.fixture
def book(rows: list[Entry], published: list[Order]) -> Book:
    return Book(append=rows.append, publish=published.append)


def put(book: Book, at: datetime = NOW, webhook_id: str = "hook", **changes: Any) -> Order:
    alert = new_alert(webhook_id=webhook_id, received_at=at)
    return store_alert(book, alert, admitting(intent(**changes)), expires_at=at + timedelta(minutes=1)).orders[0]


# ---------------------------------------------------------------------------------------------------- sums, for any history


@settings(max_examples=examples(60), deadline=None)
@given(HISTORY)
def test_sums_equal_their_recomputation(steps: list[Step]) -> None:
    """Room, totals of days and indices always follow from the orders and fills alone, to the last digit; no sum is left over."""
    account = Account()
    for step in steps:
        account.play(step)
    book, orders = account.book, list(account.orders.values())
    unfinished = {order.client_order_id: order for order in orders if order.finished_at is None}
    assert book.orders == unfinished
    assert book.queued == {
        name: order
        for name, order in unfinished.items()
        if order.status is S.QUEUED and order.intent.purpose is not Purpose.PROTECT
    }
    by_symbol = {symbol: dict(of_symbol) for symbol, of_symbol in book.by_symbol.items()}
    assert by_symbol == {
        symbol: {name: order for name, order in unfinished.items() if order.intent.symbol == symbol}
        for symbol in {order.intent.symbol for order in unfinished.values()}
    }
    assert book.commitments == {symbol: commitment_of(of_symbol.values()) for symbol, of_symbol in by_symbol.items()}
    assert {key: each for key, each in book._days.items() if each != DayTotals()} == _days_of(orders, account)
    for order in unfinished.values():
        assert order.order_id is None or book.order_of(order.order_id) == order
        assert book.legs[order.alert_id][order.leg] == order
    assert all(any(leg.finished_at is None for leg in legs.values()) for legs in book.legs.values())
    assert book.sequence >= max((order.sequence for order in orders), default=0)
    account.close()


def _days_of(orders: list[Order], account: Account) -> dict[tuple[str, str], DayTotals]:
    """The totals of each day, computed anew from what is stored."""
    days: dict[tuple[str, str], DayTotals] = {}

    def add(scope: str, day: str, change: DayTotals) -> None:
        days[scope, day] = days.get((scope, day), DayTotals()).plus(change)

    for order in orders:
        wanted, is_open = order.intent, order.finished_at is None
        value = order.executed_quantity * (
            wanted.reference_price if order.average_price is None else order.average_price
        )
        if order.is_entry and is_open:
            value += max(wanted.quantity - order.executed_quantity, ZERO) * wanted.reference_price
        was_there = is_open or order.order_id is not None or order.executed_quantity > 0
        for scope in (order.webhook_id, ACCOUNT):
            add(scope, codec.day_of(order.created_at), DayTotals(value, int(order.is_entry and was_there)))
    for row in account.connection.execute("SELECT webhook_id, realized_pnl, executed_at FROM fills"):
        for scope in {row["webhook_id"], ACCOUNT} - {None}:
            add(scope, row["executed_at"][:10], DayTotals(realized_pnl=Decimal(row["realized_pnl"] or 0)))
    return {key: each for key, each in days.items() if each != DayTotals()}


# ------------------------------------------------------------------------------------------------------------------- usage


def test_webhook_and_account_are_counted_separately(book: Book) -> None:
    """The account's day is the sum over all webhooks; commitments are those of the whole account."""
    put(book)
    put(book, webhook_id="other", quantity=Decimal("0.02"))
    usage = book.usage("hook", now=NOW)
    assert (usage.traded_today, usage.account_traded_today) == (Decimal(650), Decimal(1950))
    assert (usage.orders_today, usage.account_orders_today, usage.waiting_orders) == (1, 2, 2)
    assert usage.commitments[BTC].open == SideTotals(entry_buys=Decimal("0.03"))


def test_new_day_starts_empty_but_open_orders_stay(book: Book) -> None:
    """At 00:00 UTC the daily limits are free again; open orders keep their room in the position limits."""
    put(book)
    usage = book.usage("hook", now=NOW + timedelta(days=1))
    assert (usage.traded_today, usage.orders_today, len(usage.commitments)) == (ZERO, 0, 1)


def test_recheck_does_not_count_the_order_itself(book: Book) -> None:
    """An order that fills the limit exactly must pass its recheck, on the day of admission and after midnight."""
    put(book)
    second = put(book, symbol=ETH)
    before = book.comparable()
    usage = book.usage("hook", now=NOW, excluding=second)
    assert (usage.traded_today, usage.orders_today) == (Decimal(650), 1)
    assert (usage.account_traded_today, usage.account_orders_today) == (Decimal(650), 1)
    assert usage.changed_commitments == {ETH: UNCOMMITTED}
    assert usage.last_entry_at == {BTC: NOW}
    tomorrow = book.usage("hook", now=NOW + timedelta(days=1), excluding=second)
    assert (tomorrow.traded_today, tomorrow.orders_today) == (ZERO, 0)
    assert book.comparable() == before


def test_recheck_counts_the_others_of_its_symbol(book: Book) -> None:
    """At their own highest price, to the last digit."""
    put(book, quantity=Decimal("0.1"), reference_price=Decimal(70_000))
    dear = put(book, quantity=Decimal("0.3"), reference_price=Decimal(80_000))
    put(book, side=Side.SELL)
    usage = book.usage("hook", now=NOW, excluding=dear)
    others = commitment_of(order for order in book.orders.values() if order != dear)
    assert (usage.changed_commitments, others.price) == ({BTC: others}, Decimal(70_000))


def test_last_entries_are_per_symbol_and_webhook(book: Book) -> None:
    """Only this webhook's entries start a cool-down; exits and entries that never reached the exchange start none."""
    put(book, NOW - timedelta(seconds=100))
    put(book, NOW - timedelta(seconds=50))
    put(book, NOW - timedelta(seconds=20), symbol=ETH)
    put(book, webhook_id="other", symbol="PERP_SOL_USDC")
    bring(book, put(book, NOW, symbol=ETH), S.DENIED)
    store_alert(book, decide=admitting(exit_intent(symbol="PERP_W_USDC")))
    seen = {BTC: NOW - timedelta(seconds=50), ETH: NOW - timedelta(seconds=20)}
    assert book.usage("hook", now=NOW).last_entry_at == seen
    del seen[BTC]
    assert book.usage("hook", now=NOW, cooldown_s=50).last_entry_at == seen
    assert book.usage("hook", now=NOW, cooldown_s=0).last_entry_at == {}


def test_earlier_entry_counts_if_the_later_one_was_never_sent(book: Book) -> None:
    """A denied alert must not end the cool-down of the entry before it."""
    first = bring(book, put(book), S.FILLED)
    second = put(book, NOW + timedelta(seconds=5))
    assert book.usage("hook", now=NOW + timedelta(seconds=9)).last_entry_at == {BTC: second.created_at}
    bring(book, second, S.REJECTED, now=NOW + timedelta(seconds=6))
    assert book.usage("hook", now=NOW + timedelta(seconds=9)).last_entry_at == {BTC: first.created_at}


def test_strategy_histories_are_per_webhook(book: Book) -> None:
    """The next decision of the same webhook sees what was stored with an alert; another webhook does not."""
    course = StrategyHistory(start=Decimal(1), steps=())
    store_alert(book, decide=admitting(strategy_histories=((BTC, course),)))
    assert book.usage("hook", now=NOW).strategy_histories == {BTC: course}
    assert not book.usage("other", now=NOW).strategy_histories


# ---------------------------------------------------------------------------------------------------------- trading states


def test_later_breach_does_not_deny_admitted_orders(book: Book) -> None:
    """200 alerts, room for 10: the denied 11th closes the webhook, and the 10 queued orders are sent all the same."""
    order = put(book)
    breach = LimitBreach(scope="webhook", rule="daily_orders", reason="11 orders", until=NOW + timedelta(hours=1))
    assert book.close_for_breach(breach, webhook_id="hook", now=NOW)
    assert not book.close_for_breach(breach, webhook_id="hook", now=NOW)  # one row per breach
    assert book.usage("hook", now=NOW).trading_state is TradingState.EXITS_ONLY
    assert book.usage("hook", now=NOW).trading_scope == "webhook"
    assert book.usage("hook", now=NOW, excluding=order).trading_state is TradingState.RUNNING
    book.set_state(ACCOUNT, TradingState.EXITS_ONLY, reason="news", by="operator", now=NOW)
    assert book.usage("hook", now=NOW, excluding=order).trading_state is TradingState.EXITS_ONLY
    assert book.usage("hook", now=NOW, excluding=order).trading_scope == "account"


def test_elapsed_stop_is_resumed_once(book: Book, rows: list[Entry]) -> None:
    """The history records the end for every scope that had one; a halt without an end stays."""
    for scope, until in ((ACCOUNT, NOW + timedelta(hours=1)), ("hook", NOW + timedelta(hours=2)), ("other", None)):
        control = TradingControl(state=TradingState.EXITS_ONLY, reason="daily_loss", by="limit", since=NOW, until=until)
        book.set_control(scope, control, now=NOW)
    later = NOW + timedelta(hours=1)
    assert book.resume_elapsed(now=NOW) == ()
    assert book.usage("hook", now=later).trading_state is TradingState.EXITS_ONLY
    assert book.resume_elapsed(now=later) == (ACCOUNT,)
    assert book.resume_elapsed(now=later) == ()
    assert book.resume_elapsed(now=later + timedelta(days=9)) == ("hook",)
    last = codec.from_json(rows[-1].data)
    assert (rows[-1].kind, last["state"], last["scope"]) == ("trading_state", "running", "hook")
    assert last["reason"] == "daily_loss (over)"
    assert book.control("other", now=later).state is TradingState.EXITS_ONLY


def test_resume_all_opens_account_and_webhooks(book: Book) -> None:
    """One command after a bad day; running webhooks are left alone."""
    book.set_state(ACCOUNT, TradingState.HALTED, reason="x", by="x", now=NOW)
    book.set_state("closed", TradingState.EXITS_ONLY, reason="x", by="x", now=NOW)
    book.set_state("open", TradingState.RUNNING, reason="x", by="x", now=NOW)
    assert book.resume_all(reason="y", by="y", now=NOW) == ("closed",)
    assert all(book.control(scope, now=NOW).state is TradingState.RUNNING for scope in (ACCOUNT, "closed", "open"))


def test_closing_for_entries_never_loosens_a_halt(book: Book, rows: list[Entry]) -> None:
    """A rejected key closes the account for entries, once."""
    book.close_for_entries(reason="key", by="kekbridge", now=NOW)
    book.close_for_entries(reason="key", by="kekbridge", now=NOW)
    assert len(rows) == 1
    book.set_state(ACCOUNT, TradingState.HALTED, reason="x", by="x", now=NOW)
    book.close_for_entries(reason="key", by="kekbridge", now=NOW)
    assert book.control(ACCOUNT, now=NOW).state is TradingState.HALTED


def test_version_changes_with_what_overtakes_a_decision(book: Book) -> None:
    """A halt, a limit that was hit and a fill from elsewhere: an order that was claimed before is looked at again. Our own sends do not."""
    start = book.version
    order = accept(book, claim(book, put(book)), order_id="7")
    book.record_fill(fill(order_id="7"), order=order)
    report(book, order, S.FILLED, Decimal("0.01"))
    assert book.version == start
    versions = [start]
    for happen in (
        lambda: book.record_fill(fill(order_id="elsewhere"), order=None),
        lambda: book.record_fill(fill(order_id="7", realized_pnl=Decimal(-3)), order=order),
        lambda: book.set_state("hook", TradingState.HALTED, reason="", by="", now=NOW),
    ):
        happen()
        versions.append(book.version)
    assert versions == sorted(set(versions))


# ------------------------------------------------------------------------------------------------------ changes and undoing


def test_change_appends_and_publishes_once(book: Book, rows: list[Entry], published: list[Order]) -> None:
    """One row per change, none for a repetition: polling an order that does not change must not grow the history."""
    order = accept(book, claim(book, put(book)))
    part = report(book, order, S.PARTIALLY_FILLED, Decimal("0.004"))
    count = len(rows)
    assert report(book, part, S.PARTIALLY_FILLED, Decimal("0.004")) is part
    assert (len(rows), published[-1]) == (count, part)
    assert [row.kind for row in rows] == [
        "alert_admitted",
        "order_submitting",
        "order_accepted",
        "order_partially_filled",
    ]


def test_times_are_kept_as_they_are_read_back(book: Book, rows: list[Entry]) -> None:
    """In whole milliseconds, so that the book of a restarted daemon is the same."""
    odd = NOW + timedelta(microseconds=123_456)
    order = claim(book, put(book), now=odd)
    assert order.submitted_at == NOW + timedelta(milliseconds=123)
    assert with_ms_times(order) is order
    assert rows[-1].at == order.submitted_at


def test_late_news_meets_the_order_as_it_ended(book: Book, rows: list[Entry]) -> None:
    """A query that was under way while the stream reported the end: the end counts once, its room is given back once."""
    order = bring(book, put(book), S.ACCEPTED)
    report(book, order, S.CANCELED)
    ended, count = book.comparable(), len(rows)
    current = book.current(order)
    assert current.status is S.CANCELED
    assert report(book, current, S.CANCELED) is current
    assert (book.comparable(), len(rows)) == (ended, count)
    assert book.day("hook", DAY) == DayTotals(ZERO, 1)
    late = report(book, book.current(order), S.FILLED, Decimal("0.01"))
    assert book.current(order) == late
    assert book.day("hook", DAY) == DayTotals(Decimal(650), 1)


def test_ended_orders_are_remembered_within_bounds(book: Book) -> None:
    """News can be on its way for a moment only; one that continues after all is taken from the open orders."""
    first = bring(book, put(book), S.UNKNOWN)
    closed = book.change(first, transitions.closed_unknown(first, reason="x", now=NOW), now=NOW)
    assert book.current(first) == closed
    back = report(book, closed, S.ACCEPTED)
    assert book.current(first) == back == book.orders[first.client_order_id]
    bring(book, put(book), S.DENIED)
    report(book, back, S.CANCELED)
    for _ in range(2000):
        bring(book, put(book), S.DENIED)
    assert book.current(first) is first
    assert len(book._ended) <= 1000


def test_removed_order_leaves_no_trace(book: Book, rows: list[Entry]) -> None:
    """An alert whose row could not be stored, with other orders beside it, gives back everything: room, day, cool-down, place."""
    put(book, NOW - timedelta(seconds=9))
    before, last = book.comparable(), book.usage("hook", now=NOW).last_entry_at
    for count in (1, 2):
        orders = [put(book, quantity=Decimal(count), reference_price=Decimal(90_000)) for _ in range(count)]
        for order in reversed(orders):
            book.remove(order)
        assert book.comparable() == before
        assert book.usage("hook", now=NOW).last_entry_at == last


def test_reverted_claim_is_queued_as_before(book: Book) -> None:
    """The claim is not on disk: nothing was sent, and the order keeps its place and its room."""
    order = put(book, quantity=Decimal(2))
    before = book.comparable()
    claimed = transitions.claimed(order, now=NOW, intent=replace(order.intent, quantity=Decimal(1)))
    fact = book.apply(order, claimed, now=NOW)
    assert isinstance(fact, OrderFact)
    assert book.comparable() != before
    book.revert(fact)
    assert book.comparable() == before


def test_histories_are_restored(book: Book) -> None:
    """What an alert that could not be stored said of the strategy's position is forgotten."""
    one, two = (StrategyHistory(start=Decimal(number), steps=()) for number in (1, 2))
    book.set_histories("hook", [(BTC, one)])
    before = book.histories_of("hook", [BTC, ETH])
    assert before == ((BTC, one), (ETH, None))
    book.set_histories("hook", [(BTC, two), (ETH, two)])
    book.restore_histories("hook", before)
    assert book.usage("hook", now=NOW).strategy_histories == {BTC: one}


def test_signing_time_goes_with_the_next_row(book: Book, rows: list[Entry]) -> None:
    """Measured when the request was signed, stored with its outcome, also if nothing else changed; once."""
    order = claim(book, put(book))
    signed = NOW + timedelta(milliseconds=7)
    book.note_signed(order.client_order_id, signed)
    book.note_signed("not ours", signed)
    fact = book.apply(order, order, now=NOW)
    assert fact is not None
    assert fact.signed_at == signed
    assert book.apply(order, order, now=NOW) is None


def test_notes_are_rows_that_change_nothing(book: Book, rows: list[Entry]) -> None:
    """Such as a refused exit: history, of an alert and an order."""
    order = put(book)
    before = book.comparable()
    book.note("exit_refused", order, now=NOW, data={"price": Decimal("0.10")})
    assert (rows[-1].kind, rows[-1].alert_id, rows[-1].fact) == ("exit_refused", order.alert_id, None)
    assert rows[-1].data == '{"price":"0.10"}'
    assert book.comparable() == before


# ------------------------------------------------------------------------------------------------------------------- fills


def sent(book: Book, order_id: str, webhook_id: str = "hook") -> Order:
    return accept(book, claim(book, put(book, webhook_id=webhook_id)), order_id=order_id)


def realized(book: Book, scope: str = "hook") -> Decimal | int:
    """USDC realized today."""
    return book.day(scope, DAY).realized_pnl


def test_fill_is_recorded_once(book: Book, rows: list[Entry]) -> None:
    """Stream, query and reconciliation all report the same trade: one row, one profit."""
    order = sent(book, "7")
    reported = fill(order_id="7", realized_pnl=Decimal("-12.5"), executed_at=NOW + timedelta(microseconds=999))
    assert [book.record_fill(reported, order=order) for _ in range(3)] == [True, False, False]
    assert (realized(book), realized(book, ACCOUNT)) == (Decimal("-12.5"), Decimal("-12.5"))
    assert [row.kind for row in rows].count("fill") == 1
    known = book.fill(reported.trade_id)
    assert known is not None
    assert (known.fill.client_order_id, known.webhook_id) == (order.client_order_id, "hook")


def test_triggered_stop_is_a_loss_of_the_webhook_that_entered(book: Book) -> None:
    """Child orders of a bracket carry no id of ours; otherwise a webhook's daily-loss limit would never see its stops."""
    sent(book, "1", webhook_id="first")
    sent(book, "2", webhook_id="second")
    book.record_fill(fill(order_id="child", side=Side.SELL, realized_pnl=Decimal(-40)), order=None)
    assert (realized(book, "second"), realized(book, "first"), realized(book, ACCOUNT)) == (-40, 0, -40)
    book.record_fill(fill(order_id="x", symbol="PERP_SOL_USDC", realized_pnl=Decimal(-5)), order=None)
    assert (realized(book, "second"), realized(book, ACCOUNT)) == (-40, -45)


def test_later_report_completes_a_fill(book: Book, rows: list[Entry]) -> None:
    """A trade first seen without order or P&L is completed when they are known; the last P&L reported counts."""
    order = sent(book, "7", webhook_id="first")
    sent(book, "8", webhook_id="second")
    early = fill(order_id="not known yet", realized_pnl=Decimal(10))
    book.record_fill(early, order=None)
    assert (realized(book, "second"), realized(book, "first")) == (10, 0)
    assert not book.record_fill(early, order=order)
    assert (realized(book, "second"), realized(book, "first"), realized(book, ACCOUNT)) == (0, 10, 10)
    bare = fill(order_id="7", realized_pnl=None)
    for pnl, wanted in ((None, 10), (Decimal(3), 13), (Decimal(-2), 8), (None, 8)):
        book.record_fill(replace(bare, realized_pnl=pnl), order=order)
        assert realized(book, "first") == wanted
    kinds = [row.kind for row in rows if row.kind.startswith("fill")]
    assert kinds == ["fill", "fill_completed", "fill", "fill_completed", "fill_completed"]


def test_own_exit_belongs_to_the_entrys_webhook(book: Book, rows: list[Entry]) -> None:
    """It is no order of ours, also if it was seen as a trade before; a second report adds nothing, and it stays an exit."""
    entry = sent(book, "7", webhook_id="first")
    sent(book, "8", webhook_id="second")
    closing = fill(order_id="child", realized_pnl=Decimal(-4))
    book.record_fill(closing, order=None)
    assert realized(book, "second") == -4
    assert not book.record_exit(closing, entry=entry)
    assert not book.record_exit(closing, entry=entry)
    assert not book.record_fill(closing, order=entry)
    assert (realized(book, "second"), realized(book, "first")) == (0, -4)
    known = book.fill(closing.trade_id)
    assert known is not None
    assert (known.exit_of, known.fill.client_order_id) == (entry.client_order_id, None)
    assert [row.kind for row in rows].count("exit_fill") == 1
    assert book.record_exit(fill(order_id="child2"), entry=entry)


def test_reported_exits_are_a_row_of_their_entry(book: Book, rows: list[Entry]) -> None:
    """For `explain` and the protection controller."""
    entry = sent(book, "7")
    leg = ExitStatus(kind=ExitKind.STOP_LOSS, trigger_price=Decimal(1), status=S.ACCEPTED, executed_quantity=Decimal(0))
    book.record_exits(entry, (leg,), now=NOW)
    assert (rows[-1].kind, rows[-1].client_order_id, rows[-1].alert_id) == (
        "exits",
        entry.client_order_id,
        entry.alert_id,
    )


def test_an_exit_leaves_what_an_earlier_one_was_sent_for(book: Book) -> None:
    """Whether that has executed is not known yet; what is recorded of it is gone from the holdings already."""
    own, others = Decimal("0.04"), Decimal("0.05")
    book.holdings.record(BTC, "hook", own)
    sent_exit: dict[str, Any] = {"side": Side.SELL, "purpose": Purpose.EXIT, "reduce_only": True}
    earlier = claim(book, put(book, quantity=Decimal("0.03"), **sent_exit))
    leaving = put(book, quantity=own, part=PositionPart.OWN, **sent_exit)
    assert book.kept_from(leaving, own) == 0  # alone: the exchange bounds both
    book.holdings.record(BTC, "other", others)

    def left(position: str) -> Decimal:
        return PositionPart.OWN.of(Decimal(position), book.kept_from(leaving, Decimal(position)))

    assert left("0.09") == Decimal("0.01")
    assert book.kept_from(put(book, webhook_id="other", **sent_exit), Decimal("0.09")) == own
    book.record_fill(fill(side=Side.SELL, quantity=Decimal("0.02")), order=earlier)
    assert left("0.07") == Decimal("0.01")
    report(book, accept(book, earlier), S.FILLED, Decimal("0.03"))
    book.record_fill(fill(side=Side.SELL, quantity=Decimal("0.01")), order=earlier)
    assert left("0.06") == Decimal("0.01")


def test_forgotten_fills_are_looked_up(book: Book) -> None:
    """Only so many are remembered: a trade from before them may be stored, and is never counted twice unseen."""
    count = MOST_FILLS + 10
    for number in range(count):
        reported = fill(trade_id=str(number), order_id="x", executed_at=NOW + timedelta(milliseconds=number))
        book.record_fill(reported, order=None)
    assert len(book._fills) == MOST_FILLS
    old, kept = fill(trade_id="3", executed_at=NOW + timedelta(milliseconds=3)), fill(trade_id=str(count - 1))
    unknown = fill(trade_id="new", executed_at=NOW + timedelta(days=1))
    assert book.unknown_trades([old, kept, unknown]) == ("3",)
    book.remember([])
    assert not book.record_fill(replace(kept, executed_at=NOW), order=None)


# ------------------------------------------------------------------------------------------------------------------- exits


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (exit_intent(close_fraction=Decimal(1)), True),
        (exit_intent(target_quantity=Decimal(0)), True),
        (exit_intent(close_fraction=Decimal(1), order_type=OrderType.LIMIT, limit_price=Decimal(1)), False),
        (exit_intent(close_fraction=Decimal("0.5")), False),
        (exit_intent(), False),
        (intent(target_quantity=Decimal(0)), False),
        (exit_intent(purpose=Purpose.PROTECT, close_fraction=Decimal(1)), False),
    ],
)
def test_exit_of_the_whole_position(book: Book, wanted: Any, *, expected: bool) -> None:
    """Only such an exit ends the entries that it overtakes: sent later they would reopen what the strategy has left."""
    assert store_order(book, wanted).closes_position is expected


def test_alert_is_stored_with_all_that_follows(book: Book, rows: list[Entry]) -> None:
    """One row holds the alert and its orders, and the book has them in the order of their legs."""
    admission = store_alert(book, decide=admitting(exit_intent(), intent(after_leg=0)), expires_at=EXPIRES)
    assert [row.kind for row in rows] == ["alert_admitted"]
    assert tuple(book.orders.values()) == admission.orders
    assert book.legs == {admission.alert.id: {0: admission.orders[0], 1: admission.orders[1]}}
    assert book.next_sequence() == 3
