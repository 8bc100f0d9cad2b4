"""Send a stored alert again as a dry run: what it would do now. Used by `kekbridge replay` and the alert's page.

The stored message has its credentials shortened, so its own signature cannot be verified: the request is signed with the webhook's
secret instead, and the message's age is not checked.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from msgspec import field
from ulid import ULID

from kekbridge.alerts.field_names import CREDENTIAL_FIELDS, IDENTITY_FIELDS, canonical_name
from kekbridge.errors import ConfigError
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.ops.webhook_operations import SendAlert
from kekbridge.store import alerts, webhooks
from kekbridge.webhooks import registry

_ELLIPSIS: Final = "…"  # marks parts of a stored message that were left out or shortened


class ReplayAlert(Operation, frozen=True, kw_only=True):
    """A dry run of a stored alert in the daemon, under the current limits or others. Stores and sends nothing. Returns the response."""

    operation: ClassVar[str] = "replay"
    opens_vault: ClassVar[bool] = True

    #: Id, or what else `kekbridge explain` takes.
    alert: str
    #: Name or id of the webhook to replay it on; None: its own.
    webhook: str | None = None
    #: Limits to use instead of the webhook's own, by their names in its settings.
    limits: dict[str, Any] = field(default_factory=dict)
    #: Where to send it; None: to the daemon on this machine.
    url: str | None = None

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def read(connection: sqlite3.Connection) -> tuple[str, str, str]:
            stored = alerts.find(connection, self.alert)
            target = webhooks.find(connection, self.webhook or stored.webhook_id or stored.webhook_name or "")
            return new_message(stored.payload), target.id, registry.local_url_of(connection)

        message, webhook_id, local_url = await context.database.read(read)
        send = SendAlert(
            webhook=webhook_id,
            message=message,
            dry_run=True,
            limits=self.limits,
            is_replay=True,
            url=self.url or (f"{local_url}{WEBHOOK_PATH}" if local_url else None),
        )
        return await send.run(context)


def new_message(payload: Mapping[str, Any]) -> str:
    """Build a message from a stored one, with a new alertId and without credentials. Raises ConfigError if parts are missing."""
    dropped = IDENTITY_FIELDS | frozenset(CREDENTIAL_FIELDS)

    def without_identity(step: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in step.items() if canonical_name(name) not in dropped}

    message = without_identity(payload)
    if isinstance(payload.get("steps"), list):
        message["steps"] = [without_identity(step) for step in payload["steps"] if isinstance(step, Mapping)]
    text = json.dumps(message, ensure_ascii=False, default=str)
    if _ELLIPSIS in text:
        raise ConfigError(
            "parts of this alert were not stored, so it cannot be sent again; send the message with `webhook test` instead"
        )
    message |= {"alertId": f"replay-{ULID()}"}
    return json.dumps(message, ensure_ascii=False, default=str)
