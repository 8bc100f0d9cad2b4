"""Every fact is read back from its row of the journal as it was: after a crash the tables are made from the JSON alone."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.model import (
    CancelRequest,
    Fill,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Purpose,
    Side,
    StrategyHistory,
    StrategyStep,
    TakeProfit,
    Verdict,
)
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import facts, journal
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import from_json, storable, time_text, to_json
from kekbridge.store.facts import AlertFact, ExitsFact, FillFact, OrderFact, OwnedFill, PlainFact, ResponseFact
from tests.examples import examples

AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e30"), max_value=Decimal("1e30"))
TIMES = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 - given a zone below
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001 - given a zone below
    timezones=st.just(UTC),
).map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000))
# As they are stored: half characters are escapes by then.
TEXT = st.text(alphabet=st.characters(), max_size=12).map(storable)
IDS = st.text(alphabet="ABCDEFGHJKMNPQRSTVWXYZ0123456789", min_size=26, max_size=26)
INTENTS = st.builds(
    OrderIntent,
    symbol=TEXT,
    side=st.sampled_from(Side),
    order_type=st.sampled_from(OrderType),
    quantity=AMOUNTS,
    purpose=st.sampled_from(Purpose),
    reference_price=AMOUNTS,
    reduce_only=st.booleans(),
    limit_price=st.none() | AMOUNTS,
    trigger_price=st.none() | AMOUNTS,
    stop_loss=st.none() | AMOUNTS,
    take_profits=st.lists(st.builds(TakeProfit, AMOUNTS, AMOUNTS), max_size=2).map(tuple),
    trailing_callback_rate=st.none() | AMOUNTS,
    slippage=st.none() | AMOUNTS,
    leverage=st.none() | AMOUNTS,
    close_fraction=st.none() | AMOUNTS,
    after_leg=st.none() | st.integers(0, 9),
    target_quantity=st.none() | AMOUNTS,
)
VERDICTS = st.lists(
    st.builds(Verdict, rule=TEXT, scope=TEXT, passed=st.booleans(), found=TEXT, limit=TEXT, message=TEXT), max_size=3
).map(tuple)


def orders(**fixed: Any) -> st.SearchStrategy[Order]:
    """Any order; `fixed` are fields that a fact does not write."""
    values: dict[str, Any] = {
        "client_order_id": IDS,
        "alert_id": IDS,
        "webhook_id": TEXT,
        "leg": st.integers(0, 60),
        "sequence": st.integers(1, 2**40),
        "intent": INTENTS,
        "status": st.sampled_from(OrderStatus),
        "created_at": TIMES,
        "expires_at": TIMES,
        "order_id": st.none() | TEXT,
        "executed_quantity": AMOUNTS,
        "average_price": st.none() | AMOUNTS,
        "fee": AMOUNTS,
        "realized_pnl": AMOUNTS,
        "code": st.none() | TEXT,
        "error": st.none() | TEXT,
        "attempt": st.integers(0, 9),
        "next_attempt_at": st.none() | TIMES,
        "submitted_at": st.none() | TIMES,
        "accepted_at": st.none() | TIMES,
        "finished_at": st.none() | TIMES,
    }
    return st.builds(Order, **values | fixed)


# As it is stored first: nothing has come from the exchange, and it may be claimed already.
NEW = {
    "alert_id": st.just("A" * 26),
    "order_id": st.none(),
    "executed_quantity": st.just(Decimal(0)),
    "average_price": st.none(),
    "fee": st.just(Decimal(0)),
    "realized_pnl": st.just(Decimal(0)),
    "code": st.none(),
    "error": st.none(),
    "next_attempt_at": st.none(),
    "accepted_at": st.none(),
    "finished_at": st.none(),
}
NEW_ORDERS = orders(**NEW, attempt=st.just(0), submitted_at=st.none()) | orders(
    **NEW, attempt=st.just(1), submitted_at=TIMES
)
ALERTS = st.builds(
    StoredAlert,
    id=st.just("A" * 26),
    webhook_id=TEXT,
    webhook_name=TEXT,
    alert_id=st.none() | TEXT,
    identity=st.none() | TEXT,
    fingerprint=TEXT,
    received_at=TIMES,
    fired_at=st.none() | TIMES,
    remote=TEXT,
    proof=TEXT,
    payload=st.just({}),  # in the row's message, as text
    action=st.none() | TEXT,
    symbol=st.none() | TEXT,
    is_exit=st.booleans(),
    status=TEXT,
    code=st.none() | TEXT,
    error=st.none() | TEXT,
    field=st.none() | TEXT,
    verdicts=VERDICTS,
    warnings=st.lists(TEXT, max_size=2).map(tuple),
    answer_status=st.none(),
    answer=st.none(),
    stages=st.just({}),
    updated_at=TIMES,
)
HISTORIES = st.builds(
    StrategyHistory,
    start=st.none() | AMOUNTS,
    steps=st.lists(st.builds(StrategyStep, fired_at=TIMES, before=st.none() | AMOUNTS, now=AMOUNTS), max_size=3).map(
        tuple
    ),
)
ALERT_FACTS = st.builds(
    AlertFact,
    alert=ALERTS,
    orders=st.lists(NEW_ORDERS, max_size=3).map(tuple),
    cancels=st.lists(st.builds(CancelRequest, symbol=st.none() | TEXT, comment=st.none() | TEXT), max_size=2).map(
        tuple
    ),
    histories=st.lists(st.tuples(TEXT, HISTORIES), max_size=2).map(tuple),
    message=st.none() | TEXT,
    request=st.none() | TEXT,
)


def at_of(entry: journal.Entry) -> str:
    """The time of a row as it is stored."""
    return time_text(entry.at)


@settings(max_examples=examples(40))
@given(ALERT_FACTS)
def test_alert_reads_back_equal(fact: AlertFact) -> None:
    """With its orders, cancel steps, histories, message and request; text and digests agree, so that the chain verifies."""
    entry = facts.alert_entry(fact, "alert_admitted")
    entry.data.encode("utf-8")
    assert (
        facts.read_alert(at_of(entry), entry.alert_id or "", entry.identity, entry.data, entry.message, entry.request)
        == fact
    )
    assert journal._texts_match(entry.data, entry.message, entry.request)
    assert (entry.webhook_id is None) == (entry.identity is None)
    assert (entry.kind, entry.alert_id, entry.fact) == ("alert_admitted", fact.alert.id, fact)


@settings(max_examples=examples(40))
@given(NEW_ORDERS, TIMES, st.none() | TEXT)
def test_added_order_reads_back_equal(order: Order, at: datetime, request: str | None) -> None:
    """A protective order that joins its alert later."""
    fact = OrderFact(before=None, after=order, at=at, request=request)
    entry = facts.order_entry(fact)
    assert facts.read_order(entry.kind, at_of(entry), None, order.alert_id, entry.data, entry.request) == fact


CHANGING = ("status", "intent", *facts._CHANGING)


@settings(max_examples=examples(40))
@given(
    before=orders(),
    after=orders(),
    at=TIMES,
    request=st.none() | TEXT,
    verdicts=VERDICTS,
    signed_at=st.none() | TIMES,
    has_later_exits=st.booleans(),
    changed=st.sets(st.sampled_from(CHANGING)),
)
def test_changed_order_reads_back_equal(
    before: Order,
    after: Order,
    at: datetime,
    request: str | None,
    verdicts: tuple[Verdict, ...],
    signed_at: datetime | None,
    has_later_exits: bool,
    changed: set[str],
) -> None:
    """Whatever changed, and only that, is in the row: also back to None, and a resized intent."""
    changes = {name: getattr(after, name) for name in changed}
    fact = OrderFact(
        before=before,
        after=replace(before, **changes),
        at=at,
        request=request,
        verdicts=verdicts,
        signed_at=signed_at,
        has_later_exits=has_later_exits,
    )
    entry = facts.order_entry(fact)
    entry.data.encode("utf-8")
    assert facts.read_order(entry.kind, at_of(entry), before, before.alert_id, entry.data, entry.request) == fact
    assert journal._texts_match(entry.data, None, entry.request)
    same = {name for name in facts._CHANGING if getattr(before, name) == getattr(fact.after, name)}
    assert not same & from_json(entry.data).keys()


FILLS = st.builds(
    Fill,
    trade_id=TEXT,
    order_id=TEXT,
    client_order_id=st.none() | IDS,
    symbol=TEXT,
    side=st.sampled_from(Side),
    price=AMOUNTS,
    quantity=AMOUNTS,
    fee=AMOUNTS,
    realized_pnl=st.none() | AMOUNTS,
    is_maker=st.booleans(),
    executed_at=TIMES,
)
OWNED = st.builds(OwnedFill, fill=FILLS, webhook_id=st.none() | TEXT, exit_of=st.none() | IDS)


@given(st.none() | OWNED, OWNED, st.none() | IDS)
def test_fill_reads_back_equal(before: OwnedFill | None, after: OwnedFill, alert_id: str | None) -> None:
    """To the last digit, with its owner and whose exit it is; a completed fill is told from a new one."""
    fact = FillFact(before=before, after=after)
    entry = facts.fill_entry(fact, alert_id)
    assert facts.read_fill(entry.client_order_id, before, entry.data) == fact
    assert entry.kind == ("fill" if before is None else "fill_completed")
    assert (entry.alert_id, entry.at) == (alert_id, after.fill.executed_at)


LEGS = st.lists(
    st.builds(
        ExitStatus,
        kind=st.sampled_from(ExitKind),
        trigger_price=st.none() | AMOUNTS,
        status=st.sampled_from(OrderStatus),
        executed_quantity=AMOUNTS,
        average_price=st.none() | AMOUNTS,
    ),
    max_size=3,
).map(tuple)


@given(LEGS, TIMES, IDS)
def test_exits_read_back_equal(legs: tuple[ExitStatus, ...], at: datetime, name: str) -> None:
    """What the protection controller compares the next report with."""
    fact = ExitsFact(client_order_id=name, legs=legs, at=at)
    entry = facts.exits_entry(fact, "alert")
    assert facts.read_exits(name, at_of(entry), entry.data) == fact


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(), max_size=8) | AMOUNTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXT, JSON, max_size=4), st.integers(100, 599), TIMES)
def test_response_reads_back_equal(body: dict[str, object], status: int, at: datetime) -> None:
    """The body to the byte, whatever the sender's message brought into it; durations to the microsecond."""
    fact = ResponseFact(
        alert_id="a", status=status, body=to_json(body), stages={"stored": 1.25, "answered": 3.0}, at=at
    )
    entry = facts.response_entry(fact)
    entry.data.encode("utf-8")
    assert facts.read_response("a", at_of(entry), entry.data) == fact


