"""Cancel one open order by hand: which order a name means, whether it may be canceled, and the cancel of one that the exchange lists.

An order of ours is canceled by the daemon while one runs (manual_orders.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from msgspec import Struct

from kekbridge.errors import ConfigError, ExchangeUnavailable, NotFound
from kekbridge.exchange.base import Accepted, Exchange, Rejected, Retryable, Unknown
from kekbridge.execution import transitions
from kekbridge.model import Order, OrderStatus, Purpose, Side
from kekbridge.model.orders import OUR_PREFIX, OrderStatusReport

#: Code of an order that the operator canceled before it was sent.
CANCELED_BY_HAND: Final = "canceled_by_hand"
_SETTLE_WITHIN_S: Final = 5.0
_POLL_EVERY_S: Final = 0.1
_SHORTEST_BEGINNING: Final = 4
_SHOWN: Final = 3


class CanceledOrder(Struct, frozen=True, kw_only=True):
    """What a cancel by hand did."""

    #: Our id; None for an order that kekbridge did not place.
    client_order_id: str | None
    #: The exchange's id; None for one that was not sent yet.
    order_id: str | None
    symbol: str
    side: Side
    #: Order quantity and what of it was executed, in base units.
    quantity: Decimal
    executed_quantity: Decimal
    #: As it is now.
    status: OrderStatus
    #: Why it was not canceled, on one line; empty if it was.
    error: str = ""

    @property
    def is_canceled(self) -> bool:
        """True if it will not trade any more; it may have traded in part before."""
        return not self.error


class OpenOrder(Struct, frozen=True):
    """An order that can be canceled, with what is known of it here and at the exchange: at least one of the two."""

    #: Ours, as it is stored.
    order: Order | None = None
    #: As the exchange lists it.
    report: OrderStatusReport | None = None

    @property
    def symbol(self) -> str:
        return self.order.intent.symbol if self.order is not None else self.listed.symbol

    @property
    def names(self) -> tuple[str, ...]:
        """Every name by which the operator may know it."""
        found: list[str | None] = []
        if self.order is not None:
            found += [self.order.client_order_id, self.order.order_id, self.order.alert_id]
        if self.report is not None:
            found += [self.report.client_order_id, self.report.order_id]
        return tuple(dict.fromkeys(name for name in found if name))

    @property
    def is_exit_of_position(self) -> bool:
        """True for what we placed to protect an open position, such as the stop of a bracket that has executed."""
        if self.order is not None:
            return self.order.intent.purpose is Purpose.PROTECT
        is_ours = (self.listed.client_order_id or "").startswith(OUR_PREFIX)
        return is_ours and self.listed.is_algo and not self.listed.may_open

    @property
    def listed(self) -> OrderStatusReport:
        """The report of one that is not ours."""
        assert self.report is not None  # noqa: S101 - one of the two is known
        return self.report

    @property
    def own(self) -> Order:
        """The order of one that the exchange does not list."""
        assert self.order is not None  # noqa: S101 - one of the two is known
        return self.order


async def find_order(exchange: Exchange, name: str, own: Iterable[Order]) -> OpenOrder:
    """The open order that a name means: one of `own`, which are unfinished, or one that the exchange lists.

    Raises NotFound if there is none, ConfigError if it is not clear which, or if it protects an open position, ExchangeUnavailable.
    """
    own = list(own)
    try:
        reports = await exchange.open_orders()
    except ExchangeUnavailable:
        # One that was not sent yet can be ended all the same.
        queued = [OpenOrder(order) for order in own if order.status is OrderStatus.QUEUED]
        try:
            return find_open_order(queued, name)
        except NotFound:
            pass
        raise
    found = find_open_order(_joined(own, reports), name)
    await _refuse_if_needed(exchange, found)
    return found


def denied_by_hand(order: Order, *, by: str, now: datetime) -> Order:
    """A queued order that the operator has canceled."""
    error = f"it was canceled by hand before it was sent ({by})"
    return transitions.denied(order, code=CANCELED_BY_HAND, error=error, now=now)


def overtaken_by_hand(order: Order, *, by: str, now: datetime) -> Order:
    """A queued entry of a market whose position the operator has closed meanwhile: sent later it would open it again."""
    error = f"the position in its market was closed by hand before it was sent ({by})"
    return transitions.denied(order, code=CANCELED_BY_HAND, error=error, now=now)


def is_waiting_entry(order: Order, symbol: str) -> bool:
    """True for an entry of a market that was not sent yet."""
    return order.is_entry and order.status is OrderStatus.QUEUED and order.intent.symbol == symbol


def canceled_order(order: Order, error: str) -> CanceledOrder:
    """The result for an order of ours, as it is now. `error`: why it was not canceled."""
    return CanceledOrder(
        client_order_id=order.client_order_id,
        order_id=order.order_id,
        symbol=order.intent.symbol,
        side=order.intent.side,
        quantity=order.intent.quantity,
        executed_quantity=order.executed_quantity,
        status=order.status,
        error="it was filled first" if order.status is OrderStatus.FILLED else error,
    )


def _joined(own: Iterable[Order], reports: Sequence[OrderStatusReport]) -> list[OpenOrder]:
    by_name = {report.client_order_id: report for report in reports if report.client_order_id is not None}
    ours = [OpenOrder(order, by_name.get(order.client_order_id)) for order in own]
    known = {name for each in ours for name in each.names}
    return ours + [OpenOrder(report=report) for report in reports if report.order_id not in known]


async def cancel_listed(exchange: Exchange, report: OrderStatusReport) -> CanceledOrder:
    """Cancel an order that the exchange lists, and wait until it does not any more. Raises ExchangeUnavailable if nothing was sent."""
    result = await exchange.cancel(report)
    error = ""
    match result:
        case Rejected(code=code, message=message) | Retryable(code=code, message=message):
            error = f"{code}: {message}"
        case Unknown(reason=reason):
            error = f"not known whether the cancel arrived: {reason}"
        case Accepted():
            pass
    deadline = asyncio.get_running_loop().time() + _SETTLE_WITHIN_S
    while not isinstance(result, Rejected):
        try:
            if all(each.order_id != report.order_id for each in await exchange.open_orders()):
                error = ""
                break
        except ExchangeUnavailable as unavailable:
            error = error or unavailable.message
        if asyncio.get_running_loop().time() >= deadline:
            error = error or "the exchange accepted the cancel, but the order is still open"
            break
        await asyncio.sleep(_POLL_EVERY_S)
    return CanceledOrder(
        client_order_id=report.client_order_id,
        order_id=report.order_id,
        symbol=report.symbol,
        side=report.side,
        quantity=report.quantity,
        executed_quantity=report.executed_quantity,
        status=report.status if error else OrderStatus.CANCELED,
        error=error,
    )


async def _refuse_if_needed(exchange: Exchange, found: OpenOrder) -> None:
    """Raise ConfigError for an order that protects an open position: it would be placed again, or the position be left without it."""
    if not found.is_exit_of_position:
        return
    snapshot = await exchange.refresh()
    if any(each.symbol == found.symbol for each in snapshot.open_positions()):
        base = found.symbol.split("_")[1]
        raise ConfigError(
            f"{found.names[0]} protects the open position in {found.symbol}; close that with `kekbridge close {base}`,"
            " its exits go with it"
        )


def find_open_order(orders: Sequence[OpenOrder], name: str) -> OpenOrder:
    """The open order of that name: a client order id, the exchange's id, our id of its alert, or the beginning of one.

    Raises NotFound if there is none, ConfigError if it is not clear which.
    """
    wanted = name.strip().casefold()
    exact = [each for each in orders if any(known.casefold() == wanted for known in each.names)]
    if not exact and len(wanted) < _SHORTEST_BEGINNING:
        raise ConfigError(f"order: found {name[:40]!r}, expected at least {_SHORTEST_BEGINNING} characters of an id")
    found = exact or [each for each in orders if any(known.casefold().startswith(wanted) for known in each.names)]
    if not found:
        raise NotFound("not_found", f"no open order is named {name[:40]!r}; `kekbridge orders --open` lists them")
    if len(found) > 1:
        names = ", ".join(each.names[0] for each in found[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
        raise ConfigError(f"order: {name[:40]!r} means {len(found)} open orders ({names}); write more of the id")
    return found[0]
