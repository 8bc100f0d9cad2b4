"""Words for events: complete for every event, harmless whatever a value or a trader's template holds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model.notifications import MESSAGES, SEVERITIES, check_event, check_template, fill, words_of


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_event_has_words_without_any_fact(kind: str) -> None:
    """A missing figure never makes a message fail, nor leaves a brace in it."""
    said = words_of(kind, {})
    assert said is not None
    assert said[0] in SEVERITIES
    assert said[1]
    assert "{" not in said[1]


@pytest.mark.parametrize("kind", MESSAGES)
def test_our_own_words_pass_the_check_for_theirs(kind: str) -> None:
    """Every name in our words is one that a trader may use, too: copying and changing them works."""
    assert check_template(kind, MESSAGES[kind].words)


def test_hostile_text_stays_on_its_line() -> None:
    """What came from an alert or the exchange cannot break out of its line or into the template."""
    said = words_of("job_failed", {"job": "{error}\r\nfake", "error": "\x1b[2J\u202e" + "x" * 5000})
    assert said is not None
    assert said[1].startswith("job {error} fake failed: [2Jxxx")
    assert len(said[1]) < 500


@given(st.text(), st.dictionaries(st.sampled_from(["symbol", "side", "error"]), st.text()))
def test_no_template_and_no_value_does_harm(template: str, facts: dict[str, str]) -> None:
    """Whatever both hold, the result is one printable line and filling never raises."""
    line = fill(template, facts)
    assert line.isprintable()
    assert len(line) <= 1000


def test_values_are_written_as_people_read_them() -> None:
    """Amounts without exponent, times in UTC to the minute, nothing for nothing."""
    facts = {"a": Decimal("1E+3"), "b": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "c": None}
    assert fill("{a}|{b}|{c}|{{d}}", facts) == "1000|2026-01-02 03:04 UTC||{d}"


def test_trading_that_goes_on_is_good_news() -> None:
    """The same event is a warning when trading stops and information when it runs again."""
    severities = [(words_of("trading_state", {"state": state}) or ("", ""))[0] for state in ("halted", "running")]
    assert severities == ["warning", "info"]
    assert words_of("alert_admitted", {}) is None


@pytest.mark.parametrize(
    ("kind", "template", "expected"),
    [
        ("order_filed", "x", "'order_filed' is no event; did you mean order_filled?"),
        ("order_filled", "{sid}", "{sid} is not known for this event; did you mean {side}?"),
        ("job_recovered", "{quantity}", "use {job}, {event}, {at}"),
        ("order_filled", "{side.__class__}", "found a lone '{'"),
        ("order_filled", "{side!r}", "found a lone '{'"),
        ("order_filled", "{0}", "found a lone '{'"),
        ("order_filled", "filled }", "found a lone '}'"),
        ("order_filled", "  ", "name the event in notify.mute"),
    ],
)
def test_what_a_template_may_not_hold(kind: str, template: str, expected: str) -> None:
    """Unknown events and names are told with the nearest one; nothing but plain names may stand in braces."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_template(kind, template)


def test_an_event_that_exists_is_accepted() -> None:
    """The check gives back what it was given."""
    assert check_event("order_filled") == "order_filled"
