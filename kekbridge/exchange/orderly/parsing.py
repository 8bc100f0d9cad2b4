"""Parse Orderly's JSON into domain values; the one place that knows its field names and words. Pure.

Accepts what the API is known to send: alternative field names, nulls, quoted numbers, "false" as text, camelCase on the streams. A row
without an essential field (id, symbol, side) raises ParseError; callers skip or reject it.
Source: docs/internals/orderly.md sections 5 to 9, 12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from kekbridge.exchange.orderly.replies import read_json
from kekbridge.model import ZERO, Fill, Instrument, MarginMode, OrderStatus, OrderType, Position, Side
from kekbridge.model.orders import ExitKind, ExitStatus, OrderStatusReport


class ParseError(ValueError):
    """A row lacks an essential field."""


_STATUS: Final[Mapping[str, OrderStatus]] = {
    "NEW": OrderStatus.ACCEPTED,
    "REPLACED": OrderStatus.ACCEPTED,  # after an edit, still open
    "PARTIAL_FILLED": OrderStatus.PARTIALLY_FILLED,
    "PARTIALLY_FILLED": OrderStatus.PARTIALLY_FILLED,
    "FILLED": OrderStatus.FILLED,
    "CANCELLED": OrderStatus.CANCELED,
    "CANCELED": OrderStatus.CANCELED,
    "REJECTED": OrderStatus.REJECTED,
}
_PLAIN_TYPES: Final[Mapping[str, OrderType]] = {
    "MARKET": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "IOC": OrderType.IOC,
    "FOK": OrderType.FOK,
    "POST_ONLY": OrderType.POST_ONLY,
    "ASK": OrderType.LIMIT,
    "BID": OrderType.LIMIT,
}
_SIDES: Final[Mapping[str, Side]] = {side.value: side for side in Side}
_EXIT_LEAVES: Final = ("TAKE_PROFIT", "STOP_LOSS")
_MARGIN_MODES: Final = {mode.value: mode for mode in MarginMode}
_PAIRS: Final = ("TP_SL", "POSITIONAL_TP_SL")
_MAX_DIGITS: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


# ------------------------------------------------------------------------------------------------------- single values


def decimal_or_none(raw: object) -> Decimal | None:
    """A finite number, quoted or not, between 10^-64 and 10^64; None for anything else."""
    if type(raw) is Decimal:  # nearly always
        value = raw
    elif type(raw) is int:
        value = Decimal(raw)
    elif isinstance(raw, str) and raw:
        try:
            value = Decimal(raw)
        except InvalidOperation:
            return None
    else:
        return None
    return value if _are_plausible(value) else None


def _are_plausible(*values: Decimal | None) -> bool:
    """False if any is NaN, infinite, or so large or small that a few characters become gigabytes where it is written out."""
    for value in values:
        if value is None:
            continue
        if not value.is_finite() or not -_MAX_DIGITS <= value.adjusted() < _MAX_DIGITS:
            return False
    return True


def integer_or_none(raw: object) -> int | None:
    """A whole number, quoted or not; None for anything else. Ids exceed 2^53, so never via float."""
    if type(raw) is int:  # nearly always; a bool is no number
        return raw
    value = decimal_or_none(raw)
    return int(value) if value is not None and value == value.to_integral_value() else None


def datetime_or_none(raw: object) -> datetime | None:
    """Unix ms as an aware UTC datetime; None for 0 and anything else."""
    value = integer_or_none(raw)
    if value is None or not 0 < value < 10**14:
        return None
    return _EPOCH + timedelta(milliseconds=value)


def milliseconds(at: datetime) -> int:
    """A time as Unix ms."""
    return int(at.timestamp()) * 1000 + at.microsecond // 1000


def is_true(raw: object) -> bool:
    """True for `true` and "true" only: "false" comes as text, too (section 7)."""
    return raw is True or (isinstance(raw, str) and raw.lower() == "true")


def identifier(raw: object) -> str | None:
    """An id as text; None for null, "", 0 and "0" (section 6)."""
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        return None
    text = str(raw)
    return text if text.strip("0") else None


_CONTAINERS: Final = frozenset({dict, list})


@lru_cache(maxsize=512)
def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def snake_keys(value: object) -> Any:
    """A stream message (camelCase, section 12) with the field names of the REST API."""
    if isinstance(value, dict):
        return {_snake(key): snake_keys(item) if type(item) in _CONTAINERS else item for key, item in value.items()}
    if isinstance(value, list):
        return [snake_keys(item) for item in value]
    return value


def _first(row: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    return None


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise ParseError(f"{name} is missing in a reply of the exchange")
    return value


def _side(row: Mapping[str, Any]) -> Side:
    side = _SIDES.get(_text(row, "side").upper())
    if side is None:
        raise ParseError("side is neither BUY nor SELL in a reply of the exchange")
    return side


def _positive(raw: object) -> Decimal | None:
    value = decimal_or_none(raw)
    return value if value is not None and value > 0 else None


# ----------------------------------------------------------------------------------------------------------------- orders


def status_of(status_text: object, *, executed: Decimal, quantity: Decimal) -> OrderStatus:
    """Map Orderly's status. An undocumented one counts as open: no order is considered final on a guess."""
    status = _STATUS.get(str(status_text).upper() if isinstance(status_text, str) else "", OrderStatus.ACCEPTED)
    if status is OrderStatus.ACCEPTED and executed > 0:
        return OrderStatus.PARTIALLY_FILLED if executed < quantity or quantity == 0 else OrderStatus.FILLED
    return status


