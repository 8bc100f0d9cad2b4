"""Reading messages: example bodies, broken JSON, identity, fingerprints, redaction, steps."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.field_names import (
    CANONICAL_FIELDS,
    CREDENTIAL_FIELDS,
    IDENTITY_FIELDS,
    IDENTITY_NAMES,
    STAMP_NAMES,
    canonical_name,
)
from kekbridge.alerts.message import Message, fired_at, interpret, read_message
from kekbridge.alerts.signal import Action, Alert, Signal
from kekbridge.alerts.symbols import resolve
from kekbridge.alerts.timestamps import check_age
from kekbridge.errors import RequestRefused, Unreadable
from kekbridge.model import OrderType, WebhookSettings
from tests.paths import DATA

EXAMPLES = json.loads((DATA / "alert-payloads.json").read_text(encoding="utf-8"))
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in EXAMPLES["cases"]}
NOW = datetime.fromisoformat(EXAMPLES["fixture"]["clock"])
LISTED = frozenset(EXAMPLES["fixture"]["live_symbols"])
KEY = EXAMPLES["fixture"]["secret"]
SETTINGS = WebhookSettings(require_signature=False)

# Cases that are refused without credentials, market or account, by code.
REFUSED_HERE = {
    "seed-limit-without-price": "price_missing",
    "seed-empty-string-optional-fields": "stop_loss_empty",
    "field-missing-action": "action_missing",
    "field-unknown-action": "action_unknown",
    "field-quantity-zero": "quantity_not_positive",
    "field-quantity-missing-on-open": "quantity_missing",
    "field-quantity-thousands-separator": "quantity_not_a_number",
    "percent-quantity-string": "quantity_type_missing",
    "time-unexpanded-timenow": "placeholder_unexpanded",
    "time-stale-10-minutes": "timestamp_stale",
    "time-bar-open-4h": "timestamp_stale",
    "strat-inconsistent-action": "inconsistent_position",
    "strat-placeholder-in-indicator": "placeholder_unexpanded",
    "strat-arithmetic-in-braces": "placeholder_unexpanded",
    "broken-quote-in-comment": "invalid_json",
    "broken-newline-in-string": "invalid_json",
    "broken-trailing-comma": "invalid_json",
    "broken-comment": "invalid_json",
    "broken-smart-quotes": "invalid_json",
    "broken-single-quotes": "invalid_json",
    "broken-nan-stop-loss": "invalid_json",
    "broken-two-objects": "invalid_json",
    "broken-empty-body": "empty_body",
    "broken-plain-sentence": "not_an_order",
    "broken-key-value-text": "invalid_json",
    "symbol-unit-mismatch": "symbol_unit_mismatch",
    "symbol-dominance-index": "symbol_not_tradable",
    "symbol-dated-future": "symbol_not_tradable",
    "symbol-continuous-future": "symbol_not_tradable",
    "symbol-stable-pair": "symbol_unknown",
    "symbol-delayed-exchange": "delayed_data",
}
LATER = {"seed-long-sl-above-price", "seed-short-tp-above-price", "auth-missing-key", "auth-wrong-key", "time-missing"}


def read_all(body: str) -> tuple[Message, Alert]:
    """Apply every check that needs no account: parsing, age, interpretation, symbol."""
    message = read_message(body.encode())
    fired = fired_at(message)
    if fired is not None:
        check_age(fired, now=NOW, max_age_s=60, max_future_s=10)
    alert = interpret(message, SETTINGS)
    for step in alert.steps:
        if step.symbol is not None:
            resolve(step.symbol, exchange=step.exchange, listed=LISTED, aliases={}, rescale_units=False)
    return message, alert


def read_one(fields: dict[str, Any] | str, settings: WebhookSettings = SETTINGS) -> Signal:
    body = fields if isinstance(fields, str) else json.dumps(fields)
    (signal,) = interpret(read_message(body.encode()), settings).steps
    return signal


def unreadable(body: bytes) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read_message(body)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", sorted(CASES))
def test_example_bodies(name: str) -> None:
    """Every example is refused with its code, or read into the expected values."""
    case, expect = CASES[name], CASES[name]["expect"]
    if name in REFUSED_HERE:
        with pytest.raises(RequestRefused) as caught:
            read_all(case["body"])
        assert caught.value.code == REFUSED_HERE[name]
        assert 400 <= caught.value.status < 500
        return
    assert expect["decision"] != "reject" or name in LATER
    message, alert = read_all(case["body"])
    (signal,) = alert.steps
    assert message.api_key == {"auth-missing-key": None, "auth-wrong-key": "kb-demo-secret-wrong"}.get(name, KEY)
    if "symbol" in expect:
        assert signal.symbol is not None
        found = resolve(signal.symbol, exchange=signal.exchange, listed=LISTED, aliases={}, rescale_units=False)
        assert found.symbol == expect["symbol"]
    if "order_type" in expect:
        assert signal.order_type.value.upper() == expect["order_type"]
    if "reduce_only" in expect:
        assert signal.reduce_only is expect["reduce_only"]
    if expect.get("quantity", {}).get("mode") == "base":
        assert signal.quantity is not None
        assert signal.quantity.value == Decimal(expect["quantity"]["value"])
    if "target" in expect:
        assert signal.target is not None
        assert signal.target.signed == Decimal(expect["target"]["value"])
    if "signal_price" in expect:
        assert signal.price == Decimal(expect["signal_price"])
    if "price" in expect:
        assert signal.limit_price == Decimal(expect["price"])
    if "stop_loss" in expect:
        assert signal.stop_loss is not None
        assert signal.stop_loss.value == Decimal(expect["stop_loss"])


def test_the_table_of_refusals_names_real_cases() -> None:
    """A renamed example must not silently leave the table."""
    assert set(REFUSED_HERE) | LATER <= set(CASES)


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf", b"\r\n\t "])
@pytest.mark.parametrize("suffix", [b"", b"\n", b" \x0b\x0c\r\n"])
def test_outer_whitespace_and_bom_are_ignored(prefix: bytes, suffix: bytes) -> None:
    """TradingView keeps a trailing newline of the template; the digest is that of the stripped body."""
    bare = b'{"action":"ping"}'
    assert read_message(prefix + bare + suffix).body_digest == read_message(bare).body_digest


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"),
        (b" \r\n", "empty_body"),
        (b"\xef\xbb\xbf", "empty_body"),
        (b"\xff\xfe{\x00}\x00", "invalid_encoding"),
        (b'{"comment":"\xe9"}', "invalid_encoding"),
        (b'{"comment":"\\ud800"}', "invalid_encoding"),
        (b'{"\\udc00":1}', "invalid_encoding"),
        (b"\x1f\x8b\x08\x00", "invalid_encoding"),
        (b"hello", "not_an_order"),
        ("¡hola!".encode(), "not_an_order"),
        (b"1/BTCUSDT crossing 3", "not_an_order"),
        (b"action=buy\nsymbol=BTC", "invalid_json"),
        (b'"{}"', "invalid_json"),
        (b"5", "invalid_json"),
        (b"true", "invalid_json"),
        (b"null", "invalid_json"),
        (b"NaN", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"[1]", "invalid_json"),
        (b'[{"action":"ping"},5]', "invalid_json"),
        (b'{"steps":[]}', "invalid_json"),
        (b'{"steps":{}}', "invalid_json"),
        (b'{"steps":[{"steps":[{}]}]}', "field_invalid"),
        (b'{"a":Infinity}', "invalid_json"),
        (b'{"a":-Infinity}', "invalid_json"),
        (b'{"a":01}', "invalid_json"),
        (b'{"a":+1}', "invalid_json"),
        (b'{"a":.5}', "invalid_json"),
        (b'{"a":1}}', "invalid_json"),
        (b'{"a":1', "invalid_json"),
        (b'{"a":"\x00"}', "invalid_json"),
        ('{"a":\u00a01}'.encode(), "invalid_json"),
        (b'{"action":"buy","action":"sell"}', "duplicate_key"),
        (b'{"orderType":"limit","order_type":"market"}', "duplicate_key"),
        (b'{"a":{"b":1,"b":2}}', "duplicate_key"),
        (b"[" * 60_000, "invalid_json"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "invalid_json"),
        (b'{"a":' + b"[" * 15 + b"]" * 15 + b"}", "invalid_json"),
        (b'{"alertId":{}}', "field_invalid"),
        (b'{"alertId":true}', "field_invalid"),
        (b'{"alertId":"' + b"x" * 129 + b'"}', "field_invalid"),
        (b'{"alertId":"a\\nb"}', "field_invalid"),
        (b"[" + b",".join([b'{"action":"ping"}'] * 21) + b"]", "field_invalid"),
        (b'[{"apiKey":"a"},{"api_key":"b"}]', "field_invalid"),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, bytes) else value,
)
def test_unreadable_bodies(body: bytes, code: str) -> None:
    """Each has the code of its kind of error; none is repaired."""
    assert unreadable(body).code == code


@pytest.mark.parametrize(
    ("body", "position", "hint"),
    [
        ('{\n "action": "buy",\n}', "line 3, column 1", "ends in a comma: remove it"),
        ('{"a":1,\n"b":NaN}', "line 2, column 5", "NaN"),
        ('{"comment":"NaN","b":NaN}', "column 22", "NaN"),
        ("{'a':1}", "line 1, column 2", "single quotes"),
        ("{“a”:1}", "line 1, column 2", "typographic"),
        ('{"a":1}{"a":2}', "column 8", "two messages"),
        ('{"a":1 // long\n}', "column 8", "no comments"),
        ('{"a":"x"y"}', "column 9", "a quote inside a text"),
        ('{"a":"x\ny"}', "line 1, column 8", "line break"),
        ('{"a":1', "column 7", "the closing brace } is missing"),
    ],
)
def test_a_syntax_error_has_position_and_hint(body: str, position: str, hint: str) -> None:
    """Line and column as in an editor, and the usual cause."""
    message = unreadable(body.encode()).message
    assert position in message
    assert hint in message


def test_steps_with_ids_and_times_of_their_own() -> None:
    """One request may carry alerts of several markets; the whole is as old as its oldest step, and has no id of its own."""
    first, second = "2026-01-15T10:30:03Z", "2026-01-15T10:30:04Z"
    steps = [
        {"apiKey": "k", "alertId": "a", "timestamp": second, "action": "close", "symbol": "BTC"},
        {"alertId": "b", "timestamp": first, "action": "close", "symbol": "ETH"},
    ]
    for body in (steps, {"apiKey": "k", "steps": steps}):
        message = read_message(json.dumps(body).encode())
        assert (message.api_key, message.sender_id) == ("k", None)
        assert fired_at(message) == datetime.fromisoformat(first)
        alert = interpret(message, SETTINGS)
        assert [step.fired_at for step in alert.steps] == [datetime.fromisoformat(time) for time in (second, first)]
    without = read_message(json.dumps([*steps, {"action": "close", "symbol": "SOL"}]).encode())
    assert fired_at(without) is None
    same = read_message(json.dumps([{**step, "alertId": "a", "timestamp": first} for step in steps]).encode())
    assert (same.sender_id, fired_at(same)) == ("a", datetime.fromisoformat(first))


def test_a_refused_body_is_not_quoted() -> None:
    """The message of a syntax error is sent to anyone: it contains no part of the body, which may hold the key."""
    assert "wh_live" not in unreadable(b'{"apiKey":"wh_live_secret",}').message
    assert "wh_live" not in unreadable(b'{"apiKey":"wh_live_secret","a":NaN}').message


def test_numbers_keep_their_text() -> None:
    """Numbers are signed and stored as written: 65000.50 keeps its zero, and no digit is lost to a float."""
    message = read_message(
        b'{"quantity":0.12345678901234567890123,"price":65000.50,"n":1E-5,"big":' + b"9" * 5000 + b"}"
    )
    assert message.texts["quantity"] == "0.12345678901234567890123"
    assert message.texts["price"] == "65000.50"
    assert message.texts["n"] == "1E-5"
    assert len(message.texts["big"]) == 5000


def test_texts_of_other_values() -> None:
    """Lists and constants are signed as compact JSON in the order written, numbers as written."""
    message = read_message(
        b'{"a":true,"b":null,"c":[{"price":1.50, "share":"5"},2],"d":"caf\\u00e9","e":{"z":1,"y":2}}'
    )
    assert dict(message.texts) == {
        "a": "true",
        "b": "null",
        "c": '[{"price":1.50,"share":"5"},2]',
        "d": "café",
        "e": '{"z":1,"y":2}',
    }


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"apiKey": "kb"}, "kb"),
        ({"api_key": "kb"}, "kb"),
        ({"secret": "wh_live_x"}, "wh_live_x"),
        ({"apikey": "wh_test_x"}, "wh_test_x"),
        ({"apiKey": "kb", "secret": "wh_live_x"}, "kb"),
        ({"secret": "3commas-own-secret"}, None),
        ({"apiKey": 5}, None),
        ({"apiKey": ""}, None),
        ({"apiKey": ["kb"]}, None),
    ],
)
def test_fields_that_may_hold_the_api_key(fields: dict[str, Any], key: str | None) -> None:
    """Another service's field may carry the apiKey, but that service's own secret is not taken for one."""
    assert read_message(json.dumps(fields).encode()).api_key == key


@pytest.mark.parametrize(("value", "sender_id"), [("a-1", "a-1"), (17, "17"), ("", None), (None, None)])
def test_sender_id(value: object, sender_id: str | None) -> None:
    """A text or number; null and empty count as absent."""
    assert read_message(json.dumps({"alert_id": value}).encode()).sender_id == sender_id


def test_an_unexpanded_alert_id_is_refused() -> None:
    """Otherwise every alert of that template would be a duplicate of the first."""
    with pytest.raises(RequestRefused) as caught:
        read_one({"action": "ping", "alertId": "{{strategy.order.id}}"})
    assert (caught.value.code, caught.value.field) == ("placeholder_unexpanded", "alertId")


def fingerprint(fields: object) -> str:
    return read_message(json.dumps(fields).encode()).fingerprint()


def test_fingerprint_ignores_timestamp_signature_and_layout() -> None:
    """The same alert with a new timestamp, or with keys in another order, has the same fingerprint."""
    base = {"action": "buy", "symbol": "BTC", "quantity": "1"}
    same = [
        {**base, "timestamp": "2026-01-15T10:30:03Z"},
        {**base, "timestamp": 1768473003000, "signature": "v1:x"},
        dict(reversed(base.items())),
    ]
    assert {fingerprint(fields) for fields in same} == {fingerprint(base)}
    assert fingerprint([{**base, "timestamp": "1768473003"}]) == fingerprint([base])
    assert fingerprint({"steps": [{**base, "timestamp": "1768473003"}]}) == fingerprint({"steps": [base]})


@pytest.mark.parametrize("change", [{"quantity": "2"}, {"comment": "x"}, {"symbol": "ETH"}, {"alertId": "2"}])
def test_any_other_change_changes_the_fingerprint(change: dict[str, str]) -> None:
    """Different content has a different fingerprint."""
    base = {"action": "buy", "symbol": "BTC", "quantity": "1", "alertId": "1"}
    assert fingerprint({**base, **change}) != fingerprint(base)


def test_steps_of_an_array() -> None:
    """Steps keep their order; identity fields may be in the first step only."""
    message = read_message(
        b'[{"apiKey":"kb","alertId":"7","timestamp":"1768473003","action":"close","symbol":"BTC"},'
        b'{"action":"buy","symbol":"BTC","quantity":1}]'
    )
    alert = interpret(message, SETTINGS)
    assert [step.action for step in alert.steps] == [Action.CLOSE, Action.BUY]
    assert (message.api_key, alert.alert_id, alert.fired_at) == (
        "kb",
        "7",
        datetime(2026, 1, 15, 10, 30, 3, tzinfo=UTC),
    )


def test_steps_beside_common_fields() -> None:
    """Common fields apply to every step that does not override them, in either spelling."""
    message = read_message(
        b'{"apiKey":"kb","symbol":"BTC","order_type":"market","steps":'
        b'[{"action":"close"},{"action":"buy","quantity":1,"orderType":"limit","price":5,"symbol":"ETH"}]}'
    )
    first, second = interpret(message, SETTINGS).steps
    assert (first.symbol, first.order_type) == ("BTC", OrderType.MARKET)
    assert (second.symbol, second.order_type) == ("ETH", OrderType.LIMIT)


def test_a_refused_step_is_named() -> None:
    """With several steps the refusal names the step."""
    with pytest.raises(RequestRefused) as caught:
        interpret(read_message(b'[{"action":"ping"},{"action":"hodl"}]'), SETTINGS)
    assert caught.value.message.startswith("step 2 of 2: action")


def test_redacted_hides_secrets_everywhere() -> None:
    """The key under any name or inside a text, and every text under a secret's name."""
    secrets = {
        "apiKey": "kb-demo-secret-5f2c9a7e41d84b0c9e6a1b7d3f5c8e20",
        "signature": "v1:apiKey:" + "ab" * 32,
        "passphrase": "correct horse battery staple",
        "nested": {"token": "abcdefghijklmnop", "list": [{"secret": "qrstuvwxyz012345"}]},
        "comment": "my key is kb-demo-secret-5f2c9a7e41d84b0c9e6a1b7d3f5c8e20 ok",
        "note": "wh_live_abcdefgh12345678 and whs_zyxwvutsrq and ed25519:3vQB7B6MrGQZ",
    }
    stored = json.dumps(read_message(json.dumps({**secrets, "quantity": 1}).encode()).redacted())
    hidden = [
        "5f2c9a7e41d84b0c",
        "ab" * 20,
        "battery",
        "hijklmnop",
        "vwxyz012345",
        "bcdefgh1234",
        "zyxwvutsrq",
        "MrGQZ",
    ]
    assert not [secret for secret in hidden if secret in stored]
    assert '"quantity": "1"' in stored


