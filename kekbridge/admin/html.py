"""HTML builder: every text is escaped, only `Markup` passes unchanged, so that outside text cannot become markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from html import escape
from typing import Final

from kekbridge.formatting import money, to_text

_VOID: Final = frozenset({"input", "br", "meta", "link", "line", "polyline", "rect"})


class Markup(str):
    """Finished HTML. Only this module creates it."""

    __slots__ = ()


def h(tag: str, *children: object, **attributes: object) -> Markup:
    """Build one element. Attribute names: a trailing underscore is dropped, others become dashes. None and False omit the attribute."""
    parts = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = name.rstrip("_").replace("_", "-")
        parts.append(attribute if value is True else f'{attribute}="{escape(str(value), quote=True)}"')
    inside = " ".join(parts)
    # HTML ignores the slash, SVG requires it.
    return Markup(f"<{inside} />") if tag in _VOID else Markup(f"<{inside}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Markup:
    """Concatenate elements and texts; texts are escaped, None is skipped."""
    return Markup("".join(one if isinstance(one, Markup) else _text(one) for one in children if one is not None))


def _text(value: object) -> str:
    return escape(value) if isinstance(value, str) else escape(to_text(value))


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, is_slim: bool = False) -> Markup:
    """Build a table. On a phone each row becomes a card with the titles before the values, unless the table is slim."""
    body = [h("tr", *(_cell(title, value) for title, value in zip(titles, row, strict=True))) for row in rows]
    if not body:
        return h("p", empty, class_="dim")
    head = h("tr", *(h("th", title) for title in titles))
    return h("div", h("table", h("thead", head), h("tbody", *body)), class_="wide" if is_slim else "wide cards")


def _cell(title: str, value: object) -> Markup:
    kind = "number" if isinstance(value, Decimal) else None
    if value in (None, ""):
        kind = "nothing"
    shown = money(value) if isinstance(value, Decimal) else value if isinstance(value, Markup) else to_text(value)
    return h("td", shown, class_=kind, data_label=title)


def status(value: object) -> Markup:
    """A status in its colour."""
    text = to_text(value)
    kind = text if text.replace("_", "").isalpha() else ""
    return h("span", text.replace("_", " "), class_=f"status {kind}")


def gain(value: Decimal | None) -> Markup:
    """A profit or loss in USDC with its sign, in its colour."""
    if value is None:
        return Markup("-")
    return h("span", f"{value:+,.2f}", class_="good" if value > 0 else "bad" if value < 0 else None)


def select(name: str, chosen: str, options: Iterable[tuple[str, str]]) -> Markup:
    """A drop-down list of (value, label)."""
    elements = [h("option", label, value=value, selected=value == chosen) for value, label in options]
    return h("select", *elements, name=name)


def curve(points: Sequence[tuple[datetime, Decimal]], *, label: str) -> Markup:
    """A line chart over time as inline SVG, with its minimum and maximum."""
    if len(points) < 2:
        return h("p", f"{label}: not enough data yet (one point per minute).", class_="dim")
    low, high = min(value for _, value in points), max(value for _, value in points)
    start, whole = points[0][0], (points[-1][0] - points[0][0]).total_seconds() or 1.0
    spread = high - low or Decimal(1)
    drawn = " ".join(
        f"{(at - start).total_seconds() / whole * 600:.1f},{110 - float((value - low) / spread) * 100:.1f}"
        for at, value in points
    )
    chart = h(
        "svg",
        h("polyline", points=drawn),
        viewBox="0 0 600 120",
        role="img",
        aria_label=label,
        class_="curve",
        preserveAspectRatio="none",
    )
    ends = f"{start:%m-%d %H:%M} to {points[-1][0]:%m-%d %H:%M} UTC"
    caption = f"{label}: now {points[-1][1]:,.2f} USDC, low {low:,.2f}, high {high:,.2f}, {ends}"
    return h("figure", chart, h("figcaption", caption))


def bars(days: Sequence[tuple[date, int]], *, label: str) -> Markup:
    """A bar chart by day as inline SVG."""
    most = max((count for _, count in days), default=0) or 1
    width = 600 / max(len(days), 1)
    drawn = [
        h(
            "rect",
            x=f"{index * width + 1:.1f}",
            width=f"{width - 2:.1f}",
            y=f"{118 - count / most * 110:.1f}",
            height=f"{count / most * 110 + 1:.1f}",
        )
        for index, (_, count) in enumerate(days)
    ]
    chart = h(
        "svg", *drawn, viewBox="0 0 600 120", role="img", aria_label=label, class_="bars", preserveAspectRatio="none"
    )
    ends = f", {days[0][0]:%m-%d} to {days[-1][0]:%m-%d}" if days else ""
    caption = f"{label}: {sum(count for _, count in days)} in total, at most {max((c for _, c in days), default=0)} per day{ends}"
    return h("figure", chart, h("figcaption", caption))


def gauge(name: str, used: str, limit: str, share: Decimal | None) -> Markup:
    """A limit with a bar of its used share; no bar if the share is unknown."""
    filled = None
    if share is not None:
        part = min(max(float(share), 0.0), 1.0) * 100
        filled = h(
            "svg",
            h("rect", width="100", height="6", class_="free"),
            h("rect", width=f"{part:.1f}", height="6", class_="full" if part >= 90 else "used"),
            viewBox="0 0 100 6",
            preserveAspectRatio="none",
            class_="gauge",
            role="img",
            aria_label=f"{part:.0f} % used",
        )
    return h("div", h("b", name), h("span", f"{used} of {limit}"), filled, class_="limit")


def pairs(rows: Iterable[tuple[str, object]]) -> Markup:
    """A list of names and values; empty values are left out."""
    shown = [
        (h("dt", name), h("dd", value if isinstance(value, Markup) else to_text(value)))
        for name, value in rows
        if value not in (None, "")
    ]
    return h("dl", *(part for pair in shown for part in pair))


def timeline(stages: Mapping[str, float]) -> Markup:
    """Latency in milliseconds by stage, as bars that begin at the receipt."""
    longest = max((value for name, value in stages.items() if name != "received"), default=0.0) or 1.0
    rows = []
    for name, milliseconds in stages.items():
        if name == "received":  # measured from when the alert fired, and mostly network time
            rows.append(h("div", h("b", name), h("span", f"{milliseconds:,.1f} ms"), class_="limit"))
            continue
        bar = h("rect", width=f"{max(milliseconds / longest * 100, 0.5):.1f}", height="6", class_="used")
        drawn = h(
            "svg", bar, viewBox="0 0 100 6", preserveAspectRatio="none", class_="gauge", role="img", aria_label=name
        )
        rows.append(h("div", h("b", name), h("span", f"{milliseconds:,.1f} ms"), drawn, class_="limit"))
    return h("div", *rows, class_="limits stages")
