"""Edits of algo orders: new triggers, prices and quantities, exits activated or deactivated.

See docs/internals/orderly.md, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from kekbridge.paper import filters
from kekbridge.paper.algo_orders import AlgoOrders
from kekbridge.paper.algo_requests import EXIT_PAIRS, LEAVES
from kekbridge.paper.codec import ApiError, parse_flag, parse_integer
from kekbridge.paper.matching import EDIT_DELAY_MS
from kekbridge.paper.models import AlgoNode
from kekbridge.paper.requests import parse_positive

Change = Callable[[], None]


class AlgoEdits:
    """Checks edits at once and applies them a moment later (EDIT_SENT)."""

    def __init__(self, algo_orders: AlgoOrders) -> None:
        self.algo_orders = algo_orders
        self.state = algo_orders.state

    def request_edit(self, node: AlgoNode, body: Mapping[str, Any]) -> None:
        """Check and schedule the edit of a tree; ApiError -1005, -1006, -1103 or -1104 if any part is not allowed."""
        changes: list[Change] = []
        self._collect_changes(node, body, changes)
        quantities = self._quantities(body)
        if len(set(quantities)) > 1:
            raise ApiError(-1005, "Both children must be sent with the same quantity.")
        if not changes:
            raise ApiError(-1005, "Nothing to edit was given.")

        def apply() -> None:
            with self.state.transaction():
                if not self.algo_orders.is_tree_open(node):
                    return
                for change in changes:
                    change()
                self.state.record_algo_event(
                    "order_edited",
                    node,
                    client_order_id=node.client_order_id,
                    trigger_price=node.trigger_price,
                    quantity=node.quantity,
                )
                self.algo_orders.report(node)
                # A trigger that the edit moved beyond the mark price fires now.
                self.algo_orders.on_mark(node.symbol)

        self.state.schedule(EDIT_DELAY_MS, apply)

    def _quantities(self, body: Mapping[str, Any]) -> list[Decimal]:
        found: list[Decimal] = []
        for child in body.get("child_orders") or []:
            quantity = parse_positive(child.get("quantity"), "quantity")
            if quantity is not None:
                found.append(quantity)
            found.extend(self._quantities(child))
        return found

    def _collect_changes(self, node: AlgoNode, body: Mapping[str, Any], changes: list[Change]) -> None:
        instrument = self.state.instruments[node.symbol]
        if node.is_triggered and node.algo_type not in ("BRACKET",):
            raise ApiError(-1006, "The algo order is triggered already.")
        for name in ("trigger_price", "price", "quantity", "activated_price", "callback_rate", "callback_value"):
            value = parse_positive(body.get(name), name)
            if value is None:
                continue
            if name in ("trigger_price", "price"):
                filters.check_price(instrument, value, name)
            elif name == "quantity":
                filters.check_size(instrument, value, name)
            changes.append(lambda name=name, value=value: self._set_value(node, name, value))  # type: ignore[misc]
        if "is_activated" in body and node.algo_type in LEAVES | EXIT_PAIRS:
            active = parse_flag(body["is_activated"], "is_activated")
            changes.append(lambda: self._set_activated(node, on=active))
        children = body.get("child_orders") or []
        if not isinstance(children, list):
            raise ApiError(-1005, "child_orders must be a list.")
        for child in children:
            if not isinstance(child, Mapping):
                raise ApiError(-1005, "Each child order must be an object.")
            child_id = parse_integer(child.get("order_id"), "order_id")
            found = self.state.algos.get(child_id or 0)
            if found is None or found.root_id != node.root_id:
                raise ApiError(-1006, f"child order {child_id} does not belong to this algo order.")
            self._collect_changes(found, child, changes)

    def _set_value(self, node: AlgoNode, name: str, value: Decimal) -> None:
        setattr(node, name, value)
        node.updated = self.state.clock()
        self.state.save(node)
        parent = self.state.algos.get(node.parent_id)
        if name == "quantity":
            for other in self.algo_orders.tree(node)[1:]:
                other.quantity = value
                self.state.save(other)
            if parent is not None and parent.algo_type == "TP_SL":
                parent.quantity = value
                self.state.save(parent)
        if name == "trigger_price" and node.algo_type in LEAVES and parent is not None:
            # An exit that was not given at first is activated by its first trigger, unless the entry is unfilled.
            node.is_activated = parent.is_activated
            siblings = self.state.children[parent.algo_order_id]
            node.type = node.type or next((leaf.type for leaf in siblings if leaf.type), "MARKET")
        if node.algo_type == "BRACKET" and name in ("price", "quantity"):
            self._edit_entry(node)

    def _edit_entry(self, root: AlgoNode) -> None:
        entry = self.state.open_orders.get(root.plain_id)
        if entry is not None and entry.price is not None:
            self.algo_orders.matching.request_edit(entry, root.price, root.quantity)

    def _set_activated(self, node: AlgoNode, *, on: bool) -> None:
        for one in self.algo_orders.tree(node):
            one.is_activated = on
            one.updated = self.state.clock()
            self.state.save(one)
        parent = self.state.algos.get(node.parent_id)
        if parent is None or on:
            return
        if not any(leaf.is_activated for leaf in self.state.children[parent.algo_order_id]):
            self.algo_orders.cancel_tree(parent, "both legs are switched off")
