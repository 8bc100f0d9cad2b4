"""Edits of algo orders: new triggers, prices, quantities, legs switched off (orderly-api.md section 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from kekbridge.paper import filters
from kekbridge.paper.algo_orders import Algos
from kekbridge.paper.algo_requests import EXIT_PAIRS, LEAVES
from kekbridge.paper.codec import Refusal, flag, integer
from kekbridge.paper.matching import EDIT_DELAY_MS
from kekbridge.paper.models import Algo
from kekbridge.paper.requests import positive

Change = Callable[[], None]


class AlgoEdits:
    """Checks an edit at once and applies it a moment later (EDIT_SENT)."""

    def __init__(self, algos: Algos) -> None:
        self.algos = algos
        self.engine = algos.engine

    def request(self, node: Algo, body: Mapping[str, Any]) -> None:
        """Check and schedule the edit of a tree; Refusal when any part of it is not allowed."""
        changes: list[Change] = []
        self._collect(node, body, changes)
        sizes = self._sizes(body)
        if len(set(sizes)) > 1:
            raise Refusal(-1005, "Both children must be sent with the same quantity.")
        if not changes:
            raise Refusal(-1005, "Nothing to edit was given.")

        def apply() -> None:
            with self.engine.transaction():
                if not self.algos.is_alive(node):
                    return
                for change in changes:
                    change()
                self.engine.algo_event(
                    "order_edited",
                    node,
                    client_order_id=node.client_order_id,
                    trigger_price=node.trigger_price,
                    quantity=node.quantity,
                )
                self.algos.report(node)
                # A trigger that the edit moved behind the mark fires now.
                self.algos.on_mark(node.symbol)

        self.engine.later(EDIT_DELAY_MS, apply)

    def _sizes(self, body: Mapping[str, Any]) -> list[Decimal]:
        found: list[Decimal] = []
        for child in body.get("child_orders") or []:
            size = positive(child.get("quantity"), "quantity")
            if size is not None:
                found.append(size)
            found.extend(self._sizes(child))
        return found

    def _collect(self, node: Algo, body: Mapping[str, Any], changes: list[Change]) -> None:
        instrument = self.engine.instruments[node.symbol]
        if node.is_triggered and node.algo_type not in ("BRACKET",):
            raise Refusal(-1006, "The algo order is triggered already.")
        for name in ("trigger_price", "price", "quantity", "activated_price", "callback_rate", "callback_value"):
            value = positive(body.get(name), name)
            if value is None:
                continue
            if name in ("trigger_price", "price"):
                filters.check_price(instrument, value, name)
            elif name == "quantity":
                filters.check_size(instrument, value, name)
            changes.append(lambda name=name, value=value: self._set(node, name, value))  # type: ignore[misc]
        if "is_activated" in body and node.algo_type in LEAVES | EXIT_PAIRS:
            active = flag(body["is_activated"], "is_activated")
            changes.append(lambda: self._switch(node, on=active))
        children = body.get("child_orders") or []
        if not isinstance(children, list):
            raise Refusal(-1005, "child_orders must be a list.")
        for child in children:
            if not isinstance(child, Mapping):
                raise Refusal(-1005, "Each child order must be an object.")
            child_id = integer(child.get("order_id"), "order_id")
            found = self.engine.algos.get(child_id or 0)
            if found is None or found.root_id != node.root_id:
                raise Refusal(-1006, f"child order {child_id} does not belong to this algo order.")
            self._collect(found, child, changes)

    def _set(self, node: Algo, name: str, value: Decimal) -> None:
        setattr(node, name, value)
        node.updated = self.engine.clock()
        self.engine.touch(node)
        parent = self.engine.algos.get(node.parent_id)
        if name == "quantity":
            for other in self.algos.tree(node)[1:]:
                other.quantity = value
                self.engine.touch(other)
            if parent is not None and parent.algo_type == "TP_SL":
                parent.quantity = value
                self.engine.touch(parent)
        if name == "trigger_price" and node.algo_type in LEAVES and parent is not None:
            # A leg that did not exist comes to life with its first trigger, unless the entry is still awaited.
            node.is_activated = parent.is_activated
            siblings = self.engine.children[parent.algo_order_id]
            node.type = node.type or next((leaf.type for leaf in siblings if leaf.type), "MARKET")
        if node.algo_type == "BRACKET" and name in ("price", "quantity"):
            self._edit_entry(node)

    def _edit_entry(self, root: Algo) -> None:
        entry = self.engine.open_orders.get(root.plain_id)
        if entry is not None and entry.price is not None:
            self.algos.trading.request_edit(entry, root.price, root.quantity)

    def _switch(self, node: Algo, *, on: bool) -> None:
        for one in self.algos.tree(node):
            one.is_activated = on
            one.updated = self.engine.clock()
            self.engine.touch(one)
        parent = self.engine.algos.get(node.parent_id)
        if parent is None or on:
            return
        if not any(leaf.is_activated for leaf in self.engine.children[parent.algo_order_id]):
            self.algos.end_tree(parent, "both legs are switched off")
