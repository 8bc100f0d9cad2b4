"""The settings of a webhook by form: what is changed, what is wrong, and what stays."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from kekbridge.admin.webhook_settings import LABELS, place_error, read_changes, settings_fields
from kekbridge.errors import ConfigError
from kekbridge.model import Limits, WebhookSettings
from kekbridge.store import webhooks
from kekbridge.webhooks.options import ROWS, text_of
from tests.admin.session import Browser

BEFORE = WebhookSettings(
    limits=Limits(max_order_size=Decimal(2), allowed_symbols=("PERP_BTC_USDC",)),
    locked={"quantity": "1"},
    alert_expires_at=datetime(2020, 1, 1, tzinfo=UTC),
)


def test_a_form_that_nobody_changed_changes_nothing() -> None:
    """Every setting, as it is shown, also an expiry that has passed since."""
    entered = {row.parameter: text_of(row, BEFORE).replace("\n", "\r\n") for row in ROWS}
    assert read_changes(entered, BEFORE) == ({}, {})


@pytest.mark.parametrize(
    ("parameter", "text", "given"),
    [
        ("max_order_size", " 0.5 ", "0.5"),
        ("max_order_size", "", "none"),
        ("require_stop_loss", "yes", True),
        ("lock", "quantity=1\r\nsymbol=BTCUSDT.P\r\n", ["quantity=1", "symbol=BTCUSDT.P"]),
        ("lock", "", ["none"]),
        ("profile", "traderspost", "traderspost"),
    ],
)
def test_an_entry_is_an_option_of_the_command(parameter: str, text: str, given: object) -> None:
    """An emptied field removes a limit; a switch and a list have their own types."""
    assert read_changes({parameter: text}, BEFORE) == ({parameter: given}, {})


def test_all_wrong_entries_are_named_at_once() -> None:
    """By field, in the words of the command line without its options; what is right is not lost."""
    entered = {
        "max_order_size": "1 BTC",
        "daily_orders": "7",
        "cooldown": "soon",
        "rate_per_minute": "",
        "lock": "quantity",
    }
    changes, errors = read_changes(entered, BEFORE)
    assert changes == {"daily_orders": "7"}
    assert errors.keys() == {"max_order_size", "cooldown", "rate_per_minute", "lock"}
    assert errors["max_order_size"] == "Found '1 BTC', expected a positive decimal number such as 1.5"


def test_an_error_of_the_operation_finds_its_field() -> None:
    """Under the field if the form has it, else at the top, with labels either way."""
    error = ConfigError(
        "--min-order-size 5 is larger than --max-order-size 2; no order could pass", field="min_order_size"
    )
    text = "“Smallest order (coins)” 5 is larger than “Largest order (coins)” 2; no order could pass"
    assert place_error(error, {"min_order_size"}) == ({"min_order_size": text}, [])
    assert place_error(error, {"max_order_size"}) == ({}, [text])
    assert set(LABELS) == {row.option for row in ROWS}


def test_unusual_settings_are_folded_unless_one_is_wrong() -> None:
    """An error inside a closed fold would not be seen."""
    assert "<details class" in str(settings_fields(ROWS, BEFORE, {}, {}))
    opened = str(settings_fields(ROWS, BEFORE, {"cooldown": "soon"}, {"cooldown": "wrong"}))
    assert "<details open" in opened
    assert 'value="soon"' in opened


async def test_a_refused_form_is_shown_again(browser: Browser) -> None:
    """422 with what was entered and the message under its field, nothing saved; corrected, it is saved. A contradiction likewise."""
    key = await browser.log_in()
    database = browser.bridge.daemon.database
    webhook = await database.read(webhooks.find, "main")
    base = f"/webhooks/{webhook.id}"
    entered = {"max_order_size": "1 BTC", "daily_orders": "7", "allowed_symbols": "BTC"}
    status, page = await browser.post(f"{base}/limits", key=key, **entered)
    assert status == 422
    for words in (
        "1 field is wrong",
        'value="1 BTC"',
        'value="7"',
        "expected a positive decimal number",
        'data-unsaved="changed"',
    ):
        assert words in page
    assert (await database.read(webhooks.get, webhook.id)).settings == webhook.settings
    status, page = await browser.post(
        f"{base}/limits", key=key, **{**entered, "max_order_size": "0.5", "min_order_size": "2"}
    )
    assert (status, "“Smallest order (coins)” 2 is larger than" in page) == (422, True)
    status, page = await browser.post(f"{base}/limits", key=key, allowed_symbols="NOPE")
    assert (status, "The exchange has no market NOPE" in page) == (422, True)
    assert (await browser.post(f"{base}/limits", key=key, **{**entered, "max_order_size": "0.5"}))[0] == 303
    limits = (await database.read(webhooks.get, webhook.id)).settings.limits
    assert (str(limits.max_order_size), limits.daily_orders, limits.allowed_symbols) == ("0.5", 7, ("PERP_BTC_USDC",))
    assert "Saved." in await browser.page(f"{base}/limits?saved=1")
    assert (await browser.post(f"{base}/message", key=key, profile="traderspost", require_signature="yes"))[0] == 303
    settings = (await database.read(webhooks.get, webhook.id)).settings
    assert (settings.profile, settings.require_signature, settings.limits) == ("traderspost", True, limits)
