"""Shared elements of the pages: outside text stays text, values are shown as a trader reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import htpy as h
import pytest

from kekbridge.admin.elements import closed_state, gain, moment_element, pairs, status, table


@pytest.mark.parametrize(
    "made",
    [
        table(("<i>",), [("plain",)], empty=""),
        table(("Why",), [("<i>",)], empty=""),
        table(("Why",), [], empty="<i>"),
        pairs([("<i>", "value")]),
        pairs([("name", "<i>")]),
        status("<i>"),
    ],
)
def test_outside_text_never_becomes_markup(made: h.Renderable) -> None:
    """Titles, cells, names and statuses are escaped, in text and in attributes."""
    assert "<i>" not in str(made)
    assert "&lt;i&gt;" in str(made)


def test_cells_show_values_by_their_type() -> None:
    """Amounts without exponent and aligned, times as time elements, elements unchanged, nothing as a dash."""
    at = datetime(2026, 11, 29, 8, 5, 3, 250_000, tzinfo=UTC)
    row = (Decimal("1E+3"), at, h.b["bold"], None)
    made = str(table(("Quantity", "At", "Name", "Why"), [row], empty=""))
    assert '<td class="number" data-label="Quantity">1,000</td>' in made
    assert '<time datetime="2026-11-29T08:05:03.250Z">2026-11-29 08:05:03 UTC</time>' in made
    assert '<td data-label="Name"><b>bold</b></td>' in made
    assert '<td class="nothing" data-label="Why">-</td>' in made


def test_a_row_without_a_button_shows_nothing_in_its_place() -> None:
    """A dash below no title would be read as a value."""
    assert '<td class="nothing buttons"></td>' in str(table(("Name", ""), [("a", None)], empty=""))


def test_a_column_that_small_screens_leave_out_is_left_out_with_its_title() -> None:
    """Otherwise the titles would be above other columns."""
    made = str(table(("Market", "Filled"), [("BTC", "1")], empty="", phone=("first", "off")))
    assert '<th scope="col">Market</th><th scope="col" class="off">Filled</th>' in made
    assert '<td class="off">1</td>' in made


def test_a_closed_scope_names_its_end_as_a_time() -> None:
    """The script shows the end in the viewer's zone, so the reason does not repeat it in UTC."""
    scope = {
        "state": "exits_only",
        "until": "2026-11-30T00:00:00.000Z",
        "reason": "limit used up, until 2026-11-30 00:00 UTC",
    }
    made = str(closed_state(scope))
    assert made.startswith('exits only until <time datetime="2026-11-30T00:00:00.000Z">')
    assert made.endswith("</time>: limit used up")
    assert str(closed_state({"state": "halted", "until": None, "reason": "by hand"})) == "halted: by hand"


def test_a_time_of_today_is_short() -> None:
    """The day is left out for today only; a missing time is a dash."""
    at = datetime(2026, 11, 29, 8, 5, 3, tzinfo=UTC)
    assert ">08:05:03 UTC<" in str(moment_element(at, at.replace(hour=23)))
    assert ">11-29 08:05 UTC<" in str(moment_element(at, at.replace(day=30)))
    assert str(moment_element(None)) == "-"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("12.346", '<span class="good">+12.35</span>'), ("-1", '<span class="bad">-1.00</span>'), (None, "-")],
)
def test_gains_have_a_sign(value: str | None, shown: str) -> None:
    """Profit and loss differ by sign and colour, not by colour alone."""
    assert str(gain(None if value is None else Decimal(value))) == shown
