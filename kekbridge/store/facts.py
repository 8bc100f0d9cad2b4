"""Facts: what rows of the journal say about alerts, orders, fills and exits; each is written as JSON and can be read back.

The projector (projector.py) turns facts into rows of the tables. While the daemon runs it gets the facts themselves, after a crash it reads
them from the journal: both must give the same tables, so everything that a table holds of a fact is in its JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from kekbridge.model import (
    CancelRequest,
    Fill,
    MarginMode,
    Order,
    OrderStatus,
    Side,
    StrategyHistory,
    StrategyStep,
    Verdict,
)
from kekbridge.model.orders import ExitStatus
from kekbridge.store import codec
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import (
    decimal_text,
    exit_from_json,
    from_json,
    intent_from_json,
    intent_to_json,
    optional_decimal,
    optional_decimal_text,
    optional_time,
    optional_time_text,
    time_text,
    to_json,
    verdicts_from_json,
    verdicts_to_json,
)
from kekbridge.store.journal import Entry, text_digest

_encode: Final = msgspec.json.Encoder().encode
_TIMES: Final = ("next_attempt_at", "submitted_at", "accepted_at", "finished_at", "expires_at")
_AMOUNTS: Final = ("executed_quantity", "average_price", "fee", "realized_pnl")
# What can change of an order, besides its status and intent.
_CHANGING: Final = ("order_id", "attempt", "code", "error", *_AMOUNTS, *_TIMES)


class AlertFact(msgspec.Struct, frozen=True, kw_only=True):
    """An alert was stored, with everything that follows from its decision."""

    alert: StoredAlert
    #: By leg; the first may be `submitting` already.
    orders: tuple[Order, ...] = ()
    cancels: tuple[CancelRequest, ...] = ()
    #: By symbol: the strategy's steps, this alert's included.
    histories: tuple[tuple[str, StrategyHistory], ...] = ()
    #: The redacted message as JSON; None: removed by retention.
    message: str | None
    #: The exact body with which the first order is sent, if it is sent at once.
    request: str | None = None


class OrderFact(msgspec.Struct, frozen=True, kw_only=True):
    """An order changed, or a protective order was added."""

    #: None for one that was added.
    before: Order | None
    after: Order
    at: datetime
    #: The exact body that will be sent; None keeps the stored one.
    request: str | None = None
    #: Of the recheck before sending; empty keeps the stored ones.
    verdicts: tuple[Verdict, ...] = ()
    #: When the request was signed and sent; None keeps the stored time.
    signed_at: datetime | None = None
    #: It executed, and its take-profits are watched: orders of their own, or its only exits.
    has_later_exits: bool = False
    #: The position in its market after its execution, signed, in base units; None: it did not execute, or the position is not known.
    position: Decimal | None = None


class OwnedFill(msgspec.Struct, frozen=True, kw_only=True):
    """A fill and whose it is."""

    fill: Fill
    #: The webhook whose realized P&L it is; None: of none.
    webhook_id: str | None
    #: Our entry whose own stop or take-profit was executed; None: it is no exit of a bracket.
    exit_of: str | None = None

    @property
    def foreign_id(self) -> str | None:
        """Its trade id if it is, as far as known, neither of an order of ours nor of its exits."""
        return self.fill.trade_id if self.fill.client_order_id is None and self.exit_of is None else None


class FillFact(msgspec.Struct, frozen=True, kw_only=True):
    """A fill became known, or what was missing of it (its order, its realized P&L, whose exit it is)."""

    #: None if it is new.
    before: OwnedFill | None
    after: OwnedFill


class ExitsFact(msgspec.Struct, frozen=True, kw_only=True):
    """The exchange reported the state of the exits that travelled with an entry."""

    client_order_id: str
    legs: tuple[ExitStatus, ...]
    at: datetime


class ResponseFact(msgspec.Struct, frozen=True, kw_only=True):
    """The response to an alert was written."""

    alert_id: str
    #: HTTP status and body (JSON text).
    status: int
    body: str
    #: Milliseconds since receipt, by stage.
    stages: Mapping[str, float]
    at: datetime


class PlainFact(msgspec.Struct, frozen=True, kw_only=True):
    """Any other row that tables follow from; its data is what the journal holds."""

    kind: str
    at: datetime
    alert_id: str | None
    client_order_id: str | None
    data: Mapping[str, Any]


Fact = AlertFact | OrderFact | FillFact | ExitsFact | ResponseFact | PlainFact


# ------------------------------------------------------------------------------------------------------------------ writing


def alert_entry(fact: AlertFact, kind: str) -> Entry:
    """The row of a stored alert; its message and request are kept outside the hash, which covers their digests."""
    alert = fact.alert
    data: dict[str, Any] = {
        "webhook_id": alert.webhook_id,
        "fingerprint": alert.fingerprint,
        "action": alert.action,
        "symbol": alert.symbol,
        "code": alert.code,
        "orders": [_order_data(order) for order in fact.orders],
        "webhook_name": alert.webhook_name,
        "sender_id": alert.alert_id,
        "received_at": time_text(alert.received_at),
        "fired_at": optional_time_text(alert.fired_at),
        "remote": alert.remote,
        "proof": alert.proof,
        "is_exit": alert.is_exit,
        "status": alert.status,
        "error": alert.error,
        "field": alert.field,
        "verdicts": msgspec.Raw(verdicts_to_json(alert.verdicts).encode()),
        "warnings": alert.warnings,
        "message": None if fact.message is None else text_digest(fact.message),
    }
    if fact.cancels:
        data["cancels"] = [{"symbol": each.symbol, "comment": each.comment} for each in fact.cancels]
    if fact.histories:
        data["histories"] = [[symbol, *_history_data(history)] for symbol, history in fact.histories]
    if fact.request is not None:
        data["request"] = text_digest(fact.request)
    return Entry(
        kind=kind,
        at=alert.updated_at,
        alert_id=alert.id,
        webhook_id=None if alert.identity is None else alert.webhook_id,
        identity=alert.identity,
        data=_encode(data).decode(),
        message=fact.message,
        request=fact.request,
        fact=fact,
    )


def order_entry(fact: OrderFact) -> Entry:
    """The row of a changed or added order: `order_` and its new status."""
    after, before = fact.after, fact.before
    data: dict[str, Any] = {}
    if before is None:
        data |= {"attempt": after.attempt, "order": _order_data(after)}
    else:
        for name in _CHANGING:
            new = getattr(after, name)
            if new is not (old := getattr(before, name)) and new != old:
                data[name] = _plain(new)
        if after.intent is not before.intent and after.intent != before.intent:
            data |= {"quantity": _plain(after.intent.quantity), "limit_price": _plain(after.intent.limit_price)}
            data["intent"] = msgspec.Raw(intent_to_json(after.intent).encode())
    if fact.verdicts:
        data["verdicts"] = msgspec.Raw(verdicts_to_json(fact.verdicts).encode())
    if fact.signed_at is not None:
        data["signed_at"] = time_text(fact.signed_at)
    if fact.has_later_exits:
        data["has_later_exits"] = True
    if fact.position is not None:
        data["position"] = decimal_text(fact.position)
    if fact.request is not None:
        data["request"] = text_digest(fact.request)
    return Entry(
        kind=f"order_{after.status}",
        at=fact.at,
        alert_id=after.alert_id,
        client_order_id=after.client_order_id,
        data=_encode(data).decode(),
        request=fact.request,
        fact=fact,
    )


def fill_entry(fact: FillFact, alert_id: str | None) -> Entry:
    """The row of a fill: `fill` if it is new, else `fill_completed`. `alert_id`: our id of the alert whose order it is."""
    owned = fact.after
    fill = owned.fill
    data = {
        "trade_id": fill.trade_id,
        "order_id": fill.order_id,
        "symbol": fill.symbol,
        "side": fill.side,
        "price": decimal_text(fill.price),
        "quantity": decimal_text(fill.quantity),
        "fee": decimal_text(fill.fee),
        "realized_pnl": optional_decimal_text(fill.realized_pnl),
        "is_maker": fill.is_maker,
        "executed_at": time_text(fill.executed_at),
        "webhook_id": owned.webhook_id,
    }
    if owned.exit_of is not None:
        data["exit_of"] = owned.exit_of
    if fill.margin_mode is not MarginMode.CROSS:
        data["margin_mode"] = fill.margin_mode.value
    return Entry(
        kind="fill" if fact.before is None else "fill_completed",
        at=fill.executed_at,
        alert_id=alert_id,
        client_order_id=fill.client_order_id,
        data=_encode(data).decode(),
        fact=fact,
    )


def exits_entry(fact: ExitsFact, alert_id: str) -> Entry:
    """The row of the reported exits of an entry."""
    return Entry(
        kind="exits",
        at=fact.at,
        alert_id=alert_id,
        client_order_id=fact.client_order_id,
        data=to_json({"legs": fact.legs}),
        fact=fact,
    )


def response_entry(fact: ResponseFact) -> Entry:
    """The row of a response."""
    stages = {name: round(milliseconds, 3) for name, milliseconds in fact.stages.items()}
    body = msgspec.Raw(fact.body.encode())
    data = _encode({"status": fact.status, "answer": body, "stages": stages}).decode()
    return Entry(kind="alert_answered", at=fact.at, alert_id=fact.alert_id, data=data, fact=fact)


def plain_entry(
    kind: str,
    *,
    at: datetime,
    data: Mapping[str, object],
    alert_id: str | None = None,
    client_order_id: str | None = None,
) -> Entry:
    """The row of any other kind that tables follow from."""
    text = to_json(data)
    fact = PlainFact(kind=kind, at=at, alert_id=alert_id, client_order_id=client_order_id, data=from_json(text))
    return Entry(kind=kind, at=at, alert_id=alert_id, client_order_id=client_order_id, data=text, fact=fact)


def _order_data(order: Order) -> dict[str, Any]:
    """A whole order, as it is when it is stored first; the figures before `leg` are for people."""
    intent = order.intent
    data = {
        "client_order_id": order.client_order_id,
        "symbol": intent.symbol,
        "side": intent.side,
        "order_type": intent.order_type,
        "quantity": decimal_text(intent.quantity),
        "stop_loss": optional_decimal_text(intent.stop_loss),
        "leg": order.leg,
        "sequence": order.sequence,
        "intent": msgspec.Raw(intent_to_json(intent).encode()),
        "status": order.status,
        "created_at": time_text(order.created_at),
        "expires_at": time_text(order.expires_at),
        "webhook_id": order.webhook_id,
    }
    if order.attempt:
        data |= {"attempt": order.attempt, "submitted_at": optional_time_text(order.submitted_at)}
    return data


def _plain(value: object) -> object:
    """A figure of an order as JSON can hold it: amounts and times as text."""
    if isinstance(value, Decimal):
        return decimal_text(value)
    return time_text(value) if isinstance(value, datetime) else value


def _history_data(history: StrategyHistory) -> tuple[str | None, list[tuple[str, str | None, str]]]:
    return optional_decimal_text(history.start), steps_data(history.steps)


def steps_data(steps: Iterable[StrategyStep]) -> list[tuple[str, str | None, str]]:
    """The steps of a strategy as JSON can hold them: `[fired_at, before, now]` each."""
    return [(time_text(step.fired_at), optional_decimal_text(step.before), decimal_text(step.now)) for step in steps]


# ------------------------------------------------------------------------------------------------------------------ reading


def read_alert(
    at: str, alert_id: str, identity: str | None, data: str, message: str | None, request: str | None
) -> AlertFact:
    """The fact of an alert's row. Its payload is in `message`, as text."""
    found = from_json(data)
    orders = tuple(_order_from(each, alert_id) for each in found["orders"])
    alert = StoredAlert(
        id=alert_id,
        webhook_id=found["webhook_id"],
        webhook_name=found["webhook_name"],
        alert_id=found["sender_id"],
        identity=identity,
        fingerprint=found["fingerprint"],
        received_at=codec.parse_time(found["received_at"]),
        fired_at=optional_time(found["fired_at"]),
        remote=found["remote"],
        proof=found["proof"],
        payload={},
        action=found["action"],
        symbol=found["symbol"],
        is_exit=found["is_exit"],
        status=found["status"],
        code=found["code"],
        error=found["error"],
        field=found["field"],
        verdicts=verdicts_from_json(json.dumps(found["verdicts"])),
        warnings=tuple(found["warnings"]),
        answer_status=None,
        answer=None,
        stages={},
        updated_at=codec.parse_time(at),
    )
    return AlertFact(
        alert=alert,
        orders=orders,
        cancels=tuple(
            CancelRequest(symbol=each["symbol"], comment=each["comment"]) for each in found.get("cancels", ())
        ),
        histories=tuple(
            (symbol, StrategyHistory(start=optional_decimal(start), steps=steps_from(steps)))
            for symbol, start, steps in found.get("histories", ())
        ),
        message=message,
        request=request,
    )


