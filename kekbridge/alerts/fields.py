"""Read one step of a message into a Signal: check its fields and complete them from the webhook's settings.

Fields: docs/internals/architecture.md section 5. Only fields that the step uses are read: an empty stopLoss on a close must not block
the exit. Other services' formats have been mapped to canonical names before (profiles.py). Must not know the market.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from kekbridge.alerts.exits import read_stop_loss, read_take_profits, read_trailing_stop
from kekbridge.alerts.field_source import FieldSource
from kekbridge.alerts.numbers import NumberText, parse_amount, parse_decimal
from kekbridge.alerts.position import check_agreement, is_exit, is_reversal, read_target, with_implied_previous
from kekbridge.alerts.quantity import read_quantity, strategy_contracts
from kekbridge.alerts.redaction import clip, show
from kekbridge.alerts.signal import Action, PositionSide, QuantityType, Signal, TargetPosition
from kekbridge.alerts.symbols import is_same_market
from kekbridge.errors import Refused
from kekbridge.formatting import escape_unprintable
from kekbridge.model import OrderType, WebhookSettings

_MAX_SYMBOL_LENGTH = 64
_MAX_COMMENT_LENGTH = 200
_HUNDRED = Decimal(100)

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
    """Read canonical `fields` on a webhook with `settings`; return the Signal and warnings for the log.

    Raises Refused with code and field; its message names what was found, what was expected and the fix.
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
    # The webhook's defaults and locks for sizes, stops and order types apply to entries.
    source.is_entry = not reduce_only
    order_type = _read_order_type(source)
    limit_price, trigger_price, price = _read_prices(source, order_type)
    written_stop = None if reduce_only else source.protective_value("stopLoss", "stop_loss_empty")
    stop_loss = None if written_stop is None else read_stop_loss(written_stop)
    written_profit = None if reduce_only else source.protective_value("takeProfit", "take_profit_empty")
    written_trail = None if reduce_only else source.protective_value("trailingStop", "stop_loss_empty")
    strategy_target = target
    quantity, quantity_type, target = read_quantity(source, action, target, reduce_only=reduce_only)
    if quantity_type is QuantityType.RISK_PERCENT and stop_loss is None:
        raise Refused(
            "quantity_type_unsupported",
            "quantityType: found risk_percent without a stopLoss, expected one to measure the risk; add stopLoss",
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
        leverage=None if leverage is None else _read_leverage(leverage),
        slippage=None if slippage is None else _read_slippage(slippage),
        target=target,
        comment=_comment(source.free_text("comment")),
        is_reversal=strategy_target is not None and target is None and is_reversal(strategy_target),
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
    """In position mode a message needs no action: it follows from the target position."""
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
    sent = source.message_value("symbol")
    locked = source.locked("symbol")
    if (
        locked is not None
        and isinstance(sent, str)
        and not (len(sent) <= _MAX_SYMBOL_LENGTH and is_same_market(sent, locked))
    ):
        raise Refused(
            "symbol_not_allowed",
            f"symbol: found {show(sent)}, but this webhook is locked to {show(locked)}; use another webhook for other markets",
            field="symbol",
        )
    symbol = locked if locked is not None else source.value("symbol")
    if symbol is None:
        if not is_required:
            return None
        raise Refused("symbol_missing", 'symbol: missing, expected a ticker; add "symbol":"{{ticker}}"', field="symbol")
    if not isinstance(symbol, str) or isinstance(symbol, NumberText) or len(symbol) > _MAX_SYMBOL_LENGTH:
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
    if not isinstance(exchange, str) or len(exchange) > _MAX_SYMBOL_LENGTH or not exchange.isprintable():
        raise Refused(
            "field_invalid",
            f'exchange: found {show(exchange)}, expected an exchange such as BYBIT; write "{{{{exchange}}}}"',
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
                "marketPosition: missing, but this webhook follows the strategy's position; use the message printed by "
                "`kekbridge template NAME --kind position`, or set the webhook to follow signals",
                field="marketPosition",
            )
        return None
    contracts = strategy_contracts(source, target)
    check_agreement(action, contracts, target)
    return with_implied_previous(target, action, contracts)


def _from_sentiment(source: FieldSource) -> TargetPosition | None:
    """The target for services that send only the direction after the fill: flat is a target, long and short are not (no size)."""
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
    raw = source.value("reduceOnly")
    if raw is None or isinstance(raw, bool):
        wanted = bool(raw)
    elif _word(raw) in ("true", "false"):
        wanted = _word(raw) == "true"
    else:
        raise Refused("field_invalid", f"reduceOnly: found {show(raw)}, expected true or false", field="reduceOnly")
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
    raw = source.value("orderType")
    if raw is None:
        return OrderType.MARKET
    kind = _ORDER_TYPES.get(_word(raw))
    if kind is None:
        raise Refused(
            "order_type_unknown",
            f"orderType: found {show(raw)}, expected market, limit, stop, stop_limit, ioc, fok or post_only",
            field="orderType",
        )
    return kind


def _read_prices(source: FieldSource, kind: OrderType) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    """Return limit price, trigger price and signal price. `price` is the limit of a limit order only if limitPrice is absent."""
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
    raw = source.value(name)
    if raw is None:
        return None
    price = parse_decimal(raw)
    if price is None or price <= 0:
        raise Refused(
            "price_invalid",
            f"{name}: found {show(raw)}, expected a positive plain number such as 65000.5",
            field=name,
        )
    return price


def _read_leverage(raw: object) -> Decimal:
    """Read a whole number from 1 to 100 (the maximum of any Orderly market). Raises Refused(leverage_invalid)."""
    leverage = parse_decimal(raw)
    if leverage is None or not 1 <= leverage <= _HUNDRED or leverage != leverage.to_integral_value():
        raise Refused(
            "leverage_invalid",
            f"leverage: found {show(raw)}, expected a whole number from 1 to 100 such as 5",
            field="leverage",
        )
    return leverage.to_integral_value()


def _read_slippage(raw: object) -> Decimal:
    """Read the maximum distance from the signal price as a fraction: `"0.5%"` and `0.005` are 0.005.

    A bare number above 0.1 is refused: 0.5 more often means half a percent than half the price. Raises Refused(slippage_invalid).
    """
    amount = parse_amount(raw)
    limit = _HUNDRED if amount is not None and amount.is_percent else Decimal("0.1")
    if amount is None or not 0 < amount.value <= limit or (amount.is_percent and amount.value == _HUNDRED):
        raise Refused(
            "slippage_invalid",
            f'slippage: found {show(raw)}, expected a percent such as "0.5%" or a fraction up to 0.1 such as 0.005',
            field="slippage",
        )
    return amount.value / 100 if amount.is_percent else amount.value


def _price_missing(name: str, kind: OrderType) -> Refused:
    return Refused("price_missing", f"{name}: missing, a {kind} order needs it; add {name}", field=name)


def _unused_price(name: str, kind: OrderType, meant: str) -> Refused:
    # Sending a market order where a limit order was meant would be the costliest form of tolerance.
    return Refused(
        "order_type_unsupported",
        f'{name}: not used by a {kind} order; add "orderType":"{meant}", or leave {name} out',
        field=name,
    )


def _comment(raw: object) -> str | None:
    if not isinstance(raw, str) or not raw.strip():
        return None
    return clip(escape_unprintable(str(raw)), _MAX_COMMENT_LENGTH)


def _word(raw: object) -> str:
    """A word in lower case with underscores, `Post-Only` -> `post_only`; empty for anything but ASCII text."""
    if not isinstance(raw, str) or isinstance(raw, NumberText):
        return ""
    return raw.strip(" \t\r\n").replace(" ", "_").replace("-", "_").lower() if raw.isascii() else ""
