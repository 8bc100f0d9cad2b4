"""The checklist of a first visit: four steps, each ticked by what is stored; and that its owner wants to see it no more."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

from kekbridge.config import Risk, Settings
from kekbridge.connections.hosts import is_loopback
from kekbridge.model import Limits
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.store import alerts, settings, statistics, webhooks

_DISMISSED: Final = "checklist_dismissed"
# Newest alerts in which one from outside is looked for: bounds the work of every overview until there is one.
_LOOKED_THROUGH: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Checklist:
    """What has been done, from stored facts."""

    #: An order was filled.
    has_traded: bool
    #: An alert came from another machine.
    is_connected: bool
    #: A webhook or the account has a limit that differs from the defaults.
    has_limits: bool
    #: Notifications have a channel.
    is_notified: bool
    #: Id of the first webhook; None: there is none.
    webhook_id: str | None

    @property
    def is_done(self) -> bool:
        """All steps are."""
        return self.has_traded and self.is_connected and self.has_limits and self.is_notified


def read(connection: sqlite3.Connection, configured: Settings) -> Checklist | None:
    """The checklist; None once its owner has dismissed it, or all of it is done."""
    if settings.get_value(connection, _DISMISSED) is not None:
        return None
    found = webhooks.list_all(connection)
    checklist = Checklist(
        has_traded=statistics.has_filled_order(connection),
        is_connected=_is_connected(connection, configured),
        has_limits=configured.risk != Risk() or any(one.settings.limits != Limits() for one in found),
        is_notified=settings.has_key(connection, "notified:"),
        webhook_id=found[0].id if found else None,
    )
    return None if checklist.is_done else checklist


def _is_connected(connection: sqlite3.Connection, configured: Settings) -> bool:
    """True if one of the newest alerts was sent from elsewhere; behind a proxy that hides its senders, one that no command sent."""
    newest = alerts.newest_senders(connection, limit=_LOOKED_THROUGH)
    if any(remote and not is_loopback(remote) for remote, _ in newest):
        return True
    is_hidden = configured.server.behind_proxy and not configured.server.trusted_proxies
    return is_hidden and any(not (alert_id or "").startswith("try-") for _, alert_id in newest)


class DismissChecklist(Operation, frozen=True, kw_only=True):
    """Show the checklist of a first visit no more."""

    operation: ClassVar[str] = "checklist-dismiss"
    writes: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        await context.database.write(_dismiss, now=context.clock())
        return {"dismissed": True}


def _dismiss(connection: sqlite3.Connection, *, now: datetime) -> None:
    settings.set_value(connection, _DISMISSED, {}, now=now)
