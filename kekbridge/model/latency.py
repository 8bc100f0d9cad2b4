"""How long each stage of an alert took, from stored timestamps. Pure: no I/O, no clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

#: In order. `received` is measured from the alert's own timestamp, all others from its receipt.
STAGES: Final = ("received", "stored", "admitted", "signed", "accepted", "filled", "answered")

_MILLISECOND: Final = timedelta(milliseconds=1)


class AlertTimestamps(NamedTuple):
    """Timestamps of an alert and its first order; None where unknown."""

    #: Receipt of the request.
    received: datetime
    #: The alert's own timestamp.
    fired: datetime | None = None
    #: Milliseconds from receipt until the alert was stored.
    stored_ms: float | None = None
    #: The first order: claimed for sending, signed, accepted by the exchange, filled.
    claimed: datetime | None = None
    signed: datetime | None = None
    accepted: datetime | None = None
    filled: datetime | None = None
    #: Milliseconds from receipt until the response was written.
    answered_ms: float | None = None


def stages_of(timestamps: AlertTimestamps) -> dict[str, float]:
    """Milliseconds of every known stage, by name (STAGES).

    `admitted` ends with the commit that lets the order be sent: for most orders the one that stored the alert.
    """
    found: dict[str, float] = {}
    if timestamps.fired is not None:
        found["received"] = max((timestamps.received - timestamps.fired) / _MILLISECOND, 0.0)
    if timestamps.stored_ms is not None:
        found["stored"] = timestamps.stored_ms
    if timestamps.claimed is not None:
        found["admitted"] = max((timestamps.claimed - timestamps.received) / _MILLISECOND, timestamps.stored_ms or 0.0)
    for stage, at in (
        ("signed", timestamps.signed),
        ("accepted", timestamps.accepted),
        ("filled", timestamps.filled),
    ):
        if at is not None:
            # Timestamps have milliseconds, durations microseconds: a later stage must not show as an earlier one.
            found[stage] = max((at - timestamps.received) / _MILLISECOND, found.get("admitted", 0.0))
    if timestamps.answered_ms is not None:
        found["answered"] = timestamps.answered_ms
    return found
