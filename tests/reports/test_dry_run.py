"""Reports of dry runs: one sentence that says what would happen, whatever the response."""

from __future__ import annotations

from typing import Any

import pytest

from kekbridge.codes import CODES
from kekbridge.reports.dry_run import read

ORDER = {
    "side": "BUY",
    "symbol": "PERP_BTC_USDC",
    "quantity": "0.01",
    "orderType": "market",
    "purpose": "entry",
    "expectedPrice": "65000",
    "path": "/v1/order",
    "request": {"symbol": "PERP_BTC_USDC"},
}
PASSED = {"rule": "max_notional", "scope": "webhook", "passed": True, "found": "650", "limit": "1000", "message": ""}


def reply(http: int = 200, /, **body: Any) -> dict[str, Any]:
    return {"httpStatus": http, "milliseconds": 3, "body": body}


@pytest.mark.parametrize(
    ("given", "accepted", "headline"),
    [
        (
            reply(dryRun=True, success=True, status="admitted", httpStatus=200, orders=[ORDER], verdicts=[PASSED]),
            True,
            "It would be accepted: buy 0.01 BTC as a market order, about 650 USDC.",
        ),
        (
            reply(
                dryRun=True, success=True, status="admitted", orders=[ORDER | {"orderType": "ioc", "reduceOnly": True}]
            ),
            True,
            "It would be accepted: buy 0.01 BTC as an ioc order that only reduces the position, about 650 USDC.",
        ),
        (
            reply(dryRun=True, success=True, status="admitted", cancels=[{"symbol": None, "comment": "grid"}]),
            True,
            "It would be accepted: cancel the orders of every market, comment grid.",
        ),
        (reply(dryRun=True, success=True, status="admitted"), True, "It would be accepted: nothing would be traded."),
        (
            reply(
                dryRun=True,
                success=False,
                status="admitted",
                httpStatus=422,
                code="denied",
                error="too large",
                verdicts=[PASSED | {"passed": False}],
            ),
            False,
            "It would be denied by a rule, with HTTP 422: too large.",
        ),
        (
            reply(dryRun=True, success=True, status="duplicate", httpStatus=200, error="alert 01K came before"),
            True,
            "It came before and would not be traded again: alert 01K came before.",
        ),
        (
            reply(401, success=False, code="unauthorized", error="authentication failed"),
            False,
            "It would be refused, with HTTP 401: authentication failed.",
        ),
    ],
)
def test_the_verdict_in_one_sentence(given: dict[str, Any], accepted: bool, headline: str) -> None:
    """Accepted with what it would trade, denied by a rule, a duplicate, or refused before it was decided."""
    report = read(given)
    assert (report.is_accepted, report.headline) == (accepted, headline)


def test_a_refusal_has_the_fix_of_its_code() -> None:
    """As `explain` prints it; an accepted alert needs none."""
    refused = read(reply(dryRun=True, success=False, httpStatus=422, code="symbol_unknown", error="x", field="symbol"))
    assert (refused.fix, refused.field, refused.http_status) == (CODES["symbol_unknown"].fix, "symbol", 422)
    assert read(reply(dryRun=True, success=True, status="admitted")).fix is None


def test_a_later_order_waits_for_an_earlier_one() -> None:
    """The second half of a flip is sized when the first is filled."""
    (order,) = read(reply(dryRun=True, success=True, orders=[ORDER | {"afterLeg": 0, "leverage": "5"}])).orders
    assert (order.waits_for, order.leverage, order.path) == ("order 1, and is sized again then", "5", "/v1/order")
    assert order.title == "BUY 0.01 PERP_BTC_USDC (entry)"
