"""Build the one request that creates an order: path and JSON text. Pure; sends nothing.

Field names and shapes: docs/internals/orderly.md sections 6 and 7. Always: `margin_mode` is given (the account may have another default),
`order_tag` never (it would override the trader's referral), exits are reduce-only, numbers are plain decimal strings, and one order is
one request: an entry and its stop are sent together as a BRACKET or not at all.

A BRACKET holds one pair of exits, both of the same quantity. Hence, by the take-profits of an entry:
- none, or one for the whole entry -> BRACKET with TP_SL: the exits follow the quantity that the entry actually executes;
- several, or one for a part of the entry -> BRACKET with POSITIONAL_TP_SL, whose stop closes what is left when it fires: it neither
  closes too much nor fails after an earlier take-profit executed. The farthest take-profit is in the bracket if all of them add up to
  the entry. The others are reduce-only TP_SL orders of their own (`later_exits`), placed once the entry has executed: before that there
  is nothing to reduce. The exchange removes them with the position, unlike resting limit orders.
  The cost: one POSITIONAL_TP_SL exists per symbol and side; a later bracket of that kind replaces the stop by its own, for the whole
  position. Since it closes a position, whichever entries opened it, its execution is no entry's exit (fills.exit_of is empty) and its
  P&L goes to the webhook that entered this symbol last, as for everything the exchange closes by itself (store/fills.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from kekbridge import errors
from kekbridge.formatting import format_decimal
from kekbridge.model import Instrument, Order, OrderIntent, OrderType, Purpose, Side, TakeProfit

ORDER_PATH: Final = "/v1/order"
ALGO_PATH: Final = "/v1/algo/order"
# Every root type: cancelling all algo orders takes one request per type (section 7).
ALGO_TYPES: Final = ("STOP", "TP_SL", "POSITIONAL_TP_SL", "BRACKET", "TRAILING_STOP")

# Encodes a body; exactly this text is signed, sent and stored. Shared: json.dumps with options builds an encoder for every call.
encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode
_MARK: Final = "MARK_PRICE"
_PLAIN_TYPES: Final = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.IOC: "IOC",
    OrderType.FOK: "FOK",
    OrderType.POST_ONLY: "POST_ONLY",
}


class OrderKind(StrEnum):
    """How the exchange classes an order. All but PLAIN are algo orders, with paths of their own."""

    PLAIN = "PLAIN"
    STOP = "STOP"
    TP_SL = "TP_SL"
    BRACKET = "BRACKET"
    TRAILING_STOP = "TRAILING_STOP"

    @property
    def is_algo(self) -> bool:
        return self is not OrderKind.PLAIN


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """The POST request that creates one order."""

    #: Which of Orderly's order types it creates.
    kind: OrderKind
    #: Path, such as `/v1/order`.
    path: str
    #: The exact body text that is signed and sent.
    text: str


def order_kind(intent: OrderIntent) -> OrderKind:
    """How the exchange will class this intent.

    With stop loss or take-profits, a reduce-only intent is a TP_SL for an existing position, and an entry is a BRACKET, unless the
    bracket could hold none of them (no stop, take-profits for a part of the entry only): then the entry is a plain order.
    """
    if intent.trailing_callback_rate is not None or intent.trailing_callback_value is not None:
        return OrderKind.TRAILING_STOP
    if intent.is_bracket:
        if _is_exit(intent):
            return OrderKind.TP_SL
        if intent.stop_loss is not None or _bracket_take_profit(intent) is not None:
            return OrderKind.BRACKET
    if intent.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        return OrderKind.STOP
    return OrderKind.PLAIN


def create_request(order: Order) -> CreateRequest:
    """The request that creates `order`. Raises errors.Refused if no single request can express the intent."""
    return request_for(order.intent, order.client_order_id)


# Cached: built for the record when the order is claimed and again right after, to be sent. Any thread.
@lru_cache(maxsize=128)
def request_for(intent: OrderIntent, client_order_id: str) -> CreateRequest:
    """As `create_request`, for an intent and its client order id (at most 36 of [A-Za-z0-9-], no hyphen first)."""
    kind = order_kind(intent)
    body = _BUILDERS[kind](intent)
    body["client_order_id"] = client_order_id
    body["margin_mode"] = intent.margin_mode.value
    return CreateRequest(kind, ALGO_PATH if kind.is_algo else ORDER_PATH, encode(body))


def later_exits(intent: OrderIntent, executed: Decimal, instrument: Instrument) -> tuple[OrderIntent, ...]:
    """The take-profits that the entry's own request cannot carry, nearest first, for `executed` base units of the entry.

    Quantities shrink in proportion for a partly executed entry and are rounded down to `base_tick`; those below `base_min` are left out.
    """
    if _is_exit(intent) or not intent.take_profits or executed <= 0:
        return ()
    carried = _bracket_take_profit(intent)
    exits: list[OrderIntent] = []
    for take_profit in _nearest_first(intent):
        if take_profit is carried:
            continue
        scaled = min(take_profit.quantity, intent.quantity) * executed / intent.quantity
        quantity = _round_down(scaled, instrument)
        if quantity < instrument.base_min:
            continue
        exits.append(
            OrderIntent(
                symbol=intent.symbol,
                side=intent.side.opposite,
                order_type=OrderType.MARKET,
                quantity=quantity,
                purpose=Purpose.PROTECT,
                reference_price=take_profit.trigger_price,
                reduce_only=True,
                take_profits=(TakeProfit(take_profit.trigger_price, quantity),),
                margin_mode=intent.margin_mode,
            )
        )
    return tuple(exits)


def has_later_exits(intent: OrderIntent) -> bool:
    """True for an entry with a take-profit that its own request cannot carry."""
    if _is_exit(intent) or not intent.take_profits:
        return False
    return len(intent.take_profits) > 1 or _bracket_take_profit(intent) is None


def has_positional_exits(intent: OrderIntent) -> bool:
    """True for an entry whose bracket holds a POSITIONAL_TP_SL."""
    return order_kind(intent) is OrderKind.BRACKET and not _has_simple_exits(intent)


# ------------------------------------------------------------------------------------------------------------ bodies


def _plain(intent: OrderIntent) -> dict[str, Any]:
    body: dict[str, Any] = {
        "symbol": intent.symbol,
        "side": intent.side.value,
        "order_type": _PLAIN_TYPES[intent.order_type],
        "order_quantity": format_decimal(intent.quantity),
    }
    if intent.order_type.has_limit_price:
        body["order_price"] = format_decimal(_limit_price(intent))
    elif intent.slippage is not None:
        body["slippage"] = format_decimal(intent.slippage)  # a fraction; MARKET only (section 6)
    if _is_exit(intent):
        body["reduce_only"] = True
    return body


def _stop(intent: OrderIntent) -> dict[str, Any]:
    if intent.is_bracket:
        raise _unsupported(intent, "a stop entry cannot carry a stop loss or take-profit in one request")
    if intent.trigger_price is None:
        raise errors.Refused("price_missing", f"a {intent.order_type} order needs a triggerPrice", field="triggerPrice")
    body: dict[str, Any] = {
        "symbol": intent.symbol,
        "algo_type": "STOP",
        "type": "LIMIT" if intent.order_type is OrderType.STOP_LIMIT else "MARKET",
        "side": intent.side.value,
        "quantity": format_decimal(intent.quantity),
        "trigger_price": format_decimal(intent.trigger_price),
        "trigger_price_type": _MARK,
        "reduce_only": _is_exit(intent),
    }
    if intent.order_type is OrderType.STOP_LIMIT:
        body["price"] = format_decimal(_limit_price(intent))
    return body


def _trailing(intent: OrderIntent) -> dict[str, Any]:
    if intent.is_bracket:
        raise _unsupported(intent, "a trailing stop cannot be combined with a stop loss or take-profit in one request")
    body: dict[str, Any] = {
        "symbol": intent.symbol,
        "algo_type": "TRAILING_STOP",
        "type": "MARKET",
        "side": intent.side.value,
        "quantity": format_decimal(intent.quantity),
        "trigger_price_type": _MARK,
        "reduce_only": _is_exit(intent),
    }
    # snake_case and exactly one of the two, as SDK and CLI send it; the OpenAPI file has other names (section 7).
    if intent.trailing_callback_rate is not None:
        body["callback_rate"] = format_decimal(intent.trailing_callback_rate)
    elif intent.trailing_callback_value is not None:
        body["callback_value"] = format_decimal(intent.trailing_callback_value)
    if intent.trigger_price is not None:
        body["activated_price"] = format_decimal(intent.trigger_price)
    return body


def _bracket(intent: OrderIntent) -> dict[str, Any]:
    if intent.order_type not in (OrderType.MARKET, OrderType.LIMIT):
        raise _unsupported(intent, "an entry with a stop loss or take-profit is a market or a limit order")
    take_profit = _bracket_take_profit(intent)
    is_simple = _has_simple_exits(intent)
    pair_type = "TP_SL" if is_simple else "POSITIONAL_TP_SL"
    leaves = _leaves(intent, intent.side.opposite, take_profit, leaf_type="MARKET" if is_simple else "CLOSE_POSITION")
    body: dict[str, Any] = {
        "symbol": intent.symbol,
        "algo_type": "BRACKET",
        "type": "LIMIT" if intent.order_type is OrderType.LIMIT else "MARKET",
        "side": intent.side.value,
        "quantity": format_decimal(intent.quantity),
        "child_orders": [{"symbol": intent.symbol, "algo_type": pair_type, "child_orders": leaves}],
    }
    if intent.order_type is OrderType.LIMIT:
        body["price"] = format_decimal(_limit_price(intent))
    return body


def _exit_pair(intent: OrderIntent) -> dict[str, Any]:
    if len(intent.take_profits) > 1:
        raise _unsupported(intent, "one pair of exits holds one take-profit")
    if intent.order_type is not OrderType.MARKET:
        raise _unsupported(intent, "the exits of a pair are market orders")
    take_profit = intent.take_profits[0] if intent.take_profits else None
    return {
        "symbol": intent.symbol,
        "algo_type": "TP_SL",
        "quantity": format_decimal(intent.quantity),
        "trigger_price_type": _MARK,
        "child_orders": _leaves(intent, intent.side, take_profit, leaf_type="MARKET"),
    }


def _leaves(intent: OrderIntent, side: Side, take_profit: TakeProfit | None, *, leaf_type: str) -> list[dict[str, Any]]:
    levels = [("TAKE_PROFIT", take_profit.trigger_price if take_profit else None), ("STOP_LOSS", intent.stop_loss)]
    return [
        {
            "symbol": intent.symbol,
            "algo_type": algo_type,
            "side": side.value,
            "type": leaf_type,
            "trigger_price_type": _MARK,
            "trigger_price": format_decimal(level),
            "reduce_only": True,  # else an orphaned exit would open a position (section 15, trap 6)
        }
        for algo_type, level in levels
        if level is not None
    ]


_BUILDERS: Final = {
    OrderKind.PLAIN: _plain,
    OrderKind.STOP: _stop,
    OrderKind.TP_SL: _exit_pair,
    OrderKind.BRACKET: _bracket,
    OrderKind.TRAILING_STOP: _trailing,
}

# --------------------------------------------------------------------------------------------------------------- intents


def _is_exit(intent: OrderIntent) -> bool:
    return intent.reduce_only or intent.purpose is not Purpose.ENTRY


def _has_simple_exits(intent: OrderIntent) -> bool:
    """True for no take-profit, or one for the whole entry: exits that follow what the entry executes."""
    return not intent.take_profits or (len(intent.take_profits) == 1 and _bracket_take_profit(intent) is not None)


def _nearest_first(intent: OrderIntent) -> list[TakeProfit]:
    return sorted(intent.take_profits, key=lambda take_profit: take_profit.trigger_price * intent.side.sign)


def _bracket_take_profit(intent: OrderIntent) -> TakeProfit | None:
    """The take-profit that the bracket holds: the farthest, if all together close the whole entry; else None."""
    if not intent.take_profits:
        return None
    total = sum((take_profit.quantity for take_profit in intent.take_profits), Decimal(0))
    if total < intent.quantity:
        return None
    return _nearest_first(intent)[-1]


def _round_down(quantity: Decimal, instrument: Instrument) -> Decimal:
    """Round down to the grid that the exchange checks: base_min plus a multiple of base_tick (section 5)."""
    if quantity < instrument.base_min:
        return Decimal(0)
    steps = ((quantity - instrument.base_min) / instrument.base_tick).to_integral_value(rounding=ROUND_DOWN)
    return instrument.base_min + steps * instrument.base_tick


def _limit_price(intent: OrderIntent) -> Decimal:
    if intent.limit_price is None:
        raise errors.Refused("price_missing", f"a {intent.order_type} order needs a limitPrice", field="limitPrice")
    return intent.limit_price


def _unsupported(intent: OrderIntent, reason: str) -> errors.Refused:
    return errors.Refused(
        "order_type_unsupported",
        f"orderType {intent.order_type} cannot be sent with these exits: {reason}; use market or limit",
        field="orderType",
    )
