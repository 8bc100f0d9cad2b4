"""Stored values: exact decimals in plain notation, canonical JSON, times whose text order is time order."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, Inexact
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kekbridge.model import OrderIntent, OrderStatus, OrderType, Purpose, Side, TakeProfit, Verdict
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import codec
from kekbridge.store.codec import (
    EXACT,
    decimal_text,
    exit_from_json,
    from_json,
    intent_from_json,
    intent_to_json,
    row_to_json,
    storable,
    to_json,
    to_jsonable,
    verdicts_from_json,
    verdicts_to_json,
)
from tests.store.factories import intent

DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e30"), max_value=Decimal("1e30"))
MOMENTS = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(DECIMALS)
def test_decimals_are_exact_and_plain(value: Decimal) -> None:
    """No exponent, no float: the value reads back equal, in any tool that reads decimal text."""
    text = decimal_text(value)
    assert Decimal(text) == value
    assert set(text) <= set("-.0123456789")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "sNaN"])
def test_non_finite_amounts_are_refused(text: str) -> None:
    """NaN in a total would pass every limit."""
    with pytest.raises(ValueError, match="finite"):
        decimal_text(Decimal(text))


@given(st.lists(DECIMALS, max_size=20), st.permutations(range(20)))
def test_sums_do_not_depend_on_their_order(amounts: list[Decimal], order: list[int]) -> None:
    """Running totals equal their recomputation: no intermediate result is rounded."""
    forward = backward = Decimal(0)
    for amount in amounts:
        forward = EXACT.add(forward, amount)
    for index in order:
        if index < len(amounts):
            backward = EXACT.add(backward, amounts[index])
    assert forward == backward


def test_result_that_would_need_rounding_raises() -> None:
    """No row is better than a total that is slightly wrong."""
    with pytest.raises(Inexact):
        EXACT.divide(Decimal(1), Decimal(3))


OPTIONAL = st.none() | DECIMALS


@given(
    st.builds(
        OrderIntent,
        symbol=st.text(min_size=1, max_size=20),
        side=st.sampled_from(list(Side)),
        order_type=st.sampled_from(list(OrderType)),
        quantity=DECIMALS,
        purpose=st.sampled_from(list(Purpose)),
        reference_price=DECIMALS,
        reduce_only=st.booleans(),
        limit_price=OPTIONAL,
        stop_loss=OPTIONAL,
        take_profits=st.lists(st.builds(TakeProfit, DECIMALS, DECIMALS), max_size=3).map(tuple),
        close_fraction=OPTIONAL,
        after_leg=st.none() | st.integers(0, 99),
    )
)
def test_intent_reads_back_equal(intent: OrderIntent) -> None:
    """What was checked is what is sent, also after a restart."""
    assert intent_from_json(to_json(intent)) == intent


def test_intent_that_was_stored_before_parts_were_known() -> None:
    """It counts the whole position, as it did when it was decided."""
    stored = json.loads(to_json(intent()))
    del stored["part"]
    assert intent_from_json(json.dumps(stored)) == intent()


def test_stored_text_of_an_intent() -> None:
    """The bytes of a stored order: sorted names, every field, amounts without exponents. The history's hashes cover them."""
    wanted = OrderIntent(
        symbol="PERP_PEPE_USDC",
        side=Side.BUY,
        order_type=OrderType.LIMIT,
        quantity=Decimal("1E+3"),
        purpose=Purpose.ENTRY,
        reference_price=Decimal("1E-8"),
        limit_price=Decimal("0.00000001"),
        take_profits=(TakeProfit(Decimal("0.00000002"), Decimal("500.0")),),
    )
    assert to_json(wanted) == (
        '{"after_leg":null,"close_fraction":null,"largest_quantity":null,"leverage":null,"limit_price":"0.00000001",'
        '"margin_mode":"CROSS","order_type":"limit","part":"whole","purpose":"entry","quantity":"1000","reduce_only":false,"reference_price":"0.00000001","side":"BUY",'
        '"signal_price":null,"slippage":null,"stop_loss":null,"symbol":"PERP_PEPE_USDC",'
        '"take_profits":[{"quantity":"500.0","trigger_price":"0.00000002"}],"target_quantity":null,'
        '"trailing_callback_rate":null,"trailing_callback_value":null,"trigger_price":null}'
    )


def test_intent_of_a_newer_version_is_read() -> None:
    """An unknown key of a newer version does not make a stored order unreadable after a downgrade."""
    intent = OrderIntent(
        symbol="PERP_BTC_USDC",
        side=Side.BUY,
        order_type=OrderType.MARKET,
        quantity=Decimal(1),
        purpose=Purpose.ENTRY,
        reference_price=Decimal(1),
    )
    assert intent_from_json(json.dumps(json.loads(to_json(intent)) | {"later": [1]})) == intent


