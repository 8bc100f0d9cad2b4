"""What passes between the door and the pipeline: a request as it came in, who vouches for it, and the answer that goes out.

Plain values, so that the listener knows nothing of alerts and the pipeline nothing of HTTP servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from kekbridge.model import Webhook

WEBHOOK_PATH: Final = "/api/webhooks/tradingview"  # where alerts come in; part of every URL that is printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One POST: the exact bytes, the few headers that can carry a proof (lower-case names), and the sender's address."""

    body: bytes
    headers: Mapping[str, str]
    remote: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent it, proven. `proof` is one of none, header, standard_webhooks, template; `is_owner` marks a dry-run request."""

    webhook: Webhook
    key_id: str
    proof: str
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
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
