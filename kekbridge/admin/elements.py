"""Elements that several pages share: tables, statuses, amounts, times, gauges, and forms with the session's form key.

htpy escapes every text and attribute, so that outside text cannot become markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import zip_longest
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.auth import SESSION
from kekbridge.formatting import clock, moment, money, to_jsonable, to_text

_LONGEST_UNWRAPPED: Final = 32


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    empty: str,
    is_slim: bool = False,
    keys: Sequence[str] = (),
    phone: Sequence[str] = (),
) -> Renderable:
    """Build a table. On a phone each row becomes a card with the titles before the values, unless the table is slim.

    `keys`: an id for each row, by which the script finds it again. `phone`: where each column is on a phone instead of in a card,
    "first" line, "second" line or "off"; the latter is left out on a small tablet, too.
    """
    places = phone or (None,) * len(titles)
    body = [
        h.tr(id=key or None)[
            [_cell(title, place, value) for title, place, value in zip(titles, places, row, strict=True)]
        ]
        for key, row in zip_longest(keys, rows, fillvalue="")
    ]
    if not body:
        return h.p(class_="dim")[empty]
    # A column of buttons has no title; an empty th would be read as one.
    columns = zip_longest(titles, phone)
    head = h.tr[
        [
            h.th(scope="col", class_="off" if place == "off" else None)[title] if title else h.td
            for title, place in columns
        ]
    ]
    kind = "lines" if phone else "" if is_slim else "cards"
    return h.div(class_=f"wide {kind}".strip(), tabindex="0" if is_slim else None)[
        h.table[h.thead[head], h.tbody[body]]
    ]


def _cell(title: str, place: str | None, value: object) -> Renderable:
    kind = "nothing" if value in (None, "") else "number" if isinstance(value, Decimal) else ""
    if isinstance(value, str) and len(value) > _LONGEST_UNWRAPPED:
        kind = "text"  # wraps wherever it is: as one line it would be cut at the edge, with the buttons behind it
    is_blank = not title and kind == "nothing"  # no button in this row
    shown = money(value) if isinstance(value, Decimal) else None if is_blank else _shown(value)
    classes = " ".join(name for name in (place, kind, "" if title else "buttons") if name)
    return h.td(class_=classes or None, data_label=title or None if place is None else None)[shown]


def _shown(value: object) -> Node:
    """Elements as they are, times as elements of their own, anything else as text."""
    if isinstance(value, datetime):
        return moment_element(value)
    return value if hasattr(value, "__html__") else to_text(value)


def moment_element(at: datetime | None, now: datetime | None = None) -> Renderable:
    """A time; with `now` without its day if that is today. The script shows it in the viewer's zone, with UTC as the title."""
    if at is None:
        return h.fragment["-"]
    shown = moment(at) if now is None else clock(at, now)
    return h.time(datetime=to_jsonable(at), data_short=now is not None)[f"{shown} UTC"]


def status(value: object) -> Renderable:
    """A status in its colour."""
    text = to_text(value)
    kind = text if text.replace("_", "").isalpha() else ""
    return h.span(class_=f"status {kind}")[text.replace("_", " ")]


def gain(value: Decimal | None) -> Renderable:
    """A profit or loss in USDC with its sign, in its colour."""
    if value is None:
        return h.fragment["-"]
    text = f"{value:+,.2f}"
    if text in ("+0.00", "-0.00"):
        return h.span["0.00"]
    return h.span(class_="good" if value > 0 else "bad")[text]


def long_name(text: str | None) -> Renderable | None:
    """A name of up to 64 characters, which wraps in a table instead of taking the room of the other columns."""
    return h.span(class_="wrap")[text] if text else None


def closed_state(scope: Mapping[str, Any]) -> Renderable:
    """What a scope of reports/limits.py accepts instead of everything, until when, and why."""
    name = str(scope["state"]).replace("_", " ")
    if scope["until"] is None:
        return h.fragment[name, f": {scope['reason']}" if scope["reason"] else None]
    until = scope["until"] if isinstance(scope["until"], datetime) else datetime.fromisoformat(scope["until"])
    return h.fragment[name, " until ", moment_element(until), f": {scope['reason'].partition(', until ')[0]}"]


def select(name: str, chosen: str, options: Iterable[tuple[str, str]]) -> Renderable:
    """A drop-down list of (value, label)."""
    elements = [h.option(value=value, selected=value == chosen)[label] for value, label in options]
    return h.select(name=name)[elements]


def gauge(name: str, used: str, limit: str, share: Decimal | None) -> Renderable:
    """A limit with a bar of its used share; no bar if the share is unknown."""
    filled = None
    if share is not None:
        part = min(max(float(share), 0.0), 1.0) * 100
        filled = h.svg(
            viewBox="0 0 100 6", preserveAspectRatio="none", class_="gauge", role="img", aria_label=f"{part:.0f} % used"
        )[
            h.rect(width="100", height="6", class_="free"),
            h.rect(width=f"{part:.1f}", height="6", class_="full" if part >= 90 else "used"),
        ]
    counted, _, besides = used.partition(" and ")
    text = f"{counted} of {limit}, and {besides}" if besides else f"{used} of {limit}"
    return h.div(class_="limit")[h.b[name], h.span[text], filled]


def pairs(rows: Iterable[tuple[str, object]]) -> Renderable:
    """A list of names and values; empty values are left out."""
    shown = [(h.dt[name], h.dd[_shown(value)]) for name, value in rows if value not in (None, "")]
    return h.dl[shown]


def form_key(request: web.Request) -> Renderable | None:
    """The hidden field that proves a form was served to this session; None without a session."""
    session = request.get(SESSION)
    return None if session is None else h.input(type="hidden", name="key", value=session.form_key)


def copy_button(selector: str, label: str = "Copy") -> Renderable:
    """A button that copies the value or text of an element; hidden without a script."""
    return h.button(type="button", class_="copy", data_copy=selector, hidden=True)[label]


def with_code(text: str) -> Renderable:
    """A text for people, in which commands and settings are between backticks, as code elements."""
    parts = text.split("`")
    return h.fragment[[h.code[part] if index % 2 else part for index, part in enumerate(parts)]]


def button(request: web.Request, path: str, label: str, *inputs: Node, kind: str | None = None) -> Renderable:
    """A form that posts to `path`: `inputs`, then its button."""
    return h.form(method="post", action=path, class_="row")[form_key(request), *inputs, h.button(class_=kind)[label]]
