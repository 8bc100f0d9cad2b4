"""Notifier: read new history events, turn them into messages, and deliver each to every channel once.

The history is the outbox, with one cursor per channel in the store: orders pay nothing for it, a channel that was down gets everything
later, and a restart loses nothing. Channel URLs are secrets and live in the vault.
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
from kekbridge.store import journal, settings
from kekbridge.store import orders as order_rows
from kekbridge.store.database import Database
from kekbridge.store.journal import Event

log = get_logger("kekbridge.ops.notifier")

#: Name of the vault secret with the channels: apprise URLs, one per line.
NOTIFY_URLS: Final = "notify-urls"

_POLL_EVERY_S: Final = 1.0
_SEND_TIMEOUT_S: Final = 30.0
_FIRST_RETRY_S: Final = 2.0
_MAX_RETRY_S: Final = 300.0
_STOP_TIMEOUT_S: Final = 3.0
_MAX_LINES: Final = 20
_EVENTS_PER_POLL: Final = 200
# Figures of an order that change in its life.
_FIGURES: Final = ("executed_quantity", "average_price", "code", "error")


@dataclass(frozen=True, slots=True)
class Channel:
    """One destination of notifications."""

    #: apprise URL. It contains a secret: show `name` instead.
    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """The scheme and a fingerprint of the URL."""
        return f"{self.url.partition(':')[0]}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    def send(self, title: str, body: str, severity: Severity) -> bool:
        """Deliver a message; False if the channel did not accept it. Blocks for up to some seconds."""
        import apprise  # late: it takes a second to load

        target = apprise.Apprise()
        if not target.add(self.url):
            return False
        return bool(
            target.notify(
                title=title,
                body=body,
                notify_type=apprise.NotifyType(severity),
                body_format=apprise.NotifyFormat.TEXT,  # else the channel could take text for markup
            )
        )


def channels_of(stored: bytes | None) -> tuple[Channel, ...]:
    """Parse the vault secret: one URL per line; empty lines and # comments are ignored."""
    lines = (line.strip() for line in (stored or b"").decode("utf-8", "replace").splitlines())
    return tuple(dict.fromkeys(Channel(line) for line in lines if line and not line.startswith("#")))


