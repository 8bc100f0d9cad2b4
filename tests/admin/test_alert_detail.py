"""The page of one alert: what decided it, how long each stage took, what followed, and what it would do now."""

from __future__ import annotations

from decimal import Decimal
from html import unescape

from kekbridge.admin.alert_detail import stage_spans
from kekbridge.admin.charts import StageSpan
from kekbridge.model import Limits
from kekbridge.store import alerts
from tests.admin.session import Browser


async def stored(browser: Browser, number: int = -1) -> str:
    """Path of the page of an alert, by default of the newest."""
    found = (await browser.bridge.daemon.database.read(alerts.search)).alerts
    return f"/log/{found[number].id}"


def test_stages_follow_each_other() -> None:
    """Each begins where the one before ended; a claim in the commit that stored the alert is not shown; the answer is for itself."""
    measured = {"received": 900.0, "stored": 2.0, "admitted": 2.0, "signed": 3.5, "accepted": 20.0, "answered": 21.0}
    assert stage_spans(measured) == [
        StageSpan("Checked and stored", 0.0, 2.0),
        StageSpan("Signed and sent", 2.0, 3.5),
        StageSpan("Accepted by the exchange", 3.5, 20.0),
        StageSpan("Sender answered", 0.0, 21.0),
    ]
    assert stage_spans({"answered": 4.0}) == [StageSpan("Sender answered", 0.0, 4.0)]
    assert [span.name for span in stage_spans({"admitted": 5.0, "stored": 1.0})][1] == "Claimed for sending"
    assert stage_spans({}) == []


async def test_an_alert_is_shown_from_receipt_to_notification(browser: Browser) -> None:
    """Filled: waterfall, rules with the closest limit, order, fill, notification; denied: the rule that denied it.

    Each time is an element, which the script shows in the viewer's zone: no column says UTC above local times.
    """
    await browser.log_in()
    await browser.bridge.send(action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    text = unescape(await browser.page(await stored(browser)))
    for words in (
        "<b>buy BTC</b> on webhook main",
        "Signed and sent",
        "Accepted by the exchange",
        "rules passed",
        "Fills",
        "main: filled buy 0.01 BTC at",
        "Answered with HTTP 200",
        '<th scope="col">Time</th>',
        '<dt>Received</dt><dd><time datetime="',
        '<dt>Fired</dt><dd><time datetime="',
        '">main</a>',
    ):
        assert words in text, words
    browser.bridge.add_webhook("tight", limits=Limits(max_order_size=Decimal("0.005")))
    await browser.bridge.send(action="buy", quantity="0.01", webhook="tight")
    text = unescape(await browser.page(await stored(browser)))
    assert "Denied by order_too_large (webhook): found 0.01" in text
    assert "no stage" not in text


async def test_an_alert_is_sent_again_as_a_dry_run(browser: Browser) -> None:
    """Decided as of now, under the limits of now; nothing is stored and nothing traded; only with the session's form key."""
    key = await browser.log_in()
    await browser.bridge.send(action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    path = await stored(browser)
    assert (await browser.post(f"{path}/dry-run"))[0] == 403
    status, text = await browser.post(f"{path}/dry-run", key=key)
    assert status == 200
    assert "It would be accepted: buy 0.01 BTC as a market order" in text
    assert len((await browser.bridge.daemon.database.read(alerts.search)).alerts) == 1
    assert await browser.bridge.position() == Decimal("0.01")
    assert (await browser.post("/log/01ARZ3NDEKTSV4RRFFQ69G5FAV/dry-run", key=key))[0] == 404
