"""Webhooks and keys in memory, so that an alert costs no query: read again once one changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from kekbridge.errors import NotFound
from kekbridge.model import Webhook
from kekbridge.store import webhooks
from kekbridge.store.database import Database
from kekbridge.store.webhooks import WebhookKey

# More keys than a trader has; one beyond is read with each request. Unknown keys are not remembered: guesses would fill the memory.
_MOST: Final = 10_000


class KnownWebhooks:
    """The webhooks of one daemon, as stored. On the event loop's thread."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._by_lookup: dict[bytes, tuple[Webhook, WebhookKey]] = {}
        self._by_id: dict[str, Webhook | None] = {}

    def find_by_lookup(self, lookup: bytes) -> tuple[Webhook, WebhookKey] | None:
        """Webhook and key of the keyed hash of an apiKey; None for unknown, expired and revoked keys alike. Raises StoreUnavailable."""
        found = self._by_lookup.get(lookup)
        now = self._clock()
        if found is None:
            found = self._database.read_now(webhooks.find_by_lookup, lookup, now)
            if found is not None and len(self._by_lookup) < _MOST:
                self._by_lookup[lookup] = found
        elif found[1].expires_at is not None and found[1].expires_at <= now:
            return None
        return found

    def find(self, webhook_id: str) -> Webhook | None:
        """The webhook with this id; None if it was deleted. Raises StoreUnavailable."""
        if webhook_id not in self._by_id:
            try:
                self._by_id[webhook_id] = self._database.read_now(webhooks.get, webhook_id)
            except NotFound:
                self._by_id[webhook_id] = None
        return self._by_id[webhook_id]

    def forget(self) -> tuple[Webhook, ...]:
        """A webhook or key was changed: read everything again. Returns the webhooks as they are now."""
        self._by_lookup.clear()
        self._by_id.clear()
        return self._database.read_now(webhooks.list_all)
