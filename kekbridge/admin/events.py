"""Server-sent events for the pages: rows of the history as they are written, and that something else on the pages has changed.

The id of a `history` event is its sequence in the journal, so that a browser that connects again (Last-Event-ID) misses nothing. Each
stream polls the store by two indexed look-ups; there is no queue that a slow reader could fill.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from kekbridge.admin.json_requests import error_response
from kekbridge.errors import StoreUnavailable
from kekbridge.formatting import to_jsonable
from kekbridge.store import journal
from kekbridge.store.database import ReadsForPeople
from kekbridge.store.journal import Event

_MOST_STREAMS: Final = 16
_POLL_S: Final = 0.3
# Marks move all the time; a page is not loaded again for each.
_STATE_EVERY_S: Final = 5.0
# More than this is not sent row by row: loading the page again is cheaper.
_MOST_ROWS: Final = 500
_SEND_WITHIN_S: Final = 10.0
_PING_EVERY_S: Final = 15.0


class EventStreams:
    """The open streams of one admin server."""

    def __init__(
        self, database: ReadsForPeople, live_state: Callable[[], object], *, most: int = _MOST_STREAMS
    ) -> None:
        """`live_state`: what pages show besides the store; a new value is an event. `most`: streams open at a time."""
        self._database = database
        self._live_state = live_state
        self._most = most
        self._open: set[asyncio.Transport] = set()
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every stream within a moment, and open no more."""
        self._closing.set()

    async def serve(self, request: web.Request, is_allowed: Callable[[], bool]) -> web.StreamResponse:
        """Send events until the browser goes, `is_allowed` is False or the server closes. 429 if too many streams are open.

        `history`: a row of the journal, with its sequence as id. `reset`: rows were left out, load everything again. `state`: something
        else changed. A stream begins after the header Last-Event-ID or the parameter `after`, else with the next row.
        """
        self._open = {each for each in self._open if not each.is_closing()}
        transport = request.transport
        if transport is None or self._closing.is_set() or len(self._open) >= self._most:
            text = f"{len(self._open)} event streams are open, at most {self._most} can be; close one"
            return error_response(429, "too_many_streams", text)
        position, version = self._database.read_now(_position)
        stream = EventSourceResponse(send_timeout=_SEND_WITHIN_S, ping_interval=_PING_EVERY_S)
        self._open.add(transport)
        try:
            with suppress(ConnectionError, TimeoutError):  # the browser is gone, or reads too slowly
                await stream.prepare(request)
                async with stream:
                    sent = await self._begin(stream, request, position)
                    await self._send_events(
                        stream, lambda: not transport.is_closing() and is_allowed(), sent=sent, version=version
                    )
        finally:
            self._open.discard(transport)
        return stream

    async def _send_events(
        self, stream: EventSourceResponse, goes_on: Callable[[], bool], *, sent: int, version: int
    ) -> None:
        """Until `goes_on` is False or the server closes. `sent`: the last row that the browser knows; `version`: of the store then."""
        loop = asyncio.get_running_loop()
        state, state_at = (version, self._live_state()), loop.time()
        while goes_on() and not self._closing.is_set():
            with suppress(StoreUnavailable):
                position, version = self._database.read_now(_position)
                if position != sent:
                    sent = await self._send_rows(stream, after=sent, last=position)
                now = (version, self._live_state())
                if now != state and loop.time() >= state_at + _STATE_EVERY_S:
                    await stream.send("{}", event="state")
                    state, state_at = now, loop.time()
            await self._pause()

    async def _begin(self, stream: EventSourceResponse, request: web.Request, position: int) -> int:
        """Return after which row the stream begins; `reset` if that is not known here, as after a restored backup."""
        given = stream.last_event_id or request.query.get("after")
        if given is None:
            return position
        if given.isascii() and given.isdigit() and len(given) < 20 and int(given) <= position:
            return int(given)
        await stream.send("{}", event="reset", id=str(position))
        return position

    async def _send_rows(self, stream: EventSourceResponse, *, after: int, last: int) -> int:
        """Send what follows a row; return the sequence of the last row sent."""
        rows: Sequence[Event] = ()
        if after < last <= after + _MOST_ROWS:
            rows = await self._database.read(journal.list_events, after=after, limit=_MOST_ROWS)
        if not rows:
            await stream.send("{}", event="reset", id=str(last))
            return last
        for row in rows:
            data = {
                "kind": row.kind,
                "at": to_jsonable(row.at),
                "alertId": row.alert_id,
                "clientOrderId": row.client_order_id,
            }
            await stream.send(json.dumps(data), event="history", id=str(row.sequence))
        return rows[-1].sequence

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                await self._closing.wait()


def _position(connection: sqlite3.Connection) -> tuple[int, int]:
    """Sequence of the journal's last row, and a number that changes whenever anything is written."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return journal.head(connection)[0], version
