"""Changes of the account and its markets that nobody asked kekbridge for, written into the history, from which the notifier tells them.

What follows from them (the leverage before an order, the rules of a market) is in the exchange's snapshot already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from kekbridge.exchange.base import (
    AccountEvent,
    Exchange,
    LeverageChanged,
    MarginModeChanged,
    MarketChanged,
    RecordsChanged,
    RulesChanged,
    TopicRefused,
)
from kekbridge.execution.book import Book
from kekbridge.model.notifications import as_text
from kekbridge.store import codec, facts

_LEAVING: Final = frozenset({"DELISTING", "DELISTED"})


class AccountEvents:
    """Writes a row for each event; one per daemon."""

    def __init__(self, *, book: Book, exchange: Exchange, clock: Callable[[], datetime]) -> None:
        self._book = book
        self._clock = clock
        exchange.listen_events(self._on_event)

    def _on_event(self, event: AccountEvent) -> None:
        described = describe(event)
        if described is not None:
            kind, data = described
            self._book.version += 1  # a waiting order is judged again
            self._book.append(facts.plain_entry(kind, at=codec.truncate_to_ms(self._clock()), data=data))


def describe(event: AccountEvent) -> tuple[str, Mapping[str, object]] | None:
    """Kind and figures of the history's row; None for an event that only asks for a read."""
    match event:
        case LeverageChanged(symbol, margin_mode, before, after):
            mode = margin_mode.value.lower()
            return "leverage_changed", {"symbol": symbol, "margin_mode": mode, "before": before, "after": after}
        case MarginModeChanged(symbol, before, after):
            return "margin_mode_changed", {"symbol": symbol, "before": before.lower(), "after": after.lower()}
        case MarketChanged(symbol, before, after):
            kind = "market_delisted" if after in _LEAVING else "market_changed"
            return kind, {"symbol": symbol, "before": before.lower(), "after": after.lower()}
        case RulesChanged(symbol, rules):
            changes = [f"{name} from {as_text(before)} to {as_text(after)}" for name, (before, after) in rules.items()]
            return "market_rules_changed", {"symbol": symbol, "changes": ", ".join(changes)}
        case TopicRefused(topic, reason):
            return "topic_refused", {"topic": topic, "reason": reason}
        case RecordsChanged():
            return None
