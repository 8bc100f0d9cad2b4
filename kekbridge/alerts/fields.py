"""Read one step of a message into a Signal: check its fields and complete them from the webhook's settings.

Fields: docs/internals/architecture.md section 5. Only fields that the step uses are read: an empty stopLoss on a close must not block
the exit. Other services' formats are mapped to canonical names by their profile (profiles.py). Must not know the market.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from msgspec import Struct

from kekbridge.alerts.exits import read_stop_loss, read_take_profits, read_trailing_stop
from kekbridge.alerts.field_source import FieldSource
from kekbridge.alerts.numbers import NumberText, no_number_hint, parse_amount, parse_decimal
from kekbridge.alerts.position import check_agreement, is_exit, is_reversal, read_target, with_implied_previous
from kekbridge.alerts.profile import Profile
from kekbridge.alerts.quantity import read_quantity, strategy_contracts
from kekbridge.alerts.redaction import clip, show
from kekbridge.alerts.signal import Action, Amount, PositionSide, Signal, TakeProfitSpec, TargetPosition
from kekbridge.alerts.symbols import is_same_market
from kekbridge.alerts.unknown_fields import passed_over
from kekbridge.errors import Refused
from kekbridge.formatting import escape_unprintable
from kekbridge.model import OrderType, WebhookSettings

_MAX_SYMBOL_LENGTH = 64
_MAX_SYMBOLS = 50
_MAX_COMMENT_LENGTH = 200
_HUNDRED = Decimal(100)
_TRADES = (Action.BUY, Action.SELL)

# Words of other services, without separators: `close_long`, `close long` and `closeLong` are one. Words that may mean several things
# (B, 1, strong_buy, take_profit) are missing on purpose.
_ACTIONS: Mapping[str, Action] = {
    **{action.value: action for action in Action},
    **dict.fromkeys(("long", "enterlong", "openlong", "golong", "longentry", "entrylong", "buytoopen"), Action.BUY),
    **dict.fromkeys(
        (
            "short",
            "entershort",
            "openshort",
            "goshort",
            "shortentry",
            "entryshort",
            "selltoopen",
            "sellshort",
            "shortsell",
        ),
        Action.SELL,
    ),
    **dict.fromkeys(("exit", "flat", "flatten", "closeposition", "exitposition"), Action.CLOSE),
    **dict.fromkeys(("closeall", "exitall", "flattenall", "closeallpositions"), Action.CLOSE),
    "reverse": Action.FLIP,
    "cancelall": Action.CANCEL,
}
# Reduce-only orders for the whole position unless the message has a quantity: exit_long must not close a short.
_ONE_SIDE_EXITS: Mapping[str, Action] = {
    **dict.fromkeys(
        ("closelong", "exitlong", "longclose", "longexit", "closebuy", "exitbuy", "selltoclose"), Action.SELL
    ),
    **dict.fromkeys(
        (
            "closeshort",
            "exitshort",
            "shortclose",
            "shortexit",
            "closesell",
            "exitsell",
            "buytoclose",
            "buytocover",
            "cover",
        ),
        Action.BUY,
    ),
}
_ALL_MARKETS = frozenset({"cancelall", "closeall", "exitall", "flattenall", "closeallpositions"})
#: Every word that is read as an action, without separators.
ACTION_WORDS = frozenset(_ACTIONS) | frozenset(_ONE_SIDE_EXITS)
_ORDER_TYPES: Mapping[str, OrderType] = {
    **{kind.value: kind for kind in OrderType},
    "stop_market": OrderType.STOP,
    "stopmarket": OrderType.STOP,
    "stoplimit": OrderType.STOP_LIMIT,
    "postonly": OrderType.POST_ONLY,
}


class _ActionWord(Struct, frozen=True):
    """What the word in `action` asks for."""

    action: Action
    #: Close only the side that the action reduces.
    closes_one_side: bool = False
    #: Every market of the account, unless the message has a symbol.
    is_for_all_markets: bool = False


def read_signal(
    step: Mapping[str, Any], settings: WebhookSettings, profile: Profile
) -> tuple[Signal, list[str], list[str]]:
    """Read one step in the format of `profile` on a webhook with `settings`.

    Return the Signal, warnings for the log, and the names of fields that decide nothing.
    Raises Refused with code and field; its message names what was found, what was expected and the fix.
    """
    fields = profile.canonical(step)
    source = FieldSource(fields, settings)
    order = _read_action(source)
    action = order.action
    if action is Action.PING:
        return Signal(action=action, symbol=None), source.warnings, []
    reduce_only = action is Action.CANCEL or order.closes_one_side or _read_reduce_only(source, action)
    names = passed_over(profile.unread(step), fields, is_exit=reduce_only)
    symbol = _read_symbol(source, order)
    exchange = _read_exchange(source)
    if action is Action.CANCEL:
        is_all = order.is_for_all_markets
        comment = None if is_all else _comment(source.value("comment"))  # a comment narrows a plain cancel
        signal = Signal(action=action, symbol=symbol, exchange=exchange, comment=comment, cancel_all=is_all)
        return signal, source.warnings, names
    signal = _read_order(source, order, symbol, exchange, profile, reduce_only=reduce_only)
    return signal, source.warnings, names


def _read_order(
    source: FieldSource,
    order: _ActionWord,
    symbol: str | None,
    exchange: str | None,
    profile: Profile,
    *,
    reduce_only: bool,
) -> Signal:
    target = _read_target(source, order, profile, needs_position=not reduce_only)
    action = order.action
    if action is Action.ADD and target is not None:
        action = Action.SELL if target.side is PositionSide.SHORT else Action.BUY
    is_wanted_position = target is not None and _names_wanted_position(source, profile)
    if target is not None and not is_wanted_position:
        reduce_only = reduce_only or is_exit(target, action)
    # The webhook's defaults and locks for sizes, stops and order types apply to entries.
    source.is_entry = not reduce_only
    order_type = _read_order_type(source)
    limit_price, trigger_price, price = _read_prices(source, order_type)
    stop_loss, take_profits, trailing_stop = _read_protection(source, reduce_only=reduce_only)
    strategy_target = target
    has_no_quantity = profile.bare_order_exits and source.message_value("quantity") is None
    quantity, quantity_type, target = read_quantity(
        source,
        action,
        target,
        reduce_only=reduce_only,
        is_whole=order.closes_one_side,
        may_be_missing=has_no_quantity or is_wanted_position,
        keeps_target=is_wanted_position,
    )
    if quantity_type is not None and quantity_type.is_risk and stop_loss is None:
        raise Refused(
            "quantity_type_unsupported",
            f"quantityType: found {quantity_type} without a stopLoss, expected one to measure the risk; add stopLoss",
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
        take_profits=take_profits,
        trailing_stop=trailing_stop,
        reduce_only=reduce_only,
        leverage=None if leverage is None else _read_leverage(leverage),
        slippage=None if slippage is None else _read_slippage(slippage),
        target=target,
        states_position=strategy_target is not None,
        comment=_comment(source.free_text("comment")),
        is_reversal=strategy_target is not None and target is None and is_reversal(strategy_target),
        is_wanted_position=is_wanted_position,
        exits_opposite=has_no_quantity and action in _TRADES and not reduce_only and target is None,
        all_markets=order.is_for_all_markets and symbol is None,
        symbols=_read_symbols(source),
        max_quantity=_read_max_quantity(source),
    )


def _read_protection(
    source: FieldSource, *, reduce_only: bool
) -> tuple[Amount | None, tuple[TakeProfitSpec, ...], Amount | None]:
    """Stop loss, take-profits and trailing stop of an entry; an exit has none, so that an empty one does not block it."""
    if reduce_only:
        unused = [name for name in ("stopLoss", "takeProfit", "trailingStop") if source.is_sent(name)]
        if unused:
            source.warn(f"{', '.join(unused)}: not used, an order that closes sets no protection")
        return None, (), None
    stop = source.protective_value("stopLoss", "stop_loss_empty")
    profit = source.protective_value("takeProfit", "take_profit_empty")
    trail = source.protective_value("trailingStop", "stop_loss_empty")
    return (
        None if stop is None else read_stop_loss(stop),
        () if profit is None else read_take_profits(profit),
        None if trail is None else read_trailing_stop(trail),
    )


def _read_action(source: FieldSource) -> _ActionWord:
    word = source.value("action")
    if word is None:
        implied = _implied_action(source)
        if implied is not None:
            return _ActionWord(implied)
        raise Refused(
            "action_missing", "action: missing, expected buy, sell, close, flip, cancel or ping", field="action"
        )
    name = _word(word).replace("_", "")
    one_side = _ONE_SIDE_EXITS.get(name)
    if one_side is not None:
        return _ActionWord(one_side, closes_one_side=True)
    action = _ACTIONS.get(name)
    if action is None:
        raise Refused(
            "action_unknown",
            f"action: found {show(word)}, expected buy, sell, close, close_long, close_short, close_all, flip, add, cancel, "
            "cancel_all or ping",
            field="action",
        )
    return _ActionWord(action, is_for_all_markets=name in _ALL_MARKETS)


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


def _read_symbol(source: FieldSource, order: _ActionWord) -> str | None:
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
    symbol = locked if locked is not None else sent
    if symbol is None and not order.is_for_all_markets:
        symbol = source.default("symbol")  # close_all without a symbol means every market, not the default one
    if symbol is None:
        if order.is_for_all_markets:
            return None
        raise Refused("symbol_missing", 'symbol: missing, expected a ticker; add "symbol":"{{ticker}}"', field="symbol")
    if not isinstance(symbol, str) or isinstance(symbol, NumberText) or len(symbol) > _MAX_SYMBOL_LENGTH:
        raise Refused(
            "symbol_invalid",
            f'symbol: found {show(symbol)}, expected a ticker such as BTCUSDT.P; write "{{{{ticker}}}}"',
            field="symbol",
        )
    return symbol


def _read_symbols(source: FieldSource) -> tuple[str, ...]:
    """Read the tickers that the message may name: a text with commas, or a list. Raises Refused(field_invalid)."""
    given = source.value("symbols")
    if given is None:
        return ()
    listed = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else []
    names = tuple(name.strip() if isinstance(name, str) else "" for name in listed)
    if not 0 < len(names) <= _MAX_SYMBOLS or not all(0 < len(name) <= _MAX_SYMBOL_LENGTH for name in names):
        raise Refused(
            "field_invalid",
            f'symbols: found {show(given)}, expected up to {_MAX_SYMBOLS} tickers such as "BTCUSDT.P,ETHUSDT.P"',
            field="symbols",
        )
    return names


def _read_max_quantity(source: FieldSource) -> Decimal | None:
    given = source.value("maxQuantity")
    if given is None:
        return None
    number = parse_decimal(given)
    if number is None or number <= 0:
        raise Refused(
            "field_invalid",
            f"maxQuantity: found {show(given)}, expected the largest size of an order in coins, such as 0.05",
            field="maxQuantity",
        )
    return number


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


def _read_target(
    source: FieldSource, order: _ActionWord, profile: Profile, *, needs_position: bool
) -> TargetPosition | None:
    action = order.action
    contracts = parse_decimal(source.message_value("quantity"))
    target = read_target(source.value, scale=contracts)
    if target is None:
        target = _from_sentiment(source)
    if target is None:
        is_sized_by_it = action in (Action.BUY, Action.SELL, Action.FLIP, Action.ADD) and needs_position
        if source.settings.follow == "position" and is_sized_by_it:
            raise Refused(
                "position_missing",
                "marketPosition: missing, but this webhook follows the strategy's position; use the message printed by "
                "`kekbridge template NAME --kind position`, or set the webhook to follow signals",
                field="marketPosition",
            )
        return None
    if _names_wanted_position(source, profile):
        return target
    if action is Action.ADD:
        action = Action.SELL if target.side is PositionSide.SHORT else Action.BUY
    contracts = strategy_contracts(source, target)
    check_agreement(action, contracts, target)
    return with_implied_previous(target, action, contracts)


def _names_wanted_position(source: FieldSource, profile: Profile) -> bool:
    """Whether the message names the position wanted, and not a strategy's step to it."""
    return profile.position_is_target and source.value("marketPosition") is None


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
            f"{name}: found {show(raw)}, expected a positive plain number such as 65000.5"
            + (no_number_hint(raw) if price is None else ""),
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
