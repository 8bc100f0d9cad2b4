"""Matching engine: accepts, matches, edits and cancels plain orders. See docs/internals/orderly.md, section 6.

Liquidity at the mark price is unlimited: an order that crosses it fills there as taker; a resting order fills at its
own price as maker once the mark price reaches it. The response to a create is sent before the order is matched.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from kekbridge.paper import filters, stream_messages
from kekbridge.paper.codec import ApiError
from kekbridge.paper.faults import Faults
from kekbridge.paper.models import ZERO, PaperOrder, PaperTrade
from kekbridge.paper.positions import Portfolio
from kekbridge.paper.requests import OrderRequest
from kekbridge.paper.settings import Options
from kekbridge.paper.state import ExchangeState

_CROSSING = frozenset({"IOC", "FOK"})
#: Pause between the partial fills of one order.
PART_DELAY_MS = 5
#: Time from an accepted edit or cancel request to its effect.
EDIT_DELAY_MS = 2


class MatchingEngine:
    """Manages plain orders. `on_fill` and `on_done` are called so that algo orders can follow them."""

    def __init__(self, state: ExchangeState, portfolio: Portfolio, faults: Faults, options: Options) -> None:
        self.state = state
        self.portfolio = portfolio
        self.faults = faults
        self.options = options
        self.on_fill: Callable[[PaperOrder, PaperTrade], None] = lambda order, trade: None
        self.on_done: Callable[[PaperOrder], None] = lambda order: None

    # --- acceptance ----------------------------------------------------------------------------------------

    def build(self, request: OrderRequest, *, closing: bool = False) -> PaperOrder:
        """Check a request and return the order, not accepted yet; ApiError with Orderly's code if a check fails.

        Checked in this order: symbol, price, quantity, notional, price range, client order ID, position, margin.
        `closing` skips the quantity limits, so that an exit can close a position of any size.
        """
        state = self.state
        instrument = state.instrument(request.symbol)
        filters.check_status(instrument, reduce_only=closing or request.reduce_only)
        mark = state.marks[request.symbol].price
        price = request.price if request.price is not None else self._book_price(request)
        quantity = request.quantity
        if quantity is None:
            quantity = filters.floor_to((request.amount or ZERO) / (price or mark), instrument.base_tick)
        if price is not None:
            filters.check_price(instrument, price)
        if not closing:
            filters.check_size(instrument, quantity)
        visible = quantity if request.visible is None else request.visible
        if request.visible is not None and request.type not in ("MARKET", "IOC", "FOK"):
            filters.check_visible(instrument, visible, quantity)
        if not request.reduce_only:
            filters.check_notional(instrument, price if price is not None else mark, quantity)
        if price is not None:
            filters.check_range(instrument, mark, request.side, price)
        self._check_client_id(request.client_order_id)
        mode = request.margin_mode or state.symbol_settings[request.symbol].margin_mode
        if request.reduce_only:
            self.check_reducible(request.symbol, mode, request.side)
        now = state.clock()
        order = PaperOrder(
            order_id=0,
            symbol=request.symbol,
            side=request.side,
            type=request.type,
            quantity=quantity,
            margin_mode=mode,
            created=now,
            updated=now,
            price=price,
            amount=request.amount,
            visible=visible if request.type not in ("MARKET", "IOC", "FOK") else ZERO,
            client_order_id=request.client_order_id,
            reduce_only=request.reduce_only,
            order_tag=request.order_tag,
            slippage=request.slippage,
            reference=mark,
            adjust=request.adjust,
        )
        self.portfolio.check_margin(order)
        return order

    def _book_price(self, request: OrderRequest) -> Decimal | None:
        if request.type not in ("ASK", "BID"):
            return None
        ask, bid = self.quote(request.symbol, request.level)
        return ask if request.type == "ASK" else bid

    def quote(self, symbol: str, level: int = 0) -> tuple[Decimal, Decimal]:
        """Return (ask, bid) of a level of the order book around the mark price, in USDC; levels are one tick apart."""
        tick = self.state.instruments[symbol].quote_tick
        mark = self.state.marks[symbol].price
        ask = filters.floor_to(mark, tick) + tick * (level + 1)
        bid = filters.ceil_to(mark, tick) - tick * (level + 1)
        return ask, max(bid, tick)

    def _check_client_id(self, client_order_id: str | None) -> None:
        # Unique among open orders only, as on Orderly: a finished order frees its ID, so it does not prevent duplicates.
        if client_order_id is None:
            return
        earlier = self.state.orders.get(self.state.order_by_client.get(client_order_id, 0))
        if earlier is not None and earlier.is_open:
            raise ApiError(-1007, f"client_order_id {client_order_id} belongs to an open order.")

    def place(self, order: PaperOrder, *, algo_id: int = 0) -> PaperOrder:
        """Accept a checked order: it becomes NEW and is matched `match_delay_ms` later."""
        state = self.state
        order.order_id = state.next_id()
        order.algo_id = algo_id
        if not algo_id and self.faults.hit("lose_order", symbol=order.symbol):
            state.record_order_event("order_lost", order, quantity=order.quantity)
            return order
        state.add(order)
        state.record_order_event(
            "order_accepted",
            order,
            type=order.type,
            quantity=order.quantity,
            price=order.price,
            reduce_only=order.reduce_only,
            margin_mode=order.margin_mode,
            algo_order_id=algo_id or None,
        )
        self.report(order)
        state.schedule(state.settings.match_delay_ms, lambda: self.match_if_new(order.order_id))
        return order

    def report(self, order: PaperOrder, trade: PaperTrade | None = None, status: str | None = None) -> None:
        """Queue an execution report for the private stream; `status` overrides that of the order."""
        self.state.publish("executionreport", stream_messages.execution(self.state, order, trade, status))

    # --- matching ------------------------------------------------------------------------------------------

    def match_if_new(self, order_id: int) -> None:
        """Match an accepted order that is neither resting nor partly filled."""
        with self.state.transaction():
            order = self.state.open_orders.get(order_id)
            if order is not None and not order.resting and not order.executed:
                self.match(order)

    def match(self, order: PaperOrder) -> None:
        """Match a new order against the mark price, by its type."""
        mark = self.state.marks[order.symbol].price
        if order.type == "MARKET" and self.faults.is_armed("no_fill"):
            return
        if order.type == "MARKET":
            bound = order.slippage
            if bound is not None and abs(mark - order.reference) > bound * order.reference:
                self.cancel(order, "slippage")
            else:
                self._trade_at(order, mark)
            return
        crosses = self.crosses(order, mark)
        if order.type == "POST_ONLY" and crosses:
            if not order.adjust:
                self.cancel(order, "post_only would match")
                return
            ask, bid = self.quote(order.symbol)
            order.price = bid if order.side == "BUY" else ask
            crosses = False
        if crosses:
            self._trade_at(order, mark)
        elif order.type in _CROSSING:
            self.cancel(order, "nothing to match")
        else:
            order.resting = True
            self.state.save(order)

    @staticmethod
    def crosses(order: PaperOrder, mark: Decimal) -> bool:
        """Return whether an order would fill at this mark price."""
        if order.price is None:
            return True
        return order.price >= mark if order.side == "BUY" else order.price <= mark

    def _trade_at(self, order: PaperOrder, price: Decimal, *, is_maker: bool = False) -> None:
        """Fill an order at a price; a reduce-only order at most by the position, the rest is canceled."""
        quantity = order.left
        if order.reduce_only:
            quantity = min(quantity, self.reducible(order))
        parts = self.faults.fill_parts(order.symbol) if quantity else 1
        if parts > 1 and order.type != "FOK":
            step = self.state.instruments[order.symbol].base_tick
            part = max(filters.floor_to(quantity / parts, step), step)
            if part < quantity:
                self._fill(order, price, part, is_maker=is_maker)
                self._schedule_parts(order.order_id, part, is_maker)
                return
        if quantity:
            self._fill(order, price, quantity, is_maker=is_maker)
        if order.is_open:
            self.cancel(order, "reduce_only")

    def _schedule_parts(self, order_id: int, part: Decimal, is_maker: bool) -> None:
        def next_part() -> None:
            with self.state.transaction():
                order = self.state.open_orders.get(order_id)
                if order is None:
                    return
                mark = self.state.marks[order.symbol].price
                if not self.crosses(order, mark) and not is_maker:
                    if order.type in _CROSSING:
                        self.cancel(order, "nothing left to match")
                    else:
                        order.resting = True
                        self.state.save(order)
                    return
                price = order.price if is_maker and order.price is not None else mark
                quantity = min(part, order.left)
                if order.reduce_only:
                    quantity = min(quantity, self.reducible(order))
                if quantity:
                    self._fill(order, price, quantity, is_maker=is_maker)
                if order.is_open and not quantity:
                    self.cancel(order, "reduce_only")
                elif order.is_open:
                    self._schedule_parts(order_id, part, is_maker)

        self.state.schedule(PART_DELAY_MS, next_part)

    def reducible(self, order: PaperOrder) -> Decimal:
        """Return how much of the position, in base units, an order of this side can close."""
        return self._reducible(order.symbol, order.margin_mode, order.side)

    def _reducible(self, symbol: str, margin_mode: str, side: str) -> Decimal:
        position = self.state.positions.get((symbol, margin_mode))
        if position is None or position.qty == 0 or (position.qty > 0) == (side == "BUY"):
            return ZERO
        return abs(position.qty)

    def check_reducible(self, symbol: str, margin_mode: str, side: str) -> None:
        """With the option `reduce_only_needs_position`: ApiError -1005 if a reduce-only order has nothing to reduce."""
        if self.options.reduce_only_needs_position and not self._reducible(symbol, margin_mode, side):
            raise ApiError(-1005, "A reduce-only order needs a position of the other side.")

    def _fill(self, order: PaperOrder, price: Decimal, quantity: Decimal, *, is_maker: bool) -> None:
        trade = self.portfolio.fill(order, price, quantity, is_maker=is_maker)
        self.report(order, trade)
        self.state.publish("trade", trade)
        self.on_fill(order, trade)
        if not order.is_open:
            self.on_done(order)

    def on_mark(self, symbol: str) -> None:
        """Fill resting orders that the new mark price reaches; cancel those outside the price scope."""
        mark = self.state.marks[symbol].price
        scope = self.state.instruments[symbol].price_scope
        for order in [o for o in self.state.open_orders.values() if o.symbol == symbol and o.resting]:
            if not order.is_open or order.price is None:
                continue
            if self.crosses(order, mark):
                self._trade_at(order, order.price, is_maker=True)
            elif (order.side == "BUY" and order.price < mark * (1 - scope)) or (
                order.side == "SELL" and order.price > mark * (1 + scope)
            ):
                self.cancel(order, "outside the price range")

    def resume(self) -> None:
        """After a restart: match orders that were accepted but not matched, finish requested cancels."""
        for order in list(self.state.open_orders.values()):
            if order.cancel_sent:
                self.cancel(order, "canceled by the client")
            elif not order.resting:
                self.match(order)

    def match_pending(self, symbol: str | None = None) -> None:
        """Match accepted orders now that are neither resting nor partly filled, of one symbol or of all (None)."""
        for order in list(self.state.open_orders.values()):
            if symbol in (None, order.symbol) and not order.resting and not order.executed:
                self.match(order)

    # --- cancel and edit -----------------------------------------------------------------------------------

    def cancel(self, order: PaperOrder, reason: str) -> None:
        """Cancel an open order at once."""
        state = self.state
        order.status = "CANCELLED"
        order.reason = reason
        order.updated = state.clock()
        state.save(order)
        state.record_order_event(
            "order_canceled",
            order,
            quantity=order.quantity,
            executed_quantity=order.executed,
            price=order.price,
            reason=reason,
            algo_order_id=order.algo_id or None,
        )
        self.report(order)
        self.on_done(order)

    def request_cancel(self, order: PaperOrder) -> None:
        """Schedule the cancel of an open order (CANCEL_SENT); it may still be filled before that."""
        order.cancel_sent = True
        self.state.save(order)

        def now() -> None:
            with self.state.transaction():
                if order.is_open:
                    self.cancel(order, "canceled by the client")

        self.state.schedule(EDIT_DELAY_MS, now)

    def find_open(self, order: PaperOrder | None, symbol: str | None) -> PaperOrder:
        """Return an open order (of `symbol`, if given); ApiError -1006 if there is none."""
        if order is None or not order.is_open or (symbol is not None and order.symbol != symbol):
            raise ApiError(-1006, "The order does not exist or is already completed.")
        return order

    def request_edit(self, order: PaperOrder, price: Decimal | None, quantity: Decimal | None) -> None:
        """Check new values now and schedule the edit (EDIT_SENT); ApiError with Orderly's code if a check fails."""
        instrument, mark = self.state.instruments[order.symbol], self.state.marks[order.symbol].price
        if order.price is None:
            raise ApiError(-1005, f"A {order.type} order has nothing to edit.")
        new_price = order.price if price is None else price
        new_quantity = order.quantity if quantity is None else quantity
        filters.check_price(instrument, new_price)
        filters.check_size(instrument, new_quantity)
        if new_quantity <= order.executed:
            raise ApiError(-1104, "order_quantity must be above the quantity that is already executed.")
        if not order.reduce_only:
            filters.check_notional(instrument, new_price, new_quantity)
        filters.check_range(instrument, mark, order.side, new_price)
        if new_quantity > order.quantity:
            extra = PaperOrder(
                0,
                order.symbol,
                order.side,
                order.type,
                new_quantity - order.quantity,
                order.margin_mode,
                0,
                0,
                price=new_price,
                reduce_only=order.reduce_only,
            )
            self.portfolio.check_margin(extra)

        def apply() -> None:
            with self.state.transaction():
                if order.is_open and new_quantity > order.executed:
                    self._apply_edit(order, new_price, new_quantity)

        self.state.schedule(EDIT_DELAY_MS, apply)

    def _apply_edit(self, order: PaperOrder, price: Decimal, quantity: Decimal) -> None:
        state = self.state
        order.price, order.quantity, order.visible = price, quantity, quantity
        order.updated = state.clock()
        state.save(order)
        state.record_order_event(
            "order_edited",
            order,
            quantity=quantity,
            price=price,
        )
        self.report(order, status="REPLACED")
        mark = state.marks[order.symbol].price
        if self.crosses(order, mark):
            if order.type == "POST_ONLY":
                self.cancel(order, "post_only would match")
            else:
                self._trade_at(order, mark)

    def cancel_all(self, symbol: str | None, margin_mode: str | None = None) -> None:
        """Schedule the cancel of every open plain order, optionally of one symbol or margin mode."""
        for order in list(self.state.open_orders.values()):
            if symbol in (None, order.symbol) and margin_mode in (None, order.margin_mode):
                self.request_cancel(order)
