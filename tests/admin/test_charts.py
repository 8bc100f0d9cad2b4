"""Charts: well-formed, every mark inside its frame, every figure readable without the picture, no style in the markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from kekbridge.admin.charts import Bar, StageSpan, bar_chart, equity_chart, histogram, row_chart, waterfall
from kekbridge.model import EquityMark
from kekbridge.model.statistics import Bin

NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
AMOUNTS = st.decimals(min_value=Decimal("-1e15"), max_value=Decimal("1e15"), places=4)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
Figure = ElementTree.Element


def parsed(chart: object) -> Figure:
    """The chart as XML; refuses styles and anything that is drawn outside of its frame."""
    text = str(chart)
    assert "style" not in text
    figure = ElementTree.fromstring(text)  # noqa: S314
    for frame in figure.iter("svg"):
        size = float(frame.get("viewBox", "0 0 0 0").split()[2])
        for shape in frame.iter():
            if shape.tag in ("polyline", "polygon"):
                for point in shape.get("points", "").split():
                    assert all(0 <= float(part) <= 1000 for part in point.split(","))
            elif shape.tag in ("rect", "line", "circle"):
                _check_inside(shape, size)
    return figure


def _check_inside(shape: Figure, size: float) -> None:
    def end(near: str, length: str) -> float:
        parts = [shape.get(name, "0") for name in (near, length)]
        return sum(float(part.rstrip("%")) for part in parts)

    across = [shape.get(name, "0") for name in ("x", "x1", "x2", "cx", "width", "height") if shape.get(name)]
    assert all(float(part.rstrip("%")) >= 0 for part in across)
    if any(part.endswith("%") for part in across):
        assert end("x", "width") <= 100.011
    elif size and shape.tag == "rect":
        assert end("x", "width") <= size + 0.11
        assert end("y", "height") <= size + 0.11


def texts(figure: Figure, tag: str) -> list[str]:
    return ["".join(one.itertext()) for one in figure.iter(tag)]


def marks(values: list[Any]) -> list[EquityMark]:
    """A mark per minute from (value, how far its peak is above it)."""
    return [
        EquityMark(NOW + timedelta(minutes=number), value, Decimal(0), value + abs(above))
        for number, (value, above) in enumerate(values)
    ]


@settings(max_examples=40)
@given(st.lists(st.tuples(AMOUNTS, AMOUNTS), max_size=40))
def test_equity_curve_is_inside_its_frame(values: list[Any]) -> None:
    """Any values, none, one, negative ones, peaks far above: all points inside, and the crosshair's data has one figure per point."""
    figure = parsed(equity_chart(marks(values), title="Equity"))
    if not values:
        assert "no data yet" in "".join(figure.itertext())
        return
    (plot,) = (one for one in figure.iter("svg") if one.get("class") == "plot large")
    offsets, shown, peaks = (plot.get(name, "").split() for name in ("data-at", "data-values", "data-peaks"))
    assert len(offsets) == len(shown) == len(peaks) == len(values)
    assert float(plot.get("data-low", "")) - 0.01 <= min(map(float, shown)) <= float(plot.get("data-high", "")) + 0.01
    assert len(texts(figure, "tr")) <= 50
    assert f"{values[-1][0]:,.2f}" in texts(figure, "tr")[-1]


def test_equity_curve_shades_the_drawdown() -> None:
    """From 100 to a peak of 120 and down to 90: 25 % below the peak, in words, in the table and as the lower edge of the area."""
    found = [
        EquityMark(NOW + timedelta(hours=hour), *amounts)
        for hour, amounts in enumerate(
            (
                (Decimal(100), Decimal(0), Decimal(100)),
                (Decimal(120), Decimal(0), Decimal(120)),
                (Decimal(90), Decimal(0), Decimal(120)),
            )
        )
    ]
    figure = parsed(equity_chart(found, title="Equity"))
    assert "deepest drawdown 25.0 %" in "".join(figure.itertext())
    assert "25.00 %" in texts(figure, "td")[-1]
    area = next(figure.iter("polygon")).get("points", "").split()
    assert area == ["0.0,666.7", "500.0,0.0", "1000.0,1000.0", "1000.0,0.0", "500.0,0.0", "0.0,666.7"]


