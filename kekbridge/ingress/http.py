"""What passes between the door and the pipeline: a request as it came in, who vouches for it, and the answer that goes out.

Plain values, so that the listener knows nothing of alerts and the pipeline nothing of HTTP servers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from kekbridge.errors import Unreadable
from kekbridge.model import Webhook

DRY_RUN_HEADER: Final = "x-kekbridge-dry-run"


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """A rehearsal: everything is decided as if the message were real, nothing is stored, told or sent.

    `limits` replaces limits of the webhook for this once (names and values of model.Limits as JSON holds them, null: no limit).
    `is_replay`: the message is an old one, so its age is not asked.
    """

    limits: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    is_replay: bool = False

    @property
    def flag(self) -> str:
        """The header's value, as `read_flag` reads it: `1` for the plain case."""
        if not self.limits and not self.is_replay:
            return "1"
        return json.dumps({"limits": dict(self.limits), "replay": self.is_replay}, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRequest:
    """One POST: the exact bytes, the few headers that can carry a proof (lower-case names), and the sender's address."""

    body: bytes
    headers: Mapping[str, str]
    remote: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sent it, proven. `proof` is one of none, header, standard_webhooks, template; `dry_run` is None for a real alert."""

    webhook: Webhook
    key_id: str
    proof: str
    dry_run: DryRun | None = None

    @property
    def is_dry_run(self) -> bool:
        return self.dry_run is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookResponse:
    """What the sender gets: an HTTP status, a JSON body, and for 429 the seconds of Retry-After."""

    status: int
    body: Mapping[str, Any]
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether alerts can become orders now, and if not, why (for /readyz; no secrets)."""

    is_ready: bool
    detail: Mapping[str, Any]


def proven_bytes(body: bytes, flag: str | None) -> bytes:
    """What a header signature covers: the body; for a dry run its flag, too, so that nobody on the way can set, change or drop it."""
    return body if flag is None else f"{DRY_RUN_HEADER}: {flag}\n".encode("utf-8", "surrogateescape") + body


def read_flag(flag: str) -> DryRun:
    """A dry run's flag: `1`, or `{"limits":{…},"replay":true}`. Raises Unreadable(field_invalid)."""
    if flag == "1":
        return DryRun()
    try:
        told = json.loads(flag, parse_float=str)
    except (ValueError, RecursionError):
        told = None
    limits = told.get("limits", {}) if isinstance(told, dict) else None
    if not isinstance(told, dict) or told.keys() - {"limits", "replay"} or not isinstance(limits, dict):
        raise Unreadable(
            "field_invalid",
            'X-Kekbridge-Dry-Run: found something else than 1 or {"limits":{…},"replay":true}; use `kekbridge webhook test --dry-run`',
            field="X-Kekbridge-Dry-Run",
        )
    return DryRun(limits=MappingProxyType(limits), is_replay=told.get("replay") is True)
