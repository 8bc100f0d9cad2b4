"""What the admission of an alert decides and stores, and what the recheck before sending decides."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct

from kekbridge.model import (
    CancelRequest,
    LimitBreach,
    OrderIntent,
    OrderStatus,
    OvertakenEntries,
    StrategyHistory,
    Verdict,
)

#: Code of an entry beyond a rate limit, and kind of an alert of which nothing else is left.
RATE_LIMITED: Final = "rate_limited"


class NewAlert(Struct, frozen=True, kw_only=True):
    """An authenticated alert before it is stored."""

    #: Our id, a ULID.
    id: str
    webhook_id: str
    #: The webhook's name at this moment: stored, because a webhook can be renamed or deleted.
    webhook_name: str
    #: The sender's `alertId`; None if the message has none.
    alert_id: str | None
    #: Makes a second alert a duplicate, for ever (alerts/identity.py). None: see `window_s`.
    identity: str | None
    #: Without an identity: seconds within which an alert of the same fingerprint is a duplicate, unless another one was taken in one of
    #: its markets since. None: never.
    window_s: int | None
    #: Exchange symbols that it is about; the sender's spelling of one that is not listed.
    markets: tuple[str, ...]
    #: Hash of the content without timestamp and signature.
    fingerprint: str
    received_at: datetime
    #: The alert's own timestamp; None if it has none.
    fired_at: datetime | None
    #: Address of the sender.
    remote: str
    #: How the sender was authenticated.
    proof: str
    #: The message, redacted.
    payload: Mapping[str, Any]
    #: Action and symbol in the sender's spelling; None if the message has none.
    action: str | None
    symbol: str | None


class Decision(Struct, frozen=True, kw_only=True):
    """What is done with an alert."""

    #: `admitted`: with orders or cancels; `denied`: by a risk rule; `refused`: not understood; `ignored`: nothing to do.
    status: Literal["admitted", "denied", "refused", "ignored"]
    #: Why it was not admitted: code, one line for the trader, and the field of the message that is wrong.
    code: str | None = None
    error: str | None = None
    field: str | None = None
    #: What each rule found, passed or not.
    verdicts: tuple[Verdict, ...] = ()
    #: The orders to be stored, by leg.
    intents: tuple[OrderIntent, ...] = ()
    #: Has no entry that counts against the rate limits: it only closes, cancels or pings, or its entry was denied by them.
    is_exit: bool = False
    #: Action and symbol as understood; they replace the sender's spelling in NewAlert. None: keep that.
    action: str | None = None
    symbol: str | None = None
    warnings: tuple[str, ...] = ()
    #: Is an alert of the webhook. False for what is older than allowed: it may be a copy that somebody else sends.
    is_counted: bool = True
    #: Cancel steps to be executed after the commit.
    cancels: tuple[CancelRequest, ...] = ()
    #: Earlier entries of the webhook that are to be cancelled.
    overtaken: tuple[OvertakenEntries, ...] = ()
    #: By symbol: the strategy's own steps so far, including this alert's.
    strategy_histories: tuple[tuple[str, StrategyHistory], ...] = ()
    #: Limits that this alert hit and that close a scope for further entries.
    breaches: tuple[LimitBreach, ...] = ()

    @property
    def is_taken(self) -> bool:
        """It claims its identity: the same message again is a duplicate. What was refused or denied is judged again."""
        return self.status in ("admitted", "ignored")


class Recheck(Struct, frozen=True, kw_only=True):
    """What the recheck of a queued order decides right before it is sent."""

    #: SUBMITTING: send it. Else the final status.
    status: OrderStatus
    #: The intent to send, where it differs from the admitted one.
    intent: OrderIntent | None = None
    #: Why it is not sent; empty when it is.
    code: str = ""
    error: str = ""
    verdicts: tuple[Verdict, ...] = ()
