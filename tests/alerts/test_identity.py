"""What makes two messages the same alert: a header, or id, time and market together, or the body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kekbridge.alerts.identity import WINDOW_S, Identity, identity_of
from kekbridge.alerts.message import fired_at, read_message
from kekbridge.errors import Refused

BUY: dict[str, Any] = {"apiKey": "k", "action": "buy", "symbol": "BTC", "quantity": "1", "timestamp": "1768473003"}


def identity(fields: dict[str, Any], markets: tuple[str, ...] = ("BTC",), **headers: str) -> Identity:
    message = read_message(json.dumps(fields).encode())
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return identity_of(message, fired_at=fired_at(message), markets=markets, headers=named)


def test_id_time_and_market_together() -> None:
    """People put {{strategy.order.id}} into alertId, and a watchlist fires many markets in one second."""
    one = identity({**BUY, "alertId": "Long"})
    assert one == identity({**BUY, "alertId": "Long", "quantity": "2", "timestamp": 1768473003})
    assert one != identity({**BUY, "alertId": "Long", "timestamp": "1768473004"})
    assert one != identity({**BUY, "alertId": "Long"}, ("ETH",))
    assert one != identity({**BUY, "alertId": "Short"})
    assert identity({**BUY, "alertId": "L"}, ("A", "B")) == identity({**BUY, "alertId": "L"}, ("B", "A", "B"))


def test_without_an_id_the_body_counts() -> None:
    """For ever, if it has a timestamp."""
    assert identity(BUY) == identity(BUY)
    assert identity(BUY).window_s is None
    assert identity(BUY) != identity({**BUY, "quantity": "2"})


def test_without_a_timestamp_only_equal_content_counts_for_a_moment() -> None:
    """Also with an id, which may be a fixed text of the template."""
    undated = {name: value for name, value in BUY.items() if name != "timestamp"}
    assert identity(undated) == identity({**undated, "alertId": "Long"}) == Identity(None, WINDOW_S)


def test_a_header_is_the_identity_for_ever() -> None:
    """For programs that send again with a fresh timestamp; Standard Webhooks has its own header for it."""
    one = identity(BUY, idempotency_key="order-7")
    assert one == identity({**BUY, "timestamp": "1768479999", "alertId": "x"}, idempotency_key=" order-7 ")
    assert one != identity(BUY, idempotency_key="order-8")
    assert one == identity(BUY, webhook_id="order-7")
    assert one == identity(BUY, idempotency_key="order-7", webhook_id="msg_1")
    assert one.text is not None
    assert "order-7" not in one.text


@pytest.mark.parametrize("value", [" ", "a\x00b", "x" * 257])
def test_an_unusable_header_is_refused(value: str) -> None:
    """Cut or cleaned it might be another alert's."""
    with pytest.raises(Refused) as caught:
        identity(BUY, idempotency_key=value)
    assert (caught.value.code, caught.value.field) == ("field_invalid", "idempotency-key")
