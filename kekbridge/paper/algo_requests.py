"""What must be true of an algo order's numbers before it is accepted (orderly-api.md sections 5 and 7). Pure."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.paper import filters
from kekbridge.paper.codec import Refusal, plain
from kekbridge.paper.instruments import Instrument
from kekbridge.paper.requests import LEAVES, AlgoRequest


def check_numbers(request: AlgoRequest, instrument: Instrument) -> None:
    """Sizes on the step, prices and triggers on the tick, in the whole tree; -1104 and -1103."""
    if request.quantity is not None and request.algo_type != "POSITIONAL_TP_SL":
        filters.check_size(instrument, request.quantity, "quantity")
    if request.type == "LIMIT" and request.price is not None:
        filters.check_price(instrument, request.price, "price")
    for node in _walk(request):
        if node.trigger_price is not None and node.algo_type != "BRACKET":
            filters.check_price(instrument, node.trigger_price, "trigger_price")
        if node.algo_type in LEAVES and node.type == "LIMIT" and node.price is not None:
            filters.check_price(instrument, node.price, "price")


def check_triggers(request: AlgoRequest, mark: Decimal) -> None:
    """A trigger on the wrong side of the price is refused (choice of orderly-api.md section 7)."""
    if request.algo_type == "STOP" and request.trigger_price is not None:
        if (request.trigger_price > mark) != (request.side == "BUY") or request.trigger_price == mark:
            raise _wrong_side("STOP", request.trigger_price, request.side == "BUY", mark)
        return
    reference = mark
    if request.algo_type == "BRACKET" and request.type == "LIMIT" and request.price is not None:
        reference = request.price
    for leaf in _walk(request):
        if leaf.algo_type not in LEAVES or leaf.trigger_price is None:
            continue
        above = (leaf.algo_type == "TAKE_PROFIT") == (leaf.side == "SELL")
        if leaf.trigger_price == reference or (leaf.trigger_price > reference) != above:
            raise _wrong_side(leaf.algo_type, leaf.trigger_price, above, reference)


def _walk(request: AlgoRequest) -> list[AlgoRequest]:
    found = [request]
    for child in request.children:
        found.extend(_walk(child))
    return found


def _wrong_side(name: str, trigger: Decimal, above: bool, reference: Decimal) -> Refusal:
    place = "above" if above else "below"
    return Refusal(-1005, f"The {name} trigger_price {plain(trigger)} must be {place} the price {plain(reference)}.")
