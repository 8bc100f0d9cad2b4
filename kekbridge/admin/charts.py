"""Charts as SVG made on the server: equity curve, bars, histograms and an alert's waterfall, each with axes and a table of its figures.

Nothing is styled here (style.css does) and nothing needs a script: places are percentages of the plot, so that texts keep their size at any
width, and the shapes of a curve are drawn in a nested frame of 1000 by 1000 that is stretched. app.js adds the crosshair from `data-`
attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final

import htpy as h
from htpy import Element, Node
from markupsafe import Markup, escape

from kekbridge.admin.axes import amount_labels, round_ticks, share_between, time_labels, time_share, time_ticks
from kekbridge.formatting import format_decimal, moment
from kekbridge.model import EquityMark
from kekbridge.model.statistics import Bin
from kekbridge.risk.drawdown import drawdown_of

_FRAME: Final = 1000
_ZERO: Final = Decimal(0)
# Rows of a curve's table at most; the curve itself has more points.
_TABLE_ROWS: Final = 48
# Labels along the x axis at most; a phone shows every second one.
_X_LABELS: Final = 8
_BIN_LABELS: Final = 6
# Characters above a horizontal bar on a phone, with its text.
_LINE: Final = 46
_ROW_PX: Final = 44
_STAGE_PX: Final = 30
# A stage so much longer than all before it is cut: a limit order may rest for hours.
_CUT: Final = 20.0

_svg, _desc, _line = h.svg, Element("desc"), Element("line")
_polyline, _polygon, _circle = Element("polyline"), Element("polygon"), Element("circle")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart."""

    #: What it shows: a day, a webhook, a market, a reason.
    label: str
    value: Decimal
    #: The value as text, with its unit.
    text: str


@dataclass(frozen=True, slots=True)
class StageSpan:
    """One stage of an alert, in milliseconds since its receipt."""

    #: What happened.
    name: str
    #: When it began and ended.
    begin: float
    end: float


# ------------------------------------------------------------------------------------------------------------ equity curve