TEXT = st.text(alphabet=st.characters(), max_size=20)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(TREES)
def test_json_is_canonical_and_always_storable(value: object) -> None:
    """Equal values give equal text, the text is valid UTF-8 for any input, and it reads back."""
    text = to_json(value)
    text.encode("utf-8")
    assert from_json(text) == value
    assert to_json(from_json(text)) == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT | DECIMALS | MOMENTS | st.sampled_from([*Side, *OrderType]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXT | st.integers(), inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4).map(MappingProxyType)
        | st.builds(TakeProfit, inner, inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_json_equals_that_of_the_standard_encoder(value: object) -> None:
    """The history's hashes can be checked without kekbridge, with compact JSON and sorted keys."""
    text = json.dumps(to_jsonable(value), separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    assert to_json(value) == storable(text)


@pytest.mark.parametrize("value", [0.1, {"a": [1.5]}, b"bytes", {1, 2}, object()])
def test_floats_are_refused(value: object) -> None:
    """A float is a bug at its source and is stopped before it is stored."""
    with pytest.raises(TypeError, match="cannot be stored"):
        to_json(value)


@given(st.lists(st.builds(Verdict, rule=TEXT, scope=TEXT, passed=st.booleans(), found=TEXT, limit=TEXT, message=TEXT)))
def test_fast_verdict_writer_equals_the_general_one(verdicts: list[Verdict]) -> None:
    """Verdicts read back equal; keys of newer versions are ignored."""
    text = verdicts_to_json(tuple(verdicts))
    assert text == to_json(verdicts)
    assert verdicts_from_json(text) == tuple(verdicts)
    later = json.dumps([one | {"later": 1} for one in json.loads(text)])
    assert verdicts_from_json(later) == tuple(verdicts)


@given(st.integers(1), TEXT, st.none() | TEXT, st.none() | TEXT, TEXT, st.lists(st.none() | TEXT, max_size=2))
def test_fast_row_writer_equals_the_general_one(
    sequence: int, kind: str, alert_id: str | None, client_order_id: str | None, data: str, claim: list[str | None]
) -> None:
    """The hash chain of an existing history stays valid; a claimed identity is hashed behind the other columns."""
    at = "2026-01-01T00:00:00.000Z"
    text = row_to_json(sequence, at, kind, alert_id, client_order_id, data, *claim)
    assert text == to_json([sequence, at, kind, alert_id, client_order_id, data, *claim])


@settings(max_examples=5)
@given(st.lists(DECIMALS, min_size=1, max_size=4))
def test_text_of_an_intent_is_that_of_this_very_intent(quantities: list[Decimal]) -> None:
    """It is remembered by identity, which Python gives to a new object once the old one is gone."""
    for number in range(600):
        one = OrderIntent(
            symbol="PERP_BTC_USDC",
            side=Side.BUY,
            order_type=OrderType.MARKET,
            quantity=quantities[number % len(quantities)],
            purpose=Purpose.ENTRY,
            reference_price=Decimal(number),
        )
        assert intent_to_json(one) == intent_to_json(one) == to_json(one)


@given(
    st.builds(
        ExitStatus,
        kind=st.sampled_from(list(ExitKind)),
        trigger_price=OPTIONAL,
        status=st.sampled_from(list(OrderStatus)),
        executed_quantity=DECIMALS,
        average_price=OPTIONAL,
    )
)
def test_exit_reads_back_equal(leg: ExitStatus) -> None:
    """The protection controller compares what is reported with what is stored."""
    assert exit_from_json(from_json(to_json(leg))) == leg


@given(MOMENTS, MOMENTS)
def test_text_order_of_times_is_time_order(first: datetime, second: datetime) -> None:
    """The database compares text: windows and ages depend on it."""
    one, two = codec.time_text(first), codec.time_text(second)
    assert codec.parse_time(one) == first.replace(microsecond=first.microsecond // 1000 * 1000)
    assert (one < two) == (codec.parse_time(one) < codec.parse_time(two))


def test_times_are_stored_in_utc() -> None:
    """A day starts at 00:00 UTC everywhere; a time without zone is a bug."""
    local = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert codec.time_text(local) == "2025-12-31T23:30:00.000Z"
    assert codec.day_of(local) == "2025-12-31"
    with pytest.raises(ValueError, match="no zone"):
        codec.time_text(datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake itself