def steps_from(stored: Iterable[Any]) -> tuple[StrategyStep, ...]:
    """The steps that `steps_data` wrote."""
    return tuple(
        StrategyStep(fired_at=codec.parse_time(fired_at), before=optional_decimal(before), now=Decimal(now))
        for fired_at, before, now in stored
    )


def read_order(kind: str, at: str, before: Order | None, alert_id: str, data: str, request: str | None) -> OrderFact:
    """The fact of an order's row. `before`: the order as the earlier rows left it; None for one that was added."""
    found = from_json(data)
    moment = codec.parse_time(at)
    verdicts = verdicts_from_json(json.dumps(found["verdicts"])) if "verdicts" in found else ()
    status = OrderStatus(kind.removeprefix("order_"))
    if before is None:
        after = _order_from(found["order"], alert_id)
    else:
        changes: dict[str, Any] = {name: found[name] for name in _CHANGING if name in found}
        changes |= {name: codec.optional_time(changes[name]) for name in _TIMES if name in changes}
        changes |= {name: optional_decimal(changes[name]) for name in _AMOUNTS if name in changes}
        if "intent" in found:
            changes["intent"] = intent_from_json(to_json(found["intent"]))
        after = replace(before, status=status, **changes)
    return OrderFact(
        before=before,
        after=after,
        at=moment,
        request=request,
        verdicts=verdicts,
        signed_at=optional_time(found.get("signed_at")),
        has_later_exits=bool(found.get("has_later_exits")),
        position=optional_decimal(found.get("position")),
    )