def order_report(row: Mapping[str, Any]) -> OrderStatusReport:
    """Parse a plain order from REST, or from `executionreport` after `snake_keys`."""
    order_id = identifier(row.get("order_id"))
    if order_id is None:
        raise ParseError("order_id is missing in a reply of the exchange")
    quantity = decimal_or_none(_first(row, "quantity", "order_quantity")) or ZERO
    executed = decimal_or_none(_first(row, "total_executed_quantity", "executed_quantity", "executed")) or ZERO
    updated = integer_or_none(_first(row, "updated_time", "timestamp", "created_time")) or 0
    return OrderStatusReport(
        order_id=order_id,
        client_order_id=identifier(row.get("client_order_id")),
        is_algo=False,
        symbol=_text(row, "symbol"),
        side=_side(row),
        order_type=_PLAIN_TYPES.get(str(_first(row, "type", "order_type")).upper()),
        venue_type=None,
        status=status_of(row.get("status"), executed=executed, quantity=quantity),
        quantity=quantity,
        executed_quantity=executed,
        average_price=_average(row),
        limit_price=_positive(_first(row, "price", "order_price")),
        trigger_price=None,
        fee=decimal_or_none(row.get("total_fee")) or ZERO,
        realized_pnl=decimal_or_none(row.get("realized_pnl")),
        reduce_only=is_true(row.get("reduce_only")),
        reason=_reason(row),
        created_at=datetime_or_none(row.get("created_time")),
        updated_at=datetime_or_none(updated) or _EPOCH,
        version=updated,
        margin_mode=_margin_mode(row),
    )


