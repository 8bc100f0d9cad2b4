"""Which rows of the asset history move the account's value, and when: the drawdown is blind to exactly these."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.exchange.orderly.account_api import transfer_of

CREATED, UPDATED = 1_773_144_000_000, 1_773_144_060_000  # 12:00 and 12:01 UTC
PRICES = {"USDC": Decimal(1)}


def row(**changes: Any) -> dict[str, Any]:
    """A completed deposit as the exchange lists it."""
    whole = {
        "id": "230707030600002",
        "side": "DEPOSIT",
        "token": "USDC",
        "amount": Decimal("555.5"),
        "fee": 0,
        "trans_status": "COMPLETED",
        "created_time": CREATED,
        "updated_time": UPDATED,
    }
    return whole | changes


def test_a_deposit_counts_when_completed() -> None:
    """Money that is on its way is not in the account yet."""
    found = transfer_of(row(), PRICES)
    assert found is not None
    assert (found.flow.amount, found.flow.at) == (Decimal("555.5"), datetime(2026, 3, 10, 12, 1, tzinfo=UTC))


@pytest.mark.parametrize("status", ["PENDING", "PROCESSING", "COMPLETED", "PENDING_REBALANCE"])
def test_a_withdrawal_counts_from_its_request(status: str) -> None:
    """The exchange takes it out of the account at once."""
    found = transfer_of(row(side="WITHDRAW", trans_status=status), PRICES)
    assert found is not None
    assert (found.flow.amount, found.flow.at) == (Decimal("-555.5"), datetime(2026, 3, 10, 12, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    "changes",
    [
        {"trans_status": "PROCESSING"},
        {"trans_status": "FAILED"},
        {"side": "WITHDRAW", "trans_status": "FAILED"},
        {"side": "SOMETHING"},
        {"amount": None},
        {"id": ""},
        {"updated_time": None},
        {"token": "WITHOUT-PRICE"},
    ],
)
def test_what_moved_nothing_or_cannot_be_read_is_left_out(changes: dict[str, Any]) -> None:
    """Half-read money would move the peak."""
    assert transfer_of(row(**changes), PRICES) is None