def test_durations_are_rounded_to_a_microsecond() -> None:
    """They are measurements: what is read back is what the table holds."""
    at = datetime(2026, 1, 15, tzinfo=UTC)
    fact = ResponseFact(alert_id="a", status=200, body="{}", stages={"stored": 0.12345678}, at=at)
    assert facts.read_response("a", "2026-01-15T00:00:00.000Z", facts.response_entry(fact).data).stages == {
        "stored": 0.123
    }


@given(st.dictionaries(TEXT, JSON, max_size=4), TIMES, st.none() | IDS, st.none() | IDS)
def test_plain_fact_is_what_its_row_says(
    data: dict[str, object], at: datetime, alert_id: str | None, client_order_id: str | None
) -> None:
    """The projector gets the same from the fact and from the journal: amounts are text in both."""
    entry = facts.plain_entry("trading_state", at=at, data=data, alert_id=alert_id, client_order_id=client_order_id)
    assert entry.fact == PlainFact(
        kind="trading_state", at=at, alert_id=alert_id, client_order_id=client_order_id, data=from_json(entry.data)
    )


@pytest.mark.parametrize("status", list(OrderStatus))
def test_kind_names_the_status(status: OrderStatus) -> None:
    """`kekbridge history` and notifications go by these kinds: they are part of the interface."""
    at = datetime(2026, 1, 15, tzinfo=UTC)
    order = Order(
        client_order_id="kb-1",
        alert_id="a",
        webhook_id="w",
        leg=0,
        sequence=1,
        intent=OrderIntent(
            symbol="S",
            side=Side.BUY,
            order_type=OrderType.MARKET,
            quantity=Decimal("1E-8"),
            purpose=Purpose.ENTRY,
            reference_price=Decimal(1),
        ),
        status=OrderStatus.QUEUED,
        created_at=at,
        expires_at=at,
    )
    entry = facts.order_entry(OrderFact(before=order, after=replace(order, status=status, fee=Decimal("1E-8")), at=at))
    assert entry.kind == f"order_{status.value}"
    assert from_json(entry.data) == {"fee": "0.00000001"}