def algo_report(row: Mapping[str, Any]) -> OrderStatusReport:
    """Parse an algo order with its children, from REST or from `algoexecutionreportv2` after `snake_keys`.

    The figures of a BRACKET are those of the entry: FILLED once it has executed, although the exits still wait.
    """
    order_id = identifier(row.get("algo_order_id")) or identifier(row.get("order_id"))
    if order_id is None:
        raise ParseError("algo_order_id is missing in a reply of the exchange")
    children = tuple(algo_report(child) for child in _child_rows(row))
    algo_type = _text(row, "algo_type").upper()
    quantity = decimal_or_none(row.get("quantity"))
    if quantity is None:  # the root of a pair may have none, unlike its legs (section 7)
        quantity = next((child.quantity for child in children), ZERO)
    executed = decimal_or_none(_first(row, "total_executed_quantity", "executed_quantity")) or ZERO
    if algo_type in _PAIRS and executed == 0:
        executed = sum((child.executed_quantity for child in children), ZERO)
    updated = integer_or_none(_first(row, "updated_time", "timestamp", "created_time")) or 0
    return OrderStatusReport(
        order_id=order_id,
        client_order_id=identifier(row.get("client_order_id")),
        is_algo=True,
        symbol=_text(row, "symbol"),
        side=_algo_side(row, children),
        order_type=_algo_order_type(row, algo_type),
        venue_type=algo_type,
        status=_algo_status(row, algo_type, executed, quantity),
        quantity=quantity,
        executed_quantity=executed,
        average_price=_average(row),
        limit_price=_positive(row.get("price")),
        trigger_price=_positive(_first(row, "trigger_price", "activated_price")),
        fee=decimal_or_none(row.get("total_fee")) or ZERO,
        realized_pnl=decimal_or_none(row.get("realized_pnl")),
        reduce_only=is_true(row.get("reduce_only")),
        reason=_reason(row),
        created_at=datetime_or_none(row.get("created_time")),
        updated_at=datetime_or_none(updated) or _EPOCH,
        version=updated,
        stop_is_live=_stop_is_live(row, algo_type, children),
        margin_mode=_margin_mode(row),
        exits=_exits_of(children),
        live_stop_quantity=_live_stop_quantity(children),
        extreme_price=_positive(row.get("extreme_price")),
        live_take_profit_quantity=_live_take_profit_quantity(row, algo_type, quantity - executed, children),
        is_exit=algo_type in (*_PAIRS, *_EXIT_LEAVES),
        children=children,
    )


def _exits_of(legs: Iterable[OrderStatusReport]) -> tuple[ExitStatus, ...]:
    """The stop losses and take-profits among the legs, at any depth. A pair lists both; one without a trigger was not requested."""
    found: list[ExitStatus] = []
    for leg in legs:
        found += leg.exits
        if leg.venue_type in _EXIT_LEAVES and leg.trigger_price:
            found.append(
                ExitStatus(
                    kind=ExitKind(leg.venue_type),
                    trigger_price=leg.trigger_price,
                    status=leg.status,
                    executed_quantity=leg.executed_quantity,
                    average_price=leg.average_price,
                )
            )
    return tuple(found)


def _live_stop_quantity(legs: Sequence[OrderStatusReport]) -> Decimal:
    """Size of the largest live stop loss among the legs, at any depth."""
    sizes = [leg.quantity for leg in legs if leg.venue_type == "STOP_LOSS" and leg.stop_is_live]
    return max((*sizes, *(leg.live_stop_quantity for leg in legs)), default=ZERO)


def _live_take_profit_quantity(
    row: Mapping[str, Any], algo_type: str, remaining: Decimal, legs: Sequence[OrderStatusReport]
) -> Decimal:
    """What the largest live take-profit of an order or of its legs, at any depth, may still close."""
    if algo_type == "TAKE_PROFIT":
        is_requested = _positive(row.get("trigger_price")) is not None
        return max(remaining, ZERO) if is_requested and _leg_is_live(row) else ZERO
    return max((leg.live_take_profit_quantity for leg in legs), default=ZERO)


def _margin_mode(row: Mapping[str, Any]) -> MarginMode | None:
    return _MARGIN_MODES.get(_text(row, "margin_mode").upper()) if row.get("margin_mode") else None


def margin_mode_or_cross(row: Mapping[str, Any]) -> MarginMode:
    """The margin mode of a row; cross where it has none."""
    return MarginMode.ISOLATED if str(row.get("margin_mode")).upper() == "ISOLATED" else MarginMode.CROSS


def is_root(row: Mapping[str, Any]) -> bool:
    """True for the root of an algo order; a stream may report a single leg as well."""
    return identifier(row.get("parent_algo_order_id")) is None


def _algo_status(row: Mapping[str, Any], algo_type: str, executed: Decimal, quantity: Decimal) -> OrderStatus:
    status_text = _first(row, "algo_status", "status", "root_algo_order_status", "root_algo_status")
    status = status_of(status_text, executed=executed, quantity=quantity)
    if algo_type == "BRACKET" and quantity > 0 and executed >= quantity:
        # The entry is complete, whatever status the root has while (or after) its exits run.
        return OrderStatus.FILLED
    return status


