"""The Test tab: a pasted message is explained and decided in place; in paper mode it can be sent."""

from __future__ import annotations

from kekbridge.store import alerts, webhooks
from tests.admin.session import Browser


async def test_a_pasted_message(browser: Browser) -> None:
    """Explained, as hostile as it may be, with a dry run's verdict and the placeholders to change; nothing is stored. Sent on paper."""
    key = await browser.log_in()
    database = browser.bridge.daemon.database
    path = f"/webhooks/{(await database.read(webhooks.find, 'main')).id}/test"
    assert "Check as a dry run" in await browser.page(path)
    hostile = '{"ticker":"BTC<b>","action":"buy","quantity":1,"stopLoss":{"percent":5}}'
    status, page = await browser.post(path, key=key, message=hostile)
    assert status == 200
    assert "It looks like a message of TradersPost" in page
    assert "did you mean symbol?" in page
    assert "BTC&lt;b&gt;" in page
    assert "BTC<b>" not in page
    status, page = await browser.post(path, key=key, message='{"action":"close_all","timestamp":"{{timenow}}"}')
    assert (status, "close every open position" in page) == (200, True)
    order = '{"action":"buy","symbol":"{{ticker}}","quantity":"{{plot_0}}","timestamp":"{{timenow}}"}'
    status, page = await browser.post(path, key=key, message=order)
    assert "It would be refused" in page
    assert 'name="value:plot_0" aria' not in page
    assert 'name="value:plot_0"' in page
    status, page = await browser.post(path, key=key, message=order, **{"value:plot_0": "0.02"})
    assert "It would be accepted: buy 0.02 BTC as a market order, about 1300 USDC." in page
    assert "rules passed" in page
    assert (await database.read(alerts.search)).alerts == ()
    status, page = await browser.post(path, key=key, message=order, send="1", **{"value:plot_0": "0.02"})
    (alert,) = (await database.read(alerts.search)).alerts
    assert "Sent on paper: HTTP 200" in page
    assert f"/log/{alert.id}" in page


async def test_what_is_no_message(browser: Browser) -> None:
    """Nothing, too much and something else get one line under the field; another key is named."""
    key = await browser.log_in()
    path = f"/webhooks/{(await browser.bridge.daemon.database.read(webhooks.find, 'main')).id}/test"
    status, page = await browser.post(path, key=key, message="  ")
    assert (status, "Found nothing, expected the text of an alert" in page) == (422, True)
    status, page = await browser.post(path, key=key, message="x" * 20_000)
    assert (status, "Found 20,000 characters" in page) == (422, True)
    status, page = await browser.post(path, key=key, message="buy BTC")
    assert (status, "It would be refused:" in page) == (200, True)
    status, page = await browser.post(path, key=key, message='{"apiKey":"wh_test_nobody123456","action":"ping"}')
    assert (status, "its key is unknown, expired or revoked" in page) == (200, True)
