"""Tells the trader: reads the history behind the trading, turns what matters into words, and sends them to every channel once.

The outbox is the hash-chained history itself, with one cursor per channel in the store: nothing is added to the way of an order, a
channel that is down gets everything later, and a restart forgets nothing. Addresses of channels are secrets: they live in the vault.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from kekbridge.errors import KekbridgeError, StoreUnavailable
from kekbridge.log import get_logger
from kekbridge.model.notifications import MESSAGES, SEVERITIES, Severity, render_notification
from kekbridge.store import events, settings
from kekbridge.store import orders as order_rows
from kekbridge.store.database import Database
from kekbridge.store.events import Event

log = get_logger("kekbridge.ops.notifier")

NOTIFY_URLS: Final = "notify-urls"
"""The vault's name for the channels: apprise URLs, one a line."""

_LOOK_EVERY_S: Final = 1.0
_LONGEST_SEND_S: Final = 30.0
_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 300.0
_LAST_WORDS_S: Final = 3.0
_LINES_A_MESSAGE: Final = 20
_EVENTS_A_LOOK: Final = 200


@dataclass(frozen=True, slots=True)
class Channel:
    """One place to send to. Its URL holds a secret: shown by `name` only, the scheme and a fingerprint."""

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.url.partition(':')[0]}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    def send(self, title: str, body: str, severity: Severity) -> bool:
        """Deliver now; blocks for seconds at worst. False when the channel did not take it."""
        import apprise  # imported here: a second of loading that only those pay who are told something

        target = apprise.Apprise()
        if not target.add(self.url):
            return False
        return bool(
            target.notify(
                title=title,
                body=body,
                notify_type=apprise.NotifyType(severity),
                body_format=apprise.NotifyFormat.TEXT,  # or a market's name could be taken for markup by the channel
            )
        )


def channels_of(stored: bytes | None) -> tuple[Channel, ...]:
    """The channels in a vault's secret: one URL a line, empty lines and # comments left out."""
    lines = (line.strip() for line in (stored or b"").decode("utf-8", "replace").splitlines())
    return tuple(dict.fromkeys(Channel(line) for line in lines if line and not line.startswith("#")))


class Notifier:
    """One per daemon: a task and a thread per channel, none of which anything else waits for."""

    def __init__(
        self,
        database: Database,
        channels: Sequence[Channel],
        *,
        clock: Callable[[], datetime],
        mute: Sequence[str] = (),
        least: Severity = "info",
        digest_s: float = 0.0,
        templates: Mapping[str, str] | None = None,
    ) -> None:
        """`mute`: event kinds that are not told; `least`: the lowest severity that is; `digest_s`: collect so long into one message;
        `templates`: the trader's own words by event kind."""
        self._database = database
        self._channels = tuple(channels)
        self._clock = clock
        self._mute = frozenset(mute)
        self._least = SEVERITIES.index(least)
        self._digest_s = digest_s
        self._templates = dict(templates or {})
        self._threads = ThreadPoolExecutor(max(1, len(self._channels)), thread_name_prefix="kekbridge-notify")

    async def run(self) -> None:
        """For ever: tell every channel what is new. Cancelling it loses nothing: the cursor moves after a delivery only."""
        try:
            async with asyncio.TaskGroup() as group:
                for channel in self._channels:
                    group.create_task(self._serve(channel))
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, channel: Channel) -> None:
        failures = 0
        while True:
            try:
                told = await self._finish(asyncio.create_task(self._tell(channel)))
                if told is False:
                    failures += 1
                    log.warning("notification_not_delivered", channel=channel.name, attempt=failures)
                elif told:
                    failures = 0
            except StoreUnavailable as error:
                log.warning("notifications_not_readable", error=error.message)
            except Exception:
                failures += 1
                log.exception("notifications_failed", channel=channel.name)  # never the end of the daemon
            pause = min(_FIRST_PAUSE_S * 2 ** (failures - 1), _LONGEST_PAUSE_S) if failures else _LOOK_EVERY_S
            await asyncio.sleep(max(pause, self._digest_s))

    @staticmethod
    async def _finish(telling: asyncio.Task[bool | None]) -> bool | None:
        """At a stop a delivery under way gets a moment to be noted: else the next start would tell it again."""
        try:
            return await asyncio.shield(telling)
        except asyncio.CancelledError:
            await asyncio.wait({telling}, timeout=_LAST_WORDS_S)
            telling.cancel()
            raise

    async def _tell(self, channel: Channel) -> bool | None:
        """Deliver the next batch. True: delivered; False: the channel refused; None: nothing to tell."""
        key = f"notified:{channel.name}"
        last, lines = await self._database.read(self._next, key)
        if last is None:
            return None
        is_delivered: bool | None = None
        if lines:
            worst = SEVERITIES[max(SEVERITIES.index(severity) for severity, _ in lines)]
            # The line itself is the message: a title that repeats it would be read twice on a phone.
            title = worst if len(lines) == 1 else f"{len(lines)} messages"
            body = "\n".join(text for _, text in lines)
            is_delivered = await self._send(channel, f"kekbridge: {title}", body, worst)
            if not is_delivered:
                return False
        await self._database.write(settings.set_value, key, last, now=self._clock())
        return is_delivered

    async def _send(self, channel: Channel, title: str, body: str, severity: Severity) -> bool:
        loop = asyncio.get_running_loop()
        sending = loop.run_in_executor(self._threads, channel.send, title[:120], body, severity)
        try:
            return await asyncio.wait_for(sending, _LONGEST_SEND_S)
        except TimeoutError:
            return False
        except Exception as error:
            # A plugin's own fault, whose text may hold the URL: its kind alone is told.
            log.warning("notification_failed", channel=channel.name, error=type(error).__name__)
            return False

    def _next(self, connection: sqlite3.Connection, key: str) -> tuple[int | None, list[tuple[Severity, str]]]:
        """The sequence to move the cursor to (None: stay) and the lines up to it. A new channel starts with what comes next."""
        cursor = settings.get_value(connection, key)
        if cursor is None:
            return events.head(connection)[0], []
        found = events.list_events(connection, after=int(cursor), limit=_EVENTS_A_LOOK)
        lines: list[tuple[Severity, str]] = []
        last = None
        for event in found:
            last = event.sequence
            said = None if event.kind in self._mute else self._words(connection, event)
            if said is not None and SEVERITIES.index(said[0]) >= self._least:
                lines.append(said)
                if len(lines) == _LINES_A_MESSAGE:
                    break
        return last, lines

    def _words(self, connection: sqlite3.Connection, event: Event) -> tuple[Severity, str] | None:
        if event.kind not in MESSAGES:
            return None
        facts = {**order_facts(connection, event), **event.data, "at": event.at}
        return render_notification(event.kind, facts, self._templates)


def order_facts(connection: sqlite3.Connection, event: Event) -> dict[str, Any]:
    """The order that an event is about, as fields for the words."""
    if event.client_order_id is None:
        return {}
    try:
        order = order_rows.get(connection, event.client_order_id)
    except KekbridgeError:
        return {}
    intent = order.intent
    names = ("executed_quantity", "average_price", "code", "error")
    shown = {name: getattr(order, name) for name in names}
    of_intent = {"symbol": intent.symbol, "side": intent.side.value.lower(), "quantity": intent.quantity}
    return {"client_order_id": order.client_order_id} | of_intent | shown