def _stop_is_live(row: Mapping[str, Any], algo_type: str, children: tuple[OrderStatusReport, ...]) -> bool | None:
    """Whether a stop loss is active: activated, not triggered, not final. None if the report contains no legs."""
    if algo_type == "STOP_LOSS":
        return _leg_is_live(row)
    if algo_type in ("STOP", "TRAILING_STOP") and is_true(row.get("reduce_only")):
        return row.get("is_activated") in (None, True, "true") and not _has_fired(row) and _leaf_is_open(row)
    if algo_type not in ("BRACKET", *_PAIRS) or not children:
        return None
    if algo_type in _PAIRS and not _leaf_is_open(row):
        return False
    return any(child.stop_is_live for child in children)


def _leg_is_live(row: Mapping[str, Any]) -> bool:
    activated = row.get("is_activated")
    return (activated is None or is_true(activated)) and not _has_fired(row) and _leaf_is_open(row)


def _leaf_is_open(row: Mapping[str, Any]) -> bool:
    return status_of(_first(row, "algo_status", "status"), executed=ZERO, quantity=ZERO) is OrderStatus.ACCEPTED


def _has_fired(row: Mapping[str, Any]) -> bool:
    return is_true(_first(row, "is_triggered", "triggered")) or str(row.get("trigger_status")).upper() == "SUCCESS"


