"""HTML put together so that nothing from outside can become markup: every text is escaped, only `Markup` passes as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from html import escape
from typing import Final

from kekbridge.wording import amount, clean

_VOID: Final = frozenset({"input", "br", "meta", "link", "line", "polyline", "rect"})


class Markup(str):
    """Text that is HTML already: made by this module only."""

    __slots__ = ()


def h(tag: str, *children: object, **attributes: object) -> Markup:
    """One element. Attributes: a trailing underscore is dropped, others become dashes; None and False are left out."""
    words = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        plain = name.rstrip("_").replace("_", "-")
        words.append(plain if value is True else f'{plain}="{escape(str(value), quote=True)}"')
    inside = " ".join(words)
    # The slash means nothing in HTML, and everything inside SVG.
    return Markup(f"<{inside} />") if tag in _VOID else Markup(f"<{inside}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Markup:
    """Elements and texts in a row; texts are escaped, None is nothing."""
    return Markup("".join(one if isinstance(one, Markup) else _text(one) for one in children if one is not None))


def _text(value: object) -> str:
    return escape(value) if isinstance(value, str) else escape(clean(value))


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> Markup:
    """A table that scrolls sideways on a phone; amounts stand to the right."""
    body = [h("tr", *(_cell(value) for value in row)) for row in rows]
    if not body:
        return h("p", empty, class_="dim")
    head = h("tr", *(h("th", title) for title in titles))
    return h("div", h("table", h("thead", head), h("tbody", *body)), class_="wide")


def _cell(value: object) -> Markup:
    if isinstance(value, Decimal):
        return h("td", amount(value), class_="number")
    return h("td", value if isinstance(value, Markup) else clean(value))


def status(value: object) -> Markup:
    """A status in its colour."""
    word = clean(value)
    return h("span", word, class_=f"status {word if word.replace('_', '').isalpha() else ''}")


def curve(points: Sequence[tuple[datetime, Decimal]], *, label: str) -> Markup:
    """A line over time as inline SVG, with its least and greatest value."""
    if len(points) < 2:
        return h("p", f"{label}: not enough data yet, one point a minute.", class_="dim")
    low, high = min(value for _, value in points), max(value for _, value in points)
    start, whole = points[0][0], (points[-1][0] - points[0][0]).total_seconds() or 1.0
    spread = high - low or Decimal(1)
    drawn = " ".join(
        f"{(at - start).total_seconds() / whole * 600:.1f},{110 - float((value - low) / spread) * 100:.1f}"
        for at, value in points
    )
    picture = h(
        "svg",
        h("polyline", points=drawn),
        viewBox="0 0 600 120",
        role="img",
        aria_label=label,
        class_="curve",
        preserveAspectRatio="none",
    )
    ends = f"{start:%m-%d %H:%M} to {points[-1][0]:%m-%d %H:%M} UTC, {low:.2f} to {high:.2f} USDC"
    return h("figure", picture, h("figcaption", f"{label}: {ends}"))


def bars(days: Sequence[tuple[date, int]], *, label: str) -> Markup:
    """One bar for each day as inline SVG."""
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
    picture = h(
        "svg", *drawn, viewBox="0 0 600 120", role="img", aria_label=label, class_="bars", preserveAspectRatio="none"
    )
    words = f"{label}: {sum(count for _, count in days)} in {len(days)} days, at most {max((c for _, c in days), default=0)} a day"
    return h("figure", picture, h("figcaption", words))


def gauge(name: str, used: str, limit: str, share: float | None) -> Markup:
    """A limit with how much of it is used."""
    filled = None
    if share is not None:
        part = min(max(share, 0.0), 1.0) * 100
        filled = h(
            "svg",
            h("rect", width="100", height="6", class_="room"),
            h("rect", width=f"{part:.1f}", height="6", class_="full" if part >= 90 else "used"),
            viewBox="0 0 100 6",
            preserveAspectRatio="none",
            class_="gauge",
            role="img",
            aria_label=f"{part:.0f} % used",
        )
    return h("div", h("b", name), h("span", f"{used} of {limit}"), filled, class_="limit")
