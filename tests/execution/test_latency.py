"""Stages are told once each, as they happen, however often an order's news comes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from kekbridge.execution.latency import LatencyTracker
from kekbridge.model import Order, OrderStatus
from tests.store.factories import intent

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def after(milliseconds: int) -> datetime:
    return NOW + timedelta(milliseconds=milliseconds)


def order(name: str = "kb-1", **changes: object) -> Order:
    made = Order(
        client_order_id=name,
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
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


def test_every_stage_is_told_once() -> None:
    """Repeated, late and early news of an order change no count; the figures are those of the first time."""
    told: list[tuple[str, float]] = []
    watch = LatencyTracker()
    watch.listen(lambda stage, seconds: told.append((stage, seconds)))
    watch.on_stored(NOW, NOW - timedelta(seconds=1), 4.0, "kb-1")
    watch.on_answered(20.0)
    accepted = order(status=OrderStatus.ACCEPTED, accepted_at=after(12))
    filled = replace(accepted, status=OrderStatus.FILLED, finished_at=after(30), executed_quantity=Decimal("0.01"))
    watch.on_order_update(order())
    watch.on_signed("kb-1", after(6))
    for step in (accepted, accepted, filled, filled, accepted):
        watch.on_order_update(step)
    watch.on_order_update(order("another"))
    assert told == [
        ("received", 1.0),
        ("stored", 0.004),
        ("answered", 0.02),
        ("admitted", 0.004),
        ("signed", 0.006),
        ("accepted", 0.012),
        ("filled", 0.03),
    ]


def test_an_order_that_never_left_has_no_later_stages() -> None:
    """Denied before it was sent: stored, and nothing after it."""
    told: list[str] = []
    watch = LatencyTracker()
    watch.listen(lambda stage, _: told.append(stage))
    watch.on_stored(NOW, None, 4.0, "kb-1")
    watch.on_order_update(order(status=OrderStatus.DENIED, submitted_at=None, finished_at=after(5)))
    assert told == ["stored"]
