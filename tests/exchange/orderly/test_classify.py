"""Classification of replies: what each proves, for creates, commands and queries."""

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


def reply_with(status: int, payload: Any, retry_after: str | None = None) -> TransportResult:
    return read_reply(status, json.dumps(payload).encode(), retry_after=retry_after)


def rejection(status: int, code: int | str, message: str = "") -> TransportResult:
    return reply_with(status, {"success": False, "code": code, "message": message})


HTML = b"<html><body>403 Forbidden</body></html>"


@pytest.mark.parametrize("code", [-1004, -1005, -1101, -1102, -1103, -1104, -1105])
def test_documented_rejections(code: int) -> None:
    """The documented rejections of a create prove that no order exists, and keep their code."""
    classified = classify.create(rejection(400, code, "no"))
    assert classified == Rejected(f"orderly:{code}", "no", breaks_rules=code in (-1103, -1104, -1105))


@pytest.mark.parametrize(("status", "code"), [(401, -1001), (401, -1002), (400, -1002)])
def test_rejected_key(status: int, code: int) -> None:
    """A rejected key is marked: trading must stop."""
    classified = classify.create(rejection(status, code))
    assert isinstance(classified, Rejected)
    assert classified.is_key_rejected


def test_rejected_key_under_another_code() -> None:
    """-1004 with "orderly key error" is about the key (docs/internals/orderly.md section 11)."""
    classified = classify.create(rejection(400, -1004, "orderly key error"))
    assert isinstance(classified, Rejected)
    assert classified.is_key_rejected


@pytest.mark.parametrize(
    "result",
    [
        rejection(429, -1003),
        rejection(400, -1003),
        rejection(503, -1003),
        read_reply(429, HTML),
        rejection(400, -1011, "System is under maintenance."),
        rejection(503, -1011, "maintenance"),
        NotSent("refused"),
    ],
)
def test_retryable(result: TransportResult) -> None:
    """Rate limits, maintenance and a connection that never opened: nothing was placed, it may be sent again."""
    assert isinstance(classify.create(result), Retryable)


def test_rate_limit_waits_a_window() -> None:
    """Retry-After is respected, and never shorter than one second."""
    classified = classify.create(reply_with(429, {"success": False, "code": -1003}, retry_after="7"))
    assert isinstance(classified, Retryable)
    assert classified.retry_after_s == 7
    classified = classify.create(rejection(429, -1003))
    assert isinstance(classified, Retryable)
    assert classified.retry_after_s == 1


@pytest.mark.parametrize(
    "result",
    [
        NoReply("timeout"),
        rejection(500, -1000, "unknown error"),
        rejection(400, -1000),
        rejection(400, -1011, "internal"),
        rejection(400, -1012, "account in liquidation"),
        rejection(409, -1007, "duplicate"),
        rejection(400, -1999, "a code nobody documented"),
        rejection(500, -1102),
        read_reply(403, HTML),
        read_reply(502, b"bad gateway"),
        read_reply(200, HTML),
        read_reply(200, b""),
        read_reply(200, b"\xff\xfe"),
        reply_with(200, {"success": True, "data": {}}),
        reply_with(200, {"success": True, "data": {"order_id": 0, "error_message": "text"}}),
        reply_with(200, {"success": True, "data": {"order_id": None}}),
        reply_with(200, {"data": {"order_id": 5}}),
        reply_with(200, {"success": "true", "data": {"order_id": 5}}),
        reply_with(302, {"success": True, "data": {"order_id": 5}}),
        reply_with(200, {"success": False}),
        reply_with(400, {"success": True}),
        reply_with(200, [1, 2]),
        read_reply(200, b'{"success":true,"data":{"order_id":' + b"9" * 5000 + b"}}"),
        read_reply(200, b"[" * 100_000),
    ],
)
def test_unknown(result: TransportResult) -> None:
    """Anything that is neither a documented success nor a documented rejection is unknown."""
    assert isinstance(classify.create(result), Unknown)


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
    """Success with an id is accepted, in each of the reply shapes."""
    assert classify.create(reply_with(200, {"success": True, "data": data})) == Accepted("1788643232")


