"""One step of a message to one Signal: every field read, checked and completed from the webhook's settings.

Fields: docs/internals/architecture.md section 5.

Only fields that the step uses are looked at: an empty stopLoss on a close must not block the exit. Nothing here knows the market.
Called by payload.interpret(); foreign message shapes have been mapped to canonical names by profiles.py before.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from kekbridge.alerts.exits import read_leverage, read_slippage, read_stop_loss, read_take_profits, read_trailing_stop
from kekbridge.alerts.field_source import FieldSource
from kekbridge.alerts.numbers import NumberText, decimal_of
from kekbridge.alerts.position import check_agreement, is_exit, is_reversal, read_target, with_implied_previous
from kekbridge.alerts.quantity import contracts_of, read_quantity
from kekbridge.alerts.redaction import clip, show
from kekbridge.alerts.signal import Action, PositionSide, QuantityType, Signal, TargetPosition
from kekbridge.alerts.symbols import is_same_market
from kekbridge.errors import Refused
from kekbridge.formatting import escape_unprintable
from kekbridge.model import OrderType, WebhookSettings

_LONGEST_SYMBOL = 64
_LONGEST_COMMENT = 200

_ACTIONS: Mapping[str, Action] = {
    **{action.value: action for action in Action},
    "cancel_all": Action.CANCEL,
    "cancelall": Action.CANCEL,
}
_ORDER_TYPES: Mapping[str, OrderType] = {
    **{kind.value: kind for kind in OrderType},
    "stop_market": OrderType.STOP,
    "stopmarket": OrderType.STOP,
    "stoplimit": OrderType.STOP_LIMIT,
    "postonly": OrderType.POST_ONLY,
}


def read_signal(fields: Mapping[str, Any], settings: WebhookSettings) -> tuple[Signal, list[str]]:
    """The Signal that canonical `fields` make on a webhook with `settings`, and warnings for the log.

    Raises Refused with the code and field at fault; the message says what was found, what was expected and the fix.
    """
    source = FieldSource(fields, settings)
    action, is_cancel_all = _read_action(source)
    if action is Action.PING:
        return Signal(action=action, symbol=None), source.warnings
    symbol = _read_symbol(source, is_required=not is_cancel_all)
    exchange = _read_exchange(source)
    if action is Action.CANCEL:
        comment = None if is_cancel_all else _comment(source.value("comment"))  # a comment narrows a plain cancel
        signal = Signal(action=action, symbol=symbol, exchange=exchange, comment=comment, cancel_all=is_cancel_all)
        return signal, source.warnings
    return _read_order(source, action, symbol, exchange), source.warnings


def _read_order(source: FieldSource, action: Action, symbol: str | None, exchange: str | None) -> Signal:
    target = _read_target(source, action)
    reduce_only = _read_reduce_only(source, action) or (target is not None and is_exit(target, action))
    source.is_entry = not reduce_only  # webhook defaults and locks for sizes, stops and order types are about entries
    order_type = _read_order_type(source)
    limit_price, trigger_price, price = _read_prices(source, order_type)
    written_stop = None if reduce_only else source.protective("stopLoss", "stop_loss_empty")
    stop_loss = None if written_stop is None else read_stop_loss(written_stop)
    written_profit = None if reduce_only else source.protective("takeProfit", "take_profit_empty")
    written_trail = None if reduce_only else source.protective("trailingStop", "stop_loss_empty")
    told = target
    quantity, quantity_type, target = read_quantity(source, action, target, reduce_only=reduce_only)
    if quantity_type is QuantityType.RISK_PERCENT and stop_loss is None:
        raise Refused(
            "quantity_type_unsupported",
            "quantityType: found risk_percent without a stopLoss, expected one to measure the risk by; add stopLoss",
            field="quantityType",
        )
    leverage, slippage = None if reduce_only else source.value("leverage"), source.value("slippage")
    return Signal(
        action=action,
        symbol=symbol,
        exchange=exchange,
        quantity=quantity,
        quantity_type=quantity_type,
        order_type=order_type,
        price=price,
        limit_price=limit_price,
        trigger_price=trigger_price,
        stop_loss=stop_loss,
        take_profits=() if written_profit is None else read_take_profits(written_profit),
        trailing_stop=None if written_trail is None else read_trailing_stop(written_trail),
        reduce_only=reduce_only,
        leverage=None if leverage is None else read_leverage(leverage),
        slippage=None if slippage is None else read_slippage(slippage),
        target=target,
        comment=_comment(source.free_text("comment")),
        is_reversal=told is not None and target is None and is_reversal(told),
    )


def _read_action(source: FieldSource) -> tuple[Action, bool]:
    word = source.value("action")
    if word is None:
        implied = _implied_action(source)
        if implied is not None:
            return implied, False
        raise Refused(
            "action_missing", "action: missing, expected buy, sell, close, flip, cancel or ping", field="action"
        )
    name = _word(word)
    action = _ACTIONS.get(name)
    if action is None:
        raise Refused(
            "action_unknown",
            f"action: found {show(word)}, expected buy, sell, close, flip, cancel, cancel_all or ping",
            field="action",
        )
    return action, name in ("cancel_all", "cancelall")


def _implied_action(source: FieldSource) -> Action | None:
    """A webhook that follows positions needs no action: the target says where to go."""
    if source.settings.follow != "position":
        return None
    target = read_target(source.value)
    if target is None:
        return None
    before = target.previous_signed
    if before is not None and before != target.signed:
        return Action.BUY if target.signed > before else Action.SELL
    if target.side is PositionSide.FLAT:
        return Action.CLOSE
    return Action.BUY if target.side is PositionSide.LONG else Action.SELL


def _read_symbol(source: FieldSource, *, is_required: bool) -> str | None:
    said = source.message_value("symbol")
    locked = source.locked("symbol")
    if (
        locked is not None
        and isinstance(said, str)
        and not (len(said) <= _LONGEST_SYMBOL and is_same_market(said, locked))
    ):
        raise Refused(
            "symbol_not_allowed",
            f"symbol: found {show(said)}, but this webhook is locked to {show(locked)}; use another webhook for other markets",
            field="symbol",
        )
    symbol = locked if locked is not None else source.value("symbol")
    if symbol is None:
        if not is_required:
            return None
        raise Refused("symbol_missing", 'symbol: missing, expected a ticker; add "symbol":"{{ticker}}"', field="symbol")
    if not isinstance(symbol, str) or isinstance(symbol, NumberText) or len(symbol) > _LONGEST_SYMBOL:
        raise Refused(
            "symbol_invalid",
            f'symbol: found {show(symbol)}, expected a ticker such as BTCUSDT.P; write "{{{{ticker}}}}"',
            field="symbol",
        )
    return symbol


def _read_exchange(source: FieldSource) -> str | None:
    exchange = source.value("exchange")
    if exchange is None:
        return None
    if not isinstance(exchange, str) or len(exchange) > _LONGEST_SYMBOL or not exchange.isprintable():
        raise Refused(
            "field_invalid",
            f'exchange: found {show(exchange)}, expected a venue such as BYBIT; write "{{{{exchange}}}}"',
            field="exchange",
        )
    return exchange


def _read_target(source: FieldSource, action: Action) -> TargetPosition | None:
    target = read_target(source.value)
    if target is None:
        target = _from_sentiment(source)
    if target is None:
        if source.settings.follow == "position" and action in (Action.BUY, Action.SELL, Action.FLIP):
            raise Refused(
                "position_missing",
                "marketPosition: missing, but this webhook follows the strategy's position; use the message of "
                "`kekbridge template NAME --kind position`, or set the webhook to follow signals",
                field="marketPosition",
            )
        return None
    contracts = contracts_of(source, target)
    check_agreement(action, contracts, target)
    return with_implied_previous(target, action, contracts)


def _from_sentiment(source: FieldSource) -> TargetPosition | None:
    """Profiles whose service names only the direction after the fill: flat is a target, the others are not (no size)."""
    is_flat = _read_sentiment(source) is PositionSide.FLAT
    return TargetPosition(side=PositionSide.FLAT, size=Decimal(0)) if is_flat else None


def _read_sentiment(source: FieldSource) -> PositionSide | None:
    word = source.value("sentiment")
    try:
        return None if word is None else PositionSide(_word(word))
    except ValueError:
        raise Refused(
            "field_invalid", f"sentiment: found {show(word)}, expected bullish, bearish or flat", field="sentiment"
        ) from None


def _read_reduce_only(source: FieldSource, action: Action) -> bool:
    if action is Action.CLOSE:
        return True
    written = source.value("reduceOnly")
    if written is None or isinstance(written, bool):
        wanted = bool(written)
    elif _word(written) in ("true", "false"):
        wanted = _word(written) == "true"
    else:
        raise Refused("field_invalid", f"reduceOnly: found {show(written)}, expected true or false", field="reduceOnly")
    sentiment = _read_sentiment(source)
    # A sell after which the strategy is still long was a partial close.
    wanted = wanted or (sentiment, action) in ((PositionSide.LONG, Action.SELL), (PositionSide.SHORT, Action.BUY))
    if wanted and action is Action.FLIP:
        raise Refused(
            "field_invalid",
            "reduceOnly: found true on a flip, which opens the other side; use close, or leave reduceOnly out",
            field="reduceOnly",
        )
    return wanted


def _read_order_type(source: FieldSource) -> OrderType:
    written = source.value("orderType")
    if written is None:
        return OrderType.MARKET
    kind = _ORDER_TYPES.get(_word(written))
    if kind is None:
        raise Refused(
            "order_type_unknown",
            f"orderType: found {show(written)}, expected market, limit, stop, stop_limit, ioc, fok or post_only",
            field="orderType",
        )
    return kind


def _read_prices(source: FieldSource, kind: OrderType) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    """Limit price, trigger price and signal price. `price` is the limit of a limit order only when limitPrice is absent."""
    price = _read_price(source, "price")
    limit_price, trigger_price = _read_price(source, "limitPrice"), _read_price(source, "triggerPrice")
    is_stop = kind in (OrderType.STOP, OrderType.STOP_LIMIT)
    if limit_price is not None and not kind.has_limit_price:
        raise _unused_price("limitPrice", kind, "limit")
    if trigger_price is not None and not is_stop:
        raise _unused_price("triggerPrice", kind, "stop")
    if is_stop and trigger_price is None:
        raise _price_missing("triggerPrice", kind)
    if kind.has_limit_price and limit_price is None:
        if price is None:
            raise _price_missing("limitPrice", kind)
        limit_price = price
    return limit_price, trigger_price, price


def _read_price(source: FieldSource, name: str) -> Decimal | None:
    written = source.value(name)
    if written is None:
        return None
    price = decimal_of(written)
    if price is None or price <= 0:
        raise Refused(
            "price_invalid",
            f"{name}: found {show(written)}, expected a positive plain number such as 65000.5",
            field=name,
        )
    return price


def _price_missing(name: str, kind: OrderType) -> Refused:
    return Refused("price_missing", f"{name}: missing, a {kind} order needs it; add {name}", field=name)


def _unused_price(name: str, kind: OrderType, meant: str) -> Refused:
    # A market order in place of the limit order somebody meant is the costliest way to be tolerant.
    return Refused(
        "order_type_unsupported",
        f'{name}: a {kind} order has none; add "orderType":"{meant}", or leave {name} out',
        field=name,
    )


def _comment(written: object) -> str | None:
    if not isinstance(written, str) or not written.strip():
        return None
    return clip(escape_unprintable(str(written)), _LONGEST_COMMENT)


def _word(written: object) -> str:
    """A word in lower case with underscores, `Post-Only` -> `post_only`; the empty word for anything that is no text."""
    if not isinstance(written, str) or isinstance(written, NumberText):
        return ""
    return written.strip(" \t\r\n").replace(" ", "_").replace("-", "_").lower() if written.isascii() else ""
