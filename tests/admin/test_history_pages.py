"""The page of the history: conditions with what to do, events by 50 with filters."""

from __future__ import annotations

import re
from datetime import timedelta

from kekbridge.store import conditions, journal
from tests.admin.session import Browser


async def test_events_page_back_by_fifty(browser: Browser) -> None:
    """Newest first; every event is on exactly one page; outside text is no markup."""
    await browser.log_in()
    database, now = browser.bridge.daemon.database, browser.bridge.clock()
    for number in range(120):
        data = {"lasting": f"{number} s", "detail": "<b>"}
        await database.write(journal.append, "exchange_down", now=now - timedelta(days=9), data=data)
    seen: list[int] = []
    path = "/history?kind=exchange_down"
    while path:
        page = await browser.page(path)
        assert "<b>" not in page.replace("<b>kekbridge</b>", "")
        found = [int(number) for number in re.findall(r'<tr id="event-(\d+)"', page)]
        assert 0 < len(found) <= 50
        seen += found
        older = re.search(r'href="(/history\?[^"]*before=[^"]*)" class="button" rel="next"', page)
        path = older[1].replace("&amp;", "&") if older else ""
    assert len(seen) == 120
    assert seen == sorted(seen, reverse=True)
    assert "No such events" in await browser.page("/history?kind=exchange_down&days=7")


async def test_filters_and_conditions(browser: Browser) -> None:
    """What is wrong now is on top with what to do; trouble and bridge leave out what is neither; an unknown kind is named."""
    await browser.log_in()
    assert "Nothing is wrong" in await browser.page("/history")
    await browser.bridge.send()
    await browser.bridge.until_settled()
    database = browser.bridge.daemon.database
    await database.write(
        conditions.begin, "disk", "disk_low", now=browser.bridge.clock(), data={"free": "1 MB", "place": "/"}
    )
    everything, trouble = await browser.page("/history"), await browser.page("/history?show=trouble")
    assert "Free space on that disk" in everything
    assert ">order filled</td>" in everything
    assert ">alert admitted</td>" not in everything
    assert ">alert admitted</td>" in await browser.page("/history?show=all")
    assert ">order filled</td>" not in trouble
    assert ">disk low</td>" in trouble
    assert ">alert admitted</td>" not in await browser.page("/history?show=bridge")
    assert "there is no Event" in await browser.page("/history?kind=streamdown")
    await browser.page("/history?before=x&days=x&show=x")
