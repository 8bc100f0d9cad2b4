"""Equal content without a timestamp: what it repeats."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kekbridge.execution.repeats import RecentAlerts, Taken

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def taken(name: str, seconds: float = 0, **changes: Any) -> Taken:
    values = {"id": name, "webhook_id": "hook", "fingerprint": "f", "markets": ("BTC",)}
    return Taken(**values | {"received_at": NOW + timedelta(seconds=seconds)} | changes)


def recent(*alerts: Taken) -> RecentAlerts:
    made = RecentAlerts()
    for alert in alerts:
        made.add(alert)
    return made


def found(recent: RecentAlerts, seconds: float = 10, fingerprint: str = "f", **changes: Any) -> str | None:
    values: dict[str, Any] = {"markets": ["BTC"], "window_s": 60} | changes
    return recent.find("hook", fingerprint, now=NOW + timedelta(seconds=seconds), **values)


@pytest.mark.parametrize(("seconds", "is_found"), [(0, True), (59.999, True), (60, False), (3600, False), (-1, True)])
def test_window(seconds: float, *, is_found: bool) -> None:
    """Equal content repeats an alert received less than the window before."""
    assert found(recent(taken("A")), seconds) == ("A" if is_found else None)


def test_only_its_own_webhook_and_content() -> None:
    """Two webhooks may send equal texts; other content is another alert."""
    assert found(recent(taken("A", webhook_id="other"))) is None
    assert found(recent(taken("A")), fingerprint="g") is None


@pytest.mark.parametrize(
    ("between", "is_found"),
    [
        ({"fingerprint": "g"}, False),
        ({"fingerprint": "g", "markets": ("ETH",)}, True),
        ({"fingerprint": "g", "markets": ("ETH", "BTC")}, False),
        ({"fingerprint": "g", "markets": ()}, True),
        ({"fingerprint": "g", "webhook_id": "other"}, True),
    ],
)
def test_another_alert_of_its_market_in_between(between: dict[str, Any], *, is_found: bool) -> None:
    """buy, sell, buy within a minute are three trades; an alert elsewhere changes nothing."""
    assert found(recent(taken("A"), taken("B", 5, **between))) == ("A" if is_found else None)


def test_an_alert_that_was_not_stored_is_forgotten() -> None:
    """Neither it nor what it stood between counts."""
    made = recent(taken("A"), taken("B", 5, fingerprint="g"))
    made.remove("B")
    assert found(made) == "A"
    made.remove("A")
    made.remove("never was")
    assert found(made) is None


def test_only_the_last_minute_is_remembered() -> None:
    """However many alerts it brings, the first of them can be repeated; what is older takes no memory."""
    made = recent(
        *(taken(f"{number}", number / 100, fingerprint=f"{number}", markets=("BTC",)) for number in range(10_000))
    )
    assert len(made._taken) == 6_000
    made = recent(*(taken(f"{number}", fingerprint=f"{number}", markets=(f"{number}",)) for number in range(10_000)))
    assert found(made, fingerprint="0", markets=["0"]) == "0"
