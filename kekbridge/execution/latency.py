"""Measure how long each stage of an alert took, and publish each duration once, as soon as it is known.

In memory, for the histograms of /metrics; the store keeps the same figures for each alert. On the event loop's thread.
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
_BUCKET_NAMES: Final = (*map(str, _BUCKETS), "+Inf")
# More open orders than any exchange allows: alerts whose final state is never published must not pile up.
_MOST_OPEN: Final = 20_000


class Histogram:
    """The durations of one stage, in seconds. prometheus_client's takes a lock for each of two numbers; alerts are on one thread."""

    def __init__(self) -> None:
        self.created_at = time.time()
        self.sum_s = 0.0
        self._counts = [0] * len(_BUCKET_NAMES)

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound in seconds, and the number of durations up to it."""
        return list(zip(_BUCKET_NAMES, accumulate(self._counts), strict=True))

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self.sum_s += seconds


class LatencyHistograms:
    """One histogram per stage; counts from its creation on."""

    def __init__(self, latency: LatencyTracker) -> None:
        self.by_stage: defaultdict[str, Histogram] = defaultdict(Histogram)
        latency.listen(lambda stage, seconds: self.by_stage[stage].observe(seconds))


@dataclass(slots=True)
class _OpenAlert:
    """An alert whose first order is not final yet."""

    received: datetime
    fired: datetime | None
    stored_ms: float
    signed: datetime | None = None
    #: Stages that were published.
    published: set[str] = field(default_factory=set)

    def timestamps(self, order: Order) -> AlertTimestamps:
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
    """Publishes every stage of each alert received since the start to every listener exactly once, in seconds."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str, float], None]] = []
        self._open: dict[str, _OpenAlert] = {}  # by client order id of the alert's first order

    def listen(self, listener: Callable[[str, float], None]) -> None:
        """Call `listener(stage, seconds)` from now on."""
        self._listeners.append(listener)

    def on_stored(self, received: datetime, fired: datetime | None, milliseconds: float, first: str | None) -> None:
        """An alert that is no duplicate is on disk; `first` is the client order id of its first order, if it has one."""
        alert = _OpenAlert(received, fired, milliseconds)
        self._publish(alert, AlertTimestamps(received=received, fired=fired, stored_ms=milliseconds))
        if first is not None:
            self._open[first] = alert
            while len(self._open) > _MOST_OPEN:
                del self._open[next(iter(self._open))]

    def on_answered(self, milliseconds: float) -> None:
        """The response to an alert was written."""
        for listener in self._listeners:
            listener("answered", milliseconds / 1000)

    def on_signed(self, client_order_id: str, at: datetime | None) -> None:
        """The request of an order was signed and sent."""
        alert = self._open.get(client_order_id)
        if alert is not None and at is not None:
            alert.signed = at

    def on_order_update(self, order: Order) -> None:
        """An order changed; an update that was published before has no effect."""
        alert = self._open.get(order.client_order_id)
        if alert is None:
            return  # not the first order of its alert, from before the start, or final already
        if order.accepted_at is not None or order.status.is_final:
            self._publish(alert, alert.timestamps(order))
        if order.status.is_final:
            del self._open[order.client_order_id]

    def _publish(self, alert: _OpenAlert, timestamps: AlertTimestamps) -> None:
        for stage, milliseconds in stages_of(timestamps).items():
            if stage not in alert.published:
                alert.published.add(stage)
                for listener in self._listeners:
                    listener(stage, milliseconds / 1000)
