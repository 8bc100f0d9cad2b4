"""The whole exchange without its network: prices in, orders in, consequences out.

It composes engine, clearing, trading and algo orders, and holds what happens when a mark moves or time
passes. The server and the tests drive it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from kekbridge.paper import responses
from kekbridge.paper.algo_edits import AlgoEdits
from kekbridge.paper.algo_orders import AlgoOrders
from kekbridge.paper.codec import ApiError, parse_integer
from kekbridge.paper.faults import Faults
from kekbridge.paper.instruments import load_instruments
from kekbridge.paper.journal import PaperJournal
from kekbridge.paper.liquidation import Liquidation
from kekbridge.paper.matching import MatchingEngine
from kekbridge.paper.models import ApiKey
from kekbridge.paper.positions import CROSS, Portfolio
from kekbridge.paper.settings import PaperSettings
from kekbridge.paper.state import YEAR_MS, ExchangeState, Schedule, StreamUpdate

LIVE_FRESH_MS = 60_000
_STORE_MS = 60_000
_LAG_KEPT_MS = 10_000


class SimulatedExchange:
    """One paper exchange; all methods run on one thread and finish at once."""

    def __init__(
        self, journal: PaperJournal, settings: PaperSettings, clock: Callable[[], int], schedule: Schedule
    ) -> None:
        self.settings = settings
        self.faults = Faults(settings.seed)
        self.state = ExchangeState(journal, load_instruments(settings), settings, clock, schedule)
        self.portfolio = Portfolio(self.state)
        self.matching = MatchingEngine(self.state, self.portfolio, self.faults)
        self.algo_orders = AlgoOrders(self.state, self.portfolio, self.matching)
        self._position_snapshots: deque[tuple[int, dict[str, Any]]] = deque()
        self.state.listeners.append(self._snapshot_positions)
        self.algo_edits = AlgoEdits(self.algo_orders)
        self.liquidation = Liquidation(self.state, self.portfolio, self.matching, self.algo_orders)
        self.is_registered = settings.registered
        self.nonces: dict[str, int] = {}  # registration nonces given out, and when

    def resume(self) -> None:
        """After a start: carry on with what was under way."""
        with self.state.transaction():
            self.matching.resume()

    # --- prices --------------------------------------------------------------------------------------------

    def set_price(self, symbol: str, price: Decimal, source: str) -> None:
        """Move a mark: triggers, resting orders and liquidation follow before this returns."""
        state = self.state
        with state.transaction():
            state.instrument(symbol)
            mark = state.marks[symbol]
            if source == "override":
                # Whoever sets a price by hand expects orders sent before to have met the old one.
                self.matching.match_pending(symbol)
            changed, now = mark.price != price, state.clock()
            if mark.source == "snapshot" and source != "snapshot":
                mark.open_24h = mark.high_24h = mark.low_24h = price
            # Live marks come every second; where nothing hangs on one, storing it once a minute is enough.
            worth_storing = source != "live" or now - mark.at >= _STORE_MS or self._needs_mark(symbol)
            mark.price, mark.source = price, source
            mark.high_24h, mark.low_24h = max(mark.high_24h, price), min(mark.low_24h or price, price)
            if worth_storing:
                state.save(mark)
            mark.at = now
            if not changed:
                return
            if source == "override":
                state.record_event("price", symbol=symbol, price=price, source=source)
            self.algo_orders.on_mark(symbol)
            self.matching.on_mark(symbol)
            if self._has_position(symbol):
                self.liquidation.check()
            state.publish("mark", mark)

    def _has_position(self, symbol: str) -> bool:
        return any(p.symbol == symbol and p.qty for p in self.state.positions.values())

    def _needs_mark(self, symbol: str) -> bool:
        state = self.state
        return (
            self._has_position(symbol)
            or any(order.symbol == symbol for order in state.open_orders.values())
            or any(node.symbol == symbol for node in state.open_algos.values())
        )

    def apply_live_prices(self, marks: Mapping[str, Decimal]) -> None:
        """Live marks, all at once; an override sticks until reset, unlisted symbols are passed over."""
        with self.state.transaction():
            for symbol, price in marks.items():
                if symbol in self.state.instruments and self.state.marks[symbol].source != "override":
                    self.set_price(symbol, price, "live")

    def hint_price(self, symbol: str, price: Decimal) -> bool:
        """A price that an alert told: used only without an override and without a fresh live price."""
        mark = self.state.marks.get(symbol)
        if mark is None or symbol not in self.state.instruments or mark.source == "override":
            return False
        if mark.source == "live" and self.state.clock() - mark.at < LIVE_FRESH_MS:
            return False
        self.set_price(symbol, price, "hint")
        return True

    # --- controls ------------------------------------------------------------------------------------------

    def set_positions(self, wanted: Mapping[str, Decimal]) -> None:
        """Set cross positions at the current marks; symbols not named become flat. Orders stay as they are.

        The result of the replaced positions goes to the balance, so the account's value does not jump.
        """
        state = self.state
        with state.transaction():
            for symbol in wanted:
                state.instrument(symbol)
            now = state.clock()
            targets = {(symbol, CROSS): qty for symbol, qty in wanted.items()}
            for key in list(state.positions.keys() | targets.keys()):
                symbol, mode = key
                if symbol not in state.instruments:
                    continue
                self.portfolio.replace_position(symbol, mode, targets.get(key, Decimal(0)), now)
                state.record_event(
                    "position_set", symbol=symbol, margin_mode=mode, quantity=targets.get(key, Decimal(0))
                )

    def reset(self) -> None:
        """Fresh account, start prices, empty journal; armed faults are cleared."""
        self.faults.armed.clear()
        self.state.reset()

    # --- time ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second: dead man's switch, funding at full UTC hours."""
        state = self.state
        with state.transaction():
            now = state.clock()
            if state.account.cancel_all_at and now >= state.account.cancel_all_at:
                state.account.cancel_all_at = 0
                state.save(state.account)
                self.matching.cancel_all(None)
                self.algo_orders.cancel_all(None, None)
            self.portfolio.pay_due_funding(now)
            self.liquidation.check()

    # --- faults and keys -----------------------------------------------------------------------------------

    def arm_faults(self, body: Mapping[str, Any]) -> None:
        """Arm or clear faults; orders that a cleared fault held back are matched now."""
        before = self.in_maintenance()
        self.faults.arm(body)
        self.state.publish("faults", None)
        if self.in_maintenance() != before:
            self.state.publish("maintenance", self.in_maintenance())
            if self.in_maintenance() and self.state.account.maintenance_cancel:
                self.matching.cancel_all(None)
                self.algo_orders.cancel_all(None, None)
        self.matching.match_pending()

    def set_key(self, body: Mapping[str, Any]) -> dict[str, object]:
        """Register or change a key without a wallet, for tests of scope, expiry and removal."""
        name = body.get("orderly_key")
        if not isinstance(name, str) or not name.startswith("ed25519:"):
            raise ApiError(-1005, "orderly_key must be text that begins with ed25519: .")
        key = self.state.keys.get(name)
        if key is None:
            key = ApiKey(name, "read,trading", self.state.clock() + YEAR_MS)
            self.state.add(key)
        key.scope = str(body.get("scope", key.scope))
        expiration = parse_integer(body.get("expiration"), "expiration")
        key.expiration = key.expiration if expiration is None else expiration
        key.status = str(body.get("status", key.status))
        self.state.save(key)
        if key.status != "ACTIVE":
            self.state.publish("key_removed", name)
        return {"orderly_key": name, "scope": key.scope, "expiration": key.expiration, "status": key.status}

    def in_maintenance(self) -> bool:
        """Whether the maintenance fault is armed."""
        return self.faults.is_armed("maintenance")

    # --- read lag ------------------------------------------------------------------------------------------

    def _snapshot_positions(self, _: list[StreamUpdate]) -> None:
        """While reads lag, keep what `/v1/positions` would have said after every change."""
        lag = self.faults.read_lag_ms()
        if not lag:
            self._position_snapshots.clear()
            return
        now = self.state.clock()
        self._position_snapshots.append((now, responses.positions_json(self.portfolio)))
        while len(self._position_snapshots) > 1 and self._position_snapshots[1][0] < now - max(lag, _LAG_KEPT_MS):
            self._position_snapshots.popleft()

    def positions_json(self) -> dict[str, Any]:
        """The answer of `/v1/positions`, as old as the read lag wants it."""
        lag = self.faults.read_lag_ms()
        if not lag or not self._position_snapshots:
            return responses.positions_json(self.portfolio)
        seen = [view for at, view in self._position_snapshots if at <= self.state.clock() - lag]
        return seen[-1] if seen else self._position_snapshots[0][1]