def _child_rows(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = row.get("child_orders")
    return [child for child in rows if isinstance(child, Mapping)] if isinstance(rows, list) else []


def _algo_side(row: Mapping[str, Any], children: tuple[OrderStatusReport, ...]) -> Side:
    """The side; for the root of a pair, which has none, that of its legs."""
    if row.get("side") is None and children:
        return children[0].side
    return _side(row)


def _algo_order_type(row: Mapping[str, Any], algo_type: str) -> OrderType | None:
    is_limit = str(row.get("type")).upper() == "LIMIT"
    if algo_type == "BRACKET":
        return OrderType.LIMIT if is_limit else OrderType.MARKET
    if algo_type == "STOP":
        return OrderType.STOP_LIMIT if is_limit else OrderType.STOP
    return None


def _average(row: Mapping[str, Any]) -> Decimal | None:
    """The average price, spelled differently on different paths (section 15, trap 20); 0 before a fill means none."""
    return _positive(_first(row, "average_executed_price", "avg_executed_price"))


def _reason(row: Mapping[str, Any]) -> str:
    reason = _first(row, "reason", "error_message")
    return reason if isinstance(reason, str) and reason.lower() != "none" else ""


# ------------------------------------------------------------------------------------------------------- fills, positions


def trade(row: Mapping[str, Any]) -> Fill:
    """Parse a trade from REST. Its `order_id` is that of the plain order, also if an algo order created that."""
    return _fill(
        row,
        trade_id=identifier(row.get("id")),
        executed_at=datetime_or_none(row.get("executed_timestamp")),
        realized_pnl=decimal_or_none(row.get("realized_pnl")),
        maker=row.get("is_maker"),
    )


def _fill(
    row: Mapping[str, Any],
    *,
    trade_id: str | None,
    executed_at: datetime | None,
    realized_pnl: Decimal | None,
    maker: object,
) -> Fill:
    order_id = identifier(row.get("order_id"))
    price, quantity = _positive(row.get("executed_price")), _positive(row.get("executed_quantity"))
    if trade_id is None or order_id is None or price is None or quantity is None or executed_at is None:
        raise ParseError("a trade in a reply of the exchange lacks its id, order, price, quantity or time")
    return Fill(
        trade_id=trade_id,
        order_id=order_id,
        client_order_id=identifier(row.get("client_order_id")),
        symbol=_text(row, "symbol"),
        side=_side(row),
        price=price,
        quantity=quantity,
        fee=decimal_or_none(row.get("fee")) or ZERO,
        realized_pnl=realized_pnl,
        is_maker=is_true(maker) or integer_or_none(maker) == 1,
        executed_at=executed_at,
        margin_mode=margin_mode_or_cross(row),
    )


class ExecutionMessage(msgspec.Struct, frozen=True):
    """One message of `executionreport`."""

    #: The order as it is now.
    report: OrderStatusReport
    #: The trade that changed it; None if none did (tradeId 0).
    fill: Fill | None
    #: Sequence number among the reports of the order; 0 if not reported.
    seq: int


class _DocumentedExecution(msgspec.Struct, rename="camel", kw_only=True):
    """An `executionreport` with the documented names and types; anything else in it is a ValidationError or not read."""

    order_id: int
    client_order_id: str | None
    symbol: str
    side: Side
    type: str
    status: str
    quantity: Decimal
    total_executed_quantity: Decimal
    price: Decimal
    avg_executed_price: Decimal
    total_fee: Decimal | None = None
    realized_pnl: Decimal | None = None
    reduce_only: bool | None = None
    reason: str
    created_time: int | None = None
    timestamp: int
    trade_id: int
    executed_price: Decimal
    executed_quantity: Decimal
    fee: Decimal | None
    maker: bool | None = None
    margin_mode: str | None = None
    seq: int | None = None
    # Read first by `order_report` where a message has them: only null is as documented.
    average_executed_price: None = None
    updated_time: None = None


_EXECUTIONS: Final = msgspec.json.Decoder(_DocumentedExecution)
# The name of a field in snake_case other than match_id, which the stream is documented to have.
_SNAKE_CASE: Final = re.compile(rb'_(?<!match_)[a-z_]+"\s*:')


def execution(data: bytes | msgspec.Raw) -> ExecutionMessage:
    """Parse the JSON of an `executionreport`; one as documented is decoded straight into its types. Raises ParseError."""
    try:
        message = _EXECUTIONS.decode(data)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return _other_execution(data)
    if _SNAKE_CASE.search(data) is not None:
        return _other_execution(data)
    return _documented_execution(message) or _other_execution(data)


def _documented_execution(message: _DocumentedExecution) -> ExecutionMessage | None:
    """The report and fill of a message; None without an essential value, which `_other_execution` reports."""
    order_id, symbol, side, timestamp = message.order_id, message.symbol, message.side, message.timestamp
    quantity, executed, average = message.quantity, message.total_executed_quantity, message.avg_executed_price
    traded, traded_price, limit_price = message.executed_quantity, message.executed_price, message.price
    fee, total_fee, realized_pnl = message.fee, message.total_fee, message.realized_pnl
    at = datetime_or_none(timestamp)
    if at is None or not (order_id and symbol):
        return None
    if not _are_plausible(quantity, executed, average, traded, traded_price, limit_price, fee, total_fee, realized_pnl):
        return None
    client_order_id = message.client_order_id
    if client_order_id is not None and not client_order_id.strip("0"):
        client_order_id = None
    report = OrderStatusReport(
        order_id=str(order_id),
        client_order_id=client_order_id,
        is_algo=False,
        symbol=symbol,
        side=side,
        order_type=_PLAIN_TYPES.get(message.type.upper()),
        venue_type=None,
        status=status_of(message.status, executed=executed, quantity=quantity),
        quantity=quantity or ZERO,
        executed_quantity=executed or ZERO,
        average_price=average if average > 0 else None,
        limit_price=limit_price if limit_price > 0 else None,
        trigger_price=None,
        fee=total_fee or ZERO,
        realized_pnl=realized_pnl,
        reduce_only=message.reduce_only is True,
        reason="" if message.reason.lower() == "none" else message.reason,
        created_at=None if message.created_time is None else datetime_or_none(message.created_time),
        updated_at=at,
        version=timestamp,
        margin_mode=_MARGIN_MODES.get((message.margin_mode or "").upper()),
    )
    fill = None
    if message.trade_id and traded > 0:
        if traded_price <= 0:
            return None
        fill = Fill(
            trade_id=str(message.trade_id),
            order_id=report.order_id,
            client_order_id=client_order_id,
            symbol=symbol,
            side=side,
            price=traded_price,
            quantity=traded,
            fee=fee or ZERO,
            realized_pnl=None,  # the message contains the order's only, which would count once per fill
            is_maker=message.maker is True,
            executed_at=at,
            margin_mode=report.margin_mode or MarginMode.CROSS,
        )
    return ExecutionMessage(report, fill, message.seq or 0)


def _other_execution(data: bytes | msgspec.Raw) -> ExecutionMessage:
    """Parse any other `executionreport` (quoted ids, missing values, names in snake_case) by the tolerant rules of REST's rows."""
    try:
        row = snake_keys(read_json(data))
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ParseError("the message is not an object")
    return ExecutionMessage(
        report=order_report(row),
        fill=_stream_fill(row),
        seq=integer_or_none(row.get("seq")) or 0,
    )


def _stream_fill(row: Mapping[str, Any]) -> Fill | None:
    """Parse the fill inside an `executionreport` (after `snake_keys`); None if it contains none (tradeId 0)."""
    trade_id = identifier(row.get("trade_id"))
    if trade_id is None or _positive(row.get("executed_quantity")) is None:
        return None
    return _fill(
        row,
        trade_id=trade_id,
        executed_at=datetime_or_none(row.get("timestamp")),
        realized_pnl=None,  # the message contains the order's only, which would count once per fill
        maker=row.get("maker"),
    )


@dataclass(frozen=True, slots=True)
class PositionRow:
    """A position as reported, and what orders it among other reports."""

    position: Position
    #: Sequence number; None if not reported.
    seq: int | None
    #: Time of the last change, ms of the exchange's clock; 0 if not reported.
    changed_ms: int


def position_row(row: Mapping[str, Any]) -> PositionRow:
    """Parse a position from REST, or from the `position` topic after `snake_keys`. Quantity zero is kept: it means closed."""
    quantity = decimal_or_none(row.get("position_qty"))
    if quantity is None:
        raise ParseError("position_qty is missing in a reply of the exchange")
    changed = integer_or_none(_first(row, "updated_time", "timestamp")) or 0
    position = Position(
        symbol=_text(row, "symbol"),
        quantity=quantity,
        average_open_price=decimal_or_none(row.get("average_open_price")) or ZERO,
        margin_mode=margin_mode_or_cross(row),
        mark_price=_positive(row.get("mark_price")),
        cost_position=decimal_or_none(row.get("cost_position")) or ZERO,
        unsettled_pnl=decimal_or_none(row.get("unsettled_pnl")) or ZERO,
        leverage=_positive(row.get("leverage")),
        liquidation_price=_positive(row.get("est_liq_price")),
        updated_at=datetime_or_none(changed),
    )
    return PositionRow(position, integer_or_none(row.get("seq")), changed)


def instrument(row: Mapping[str, Any]) -> Instrument:
    """Parse the trading rules of one symbol. Raises ParseError if a rule that orders are rounded by is missing."""
    symbol = _text(row, "symbol")
    required = (
        "quote_min",
        "quote_max",
        "quote_tick",
        "base_min",
        "base_max",
        "base_tick",
        "min_notional",
        "price_range",
    )
    values = {name: decimal_or_none(row.get(name)) for name in required}
    numbers = {name: value for name, value in values.items() if value is not None}
    if len(numbers) < len(required) or numbers["quote_tick"] <= 0 or numbers["base_tick"] <= 0:
        raise ParseError(f"the trading rules of {symbol} are incomplete in the exchange's answer")
    return Instrument(
        symbol=symbol,
        **numbers,
        price_scope=decimal_or_none(row.get("price_scope")) or ZERO,
        base_imr=decimal_or_none(row.get("base_imr")) or Decimal(1),
        base_mmr=decimal_or_none(row.get("base_mmr")) or Decimal(1),
        imr_factor=decimal_or_none(row.get("imr_factor")) or ZERO,
        status=str(row.get("status") or "ACTIVE").upper(),
    )


def with_client_order_id(report: OrderStatusReport, fill: Fill) -> Fill:
    """A fill with the client order id of its order, which trades from REST lack."""
    client_order_id = report.client_order_id
    return fill if fill.client_order_id == client_order_id else replace(fill, client_order_id=client_order_id)
