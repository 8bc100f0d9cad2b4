"""What is notified when: the settings of [notify], and what `kekbridge notify level` and `quiet-hours` have stored over them.

Stored in the database, so that a running bridge uses a change at once, without a restart.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, ClassVar, Final

from kekbridge.config import Notify
from kekbridge.errors import ConfigError, NotFound
from kekbridge.formatting import sanitize
from kekbridge.model.notifications import (
    LEVELS,
    MESSAGES,
    SEVERITIES,
    Level,
    NotificationText,
    check_event,
    render_message,
)
from kekbridge.model.quiet_hours import QuietHours, read_zone
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.store import settings

_LEVELS: Final = "notify_levels"
_QUIET_HOURS: Final = "notify_quiet_hours"
_DEFAULT: Final = "default"
_OFF: Final = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """What is notified when, at one moment."""

    #: The trader's severities by event, or `off`.
    levels: Mapping[str, Level]
    #: Lowest severity that is sent.
    least: str
    #: None: there are none.
    quiet_hours: QuietHours | None
    #: The hours as they were written; empty without any.
    hours: str
    #: Of times in messages; None: the machine's.
    zone: tzinfo | None
    #: Name of that zone; empty: the machine's.
    zone_name: str
    #: The trader's texts by event.
    templates: Mapping[str, str]

    def message(self, kind: str, facts: Mapping[str, Any]) -> NotificationText | None:
        """The message of an event; None if it is not sent."""
        message = render_message(kind, facts, self.templates, self.levels, self.zone)
        if message is None or SEVERITIES.index(message.severity) < SEVERITIES.index(self.least):
            return None
        return message

    def kinds(self) -> Sequence[str]:
        """Kinds of events that may be sent."""
        return [kind for kind in MESSAGES if self.levels.get(kind) != _OFF]


def read(connection: sqlite3.Connection, notify: Notify) -> NotifySettings:
    """The settings in force."""
    stored = settings.get_value(connection, _QUIET_HOURS) or {}
    return _combined(notify, settings.get_value(connection, _LEVELS) or {}, stored)


def from_file(notify: Notify) -> NotifySettings:
    """The settings without what is stored: for when the store cannot be read."""
    return _combined(notify, {}, {})


def _combined(notify: Notify, levels: Mapping[str, str], quiet: Mapping[str, str]) -> NotifySettings:
    zone_name = quiet.get("zone") or notify.zone
    hours = quiet.get("hours", notify.quiet_hours)
    muted: dict[str, Level] = dict.fromkeys(notify.mute, _OFF)
    known = {kind: level for kind, level in levels.items() if kind in MESSAGES and level in LEVELS}
    return NotifySettings(
        levels=muted | dict(notify.levels) | known,  # type: ignore[arg-type]
        least=notify.least,
        quiet_hours=QuietHours.parse(hours, zone_name),
        hours=hours,
        zone=read_zone(zone_name),
        zone_name=zone_name,
        templates=notify.templates,
    )


class SetLevel(Operation, frozen=True, kw_only=True):
    """Set the level of one event, or go back to the settings' (`default`). Returns its level."""

    operation: ClassVar[str] = "notify-level"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True

    #: Kind of the event.
    event: str
    #: off, info, warning, failure, or default.
    level: str

    def __post_init__(self) -> None:
        try:
            check_event(self.event)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.level not in (*LEVELS, _DEFAULT):
            known = ", ".join((*LEVELS, _DEFAULT))
            raise ConfigError(f"level: found {sanitize(self.level)[:40]!r}, expected one of {known}")

    async def run(self, context: OperatorContext) -> dict[str, str]:
        await context.database.write(_store_level, self.event, self.level, now=context.clock())
        found = await context.database.read(read, context.settings.notify)
        return {"event": self.event, "level": found.levels.get(self.event, MESSAGES[self.event].severity)}


def _store_level(connection: sqlite3.Connection, event: str, level: str, *, now: datetime) -> None:
    levels = dict(settings.get_value(connection, _LEVELS) or {})
    levels.pop(event, None)
    if level != _DEFAULT:
        levels[event] = level
    settings.set_value(connection, _LEVELS, levels, now=now)


class SetQuietHours(Operation, frozen=True, kw_only=True):
    """Set the hours in which only failures are sent, or `off`, or go back to the settings' (`default`). Returns those in force."""

    operation: ClassVar[str] = "notify-quiet-hours"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True

    #: Such as `22:00-07:00`, `off` or `default`.
    hours: str
    #: Name of the time zone; None: that of the settings, else the machine's.
    zone: str | None = None

    def __post_init__(self) -> None:
        try:
            read_zone(self.zone or "")
        except ValueError as error:
            raise ConfigError(f"zone: {error}") from None
        if self.hours in (_OFF, _DEFAULT):
            return
        try:
            given = QuietHours.parse(self.hours)
        except ValueError as error:
            raise ConfigError(f"quiet hours: {error}, off or default") from None
        if given is None:
            raise ConfigError(
                "quiet hours: found nothing, expected two times of day such as 22:00-07:00, off or default"
            )

    async def run(self, context: OperatorContext) -> dict[str, str]:
        stored = {"hours": "" if self.hours == _OFF else self.hours, "zone": self.zone or ""}
        await context.database.write(
            settings.set_value, _QUIET_HOURS, None if self.hours == _DEFAULT else stored, now=context.clock()
        )
        return await show_quiet_hours(context)


class ShowQuietHours(Operation, frozen=True, kw_only=True):
    """The quiet hours in force and their time zone."""

    operation: ClassVar[str] = "notify-quiet-hours-show"
    needs_data: ClassVar[bool] = False

    async def run(self, context: OperatorContext) -> dict[str, str]:
        return await show_quiet_hours(context)


class ListEvents(Operation, frozen=True, kw_only=True):
    """Every event with its level, its text and the names that a text of one's own may use."""

    operation: ClassVar[str] = "notify-events"
    needs_data: ClassVar[bool] = False

    async def run(self, context: OperatorContext) -> list[dict[str, Any]]:
        found = await _in_force(context)
        return [
            {
                "event": kind,
                "severity": message.severity,
                "level": found.levels.get(kind, message.severity),
                "muted": found.levels.get(kind) == _OFF,
                "words": found.templates.get(kind, message.template),
                "names": message.names,
            }
            for kind, message in MESSAGES.items()
        ]


async def show_quiet_hours(context: OperatorContext) -> dict[str, str]:
    """The quiet hours in force as JSON; empty hours: there are none."""
    found = await _in_force(context)
    return {"hours": found.hours, "zone": found.zone_name}


async def _in_force(context: OperatorContext) -> NotifySettings:
    try:
        return await context.database.read(read, context.settings.notify)
    except NotFound:  # nothing has been stored yet
        return from_file(context.settings.notify)
