"""Values that the listener and the receiver exchange: a webhook request, its authenticated sender, and the response.

Plain values, so that the listener knows nothing of alerts and the receiver nothing of HTTP servers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from kekbridge.errors import Unreadable
from kekbridge.model import Webhook

DRY_RUN_HEADER: Final = "x-kekbridge-dry-run"


class DryRun(Struct, frozen=True, kw_only=True):
    """A dry run: everything is decided as for a real message, nothing is stored, notified or sent."""

    #: Replaces limits of the webhook for this request (names and values of model.Limits as in JSON, null: no limit).
    limits: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    #: The message is an old one, so its age is not checked.
    is_replay: bool = False

    @property
    def flag(self) -> str:
        """The header's value, as `read_flag` reads it: `1` for the plain case."""
        if not self.limits and not self.is_replay:
            return "1"
        return json.dumps({"limits": dict(self.limits), "replay": self.is_replay}, separators=(",", ":"))


class WebhookRequest(Struct, frozen=True, kw_only=True):
    """One POST to the webhook path."""

    #: The exact bytes that were sent.
    body: bytes
    #: The few headers that can carry a proof, by lower-case name.
    headers: Mapping[str, str]
    #: The sender's address as text.
    remote: str
    received_at: datetime
    #: The key at the end of the URL; None for the plain webhook path.
    path_key: str | None = None


class Sender(Struct, frozen=True, kw_only=True):
    """The authenticated sender of a request."""

    webhook: Webhook
    key_id: str
    #: One of none, header, standard_webhooks, template.
    proof: str
    #: None for a real alert.
    dry_run: DryRun | None = None

    @property
    def is_dry_run(self) -> bool:
        return self.dry_run is not None


class WebhookResponse(Struct, frozen=True, kw_only=True):
    """The response to a request."""

    #: HTTP status.
    status: int
    #: JSON object.
    body: Mapping[str, Any]
    #: Seconds of the Retry-After header.
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether alerts can become orders now, and if not, why (for /readyz; no secrets)."""

    #: Reconciled, and the exchange is reachable.
    is_ready: bool
    #: Body of the response.
    detail: Mapping[str, Any]


def proven_bytes(body: bytes, flag: str | None) -> bytes:
    """What a header signature covers: the body, and a dry run's flag, so that it cannot be set, changed or dropped on the way."""
    return body if flag is None else f"{DRY_RUN_HEADER}: {flag}\n".encode("utf-8", "surrogateescape") + body


def read_flag(flag: str) -> DryRun:
    """Parse a dry run's flag: `1`, or `{"limits":{…},"replay":true}`. Raises Unreadable(field_invalid)."""
    if flag == "1":
        return DryRun()
    try:
        options = json.loads(flag, parse_float=str)
    except (ValueError, RecursionError):
        options = None
    limits = options.get("limits", {}) if isinstance(options, dict) else None
    if not isinstance(options, dict) or options.keys() - {"limits", "replay"} or not isinstance(limits, dict):
        raise Unreadable(
            "field_invalid",
            'X-Kekbridge-Dry-Run: found another value, expected 1 or {"limits":{…},"replay":true}; use `kekbridge webhook test --dry-run`',
            field="X-Kekbridge-Dry-Run",
        )
    return DryRun(limits=MappingProxyType(limits), is_replay=options.get("replay") is True)
