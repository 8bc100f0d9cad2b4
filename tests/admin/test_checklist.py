"""The checklist of a first visit, in the browser: it ticks itself, and goes when it is done or dismissed."""

from __future__ import annotations

from tests.admin.session import Browser


async def test_the_order_on_paper_ticks_its_step(browser: Browser) -> None:
    """The button sends an alert that is filled, leads to its story, and the step is ticked; dismissed, the list is gone for good."""
    key = await browser.log_in()
    page = await browser.page("/")
    assert "First steps" in page
    assert page.count("✓") == 1  # the webhook of the test has other limits than a new one
    async with browser.session.post(f"{browser.url}/checklist/try", data={"key": key}, allow_redirects=False) as answer:
        assert answer.status == 303
        story = answer.headers["Location"]
    assert "filled" in await browser.page(story)
    page = await browser.page("/")
    assert page.count("✓") == 2
    assert "Buy the smallest size on paper" not in page
    assert (await browser.post("/checklist/dismiss", key=key))[0] == 303
    assert "First steps" not in await browser.page("/")


async def test_an_order_that_is_not_filled_is_explained(browser: Browser) -> None:
    """Halted, the page says why nothing was bought."""
    key = await browser.log_in()
    await browser.post("/trading/halt", key=key)
    status, page = await browser.post("/checklist/try", key=key)
    assert status == 200
    assert "trading_halted" in page
