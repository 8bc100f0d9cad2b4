"""Web pages of orders and positions, and the tables of both that the overview shows, too. Closing and cancelling are in actions.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, Final
from urllib.parse import urlencode

import htpy as h
from aiohttp import web
from htpy import Renderable

from kekbridge.admin.elements import gain, moment_element, status, table
from kekbridge.admin.service import AdminService
from kekbridge.formatting import market, money, position_side
from kekbridge.model import Order
from kekbridge.store import orders as order_rows

_ROWS: Final = 50
# Calculated prices have as many digits as divisions make.
_DIGITS: Final = Context(prec=8)


class TradingPages:
    """Handlers of the orders and the positions. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/orders", self._orders)
        router.add_get("/positions", self._positions)

    async def _orders(self, request: web.Request) -> web.Response:
        before = request.query.get("before", "")
        last = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else None
        found = await self._service.database.read(order_rows.list_orders, before=last, limit=_ROWS + 1)
        shown = found[::-1][:_ROWS]
        links = [h.a(href="/orders", class_="button")["Newest"]] if last is not None else []
        if len(found) > _ROWS:
            links.append(h.a(href=f"/orders?before={shown[-1].sequence}", class_="button", rel="next")["Older"])
        return self._page(
            request,
            "Orders",
            h.div(id="orders", data_live=True)[
                orders_table(shown, self._service.clock(), empty="No orders yet."), h.div(class_="older")[links]
            ],
            is_live=last is None,
        )

    async def _positions(self, request: web.Request) -> web.Response:
        content = h.div(id="positions", data_live=True)[positions_table(self._service.live()["account"])]
        return self._page(request, "Positions", content, is_live=True)


def orders_table(orders: Sequence[Order], now: datetime, *, empty: str) -> Renderable:
    """Orders, newest first, each with a link to cancel it while it is open."""
    rows = [
        (
            market(one.intent.symbol),
            one.intent.side.value.lower(),
            one.intent.order_type.value.replace("_", " "),
            one.intent.quantity,
            one.executed_quantity or None,
            one.average_price or one.intent.limit_price or one.intent.trigger_price,
            status(one.status),
            moment_element(one.created_at, now),
            h.a(href=f"/log/{one.alert_id}")[one.alert_id[:13]],
            one.error or one.code,
            None
            if one.status.is_final
            else h.a(href=f"/orders/cancel?{urlencode({'order': one.client_order_id})}")["Cancel…"],
        )
        for one in orders
    ]
    titles = ("Market", "Side", "Type", "Quantity", "Filled", "Price", "Status", "Time", "Alert", "Why", "")
    places = ("first", "first", "", "first", "off", "", "first", "", "off", "", "")
    keys = [f"order-{one.client_order_id}" for one in orders]
    return table(titles, rows, empty=empty, keys=keys, phone=places)


def positions_table(account: Mapping[str, Any] | None) -> Renderable:
    """The positions of the live state's account, each with a link to close it."""
    held = _held(account)
    rows = [
        (
            market(one["symbol"]),
            position_side(Decimal(one["quantity"]), one["marginMode"]),
            abs(Decimal(one["quantity"])),
            gain(_number(one["unrealizedPnl"])),
            _named("entry", round_price(one["entry"])),
            _named("mark", _number(one["mark"])),
            _named("liquidation", None if one["liquidation"] is None else round_price(one["liquidation"])),
            h.a(href=f"/positions/close?{urlencode({'symbol': one['symbol'], 'mode': one['marginMode']})}")["Close…"],
        )
        for one in held
    ]
    titles = ("Market", "Side", "Quantity", "P&L", "Entry", "Mark", "Liquidation", "")
    places = ("first", "first", "first", "first", "", "", "", "")
    keys = [f"position-{one['symbol']}-{one['marginMode']}" for one in held]
    return table(titles, rows, empty="No open positions.", keys=keys, phone=places)


def round_price(text: str) -> Decimal:
    """A calculated price without the digits that only its division made."""
    return _DIGITS.plus(Decimal(text))


def _held(account: Mapping[str, Any] | None) -> Iterable[Mapping[str, Any]]:
    return () if account is None else account["positions"]


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _named(name: str, value: Decimal | None) -> Renderable | None:
    """A number, with its name before it where the column has no title (on a phone)."""
    return (
        None if value is None else h.fragment[h.span(class_="name")[f"{name} "], h.span(class_="number")[money(value)]]
    )