def read_fill(client_order_id: str | None, before: OwnedFill | None, data: str) -> FillFact:
    """The fact of a fill's row. `before`: the fill as the earlier rows left it."""
    found = from_json(data)
    fill = Fill(
        trade_id=found["trade_id"],
        order_id=found["order_id"],
        client_order_id=client_order_id,
        symbol=found["symbol"],
        side=Side(found["side"]),
        price=Decimal(found["price"]),
        quantity=Decimal(found["quantity"]),
        fee=Decimal(found["fee"]),
        realized_pnl=optional_decimal(found["realized_pnl"]),
        is_maker=found["is_maker"],
        executed_at=codec.parse_time(found["executed_at"]),
        margin_mode=MarginMode(found.get("margin_mode", MarginMode.CROSS)),
    )
    after = OwnedFill(fill=fill, webhook_id=found["webhook_id"], exit_of=found.get("exit_of"))
    return FillFact(before=before, after=after)


def read_exits(client_order_id: str, at: str, data: str) -> ExitsFact:
    """The fact of a row of reported exits."""
    legs = tuple(exit_from_json(each) for each in from_json(data)["legs"])
    return ExitsFact(client_order_id=client_order_id, legs=legs, at=codec.parse_time(at))


def read_response(alert_id: str, at: str, data: str) -> ResponseFact:
    """The fact of a response's row."""
    found = json.loads(data)
    return ResponseFact(
        alert_id=alert_id,
        status=found["status"],
        body=to_json(found["answer"]),
        stages=found["stages"],
        at=codec.parse_time(at),
    )


def _order_from(data: Mapping[str, Any], alert_id: str) -> Order:
    return Order(
        client_order_id=data["client_order_id"],
        alert_id=alert_id,
        webhook_id=data["webhook_id"],
        leg=data["leg"],
        sequence=data["sequence"],
        intent=intent_from_json(to_json(data["intent"])),
        status=OrderStatus(data["status"]),
        created_at=codec.parse_time(data["created_at"]),
        expires_at=codec.parse_time(data["expires_at"]),
        attempt=data.get("attempt", 0),
        submitted_at=optional_time(data.get("submitted_at")),
    )
