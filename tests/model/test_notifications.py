"""Notification texts: complete for every event, safe for any value and any trader's template."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model.notifications import (
    MESSAGES,
    SEVERITIES,
    check_event,
    check_template,
    fill_template,
    render_notification,
)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_event_renders_without_facts(kind: str) -> None:
    """A missing figure neither fails nor leaves a brace in the text."""
    rendered = render_notification(kind, {})
    assert rendered is not None
    severity, text = rendered
    assert severity in SEVERITIES
    assert text
    assert "{" not in text


@pytest.mark.parametrize("kind", MESSAGES)
def test_default_templates_are_valid(kind: str) -> None:
    """A trader can copy a default template and change it: each name in it is allowed."""
    assert check_template(kind, MESSAGES[kind].template)


def test_hostile_values_stay_on_one_line() -> None:
    """Text from an alert or the exchange cannot start a new line or be filled as a template."""
    rendered = render_notification("job_failed", {"job": "{error}\r\nfake", "error": "\x1b[2J\u202e" + "x" * 5000})
    assert rendered is not None
    assert rendered[1].startswith("job {error} fake failed: [2Jxxx")
    assert len(rendered[1]) < 500


@given(st.text(), st.dictionaries(st.sampled_from(["symbol", "side", "error"]), st.text()))
def test_filling_never_raises(template: str, facts: dict[str, str]) -> None:
    """Any template with any values gives one printable line of bounded length."""
    line = fill_template(template, facts)
    assert line.isprintable()
    assert len(line) <= 1000


def test_values_are_formatted() -> None:
    """Amounts have no exponent, times are UTC to the minute, None is empty."""
    facts = {"a": Decimal("1E+3"), "b": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "c": None}
    assert fill_template("{a}|{b}|{c}|{{d}}", facts) == "1000|2026-01-02 03:04 UTC||{d}"


def test_resumed_trading_is_information() -> None:
    """The same event is a warning when trading stops and information when it resumes."""
    severities = [
        (render_notification("trading_state", {"state": state}) or ("", ""))[0] for state in ("halted", "running")
    ]
    assert severities == ["warning", "info"]
    assert render_notification("alert_admitted", {}) is None


@pytest.mark.parametrize(
    ("kind", "template", "expected"),
    [
        ("order_filed", "x", "'order_filed' is not an event; did you mean order_filled?"),
        ("order_filled", "{sid}", "{sid} is not known for this event; did you mean {side}?"),
        ("job_recovered", "{quantity}", "use {job}, {event}, {at}"),
        ("order_filled", "{side.__class__}", "found a lone '{'"),
        ("order_filled", "{side!r}", "found a lone '{'"),
        ("order_filled", "{0}", "found a lone '{'"),
        ("order_filled", "filled }", "found a lone '}'"),
        ("order_filled", "  ", "list the event in notify.mute"),
    ],
)
def test_invalid_templates_are_refused(kind: str, template: str, expected: str) -> None:
    """The error for an unknown event or name suggests the nearest one; only plain names are allowed in braces."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_template(kind, template)


def test_known_event_is_accepted() -> None:
    """The check returns the kind it was given."""
    assert check_event("order_filled") == "order_filled"
