"""How long a position had no stop of its size ("naked"), computed from the exchange's journal. Pure.

Covers symbols that were opened by brackets only: there each entry has its stop, so naked time is a fault and not the trader's choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

ZERO = Decimal(0)


@dataclass
class Exposure:
    """Position and stops of one symbol while the journal is replayed."""

    position: Decimal = ZERO
    opened_without_stop: bool = False
    entries: dict[int, Decimal] = field(default_factory=dict)  # bracket id -> quantity its stop covers
    stopless: set[int] = field(default_factory=set)  # brackets whose stop is canceled or rejected
    stops: dict[int, Decimal] = field(default_factory=dict)  # replacement stops by order id
    naked_since: int | None = None
    last_ms: int = 0
    _naked: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def replay(cls, journal: Iterable[dict[str, Any]]) -> dict[str, Exposure]:
        """Replay a journal; return each symbol's exposure at its end."""
        symbols: dict[str, Exposure] = {}
        last = 0
        for event in journal:
            last = int(event["t"])
            symbol = event.get("symbol")
            if symbol is None:
                continue
            exposure = symbols.setdefault(symbol, cls())
            exposure._apply(event)
            exposure._look(last)
        for exposure in symbols.values():
            exposure._look(last)
        return symbols

    @property
    def is_bracketed(self) -> bool:
        """True if brackets opened it, and nothing else."""
        return bool(self.entries) and not self.opened_without_stop

    @property
    def is_naked(self) -> bool:
        return abs(self.position) > self.covered()

    def covered(self) -> Decimal:
        """Quantity that live stops cover."""
        by_brackets = sum((size for root, size in self.entries.items() if root not in self.stopless), ZERO)
        return by_brackets + sum(self.stops.values(), ZERO)

    def naked_times(self) -> list[tuple[int, int]]:
        """Start and end of each time without enough stops, Unix ms; the last one may go on."""
        return [*self._naked, *([] if self.naked_since is None else [(self.naked_since, self.last_ms)])]

    def _look(self, now: int) -> None:
        self.last_ms = now
        if self.is_naked and self.naked_since is None:
            self.naked_since = now
        elif not self.is_naked and self.naked_since is not None:
            self._naked.append((self.naked_since, now))
            self.naked_since = None

    def _apply(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "order_accepted" if event.get("algo") and event["algo_type"] == "BRACKET":
                self.entries[event["order_id"]] = ZERO
            case "order_accepted" if event.get("algo") and event["algo_type"] == "STOP" and event["reduce_only"]:
                self.stops[event["order_id"]] = Decimal(event["quantity"])
            case "order_canceled" | "order_refused" | "order_triggered" if event.get("algo"):
                self.stops.pop(event["order_id"], None)
                if event.get("algo_type") == "STOP_LOSS":
                    self.stopless.add(event.get("root_order_id") or 0)
            case "fill":
                self._fill(event)
            case _:
                pass

    def _fill(self, event: dict[str, Any]) -> None:
        quantity = Decimal(event["quantity"]) * (1 if event["side"] == "BUY" else -1)
        before = self.position
        self.position += quantity
        grows = abs(self.position) > abs(before)
        root = event.get("algo_order_id")
        if root in self.entries and grows:
            self.entries[root] += abs(quantity)
        elif grows:
            self.opened_without_stop = True
        if self.position == ZERO:
            self.entries = dict.fromkeys(self.entries, ZERO)


def longest_naked_s(journal: Iterable[dict[str, Any]]) -> float | None:
    """Return the longest time in seconds that a bracketed position was larger than its live stops; None without brackets."""
    bracketed = [exposure for exposure in Exposure.replay(journal).values() if exposure.is_bracketed]
    return max(
        (max((end - start for start, end in one.naked_times()), default=0) / 1000 for one in bracketed), default=None
    )
