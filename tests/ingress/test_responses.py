"""The table of HTTP responses (docs/internals/architecture.md section 3): each state of an alert has one status and one body."""

from __future__ import annotations

from decimal import Decimal

import pytest

from kekbridge.errors import RateLimited, Refused, Unauthenticated
from kekbridge.ingress import responses
from kekbridge.model import FIRST_PROTECTIVE_LEG, FIRST_RETRY_LEG, OrderStatus, OrderType, Purpose
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
    """202 while the outcome is not known, 422 if the order failed, else 200."""
    response = responses.order_response([order(0, status)], alert_id="a", now=NOW)
    assert (response.status, response.body["success"], response.body["status"]) == (http_status, success, status.value)
    assert ("code" in response.body) is not success


def test_a_fill_has_its_price_and_quantity() -> None:
    """The response has order, price and quantity, as numbers exactly as they are stored."""
    body = responses.order_response([order(0, OrderStatus.FILLED, **FILL)], alert_id="a", now=NOW).body
    assert (body["orderId"], body["executedPrice"], body["executedQuantity"]) == ("77", D(65000), D("0.01"))
    assert body["timestamp"] == int(NOW.timestamp() * 1000)


def test_a_resting_limit_order_is_an_outcome() -> None:
    """Accepted and in the book: 200, since it may rest for days."""
    limit = intent(order_type=OrderType.LIMIT, limit_price=D(64000))
    assert responses.order_response([order(0, OrderStatus.ACCEPTED, intent=limit)], alert_id="a", now=NOW).status == 200


def test_the_duplicate_of_a_waiting_alert_is_200() -> None:
    """A duplicate of a stored alert is never 202 or 5xx, so that it is not sent again; it gets the outcome of the first."""
    response = responses.order_response([order(0)], alert_id="a", now=NOW, is_duplicate=True)
    assert (response.status, response.body["duplicate"]) == (200, True)


def test_the_failed_leg_determines_the_response() -> None:
    """Close filled, entry rejected: 422 with the entry's code, and every leg is listed; legs denied as a consequence do not count."""
    orders = [
        order(0, OrderStatus.FILLED, intent=exit_intent(), **FILL),
        order(1, OrderStatus.REJECTED, code="orderly:-1101", error="no margin"),
        order(2, OrderStatus.DENIED, code="earlier_leg_failed"),
    ]
    response = responses.order_response(orders, alert_id="a", now=NOW)
    assert (response.status, response.body["code"]) == (422, "orderly:-1101")
    assert [leg["leg"] for leg in response.body["orders"]] == [0, 1, 2]


def test_of_an_exit_that_was_sent_again_the_last_try_counts() -> None:
    """Not done while it waits; what each try has filled is listed under the leg that was asked for."""
    canceled = order(0, OrderStatus.CANCELED, intent=exit_intent(), **FILL)
    waiting = order(FIRST_RETRY_LEG, OrderStatus.QUEUED, intent=exit_intent(after_leg=0))
    response = responses.order_response([canceled, waiting], alert_id="a", now=NOW)
    assert (response.status, response.body["status"]) == (202, "queued")
    filled = order(FIRST_RETRY_LEG, OrderStatus.FILLED, intent=exit_intent(after_leg=0), **FILL)
    response = responses.order_response([canceled, filled], alert_id="a", now=NOW)
    assert (response.status, response.body["status"]) == (200, "filled")
    assert [(leg["leg"], leg["status"]) for leg in response.body["orders"]] == [(0, "canceled"), (0, "filled")]


def test_an_exit_that_was_canceled_for_good_has_failed() -> None:
    """Its position is still open: the sender hears it as a failure."""
    canceled = order(0, OrderStatus.CANCELED, intent=exit_intent(), code="exit_canceled", error="0.1 of 0.1 not filled")
    response = responses.order_response([canceled], alert_id="a", now=NOW)
    assert (response.status, response.body["success"], response.body["code"]) == (422, False, "exit_canceled")


def test_protective_orders_do_not_change_the_response() -> None:
    """A rejected replacement stop leaves the entry's response as it is."""
    stop = order(FIRST_PROTECTIVE_LEG, OrderStatus.REJECTED, intent=exit_intent(purpose=Purpose.PROTECT), code="x")
    response = responses.order_response([order(0, OrderStatus.FILLED, **FILL), stop], alert_id="a", now=NOW)
    assert (response.status, response.body["status"]) == (200, "filled")
    assert "orders" not in response.body


def test_a_partly_executed_alert_has_the_reason() -> None:
    """The steps that were kept have their outcome; `stopped` has the reason why later ones were left out."""
    response = responses.order_response(
        [order(0, OrderStatus.FILLED, **FILL)], alert_id="a", now=NOW, code="daily_limit", error="used up"
    )
    assert (response.status, response.body["stopped"]) == (200, {"code": "daily_limit", "error": "used up"})


def test_every_failed_proof_has_the_same_response() -> None:
    """Unknown key or wrong signature: one neutral sentence, so that keys cannot be found out by trying."""
    bodies = {
        str(responses.refusal_response(Unauthenticated(code, code)))
        for code in ("api_key_unknown", "signature_invalid", "timestamp_stale")
    }
    assert len(bodies) == 1
    assert "api_key_unknown" not in bodies.pop()


def test_refusals_name_field_and_wait() -> None:
    """A wrong field is named; a rate limit has the time to wait in the body and for the header."""
    refused = responses.refusal_response(Refused("price_invalid", "found x", field="price"), alert_id="a")
    assert (refused.status, refused.body["field"], refused.body["alertId"]) == (422, "price", "a")
    limited = responses.refusal_response(RateLimited("rate_limited", "too many", retry_after_s=7))
    assert (limited.status, limited.retry_after_s, limited.body["retryAfter"]) == (429, 7, 7)


def test_warnings_are_in_every_response() -> None:
    """What was passed over or rounded is told to the sender, whatever became of the alert; without warnings there is no such key."""
    told = ("fields that decide nothing were passed over: strategy",)
    bodies = [
        responses.order_response([order(0)], alert_id="a", now=NOW, warnings=told).body,
        responses.cancel_response(alert_id="a", status="done", error=None, is_duplicate=False, warnings=told).body,
        responses.refused_alert_response(alert_id="a", status="denied", code="cooldown", error="x", warnings=told).body,
    ]
    assert [body["warnings"] for body in bodies] == [list(told)] * 3
    assert "warnings" not in responses.order_response([order(0)], alert_id="a", now=NOW).body


@pytest.mark.parametrize(
    ("status", "is_duplicate", "http_status"),
    [("queued", False, 202), ("queued", True, 200), ("done", False, 200), ("failed", False, 422)],
)
def test_cancels_have_their_status(status: str, is_duplicate: bool, http_status: int) -> None:
    """A cancel takes as long as the exchange does: 202 at first, 422 if an order could not be cancelled."""
    error = "one is left" if status == "failed" else None
    response = responses.cancel_response(alert_id="a", status=status, error=error, is_duplicate=is_duplicate)
    assert (response.status, response.body["success"]) == (http_status, status != "failed")
