"""Tells how long each stage of an alert took, once, in the moment it is known. In memory: a restart begins anew.

The store keeps the same figures for each alert; this is for those who count as things happen (the histograms of /metrics).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from kekbridge.model import Order, OrderStatus
from kekbridge.stats import Moments, stages_of

# More open orders than any exchange allows: those whose end nobody told must not pile up.
_MOST_OPEN: Final = 20_000


class StageWatch:
    """Alerts received since the start. Every stage of each is told to every listener exactly once, in seconds."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str, float], None]] = []
        self._open: dict[
            str, tuple[Moments, set[str]]
        ] = {}  # by the first order of an alert: what is known, what was told

    def listen(self, listener: Callable[[str, float], None]) -> None:
        """Call `listener(stage, seconds)` from now on."""
        self._listeners.append(listener)

    def stored(self, received: datetime, fired: datetime | None, milliseconds: float, first: str | None) -> None:
        """An alert that is no repeat is on disk; `first` is the client order id of its first order, if it has one."""
        moments = Moments(received=received, fired=fired, stored_ms=milliseconds)
        told: set[str] = set()
        self._tell(moments, told)
        if first is not None:
            self._open[first] = moments, told
            while len(self._open) > _MOST_OPEN:
                del self._open[next(iter(self._open))]

    def answered(self, milliseconds: float) -> None:
        """Its sender was answered."""
        self._say({"answered": milliseconds})

    def signed(self, client_order_id: str, at: datetime | None) -> None:
        """The request of an order was signed and left."""
        known = self._open.get(client_order_id)
        if known is not None and at is not None:
            self._open[client_order_id] = replace(known[0], signed=at), known[1]

    def moved(self, order: Order) -> None:
        """An order took a step; told again, it is no news."""
        known = self._open.get(order.client_order_id)
        if known is None:
            return  # not the first of its alert, from before the start, or over
        is_filled = order.status is OrderStatus.FILLED
        moments = replace(
            known[0],
            claimed=order.submitted_at,
            accepted=order.accepted_at,
            filled=order.finished_at if is_filled else None,
        )
        self._open[order.client_order_id] = moments, known[1]
        if order.accepted_at is not None or order.status.is_final:
            self._tell(moments, known[1])
        if order.status.is_final:
            del self._open[order.client_order_id]

    def _tell(self, moments: Moments, told: set[str]) -> None:
        news = {stage: value for stage, value in stages_of(moments).items() if stage not in told}
        told.update(news)
        self._say(news)

    def _say(self, stages: Mapping[str, float]) -> None:
        for stage, milliseconds in stages.items():
            for listener in self._listeners:
                listener(stage, milliseconds / 1000)
