"""Trading controls of the web pages: halt, exits only, resume, flatten, reset the equity peak, close a position, cancel an order.

Every change is a POST with the session's form key; destructive ones are confirmed on a page of their own. The work is done by the
operations that the command line runs, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Renderable

from kekbridge import parsing
from kekbridge.admin.elements import button, gain
from kekbridge.admin.replays import FORM_FIELD, Replays
from kekbridge.admin.service import AdminService
from kekbridge.admin.trading_pages import round_price
from kekbridge.errors import ConfigError
from kekbridge.formatting import amount, counted, market, money, position_side
from kekbridge.model import MarginMode, TradingState
from kekbridge.ops.trading_operations import BY_HAND, Cancel, Close, ExitsOnly, Flatten, Halt, ListHeldExits, Resume
from kekbridge.store import orders as order_rows

_BY: Final = "web page"
_REPEATED: Final = (
    "This form was sent before. It was done once, and this is what came of it then; to do it again, begin at its page."
)
_CONFIRMATIONS: Final = {
    "halt": "Stop all trading? Exits that wait are held until you resume. Open positions and their stops at the exchange stay.",
    "reset-peak": "Reset the equity peak to the current equity and resume trading? Drawdowns count from there.",
    "flatten": "Halt trading, cancel every order and close every position of the account, including those opened elsewhere?",
}


class TradingForms:
    """Buttons and handlers of the trading controls. `page` renders a whole page from a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page
        self._replays = Replays(service.clock)

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/confirm/{what}", self._confirm)
        router.add_post("/trading/{what}", self._change_trading)
        router.add_get("/positions/close", self._confirm_close)
        router.add_post("/positions/close", self._close)
        router.add_get("/orders/cancel", self._confirm_cancel)
        router.add_post("/orders/cancel", self._cancel)

    def controls(self, request: web.Request, now: TradingState) -> Renderable:
        """The controls that would change the current state."""
        shown: list[Renderable] = []
        if now is not TradingState.HALTED:
            shown.append(h.a(href="/confirm/halt", class_="button bad big")["Halt…"])
        if now is not TradingState.EXITS_ONLY:
            shown.append(button(request, "/trading/exits-only", "Exits only", kind="big"))
        if now is not TradingState.RUNNING:
            shown.append(button(request, "/trading/resume", "Resume"))
        shown.append(h.a(href="/confirm/flatten", class_="button bad")["Flatten…"])
        return h.div(class_="row controls")[shown]

    async def _confirm(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        if what not in _CONFIRMATIONS:
            raise web.HTTPNotFound(text="page not found")
        inputs = [self._once()]
        if what == "halt":
            inputs.append(h.label["Reason, kept in the history", h.input(name="reason", maxlength="200")])
        return self._page(
            request,
            "Are you sure?",
            h.p[_CONFIRMATIONS[what]],
            h.div(class_="row")[
                button(request, f"/trading/{what}", f"Yes, {what.replace('-', ' ')}", *inputs, kind="bad"),
                h.a(href="/", class_="button")["No"],
            ],
        )

    async def _change_trading(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        run = self._service.operations.run
        if what == "flatten":
            result, is_repeated = await self._replays.run_form(await request.post(), lambda: run(Flatten(by=_BY)))
            left = f"{len(result['positionsLeft'])} left, {result['ordersLeft']} orders left."
            halted = "Trading is halted until you resume it." if result["halted"] else "Trading could NOT be halted."
            return self._page(
                request,
                "Flat" if result["flat"] else "NOT flat",
                _repeated(is_repeated),
                h.p[f"{result['positionsClosed']} positions closed, {left} {halted}"],
                h.p[result["trouble"]] if result["trouble"] else None,
            )
        form = await request.post()
        webhook = str(form.get("webhook", ""))
        reason = str(form.get("reason", "")).strip()[:200] or BY_HAND
        match what:
            case "halt":
                await run(Halt(reason=reason, by=_BY))
            case "exits-only":
                await run(ExitsOnly(reason=reason, by=_BY))
            case "resume":
                held = str(form.get("held", ""))
                waiting = [] if held else await run(ListHeldExits(webhook=webhook or None))
                if waiting:
                    return self._ask_about_exits(request, waiting, webhook)
                await run(
                    Resume(
                        reason=reason, by=_BY, webhook=webhook or None, held_exits="drop" if held == "drop" else "send"
                    )
                )
            case "reset-peak":
                await run(Resume(by=_BY, reset_peak=True))
            case _:
                raise web.HTTPNotFound(text="action not found")
        raise web.HTTPSeeOther("/risk" if webhook or what == "reset-peak" else "/")

    async def _confirm_close(self, request: web.Request) -> web.Response:
        symbol, mode = request.query.get("symbol", ""), request.query.get("mode", "")
        named = f"{mode.lower()} {market(symbol)}"
        account = self._service.live()["account"] or {"positions": ()}
        held = next((one for one in account["positions"] if (one["symbol"], one["marginMode"]) == (symbol, mode)), None)
        return self._page(
            request,
            "Are you sure?",
            h.p[f"Close the {named} position with market orders?"],
            h.p[_position_line(held)] if held is not None else None,
            h.div(class_="row")[
                button(
                    request,
                    "/positions/close",
                    f"Yes, close {market(symbol)}",
                    h.input(type="hidden", name="symbol", value=symbol),
                    h.input(type="hidden", name="mode", value=mode),
                    self._once(),
                    h.label[
                        "Quantity (empty: all of it)",
                        h.input(name="quantity", maxlength="40", inputmode="decimal", autocomplete="off"),
                    ],
                    kind="bad",
                ),
                h.a(href="/positions", class_="button")["No"],
            ],
        )

    async def _close(self, request: web.Request) -> web.Response:
        form = await request.post()
        quantity, mode = str(form.get("quantity", "")).strip(), str(form.get("mode", ""))
        if mode not in set(MarginMode):
            raise ConfigError(f"mode: found {mode[:40]!r}, expected CROSS or ISOLATED")
        operation = Close(
            symbol=str(form.get("symbol", "")),
            quantity=parsing.number("quantity", quantity) if quantity else None,
            margin_mode=MarginMode(mode),
            by=_BY,
        )
        result, is_repeated = await self._replays.run_form(form, lambda: self._service.operations.run(operation))
        left = [f"{each['marginMode'].lower()} {each['quantity']}" for each in result["positionsLeft"]]
        return self._page(
            request,
            "Closed" if result["closed"] else "NOT closed",
            _repeated(is_repeated),
            h.p[
                f"Open in {market(result['symbol'])} {'then' if is_repeated else 'now'}: {', '.join(left) or 'nothing'}."
            ],
            h.ul[[h.li[_order_line(each)] for each in result["orders"]]],
            h.p[_entries_text(result)] if result["entriesEnded"] or result["entriesLeft"] else None,
            h.p[result["trouble"]] if result["trouble"] else None,
        )

    async def _confirm_cancel(self, request: web.Request) -> web.Response:
        name = request.query.get("order", "")
        order = await self._service.database.read(order_rows.get, name)
        kind = order.intent.order_type.value.replace("_", " ")
        side, price = order.intent.side.value.lower(), order.intent.limit_price or order.intent.trigger_price
        at = "" if price is None else f" at {money(price)}"
        asked = f"Cancel the {kind} order: {side} {amount(order.intent.quantity)} {market(order.intent.symbol)}{at}?"
        protects = "It protects a position, which keeps no other stop." if order.is_protective else None
        return self._page(
            request,
            "Are you sure?",
            h.p[asked],
            h.p(class_="bad")[protects] if protects else None,
            h.div(class_="row")[
                button(
                    request,
                    "/orders/cancel",
                    "Yes, cancel it",
                    h.input(type="hidden", name="order", value=name),
                    self._once(),
                    kind="bad",
                ),
                h.a(href="/orders", class_="button")["No"],
            ],
        )

    async def _cancel(self, request: web.Request) -> web.Response:
        form = await request.post()
        operation = Cancel(order=str(form.get("order", "")), by=_BY)
        result, is_repeated = await self._replays.run_form(form, lambda: self._service.operations.run(operation))
        return self._page(
            request,
            "Canceled" if result["canceled"] else "NOT canceled",
            _repeated(is_repeated),
            h.p[f"{_order_line(result)}."],
            h.p[result["error"]] if result["error"] else None,
        )

    def _once(self) -> Renderable:
        """Field of a form that is done once, however often it is sent."""
        return h.input(type="hidden", name=FORM_FIELD, value=self._replays.form_key(), autocomplete="off")

    def _ask_about_exits(self, request: web.Request, waiting: list[dict[str, Any]], webhook: str) -> web.Response:
        """What becomes of the exits that the halt has held."""

        def choice(held: str, label: str) -> Renderable:
            named = h.input(type="hidden", name="webhook", value=webhook)
            return button(request, "/trading/resume", label, named, h.input(type="hidden", name="held", value=held))

        return self._page(
            request,
            "Held exits",
            h.p["These exits came before the halt and were not sent:"],
            h.ul[[h.li[f"{each['side'].lower()} {each['quantity']} {each['symbol']}"] for each in waiting]],
            h.div(class_="row")[
                choice("send", "Resume and send them"),
                choice("drop", "Resume and drop them"),
                h.a(href="/", class_="button")["Stay halted"],
            ],
        )


def _entries_text(result: Mapping[str, Any]) -> str:
    """What became of entries that would open the closed position again."""
    ended, left = len(result["entriesEnded"]), result["entriesLeft"]
    texts = [f"Ended before they were sent: {counted(ended, 'entry', 'entries')}." if ended else ""]
    texts += [f"May still open a position: {counted(left, 'entry', 'entries')}, listed under Orders." if left else ""]
    return " ".join(text for text in texts if text)


def _repeated(is_repeated: bool) -> Renderable | None:
    return h.p(class_="notice warning", role="status")[_REPEATED] if is_repeated else None


def _position_line(position: Mapping[str, Any]) -> Renderable:
    """`Long 1 ETH, entry 1,800, mark 3,160, P&L +1,360.00 USDC.`, from a position of the live state."""
    quantity = Decimal(position["quantity"])
    side = position_side(quantity, position["marginMode"]).capitalize()
    parts = [
        f"{side} {amount(abs(quantity))} {market(position['symbol'])}",
        f"entry {money(round_price(position['entry']))}",
    ]
    if position["mark"] is not None:
        parts.append(f"mark {money(Decimal(position['mark']))}")
    if position["unrealizedPnl"] is None:
        return h.fragment[f"{', '.join(parts)}."]
    return h.fragment[f"{', '.join(parts)}, P&L ", gain(Decimal(position["unrealizedPnl"])), " USDC."]


def _order_line(order: Mapping[str, Any]) -> str:
    return f"{order['side'].lower()} {order['quantity']} {market(order['symbol'])}: {order['status'].replace('_', ' ')}"
