"""Tells how long each stage of an alert took, once, in the moment it is known. In memory: a restart begins anew.

The store keeps the same figures for each alert; this is for those who count as things happen (the histograms of /metrics).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Final

from kekbridge.model import Order, OrderStatus
from kekbridge.model.latency import AlertTimestamps, stages_of

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
_NAMES: Final = (*map(str, _BUCKETS), "+Inf")


class Histogram:
    """The durations of one stage, in seconds. prometheus_client's own takes a lock for each of two numbers; alerts are on one thread."""

    def __init__(self) -> None:
        self.created_at = time.time()
        self.sum_s = 0.0
        self._counts = [0] * len(_NAMES)

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and how many were no longer than it."""
        return list(zip(_NAMES, accumulate(self._counts), strict=True))

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self.sum_s += seconds


class LatencyHistograms:
    """One per daemon; it listens from now on. The loop's thread only."""

    def __init__(self, stages: LatencyTracker) -> None:
        self.by_stage: defaultdict[str, Histogram] = defaultdict(Histogram)
        stages.listen(lambda stage, seconds: self.by_stage[stage].observe(seconds))


# More open orders than any exchange allows: those whose end nobody told must not pile up.
_MOST_OPEN: Final = 20_000


@dataclass(slots=True)
class _OpenAlert:
    """What is known of an alert that is under way, and which stages were told."""

    received: datetime
    fired: datetime | None
    stored_ms: float
    signed: datetime | None = None
    told: set[str] = field(default_factory=set)

    def moments(self, order: Order) -> AlertTimestamps:
        return AlertTimestamps(
            received=self.received,
            fired=self.fired,
            stored_ms=self.stored_ms,
            signed=self.signed,
            claimed=order.submitted_at,
            accepted=order.accepted_at,
            filled=order.finished_at if order.status is OrderStatus.FILLED else None,
        )


class LatencyTracker:
    """Alerts received since the start. Every stage of each is told to every listener exactly once, in seconds."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str, float], None]] = []
        self._open: dict[str, _OpenAlert] = {}  # by the first order of an alert

    def listen(self, listener: Callable[[str, float], None]) -> None:
        """Call `listener(stage, seconds)` from now on."""
        self._listeners.append(listener)

    def on_stored(self, received: datetime, fired: datetime | None, milliseconds: float, first: str | None) -> None:
        """An alert that is no repeat is on disk; `first` is the client order id of its first order, if it has one."""
        known = _OpenAlert(received, fired, milliseconds)
        self._notify(known, AlertTimestamps(received=received, fired=fired, stored_ms=milliseconds))
        if first is not None:
            self._open[first] = known
            while len(self._open) > _MOST_OPEN:
                del self._open[next(iter(self._open))]

    def on_answered(self, milliseconds: float) -> None:
        """Its sender was answered."""
        self._record("answered", milliseconds)

    def on_signed(self, client_order_id: str, at: datetime | None) -> None:
        """The request of an order was signed and left."""
        known = self._open.get(client_order_id)
        if known is not None and at is not None:
            known.signed = at

    def on_order_update(self, order: Order) -> None:
        """An order took a step; told again, it is no news."""
        known = self._open.get(order.client_order_id)
        if known is None:
            return  # not the first of its alert, from before the start, or over
        if order.accepted_at is not None or order.status.is_final:
            self._notify(known, known.moments(order))
        if order.status.is_final:
            del self._open[order.client_order_id]

    def _notify(self, known: _OpenAlert, moments: AlertTimestamps) -> None:
        for stage, milliseconds in stages_of(moments).items():
            if stage not in known.told:
                known.told.add(stage)
                self._record(stage, milliseconds)

    def _record(self, stage: str, milliseconds: float) -> None:
        for listener in self._listeners:
            listener(stage, milliseconds / 1000)
