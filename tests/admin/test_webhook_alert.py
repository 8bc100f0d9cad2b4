"""The message builder: each kind has its fields, what is wrong is under its field, what is built is what the command prints."""

from __future__ import annotations

import html
import re

import pytest

from kekbridge.admin.webhook_alert import entries_of, parameter_of, place_template_error, words_of
from kekbridge.alerts.template import EXPLAINED, KINDS, PARAMETERS
from kekbridge.ops.webhook_operations import EditWebhook, MakeTemplate
from kekbridge.store import webhooks
from tests.admin.session import Browser


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_is_a_message(kind: str) -> None:
    """What a kind does not take is left out, as are empty fields; a value is bounded."""
    query = {name: "1" for names in PARAMETERS.values() for name in names} | {
        "comment": "x" * 1000,
        "symbol": " ",
        "other": "1",
    }
    found = entries_of(kind, query)
    assert found.keys() == set(PARAMETERS[kind]) - {"symbol"}
    assert len(found.get("comment", "")) in (0, 400)


@pytest.mark.parametrize("name", sorted({name for names in PARAMETERS.values() for name in names}))
def test_each_field_of_a_message_leads_to_its_input(name: str) -> None:
    """An error names the message's field: it is shown under the input that sets it."""
    (field,) = [one for one in EXPLAINED if parameter_of(one) == name]
    assert place_template_error(f"{field}: found 'x', expected y", field, "indicator") == (
        {name: "Found 'x', expected y"},
        [],
    )


def test_other_errors_stand_at_the_top() -> None:
    """With labels for options, and commands as they are."""
    assert place_template_error("use --stop-loss 2%", None, "strategy") == ({}, ["Use “Stop loss” 2%"])
    assert place_template_error("x", "stopLoss", "close") == ({}, ["X"])
    assert (
        words_of("add --max-quantity 5, or `kekbridge x --limit`") == "Add “Largest size” 5, or `kekbridge x --limit`"
    )


async def test_the_page_builds_what_the_command_prints(browser: Browser) -> None:
    """URL, QR code, message and warnings of the operation; a wrong field is marked, a value that cannot be pasted answers 422."""
    key = await browser.log_in()
    run, database = browser.bridge.daemon.operations.run, browser.bridge.daemon.database
    webhook = await database.read(webhooks.find, "main")
    base = f"/webhooks/{webhook.id}"

    def message_of(page: str) -> str:
        found = re.search(r'<pre id="message-text"[^>]*>(.*?)</pre>', page, re.DOTALL)
        assert found is not None
        return html.unescape(found[1])

    for kind in KINDS:
        made = await run(MakeTemplate(webhook="main", kind=kind))
        page = await browser.page(f"{base}?kind={kind}")
        assert message_of(page) == made["message"]
        assert html.escape(made["webhookUrl"]) in page
        assert ("Test it" in page) is (kind != "pine")
        assert ("Warning" in page) is (made["warning"] is not None)
    assert 'class="qr"' in page
    fields = {
        "action": "sell",
        "symbol": "BTCUSDT.P",
        "quantity": "0.02",
        "stop_loss": "2%",
        "take_profit": "2%:50,4%:50",
    }
    made = await run(MakeTemplate(webhook="main", kind="indicator", fields=fields))
    query = "kind=indicator&action=sell&symbol=BTCUSDT.P&quantity=0.02&stop_loss=2%25&take_profit=2%25%3A50,4%25%3A50"
    page = await browser.page(f"{base}?{query}")
    assert message_of(page) == made["message"]
    assert "Warning" not in page
    status, tested = await browser.post(f"{base}/test", key=key, message=message_of(page))
    assert (status, "It would be accepted: sell 0.02 BTC" in tested) == (200, True)
    page = await browser.page(f"{base}?kind=indicator&stop_loss=abc")
    assert "Found &#39;abc&#39;, expected a price" in page
    assert 'value="abc"' in page
    assert "Warning" in page
    page = await browser.page(f"{base}?kind=indicator&comment=it%27s", 422)
    assert "expected a printable text" in page
    assert 'value="it&#39;s"' in page
    assert "message-text" not in page
    await run(EditWebhook(webhook="main", options={"profile": "traderspost"}))
    page = await browser.page(f"{base}?kind=pine")
    assert "use “Message format” seed" in page
    assert "create a new one" not in page
    await run(EditWebhook(webhook="main", options={"profile": "seed"}))
    await run(EditWebhook(webhook="main", options={"key_in_path": True, "require_stop_loss": True}))
    page = await browser.page(f"{base}?kind=<b>x")
    assert "URL with the key" in page
    assert "add “Stop loss” 2%" in page
    assert "<b>x" not in page