def equity_chart(marks: Sequence[EquityMark], *, title: str, name: str = "equity") -> Element:
    """The account value over time, and shaded how far it is below its peak. `name` is unique on the page."""
    if not marks:
        return _figure(title, "no data yet: one point per minute while the bridge runs")
    values, peaks = [mark.value for mark in marks], [max(mark.peak, mark.value) for mark in marks]
    start, end = marks[0].at, marks[-1].at
    if start == end:
        start, end = start - timedelta(minutes=5), end + timedelta(minutes=5)
    low, high = min(values), max(values)
    # A peak far above everything shown would press the curve flat: its shading is cut instead.
    ticks = round_ticks(low, min(max(peaks), high + max(high - low, abs(high) / 50)))
    bottom, top = ticks[0], ticks[-1]

    def place(mark: EquityMark, value: Decimal) -> str:
        x = time_share(mark.at, start, end) * _FRAME
        return f"{x:.1f},{(1 - share_between(value, bottom, top)) * _FRAME:.1f}"

    curve = [place(mark, mark.value) for mark in marks]
    above = [place(mark, peak) for mark, peak in zip(marks, peaks, strict=True)]
    shapes = [
        _polygon(".drawdown", points=" ".join((*curve, *reversed(above)))),
        _polyline(".curve", points=" ".join(curve)),
    ]
    if len(marks) == 1:
        x, y = curve[0].split(",")
        shapes.append(_circle(".curve", cx=x, cy=y, r="4"))
    deepest = max(drawdown_of(peak, value) for peak, value in zip(peaks, values, strict=True))
    now = f"{values[-1]:,.2f} USDC, low {low:,.2f}, high {high:,.2f}, deepest drawdown {deepest * 100:.1f} %"
    shown = marks[:: max(1, -(-len(marks) // _TABLE_ROWS))]
    rows = [
        (moment(mark.at)[:16], f"{mark.value:,.2f}", f"{drawdown_of(mark.peak, mark.value) * 100:.2f} %")
        for mark in (*shown, *(() if shown[-1] is marks[-1] else marks[-1:]))
    ]
    times = time_ticks(start, end, most=_X_LABELS)
    return _figure(
        title,
        now,
        _plot(
            name,
            f"{title}: {moment(start)[:16]} to {moment(end)[:16]} UTC, {now}",
            _y_axis(ticks),
            _x_axis([(time_share(at, start, end), text) for at, text in zip(times, time_labels(times), strict=True)]),
            _stretched(*shapes),
            data={
                "data-crosshair": "",
                "data-from": f"{start.timestamp():.0f}",
                "data-to": f"{end.timestamp():.0f}",
                "data-low": format_decimal(bottom),
                "data-high": format_decimal(top),
                "data-at": " ".join(f"{(mark.at - start).total_seconds():.0f}" for mark in marks),
                "data-values": " ".join(f"{value:.2f}" for value in values),
                "data-peaks": " ".join(f"{peak:.2f}" for peak in peaks),
            },
        ),
        _figures(("Time (UTC)", "Account value (USDC)", "Below its peak"), rows),
    )


# ------------------------------------------------------------------------------------------------------------- bar charts


def bar_chart(
    bars: Sequence[Bar], *, title: str, name: str, titles: tuple[str, str], note: str = "", is_gain: bool = False
) -> Element:
    """Vertical bars beside each other, as of days; with `is_gain` in the colours of gains and losses. `titles`: of the table's columns."""
    if not bars:
        return _figure(title, "none in this period")
    ticks = round_ticks(min(_ZERO, *(bar.value for bar in bars)), max(_ZERO, *(bar.value for bar in bars)))
    width = _FRAME / len(bars)
    drawn = [
        _bar(bar, index * width + width * 0.1, width * 0.8, ticks, is_gain=is_gain) for index, bar in enumerate(bars)
    ]
    each = -(-len(bars) // _X_LABELS)
    labels = [((index + 0.5) / len(bars), bars[index].label) for index in range(0, len(bars), each)]
    return _figure(
        title,
        note,
        _plot(
            name,
            f"{title}: {len(bars)} bars, {bars[0].label} to {bars[-1].label}. {note}",
            _y_axis(ticks),
            _x_axis(labels),
            _stretched(_markup(drawn)),
        ),
        _figures(titles, [(bar.label, bar.text) for bar in bars]),
    )


def row_chart(
    bars: Sequence[Bar], *, title: str, name: str, titles: tuple[str, str], most: int = 15, is_gain: bool = False
) -> Element:
    """Horizontal bars below each other with their names, as of webhooks; of more than `most`, the largest are drawn."""
    if not bars:
        return _figure(title, "none in this period")
    shown = list(bars)
    if len(shown) > most:
        kept = sorted(shown, key=lambda bar: -abs(bar.value))[:most]
        shown = [bar for bar in shown if bar in kept]
    ticks = round_ticks(min(_ZERO, *(bar.value for bar in shown)), max(_ZERO, *(bar.value for bar in shown)), most=5)
    zero, height = share_between(_ZERO, ticks[0], ticks[-1]), _ROW_PX * len(shown)
    rows = []
    for index, bar in enumerate(shown):
        end = share_between(bar.value, ticks[0], ticks[-1])
        kind, place = _kind(bar.value, is_gain=is_gain), (min(zero, end), abs(end - zero))
        rows.append(_row_bar(_short(bar), bar.text, kind, (index + 1) * _ROW_PX, place, height=14))
    left_out = "" if len(shown) == len(bars) else f"the {most} largest of {len(bars)}"
    return _figure(
        title,
        left_out,
        _svg(
            ".rows",
            {"aria-labelledby": f"{name}-desc"},
            role="img",
            width="100%",
            height=str(height + 22),
        )[
            _desc(id=f"{name}-desc")[f"{title}: " + "; ".join(f"{bar.label} {bar.text}" for bar in shown)],
            _grid(ticks, height),
            _line(".zero", x1=_percent(zero), x2=_percent(zero), y1="0", y2=str(height)),
            _markup(rows),
        ],
        _figures(titles, [(bar.label, bar.text) for bar in bars]) if left_out else None,
    )


def _short(bar: Bar) -> str:
    """A label, escaped, that leaves room for the text at its end, also on a phone; the whole one for the pointer."""
    room = _LINE - len(bar.text)
    if len(bar.label) <= room:
        return escape(bar.label)
    return f"<title>{escape(bar.label)}</title>{escape(bar.label[: max(room - 1, 1)])}…"


# ------------------------------------------------------------------------------------------------------------- histograms


def histogram(bins: Sequence[Bin], *, title: str, name: str, unit: str, note: str = "") -> Element:
    """How often values were in each bin; bins are equally wide, whatever range they cover, and labelled at their edges."""
    if not bins:
        return _figure(title, "none in this period")
    ticks = round_ticks(_ZERO, Decimal(max(1, *(one.count for one in bins))), most=5)
    width = _FRAME / len(bins)
    bars = [Bar(_range(one, unit), Decimal(one.count), str(one.count)) for one in bins]
    drawn = [_bar(bar, index * width + 1, max(width - 2, 1), ticks, is_gain=False) for index, bar in enumerate(bars)]
    edges = [(index / len(bins), _number(one.low)) for index, one in enumerate(bins) if one.low is not None]
    if bins[-1].high is not None:
        edges.append((1.0, _number(bins[-1].high)))
    each = max(1, -(-len(edges) // _BIN_LABELS))
    return _figure(
        title,
        note,
        _plot(
            name,
            f"{title} in {unit}: {sum(one.count for one in bins)} values from {bars[0].label} to {bars[-1].label}. {note}",
            _y_axis(ticks),
            _x_axis(edges[::each]),
            _stretched(_markup(drawn)),
            kind="small",
        ),
        _figures((unit, "Count"), [(bar.label, bar.text) for bar in bars]),
    )


def _range(one: Bin, unit: str) -> str:
    if one.low is None:
        return f"below {_number(one.high)} {unit}"
    if one.high is None:
        return f"from {_number(one.low)} {unit}"
    return f"{_number(one.low)} to {_number(one.high)} {unit}"


def _number(value: float | None) -> str:
    return f"{value or 0:,g}"


# -------------------------------------------------------------------------------------------------------------- waterfall


def waterfall(stages: Sequence[StageSpan], *, title: str, name: str = "waterfall") -> Element:
    """The stages of an alert below each other, each drawn from its begin to its end; a much longer last one is cut at the edge."""
    if not stages:
        return _figure(title, "no stage was measured")
    ends = sorted(stage.end for stage in stages)
    longest = ends[0]
    for end in ends:
        if end > max(longest, 1.0) * _CUT:
            break
        longest = end
    ticks = round_ticks(_ZERO, Decimal(str(max(longest, 0.001))), most=6)
    full, height = float(ticks[-1]), _STAGE_PX * len(stages)
    rows = []
    for index, stage in enumerate(stages):
        begin, end = (min(at / full, 1.0) for at in (stage.begin, stage.end))
        kind = "stage cut" if stage.end > full else "stage"
        width = max(end - begin, 0.004)
        place = (min(begin, 1 - width), width)
        bottom = (index + 1) * _STAGE_PX
        rows.append(_row_bar(escape(stage.name), _stage_text(stage), kind, bottom, place, height=8))
    described = "; ".join(f"{stage.name} {_stage_text(stage)}" for stage in stages)
    return _figure(
        title,
        "",
        _svg(".rows", {"aria-labelledby": f"{name}-desc"}, role="img", width="100%", height=str(height + 22))[
            _desc(id=f"{name}-desc")[f"{title}: {described}"], _grid(ticks, height, " ms"), _markup(rows)
        ],
    )


def _stage_text(stage: StageSpan) -> str:
    took = stage.end - stage.begin
    return f"{took:,.1f} ms" if stage.begin <= 0 else f"{took:,.1f} ms, at {stage.end:,.1f}"


# ------------------------------------------------------------------------------------------------------------------ parts


def _figure(title: str, note: str, plot: Element | None = None, table: Element | None = None) -> Element:
    return h.figure(".chart")[
        h.figcaption[h.b[title], " ", h.span(".note")[note] if note else None, h.output()],
        plot,
        table,
    ]


def _plot(
    name: str, description: str, *parts: Node, kind: str = "large", data: dict[str, str] | None = None
) -> Element:
    """The plot itself, exactly as large as its SVG element: labels hang outside, in the margins that style.css leaves."""
    svg = _svg(f".plot.{kind}", {"aria-labelledby": f"{name}-desc", **(data or {})}, role="img")
    return svg[_desc(id=f"{name}-desc")[description], parts]


def _stretched(*shapes: Node) -> Element:
    return _svg(
        viewBox=f"0 0 {_FRAME} {_FRAME}", preserveAspectRatio="none", width="100%", height="100%", x="0", y="0"
    )[shapes]


def _bar(bar: Bar, x: float, width: float, ticks: Sequence[Decimal], *, is_gain: bool) -> str:
    """A vertical bar from zero, with its figures for the pointer."""
    zero, end = (1 - share_between(value, ticks[0], ticks[-1]) for value in (_ZERO, bar.value))
    top, height = min(zero, end) * _FRAME, abs(end - zero) * _FRAME
    return (
        f'<rect class="{_kind(bar.value, is_gain=is_gain)}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{escape(bar.label)}: {escape(bar.text)}</title></rect>"
    )


def _row_bar(label: str, text: str, kind: str, bottom: int, place: tuple[float, float], *, height: int) -> str:
    """A horizontal bar below its label, which is escaped already, and its text. `place`: begin and width as shares."""
    x, width = map(_percent, place)
    top = bottom - height - 5
    return (
        f'<g><text class="label" x="0" y="{top - 5}">{label}</text>'
        f'<text class="amount" x="100%" y="{top - 5}">{escape(text)}</text>'
        f'<rect class="{kind}" x="{x}" y="{top}" width="{width}" height="{height}"/></g>'
    )


def _kind(value: Decimal, *, is_gain: bool) -> str:
    if not is_gain:
        return "count"
    return "loss" if value < 0 else "gain"


def _y_axis(ticks: Sequence[Decimal]) -> Markup:
    return _markup(
        f'<g class="tick{"" if tick else " zero"}"><line x1="0" x2="100%" y1="{_percent(1 - at)}" y2="{_percent(1 - at)}"/>'
        f'<text x="-8" y="{_percent(1 - at)}" dy="0.32em" text-anchor="end">{escape(label)}</text></g>'
        for tick, (at, label) in zip(ticks, _places(ticks), strict=True)
    )


def _x_axis(labels: Iterable[tuple[float, str]]) -> Markup:
    """Labels below the plot; every second one is left out on a phone."""
    return _markup(
        f'<g class="tick{" even" if index % 2 else ""}">'
        f'<text x="{_percent(at)}" y="100%" dy="1.5em" text-anchor="{_anchor(at)}">{escape(label)}</text></g>'
        for index, (at, label) in enumerate(labels)
    )


def _grid(ticks: Sequence[Decimal], height: int, unit: str = "") -> Markup:
    """Vertical lines behind horizontal bars, labelled below them."""
    return _markup(
        f'<g class="tick"><line x1="{_percent(at)}" x2="{_percent(at)}" y1="0" y2="{height}"/>'
        f'<text x="{_percent(at)}" y="{height + 16}" text-anchor="{_anchor(at)}">{escape(label)}{unit}</text></g>'
        for at, label in _places(ticks)
    )


def _markup(parts: Iterable[str]) -> Markup:
    """What a chart has many of, as text: elements take ten times as long. Every text in `parts` is escaped where they are made."""
    return Markup("".join(parts))  # noqa: S704


def _places(ticks: Sequence[Decimal]) -> list[tuple[float, str]]:
    shares = (share_between(tick, ticks[0], ticks[-1]) for tick in ticks)
    return list(zip(shares, amount_labels(ticks), strict=True))


def _anchor(at: float) -> str:
    """Labels at the ends of an axis stay inside the figure."""
    return "start" if at < 0.03 else "end" if at > 0.97 else "middle"


def _percent(share: float) -> str:
    return f"{share * 100:.2f}%"


def _figures(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Element:
    """The same figures as a table, folded away: for screen readers, and to copy."""
    head = h.tr[(h.th(scope="col")[title] for title in titles)]
    body = _markup(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return h.details[h.summary["Figures"], h.div(".wide")[h.table[h.thead[head], h.tbody[body]]]]
