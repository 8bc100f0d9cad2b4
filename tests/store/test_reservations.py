"""What a reservation says of its order: in the book by type, and whether the exchange holds its margin back already."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.model import OrderType
from kekbridge.store import order_lifecycle, reservations
from kekbridge.store import orders as order_rows
from kekbridge.store.admissions import admit
from tests.store.made import NO_RATES, NOW, admitting, draft, intent


@pytest.mark.parametrize(
    ("kind", "prices", "is_margined"),
    [
        (OrderType.LIMIT, {"limit_price": Decimal(60_000)}, True),
        (OrderType.STOP, {"trigger_price": Decimal(70_000)}, False),
    ],
)
def test_margin_is_held_back_for_what_is_in_the_exchanges_book(
    connection: sqlite3.Connection, kind: OrderType, prices: dict[str, Any], *, is_margined: bool
) -> None:
    """Queued and sent orders are not known there yet; a stop order has no margin before it triggers."""
    wish = intent(order_type=kind, **prices)
    admission = admit(
        connection, draft(), admitting(wish), rates=NO_RATES, now=NOW, expires_at=NOW + timedelta(seconds=60)
    )
    name = admission.orders[0].client_order_id

    def is_margined_now() -> bool:
        (reservation,) = reservations.open_reservations(connection)
        assert reservation.is_resting
        assert reservation == reservations.reservation_of(order_rows.get(connection, name))
        return reservation.is_margined

    assert not is_margined_now()
    order_lifecycle.claim(connection, name, now=NOW)
    assert not is_margined_now()
    order_lifecycle.mark_accepted(connection, name, order_id="1", now=NOW)
    assert is_margined_now() is is_margined