@settings(max_examples=40)
@given(st.lists(st.tuples(NAMES, AMOUNTS), max_size=40))
def test_bars_are_inside_their_frame(values: list[tuple[str, Decimal]]) -> None:
    """Gains and losses of any size: every bar inside, every name escaped, every figure in a table or beside its bar."""
    bars = [Bar(name, value, f"{value:+,.2f}") for name, value in values]
    standing = parsed(bar_chart(bars, title="By day", name="days", titles=("Day", "USDC"), is_gain=True))
    lying = parsed(row_chart(bars, title="By webhook", name="hooks", titles=("Webhook", "USDC")))
    if not bars:
        assert "none in this period" in "".join(standing.itertext()) + "".join(lying.itertext())
        return
    assert [one.get("class") for one in standing.iter("rect")] == ["loss" if bar.value < 0 else "gain" for bar in bars]
    assert texts(standing, "td") == [bar.text for bar in bars]
    assert len(list(lying.iter("rect"))) == min(len(bars), 15)
    if len(bars) > 15:
        assert texts(lying, "td") == [bar.text for bar in bars]


def test_a_long_name_leaves_room_for_its_figure() -> None:
    """On a phone both are on one line: the name is cut, and whole for the pointer and in the description."""
    name = "a-webhook-with-a-name-of-sixty-four-characters-as-the-longest-are"
    figure = parsed(
        row_chart([Bar(name, Decimal(1), "+1.00, 50.0 % of 12 won")], title="t", name="n", titles=("x", "y"))
    )
    title, shown = next(one for one in figure.iter("text") if one.get("class") == "label").itertext()
    assert title == name
    assert shown == "a-webhook-with-a-name-…"
    assert name in texts(figure, "desc")[0]


def test_gains_are_above_zero_and_losses_below() -> None:
    """A gain ends where its loss of the same size begins, at the line of zero."""
    bars = [Bar("a", Decimal(10), "+10"), Bar("b", Decimal(-10), "-10")]
    gain, loss = parsed(bar_chart(bars, title="t", name="n", titles=("x", "y"))).iter("rect")
    assert (gain.get("y"), gain.get("height"), loss.get("y"), loss.get("height")) == ("0.0", "500.0", "500.0", "500.0")


@settings(max_examples=40)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.booleans(), st.booleans())
def test_histogram_is_inside_its_frame(counts: list[int], is_open_below: bool, is_open_above: bool) -> None:
    """One bar per bin in order, its range and count in the table; open ends are named as such."""
    edges: list[float | None] = [
        None if is_open_below else 0.5,
        *(10.0**power for power in range(1, len(counts))),
        None if is_open_above else 1e30,
    ]
    bins = [Bin(low, high, count) for (low, high), count in zip(pairwise(edges), counts, strict=True)]
    figure = parsed(histogram(bins, title="Latency", name="l", unit="ms"))
    assert len(list(figure.iter("rect"))) == len(counts)
    assert texts(figure, "td") == [str(count) for count in counts]
    shown = "".join(texts(figure, "th"))
    assert ("below" in shown) == is_open_below
    assert ("from" in shown) == (is_open_above and (len(counts) > 1 or not is_open_below))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=9))
def test_waterfall_is_inside_its_frame(stages: list[tuple[float, float]]) -> None:
    """Stages of microseconds and of days: each has a bar that can be seen, inside the frame, and its time in words."""
    spans = [StageSpan(f"stage {number}", min(pair), max(pair)) for number, pair in enumerate(stages)]
    figure = parsed(waterfall(spans, title="Stages"))
    bars = [one for one in figure.iter("rect") if (one.get("class") or "").startswith("stage")]
    assert len(bars) == len(spans)
    assert all(float(bar.get("width", "").rstrip("%")) >= 0.4 for bar in bars)
    described = "".join(texts(figure, "desc"))
    assert all(f"{span.name} {span.end - span.begin:,.1f} ms" in described for span in spans)


def test_a_resting_order_does_not_hide_the_other_stages() -> None:
    """An order that was filled after an hour is cut at the edge, so that the first milliseconds can be seen."""
    spans = [StageSpan("stored", 0, 2), StageSpan("sent", 2, 10), StageSpan("filled", 10, 3_600_000)]
    stored, sent, filled = parsed(waterfall(spans, title="Stages")).iter("rect")
    assert [one.get("class") for one in (stored, sent, filled)] == ["stage", "stage", "stage cut"]
    assert (sent.get("x"), sent.get("width")) == ("20.00%", "80.00%")


def test_no_two_charts_of_a_page_share_an_id() -> None:
    """Names of charts are ids: what describes one is not that of another."""
    bars = [Bar("a", Decimal(1), "1")]
    text = str(bar_chart(bars, title="t", name="one", titles=("x", "y"))) + str(
        row_chart(bars, title="t", name="two", titles=("x", "y"))
    )
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(set(ids)) == len(ids) == 2
