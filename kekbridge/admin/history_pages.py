"""Web page of the history: conditions in force, and every event of the bridge, 50 at a time, with filters."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import htpy as h
from aiohttp import web
from htpy import Renderable

from kekbridge.admin.elements import moment_element, status, table, with_code
from kekbridge.admin.service import AdminService, conditions_in_force
from kekbridge.errors import ConfigError
from kekbridge.formatting import SHORT_ID, clip_words, to_jsonable
from kekbridge.model.notifications import MESSAGES
from kekbridge.ops import queries
from kekbridge.ops.known_names import event_kinds
from kekbridge.reports.condition_fixes import fix_of
from kekbridge.store import journal

PATH: Final = "/history"
_ROWS: Final = 50
_SHOWN: Final = (
    ("", "Notable"),
    ("trouble", "Trouble"),
    ("bridge", "Bridge only"),
    ("all", "Everything"),
)
# Of the figures of an event without a text of its own; its alert's page has all of them.
_LONGEST_DETAIL: Final = 240
_PERIODS: Final = (("", "Any time"), ("1", "24 hours"), ("7", "7 days"), ("30", "30 days"))
_LONGEST_NUMBER: Final = 15


class HistoryPages:
    """Handler of the page. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the route."""
        router.add_get(PATH, self._show)

    async def _show(self, request: web.Request) -> web.Response:
        now = self._service.clock()
        chosen = {name: request.query.get(name, "") for name in ("show", "kind", "days")}
        before = _number(request.query.get("before", ""))
        since = (
            now - timedelta(days=int(chosen["days"])) if chosen["days"] in dict(_PERIODS) and chosen["days"] else None
        )
        # A rare kind is looked for in the whole history: not again with every event.
        is_live = before is None and not any(chosen.values())
        wrong = ""

        def read(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            """Newest first, one more than are shown."""
            kinds = [chosen["kind"]] if chosen["kind"] else () if chosen["show"] in ("all", "bridge") else MESSAGES
            found = journal.latest(
                connection,
                kinds=queries.wanted_kinds(connection, kinds, "Event", trouble=chosen["show"] == "trouble"),
                since=since,
                before=before,
                of_alerts=chosen["show"] != "bridge",
                limit=_ROWS + 1,
            )
            return [queries.event_data(connection, event) for event in found][::-1]

        try:
            events = await self._service.database.read(read)
        except ConfigError as error:
            events, wrong = [], error.message
        conditions = to_jsonable(await self._service.database.read(conditions_in_force))
        return self._page(
            request,
            "History",
            h.h2["Conditions"],
            h.div(id="live-conditions", data_live=True)[_conditions(conditions)],
            h.h2["Events"],
            _filter(chosen),
            h.p(class_="bad", role="alert")[wrong] if wrong else None,
            h.div(id="live-events", data_live=is_live)[
                _events(events[:_ROWS], now),
                _links(chosen, events, before),
            ],
            is_live=is_live,
        )


def _number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER
    return int(text) if is_number else None


def _conditions(conditions: list[dict[str, Any]]) -> Renderable:
    """What is wrong now, since when, and what to do about it."""
    if not conditions:
        return h.p(class_="good")["Nothing is wrong."]
    return h.fragment[
        [
            h.div(class_="problem" if one["severity"] == "failure" else "problem warning")[
                one["words"],
                h.small[
                    "Since ",
                    moment_element(datetime.fromisoformat(one["since"])),
                    ". ",
                    with_code(fix_of(one["event"])),
                ],
            ]
            for one in conditions
        ]
    ]


def _filter(chosen: Mapping[str, str]) -> Renderable:
    def options(name: str, known: tuple[tuple[str, str], ...]) -> Renderable:
        shown = [h.option(value=value, selected=value == chosen[name])[label] for value, label in known]
        return h.select(name=name)[shown]

    kinds = (("", "Every kind"), *((kind, kind.replace("_", " ")) for kind in sorted(event_kinds())))
    return h.form(method="get", action=PATH, class_="fields search")[
        h.label["Show", options("show", _SHOWN)],
        h.label["Event", options("kind", kinds)],
        h.label["Time", options("days", _PERIODS)],
        h.button["Filter"],
        h.a(href=PATH, class_="button")["Clear"],
    ]


def _events(events: list[dict[str, Any]], now: datetime) -> Renderable:
    rows = [
        (
            moment_element(datetime.fromisoformat(one["at"]), now),
            status(one["severity"]) if one["severity"] else None,
            one["kind"].replace("_", " "),
            h.a(href=f"/log/{one['alertId']}")[one["alertId"][:SHORT_ID]] if one["alertId"] else None,
            one["words"] if one["severity"] else h.span(class_="dim")[clip_words(one["words"], _LONGEST_DETAIL)],
        )
        for one in events
    ]
    return table(
        ("Time", "Level", "Event", "Alert", "What happened"),
        rows,
        empty="No such events.",
        keys=[f"event-{one['sequence']}" for one in events],
        phone=("first", "first", "off", "first", "second"),
    )


def _links(chosen: Mapping[str, str], events: list[dict[str, Any]], before: int | None) -> Renderable:
    given = {name: value for name, value in chosen.items() if value}
    newest = h.a(href=f"{PATH}?{urlencode(given)}" if given else PATH, class_="button")["Newest"]
    older = None
    if len(events) > _ROWS:
        last = events[_ROWS - 1]["sequence"]
        older = h.a(href=f"{PATH}?{urlencode({**given, 'before': last})}", class_="button", rel="next")["Older"]
    return h.div(class_="older")[newest if before is not None else None, older]
