"""Which alert of the last minute a message without a timestamp repeats: the same content, and nothing taken in its market since.

In memory, from the moment an alert is decided: of two that arrive together one is the first. At a start the alerts of the last minute are
read from the store. Source: docs/internals/architecture.md section 4, identity for duplicates.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from kekbridge.alerts.identity import WINDOW_S


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that was taken: neither refused nor denied."""

    #: Our id.
    id: str
    webhook_id: str
    #: Hash of the content.
    fingerprint: str
    #: Exchange symbols that it is about; none for a message without a market.
    markets: tuple[str, ...]
    received_at: datetime


class RecentAlerts:
    """The alerts that were taken in the last minute."""

    def __init__(self) -> None:
        self._taken: OrderedDict[str, Taken] = OrderedDict()  # by our id, oldest first

    def add(self, taken: Taken) -> None:
        """Remember an alert as the latest of its markets, and forget those that nothing can repeat any more."""
        self._taken[taken.id] = taken
        closed = taken.received_at - timedelta(seconds=WINDOW_S)
        while next(iter(self._taken.values())).received_at <= closed:
            self._taken.popitem(last=False)

    def remove(self, alert_id: str) -> None:
        """Forget an alert that could not be stored."""
        self._taken.pop(alert_id, None)

    def find(
        self, webhook_id: str, fingerprint: str, *, markets: Sequence[str], now: datetime, window_s: int
    ) -> str | None:
        """Our id of the alert that equal content repeats; None if there is none, or another was taken in one of its markets since."""
        opened = now - timedelta(seconds=window_s)
        wanted = set(markets)
        for taken in reversed(self._taken.values()):
            if taken.webhook_id != webhook_id:
                continue
            if taken.received_at <= opened:
                return None
            if taken.fingerprint == fingerprint:
                return taken.id
            if wanted.intersection(taken.markets) or not (wanted or taken.markets):
                return None
        return None
