"""Template signatures: the documented form, and that a stolen message cannot be altered."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.field_names import ORDER_FIELDS
from kekbridge.alerts.message import read_message
from kekbridge.alerts.signature import check, sign

SECRET = "whs_0123456789abcdef"
ORDER = {"apiKey": "wh_live_abc", "action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01"}


def texts(fields: Mapping[str, Any]) -> Mapping[str, str]:
    return read_message(json.dumps(fields).encode()).texts


def is_proven(fields: Mapping[str, Any], signature: str, profile: str = "seed") -> bool:
    return check(SECRET, signature, texts({**fields, "signature": signature}), profile).is_valid


def test_the_canonical_form_is_the_documented_one() -> None:
    """docs/internals/architecture.md section 4 (c), computed independently: any signer gets the same bytes."""
    canonical = json.dumps(sorted([name, text] for name, text in ORDER.items()), separators=(",", ":"))
    digest = hmac.new(SECRET.encode(), canonical.encode(), hashlib.sha256).hexdigest()
    assert sign(SECRET, ORDER) == f"v1:action,apiKey,quantity,symbol:{digest}"
    assert is_proven(ORDER, f"v1:apiKey,action,symbol,quantity:{digest.upper()}")


def test_numbers_are_signed_by_their_text() -> None:
    """0.010 and 0.01 are the same number but different messages."""
    signature = sign(SECRET, {**ORDER, "quantity": "0.010"})
    body = json.dumps({**ORDER, "signature": signature}).replace('"0.01"', "0.010")
    assert check(SECRET, signature, read_message(body.encode()).texts).is_valid
    assert not is_proven(ORDER, signature)


@pytest.mark.parametrize("is_ascii", [True, False])
def test_signers_may_escape_or_not(is_ascii: bool) -> None:
    """JSON.stringify keeps é, Python's json.dumps escapes it: both forms are accepted."""
    fields = {**ORDER, "comment": "échelle"}
    canonical = json.dumps(sorted([n, t] for n, t in fields.items()), separators=(",", ":"), ensure_ascii=is_ascii)
    digest = hmac.new(SECRET.encode(), canonical.encode(), hashlib.sha256).hexdigest()
    assert is_proven(fields, f"v1:{','.join(fields)}:{digest}")


HARMLESS: list[dict[str, Any]] = [
    {"timestamp": "2026-01-15T10:30:03Z"},
    {"alertId": "a-1"},
    {"comment": "ema cross"},
    {"price": 65000.5},
    {"price": 65000.5, "orderType": "market"},
    {"orderType": "MARKET"},
    {"exchange": "BYBIT"},
    {"strategy": "ema", "id": "Long", "interval": "15", "leverageHint": "x"},
]


@pytest.mark.parametrize("extra", HARMLESS)
def test_harmless_fields_may_be_unsigned(extra: dict[str, Any]) -> None:
    """Fields that cannot make the order riskier need no signature."""
    assert is_proven({**ORDER, **extra}, sign(SECRET, ORDER))


RISKY: list[dict[str, Any]] = [
    {"orderType": "limit", "price": 70000},
    {"orderType": "limit"},
    {"limitPrice": 70000},
    {"triggerPrice": 70000},
    {"quantityType": "percent_equity"},
    {"stopLoss": "90%"},
    {"stop_loss": "90%"},
    {"takeProfit": 1},
    {"trailingStop": "50%"},
    {"leverage": 100},
    {"reduceOnly": False},
    {"reduce_only": "false"},
    {"slippage": "50%"},
    {"marketPosition": "long", "marketPositionSize": 1000},
    {"positionSize": 1000},
    {"steps": [{"action": "buy", "quantity": 1000}]},
]


@pytest.mark.parametrize("extra", RISKY)
def test_a_field_cannot_be_added(extra: dict[str, Any]) -> None:
    """A stolen message cannot be extended by fields that its owner did not write."""
    proof = check(SECRET, sign(SECRET, ORDER), texts({**ORDER, **extra}))
    assert not proof.is_valid
    assert "not covered" in proof.reason


def test_every_order_field_is_risky_or_known_harmless() -> None:
    """A field added later is refused unsigned unless it is declared harmless."""
    signature = sign(SECRET, {"apiKey": "k"})
    unsigned_ok = {name for name in ORDER_FIELDS if is_proven({"apiKey": "k", name: "x"}, signature)}
    assert unsigned_ok == {"exchange", "comment", "price"}


@pytest.mark.parametrize("name", sorted(ORDER))
def test_a_signed_field_cannot_be_changed_or_removed(name: str) -> None:
    """Either makes the signature invalid."""
    signature = sign(SECRET, ORDER)
    assert not is_proven({**ORDER, name: "other"}, signature)
    assert not is_proven({key: value for key, value in ORDER.items() if key != name}, signature)


def test_free_fields_may_change_but_not_be_removed() -> None:
    """A placeholder's value is free, its presence is covered, and so is the list."""
    fixed = {"apiKey": "k", "symbol": "BTCUSDT.P"}
    signature = sign(SECRET, fixed, free=["action", "quantity"])
    for action, quantity in (("buy", "1"), ("sell", "2")):
        assert is_proven({**fixed, "action": action, "quantity": quantity}, signature)
    assert not is_proven({**fixed, "action": "buy"}, signature)
    assert not is_proven({**fixed, "symbol": "X", "action": "buy", "quantity": "1"}, signature)
    assert check(SECRET, signature, texts({**fixed, "action": "buy", "quantity": "1"})).free == ("action", "quantity")


