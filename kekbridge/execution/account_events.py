"""Changes of the account and its markets that kekbridge did not make, written into the history, from which the
notifier sends its messages.

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
from kekbridge.store import codec, facts, journal
from kekbridge.store.database import Database

_LEAVING: Final = frozenset({"DELISTING", "DELISTED"})


class AccountEvents:
    """Writes a row for each event; one per daemon."""

    def __init__(self, *, book: Book, database: Database, exchange: Exchange, clock: Callable[[], datetime]) -> None:
        self._book = book
        self._database = database
        self._exchange = exchange
        self._clock = clock
        exchange.listen_events(self._on_event)

    async def note_leaving_markets(self) -> None:
        """At a start: write down a market that is delisted while the account holds a position in it, unless the history says so."""
        snapshot = self._exchange.snapshot
        if snapshot is None:
            return
        held = {each.symbol for each in (*snapshot.positions.values(), *snapshot.other_positions) if each.quantity}
        leaving = {symbol: one.status for symbol, one in snapshot.instruments.items() if one.status in _LEAVING}
        for symbol in sorted(held & leaving.keys()):
            _, data = _market_event(symbol, None, leaving[symbol])
            known = await self._database.read(journal.latest, kinds=["market_delisted"], of_alerts=False)
            if not any((one.data["symbol"], one.data["after"]) == (symbol, data["after"]) for one in known):
                self._on_event(MarketChanged(symbol, None, leaving[symbol]))

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
            return _market_event(symbol, before, after)
        case RulesChanged(symbol, rules):
            changes = [f"{name} from {as_text(before)} to {as_text(after)}" for name, (before, after) in rules.items()]
            return "market_rules_changed", {"symbol": symbol, "changes": ", ".join(changes)}
        case TopicRefused(topic, reason):
            return "topic_refused", {"topic": topic, "reason": reason}
        case RecordsChanged():
            return None


def _market_event(symbol: str, before: str | None, after: str) -> tuple[str, Mapping[str, object]]:
    kind = "market_delisted" if after in _LEAVING else "market_changed"
    return kind, {"symbol": symbol, "before": before and before.lower(), "after": after.lower()}
