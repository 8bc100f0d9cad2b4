"""The state of the paper exchange in memory, and the one way to change it: inside a transaction.

Every change is noted with `touch`, every fact with `event`; leaving the outermost transaction stores both
together and only then tells the listeners (streams). No matching or money rules here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kekbridge.paper.codec import Refusal
from kekbridge.paper.instruments import Instrument
from kekbridge.paper.journal import Ledger
from kekbridge.paper.models import Account, Algo, Choice, Entry, Key, Mark, Order, Position, Record, Trade
from kekbridge.paper.settings import PAPER_KEY_SCOPE, PAPER_KEY_TAG, PAPER_ORDERLY_KEY, PaperSettings

Notice = tuple[str, Any]
Later = Callable[[int, Callable[[], None]], None]
YEAR_MS = 365 * 86_400_000


class Engine:
    """Rows, indexes, ids and transactions. Not thread-safe: it lives on one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        instruments: dict[str, Instrument],
        settings: PaperSettings,
        clock: Callable[[], int],
        later: Later,
    ) -> None:
        self.ledger = ledger
        self.instruments = instruments
        self.settings = settings
        self.clock = clock
        self.later = later
        self.listeners: list[Callable[[list[Notice]], None]] = []
        self._depth = 0
        self._touched: dict[tuple[str, str], Record] = {}
        self._events: list[dict[str, object]] = []
        self._notices: list[Notice] = []
        self._forget()
        self._restore()

    # --- state ---------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self.account = Account(self.settings.balance, self.settings.balance)
        self.keys: dict[str, Key] = {}
        self.orders: dict[int, Order] = {}
        self.algos: dict[int, Algo] = {}
        self.trades: dict[int, Trade] = {}
        self.positions: dict[tuple[str, str], Position] = {}
        self.marks: dict[str, Mark] = {}
        self.choices: dict[str, Choice] = {}
        self.entries: dict[str, list[Entry]] = defaultdict(list)
        self.open_orders: dict[int, Order] = {}
        self.open_algos: dict[int, Algo] = {}
        self.children: dict[int, list[Algo]] = defaultdict(list)
        self.trades_of: dict[int, list[Trade]] = defaultdict(list)
        self.order_by_client: dict[str, int] = {}
        self.algo_by_client: dict[str, int] = {}

    def _restore(self) -> None:
        stored = self.ledger.load()
        for record in stored:
            self._index(record)
        with self.transaction():
            if not stored:
                self.touch(self.account)
            for symbol, instrument in self.instruments.items():
                self._list(symbol, instrument)
            if PAPER_ORDERLY_KEY not in self.keys:
                now = self.clock()
                self.add_row(
                    Key(
                        PAPER_ORDERLY_KEY,
                        PAPER_KEY_SCOPE,
                        now + YEAR_MS,
                        PAPER_KEY_TAG,
                    )
                )

    def _list(self, symbol: str, instrument: Instrument) -> None:
        if symbol not in self.marks:
            price = instrument.mark_price
            self.add_row(Mark(symbol, price, open_24h=price, high_24h=price, low_24h=price))
        elif symbol in self.settings.marks and self.marks[symbol].source == "snapshot":
            self.marks[symbol].price = instrument.mark_price
            self.touch(self.marks[symbol])
        if symbol not in self.choices:
            leverage = min(self.settings.leverage, int(1 / instrument.base_imr))
            self.add_row(Choice(symbol, leverage, leverage))

    def _index(self, record: Record) -> None:
        match record:
            case Account():
                self.account = record
            case Key():
                self.keys[record.orderly_key] = record
            case Order():
                self.orders[record.order_id] = record
                if record.is_open:
                    self.open_orders[record.order_id] = record
                if record.client_order_id is not None:
                    self.order_by_client[record.client_order_id] = record.order_id
            case Algo():
                self.algos[record.algo_order_id] = record
                if record.is_open:
                    self.open_algos[record.algo_order_id] = record
                if record.parent_id:
                    self.children[record.parent_id].append(record)
                if record.client_order_id is not None:
                    self.algo_by_client[record.client_order_id] = record.algo_order_id
            case Trade():
                self.trades[record.trade_id] = record
                self.trades_of[record.order_id].append(record)
            case Position():
                self.positions[record.symbol, record.margin_mode] = record
            case Mark():
                self.marks[record.symbol] = record
            case Choice():
                self.choices[record.symbol] = record
            case Entry():
                self.entries[record.book].append(record)

    def add_row(self, record: Record) -> None:
        """Put a new row into the state."""
        self._index(record)
        self.touch(record)

    def touch(self, record: Record) -> None:
        """Note that a row has changed, so that it is stored with the running transaction."""
        self._touched[record.kind, record.row_id] = record
        match record:
            case Order() if not record.is_open:
                self.open_orders.pop(record.order_id, None)
            case Algo():
                if record.is_open:
                    self.open_algos[record.algo_order_id] = record
                else:
                    self.open_algos.pop(record.algo_order_id, None)

    # --- transactions --------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Changes inside belong together; the outermost one stores them and then tells the listeners."""
        self._depth += 1
        try:
            yield
        finally:
            # Also after a Refusal: the journal must say that somebody asked and was refused.
            self._depth -= 1
            if self._depth == 0:
                self._commit()

    def _commit(self) -> None:
        if not self._touched and not self._events and not self._notices:
            return
        rows = list(self._touched.values())
        if any(row.kind in ("order", "algo", "trade", "entry", "position") for row in rows):
            rows.append(self.account)  # the counters
        events, notices = self._events, self._notices
        self._touched, self._events, self._notices = {}, [], []
        self.ledger.commit({(row.kind, row.row_id): row for row in rows}.values(), events)
        for listener in self.listeners:
            listener(notices)

    def event(self, name: str, **facts: object) -> None:
        """Write a line into the journal; None values are kept, Decimals become text."""
        self._events.append({"event": name, "t": self.clock(), **facts})

    def order_event(self, name: str, order: Order, **facts: object) -> None:
        """A line about a plain order: which one it is, and what is told of it."""
        self.event(
            name,
            symbol=order.symbol,
            client_order_id=order.client_order_id,
            order_id=order.order_id,
            side=order.side,
            **facts,
        )

    def algo_event(self, name: str, node: Algo, *, client_order_id: str | None, **facts: object) -> None:
        """A line about a node of an algo order; whose name it goes by depends on what happened."""
        self.event(
            name,
            algo=True,
            symbol=node.symbol,
            client_order_id=client_order_id,
            order_id=node.algo_order_id,
            **facts,
        )

    def notice(self, topic: str, data: object) -> None:
        """Queue something for the streams; it leaves after the transaction is stored."""
        self._notices.append((topic, data))

    def reset(self) -> None:
        """A fresh account: flat, no orders, start balance, start prices, journal emptied."""
        self.ledger.clear()
        self._touched, self._events, self._notices = {}, [], []
        self._forget()
        self._restore()

    # --- look-ups ------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """A new id for orders, algo orders, trades and history lines (one rising sequence)."""
        self.account.next_id += 1
        return self.account.next_id

    def next_seq(self) -> int:
        """A rising number beyond 2^53, as the exchange's `seq` and `match_id` are."""
        self.account.next_seq += 1
        return 1_790_000_000_000_000_000 + self.account.next_seq

    def instrument(self, symbol: str) -> Instrument:
        """The rules of a listed symbol; Refusal -1005 for an unknown one."""
        found = self.instruments.get(symbol)
        if found is None:
            raise Refusal(-1005, f"symbol {symbol[:40]!r} is not listed.")
        return found

    def position(self, symbol: str, margin_mode: str) -> Position:
        """The position row, made on first use."""
        found = self.positions.get((symbol, margin_mode))
        if found is None:
            found = Position(symbol, margin_mode, last_funding=self.marks[symbol].funding_sum)
            self.positions[symbol, margin_mode] = found
        return found

    def leverage(self, symbol: str, margin_mode: str) -> int:
        """The leverage chosen for a symbol in a margin mode."""
        choice = self.choices[symbol]
        return choice.cross_leverage if margin_mode == "CROSS" else choice.isolated_leverage