class Notifier:
    """Delivers to all channels, with a task and a thread for each; nothing waits for them. One per daemon."""

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
        """`mute`: event kinds that are not sent; `least`: lowest severity that is sent; `digest_s`: seconds between two messages, which
        collect all events meanwhile; `templates`: custom texts by event kind."""
        self._database = database
        self._channels = tuple(channels)
        self._clock = clock
        self._mute = frozenset(mute)
        self._least = SEVERITIES.index(least)
        self._digest_s = digest_s
        self._templates = dict(templates or {})
        self._threads = ThreadPoolExecutor(max(1, len(self._channels)), thread_name_prefix="kekbridge-notify")

    async def run(self) -> None:
        """Deliver until cancelled. Cancelling loses nothing: the cursor moves only after a delivery."""
        try:
            async with asyncio.TaskGroup() as group:
                for channel in self._channels:
                    group.create_task(self._serve(channel))
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def send_now(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Deliver one event past the journal, once and without a retry: for when the store cannot be used."""
        line = render_notification(kind, {**facts, "at": self._clock()}, self._templates)
        if line is None or kind in self._mute or SEVERITIES.index(line[0]) < self._least:
            return
        for channel in self._channels:
            await self._send(channel, f"kekbridge: {line[0]}", line[1], line[0])

    async def _serve(self, channel: Channel) -> None:
        failures = 0
        while True:
            try:
                is_delivered = await self._finish(asyncio.create_task(self._deliver(channel)))
                if is_delivered is False:
                    failures += 1
                    log.warning("notification_not_delivered", channel=channel.name, attempt=failures)
                elif is_delivered:
                    failures = 0
            except StoreUnavailable as error:
                log.warning("notifications_not_readable", error=error.message)
            except Exception:
                failures += 1
                log.exception("notifications_failed", channel=channel.name)  # must not end the daemon
            pause = min(_FIRST_RETRY_S * 2 ** (failures - 1), _MAX_RETRY_S) if failures else _POLL_EVERY_S
            await asyncio.sleep(max(pause, self._digest_s))

    @staticmethod
    async def _finish(delivery: asyncio.Task[bool | None]) -> bool | None:
        """Wait for a delivery. When cancelled, give it 3 s to be recorded, else the next start would send it again."""
        try:
            return await asyncio.shield(delivery)
        except asyncio.CancelledError:
            await asyncio.wait({delivery}, timeout=_STOP_TIMEOUT_S)
            delivery.cancel()
            raise

    async def _deliver(self, channel: Channel) -> bool | None:
        """Deliver the next batch. True: delivered; False: the channel did not accept it; None: nothing to send."""
        key = f"notified:{channel.name}"
        last, lines = await self._database.read(self._next, key)
        if last is None:
            return None
        is_delivered: bool | None = None
        if lines:
            worst = SEVERITIES[max(SEVERITIES.index(severity) for severity, _ in lines)]
            # A title that repeated the line would be shown twice on a phone.
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
            return await asyncio.wait_for(sending, _SEND_TIMEOUT_S)
        except TimeoutError:
            return False
        except Exception as error:
            # The text of a plugin's error may contain the URL: only its type is logged.
            log.warning("notification_failed", channel=channel.name, error=type(error).__name__)
            return False

    def _next(self, connection: sqlite3.Connection, key: str) -> tuple[int | None, list[tuple[Severity, str]]]:
        """The new cursor (None: no change) and the lines up to it. A new channel starts with the next event."""
        cursor = settings.get_value(connection, key)
        if cursor is None:
            return journal.head(connection)[0], []
        newest = journal.head(connection)[0]
        if newest <= int(cursor):
            return None, []
        wanted = [kind for kind in MESSAGES if kind not in self._mute]
        found = journal.list_events(connection, after=int(cursor), kinds=wanted, limit=_EVENTS_PER_POLL)
        lines: list[tuple[Severity, str]] = []
        last = newest if len(found) < _EVENTS_PER_POLL else found[-1].sequence
        for event in found:
            line = self._line(connection, event)
            if line is not None and SEVERITIES.index(line[0]) >= self._least:
                lines.append(line)
                if len(lines) == _MAX_LINES:
                    last = event.sequence
                    break
        return last, lines

    def _line(self, connection: sqlite3.Connection, event: Event) -> tuple[Severity, str] | None:
        if event.kind == "order_filled" and _is_told_as_fired(connection, event):
            return None
        if event.data.get("quiet"):
            return None  # published within the hour (store/protection.py)
        facts = {**order_facts(connection, event), **event.data, "at": event.at}
        return render_notification(event.kind, facts, self._templates)


def _is_told_as_fired(connection: sqlite3.Connection, event: Event) -> bool:
    """True for the fill of a stop or take-profit: an event of its own tells it."""
    order = None if event.client_order_id is None else order_rows.find(connection, event.client_order_id)
    return order is not None and order.intent.fired_event is not None


def order_facts(connection: sqlite3.Connection, event: Event) -> dict[str, Any]:
    """Fields of the order that an event is about, as they were then, for its message; empty without one."""
    if event.client_order_id is None:
        return {}
    try:
        order = order_rows.get(connection, event.client_order_id)
    except KekbridgeError:
        return {}
    facts = {
        "client_order_id": order.client_order_id,
        "symbol": order.intent.symbol,
        "side": order.intent.side.value.lower(),
    }
    figures = journal.order_figures(connection, event)
    if figures is None:  # from before the journal: only what became of the order is known
        return facts | {"quantity": order.intent.quantity} | {name: getattr(order, name) for name in _FIGURES}
    return facts | {name: figures.get(name) for name in ("quantity", *_FIGURES)}
