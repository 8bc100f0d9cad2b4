"""decide(): the steps of an alert in order, up to the first that may not go, and what stands before it is kept."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from kekbridge.alerts import message
from kekbridge.errors import Refused, Unauthenticated
from kekbridge.model import Limits, Purpose, TradingState, Usage
from kekbridge.model.admission import Decision
from kekbridge.planning import decide as decision
from kekbridge.planning.decide import AccountPolicy
from tests.trading import BTC, NOW, snapshot, webhook

D = Decimal
POLICY = AccountPolicy(
    account_limits=Limits(max_order_size=None, min_order_size=None), max_snapshot_age_s=30, max_mark_age_s=60
)


def decide(fields: dict[str, Any], *, usage: Usage | None = None, hook: Any = None, view: Any = None) -> Decision:
    """What is decided for a message of these fields."""
    made = hook or webhook()
    body = {"apiKey": "wh_test_x", "symbol": "BTCUSDT.P", **fields}
    alert = message.interpret(message.read_message(json.dumps(body).encode()), made.settings)
    return decision.decide(
        usage or Usage(now=NOW),
        alert=alert,
        webhook=made,
        snapshot=view or snapshot(),
        policy=POLICY,
    )


def test_an_allowed_alert_becomes_its_orders() -> None:
    """One step, one order, every rule with its verdict."""
    decided = decide({"action": "buy", "quantity": "0.01"})
    assert decided.status == "admitted"
    assert [intent.quantity for intent in decided.intents] == [D("0.01")]
    assert decided.verdicts
    assert all(verdict.passed for verdict in decided.verdicts)


def test_a_denied_order_is_no_order() -> None:
    """The first rule that says no gives the code; nothing is kept, the verdict is stored."""
    decided = decide({"action": "buy", "quantity": "0.01"}, usage=Usage(now=NOW, trading_state=TradingState.HALTED))
    assert (decided.status, decided.code, decided.intents) == ("denied", "trading_halted", ())
    assert any(not verdict.passed for verdict in decided.verdicts)


def test_a_close_goes_through_although_the_entry_behind_it_may_not() -> None:
    """A flip in exits-only: the position is closed, the new entry is left out with its reason."""
    view = snapshot(positions={BTC: "0.5"})
    decided = decide(
        {"action": "flip", "quantity": "0.5"}, usage=Usage(now=NOW, trading_state=TradingState.EXITS_ONLY), view=view
    )
    assert decided.status == "admitted"
    assert [intent.purpose for intent in decided.intents] == [Purpose.EXIT]
    assert decided.code == "exits_only"


def test_the_entry_of_a_flip_waits_for_its_close() -> None:
    """Two orders, the second chained to the first: never both sides at once."""
    decided = decide({"action": "flip", "quantity": "0.5"}, view=snapshot(positions={BTC: "0.5"}))
    assert [intent.purpose for intent in decided.intents] == [Purpose.EXIT, Purpose.ENTRY]
    assert [intent.after_leg for intent in decided.intents] == [None, 0]


def test_nothing_to_close_is_ignored() -> None:
    """A close of a flat account is no failure and no order."""
    decided = decide({"action": "close"})
    assert (decided.status, decided.code, decided.intents) == ("ignored", "nothing_to_close", ())


def test_a_refused_message_claims_its_identity_only_when_its_sender_is_known() -> None:
    """A stale or unsigned message must not use up the id of the real one that may still come."""
    assert decision.refuse(Refused("symbol_unknown", "no such market")).claims_identity
    assert not decision.refuse(Unauthenticated("timestamp_stale", "too old")).claims_identity
