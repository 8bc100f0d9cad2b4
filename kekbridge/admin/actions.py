"""The levers of trading on the pages: halt, exits only, resume, flatten. Every change is a POST with the session's key.

The work is done by the functions the command line calls; what is destructive asks on a page of its own first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from kekbridge.admin.auth import SESSION
from kekbridge.admin.html import Markup, h
from kekbridge.admin.service import AdminService
from kekbridge.model import TradingState

_BY: Final = "web page"
_ASKS: Final = {
    "halt": "Stop all trading, exits too? Open positions and their stops at the exchange stay as they are.",
    "reset-peak": "Let the equity peak be today's equity and trade again? The drawdown counts from here on.",
    "flatten": "Halt trading, cancel every order and close every position of the account, also those made elsewhere?",
}


class Forms:
    """The levers, over one desk. `page` makes a whole page of a title and contents."""

    def __init__(self, desk: AdminService, page: Callable[..., web.Response]) -> None:
        self._desk = desk
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        router.add_get("/confirm/{what}", self._confirm)
        router.add_post("/trading/{what}", self._steer)

    def levers(self, request: web.Request, state: Mapping[str, Any]) -> Markup:
        """Halt, exits only, resume, flatten: those that would change something."""
        now = state["trading"]["state"]
        shown: list[Markup] = []
        if now != "halted":
            shown.append(h("a", "Halt…", href="/confirm/halt", class_="button bad"))
        if now != "exits_only":
            shown.append(button(request, "/trading/exits-only", "Exits only"))
        if now != "running":
            shown.append(button(request, "/trading/resume", "Resume"))
        shown.append(h("a", "Flatten…", href="/confirm/flatten", class_="button bad"))
        return h("div", *shown, class_="row")

    async def _confirm(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        if what not in _ASKS:
            raise web.HTTPNotFound(text="no such page")
        reason = (
            [h("input", name="reason", placeholder="Why, for the history", maxlength="200")] if what == "halt" else []
        )
        return self._page(
            request,
            "Are you sure?",
            h("p", _ASKS[what]),
            h(
                "div",
                button(request, f"/trading/{what}", f"Yes, {what.replace('-', ' ')}", *reason, kind="bad"),
                h("a", "No", href="/", class_="button"),
                class_="row",
            ),
        )

    async def _steer(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        if what == "flatten":
            result = await self._desk.flatten(by=_BY)
            words = f"{result.positions_closed} positions closed, {len(result.positions_left)} left, {result.orders_left} orders left."
            return self._page(
                request,
                "Flat" if result.is_flat else "NOT flat",
                h("p", words, " Trading is halted until you resume it."),
                h("p", result.error) if result.error else None,
            )
        wanted = {"halt": TradingState.HALTED, "exits-only": TradingState.EXITS_ONLY, "resume": TradingState.RUNNING}
        told = await request.post()
        webhook = str(told.get("webhook", ""))
        if what == "reset-peak":
            await self._desk.reset_peak(by=_BY)
        elif what == "resume" and webhook:
            await self._desk.resume_webhook(webhook, by=_BY)
        elif what in wanted:
            reason = str(told.get("reason", "")).strip()[:200] or "by hand"
            await self._desk.set_trading(wanted[what], reason=reason, by=_BY)
        else:
            raise web.HTTPNotFound(text="no such lever")
        raise web.HTTPSeeOther("/risk" if webhook or what == "reset-peak" else "/")


def form_key(request: web.Request) -> Markup | None:
    """The hidden field that every form of a session must bring back."""
    session = request.get(SESSION)
    return None if session is None else h("input", type="hidden", name="key", value=session.form_key)


def button(request: web.Request, path: str, words: str, *more: Markup, kind: str | None = None) -> Markup:
    """One lever: a form with its button, and `more` fields before it."""
    return h(
        "form", form_key(request), *more, h("button", words, class_=kind), method="post", action=path, class_="row"
    )
