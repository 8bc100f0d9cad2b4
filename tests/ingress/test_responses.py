"""The table of HTTP answers (docs/internals/architecture.md section 3): each state of an alert has one status and one body."""

from __future__ import annotations

from decimal import Decimal

import pytest

from kekbridge.errors import RateLimited, Refused, Unauthenticated
from kekbridge.ingress import responses
from kekbridge.model import FIRST_PROTECTIVE_LEG, OrderStatus, OrderType, Purpose
from tests.execution.test_updates import order
from tests.store.factories import NOW, exit_intent, intent

D = Decimal
FILL = {"executed_quantity": D("0.01"), "average_price": D(65000), "order_id": "77"}


@pytest.mark.parametrize(
    ("status", "http_status", "success"),
    [
        (OrderStatus.QUEUED, 202, True),
        (OrderStatus.SUBMITTING, 202, True),
        (OrderStatus.UNKNOWN, 202, True),
        (OrderStatus.FILLED, 200, True),
        (OrderStatus.CANCELED, 200, True),
        (OrderStatus.REJECTED, 422, False),
        (OrderStatus.DENIED, 422, False),
        (OrderStatus.EXPIRED, 422, False),
    ],
)
def test_each_state_has_its_status(status: OrderStatus, http_status: int, success: bool) -> None:
    """202 while the outcome is not known, 422 when it came to nothing, 200 else."""
    answer = responses.order_response([order(0, status)], alert_id="a", now=NOW)
    assert (answer.status, answer.body["success"], answer.body["status"]) == (http_status, success, status.value)
    assert ("code" in answer.body) is not success


def test_a_fill_is_told_with_price_and_quantity() -> None:
    """The sender learns order, price and quantity, as numbers exactly as they are stored."""
    body = responses.order_response([order(0, OrderStatus.FILLED, **FILL)], alert_id="a", now=NOW).body
    assert (body["orderId"], body["executedPrice"], body["executedQuantity"]) == ("77", D(65000), D("0.01"))
    assert body["timestamp"] == int(NOW.timestamp() * 1000)


def test_a_resting_limit_order_is_an_outcome() -> None:
    """Accepted and in the book: 200, there may be no more news for days."""
    limit = intent(order_type=OrderType.LIMIT, limit_price=D(64000))
    assert responses.order_response([order(0, OrderStatus.ACCEPTED, intent=limit)], alert_id="a", now=NOW).status == 200


def test_the_resend_of_a_waiting_alert_is_not_asked_for_again() -> None:
    """A duplicate of a stored alert is never 202 or 5xx: it says what became of the first."""
    answer = responses.order_response([order(0)], alert_id="a", now=NOW, is_duplicate=True)
    assert (answer.status, answer.body["duplicate"]) == (200, True)


def test_the_failed_leg_speaks_for_the_alert() -> None:
    """Close done, entry refused: 422 with the entry's code, and every leg is listed; legs that only followed do not speak."""
    orders = [
        order(0, OrderStatus.FILLED, intent=exit_intent(), **FILL),
        order(1, OrderStatus.REJECTED, code="orderly:-1101", error="no margin"),
        order(2, OrderStatus.DENIED, code="earlier_leg_failed"),
    ]
    answer = responses.order_response(orders, alert_id="a", now=NOW)
    assert (answer.status, answer.body["code"]) == (422, "orderly:-1101")
    assert [leg["leg"] for leg in answer.body["orders"]] == [0, 1, 2]


def test_what_guards_a_position_does_not_speak() -> None:
    """A refused stand-in stop leaves the entry's answer as it is."""
    stop = order(FIRST_PROTECTIVE_LEG, OrderStatus.REJECTED, intent=exit_intent(purpose=Purpose.PROTECT), code="x")
    answer = responses.order_response([order(0, OrderStatus.FILLED, **FILL), stop], alert_id="a", now=NOW)
    assert (answer.status, answer.body["status"]) == (200, "filled")
    assert "orders" not in answer.body


def test_an_alert_that_was_stopped_half_way_says_why() -> None:
    """The steps that were kept have their outcome; why the others were left out stands beside it."""
    answer = responses.order_response(
        [order(0, OrderStatus.FILLED, **FILL)], alert_id="a", now=NOW, code="daily_limit", error="used up"
    )
    assert (answer.status, answer.body["stopped"]) == (200, {"code": "daily_limit", "error": "used up"})


def test_every_failed_proof_has_the_same_answer() -> None:
    """Unknown key or wrong signature: one neutral sentence, so that nobody can find out keys by trying."""
    told = {
        str(responses.refusal_response(Unauthenticated(code, code)))
        for code in ("api_key_unknown", "signature_invalid", "timestamp_stale")
    }
    assert len(told) == 1
    assert "api_key_unknown" not in told.pop()


def test_refusals_name_field_and_wait() -> None:
    """A wrong field is named; a rate limit says how long to wait, in the body and for the header."""
    refused = responses.refusal_response(Refused("price_invalid", "found x", field="price"), alert_id="a")
    assert (refused.status, refused.body["field"], refused.body["alertId"]) == (422, "price", "a")
    limited = responses.refusal_response(RateLimited("rate_limited", "too many", retry_after_s=7))
    assert (limited.status, limited.retry_after_s, limited.body["retryAfter"]) == (429, 7, 7)


@pytest.mark.parametrize(
    ("status", "is_duplicate", "http_status"),
    [("queued", False, 202), ("queued", True, 200), ("done", False, 200), ("failed", False, 422)],
)
def test_cancels_have_their_answers(status: str, is_duplicate: bool, http_status: int) -> None:
    """A cancel takes as long as the exchange does: 202 at first, 422 when something could not be cancelled."""
    error = "one is left" if status == "failed" else None
    answer = responses.cancel_response(alert_id="a", status=status, error=error, is_duplicate=is_duplicate)
    assert (answer.status, answer.body["success"]) == (http_status, status != "failed")
