"""Web page of the log, from the functions behind `kekbridge logs`. Read-only; one alert is shown by alert_detail.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

import htpy as h
from aiohttp import web
from htpy import Renderable

from kekbridge import parsing
from kekbridge.admin.elements import long_name, moment_element, select, status, table
from kekbridge.admin.service import AdminService, alert_data
from kekbridge.admin.webhook_settings import page_words
from kekbridge.formatting import market, moment, to_jsonable
from kekbridge.ops import known_names
from kekbridge.store import alerts, rejected_requests, webhooks

_ROWS: Final = 50
# More rows than a page has, for those with the time of its last row: they must not fall between two pages.
_READ: Final = _ROWS + 20
_STATUSES: Final = (
    *("filled", "accepted", "partially_filled", "queued", "submitting", "unknown"),
    *("denied", "refused", "rejected", "expired", "canceled", "ignored", "done", "failed"),
)
_FILTERS: Final = ("webhook", "status", "code", "symbol", "since", "until", "text")


class AlertPages:
    """Handler of the log. `page` renders a whole page from a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the route."""
        router.add_get("/log", self._log)

    async def _log(self, request: web.Request) -> web.Response:
        filters = {name: request.query.get(name, "").strip() for name in _FILTERS}
        now = self._service.clock()
        since = parsing.instant("since", filters["since"], now) if filters["since"] else None
        until = parsing.instant("until", filters["until"], now) if filters["until"] else None
        before = _time_of_row(request.query.get("before", ""))
        until = min((one for one in (until, before) if one is not None), default=None)
        found, repeats, rejected, names = await self._service.database.read(_read, filters, since=since, until=until)
        rows = [(one.received_at, one.id, alert_row(to_jsonable(alert_data(one)), now)) for one in found.alerts]
        rows += [(one.at, f"repeat-{one.first_id}-{one.at.timestamp()}", _repeat_row(one, now)) for one in repeats]
        rows += [
            (one.last_at, f"{one.code}-{one.remote}-{one.minute.timestamp()}", _rejected_row(one, now))
            for one in rejected
        ]
        rows.sort(key=lambda row: row[0], reverse=True)
        shown = [row for row in rows if len(rows) <= _ROWS or row[0] >= rows[_ROWS - 1][0]]
        given = {name: value for name, value in filters.items() if value}
        links = [h.a(href=f"/log?{urlencode(given)}", class_="button")["Newest"]] if before is not None else []
        if len(shown) < len(rows):
            older = f"/log?{urlencode({**given, 'before': shown[-1][0].isoformat()})}"
            links.append(h.a(href=older, class_="button", rel="next")["Older"])
        search_limit = None
        if found.looked_back_to is not None:
            hint = f"Searched back to {moment(found.looked_back_to)} UTC; set Until to search further back."
            search_limit = h.p(class_="dim")[hint]
        log = alert_table([cells for _, _, cells in shown], keys=[key for _, key, _ in shown])
        return self._page(
            request,
            "Log",
            _search(filters, names),
            search_limit,
            h.div(id="log", data_live=True)[log, h.div(class_="older")[links]],
            is_live=before is None,
        )


def _read(
    connection: sqlite3.Connection, filters: Mapping[str, str], *, since: datetime | None, until: datetime | None
) -> tuple[alerts.SearchResult, tuple[alerts.Repeat, ...], tuple[rejected_requests.RejectedRequest, ...], list[str]]:
    """Alerts, repeated ones, rejected requests, and the names of the webhooks."""
    status, text, code = filters["status"] or None, filters["text"] or None, filters["code"] or None
    webhook = filters["webhook"] or None
    symbol = known_names.symbol(connection, filters["symbol"] or None, "symbol")
    common: dict[str, Any] = {"since": since, "until": until, "code": code, "limit": _READ}
    owned = common | {"webhook": webhook, "status": status, "symbol": symbol}
    found = alerts.search(connection, text=text, **owned)
    repeats = () if text else alerts.list_repeats(connection, **owned)
    # Unauthenticated requests have no webhook, symbol or message to filter by.
    includes_rejected = not (webhook or symbol or text) and status in (None, "refused")
    rejected = rejected_requests.list_recent(connection, **common) if includes_rejected else ()
    return found, repeats, rejected, [one.name for one in webhooks.list_all(connection)]


def alert_row(one: Mapping[str, Any], now: datetime) -> tuple[object, ...]:
    """A row of the alert table, from an alert's JSON."""
    requested = " ".join(part for part in (one["action"], market(one["symbol"]) if one["symbol"] else None) if part)
    return (
        moment_element(datetime.fromisoformat(one["receivedAt"]), now),
        h.a(href=f"/log/{one['id']}")[one["id"][:13]],
        long_name(one["webhook"]),
        requested,
        status(one["status"]),
        _why(one["code"], one["error"]),
    )


def alert_table(rows: Iterable[tuple[object, ...]], *, keys: Sequence[str] = ()) -> Renderable:
    """The table of alerts, from `alert_row`; `keys`: an id for each row."""
    titles = ("Time", "Alert", "Webhook", "Action", "Status", "Why")
    places = ("", "", "", "first", "first", "")
    names = [f"alert-{key}" for key in keys]
    return table(titles, rows, empty="No alerts.", keys=names, phone=places)


def _time_of_row(text: str) -> datetime | None:
    """The time that the link to older rows names; None if there is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def _repeat_row(one: alerts.Repeat, now: datetime) -> tuple[object, ...]:
    first = h.a(href=f"/log/{one.first_id}")[one.first_id[:13]]
    requested = " ".join(part for part in (one.action, market(one.symbol) if one.symbol else None) if part)
    return (
        moment_element(one.at, now),
        first,
        long_name(one.webhook_name),
        requested,
        status(one.status),
        _why(one.code, one.error),
    )


def _why(code: str | None, error: str | None) -> Renderable | None:
    """The code and its text, in the words of the pages."""
    text = ": ".join(part for part in (code, error) if part)
    return page_words(text) if text else None


def _rejected_row(one: rejected_requests.RejectedRequest, now: datetime) -> tuple[object, ...]:
    times = f"{one.count} x " if one.count > 1 else ""
    why = _why(one.code, f"{times}from {one.remote}: {one.error}")
    return moment_element(one.last_at, now), None, None, None, status("refused"), why


def _search(filters: Mapping[str, str], names: Iterable[str]) -> Renderable:
    hints = {
        "symbol": "BTC",
        "since": "24h or a UTC time",
        "until": "a UTC time",
        "code": "daily_limit",
        "text": "in the message",
    }
    choices = {"webhook": list(names), "status": list(_STATUSES)}
    fields = []
    for name, value in filters.items():
        if name in choices:
            options = dict.fromkeys([*choices[name], *([value] if value else [])])
            entry = select(name, value, [("", "any"), *((one, one.replace("_", " ")) for one in options)])
        else:
            entry = h.input(name=name, value=value, placeholder=hints[name], autocomplete="off")
        fields.append(h.label[name.capitalize(), entry])
    clear = h.a(href="/log", class_="button")["Clear"] if any(filters.values()) else None
    form = h.form(method="get", action="/log", class_="fields search")[*fields, h.button["Filter"], clear]
    return h.details(open=any(filters.values()))[h.summary["Filter"], form]