def test_redacted_is_bounded_and_printable() -> None:
    """A large message with escape sequences becomes a small printable record."""
    body = json.dumps({f"k{i}\u001b[2J": "\u001b]0;x\u0007\u202e" * 30 for i in range(60)})
    stored = json.dumps(read_message(body.encode()).redacted(), ensure_ascii=False)
    assert len(stored) < 40_000
    assert stored.isprintable()


def test_a_stored_message_can_be_read_again() -> None:
    """`replay` reads the redacted record: it must give the same order."""
    body = CASES["strat-reversal"]["body"].encode()
    again = json.dumps(read_message(body).redacted()).encode()
    assert interpret(read_message(again), SETTINGS).steps == interpret(read_message(body), SETTINGS).steps


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("{{close}}"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELD_NAMES = st.sampled_from(
    sorted(
        CANONICAL_FIELDS
        | {"order_type", "ticker", "strategy", "code", "side", "stop_loss", "sentiment", "takeProfits", "order"}
    )
)
LIKELY = st.sampled_from(
    ["buy", "sell", "close", "flip", "cancel", "BTCUSDT.P", "0.5", "1", "25%", "limit", "long", "flat", "true", "usd", "", "-1", 5, 0.1]
)  # fmt: skip
PROFILES = st.sampled_from(["seed", "kekdex", "traderspost", "3commas", "openalgo", "wundertrading", "community"])


def read_and_interpret(body: bytes, profile: str, follow: str = "signal") -> None:
    """Any outcome but an Alert or a RequestRefused fails the test."""
    try:
        message = read_message(body)
        message.fingerprint()
        json.dumps(message.redacted()).encode()
        fired_at(message, profile)
        alert = interpret(message, WebhookSettings(profile=profile, follow=follow))
    except RequestRefused as refusal:
        assert "\n" not in refusal.message  # noqa: PT017 - both outcomes are legal here, other exceptions are not
        assert 400 <= refusal.status < 500  # noqa: PT017
    else:
        assert alert.steps


@given(st.binary(max_size=300), PROFILES)
def test_random_bytes_never_crash(body: bytes, profile: str) -> None:
    """No bytes raise another exception: it would be a 500, and TradingView would deliver the message four times."""
    read_and_interpret(body, profile)


@given(JSON_VALUES, PROFILES)
def test_random_json_never_crashes(value: Any, profile: str) -> None:
    """Nor does any JSON value, NaN and Infinity included."""
    read_and_interpret(json.dumps(value).encode(), profile)


@given(
    st.dictionaries(FIELD_NAMES, LIKELY | JSON_VALUES, max_size=9), PROFILES, st.sampled_from(["signal", "position"])
)
def test_random_fields_never_crash(fields: dict[str, Any], profile: str, follow: str) -> None:
    """Nor do known fields with likely and unlikely values, in any profile and mode."""
    read_and_interpret(json.dumps(fields).encode(), profile, follow)


@pytest.mark.parametrize(
    "name", ["apiKey", "api_key", "alertId", "alert_id", "timestamp", "signature", "secret", "token", "key"]
)
def test_identity_is_found_under_every_spelling(name: str) -> None:
    """The lookup tables agree with `canonical_name`."""
    canonical = canonical_name(name)
    assert IDENTITY_NAMES[name] == canonical
    assert canonical in IDENTITY_FIELDS or canonical in CREDENTIAL_FIELDS
    assert (name in STAMP_NAMES) == (canonical in ("timestamp", "signature"))
    assert canonical != "timestamp" or name == "timestamp"
