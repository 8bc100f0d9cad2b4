"""Dry run: decide a message as the daemon would now, with nothing stored, notified or sent.

Only the owner may request it (ingress/auth.py checks that the flag is signed). The response has every verdict and the exact requests that
would go to the exchange; the exchange itself is not contacted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError

from kekbridge.codes import status_of
from kekbridge.errors import Refused
from kekbridge.exchange.base import Exchange
from kekbridge.execution.admission import Preview
from kekbridge.formatting import format_decimal
from kekbridge.ingress.http import Sender, WebhookResponse
from kekbridge.model import OrderIntent, Webhook, client_order_id_of
from kekbridge.model.admission import Decision
from kekbridge.store.codec import settings_from_json, to_json, to_jsonable

_REPEATS: Mapping[str, str] = {"duplicate": "duplicate", "conflict": "alert_id_reused"}


def with_requested_limits(sender: Sender) -> Sender:
    """The sender with the limits that a dry run requests. Raises Refused(field_invalid) for a limit that does not exist."""
    if sender.dry_run is None or not sender.dry_run.limits:
        return sender
    return replace(sender, webhook=_with_limits(sender.webhook, sender.dry_run.limits))


def response_to(preview: Preview, alert_id: str, exchange: Exchange) -> WebhookResponse:
    """What an admission would do now, as it would be answered. Always 200; `httpStatus` is that of the real alert."""
    decision = preview.decision
    body = _repeated_body(preview) if decision is None else _decision_body(preview, decision, alert_id, exchange)
    return WebhookResponse(
        status=200, body={"dryRun": True, **{key: value for key, value in body.items() if value is not None}}
    )


def _with_limits(webhook: Webhook, limits: Mapping[str, Any]) -> Webhook:
    stored = to_jsonable(webhook.settings)
    unknown = sorted(limits.keys() - stored["limits"].keys())
    if unknown:
        raise _invalid_limit(unknown[0], "a limit's name", sorted(stored["limits"]))
    stored["limits"] |= limits
    try:
        return dataclasses.replace(webhook, settings=settings_from_json(to_json(stored)))
    except (ValidationError, TypeError):
        raise _invalid_limit("limits", "values as `kekbridge webhook show NAME --json` writes them", ()) from None


def _invalid_limit(found: str, expected: str, names: object) -> Refused:
    hint = f" ({', '.join(map(str, names))})" if isinstance(names, list) else ""
    refusal = Refused("field_invalid", f"dry run: found {found[:40]!r}, expected {expected}{hint}", field="limits")
    refusal.is_proven = True  # only the owner may request a dry run
    return refusal


def _repeated_body(preview: Preview) -> dict[str, Any]:
    code = _REPEATS[preview.kind]
    http_status = 200 if preview.kind == "duplicate" else status_of(code)
    return {
        "success": http_status == 200,
        "status": preview.kind,
        "httpStatus": http_status,
        "code": code,
        "error": f"alert {preview.first_id} came before" if preview.first_id else None,
    }


def _decision_body(preview: Preview, decision: Decision, alert_id: str, exchange: Exchange) -> dict[str, Any]:
    is_limited = preview.kind == "rate_limited"
    code = "rate_limited" if is_limited else decision.code
    http_status = 200 if preview.kind == "admitted" or code is None else status_of(code)
    return {
        "success": http_status < 300,
        "status": preview.kind,
        "httpStatus": http_status,
        "code": code,
        "error": f"wait {preview.retry_after_s} s" if is_limited else decision.error,
        "field": decision.field,
        "action": decision.action,
        "symbol": decision.symbol,
        "warnings": list(decision.warnings),
        "verdicts": [verdict.as_dict() for verdict in decision.verdicts],
        "orders": [_order(intent, leg, alert_id, exchange) for leg, intent in enumerate(decision.intents)],
        "cancels": [{"symbol": each.symbol, "comment": each.comment} for each in decision.cancels],
    }


def _order(intent: OrderIntent, leg: int, alert_id: str, exchange: Exchange) -> dict[str, Any]:
    """One order, and the request that would be signed for it. Later legs are sized again before they are sent."""
    request = exchange.describe_request(intent, client_order_id_of(alert_id, leg))
    fields = {
        "side": intent.side.value,
        "symbol": intent.symbol,
        "quantity": format_decimal(intent.quantity),
        "orderType": intent.order_type.value,
        "purpose": intent.purpose.value,
        "reduceOnly": intent.reduce_only,
        "expectedPrice": intent.reference_price,
        "leverage": intent.leverage,
        "afterLeg": intent.after_leg,
        "path": request.path,
        "request": json.loads(request.body),
    }
    return {name: to_jsonable(value) for name, value in fields.items() if value is not None}
