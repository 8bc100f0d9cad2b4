"""What the rules said, in one sentence."""

from __future__ import annotations

from typing import Any

from kekbridge.admin.verdicts import deciding_rule, verdicts_element
from kekbridge.model import Verdict


def verdict(rule: str, found: str, limit: str, **changes: Any) -> Verdict:
    values: dict[str, Any] = {"rule": rule, "scope": "webhook", "passed": True, "found": found, "limit": limit}
    return Verdict(**values | changes)


def test_the_first_denial_decides() -> None:
    """Denials after it are not named; the table has it first, whatever its place, and everything from outside is escaped."""
    found = [
        verdict("symbol", "BTC", "any"),
        verdict("order_too_large", "0.5 <BTC>", "0.1 BTC", passed=False),
        verdict("daily_limit", "900 USDC", "500 USDC", passed=False),
    ]
    assert deciding_rule(found) == "Denied by order_too_large (webhook): found 0.5 <BTC>, limit 0.1 BTC"
    made = str(verdicts_element(found))
    assert "<BTC>" not in made
    assert made.index("daily_limit") < made.index(">symbol<")


def test_the_closest_limit_is_named_if_all_passed() -> None:
    """Limits that are not set or no upper bound in numbers are not compared."""
    found = [
        verdict("order_too_large", "0.01 BTC", "0.1 BTC"),
        verdict("daily_limit", "1,500.00 USDC", "at most 2,000.00 USDC"),
        verdict("min_order", "0.05 BTC", "0.01 BTC"),
        verdict("notional", "999 USDC", "no limit"),
        verdict("no_mark_price", "59 s", "at most 60 s", scope="exchange"),
    ]
    closest = "closest to its limit: daily_limit (webhook), found 1,500.00 USDC, limit at most 2,000.00 USDC (75 %)"
    assert deciding_rule(found) == f"All 5 rules passed; {closest}"
    assert deciding_rule(found[3:4]) == "All 1 rule passed"
    assert "No rule was checked" in str(verdicts_element([]))