def test_fields_cannot_be_declared_free() -> None:
    """The question marks are covered by the HMAC."""
    signature = sign(SECRET, ORDER)
    opened = signature.replace("quantity", "quantity?")
    assert not is_proven({**ORDER, "quantity": "1000"}, opened)
    added = signature.replace(",symbol:", ",symbol,stopLoss?:")
    assert not is_proven({**ORDER, "stopLoss": "90%"}, added)
    dropped = "v1:action,apiKey,symbol:" + signature.rsplit(":", 1)[1]
    assert not is_proven({**ORDER, "quantity": "1000"}, dropped)


def test_the_key_must_be_signed() -> None:
    """A signature that does not cover the key, or leaves it free, is invalid."""
    rest = {name: text for name, text in ORDER.items() if name != "apiKey"}
    assert not is_proven(ORDER, sign(SECRET, rest))
    assert not is_proven(ORDER, sign(SECRET, rest, free=["apiKey"]))


def test_a_comment_that_selects_orders_is_covered() -> None:
    """The comment of a cancel selects orders; removing or changing it invalidates the signature."""
    cancel = {"apiKey": "k", "action": "cancel", "symbol": "BTC"}
    assert not is_proven({**cancel, "comment": "ladder"}, sign(SECRET, cancel))
    assert is_proven({**cancel, "comment": "ladder"}, sign(SECRET, {**cancel, "comment": "ladder"}))
    free = sign(SECRET, {"apiKey": "k", "symbol": "BTC"}, free=["action"])
    assert not is_proven({**cancel, "comment": "ladder"}, free)


def test_steps_are_one_signed_text() -> None:
    """No step can be added, changed or reordered."""
    steps = [{"action": "close", "symbol": "BTC"}, {"action": "buy", "symbol": "BTC", "quantity": 0.5}]
    body = {"apiKey": "k", "steps": steps}
    signature = sign(SECRET, texts(body))
    assert is_proven(body, signature)
    assert not is_proven({**body, "steps": steps[::-1]}, signature)
    assert not is_proven({**body, "steps": [*steps, steps[1]]}, signature)
    assert not is_proven({**body, "quantity": 5}, signature)


def test_an_array_is_signed_as_its_steps() -> None:
    """The first element has the credentials, the rest is the text `steps`."""
    orders = [{"apiKey": "k", "action": "close", "symbol": "BTC"}, {"action": "buy", "symbol": "BTC", "quantity": "1"}]
    bare = read_message(json.dumps(orders).encode()).texts
    assert set(bare) == {"apiKey", "steps"}
    signature = sign(SECRET, bare)
    signed = [{**orders[0], "signature": signature}, orders[1]]
    assert check(SECRET, signature, read_message(json.dumps(signed).encode()).texts).is_valid
    signed[1] = {**orders[1], "quantity": "2"}
    assert not check(SECRET, signature, read_message(json.dumps(signed).encode()).texts).is_valid


def test_a_profile_decides_what_an_order_field_is() -> None:
    """The seed profile ignores `ticker`; where it is the symbol it must be signed."""
    fields = {"apiKey": "k", "action": "buy", "quantity": "1"}
    message = {**fields, "ticker": "ETHUSDT.P"}
    assert is_proven(message, sign(SECRET, fields), "seed")
    assert not is_proven(message, sign(SECRET, fields), "traderspost")
    assert is_proven(message, sign(SECRET, message), "traderspost")


@pytest.mark.parametrize(
    "signature",
    ["", "abc123", "v1::", "v1:apiKey:zz", "v2:apiKey:" + "0" * 64, "v1:apiKey,apiKey:" + "0" * 64, "v1:api key:" + "0" * 64,
     "v1:apiKey:" + "0" * 63, "v1:" + ",".join(["a"] * 65) + ":" + "0" * 64, "v1:apiKey,:" + "0" * 64, "v1:apiKey??:" + "0" * 64],
)  # fmt: skip
def test_malformed_signatures_are_invalid(signature: str) -> None:
    """Any text that is not of the form is invalid."""
    assert not check(SECRET, signature, ORDER).is_valid


def test_another_secret_is_invalid() -> None:
    """A signature is valid only under its own secret."""
    assert not check("whs_other", sign(SECRET, ORDER), ORDER).is_valid


def test_a_field_is_signed_or_free_not_both() -> None:
    """Invalid field lists raise ValueError when signing."""
    with pytest.raises(ValueError, match="signed and free"):
        sign(SECRET, ORDER, free=["action"])
    with pytest.raises(ValueError, match="field names"):
        sign(SECRET, {"api key": "k"})


NAMES = st.sampled_from(sorted(ORDER_FIELDS | {"timestamp", "other"}))
TEXTS = st.text(max_size=12)


@given(st.dictionaries(NAMES, TEXTS, max_size=8), st.sets(NAMES, max_size=4), NAMES, TEXTS)
def test_any_change_of_a_signed_field_fails(fields: dict[str, str], free_names: set[str], name: str, text: str) -> None:
    """A signed message is valid, and with another text in a signed field it is not."""
    fields = {"apiKey": "k", **fields}
    free = sorted(free_names - set(fields))
    message = {**fields, **dict.fromkeys(free, "1")}
    signature = sign(SECRET, fields, free)
    assert check(SECRET, signature, message).is_valid
    changed = {**message, name: text}
    if name in fields and fields[name] != text:
        assert not check(SECRET, signature, changed).is_valid
    if name in free:
        assert check(SECRET, signature, changed).is_valid


@given(st.text(max_size=200), st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=5))
def test_no_signature_text_raises(signature: str, message: dict[str, str]) -> None:
    """Any text and message can be checked without an exception."""
    assert not check(SECRET, signature, message).is_valid
