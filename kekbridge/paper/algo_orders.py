"""Algo orders: STOP, TP_SL, POSITIONAL_TP_SL, BRACKET, TRAILING_STOP. See docs/internals/orderly.md, section 7.

A node waits for the mark price to reach its trigger, then sends a plain order to the matching engine and follows its
fills. The nodes of a tree are linked by parent IDs; a triggered exit cancels its sibling (OCO).
"""

from __future__ import annotations

from kekbridge.paper import filters
from kekbridge.paper.algo_requests import (
    EXIT_PAIRS,
    LEAVES,
    AlgoRequest,
    build_tree,
    check_numbers,
    check_triggers,
    is_trigger_reached,
    update_trailing_stop,
)
from kekbridge.paper.codec import ApiError
from kekbridge.paper.matching import EDIT_DELAY_MS, MatchingEngine
from kekbridge.paper.models import ZERO, AlgoNode, PaperOrder, PaperPosition, PaperTrade
from kekbridge.paper.positions import CROSS, Portfolio
from kekbridge.paper.requests import OrderRequest
from kekbridge.paper.settings import Options
from kekbridge.paper.state import ExchangeState

MAX_TP_SL = 10


class AlgoOrders:
    """Accepts, triggers, follows and cancels algo orders."""

    def __init__(self, state: ExchangeState, portfolio: Portfolio, matching: MatchingEngine, options: Options) -> None:
        self.state = state
        self.portfolio = portfolio
        self.matching = matching
        self.options = options
        matching.on_fill = self._on_order_fill
        matching.on_done = self._on_order_done

    # --- acceptance ----------------------------------------------------------------------------------------

    def place(self, request: AlgoRequest) -> AlgoNode:
        """Check and accept an algo order; return its root. ApiError with Orderly's code if a check fails."""
        state = self.state
        instrument = state.instrument(request.symbol)
        filters.check_status(instrument, reduce_only=request.algo_type != "BRACKET")
        mark = state.marks[request.symbol].price
        self.portfolio.check_liquidation_freeze()
        check_numbers(request, instrument)
        check_triggers(request, mark)
        self._check_client_id(request.client_order_id)
        self._check_limits(request)
        if request.reduce_only and request.algo_type in ("STOP", "TRAILING_STOP") and request.side is not None:
            mode = request.margin_mode or state.symbol_settings[request.symbol].margin_mode
            self.matching.check_reducible(request.symbol, mode, request.side)
        entry = self._entry(request) if request.algo_type == "BRACKET" else None
        if entry is None and not request.reduce_only and request.algo_type in ("STOP", "TRAILING_STOP"):
            filters.check_notional(instrument, request.price or request.trigger_price or mark, request.quantity or ZERO)
        if self.matching.faults.hit("lose_order", symbol=request.symbol, algo_type=request.algo_type):
            return self._lost(request)
        root = build_tree(state, request)
        state.record_event(
            "order_accepted",
            algo=True,
            symbol=root.symbol,
            client_order_id=root.client_order_id,
            order_id=root.algo_order_id,
            algo_type=root.algo_type,
            type=root.type,
            side=root.side,
            quantity=root.quantity,
            price=root.price,
            trigger_price=root.trigger_price,
            reduce_only=root.reduce_only,
        )
        if entry is not None:
            root.plain_id = self.matching.place(entry, algo_id=root.algo_order_id).order_id
            state.save(root)
        self.report(root)
        return root

    def _lost(self, request: AlgoRequest) -> AlgoNode:
        """The root that is reported as accepted, and of which nothing is kept (fault lose_order)."""
        state, now = self.state, self.state.clock()
        root = AlgoNode(
            algo_order_id=state.next_id(),
            parent_id=0,
            root_id=0,
            symbol=request.symbol,
            algo_type=request.algo_type,
            margin_mode=request.margin_mode or CROSS,
            created=now,
            updated=now,
            client_order_id=request.client_order_id,
            type=request.type,
            quantity=request.quantity,
        )
        state.record_algo_event("order_lost", root, client_order_id=root.client_order_id, quantity=root.quantity)
        return root

    def _entry(self, request: AlgoRequest) -> PaperOrder:
        assert request.side is not None  # noqa: S101  parse_algo has checked the shape
        assert request.type is not None  # noqa: S101
        plain_request = OrderRequest(
            symbol=request.symbol,
            side=request.side,
            type=request.type,
            price=request.price if request.type == "LIMIT" else None,
            quantity=request.quantity,
            reduce_only=request.reduce_only,
            margin_mode=request.margin_mode,
        )
        return self.matching.build(plain_request)

    def _check_client_id(self, client_order_id: str | None) -> None:
        if client_order_id is None:
            return
        earlier = self.state.algos.get(self.state.algo_by_client.get(client_order_id, 0))
        if earlier is not None and self.is_tree_open(earlier):
            raise ApiError(-1007, f"client_order_id {client_order_id} belongs to an open algo order.")

    def _check_limits(self, request: AlgoRequest) -> None:
        roots = [node for node in self.state.open_algos.values() if node.parent_id == 0]
        counts = self.options.bracket_exits_count
        children = request.children if counts and request.algo_type == "BRACKET" else ()
        if "TP_SL" in (request.algo_type, *(child.algo_type for child in children)):
            pairs = self.state.open_algos.values() if counts else roots
            waiting = sum(1 for node in pairs if node.algo_type == "TP_SL" and not node.is_triggered)
            if waiting >= MAX_TP_SL:
                raise ApiError(-1005, f"At most {MAX_TP_SL} untriggered TP_SL orders are allowed.")
        if request.algo_type == "POSITIONAL_TP_SL":
            side = request.children[0].side
            for node in roots:
                if (
                    node.algo_type == "POSITIONAL_TP_SL"
                    and node.symbol == request.symbol
                    and not node.is_triggered
                    and self.exit_side(node) == side
                    and node.margin_mode == (request.margin_mode or node.margin_mode)
                ):
                    raise ApiError(-1005, "An untriggered POSITIONAL_TP_SL exists for this symbol and side.")

    # --- trees ---------------------------------------------------------------------------------------------

    def exit_side(self, pair: AlgoNode) -> str | None:
        """Return the side of the exits of a pair; None without exits."""
        return next((leaf.side for leaf in self.state.children[pair.algo_order_id]), None)

    def tree(self, node: AlgoNode) -> list[AlgoNode]:
        """Return a node and all nodes below it."""
        found = [node]
        for child in self.state.children.get(node.algo_order_id, ()):
            found.extend(self.tree(child))
        return found

    def is_tree_open(self, node: AlgoNode) -> bool:
        """Return whether any node of the tree that contains this node is open."""
        return any(one.is_open for one in self.tree(self.root(node)))

    def root(self, node: AlgoNode) -> AlgoNode:
        """Return the root of the tree that contains a node."""
        return self.state.algos[node.root_id]

    def report(self, node: AlgoNode) -> None:
        """Queue reports of the whole tree for the private stream."""
        self.state.publish("algo", self.root(node))

    # --- triggers ------------------------------------------------------------------------------------------

    def on_mark(self, symbol: str) -> None:
        """Update trailing stops after a mark price change and fire the nodes whose trigger is reached."""
        for node in [a for a in self.state.open_algos.values() if a.symbol == symbol]:
            if node.is_open and not node.is_triggered and self._reached(node):
                self.fire(node)

    def _reached(self, node: AlgoNode) -> bool:
        mark = self.state.marks[node.symbol].price
        if node.algo_type == "TRAILING_STOP":
            self.state.save(node)
            return update_trailing_stop(node, mark)
        return is_trigger_reached(node, mark)

    def fire(self, node: AlgoNode) -> None:
        """Trigger a node: send its plain order and cancel its sibling."""
        state = self.state
        now = state.clock()
        node.is_triggered, node.trigger_status, node.trigger_time = True, "SUCCESS", now
        node.updated = now
        state.save(node)
        state.record_algo_event(
            "order_triggered",
            node,
            client_order_id=self.root(node).client_order_id,
            root_order_id=node.root_id,
            algo_type=node.algo_type,
            side=node.side,
            trigger_price=node.trigger_price,
            mark_price=state.marks[node.symbol].price,
        )
        parent = state.algos.get(node.parent_id)
        if parent is not None:
            parent.is_triggered, parent.trigger_status, parent.trigger_time = True, "SUCCESS", now
            state.save(parent)
            for sibling in state.children[parent.algo_order_id]:
                if sibling is not node and sibling.is_open:
                    self._end(sibling, "CANCELLED", "the other leg was triggered")
        self._send(node)
        self.report(node)

    def _send(self, node: AlgoNode) -> None:
        state = self.state
        assert node.side is not None  # noqa: S101  leaves and stops always have one
        closing = node.type == "CLOSE_POSITION"
        quantity = node.quantity
        if closing:
            position = state.positions.get((node.symbol, node.margin_mode))
            quantity = abs(position.qty) if position else ZERO
        request = OrderRequest(
            symbol=node.symbol,
            side=node.side,
            type="LIMIT" if node.type == "LIMIT" else "MARKET",
            price=node.price if node.type == "LIMIT" else None,
            quantity=quantity,
            reduce_only=node.reduce_only or closing,
            order_tag=node.order_tag,
            margin_mode=node.margin_mode,
        )
        try:
            order = self.matching.build(request, closing=closing)
        except ApiError as error:
            state.record_algo_event(
                "order_refused",
                node,
                client_order_id=self.root(node).client_order_id,
                code=error.code,
                message=error.message,
            )
            self._end(node, "REJECTED", error.message)
            self._end_parent(node, "REJECTED")
            return
        self.matching.place(order, algo_id=node.algo_order_id)
        node.plain_id = order.order_id
        # Match at once, at the mark price that triggered it: the price must not change between trigger and fill.
        self.matching.match(order)

    # --- following plain orders ----------------------------------------------------------------------------

    def _on_order_fill(self, order: PaperOrder, trade: PaperTrade) -> None:
        node = self.state.algos.get(order.algo_id)
        if node is not None:
            self._copy_fill(node, order, trade)
            parent = self.state.algos.get(node.parent_id)
            if parent is not None and parent.algo_type in EXIT_PAIRS:
                self._copy_fill(parent, order, trade)
            if node.algo_type == "BRACKET":
                self._activate_exits(node)
            self.report(node)
        position = self.state.positions.get((order.symbol, order.margin_mode))
        if position is not None:
            self._cancel_orphaned_exits(position, order)

    def _copy_fill(self, node: AlgoNode, order: PaperOrder, trade: PaperTrade) -> None:
        node.executed, node.value, node.fee = order.executed, order.value, order.fee
        node.realized = order.realized
        node.trigger_trade_price = trade.price
        node.status = order.status
        node.updated = order.updated
        self.state.save(node)

    def _on_order_done(self, order: PaperOrder) -> None:
        node = self.state.algos.get(order.algo_id)
        if node is None:
            return
        if order.status == "CANCELLED" and node.is_open:
            self._end(node, "CANCELLED", order.reason)
            self._end_parent(node, "CANCELLED")
            if node.algo_type == "BRACKET" and not order.executed:
                for child in self.tree(node)[1:]:
                    if child.is_open:
                        self._end(child, "CANCELLED", "the entry ended without a fill")
        self.report(node)

    def _end_parent(self, node: AlgoNode, status: str) -> None:
        parent = self.state.algos.get(node.parent_id)
        if parent is not None and parent.algo_type in EXIT_PAIRS and parent.is_open:
            self._end(parent, status, "")

    def _activate_exits(self, root: AlgoNode) -> None:
        """After a fill of the entry: size and activate its exits."""
        state = self.state
        for pair in list(state.children[root.algo_order_id]):
            if not pair.is_open or pair.is_triggered:
                continue
            if pair.algo_type == "POSITIONAL_TP_SL" and not self._detach_positional_exits(root, pair):
                continue
            for node in self.tree(pair):
                if pair.algo_type == "TP_SL":
                    node.quantity = root.executed
                node.is_activated = node is pair or node.trigger_price is not None
                state.save(node)
            self._lose_stop(pair)
            for leaf in state.children[pair.algo_order_id]:
                # The mark price may have passed a trigger between acceptance and fill.
                if leaf.is_open and not leaf.is_triggered and self._reached(leaf):
                    state.schedule(EDIT_DELAY_MS, lambda leaf=leaf: self._fire_if_reached(leaf))  # type: ignore[misc]

    def _lose_stop(self, pair: AlgoNode) -> None:
        """Apply the fault lose_stop: reject the stop loss of an entry that was just filled."""
        stops = [leaf for leaf in self.state.children[pair.algo_order_id] if leaf.algo_type == "STOP_LOSS"]
        if stops and stops[0].is_open and self.matching.faults.hit("lose_stop", symbol=pair.symbol):
            self._end(stops[0], "REJECTED", "fault injected by POST /paper/faults")

    def _fire_if_reached(self, leaf: AlgoNode) -> None:
        with self.state.transaction():
            if leaf.is_open and not leaf.is_triggered and self._reached(leaf):
                self.fire(leaf)

    def _detach_positional_exits(self, root: AlgoNode, pair: AlgoNode) -> bool:
        """Make the positional exits of a bracket a tree of their own that replaces an earlier one.

        False if the earlier one is triggered already: then the new exits are canceled.
        """
        state = self.state
        side = self.exit_side(pair)
        for other in list(state.open_algos.values()):
            if (
                other.algo_type == "POSITIONAL_TP_SL"
                and other.parent_id == 0
                and (other.symbol, other.margin_mode) == (pair.symbol, pair.margin_mode)
                and self.exit_side(other) == side
            ):
                if other.is_triggered:
                    for node in self.tree(pair):
                        self._end(node, "CANCELLED", "the position is being closed already")
                    return False
                self.cancel_tree(other, "replaced by the exit of a bracket")
        state.children[root.algo_order_id].remove(pair)
        pair.parent_id = 0
        for node in self.tree(pair):
            node.root_id = pair.algo_order_id
            state.save(node)
        self.report(pair)
        return True

    def _cancel_orphaned_exits(self, position: PaperPosition, order: PaperOrder) -> None:
        """Cancel the exits of a position that was closed or flipped (Orderly release notes 2024-02)."""
        for pair in list(self.state.open_algos.values()):
            if pair.algo_type not in EXIT_PAIRS or not pair.is_open or pair.is_triggered:
                continue
            if (pair.symbol, pair.margin_mode) != (position.symbol, position.margin_mode):
                continue
            if not pair.is_activated:
                continue
            side = self.exit_side(pair)
            if side is None or self._awaits_entry(pair, order):
                continue
            if position.qty == 0 or (position.qty > 0) != (side == "SELL"):
                self.cancel_tree(pair, "the position is closed")

    def _awaits_entry(self, pair: AlgoNode, order: PaperOrder) -> bool:
        # While the entry is still filling, it may only have reduced an opposite position so far: its exits stay.
        root = self.root(pair)
        return root.algo_type == "BRACKET" and order.algo_id == root.algo_order_id and order.is_open

    # --- cancel and edit -----------------------------------------------------------------------------------

    def _end(self, node: AlgoNode, status: str, reason: str) -> None:
        if not node.is_open:
            return
        node.status = status
        node.updated = self.state.clock()
        if not node.is_triggered:
            node.trigger_status = "USELESS"
        self.state.save(node)
        self.state.record_algo_event(
            "order_canceled" if status == "CANCELLED" else "order_refused",
            node,
            client_order_id=node.client_order_id,
            root_order_id=node.root_id,
            algo_type=node.algo_type,
            reason=reason,
        )

    def cancel_tree(self, node: AlgoNode, reason: str) -> None:
        """Cancel all open nodes at and below a node at once."""
        for one in self.tree(node):
            self._end(one, "CANCELLED", reason)
        self.report(node)

    def find_open(self, node: AlgoNode | None, symbol: str | None) -> AlgoNode:
        """Return a node of an open tree (of `symbol`, if given); ApiError -1006 if there is none."""
        if node is None or (symbol is not None and node.symbol != symbol) or not self.is_tree_open(node):
            raise ApiError(-1006, "The algo order does not exist or is already completed.")
        return node

    def request_cancel(self, node: AlgoNode) -> None:
        """Schedule the cancel of a tree (CANCEL_SENT); it may still be triggered and filled before that."""

        def now() -> None:
            with self.state.transaction():
                self._cancel_now(node)

        self.state.schedule(EDIT_DELAY_MS, now)

    def _cancel_now(self, node: AlgoNode) -> None:
        # A single exit cannot be canceled (deactivating it is an edit): cancel its pair.
        target = self.state.algos.get(node.parent_id, node) if node.algo_type in LEAVES else node
        entry = self.state.open_orders.get(target.plain_id)
        if entry is not None:
            self.matching.cancel(entry, "canceled by the client")
        for one in self.tree(target):
            order = self.state.open_orders.get(one.plain_id)
            if order is not None:
                self.matching.cancel(order, "canceled by the client")
        if target.algo_type == "BRACKET" and target.executed and entry is not None:
            self.report(target)  # the exits keep protecting the filled quantity
            return
        self.cancel_tree(target, "canceled by the client")

    def cancel_all(self, symbol: str | None, algo_type: str | None) -> None:
        """Schedule the cancel of every open algo order, optionally of one symbol or type.

        As documented by Orderly, type STOP includes TAKE_PROFIT and STOP_LOSS.
        """
        for node in list(self.state.open_algos.values()):
            root = self.root(node)
            if symbol not in (None, node.symbol):
                continue
            kinds = {root.algo_type, node.algo_type}
            exit_by_stop = algo_type == "STOP" and root.algo_type in EXIT_PAIRS
            if algo_type is None or algo_type in kinds or exit_by_stop:
                self.request_cancel(root if root.is_open else node)
