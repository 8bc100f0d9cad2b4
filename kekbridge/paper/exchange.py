"""The simulated exchange without its network: state, portfolio, matching, algo orders and liquidation together.

Handles mark price changes, the passing of time, faults and keys. The server and tests call it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from kekbridge.paper import responses
from kekbridge.paper.algo_edits import AlgoEdits
from kekbridge.paper.algo_orders import AlgoOrders
from kekbridge.paper.codec import ApiError, parse_integer
from kekbridge.paper.faults import Faults
from kekbridge.paper.instruments import UNLISTED, load_instruments, with_rules
from kekbridge.paper.journal import PaperJournal
from kekbridge.paper.liquidation import Liquidation
from kekbridge.paper.matching import MatchingEngine
from kekbridge.paper.models import ApiKey
from kekbridge.paper.positions import CROSS, ISOLATED, Portfolio
from kekbridge.paper.settings import Options, PaperSettings
from kekbridge.paper.state import YEAR_MS, ExchangeState, Schedule, StreamUpdate

#: A live price younger than this takes precedence over a hint.
LIVE_FRESH_MS = 60_000
#: How often an unused live price is stored at least.
_STORE_INTERVAL_MS = 60_000
#: Lists whose largest page can be set.
PAGED = frozenset({"orders", "algo_orders", "trades", "funding_fee", "pnl_settlement", "liquidations", "asset_history"})
#: How long position snapshots are kept at least while reads lag.
_SNAPSHOTS_KEPT_MS = 10_000


class SimulatedExchange:
    """One paper exchange. Its methods run on one thread and never wait."""

    def __init__(
        self, journal: PaperJournal, settings: PaperSettings, clock: Callable[[], int], schedule: Schedule
    ) -> None:
        self.settings = settings
        self.faults = Faults(settings.seed)
        self.state = ExchangeState(journal, load_instruments(settings), settings, clock, schedule)
        self.portfolio = Portfolio(self.state)
        self.options = Options(
            reduce_only_needs_position=settings.reduce_only_needs_position,
            bracket_exits_count=settings.bracket_exits_count,
        )
        self.matching = MatchingEngine(self.state, self.portfolio, self.faults, self.options)
        self.algo_orders = AlgoOrders(self.state, self.portfolio, self.matching, self.options)
        self._position_snapshots: deque[tuple[int, dict[str, Any]]] = deque()
        self.state.listeners.append(self._snapshot_positions)
        self.algo_edits = AlgoEdits(self.algo_orders)
        self.liquidation = Liquidation(self.state, self.portfolio, self.matching, self.algo_orders)
        #: Largest page by kind of list (PAGED), where it is smaller than what may be asked for.
        self.page_sizes: dict[str, int] = {}
        self.nonces: dict[str, int] = {}  # issued registration nonces -> time of issue, ms

    def resume(self) -> None:
        """After a start: match orders that were accepted but not matched, finish requested cancels."""
        with self.state.transaction():
            self.matching.resume()

    # --- prices --------------------------------------------------------------------------------------------

    def set_price(self, symbol: str, price: Decimal, source: str) -> None:
        """Set a mark price in USDC; triggers, resting orders and liquidation follow before this returns.

        `source` is hint, live or override. ApiError -1005 for an unknown symbol.
        """
        state = self.state
        with state.transaction():
            state.instrument(symbol)
            mark = state.marks[symbol]
            if source == "override":
                # A price set by hand applies to later orders only: match earlier ones at the old price first.
                self.matching.match_pending(symbol)
            changed, now = mark.price != price, state.clock()
            if mark.source == "snapshot" and source != "snapshot":
                mark.open_24h = mark.high_24h = mark.low_24h = price
            # Live prices arrive every second; without positions or orders, storing one per minute is enough.
            must_store = source != "live" or now - mark.at >= _STORE_INTERVAL_MS or self._needs_mark(symbol)
            mark.price, mark.source = price, source
            mark.high_24h, mark.low_24h = max(mark.high_24h, price), min(mark.low_24h or price, price)
            if must_store:
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
        """Set live mark prices; skips unlisted symbols and those overridden by hand, which stay so until reset."""
        with self.state.transaction():
            for symbol, price in marks.items():
                if symbol in self.state.instruments and self.state.marks[symbol].source != "override":
                    self.set_price(symbol, price, "live")

    def hint_price(self, symbol: str, price: Decimal) -> bool:
        """Set a mark price that an alert contained, unless it is overridden or live and fresh; return whether it was set."""
        mark = self.state.marks.get(symbol)
        if mark is None or symbol not in self.state.instruments or mark.source == "override":
            return False
        if mark.source == "live" and self.state.clock() - mark.at < LIVE_FRESH_MS:
            return False
        self.set_price(symbol, price, "hint")
        return True

    # --- controls ------------------------------------------------------------------------------------------

    def set_positions(self, wanted: Mapping[str, Decimal]) -> None:
        """Set cross positions at the current mark prices; positions of other symbols are closed. Orders stay.

        `wanted` maps symbols to signed quantities. The PnL of replaced positions goes to the balance, so that the
        account value does not change.
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

    def set_isolated_position(self, symbol: str, quantity: Decimal, leverage: int | None) -> None:
        """Set one isolated position at the current mark price, as if opened in the front end; other positions and orders stay.

        `leverage`: of isolated positions in this market from now on; None: as it was.
        """
        state = self.state
        with state.transaction():
            if leverage is not None:
                state.symbol_settings[symbol].isolated_leverage = leverage
                state.save(state.symbol_settings[symbol])
            self.portfolio.replace_position(symbol, ISOLATED, quantity, state.clock())
            state.record_event("position_set", symbol=symbol, margin_mode=ISOLATED, quantity=quantity)

    def reset(self) -> None:
        """Start over with a fresh account, start prices, an empty journal, no faults, and the built-in rules and page sizes.

        IDs go on, as if the account had only been emptied, and options stay.
        """
        self.faults.armed.clear()
        self.page_sizes.clear()
        self.state.instruments = load_instruments(self.settings)
        self.state.reset()

    # --- settings and rules --------------------------------------------------------------------------------

    def choose_leverage(self, symbol: str, margin_mode: str, leverage: int) -> None:
        """Set the leverage of a symbol in a margin mode and report it on the stream."""
        choice = self.state.symbol_settings[symbol]
        if margin_mode == CROSS:
            choice.cross_leverage = leverage
        else:
            choice.isolated_leverage = leverage
        self.state.save(choice)
        self.state.publish("account", (symbol, margin_mode))

    def change_market(self, symbol: str, rules: Mapping[str, object] | None) -> None:
        """Change trading rules or the status of a listed market while running; None takes it off the list.

        Not stored: a restart lists the built-in rules again. ApiError -1005 for an unknown symbol or rule.
        """
        instrument = self.state.instrument(symbol)
        changed = replace(instrument, status=UNLISTED) if rules is None else with_rules(instrument, rules)
        self.state.instruments[symbol] = changed
        self.state.record_event("market", symbol=symbol, rules=None if rules is None else dict(rules))

    def deleverage(self, symbol: str, margin_mode: str, quantity: Decimal, price: Decimal | None) -> dict[str, object]:
        """Take `quantity` base units of a position over at a price (None: the mark), as auto-deleveraging does.

        There is no order, no trade and no fee; the position history names it. ApiError -1005 if the position is smaller.
        """
        state = self.state
        position = state.positions.get((symbol, margin_mode))
        if position is None or not 0 < quantity <= abs(position.qty):
            raise ApiError(-1005, "quantity must be above 0 and at most that of the position.")
        now = state.clock()
        at = state.marks[symbol].price if price is None else price
        part = -quantity if position.qty > 0 else quantity
        realized = self.portfolio.book(position, part, at, Decimal(0), now, kind="adl")
        facts: dict[str, object] = {
            "symbol": symbol, "margin_mode": margin_mode, "quantity": part, "price": at, "realized_pnl": realized,
        }  # fmt: skip
        state.record_event("adl", **facts)
        return facts

    # --- time ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Run the dead man's switch, due funding and the liquidation check; called once per second."""
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
        """Arm or clear faults (see faults.py); match orders that a cleared fault held back."""
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
        """Register or change a key without a wallet signature; ApiError -1005 for a malformed one."""
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
        """While the read_lag fault is armed, keep the response of `/v1/positions` after every change."""
        lag = self.faults.read_lag_ms()
        if not lag:
            self._position_snapshots.clear()
            return
        now = self.state.clock()
        self._position_snapshots.append((now, responses.positions_json(self.portfolio)))
        while len(self._position_snapshots) > 1 and self._position_snapshots[1][0] < now - max(lag, _SNAPSHOTS_KEPT_MS):
            self._position_snapshots.popleft()

    def positions_json(self) -> dict[str, Any]:
        """Return the response of `/v1/positions`, delayed by the read_lag fault."""
        lag = self.faults.read_lag_ms()
        if not lag or not self._position_snapshots:
            return responses.positions_json(self.portfolio)
        seen = [view for at, view in self._position_snapshots if at <= self.state.clock() - lag]
        return seen[-1] if seen else self._position_snapshots[0][1]
