"""What to do about lasting conditions."""

from __future__ import annotations

import re

from kekbridge.model.notifications import MESSAGES
from kekbridge.reports.condition_fixes import FIXES, fix_of
from tests.paths import ROOT


def test_every_condition_that_can_begin_has_a_fix() -> None:
    """A kind that any module of the package begins as a condition is in the table, and nothing else is."""
    # Begun under names that are put together, or by the store itself.
    begun = {
        "exchange_down",
        "stream_down",
        "protection_wanted",
        "certificate_not_renewed",
        "position_drift",
        "alert_ended",
    }
    for file in (ROOT / "kekbridge").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        begun |= set(re.findall(r"conditions\.(?:begin|update)\(\s*[^)]*?, \"(\w+)\"", text))
    begun |= {kind for kind in MESSAGES if re.search(r"_(expiring|expired)$", kind) and not kind.startswith("order_")}
    assert begun == set(FIXES)
    assert set(FIXES) <= set(MESSAGES)


def test_an_unknown_kind_has_no_fix() -> None:
    """A condition of another version's store is shown without a fix instead of failing the page."""
    assert fix_of("from_the_future") == ""
