"""The stages of an alert's way and how long each took, reckoned from the moments that are known. Pure: no I/O, no clock."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

# The way of an alert: `received` is counted from the moment it fired, all others from the moment it was received.
STAGES: Final = ("received", "stored", "admitted", "signed", "accepted", "filled", "answered")


class AlertTimestamps(NamedTuple):
    """When what happened to an alert and its first order; `stored_ms` and `answered_ms` were measured since its receipt."""

    received: datetime
    fired: datetime | None = None
    stored_ms: float | None = None
    claimed: datetime | None = None
    signed: datetime | None = None
    accepted: datetime | None = None
    filled: datetime | None = None
    answered_ms: float | None = None


def stages_of(moments: AlertTimestamps) -> dict[str, float]:
    """Every stage that is known, in milliseconds: STAGES says since when.

    Admitted is when the commit was on disk that lets the order leave: for most orders the one that stored the alert.
    """
    found: dict[str, float] = {}
    if moments.fired is not None:
        found["received"] = max(_milliseconds(moments.fired, moments.received), 0.0)
    if moments.stored_ms is not None:
        found["stored"] = moments.stored_ms
    if moments.claimed is not None:
        found["admitted"] = max(_milliseconds(moments.received, moments.claimed), moments.stored_ms or 0.0)
    for stage, at in (("signed", moments.signed), ("accepted", moments.accepted), ("filled", moments.filled)):
        if at is not None:
            # Clocks of a millisecond, measures of a microsecond: what comes later is never shown as earlier.
            found[stage] = max(_milliseconds(moments.received, at), found.get("admitted", 0.0))
    if moments.answered_ms is not None:
        found["answered"] = moments.answered_ms
    return found


def _milliseconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() * 1000
