"""Responses: from stored facts to an HTTP status and body, by the table of docs/internals/architecture.md section 3. Pure.

The same function serves the first response and those to duplicates, so that a resend gets the outcome of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from kekbridge.codes import status_of
from kekbridge.errors import RateLimited, RequestRefused
from kekbridge.execution.admission import Admission
from kekbridge.execution.transitions import EXIT_CANCELED
from kekbridge.ingress.http import WebhookResponse
from kekbridge.model import Order, OrderStatus

NEUTRAL_401 = "authentication failed: check apiKey, signature and timestamp; the bridge's log names the reason"

_FAILED = (OrderStatus.DENIED, OrderStatus.REJECTED, OrderStatus.EXPIRED)
_CODES = {OrderStatus.EXPIRED: "alert_expired", OrderStatus.DENIED: "denied", OrderStatus.REJECTED: "exchange_rejected"}


def refusal_response(error: RequestRefused, *, alert_id: str | None = None) -> WebhookResponse:
    """The response to a request that was refused before or instead of becoming an order."""
    status = error.status
    if status == 401:
        return WebhookResponse(status=401, body={"success": False, "code": "unauthorized", "error": NEUTRAL_401})
    body: dict[str, Any] = {"success": False, "code": error.code, "error": error.message}
    if error.field:
        body["field"] = error.field
    if alert_id:
        body["alertId"] = alert_id
    if isinstance(error, RateLimited):
        body["retryAfter"] = error.retry_after_s
        return WebhookResponse(status=status, body=body, retry_after_s=error.retry_after_s)
    return WebhookResponse(status=status, body=body)


def refused_alert_response(
    *,
    alert_id: str,
    status: str,
    code: str,
    error: str | None,
    field: str | None = None,
    warnings: Sequence[str] = (),
    is_duplicate: bool = False,
) -> WebhookResponse:
    """The response to a stored alert without orders: refused, denied, or nothing to do."""
    http_status = status_of(code)
    if http_status == 401:
        return WebhookResponse(status=401, body={"success": False, "code": "unauthorized", "error": NEUTRAL_401})
    body: dict[str, Any] = {"success": http_status < 300, "alertId": alert_id, "status": status, "code": code}
    if warnings:
        body["warnings"] = list(warnings)
    if error:
        body["error"] = error
    if field:
        body["field"] = field
    if is_duplicate:
        body["duplicate"] = True
    return WebhookResponse(status=http_status, body=body)


def stored_response(admitted: Admission) -> WebhookResponse | None:
    """The response to an alert whose outcome is known with its admission; None if it has orders, whose outcome is worth a wait."""
    alert = admitted.alert
    public_id = alert.alert_id or alert.id
    is_duplicate = admitted.kind == "duplicate"
    if admitted.kind == "rate_limited":
        limited = RateLimited("rate_limited", alert.error or "", retry_after_s=admitted.retry_after_s or 1)
        return refusal_response(limited, alert_id=public_id)
    if admitted.kind == "conflict":
        named = "the Idempotency-Key" if alert.alert_id is None else f"alertId {public_id}, or its Idempotency-Key,"
        text = f"{named} came before with different content; give every alert its own"
        return refusal_response(RequestRefused("alert_id_reused", text), alert_id=public_id)
    if admitted.orders:
        return None
    if alert.status in ("queued", "done", "failed"):
        return cancel_response(
            alert_id=public_id,
            status=alert.status,
            code=alert.code,
            error=alert.error,
            warnings=alert.warnings,
            is_duplicate=is_duplicate,
        )
    return refused_alert_response(
        alert_id=public_id,
        status=alert.status,
        code=alert.code or alert.status,
        error=alert.error,
        field=alert.field,
        warnings=alert.warnings,
        is_duplicate=is_duplicate,
    )


def cancel_response(
    *,
    alert_id: str,
    status: str,
    error: str | None,
    is_duplicate: bool,
    code: str | None = None,
    warnings: Sequence[str] = (),
) -> WebhookResponse:
    """The response to an alert that only cancels: 202 until it is executed, which takes as long as the exchange does.

    Unless it failed, `code` and `error` explain why later steps of the alert were left out, if they were.
    """
    body: dict[str, Any] = {"success": status != "failed", "alertId": alert_id, "status": status}
    if warnings:
        body["warnings"] = list(warnings)
    if status == "failed":
        body |= {"code": "cancel_failed", "error": error}
    elif code:
        body["stopped"] = {"code": code, "error": error}
    if is_duplicate:
        body["duplicate"] = True
    http_status = {"queued": 202, "failed": 422}.get(status, 200)
    return WebhookResponse(status=200 if is_duplicate and http_status == 202 else http_status, body=body)


def order_response(
    orders: Sequence[Order],
    *,
    alert_id: str,
    now: datetime,
    code: str | None = None,
    error: str | None = None,
    warnings: Sequence[str] = (),
    is_duplicate: bool = False,
) -> WebhookResponse:
    """The response to an admitted alert: 200 with the outcome, 202 while it is not known, 422 if its order failed.

    `code` and `error` explain why later steps of the alert were left out, if they were.
    """
    orders = [order for order in orders if not order.is_protective]  # the sender did not ask for those
    order = headline(orders)
    body: dict[str, Any] = {"success": True, "alertId": alert_id, "status": order.status}
    if order.status in _FAILED or (order.status is OrderStatus.CANCELED and order.code == EXIT_CANCELED):
        failure = order.code or _CODES[order.status]  # a canceled exit has a code
        body |= {"success": False, "code": failure, "error": order.error or f"the order was {order.status}"}
        http_status = 422
    else:
        http_status = 200 if order.is_settled else 202
    body |= {"orderId": order.order_id, "clientOrderId": order.client_order_id}
    if order.executed_quantity:
        body |= {"executedPrice": order.average_price, "executedQuantity": order.executed_quantity}
    if order.code and order.status is OrderStatus.UNKNOWN:
        body |= {"code": order.code, "error": order.error}
    if len(orders) > 1:
        body["orders"] = [_leg(each) for each in orders]
    if code:
        body["stopped"] = {"code": code, "error": error}
    if warnings:
        body["warnings"] = list(warnings)
    if is_duplicate:
        body["duplicate"] = True
        if http_status == 202:
            http_status = 200  # the alert is stored: no further resend is needed
    body["timestamp"] = int(now.timestamp() * 1000)
    return WebhookResponse(status=http_status, body={key: value for key, value in body.items() if value is not None})


def headline(orders: Sequence[Order]) -> Order:
    """The order whose status is the alert's: the first that failed, else the first not final, else the last entry, else the last.

    Of an exit that was sent again the last try counts.
    """
    continued = {order.intent.after_leg for order in orders if order.is_retry}
    orders = [order for order in orders if order.leg not in continued]
    for order in orders:
        if order.status in _FAILED and order.code != "earlier_leg_failed":
            return order
    for order in orders:
        if not order.status.is_final:
            return order
    entries = [order for order in orders if order.is_entry]
    return (entries or list(orders))[-1]


def _leg(order: Order) -> dict[str, Any]:
    leg: dict[str, Decimal | str | int | None] = {
        "leg": order.asked_leg,
        "status": order.status,
        "side": order.intent.side,
        "symbol": order.intent.symbol,
        "quantity": order.intent.quantity,
        "reduceOnly": order.intent.reduce_only,
        "clientOrderId": order.client_order_id,
        "orderId": order.order_id,
        "executedPrice": order.average_price,
        "executedQuantity": order.executed_quantity,
        "code": order.code,
    }
    return {key: value for key, value in leg.items() if value is not None}