def test_status_400_is_classified_by_its_code() -> None:
    """Also if the code came as text (trap 11)."""
    assert classify.create(rejection(400, "-1103", "tick")) == Rejected("orderly:-1103", "tick", breaks_rules=True)


@pytest.mark.parametrize(
    "result",
    [
        reply_with(200, {"success": True, "data": {"status": "CANCEL_SENT"}}),
        reply_with(200, {"success": True, "status": "CANCEL_SENT"}),
        reply_with(200, {"success": True}),
    ],
)
def test_command_accepted(result: TransportResult) -> None:
    """Cancel replies have their status in data or beside success; both mean "passed on"."""
    assert classify.command(result, order_id="7") == Accepted("7")


@pytest.mark.parametrize("code", [-1005, -1006])
def test_cancel_of_a_finished_order(code: int) -> None:
    """Nothing to cancel is a rejection, under either code that was seen."""
    assert classify.command(rejection(400, code)) == Rejected(f"orderly:{code}", "HTTP 400")


@pytest.mark.parametrize(
    "result",
    [
        rejection(400, -1006, "no such order"),
        rejection(404, -1006),
        rejection(500, -1000, "data does not exist"),
        rejection(400, -1000, "The order does not exist."),
        rejection(500, -1000, "Order doesn't exist"),
        rejection(500, -1000, "order not exist"),
    ],
)
def test_query_not_found(result: TransportResult) -> None:
    """ "Does not exist" comes as -1006, or as -1000 with that text."""
    assert classify.query(result) == Missing()


@pytest.mark.parametrize(
    "result",
    [
        rejection(500, -1000, "unknown error"),
        rejection(500, -1000, "upstream not found"),
        rejection(500, -1006),
        rejection(400, -1005, "bad id"),
        rejection(429, -1003),
        rejection(401, -1001),
        read_reply(404, HTML),
        read_reply(404, b"does not exist"),
        read_reply(500, b'{"code":-1000'),
        NoReply("reset"),
        NotSent("refused"),
    ],
)
def test_query_unavailable(result: TransportResult) -> None:
    """A broken server, an HTML page or a rejection never reads as "not found": that would let an order be sent twice."""
    assert isinstance(classify.query(result), Unavailable)


def test_query_found() -> None:
    """A result includes the time at which the exchange replied."""
    assert classify.query(reply_with(200, {"success": True, "timestamp": 5, "data": {"a": 1}})) == Found({"a": 1}, 5)


@given(status=st.integers(200, 599), body=st.binary(max_size=200))
def test_noise_is_never_accepted_nor_rejected(status: int, body: bytes) -> None:
    """Random bytes under any status prove nothing, except that 429 always means "not accepted"."""
    classified = classify.create(read_reply(status, body))
    assert isinstance(classified, Retryable if status == 429 else Unknown)


@given(
    status=st.sampled_from([200, 400, 401, 403, 404, 409, 429, 500, 502, 503]),
    code=st.integers(-1300, 40) | st.none() | st.text(max_size=5),
    success=st.sampled_from([True, False, None, "true"]),
    order_id=st.none() | st.integers(0, 10**18) | st.text(max_size=3),
)
def test_accepted_needs_a_clear_success(status: int, code: object, success: object, order_id: object) -> None:
    """Accepted requires 2xx, success exactly true and an id; Rejected requires success not true."""
    payload = {"success": success, "code": code, "message": "m", "data": {"order_id": order_id}}
    classified = classify.create(reply_with(status, payload))
    if isinstance(classified, Accepted):
        assert status == 200
        assert success is True
        assert order_id
    if isinstance(classified, Rejected):
        assert success is not True
        assert status < 500
