"""State of the paper exchange in memory, and the transactions that change it.

Inside `transaction`, `save` marks changed rows, `record_event` adds to the journal and `publish` queues stream
updates. Leaving the outermost transaction commits rows and events together, then hands the updates to the listeners.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kekbridge.paper.codec import ApiError
from kekbridge.paper.instruments import PaperInstrument
from kekbridge.paper.journal import PaperJournal
from kekbridge.paper.models import (
    AlgoNode,
    ApiKey,
    HistoryEntry,
    PaperAccount,
    PaperMark,
    PaperOrder,
    PaperPosition,
    PaperTrade,
    PaperWallet,
    Record,
    SymbolSettings,
)
from kekbridge.paper.settings import (
    PAPER_ACCOUNT_ID,
    PAPER_ADDRESS,
    PAPER_KEY_SCOPE,
    PAPER_KEY_TAG,
    PAPER_ORDERLY_KEY,
    PaperSettings,
)
from kekbridge.paper.traded import TradedSince

#: (topic or name of the change, its data): input of the streams.
StreamUpdate = tuple[str, Any]
#: Calls an action after a delay in ms.
Schedule = Callable[[int, Callable[[], None]], None]
YEAR_MS = 365 * 86_400_000


class ExchangeState:
    """Rows, indexes, IDs and transactions. Not thread-safe: use it on one event loop."""

    def __init__(
        self,
        journal: PaperJournal,
        instruments: dict[str, PaperInstrument],
        settings: PaperSettings,
        clock: Callable[[], int],
        schedule: Schedule,
    ) -> None:
        self.journal = journal
        self.instruments = instruments
        self.settings = settings
        self.clock = clock
        self.schedule = schedule
        self.listeners: list[Callable[[list[StreamUpdate]], None]] = []
        self._transaction_depth = 0
        self._changed_rows: dict[tuple[str, str], Record] = {}
        self._events: list[dict[str, object]] = []
        self._updates: list[StreamUpdate] = []
        self._clear()
        self._load()

    # --- state ---------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self.account = PaperAccount(self.settings.balance, self.settings.balance)
        self.keys: dict[str, ApiKey] = {}
        self.wallets: dict[str, PaperWallet] = {}  # by account
        self.orders: dict[int, PaperOrder] = {}
        self.algos: dict[int, AlgoNode] = {}
        self.trades: dict[int, PaperTrade] = {}
        self.positions: dict[tuple[str, str], PaperPosition] = {}
        self.marks: dict[str, PaperMark] = {}
        self.symbol_settings: dict[str, SymbolSettings] = {}
        self.history: dict[str, list[HistoryEntry]] = defaultdict(list)
        self.open_orders: dict[int, PaperOrder] = {}
        self.open_algos: dict[int, AlgoNode] = {}
        self.children: dict[int, list[AlgoNode]] = defaultdict(list)
        self.trades_of: dict[int, list[PaperTrade]] = defaultdict(list)
        self.traded: dict[tuple[str, str], TradedSince] = defaultdict(TradedSince)  # by symbol and margin mode
        self.order_by_client: dict[str, int] = {}
        self.algo_by_client: dict[str, int] = {}

    def _load(self) -> None:
        stored = self.journal.load()
        for record in stored:
            self._index(record)
        with self.transaction():
            if not stored:
                self.save(self.account)
            for symbol, instrument in self.instruments.items():
                self._add_symbol(symbol, instrument)
            if self.settings.registered and PAPER_ACCOUNT_ID not in self.wallets:
                self.add(PaperWallet(PAPER_ADDRESS, PAPER_ACCOUNT_ID))
            if PAPER_ORDERLY_KEY not in self.keys:
                now = self.clock()
                self.add(
                    ApiKey(
                        PAPER_ORDERLY_KEY,
                        PAPER_KEY_SCOPE,
                        now + YEAR_MS,
                        PAPER_KEY_TAG,
                    )
                )

    def _add_symbol(self, symbol: str, instrument: PaperInstrument) -> None:
        if symbol not in self.marks:
            price = instrument.mark_price
            self.add(PaperMark(symbol, price, open_24h=price, high_24h=price, low_24h=price))
        elif symbol in self.settings.marks and self.marks[symbol].source == "snapshot":
            self.marks[symbol].price = instrument.mark_price
            self.save(self.marks[symbol])
        if symbol not in self.symbol_settings:
            leverage = min(self.settings.leverage, int(1 / instrument.base_imr))
            self.add(SymbolSettings(symbol, leverage, leverage))

    def _index(self, record: Record) -> None:
        match record:
            case PaperAccount():
                self.account = record
            case ApiKey():
                self.keys[record.orderly_key] = record
            case PaperWallet():
                self.wallets[record.account_id] = record
            case PaperOrder():
                self.orders[record.order_id] = record
                if record.is_open:
                    self.open_orders[record.order_id] = record
                if record.client_order_id is not None:
                    self.order_by_client[record.client_order_id] = record.order_id
            case AlgoNode():
                self.algos[record.algo_order_id] = record
                if record.is_open:
                    self.open_algos[record.algo_order_id] = record
                if record.parent_id:
                    self.children[record.parent_id].append(record)
                if record.client_order_id is not None:
                    self.algo_by_client[record.client_order_id] = record.algo_order_id
            case PaperTrade():
                self.trades[record.trade_id] = record
                self.trades_of[record.order_id].append(record)
                self.traded[record.symbol, record.margin_mode].add(record)
            case PaperPosition():
                self.positions[record.symbol, record.margin_mode] = record
            case PaperMark():
                self.marks[record.symbol] = record
            case SymbolSettings():
                self.symbol_settings[record.symbol] = record
            case HistoryEntry():
                self.history[record.book].append(record)

    def add(self, record: Record) -> None:
        """Add a new row to the state and save it."""
        self._index(record)
        self.save(record)

    def save(self, record: Record) -> None:
        """Store a changed row with the running transaction."""
        self._changed_rows[record.kind, record.row_id] = record
        match record:
            case PaperOrder() if not record.is_open:
                self.open_orders.pop(record.order_id, None)
            case AlgoNode():
                if record.is_open:
                    self.open_algos[record.algo_order_id] = record
                else:
                    self.open_algos.pop(record.algo_order_id, None)

    # --- transactions --------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group changes; leaving the outermost transaction commits them and calls the listeners.

        After an ApiError it commits, too: a rejected request leaves its events in the journal.
        """
        self._transaction_depth += 1
        try:
            yield
        finally:
            self._transaction_depth -= 1
            if self._transaction_depth == 0:
                self._commit()

    def _commit(self) -> None:
        if not self._changed_rows and not self._events and not self._updates:
            return
        rows = list(self._changed_rows.values())
        if any(row.kind in ("order", "algo", "trade", "entry", "position") for row in rows):
            rows.append(self.account)  # the counters
        events, updates = self._events, self._updates
        self._changed_rows, self._events, self._updates = {}, [], []
        self.journal.commit({(row.kind, row.row_id): row for row in rows}.values(), events)
        for listener in self.listeners:
            listener(updates)

    def record_event(self, name: str, **facts: object) -> None:
        """Add an event to the journal; None values are kept, Decimals become text."""
        self._events.append({"event": name, "t": self.clock(), **facts})

    def record_order_event(self, name: str, order: PaperOrder, **facts: object) -> None:
        """Add an event about a plain order to the journal."""
        self.record_event(
            name,
            symbol=order.symbol,
            client_order_id=order.client_order_id,
            order_id=order.order_id,
            side=order.side,
            **facts,
        )

    def record_algo_event(self, name: str, node: AlgoNode, *, client_order_id: str | None, **facts: object) -> None:
        """Add an event about an algo order node to the journal.

        `client_order_id` is that of the node or of its root, depending on the event.
        """
        self.record_event(
            name,
            algo=True,
            symbol=node.symbol,
            client_order_id=client_order_id,
            order_id=node.algo_order_id,
            **facts,
        )

    def publish(self, topic: str, data: object) -> None:
        """Queue an update for the streams; it is sent after the commit."""
        self._updates.append((topic, data))

    def reset(self) -> None:
        """Start over with a fresh account: no positions or orders, start balance and prices, empty journal. IDs go on."""
        next_id, next_seq = self.account.next_id, self.account.next_seq
        self.journal.clear()
        self._changed_rows, self._events, self._updates = {}, [], []
        self._clear()
        self.account.next_id, self.account.next_seq = next_id, next_seq
        self._load()

    # --- lookups -------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """Return a new ID; orders, algo orders, trades and history lines share one sequence."""
        self.account.next_id += 1
        return self.account.next_id

    def next_seq(self) -> int:
        """Return a rising number beyond 2^53, like Orderly's `seq` and `match_id`."""
        self.account.next_seq += 1
        return 1_790_000_000_000_000_000 + self.account.next_seq

    def wallet(self, address: str) -> PaperWallet | None:
        """Return the account of a wallet; None if it is not registered."""
        return next((one for one in self.wallets.values() if one.address.lower() == address.lower()), None)

    def instrument(self, symbol: str) -> PaperInstrument:
        """Return the trading rules of a listed symbol; ApiError -1005 for an unknown one."""
        found = self.instruments.get(symbol)
        if found is None:
            raise ApiError(-1005, f"symbol {symbol[:40]!r} is not listed.")
        return found

    def position(self, symbol: str, margin_mode: str) -> PaperPosition:
        """Return the position row, created on first use."""
        found = self.positions.get((symbol, margin_mode))
        if found is None:
            found = PaperPosition(symbol, margin_mode, last_funding=self.marks[symbol].funding_sum)
            self.positions[symbol, margin_mode] = found
        return found

    def leverage(self, symbol: str, margin_mode: str) -> int:
        """Return the leverage of a symbol in a margin mode (CROSS or ISOLATED)."""
        choice = self.symbol_settings[symbol]
        return choice.cross_leverage if margin_mode == "CROSS" else choice.isolated_leverage
