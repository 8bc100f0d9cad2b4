"""Longest time a position had no stop of its size ("naked"), computed from the exchange's journal. Pure.

Covers symbols that were opened by brackets only: there each entry has its stop, so naked time is a fault and not the trader's choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

ZERO = Decimal(0)


@dataclass
class _Symbol:
    position: Decimal = ZERO
    opened_without_stop: bool = False
    entries: dict[int, Decimal] = field(default_factory=dict)  # bracket id -> quantity its stop covers
    stopless: set[int] = field(default_factory=set)  # brackets whose stop is canceled or rejected
    stops: dict[int, Decimal] = field(default_factory=dict)  # replacement stops by order id
    naked_since: int | None = None
    longest_ms: int = 0

    def covered(self) -> Decimal:
        by_brackets = sum((size for root, size in self.entries.items() if root not in self.stopless), ZERO)
        return by_brackets + sum(self.stops.values(), ZERO)

    def update(self, now: int) -> None:
        is_naked = abs(self.position) > self.covered()
        if is_naked and self.naked_since is None:
            self.naked_since = now
        if self.naked_since is not None:
            self.longest_ms = max(self.longest_ms, now - self.naked_since)
        if not is_naked:
            self.naked_since = None


def longest_naked_s(journal: Iterable[dict[str, Any]]) -> float | None:
    """Return the longest time in seconds that a bracketed position was larger than its live stops; None without brackets."""
    symbols: dict[str, _Symbol] = {}
    last = 0
    for event in journal:
        last = int(event["t"])
        symbol = event.get("symbol")
        if symbol is None:
            continue
        state = symbols.setdefault(symbol, _Symbol())
        _apply(state, event)
        state.update(last)
    bracketed = [state for state in symbols.values() if state.entries and not state.opened_without_stop]
    for state in bracketed:
        state.update(last)
    return max((state.longest_ms / 1000 for state in bracketed), default=None)


def _apply(state: _Symbol, event: dict[str, Any]) -> None:
    match event["event"]:
        case "order_accepted" if event.get("algo") and event["algo_type"] == "BRACKET":
            state.entries[event["order_id"]] = ZERO
        case "order_accepted" if event.get("algo") and event["algo_type"] == "STOP" and event["reduce_only"]:
            state.stops[event["order_id"]] = Decimal(event["quantity"])
        case "order_canceled" | "order_refused" | "order_triggered" if event.get("algo"):
            state.stops.pop(event["order_id"], None)
            if event.get("algo_type") == "STOP_LOSS":
                state.stopless.add(event.get("root_order_id") or 0)
        case "fill":
            _fill(state, event)
        case _:
            pass


def _fill(state: _Symbol, event: dict[str, Any]) -> None:
    quantity = Decimal(event["quantity"]) * (1 if event["side"] == "BUY" else -1)
    before = state.position
    state.position += quantity
    grows = abs(state.position) > abs(before)
    root = event.get("algo_order_id")
    if root in state.entries and grows:
        state.entries[root] += abs(quantity)
    elif grows:
        state.opened_without_stop = True
    if state.position == ZERO:
        state.entries = dict.fromkeys(state.entries, ZERO)
