"""What the admission of an alert decides and stores, and what the recheck before sending decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from kekbridge.model import CancelRequest, LimitBreach, OrderIntent, OrderStatus, StrategyHistory, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAlert:
    """An authenticated alert before it is stored; `id` is its ULID, `payload` is redacted already.

    `identity` is claimed for ever. Without one, an alert of the same fingerprint within `window_s` seconds is the duplicate.
    """

    id: str
    webhook_id: str
    webhook_name: str
    alert_id: str | None
    identity: str | None
    window_s: int | None
    fingerprint: str
    received_at: datetime
    fired_at: datetime | None
    remote: str
    proof: str
    payload: Mapping[str, Any]
    action: str | None
    symbol: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to become of an alert: orders (`admitted`), our no (`denied`, `refused`), or nothing to do (`ignored`).

    `action` and `symbol`, when given, replace the sender's spelling in the draft.
    """

    status: Literal["admitted", "denied", "refused", "ignored"]
    code: str | None = None
    error: str | None = None
    field: str | None = None
    verdicts: tuple[Verdict, ...] = ()
    intents: tuple[OrderIntent, ...] = ()
    is_exit: bool = False
    action: str | None = None
    symbol: str | None = None
    warnings: tuple[str, ...] = ()
    claims_identity: bool = True  # False where the same alert may come again and be right (a stale timestamp)
    cancels: tuple[CancelRequest, ...] = ()
    strategy_histories: tuple[
        tuple[str, StrategyHistory], ...
    ] = ()  # by symbol: what the strategy told so far, this alert included
    breaches: tuple[LimitBreach, ...] = ()  # limits that this alert met and that close a scope for further entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """What the second look at a queued order says: SUBMITTING with the intent to be sent, or a final status with its reason."""

    status: OrderStatus
    intent: OrderIntent | None = None
    code: str = ""
    error: str = ""
    verdicts: tuple[Verdict, ...] = ()
