"""Server-sent events of the admin listener."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from yarl import URL

from kekbridge.admin import events
from kekbridge.ops.web_token import rotate_token
from kekbridge.store import journal
from tests.admin.session import Browser
from tests.waiting import until


@dataclass
class Stream:
    """An open event stream."""

    answer: aiohttp.ClientResponse

    async def next(self, name: str = "") -> dict[str, str]:
        """The next event, or the next one of a name, by its fields."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(30):
            async for line in self.answer.content:
                text = line.decode().rstrip("\r\n")
                if text.startswith(":"):
                    continue
                if text:
                    field, _, fields[field] = text.partition(": ")
                elif fields and name in ("", fields.get("event")):
                    return fields
                else:
                    fields = {}
        raise EOFError

    async def ends(self) -> bool:
        """Read to the end, within 30 s."""
        async with asyncio.timeout(30):
            await self.answer.content.read()
        return True


@asynccontextmanager
async def stream(
    browser: Browser, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Stream]:
    """Open a stream: of the session, or of the headers' bearer token."""
    async with browser.session.get(f"{browser.url}/api/events", params=query or {}, headers=headers or {}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        yield Stream(answer)


def bearer(browser: Browser) -> dict[str, str]:
    return {"Authorization": f"Bearer {browser.token}"}


async def head(browser: Browser) -> int:
    """Sequence of the last row of the history."""
    return (await browser.bridge.daemon.database.read(journal.head))[0]


async def test_events_follow_the_history(browser: Browser) -> None:
    """Each row of the journal is one event with its sequence as id; a stream that begins after a row gets exactly what follows it."""
    async with browser.session.get(f"{browser.url}/api/events") as answer:
        assert answer.status == 401
    start = await head(browser)
    async with stream(browser, headers=bearer(browser)) as live:
        await browser.bridge.send(action="buy", quantity="0.01")
        await browser.bridge.until_settled()
        first = await live.next("history")
        assert int(first["id"]) == start + 1
        data = json.loads(first["data"])
        assert (data["kind"], set(data)) == ("alert_admitted", {"kind", "at", "alertId", "clientOrderId"})
    last = await head(browser)
    rows = await browser.bridge.daemon.database.read(journal.list_events, after=start)
    for query, last_id in (({"after": str(start)}, {}), ({"after": "0"}, {"Last-Event-ID": str(start)})):
        async with stream(browser, query, bearer(browser) | last_id) as again:
            seen = [await again.next() for _ in range(last - start)]
        assert [(int(one["id"]), json.loads(one["data"])["kind"]) for one in seen] == [
            (row.sequence, row.kind) for row in rows[: last - start]
        ]


@pytest.mark.parametrize("after", ["999999999", "-1", "x", "0"])
async def test_a_stream_that_cannot_go_on_begins_with_a_reset(
    browser: Browser, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id from another database, an unreadable one, or too many rows: load everything again. The stream goes on from the present."""
    monkeypatch.setattr(events, "_MOST_ROWS", 1)
    await browser.bridge.send(action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    async with stream(browser, headers=bearer(browser) | {"Last-Event-ID": after}) as live:
        found = await live.next()
        assert (found["event"], found["data"]) == ("reset", "{}")
        assert int(found["id"]) >= 2


async def test_what_is_not_in_the_history_is_a_state(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new mark price of a position, and any other write to the store, are an event without an id."""
    monkeypatch.setattr(events, "_STATE_EVERY_S", 0.0)
    await browser.bridge.send(action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    async with stream(browser, headers=bearer(browser)) as live:
        await browser.bridge.control("prices", {"PERP_BTC_USDC": "66000"})
        await browser.bridge.daemon.exchange.refresh()
        found = await live.next("state")
        assert "id" not in found


async def test_a_stream_ends_with_its_session(browser: Browser) -> None:
    """Signing out and a new token end it; another one is not opened then."""
    key = await browser.log_in()
    async with stream(browser) as first:
        await browser.post("/logout", key=key)
        assert await first.ends()
    await browser.log_in()
    async with stream(browser) as second, stream(browser, headers=bearer(browser)) as third:
        rotate_token(browser.bridge.data_dir)
        assert await second.ends()
        assert await third.ends()
    async with browser.session.get(f"{browser.url}/api/events") as answer:
        assert answer.status == 401


async def test_a_reader_that_is_too_slow_is_dropped(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that does not read is dropped after a while, and makes room for another one."""
    monkeypatch.setattr(events, "_MOST_ROWS", 1_000_000)
    monkeypatch.setattr(events, "_SEND_WITHIN_S", 3.0)

    def write_rows(connection: sqlite3.Connection) -> None:
        for _ in range(40):  # more than the buffers of a connection hold
            journal.append(connection, "k" * 200_000, now=browser.bridge.clock())

    start = await head(browser)
    await browser.bridge.daemon.database.write(write_rows)
    url = URL(browser.url)
    opened = [await browser.session.get(f"{browser.url}/api/events", headers=bearer(browser)) for _ in range(15)]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((url.host, url.port))
        client.sendall(
            f"GET /api/events?after={start} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
            f"Authorization: Bearer {browser.token}\r\n\r\n".encode()
        )

        async def is_free() -> bool:
            answer = await browser.session.get(f"{browser.url}/api/events", headers=bearer(browser))
            opened.append(answer)
            return answer.status == 200

        await until(is_free)
    assert opened[15].status == 429
    for one in opened:
        one.close()


async def test_streams_are_bounded_and_end_at_a_stop(browser: Browser) -> None:
    """The 17th is refused until another one is closed; a stop of the daemon ends them without waiting for the browsers."""
    await browser.log_in()
    opened = [await browser.session.get(f"{browser.url}/api/events") for _ in range(16)]
    assert {one.status for one in opened} == {200}
    async with browser.session.get(f"{browser.url}/api/events") as refused:
        assert refused.status == 429
        found = await refused.json()
        assert (found["code"], "16" in found["error"], found["field"]) == ("too_many_streams", True, None)
    opened.pop().close()

    async def is_free() -> bool:
        answer = await browser.session.get(f"{browser.url}/api/events")
        opened.append(answer)
        return answer.status == 200

    await until(is_free)
    await browser.bridge.daemon.operator_services.stop()
    for one in opened:
        assert await Stream(one).ends()
