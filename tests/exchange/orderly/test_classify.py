"""The one table: what each kind of answer proves, for creates, for commands and for questions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.exchange.base import Accepted, Rejected, Retryable, Unknown
from kekbridge.exchange.orderly import classify
from kekbridge.exchange.orderly.classify import Found, Missing, Unavailable
from kekbridge.exchange.orderly.replies import NoReply, NotSent, TransportResult, read_reply


def says(status: int, payload: Any, retry_after: str | None = None) -> TransportResult:
    return read_reply(status, json.dumps(payload).encode(), retry_after=retry_after)


def fails(status: int, code: int | str, message: str = "") -> TransportResult:
    return says(status, {"success": False, "code": code, "message": message})


HTML = b"<html><body>403 Forbidden</body></html>"


@pytest.mark.parametrize("code", [-1004, -1005, -1101, -1102, -1103, -1104, -1105])
def test_definite_refusals(code: int) -> None:
    """The documented refusals of a create prove that no order exists, and keep their code."""
    answer = classify.create(fails(400, code, "no"))
    assert answer == Rejected(f"orderly:{code}", "no")


@pytest.mark.parametrize(("status", "code"), [(401, -1001), (401, -1002), (400, -1002)])
def test_key_trouble(status: int, code: int) -> None:
    """A broken or revoked key is a refusal of its own kind: trading must stop."""
    answer = classify.create(fails(status, code))
    assert isinstance(answer, Rejected)
    assert answer.is_key_rejected


def test_key_trouble_under_another_code() -> None:
    """-1004 with "orderly key error" is about the key (docs/internals/orderly.md section 11)."""
    answer = classify.create(fails(400, -1004, "orderly key error"))
    assert isinstance(answer, Rejected)
    assert answer.is_key_rejected


@pytest.mark.parametrize(
    "outcome",
    [
        fails(429, -1003),
        fails(400, -1003),
        fails(503, -1003),
        read_reply(429, HTML),
        fails(400, -1011, "System is under maintenance."),
        fails(503, -1011, "maintenance"),
        NotSent("refused"),
    ],
)
def test_proven_not_accepted(outcome: TransportResult) -> None:
    """Rate limits, maintenance and a connection that never opened: nothing was placed, it may be sent again."""
    assert isinstance(classify.create(outcome), Retryable)


def test_rate_limit_waits_a_window() -> None:
    """Retry-After is believed, and never shorter than one second."""
    answer = classify.create(says(429, {"success": False, "code": -1003}, retry_after="7"))
    assert isinstance(answer, Retryable)
    assert answer.retry_after_s == 7
    answer = classify.create(fails(429, -1003))
    assert isinstance(answer, Retryable)
    assert answer.retry_after_s == 1


@pytest.mark.parametrize(
    "outcome",
    [
        NoReply("timeout"),
        fails(500, -1000, "unknown error"),
        fails(400, -1000),
        fails(400, -1011, "internal"),
        fails(400, -1012, "account in liquidation"),
        fails(409, -1007, "duplicate"),
        fails(400, -1999, "a code nobody documented"),
        fails(500, -1102),
        read_reply(403, HTML),
        read_reply(502, b"bad gateway"),
        read_reply(200, HTML),
        read_reply(200, b""),
        read_reply(200, b"\xff\xfe"),
        says(200, {"success": True, "data": {}}),
        says(200, {"success": True, "data": {"order_id": 0, "error_message": "text"}}),
        says(200, {"success": True, "data": {"order_id": None}}),
        says(200, {"data": {"order_id": 5}}),
        says(200, {"success": "true", "data": {"order_id": 5}}),
        says(302, {"success": True, "data": {"order_id": 5}}),
        says(200, {"success": False}),
        says(400, {"success": True}),
        says(200, [1, 2]),
        read_reply(200, b'{"success":true,"data":{"order_id":' + b"9" * 5000 + b"}}"),
        read_reply(200, b"[" * 100_000),
    ],
)
def test_unknown(outcome: TransportResult) -> None:
    """Whatever is neither a documented yes nor a documented no stays unknown."""
    assert isinstance(classify.create(outcome), Unknown)


@pytest.mark.parametrize(
    "data",
    [
        {"order_id": 1788643232, "error_message": "none"},
        {"order_id": "1788643232"},
        {"algo_order_id": 1788643232},
        {"rows": [{"order_id": 1788643232, "client_order_id": "kb"}]},
    ],
)
def test_accepted(data: dict[str, Any]) -> None:
    """A yes with an id is accepted, in each of the shapes that answers come in."""
    assert classify.create(says(200, {"success": True, "data": data})) == Accepted("1788643232")


def test_connector_style_400_is_no_exception_and_no_yes() -> None:
    """HTTP 400 with a JSON error is judged by its code, also when the code came as text (trap 11)."""
    assert classify.create(fails(400, "-1103", "tick")) == Rejected("orderly:-1103", "tick")


@pytest.mark.parametrize(
    "outcome",
    [
        says(200, {"success": True, "data": {"status": "CANCEL_SENT"}}),
        says(200, {"success": True, "status": "CANCEL_SENT"}),
        says(200, {"success": True}),
    ],
)
def test_command_accepted(outcome: TransportResult) -> None:
    """Cancel and edit answers carry their status in data or beside success; both mean "passed on"."""
    assert classify.command(outcome, order_id="7") == Accepted("7")


@pytest.mark.parametrize("code", [-1005, -1006])
def test_cancel_of_a_finished_order(code: int) -> None:
    """Nothing to cancel is a refusal, under either code that has been seen."""
    assert classify.command(fails(400, code)) == Rejected(f"orderly:{code}", "HTTP 400")


@pytest.mark.parametrize(
    "outcome",
    [
        fails(400, -1006, "no such order"),
        fails(404, -1006),
        fails(500, -1000, "data does not exist"),
        fails(400, -1000, "The order does not exist."),
        fails(500, -1000, "Order doesn't exist"),
        fails(500, -1000, "order not exist"),
    ],
)
def test_query_not_found(outcome: TransportResult) -> None:
    """ "Does not exist" comes as -1006, or as -1000 with that text."""
    assert classify.query(outcome) == Missing()


@pytest.mark.parametrize(
    "outcome",
    [
        fails(500, -1000, "unknown error"),
        fails(500, -1000, "upstream not found"),
        fails(500, -1006),
        fails(400, -1005, "bad id"),
        fails(429, -1003),
        fails(401, -1001),
        read_reply(404, HTML),
        read_reply(404, b"does not exist"),
        read_reply(500, b'{"code":-1000'),
        NoReply("reset"),
        NotSent("refused"),
    ],
)
def test_query_unavailable(outcome: TransportResult) -> None:
    """A broken server, a page of HTML or a refusal never reads as "not found": that would let an order be sent twice."""
    assert isinstance(classify.query(outcome), Unavailable)


def test_query_found() -> None:
    """A found thing comes with the time at which the exchange answered."""
    assert classify.query(says(200, {"success": True, "timestamp": 5, "data": {"a": 1}})) == Found({"a": 1}, 5)


@given(status=st.integers(200, 599), body=st.binary(max_size=200))
def test_noise_is_never_a_yes_nor_a_refusal(status: int, body: bytes) -> None:
    """Random bytes under any status prove nothing, except that 429 always means "not taken"."""
    answer = classify.create(read_reply(status, body))
    assert isinstance(answer, Retryable if status == 429 else Unknown)


@given(
    status=st.sampled_from([200, 400, 401, 403, 404, 409, 429, 500, 502, 503]),
    code=st.integers(-1300, 40) | st.none() | st.text(max_size=5),
    success=st.sampled_from([True, False, None, "true"]),
    order_id=st.none() | st.integers(0, 10**18) | st.text(max_size=3),
)
def test_yes_needs_a_clear_yes(status: int, code: object, success: object, order_id: object) -> None:
    """Accepted requires 2xx, success exactly true and an id; Refused requires success not true."""
    payload = {"success": success, "code": code, "message": "m", "data": {"order_id": order_id}}
    answer = classify.create(says(status, payload))
    if isinstance(answer, Accepted):
        assert status == 200
        assert success is True
        assert order_id
    if isinstance(answer, Rejected):
        assert success is not True
        assert status < 500
