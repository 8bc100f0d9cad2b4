"""The oracles of X1 can fail: each is given books with the violation it checks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.system import mixed_oracles
from tests.system.harness import Sent
from tests.system.mixed_oracles import Books, Cap, Outage, all_is_flat, judge, longest_exit_delay_s, overlap_ms
from tests.system.oracles import milliseconds

T0 = "2026-01-15T10:00:00.000Z"
T0_MS = milliseconds(T0)
MARKET = "PERP_BTC_USDC"
ENTRY, CLOSE, STOP = "kb-entry", "kb-close", "kb-stop"
WEBHOOK = {"webhookId": "w", "webhookName": "test"}
USED = [
    {"name": "leverage", "used": "0x"},
    {"name": "orders a day", "used": "1"},
    {"name": "traded a day", "used": "198.00 USDC"},
]


def order(name: str, alert: str, **changes: Any) -> dict[str, Any]:
    return {
        "clientOrderId": name, "alertId": alert, "leg": 0, "status": "filled", "executedQuantity": "1", "purpose": "entry",
        "symbol": MARKET, "side": "SELL", "webhookId": "w", "finishedAt": T0, "afterLeg": None, **changes,
    }  # fmt: skip


def event(kind: str, at_ms: int, **facts: Any) -> dict[str, Any]:
    return {"event": kind, "t": T0_MS + at_ms, "symbol": MARKET, **facts}


def accepted(name: str | None, order_id: int, at_ms: int, **facts: Any) -> dict[str, Any]:
    return event("order_accepted", at_ms, client_order_id=name, order_id=order_id, **facts)


def fill(name: str | None, trade_id: int, at_ms: int, side: str, price: str, **facts: Any) -> dict[str, Any]:
    return event(
        "fill", at_ms, client_order_id=name, order_id=trade_id, trade_id=trade_id, side=side, quantity="1", price=price,
        fee="0.1", **{"realized_pnl": "0", "algo_order_id": None, **facts},
    )  # fmt: skip


def stored_fill(trade_id: int, price: str, pnl: str = "0") -> dict[str, Any]:
    return {"tradeId": str(trade_id), "price": price, "quantity": "1", "fee": "0.1", "realizedPnl": pnl}


def books(**changes: Any) -> Books:
    """One coin bought at 100 with a stop loss and sold again at 98; `changes` replace parts."""
    journal = [
        event("price", 0, price="100"),
        event("order_received", 100, client_order_id=ENTRY),
        accepted(ENTRY, 1, 100, algo=True, algo_type="BRACKET", side="BUY"),
        accepted(None, 2, 101, side="BUY"),
        fill(None, 3, 110, "BUY", "100", algo_order_id=1),
        event("price", 2_000, price="98"),
        event("order_received", 2_100, client_order_id=CLOSE),
        accepted(CLOSE, 4, 2_100, side="SELL"),
        fill(CLOSE, 5, 2_110, "SELL", "98", realized_pnl="-2"),
    ]
    values: dict[str, Any] = {
        "sent": [
            Sent("a1", [200], {"action": "buy", "quantity": "1"}),
            Sent("a2", [200], {"action": "close"}),
        ],
        "journal": journal,
        "state": {"positions": {}, "open_orders": [], "open_algo_orders": []},
        "alerts": [
            {"id": "01", "alertId": "a1", "identity": "1", "status": "filled", "receivedAt": T0, **WEBHOOK},
            {"id": "02", "alertId": "a2", "identity": "2", "status": "filled", "receivedAt": "2026-01-15T10:00:02.000Z", **WEBHOOK},
        ],
        "orders": [order(ENTRY, "01"), order(CLOSE, "02", purpose="exit")],
        "positions": [],
        "fills": [stored_fill(3, "100"), stored_fill(5, "98", "-2")],
        "stats": {
            "realizedPnl": "-2", "fees": "0.2", "funding": "0",
            "counts": {"received": 2, "done": 2, "refused": 0, "duplicate": 0, "expired": 0, "unknown": 0, "waiting": 0},
        },
        "risk": {"scopes": [{"scope": "webhook", "name": "test", "limits": USED}]},
        "guarded": frozenset({MARKET}),
        "caps": (Cap("test", (MARKET,), max_position=Decimal(1), max_daily_loss=Decimal(2)),),
    }  # fmt: skip
    for name, change in changes.items():
        values[name] = change(values[name]) if callable(change) else change
    return Books(**values)


def test_books_without_a_violation_are_clean() -> None:
    """The books that the other tests break are in order."""
    found = judge(books())
    assert found.is_clean, found.failures
    assert (found.longest_naked_s, longest_exit_delay_s(books())) == (0.0, (0.1, CLOSE))
    assert all_is_flat(books()) == []


def without_last(rows: list[Any]) -> list[Any]:
    return rows[:-1]


def plus(*more: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [*rows, *more]


def first_with(**changes: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [{**rows[0], **changes}, *rows[1:]]


def used(name: str, text: str) -> dict[str, Any]:
    return {"scopes": [{"scope": "webhook", "name": "test", "limits": [{"name": name, "used": text}]}]}


OPEN_STOP = {"client_order_id": STOP, "symbol": MARKET, "root_algo_status": "NEW"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"alerts": without_last}, "lost: a2 was acknowledged"),
        ({"alerts": plus({"id": "03", "alertId": "a2", "identity": "3", "status": "filled", **WEBHOOK})}, "doubled: a2 is stored 2 times"),
        ({"sent": without_last}, "invented: a2 is stored"),
        ({"journal": plus(accepted(CLOSE, 9, 3_000, side="SELL"))}, f"doubled: {CLOSE} was accepted 2 times"),
        ({"journal": plus(accepted("kb-other", 9, 3_000, side="SELL"))}, "invented: kb-other is at the exchange"),
        ({"sent": lambda rows: [replace(rows[0], body={"action": "buy", "quantity": "0.9"}), rows[1]]}, "doubled: a1 asked for 0.9"),
        ({"alerts": first_with(status="accepted")}, "waiting: a1 is accepted"),
        ({"orders": first_with(status="unknown", finishedAt=None)}, f"waiting: order {ENTRY} is unknown"),
        ({"orders": first_with(executedQuantity="0.5")}, f"view: {ENTRY} (filled) shows 0.5 executed, the exchange has 1"),
        ({"orders": first_with(status="expired")}, f"view: {ENTRY} shows expired and was accepted"),
        ({"orders": first_with(status="accepted")}, f"view: {ENTRY} is accepted, and not open at the exchange"),
        ({"state": {"positions": {}, "open_orders": [], "open_algo_orders": [OPEN_STOP]}}, f"view: {STOP} is open at the exchange"),
        ({"fills": without_last}, "fill missing: 5"),
        ({"fills": first_with(fee="0.3")}, "fill 3: fee is 0.3, the exchange says 0.1"),
        ({"fills": plus(stored_fill(7, "1"))}, "fill 7 is stored, and unknown"),
        ({"fills": plus(stored_fill(5, "98", "-2"))}, "fills: 3 rows of 2 trades"),
        ({"stats": lambda row: {**row, "realizedPnl": "-1.99"}}, "money: realizedPnl is -1.99, the exchange's sum is -2"),
        ({"stats": lambda row: {**row, "counts": {**row["counts"], "done": 1}}}, "counts: 1 in groups, 2 received"),
        ({"risk": used("orders a day", "2")}, "totals: test has used 2 of orders a day, the exchange's sum is 1"),
        ({"risk": used("traded a day", "99.00 USDC")}, "totals: test has used 99.00 USDC of traded a day"),
        ({"positions": [{"symbol": MARKET, "quantity": "1"}]}, "positions: shown"),
        ({"journal": without_last}, "positions: the fills add up to"),
        (
            {
                "orders": plus(order(STOP, "01", purpose="protect", status="accepted", executedQuantity="0")),
                "state": {"positions": {}, "open_orders": [], "open_algo_orders": [OPEN_STOP]},
            },
            f"orphan: {STOP} stays in {MARKET}",
        ),
    ],
)  # fmt: skip
def test_violations_are_found(changes: dict[str, Any], found: str) -> None:
    """Each violation is named."""
    assert [line for line in judge(books(**changes)).failures if line.startswith(found)]


def test_lost_doubled_and_breaches_are_counted() -> None:
    """Lost and doubled alerts and breached limits are figures of their own."""
    found = judge(books(alerts=without_last, journal=plus(accepted(CLOSE, 9, 3_000, side="SELL"))))
    assert (found.lost, found.doubled) == (1, 1)


def test_a_denied_alert_may_be_stored_again() -> None:
    """It claims no identity but its own, so a resend whose first answer was lost is a row of its own; an alert that was taken is not."""
    again = {"id": "03", "alertId": "a2", "identity": "alert:03", "status": "denied", **WEBHOOK}
    found = judge(books(alerts=plus(again, again)))
    assert not found.doubled


def test_a_position_over_its_limit_is_a_breach() -> None:
    """A second coin while the first is still held is one too many."""
    late = fill(None, 9, 500, "BUY", "100")
    found = judge(books(journal=lambda rows: [*rows[:5], late, *rows[5:]]))
    assert found.breaches == 1
    assert f"limit: test holds 2 {MARKET}, allowed 1" in found.failures


@pytest.mark.parametrize(("after_ms", "outages", "is_breach"), [(900, 0, False), (1_100, 0, True), (1_100, 500, False)])
def test_an_entry_after_the_loss_of_the_day_is_a_breach(after_ms: int, outages: int, *, is_breach: bool) -> None:
    """An entry may be on its way when the loss passes the limit, for a second of answering time, and not later."""
    fell = [event("price", 2_500, price="90"), event("order_received", 2_500 + after_ms, client_order_id="kb-late")]
    held = fill(None, 8, 2_400, "BUY", "98")
    changed = books(
        journal=plus(held, *fell),
        orders=plus(order("kb-late", "01", status="rejected", executedQuantity="0")),
        outages=[Outage(T0_MS + 2_500, T0_MS + 2_500 + outages, "deaf")],
    )
    assert bool(mixed_oracles.limits_hold(changed)) is is_breach


def test_naked_time_counts_without_outages() -> None:
    """A lost stop is naked until its replacement, except while nobody answered."""
    lost = event("order_refused", 110, algo=True, algo_type="STOP_LOSS", order_id=6, root_order_id=1)
    placed = accepted(STOP, 7, 1_110, algo=True, algo_type="STOP", reduce_only=True, quantity="1")
    changed = books(
        journal=lambda rows: [*rows[:5], lost, placed, *rows[5:]],
        outages=[Outage(T0_MS + 210, T0_MS + 510, "deaf"), Outage(T0_MS + 410, T0_MS + 610, "slow")],
    )
    assert mixed_oracles.longest_naked_s(changed) == 0.6


def test_a_position_without_a_stop_at_the_end_is_named() -> None:
    """A guarded position whose stop is gone is a failure by itself."""
    lost = event("order_refused", 110, algo=True, algo_type="STOP_LOSS", order_id=6, root_order_id=1)
    assert mixed_oracles.stops_cover(books(journal=lambda rows: [*rows[:5], lost])) == [
        f"naked: {MARKET} holds 1, stops cover 0"
    ]


def test_exit_delay_counts_without_outages() -> None:
    """Time in which the exchange did not answer is not the bridge's."""
    outage = Outage(T0_MS + 2_020, T0_MS + 2_080, "exchange killed")
    assert longest_exit_delay_s(books(outages=[outage])) == (0.04, CLOSE)


def test_exit_delay_counts_from_the_position() -> None:
    """An exit that came before its position was opened is late from the opening on, and one against nothing is not late."""
    early = [{**row, "receivedAt": T0} for row in books().alerts]
    assert longest_exit_delay_s(books(alerts=early)) == (1.99, CLOSE)
    against_nothing = [{**row, "side": "BUY"} for row in books().orders]
    assert longest_exit_delay_s(books(orders=against_nothing)) == (0.0, CLOSE)


def test_what_is_left_after_everything_is_named() -> None:
    """After everything is closed, a position, an order and a used limit are violations."""
    left = books(
        state={"positions": {MARKET: "1"}, "open_orders": [], "open_algo_orders": [OPEN_STOP]},
        risk=used("leverage", "0.5x"),
    )
    assert all_is_flat(left) == [
        f"flat: {MARKET} 1 is still open",
        f"flat: order {STOP} is still open",
        "room: test still uses 0.5x of leverage",
    ]


def test_overlap_counts_each_moment_once() -> None:
    """Outages may overlap each other and the ends of the time."""
    outages = [Outage(0, 10, "a"), Outage(5, 20, "b"), Outage(30, 50, "c")]
    assert overlap_ms(outages, 8, 40) == 22
