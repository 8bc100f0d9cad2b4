"""Notifier: read new history events, turn them into messages, and deliver each to every channel once; in quiet hours failures only.

The history is the outbox, with one cursor per channel in the store: orders pay nothing for it, a channel that was down gets everything
later, and a restart loses nothing. Channel URLs are secrets and live in the vault.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final

from kekbridge.config import Notify
from kekbridge.errors import StoreUnavailable
from kekbridge.formatting import clip_words
from kekbridge.formatting import clock as clock_time
from kekbridge.log import get_logger
from kekbridge.model import Mode
from kekbridge.model.notifications import SEVERITIES, NotificationText, Severity
from kekbridge.ops import notify_settings
from kekbridge.ops.notify_settings import NotifySettings
from kekbridge.reports.event_facts import event_facts, lacks_fills
from kekbridge.store import journal, projector, settings
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
_EVENTS_PER_DIGEST: Final = 5000
_LONGEST_TITLE: Final = 120
_SHOWS_TIME_AFTER: Final = timedelta(minutes=1)


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


@dataclass(frozen=True, slots=True)
class _Line:
    """One event that is to be sent."""

    kind: str
    at: datetime
    message: NotificationText


@dataclass(frozen=True, slots=True)
class _Delivery:
    """What is delivered next to a channel, and how far its cursors are afterwards."""

    lines: Sequence[_Line]
    #: By key of the store's settings.
    cursors: Mapping[str, int]
    #: What quiet hours have held back is among it.
    is_digest: bool = False


class Notifier:
    """Delivers to all channels, with a task and a thread for each; nothing waits for them. One per daemon."""

    def __init__(
        self,
        database: Database,
        channels: Sequence[Channel],
        *,
        mode: Mode,
        notify: Notify,
        clock: Callable[[], datetime],
    ) -> None:
        """`mode` is in front of each title; `notify`: its settings, over which what is stored takes precedence."""
        self._database = database
        self._channels = tuple(channels)
        self._prefix = f"[{mode.value.upper()}] "
        self._notify = notify
        self._clock = clock
        self._held: dict[
            str, set[int]
        ] = {}  # by channel: sequences of fills whose result was not known at the last poll
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
        now = self._clock()
        wanted = notify_settings.from_file(self._notify)
        message = wanted.message(kind, {**facts, "at": now})
        if message is not None:
            title, body = compose([_Line(kind, now, message)], self._prefix, now=now, zone=wanted.zone)
            for channel in self._channels:
                await self._send(channel, title, body, message.severity)

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
            await asyncio.sleep(max(pause, self._notify.digest_s))

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
        now = self._clock()
        wanted, batch = await self._database.read(self._next, channel.name, now=now)
        if batch is None:
            return None
        is_delivered: bool | None = None
        if batch.lines:
            title, body = compose(batch.lines, self._prefix, now=now, zone=wanted.zone, is_digest=batch.is_digest)
            is_delivered = await self._send(channel, title, body, _worst(batch.lines).message.severity)
            if not is_delivered:
                return False
        await self._database.write(_move, batch.cursors, now=self._clock())
        return is_delivered

    async def _send(self, channel: Channel, title: str, body: str, severity: Severity) -> bool:
        loop = asyncio.get_running_loop()
        sending = loop.run_in_executor(self._threads, channel.send, title, body, severity)
        try:
            return await asyncio.wait_for(sending, _SEND_TIMEOUT_S)
        except TimeoutError:
            return False
        except Exception as error:
            # The text of a plugin's error may contain the URL: only its type is logged.
            log.warning("notification_failed", channel=channel.name, error=type(error).__name__)
            return False

    def _next(
        self, connection: sqlite3.Connection, name: str, *, now: datetime
    ) -> tuple[NotifySettings, _Delivery | None]:
        """The settings in force and what is to be sent to a channel, None: nothing. A new channel starts with the next event."""
        wanted = notify_settings.read(connection, self._notify)
        key, ahead_key = f"notified:{name}", f"notified_ahead:{name}"
        cursor = settings.get_value(connection, key)
        self._held[name] = {sequence for sequence in self._held.get(name, ()) if sequence > int(cursor or 0)}
        newest = projector.position(connection)  # what messages name is in the tables up to there
        if cursor is None:
            return wanted, _Delivery((), {key: newest})
        # In quiet hours failures are sent ahead of what is held back.
        ahead = max(int(settings.get_value(connection, ahead_key) or 0), int(cursor))
        is_quiet = wanted.quiet_hours is not None and wanted.quiet_hours.contains(now)
        if is_quiet:
            lines, last = self._lines(connection, wanted, ahead, newest, only_failures=True)
            return wanted, None if last == ahead else _Delivery(lines, {ahead_key: last})
        if ahead > int(cursor):
            lines, last = self._lines(connection, wanted, int(cursor), newest, sent_failures_to=ahead, is_digest=True)
            return wanted, _Delivery(lines, {key: last}, is_digest=len(lines) > 1)
        lines, last = self._lines(connection, wanted, int(cursor), newest, held=self._held.setdefault(name, set()))
        return wanted, None if last == int(cursor) else _Delivery(lines, {key: last})

    def _lines(
        self,
        connection: sqlite3.Connection,
        wanted: NotifySettings,
        after: int,
        newest: int,
        *,
        only_failures: bool = False,
        sent_failures_to: int = 0,
        is_digest: bool = False,
        held: set[int] | None = None,
    ) -> tuple[list[_Line], int]:
        """What is to be sent of the events after a sequence, and up to which sequence that is.

        `held`: a fill whose result is not known is left, with what follows it, for the next poll, once.
        """
        if newest <= after:
            return [], after
        most_events, most_lines = (
            (_EVENTS_PER_DIGEST, _EVENTS_PER_DIGEST) if is_digest else (_EVENTS_PER_POLL, _MAX_LINES)
        )
        found = journal.list_events(connection, after=after, until=newest, kinds=wanted.kinds(), limit=most_events)
        lines: list[_Line] = []
        last = newest if len(found) < most_events else found[-1].sequence
        for event in found:
            if held is not None and event.sequence not in held and lacks_fills(connection, event):
                held.add(event.sequence)
                return lines, event.sequence - 1
            message = _message(connection, event, wanted)
            if message is None or (only_failures and message.severity != "failure"):
                continue
            if message.severity == "failure" and event.sequence <= sent_failures_to:
                continue
            lines.append(_Line(event.kind, event.at, message))
            if len(lines) == most_lines:
                last = event.sequence
                break
        return lines, last


def compose(
    lines: Sequence[_Line], prefix: str, *, now: datetime, zone: tzinfo | None, is_digest: bool = False
) -> tuple[str, str]:
    """Title and body of one message about one or several events; the title says what happened, by its worst event.

    What is older than a minute has its time.
    """
    worst = _worst(lines)
    if len(lines) == 1:
        body = worst.message.detail
        if now - worst.at > _SHOWS_TIME_AFTER or not body:
            at = clock_time(worst.at, now, zone)
            body = f"{body} (at {at})" if body else f"at {at}"
        return clip_words(f"{prefix}{worst.message.title}", _LONGEST_TITLE), body
    shown, rest = _most_important(lines)
    body = "\n".join(
        f"{clock_time(each.at, now, zone)}  {each.message.line}"
        if now - each.at > _SHOWS_TIME_AFTER
        else each.message.line
        for each in shown
    )
    if rest:
        counts = Counter(each.kind.replace("_", " ") for each in rest)
        others = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
        body += f"\nand {len(rest)} more: {others}; see `kekbridge history`"
    head = f"quiet hours, {len(lines)} events: " if is_digest else ""
    end = "" if is_digest else f", and {len(lines) - 1} more"
    room = _LONGEST_TITLE - len(prefix) - len(head) - len(end)
    return f"{prefix}{head}{clip_words(worst.message.title, room)}{end}", body


def _worst(lines: Sequence[_Line]) -> _Line:
    """The first of the most severe ones."""
    return max(lines, key=lambda line: SEVERITIES.index(line.message.severity))


def _most_important(lines: Sequence[_Line]) -> tuple[Sequence[_Line], Sequence[_Line]]:
    """The lines that a message shows, and the others: the most severe ones stay, then the newest."""
    if len(lines) <= _MAX_LINES:
        return lines, ()
    ranked = sorted(
        range(len(lines)), key=lambda index: (SEVERITIES.index(lines[index].message.severity), index), reverse=True
    )
    kept = frozenset(ranked[:_MAX_LINES])
    return (
        [line for index, line in enumerate(lines) if index in kept],
        [line for index, line in enumerate(lines) if index not in kept],
    )


def _move(connection: sqlite3.Connection, cursors: Mapping[str, int], *, now: datetime) -> None:
    for key, sequence in cursors.items():
        settings.set_value(connection, key, sequence, now=now)


def _message(connection: sqlite3.Connection, event: Event, wanted: NotifySettings) -> NotificationText | None:
    if event.kind == "order_filled" and _is_told_as_fired(connection, event):
        return None
    if event.data.get("quiet"):
        return None  # published within the hour (store/protection.py)
    return wanted.message(event.kind, event_facts(connection, event, wanted.zone))


def _is_told_as_fired(connection: sqlite3.Connection, event: Event) -> bool:
    """True for the fill of a stop or take-profit: an event of its own tells it."""
    order = None if event.client_order_id is None else order_rows.find(connection, event.client_order_id)
    return order is not None and order.intent.fired_event is not None
