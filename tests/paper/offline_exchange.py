"""A paper exchange without a network for fast tests: the test advances its clock and timers."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.paper.exchange import SimulatedExchange
from kekbridge.paper.journal import PaperJournal
from kekbridge.paper.models import PaperOrder
from kekbridge.paper.requests import parse_order
from kekbridge.paper.settings import PaperSettings

START_MS = 1_790_000_000_000


class OfflineExchange:
    """One simulated exchange on a manual clock."""

    def __init__(self, path: Path, settings: PaperSettings | None = None) -> None:
        self.now = START_MS
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.journal = PaperJournal(path)
        self.settings = settings or PaperSettings(prices="static")
        self.exchange = SimulatedExchange(self.journal, self.settings, lambda: self.now, self._schedule)

    def _schedule(self, delay_ms: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._timers, (self.now + delay_ms, self._count, action))

    def run(self) -> None:
        """Run all timers in order, and advance the clock with them."""
        while self._timers:
            at, _, action = heapq.heappop(self._timers)
            self.now = max(self.now, at)
            action()

    def order(self, **fields: Any) -> PaperOrder:
        """Place a plain order (default: BTC, BUY, MARKET, 0.01); ApiError if it is rejected."""
        body = {"symbol": "PERP_BTC_USDC", "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"}
        matching = self.exchange.matching
        with self.exchange.state.transaction():
            return matching.place(matching.build(parse_order({**body, **fields})))

    def price(self, symbol: str, price: str | Decimal) -> None:
        """Set a mark price."""
        self.exchange.set_price(symbol, Decimal(price), "override")

    def held(self, symbol: str, mode: str = "CROSS") -> Decimal:
        """Return the signed quantity of a position."""
        position = self.exchange.state.positions.get((symbol, mode))
        return position.qty if position else Decimal(0)
