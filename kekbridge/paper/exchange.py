"""The whole exchange without its network: prices in, orders in, consequences out.

It composes engine, clearing, trading and algo orders, and holds what happens when a mark moves or time
passes. The server and the tests drive it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from kekbridge.paper import responses as views
from kekbridge.paper.algo_edits import AlgoEdits
from kekbridge.paper.algo_orders import Algos
from kekbridge.paper.codec import Refusal, integer
from kekbridge.paper.faults import Faults
from kekbridge.paper.instruments import load_instruments
from kekbridge.paper.journal import Ledger
from kekbridge.paper.liquidation import Liquidation
from kekbridge.paper.matching import Trading
from kekbridge.paper.models import Key
from kekbridge.paper.positions import CROSS, Clearing
from kekbridge.paper.settings import PaperSettings
from kekbridge.paper.state import YEAR_MS, Engine, Later, Notice

LIVE_FRESH_MS = 60_000
_STORE_MS = 60_000
_LAG_KEPT_MS = 10_000


class Venue:
    """One paper exchange; all methods run on one thread and finish at once."""

    def __init__(self, ledger: Ledger, settings: PaperSettings, clock: Callable[[], int], later: Later) -> None:
        self.settings = settings
        self.faults = Faults(settings.seed)
        self.engine = Engine(ledger, load_instruments(settings), settings, clock, later)
        self.clearing = Clearing(self.engine)
        self.trading = Trading(self.engine, self.clearing, self.faults)
        self.algos = Algos(self.engine, self.clearing, self.trading)
        self._past: deque[tuple[int, dict[str, Any]]] = deque()
        self.engine.listeners.append(self._remember_positions)
        self.algo_edits = AlgoEdits(self.algos)
        self.liquidation = Liquidation(self.engine, self.clearing, self.trading, self.algos)
        self.is_registered = settings.registered
        self.nonces: dict[str, int] = {}  # registration nonces given out, and when

    def resume(self) -> None:
        """After a start: carry on with what was under way."""
        with self.engine.transaction():
            self.trading.resume()

    # --- prices --------------------------------------------------------------------------------------------

    def set_price(self, symbol: str, price: Decimal, source: str) -> None:
        """Move a mark: triggers, resting orders and liquidation follow before this returns."""
        engine = self.engine
        with engine.transaction():
            engine.instrument(symbol)
            mark = engine.marks[symbol]
            if source == "override":
                # Whoever sets a price by hand expects orders sent before to have met the old one.
                self.trading.match_waiting(symbol)
            changed, now = mark.price != price, engine.clock()
            if mark.source == "snapshot" and source != "snapshot":
                mark.open_24h = mark.high_24h = mark.low_24h = price
            # Live marks come every second; where nothing hangs on one, storing it once a minute is enough.
            worth_storing = source != "live" or now - mark.at >= _STORE_MS or self._matters(symbol)
            mark.price, mark.source = price, source
            mark.high_24h, mark.low_24h = max(mark.high_24h, price), min(mark.low_24h or price, price)
            if worth_storing:
                engine.touch(mark)
            mark.at = now
            if not changed:
                return
            if source == "override":
                engine.event("price", symbol=symbol, price=price, source=source)
            self.algos.on_mark(symbol)
            self.trading.on_mark(symbol)
            if self._held(symbol):
                self.liquidation.check()
            engine.notice("mark", mark)

    def _held(self, symbol: str) -> bool:
        return any(p.symbol == symbol and p.qty for p in self.engine.positions.values())

    def _matters(self, symbol: str) -> bool:
        engine = self.engine
        return (
            self._held(symbol)
            or any(order.symbol == symbol for order in engine.open_orders.values())
            or any(node.symbol == symbol for node in engine.open_algos.values())
        )

    def live_prices(self, marks: Mapping[str, Decimal]) -> None:
        """Live marks, all at once; an override sticks until reset, unlisted symbols are passed over."""
        with self.engine.transaction():
            for symbol, price in marks.items():
                if symbol in self.engine.instruments and self.engine.marks[symbol].source != "override":
                    self.set_price(symbol, price, "live")

    def hint_price(self, symbol: str, price: Decimal) -> bool:
        """A price that an alert told: used only without an override and without a fresh live price."""
        mark = self.engine.marks.get(symbol)
        if mark is None or symbol not in self.engine.instruments or mark.source == "override":
            return False
        if mark.source == "live" and self.engine.clock() - mark.at < LIVE_FRESH_MS:
            return False
        self.set_price(symbol, price, "hint")
        return True

    # --- controls ------------------------------------------------------------------------------------------

    def set_positions(self, wanted: Mapping[str, Decimal]) -> None:
        """Set cross positions at the current marks; symbols not named become flat. Orders stay as they are.

        The result of the replaced positions goes to the balance, so the account's value does not jump.
        """
        engine = self.engine
        with engine.transaction():
            for symbol in wanted:
                engine.instrument(symbol)
            now = engine.clock()
            targets = {(symbol, CROSS): qty for symbol, qty in wanted.items()}
            for key in list(engine.positions.keys() | targets.keys()):
                symbol, mode = key
                if symbol not in engine.instruments:
                    continue
                self.clearing.replace(symbol, mode, targets.get(key, Decimal(0)), now)
                engine.event("position_set", symbol=symbol, margin_mode=mode, quantity=targets.get(key, Decimal(0)))

    def reset(self) -> None:
        """Fresh account, start prices, empty journal; armed faults are cleared."""
        self.faults.armed.clear()
        self.engine.reset()

    # --- time ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second: dead man's switch, funding at full UTC hours."""
        engine = self.engine
        with engine.transaction():
            now = engine.clock()
            if engine.account.cancel_all_at and now >= engine.account.cancel_all_at:
                engine.account.cancel_all_at = 0
                engine.touch(engine.account)
                self.trading.cancel_all(None)
                self.algos.cancel_all(None, None)
            self.clearing.funding_due(now)
            self.liquidation.check()

    # --- faults and keys -----------------------------------------------------------------------------------

    def arm(self, body: Mapping[str, Any]) -> None:
        """Arm or clear faults; orders that a cleared fault held back are matched now."""
        before = self.maintenance()
        self.faults.arm(body)
        self.engine.notice("faults", None)
        if self.maintenance() != before:
            self.engine.notice("maintenance", self.maintenance())
            if self.maintenance() and self.engine.account.maintenance_cancel:
                self.trading.cancel_all(None)
                self.algos.cancel_all(None, None)
        self.trading.match_waiting()

    def set_key(self, body: Mapping[str, Any]) -> dict[str, object]:
        """Register or change a key without a wallet, for tests of scope, expiry and removal."""
        name = body.get("orderly_key")
        if not isinstance(name, str) or not name.startswith("ed25519:"):
            raise Refusal(-1005, "orderly_key must be text that begins with ed25519: .")
        key = self.engine.keys.get(name)
        if key is None:
            key = Key(name, "read,trading", self.engine.clock() + YEAR_MS)
            self.engine.add_row(key)
        key.scope = str(body.get("scope", key.scope))
        expiration = integer(body.get("expiration"), "expiration")
        key.expiration = key.expiration if expiration is None else expiration
        key.status = str(body.get("status", key.status))
        self.engine.touch(key)
        if key.status != "ACTIVE":
            self.engine.notice("key_removed", name)
        return {"orderly_key": name, "scope": key.scope, "expiration": key.expiration, "status": key.status}

    def maintenance(self) -> bool:
        """Whether the maintenance fault is armed."""
        return self.faults.active("maintenance")

    # --- read lag ------------------------------------------------------------------------------------------

    def _remember_positions(self, _: list[Notice]) -> None:
        """While reads lag, keep what `/v1/positions` would have said after every change."""
        lag = self.faults.read_lag_ms()
        if not lag:
            self._past.clear()
            return
        now = self.engine.clock()
        self._past.append((now, views.positions_view(self.clearing)))
        while len(self._past) > 1 and self._past[1][0] < now - max(lag, _LAG_KEPT_MS):
            self._past.popleft()

    def positions_view(self) -> dict[str, Any]:
        """The answer of `/v1/positions`, as old as the read lag wants it."""
        lag = self.faults.read_lag_ms()
        if not lag or not self._past:
            return views.positions_view(self.clearing)
        seen = [view for at, view in self._past if at <= self.engine.clock() - lag]
        return seen[-1] if seen else self._past[0][1]
