"""Every stage's duration is published once, as it happens, however often an order is published."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from kekbridge.execution.latency import LatencyTracker
from kekbridge.model import Order, OrderStatus
from tests.store.factories import intent

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def after(milliseconds: int) -> datetime:
    return NOW + timedelta(milliseconds=milliseconds)


def order(client_order_id: str = "kb-1", **changes: object) -> Order:
    base = Order(
        client_order_id=client_order_id,
        alert_id="a",
        webhook_id="w",
        leg=0,
        sequence=1,
        intent=intent(),
        status=OrderStatus.SUBMITTING,
        created_at=NOW,
        expires_at=after(60_000),
        submitted_at=NOW,
    )
    return replace(base, **changes)


def test_every_stage_is_published_once() -> None:
    """Repeated, late and early updates of an order add nothing; the durations are those of the first update."""
    published: list[tuple[str, float]] = []
    tracker = LatencyTracker()
    tracker.listen(lambda stage, seconds: published.append((stage, seconds)))
    tracker.on_stored(NOW, NOW - timedelta(seconds=1), 4.0, "kb-1")
    tracker.on_answered(20.0)
    accepted = order(status=OrderStatus.ACCEPTED, accepted_at=after(12))
    filled = replace(accepted, status=OrderStatus.FILLED, finished_at=after(30), executed_quantity=Decimal("0.01"))
    tracker.on_order_update(order())
    tracker.on_signed("kb-1", after(6))
    for step in (accepted, accepted, filled, filled, accepted):
        tracker.on_order_update(step)
    tracker.on_order_update(order("another"))
    assert published == [
        ("received", 1.0),
        ("stored", 0.004),
        ("answered", 0.02),
        ("admitted", 0.004),
        ("signed", 0.006),
        ("accepted", 0.012),
        ("filled", 0.03),
    ]


def test_an_order_that_was_not_sent_has_no_later_stages() -> None:
    """Denied before it was sent: only the stage `stored` is published."""
    published: list[str] = []
    tracker = LatencyTracker()
    tracker.listen(lambda stage, _: published.append(stage))
    tracker.on_stored(NOW, None, 4.0, "kb-1")
    tracker.on_order_update(order(status=OrderStatus.DENIED, submitted_at=None, finished_at=after(5)))
    assert published == ["stored"]
