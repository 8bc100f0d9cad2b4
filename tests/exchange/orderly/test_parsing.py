"""Parsing of the exchange's JSON: the documented examples, known traps, and noise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.exchange.orderly import parsing
from kekbridge.model import MarginMode, OrderStatus, OrderType, Side
from tests.exchange.orderly.json_text import to_json

ORDER = json.loads(
    """{"order_id":1788643232,"user_id":24871,"price":2500.5,"type":"LIMIT","quantity":0.5,"amount":null,"executed":0.2,
 "executed_quantity":0.2,"total_executed_quantity":0.2,"visible":0.5,"visible_quantity":0.5,"symbol":"PERP_ETH_USDC","side":"BUY",
 "status":"PARTIAL_FILLED","total_fee":0.225,"fee_asset":"USDC","client_order_id":"kb-7f3a","average_executed_price":2500.1,
 "created_time":1790000000100,"updated_time":1790000000450,"realized_pnl":0.0,"reduce_only":false,"order_tag":null,
 "margin_mode":"CROSS"}""",
    parse_float=Decimal,
)
EXECUTION = json.loads(
    """{"symbol":"PERP_ETH_USDC","clientOrderId":"kb-7f3a","orderId":1788643232,"type":"MARKET","side":"BUY","quantity":0.5,
 "price":0,"tradeId":9812331,"executedPrice":2500.1,"executedQuantity":0.2,"fee":0.225,"feeAsset":"USDC","totalExecutedQuantity":0.2,
 "avgExecutedPrice":2500.1,"status":"PARTIAL_FILLED","reason":"","totalFee":0.225,"visibleQuantity":0,"timestamp":1790000000440,
 "marginMode":"CROSS","maker":false,"match_id":"1790000000440000001","seq":1790000000440000002}""",
    parse_float=Decimal,
)
TRADE = json.loads(
    """{"id":9812331,"symbol":"PERP_ETH_USDC","fee":0.225,"fee_asset":"USDC","side":"BUY","order_id":1788643232,
 "executed_price":2500.1,"executed_quantity":0.2,"executed_timestamp":1790000000440,"is_maker":0,"realized_pnl":0.0,
 "match_id":1790000000440000001,"margin_mode":"CROSS","order_enum_fee":null,"order_enum_fee_rate":null}""",
    parse_float=Decimal,
)
POSITION = json.loads(
    """{"symbol":"PERP_ETH_USDC","position_qty":-0.5,"average_open_price":2500.1,"cost_position":-1249.49,"settle_price":2498.98,
 "mark_price":2490.0,"unsettled_pnl":4.49,"est_liq_price":4410.2,"imr":0.1,"mmr":0.05,"leverage":10,"margin_mode":"CROSS","margin":0,
 "seq":1790000000440000002,"timestamp":1790000000440,"updated_time":1790000000440}""",
    parse_float=Decimal,
)
RULES = json.loads(
    """{"symbol":"PERP_BTC_USDC","quote_min":0,"quote_max":200000,"quote_tick":0.1,"base_min":0.00001,"base_max":10,"base_tick":0.00001,
 "min_notional":10,"price_range":0.01,"price_scope":0.6,"std_liquidation_fee":0.006,"base_mmr":0.006,"base_imr":0.01,
 "imr_factor":0.000000375}""",
    parse_float=Decimal,
)


def leaf(kind: str, **fields: Any) -> dict[str, Any]:
    base = {
        "algo_order_id": 90012004,
        "parent_algo_order_id": 90012002,
        "symbol": "PERP_ETH_USDC",
        "algo_type": kind,
        "algo_status": "NEW",
        "side": "SELL",
        "type": "MARKET",
        "quantity": Decimal("0.5"),
        "is_triggered": "false",
        "is_activated": True,
        "reduce_only": True,
    }
    return {**base, **fields}


def bracket(stop: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    children = [leaf("TAKE_PROFIT")] + ([] if stop is None else [stop])
    base = {
        "algo_order_id": 90012001,
        "parent_algo_order_id": 0,
        "root_algo_order_id": 90012001,
        "client_order_id": "kb-7f3a",
        "symbol": "PERP_ETH_USDC",
        "algo_type": "BRACKET",
        "algo_status": "NEW",
        "root_algo_status": "NEW",
        "side": "BUY",
        "type": "LIMIT",
        "price": 2400,
        "quantity": Decimal("0.5"),
        "total_executed_quantity": 0,
        "total_fee": 0,
        "updated_time": 1790000000100,
        "child_orders": [leaf("TP_SL", algo_order_id=90012002, parent_algo_order_id=90012001, child_orders=children)],
    }
    return {**base, **fields}


def test_order_example() -> None:
    """The documented order object, field by field."""
    report = parsing.order_report(ORDER)
    assert report.order_id == "1788643232"
    assert report.client_order_id == "kb-7f3a"
    assert (report.side, report.order_type, report.status) == (Side.BUY, OrderType.LIMIT, OrderStatus.PARTIALLY_FILLED)
    assert (report.quantity, report.executed_quantity) == (Decimal("0.5"), Decimal("0.2"))
    assert (report.average_price, report.limit_price, report.fee) == (
        Decimal("2500.1"),
        Decimal("2500.5"),
        Decimal("0.225"),
    )
    assert report.updated_at == datetime(2026, 9, 21, 14, 13, 20, 450_000, UTC)
    assert report.version == 1790000000450
    assert report.stop_is_live is None


def execution(row: dict[str, Any]) -> parsing.ExecutionMessage:
    return parsing.execution(to_json(row).encode("utf-8", "surrogatepass"))


def test_stream_and_rest_give_equal_reports() -> None:
    """camelCase of the stream and snake_case of REST give equal reports."""
    found = execution(EXECUTION)
    report = found.report
    assert report.client_order_id == "kb-7f3a"
    assert (report.executed_quantity, report.average_price, report.fee) == (
        Decimal("0.2"),
        Decimal("2500.1"),
        Decimal("0.225"),
    )
    assert report.version == 1790000000440
    assert found.seq == 1790000000440000002
    fill = found.fill
    assert fill is not None
    rest = parsing.trade(TRADE)
    assert (fill.trade_id, fill.order_id, fill.price, fill.quantity, fill.fee, fill.executed_at, fill.side, fill.is_maker) == (
        rest.trade_id, rest.order_id, rest.price, rest.quantity, rest.fee, rest.executed_at, rest.side, rest.is_maker,
    )  # fmt: skip


def test_new_report_has_no_fill() -> None:
    """A NEW report has zeros in the fields of a fill; that is not a fill of size zero."""
    new = {**EXECUTION, "tradeId": 0, "executedPrice": 0, "executedQuantity": 0, "status": "NEW"}
    assert execution(new).fill is None


def test_numbers_of_an_execution_are_exact() -> None:
    """Numbers of the stream keep every digit, of whatever size, quoted or not."""
    text = """{"orderId":92233720368547758081,"symbol":"PERP_ETH_USDC","side":"BUY","quantity":0.12345678901234567890,
    "totalExecutedQuantity":"1e-8","averageExecutedPrice":2.5E3,"totalFee":-0.10,"price":12345678901234567890.5,
    "seq":1790000000440000002,"timestamp":1790000000440,"unknown":{"nested":[1,{"tradeId":5}]}}"""
    found = parsing.execution(text.encode())
    report = found.report
    assert (report.order_id, found.seq, found.fill) == ("92233720368547758081", 1790000000440000002, None)
    assert (str(report.quantity), str(report.limit_price)) == ("0.12345678901234567890", "12345678901234567890.5")
    assert (report.executed_quantity, report.average_price) == (Decimal("0.00000001"), Decimal(2500))
    assert report.fee == Decimal("-0.10")


def test_a_documented_execution_is_decoded_directly() -> None:
    """A message as documented takes few Python calls, because it is decoded into its types: every order waits for one or two of them."""
    text = to_json(EXECUTION).encode()
    parsing.execution(text)
    called: list[str] = []

    def record(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(record)
    try:
        parsing.execution(text)
    finally:
        sys.setprofile(None)
    assert len(called) <= 8, called


_ODD = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.decimals(allow_nan=False, allow_infinity=False).map(abs)
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10).map(str)
    | st.sampled_from(
        ["", "0", "NaN", "-Infinity", "1e-8", " 1", "1_0", "9" * 65, "none", "ISOLATED", "sell", "true", "x"]
    )
    | st.just(["0.5"])
    | st.just({"quantity": 1})
)
_OTHER_NAMES = [
    "averageExecutedPrice", "createdTime", "updatedTime", "reduceOnly", "realizedPnl", "errorMessage", "orderQuantity", "orderType",
    "executed", "orderPrice", "somethingNew",
]  # fmt: skip
_NUMBERS = (
    st.decimals(allow_nan=False, allow_infinity=False).map(abs)
    | st.integers(-5, 10**18)
    | st.sampled_from([Decimal("1E-8"), Decimal("0.00"), Decimal("1E+70"), Decimal("1E-70"), Decimal("-3.5")])
)
_WORDS = st.sampled_from(
    ["", "0", "None", "isolated", "ISOLATED", "SELL", "FILLED", "new", "CANCELLED", "LIMIT", "bid"]
)
# By field, values of the documented type.
_DOCUMENTED: dict[str, st.SearchStrategy[object]] = {
    **dict.fromkeys(
        ["quantity", "price", "executedPrice", "executedQuantity", "fee", "totalExecutedQuantity", "avgExecutedPrice",
         "totalFee", "realizedPnl"],
        _NUMBERS,
    ),
    **dict.fromkeys(["orderId", "tradeId", "timestamp", "createdTime", "seq"], st.integers(-1, 10**19)),
    **dict.fromkeys(["clientOrderId", "symbol", "side", "type", "status", "reason", "marginMode"], _WORDS),
    **dict.fromkeys(["maker", "reduceOnly"], st.none() | st.booleans()),
}  # fmt: skip


@given(
    changed=st.fixed_dictionaries({}, optional=_DOCUMENTED)
    | st.dictionaries(st.sampled_from([*EXECUTION, *_OTHER_NAMES]), _ODD, max_size=6),
    lost=st.sets(st.sampled_from(list(EXECUTION)), max_size=2),
    in_snake_case=st.sets(st.sampled_from([*EXECUTION, *_OTHER_NAMES]), max_size=2),
)
def test_an_execution_is_what_rest_would_give(changed: dict[str, Any], lost: set[str], in_snake_case: set[str]) -> None:
    """The typed decoder of the stream gives the report and fill that REST's generic way gives for the same values, odd ones included,
    or refuses the message when that would, whichever way its names are spelled."""
    message = {name: value for name, value in (EXECUTION | changed).items() if name not in lost}
    message = {snake_name(name) if name in in_snake_case else name: value for name, value in message.items()}
    row = parsing.snake_keys(json.loads(to_json(message), parse_float=Decimal))

    def through_rest() -> parsing.ExecutionMessage:
        report, fill = parsing.order_report(row), None
        if parsing.identifier(row.get("trade_id")) and (parsing.decimal_or_none(row.get("executed_quantity")) or 0) > 0:
            trade = {**row, "id": row.get("trade_id"), "executed_timestamp": row.get("timestamp")}
            fill = parsing.trade({**trade, "is_maker": row.get("maker"), "realized_pnl": None})
        return parsing.ExecutionMessage(report, fill, parsing.integer_or_none(row.get("seq")) or 0)

    assert outcome(lambda: execution(message)) == outcome(through_rest)


def outcome(read: Callable[[], object]) -> str:
    """What was read, digit for digit, or why it was refused."""
    try:
        return repr(read())
    except parsing.ParseError as error:
        return str(error)


def snake_name(name: str) -> str:
    (found,) = parsing.snake_keys({name: None})
    return str(found)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"text"', "5", '{"orderId":1e9999999999999999999}'])
def test_an_execution_that_is_no_object_is_refused(text: str) -> None:
    """What is not a readable JSON object raises ParseError, nothing else."""
    with pytest.raises(parsing.ParseError):
        parsing.execution(text.encode())


@pytest.mark.parametrize("missing", [None, "", "0", 0], ids=repr)
def test_no_client_order_id(missing: object) -> None:
    """null, "", "0" and 0 all mean that the order has no client order id."""
    assert parsing.order_report({**ORDER, "client_order_id": missing}).client_order_id is None


@pytest.mark.parametrize(
    ("word", "executed", "status"),
    [
        ("NEW", 0, OrderStatus.ACCEPTED),
        ("REPLACED", 0, OrderStatus.ACCEPTED),
        ("REPLACED", "0.1", OrderStatus.PARTIALLY_FILLED),
        ("PARTIAL_FILLED", "0.1", OrderStatus.PARTIALLY_FILLED),
        ("FILLED", "0.5", OrderStatus.FILLED),
        ("CANCELLED", 0, OrderStatus.CANCELED),
        ("CANCELLED", "0.1", OrderStatus.CANCELED),
        ("REJECTED", 0, OrderStatus.REJECTED),
        ("SOMETHING_NEW", 0, OrderStatus.ACCEPTED),
        (None, 0, OrderStatus.ACCEPTED),
    ],
)
def test_status_words(word: object, executed: object, status: OrderStatus) -> None:
    """Each documented status; an unknown one counts as open. CANCELLED keeps its executed quantity (trap 18)."""
    report = parsing.order_report({**ORDER, "status": word, "total_executed_quantity": executed})
    assert report.status is status
    assert report.executed_quantity == Decimal(str(executed))


@pytest.mark.parametrize("twin", ["total_executed_quantity", "executed_quantity", "executed"])
def test_alternative_names_of_executed_quantity(twin: str) -> None:
    """Any of the three names is enough."""
    row = {k: v for k, v in ORDER.items() if k not in ("total_executed_quantity", "executed_quantity", "executed")}
    assert parsing.order_report({**row, twin: "0.2"}).executed_quantity == Decimal("0.2")


@pytest.mark.parametrize("lost", ["order_id", "symbol", "side"])
def test_a_row_without_an_essential_field_is_refused(lost: str) -> None:
    """Without id, symbol or side a row raises ParseError."""
    with pytest.raises(parsing.ParseError):
        parsing.order_report({**ORDER, lost: None})


def test_resting_bracket() -> None:
    """A bracket whose entry rests: accepted, and its stop is not live yet."""
    report = parsing.algo_report(bracket(leaf("STOP_LOSS", is_activated=False)))
    assert (report.status, report.order_type, report.venue_type) == (OrderStatus.ACCEPTED, OrderType.LIMIT, "BRACKET")
    assert report.stop_is_live is False
    assert report.limit_price == Decimal(2400)


@pytest.mark.parametrize("word", ["NEW", "PARTIAL_FILLED", "FILLED"])
def test_executed_bracket_counts_as_filled(word: str) -> None:
    """Once the entry has executed the bracket is filled, whatever status its root has while the exits wait."""
    report = parsing.algo_report(bracket(leaf("STOP_LOSS"), algo_status=word, total_executed_quantity=Decimal("0.5")))
    assert report.status is OrderStatus.FILLED
    assert report.stop_is_live is True


def test_canceled_bracket_keeps_what_it_executed() -> None:
    """A partly executed entry is canceled with its quantity, and its stop stays live."""
    report = parsing.algo_report(
        bracket(leaf("STOP_LOSS"), algo_status="CANCELLED", total_executed_quantity=Decimal("0.2"))
    )
    assert (report.status, report.executed_quantity, report.stop_is_live) == (
        OrderStatus.CANCELED,
        Decimal("0.2"),
        True,
    )


@pytest.mark.parametrize(
    ("fields", "live"),
    [
        ({}, True),
        ({"is_triggered": False}, True),
        ({"is_triggered": "true"}, False),
        ({"is_triggered": True}, False),
        ({"is_activated": False}, False),
        ({"is_activated": "false"}, False),
        ({"algo_status": "CANCELLED"}, False),
        ({"algo_status": "REJECTED"}, False),
        ({"trigger_status": "SUCCESS"}, False),
        ({"trigger_status": "USELESS", "algo_status": "CANCELLED"}, False),
    ],
)
def test_stop_is_live(fields: dict[str, Any], live: bool) -> None:
    """A stop is live only while it is activated, untriggered and open; "false" as text is false (docs/internals/orderly.md section 7)."""
    report = parsing.algo_report(bracket(leaf("STOP_LOSS", **fields), total_executed_quantity=Decimal("0.5")))
    assert report.stop_is_live is live


@pytest.mark.parametrize(
    ("fields", "live"),
    [
        ({}, "0.5"),
        ({"total_executed_quantity": "0.2"}, "0.3"),
        ({"is_triggered": "true"}, "0"),
        ({"is_activated": False}, "0"),
        ({"algo_status": "CANCELLED"}, "0"),
        ({"trigger_price": None}, "0"),
        ({"quantity": None}, "0"),
    ],
)
def test_what_a_live_take_profit_may_still_close(fields: dict[str, Any], live: str) -> None:
    """Nothing once it has fired or ended, or if it was not requested; one of a whole position has no size."""
    pair = leaf("TP_SL", child_orders=[leaf("TAKE_PROFIT", **{"trigger_price": 2700, **fields})])
    report = parsing.algo_report(bracket(child_orders=[pair], total_executed_quantity=Decimal("0.5")))
    assert report.live_take_profit_quantity == Decimal(live)


def test_the_best_price_of_a_trailing_stop() -> None:
    """As the exchange reports it once it is active."""
    row = leaf("TRAILING_STOP", parent_algo_order_id=0, extreme_price=2650)
    assert parsing.algo_report(row).extreme_price == Decimal(2650)
    assert parsing.algo_report({**row, "extreme_price": None}).extreme_price is None


def test_without_legs_the_stop_is_unknown() -> None:
    """A report without children neither confirms nor denies the stop."""
    assert parsing.algo_report(bracket(child_orders=[])).stop_is_live is None


def test_pair_without_root_quantity() -> None:
    """The root of a pair may lack quantity and side; they come from its legs."""
    report = parsing.algo_report(
        {
            "algo_order_id": 1,
            "symbol": "PERP_ETH_USDC",
            "algo_type": "TP_SL",
            "algo_status": "NEW",
            "child_orders": [leaf("TAKE_PROFIT"), leaf("STOP_LOSS")],
        }
    )
    assert (report.quantity, report.side, report.stop_is_live) == (Decimal("0.5"), Side.SELL, True)


@pytest.mark.parametrize(
    ("fields", "live"), [({}, True), ({"is_triggered": True}, False), ({"reduce_only": False}, None)]
)
def test_stop_order_as_protection(fields: dict[str, Any], live: bool | None) -> None:
    """A reduce-only STOP protects while it waits; one that may open a position never does."""
    row = leaf("STOP", parent_algo_order_id=0, trigger_price=2300, **fields)
    assert parsing.algo_report(row).stop_is_live is live


def test_position_example() -> None:
    """The documented position: signed quantity, exact seq beyond 2^53."""
    row = parsing.position_row(POSITION)
    assert row.position.quantity == Decimal("-0.5")
    assert row.position.margin_mode is MarginMode.CROSS
    assert row.position.liquidation_price == Decimal("4410.2")
    assert row.seq == 1790000000440000002
    assert row.changed_ms == 1790000000440


def test_old_position_example() -> None:
    """Margin mode, leverage and seq are optional: older replies lack them."""
    row = parsing.position_row({"symbol": "PERP_ETH_USDC", "position_qty": 1, "est_liq_price": None})
    assert (row.seq, row.position.leverage, row.position.liquidation_price) == (None, None, None)
    assert row.position.margin_mode is MarginMode.CROSS


def test_instrument_example() -> None:
    """The documented trading rules; a missing status means active."""
    found = parsing.instrument(RULES)
    assert (found.quote_tick, found.base_tick, found.base) == (Decimal("0.1"), Decimal("0.00001"), "BTC")
    assert found.status == "ACTIVE"


@pytest.mark.parametrize("lost", ["quote_tick", "base_tick", "base_min", "price_range"])
@pytest.mark.parametrize("value", [None, "x", 0])
def test_incomplete_rules_are_refused(lost: str, value: object) -> None:
    """A market whose steps are missing or zero cannot be traded; other rules may be zero."""
    if value == 0 and lost in ("base_min", "price_range"):
        assert parsing.instrument({**RULES, lost: value}).symbol == "PERP_BTC_USDC"
        return
    with pytest.raises(parsing.ParseError):
        parsing.instrument({**RULES, lost: value})


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (1, Decimal(1)),
        ("1.10", Decimal("1.10")),
        (Decimal("1E-5"), Decimal("0.00001")),
        (Decimal("1E+63"), Decimal("1E+63")),
        (Decimal("1E+64"), None),
        ("1e-999999", None),
        (10**64, None),
        ("1e-05", Decimal("0.00001")),
        (None, None),
        ("", None),
        (True, None),
        ("NaN", None),
        ("Infinity", None),
        ("abc", None),
        ([], None),
        ("9" * 65, None),
    ],
)
def test_numbers(raw: object, value: Decimal | None) -> None:
    """Numbers come quoted or not, in any notation; anything else is None."""
    assert parsing.decimal_or_none(raw) == value


@given(ms=st.integers(1, 10**13))
def test_times_round_trip(ms: int) -> None:
    """Unix ms are exact through datetime and back."""
    at = parsing.datetime_or_none(ms)
    assert at is not None
    assert parsing.milliseconds(at) == ms


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.decimals(allow_nan=True),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ORDER, *bracket(), *POSITION, *TRADE]), inner)
    ),
    max_leaves=12,
)


@given(
    base=st.sampled_from([ORDER, bracket(), POSITION, TRADE, RULES]),
    change=st.dictionaries(st.text(max_size=8), json_values),
    data=st.data(),
)
def test_noise_is_parsed_or_refused(base: dict[str, Any], change: dict[str, Any], data: st.DataObject) -> None:
    """Any value in any field: every parser returns a value or raises ParseError, nothing else."""
    row = {**base, **change, data.draw(st.sampled_from(sorted(base))): data.draw(json_values)}
    for read in (
        parsing.order_report,
        parsing.algo_report,
        parsing.trade,
        parsing.position_row,
        parsing.instrument,
    ):
        try:
            read(parsing.snake_keys(row))
        except parsing.ParseError:
            continue
    try:
        execution(row)
    except parsing.ParseError:
        return
