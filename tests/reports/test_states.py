"""Trading states in words: what is accepted until when, and a fix for each way of being closed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from kekbridge.model import TradingState
from kekbridge.reports.states import close_again_text, state_fix, state_text
from kekbridge.store.settings import ACCOUNT, BY_LIMIT, TradingControl

NOW = datetime(2026, 11, 22, 18, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
EDIT = "(`kekbridge webhook edit w`), then `kekbridge resume --webhook w`"


def closed(rule: str, until: datetime | None = MIDNIGHT) -> TradingControl:
    return TradingControl(state=TradingState.EXITS_ONLY, reason="r", by=f"{BY_LIMIT}{rule}", until=until)


HALTED = TradingControl(state=TradingState.HALTED, reason="by hand", by="command line")
NEWS = TradingControl(state=TradingState.EXITS_ONLY, reason="news", by="web page")


@pytest.mark.parametrize(
    ("control", "text", "fix"),
    [
        (TradingControl(state=TradingState.RUNNING), "running", ""),
        (HALTED, "halted (by hand)", "`kekbridge resume --webhook w`"),
        (NEWS, "exits only (news)", "`kekbridge resume --webhook w`"),
        (
            closed("daily_limit"),
            "exits only until 00:00 (daily limit)",
            f"raise --daily-limit {EDIT}, or wait 5 h 48 min",
        ),
        (
            closed("drawdown", None),
            "exits only until resume (drawdown)",
            f"`kekbridge resume --reset-peak`, or raise --max-drawdown {EDIT}",
        ),
    ],
)
def test_state_and_fix(control: TradingControl, text: str, fix: str) -> None:
    """One short text, and commands that can be typed."""
    assert state_text(control, NOW) == text
    assert state_fix(control, NOW, scope="01W", name="w") == fix


def test_the_accounts_limits_are_settings() -> None:
    """They are in the settings file, not options of a webhook."""
    assert state_fix(HALTED, NOW, scope=ACCOUNT, name="account") == "`kekbridge resume`"
    fix = state_fix(closed("daily_loss"), NOW, scope=ACCOUNT, name="account")
    assert fix == "raise [risk] max_daily_loss and restart, then `kekbridge resume`, or wait 5 h 48 min"


def test_ends_are_in_the_readers_zone() -> None:
    """Midnight UTC is another time of day elsewhere; a day is named if it is more than a day away."""
    zone = timezone(timedelta(hours=5, minutes=30))
    assert state_text(closed("daily_limit"), NOW, zone) == "exits only until 05:30 (daily limit)"
    far = closed("daily_limit", MIDNIGHT + timedelta(days=2))
    assert state_text(far, NOW) == "exits only until 2026-11-25 00:00 (daily limit)"


def test_what_closes_again_is_said_with_its_cause() -> None:
    """Which scope, which limit, when, and for how long."""
    text = close_again_text("daily_orders", MIDNIGHT, NOW, scope="01W", name="w")
    assert text.startswith("webhook w is still over its orders a day: the next entry closes it again, for 5 h 48 min; ")
    text = close_again_text("drawdown", None, NOW, scope=ACCOUNT, name="account")
    assert text.startswith("the account is still over its drawdown: within a minute it closes again; ")
