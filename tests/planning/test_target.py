"""The change of position that a message asks for: target positions, orders without a quantity, adding, reversing, closing everything."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.alerts.message import fired_at, interpret, read_message
from kekbridge.errors import Refused
from kekbridge.model import Limits, PositionPart, StrategyHistory, Usage, WebhookSettings
from kekbridge.model.admission import Decision
from kekbridge.planning.decide import decide
from kekbridge.planning.translate import KnownHistory, Plan, translate
from kekbridge.risk.check import AccountPolicy
from kekbridge.risk.limits import account_limits
from tests.bridge import position_fields
from tests.trading import BTC, ETH, MARKS, NOW, D, snapshot, webhook

POLICY = AccountPolicy(account_limits=account_limits(), max_snapshot_age_s=30, max_mark_age_s=60)


def plan(
    fields: dict[str, Any],
    held: str = "0",
    *,
    history: StrategyHistory | None = None,
    at_s: int = 0,
    others: Decimal = Decimal(0),
    **settings: Any,
) -> Plan:
    """The plan of a one-step message with `held` BTC; `at_s`: when it fired; `others`: what of it other webhooks hold."""
    chosen = WebhookSettings(**settings)
    time = NOW + timedelta(seconds=at_s)
    body = {"symbol": "BTCUSDT.P", "timestamp": time.isoformat(), **fields}
    message = read_message(json.dumps(body).encode())
    (step,) = interpret(message, chosen).steps
    known = KnownHistory(fired_at(message, chosen.profile), {BTC: history} if history else {})
    account = snapshot({BTC: held} if D(held) else {})
    return translate(step, settings=chosen, snapshot=account, others=lambda *_: others, history=known)


@pytest.mark.parametrize(
    ("held", "others", "afterwards", "warning"),
    [
        ("0.3", "0", "0", "the whole position is closed"),
        ("0.4", "0.2", "0.2", "only what this webhook holds is closed"),
        ("0.2", "0.2", "0.2", "other webhooks hold all of"),
        ("0.2", "0.5", "0.2", "other webhooks hold all of"),
        ("0.3", "-0.2", "0", "the whole position is closed"),
    ],
)
def test_an_exit_leaves_what_other_webhooks_hold(held: str, others: str, afterwards: str, warning: str) -> None:
    """Of two strategies in one market each closes its own part; the exchange knows one position only."""
    fields = {"action": "sell", "quantity": "0.1", **position_fields("sell", "0.1", "0")}
    planned = plan(fields, held, others=D(others))
    assert after(planned, held) == D(afterwards)
    assert any(warning in text for text in planned.warnings), planned.warnings
    # Without a position of its own in the message, a close means the market.
    assert after(plan({"action": "close"}, held, others=D(others)), held) == 0


LONG = {"prevMarketPosition": "long", "prevMarketPositionSize": "0.1"}
FLAT: dict[str, Any] = {"marketPosition": "flat", "marketPositionSize": "0"}
HALF = {"marketPosition": "long", "marketPositionSize": "0.05"}
SHORT = {"marketPosition": "short", "marketPositionSize": "0.1"}
# What a strategy states after it was long 0.1 -> the signed position that its webhook holds in the end, of 0.1 and of nothing.
STATED: list[tuple[dict[str, Any], str, str]] = [
    ({"action": "sell", "quantity": "0.1", **LONG, **FLAT}, "0", "0"),
    ({"action": "close", **LONG, **FLAT}, "0", "0"),
    ({"action": "close", **FLAT}, "0", "0"),
    ({"action": "sell", "reduceOnly": True, "quantity": "0.1", **LONG, **FLAT}, "0", "0"),
    ({"action": "sell", "quantity": "0.05", **LONG, **HALF}, "0.05", "0"),
    ({"action": "close", "quantity": "0.05", **LONG, **HALF}, "0.05", "0"),
    ({"action": "close", "quantity": "50%", **LONG, **HALF}, "0.05", "0"),
    ({"action": "sell", "quantity": "0.2", **LONG, **SHORT}, "-0.1", "-0.1"),
    ({"action": "flip", **LONG, **SHORT}, "-0.1", "-0.1"),
    ({"action": "flip", "quantity": "0.2", **LONG, **SHORT}, "-0.2", "0"),
    # Sized by the trader: its contracts do not count, the share that it closed and its side do.
    ({"action": "sell", "quantity": "6500", "quantityType": "usd", **LONG, **FLAT}, "0", "0"),
    ({"action": "sell", "quantity": "6500", "quantityType": "usd", **LONG, **HALF}, "0.05", "0"),
    ({"action": "sell", "quantity": "6500", "quantityType": "usd", **LONG, **SHORT}, "-0.1", "-0.1"),
]


@pytest.mark.parametrize("others", ["0", "0.1", "0.3"])
@pytest.mark.parametrize("follow", ["signal", "position"])
@pytest.mark.parametrize(("fields", "of_own", "of_nothing"), STATED)
def test_what_a_strategy_states_is_about_its_own_part(
    fields: dict[str, Any], of_own: str, of_nothing: str, follow: str, others: str
) -> None:
    """What other webhooks hold stays, also if the webhook's stop has closed its part before."""
    elsewhere = D(others)
    for own, wanted in (("0.1", of_own), ("0", of_nothing)):
        held = str(D(own) + elsewhere)
        planned = plan(fields, held, others=D(others), follow=follow)
        assert after(planned, held) == D(wanted) + elsewhere
        exits = sum((intent.quantity for intent in planned.intents if intent.reduce_only), D(0))
        assert exits <= D(own)


@pytest.mark.parametrize("others", ["0.3", "0.1", "0"])
def test_what_says_nothing_of_a_strategy_means_the_account(others: str) -> None:
    """A plain close, an exit word, a flip, a reduce-only order: all that is open, whoever opened it."""
    for fields, wanted in (
        ({"action": "close"}, "0"),
        ({"action": "close_all", "symbol": "BTCUSDT.P"}, "0"),
        ({"action": "exit long"}, "0"),
        ({"action": "close", "quantity": "50%"}, "0.15"),
        ({"action": "sell", "quantity": "0.2", "reduceOnly": True}, "0.1"),
        ({"action": "flip"}, "-0.3"),
    ):
        assert after(plan(fields, "0.3", others=D(others)), "0.3") == D(wanted)


def test_resync_corrects_what_was_opened_by_hand() -> None:
    """It is a difference between strategy and account; what other webhooks hold is none, in no mode."""
    fields = {"action": "sell", "quantity": "0.05", **LONG, **HALF}
    settings: dict[str, Any] = {"others": D("0.2"), "follow": "position"}
    corrected = plan(fields, "0.6", resync=True, **settings)
    assert after(corrected, "0.6") == D("0.25")
    assert any(
        "the account 0.4 beside what other webhooks hold; it is corrected" in text for text in corrected.warnings
    )
    reported = plan(fields, "0.6", **settings)
    assert after(reported, "0.6") == D("0.55")
    assert any("only the step counts" in text for text in reported.warnings)
    assert plan(fields, "0.3", **settings).warnings == ()


@pytest.mark.parametrize("follow", ["signal", "position"])
def test_what_other_webhooks_hold_is_no_drift(follow: str) -> None:
    """Its advice, to close or open the difference by hand, would close what is theirs."""
    fields = {"action": "buy", "quantity": "0.05", "prevMarketPosition": "flat", "prevMarketPositionSize": "0", **HALF}
    assert plan(fields, "0.3", others=D("0.3"), follow=follow).warnings == ()
    (text,) = plan(fields, "0.3", others=D("0.2"), follow=follow).warnings
    assert "before this alert, the account 0.1 beside what other webhooks hold" in text


@pytest.mark.parametrize("own", ["0.1", "0"])
def test_openalgo_target_beside_another_webhook(own: str) -> None:
    """The position wanted is that of the message's own strategy."""
    held = str(D(own) + D("0.3"))
    assert after(plan(smart("BUY", "1", "0.2"), held, others=D("0.3"), profile="openalgo"), held) == D("0.5")


def test_the_side_of_a_strategy_beside_another_webhook() -> None:
    """A webhook that holds nothing says why; one on the other side of the account is no different."""
    fields = {
        "action": "buy",
        "quantity": "0.1",
        "prevMarketPosition": "short",
        "prevMarketPositionSize": "0.1",
        **FLAT,
    }
    planned = plan(fields, "0.3", others=D("0.3"))
    assert (planned.intents, planned.ignored_code) == ((), "nothing_to_close")
    assert any("other webhooks hold all of the 0.3 BTC" in warning for warning in planned.warnings)


def after(planned: Plan, held: str = "0") -> Decimal:
    """The position after the plan's orders."""
    return D(held) + sum((intent.signed_quantity for intent in planned.intents), D(0))


# OpenAlgo's documented table of smart orders: action, quantity, position_size, open position -> position afterwards.
SMART_ORDERS = [
    ("BUY", "1", "0", "0", "1"),
    ("BUY", "1", "1", "-1", "1"),
    ("BUY", "1", "1", "1", "1"),
    ("BUY", "1", "2", "1", "2"),
    ("SELL", "1", "0", "0", "-1"),
    ("SELL", "1", "-1", "1", "-1"),
    ("SELL", "1", "-1", "-1", "-1"),
    ("SELL", "1", "-2", "-1", "-2"),
]


def smart(action: str, quantity: str | None, size: str) -> dict[str, Any]:
    return {"action": action, "pricetype": "MARKET", "position_size": size} | (
        {"quantity": quantity} if quantity else {}
    )


@pytest.mark.parametrize(("action", "quantity", "size", "held", "wanted"), SMART_ORDERS)
def test_openalgo_smart_orders(action: str, quantity: str, size: str, held: str, wanted: str) -> None:
    """Each row of the service's table."""
    planned = plan(smart(action, quantity, size), held, profile="openalgo")
    assert after(planned, held) == D(wanted)
    if held == wanted:
        assert (planned.intents, planned.ignored_code) == ((), "already_in_position")


@pytest.mark.parametrize(("action", "quantity", "size", "held", "wanted"), SMART_ORDERS)
def test_openalgo_smart_orders_in_position_mode(action: str, quantity: str, size: str, held: str, wanted: str) -> None:
    """There position_size is the position, also when it is zero."""
    planned = plan(smart(action, quantity, size), held, profile="openalgo", follow="position")
    assert after(planned, held) == D(size)


@pytest.mark.parametrize("held", ["-1", "0", "0.5", "1", "3"])
@pytest.mark.parametrize("action", ["BUY", "SELL"])
def test_openalgo_reaches_its_target_from_anywhere(action: str, held: str) -> None:
    """Whatever the action says, and without a quantity; zero closes what is open."""
    assert after(plan(smart(action, None, "1"), held, profile="openalgo"), held) == 1
    closed = plan(smart(action, "1", "0"), held, profile="openalgo") if D(held) else None
    assert closed is None or after(closed, held) == 0


def test_openalgo_exit_of_a_position_that_its_stop_closed() -> None:
    """The strategy held something by its own messages, so zero is its exit and not an ordinary order."""
    entry = plan(smart("BUY", "1", "1"), profile="openalgo")
    assert entry.strategy_history is not None
    late = plan(smart("SELL", "1", "0"), profile="openalgo", history=entry.strategy_history, at_s=60)
    assert (late.intents, late.ignored_code) == ((), "nothing_to_close")
    overtaken = plan(smart("BUY", "1", "1"), "0", profile="openalgo", history=late.strategy_history, at_s=30)
    assert (overtaken.intents, overtaken.ignored_code) == ((), "out_of_date")


@pytest.mark.parametrize(("action", "held", "wanted"), [("sell", "0.3", "0"), ("buy", "-0.3", "0")])
def test_traderspost_order_without_a_quantity_exits(action: str, held: str, wanted: str) -> None:
    """It closes an opposite position, reduce-only, and opens nothing."""
    planned = plan({"action": action}, held, profile="traderspost")
    assert after(planned, held) == D(wanted)
    assert [intent.reduce_only for intent in planned.intents] == [True]


@pytest.mark.parametrize("held", ["0", "-0.3"])
def test_traderspost_order_without_a_quantity_opens_nothing(held: str) -> None:
    """The service would use a size from its own settings, which nobody knows here; the webhook's default is one."""
    with pytest.raises(Refused) as caught:
        plan({"action": "sell"}, held, profile="traderspost")
    assert caught.value.code == "quantity_missing"
    planned = plan({"action": "sell"}, held, profile="traderspost", defaults={"quantity": "0.2"})
    assert after(planned, held) == D(held) - D("0.2")


@pytest.mark.parametrize(("held", "wanted"), [("0.3", "0.5"), ("-0.3", "-0.5")])
def test_add_enlarges_whatever_is_open(held: str, wanted: str) -> None:
    """On either side; without a position there is no side."""
    assert after(plan({"action": "add", "quantity": "0.2"}, held), held) == D(wanted)
    with pytest.raises(Refused) as caught:
        plan({"action": "add", "quantity": "0.2"})
    assert caught.value.code == "no_position"


@pytest.mark.parametrize(
    ("word", "held", "wanted"),
    [
        ("exit", "0.3", "0"),
        ("flat", "-0.3", "0"),
        ("close_long", "0.3", "0"),
        ("close_long", "-0.3", "-0.3"),
        ("exit_short", "-0.3", "0"),
        ("exit_short", "0.3", "0.3"),
        ("Sell To Close", "0.3", "0"),
        ("buyToCover", "-0.3", "0"),
        ("buyToCover", "0.3", "0.3"),
    ],
)
@pytest.mark.parametrize("follow", ["signal", "position"])
def test_exit_words(word: str, held: str, wanted: str, follow: str) -> None:
    """Each closes its own side, wholly, and never opens anything."""
    planned = plan({"action": word}, held, follow=follow)
    assert after(planned, held) == D(wanted)
    assert planned.is_exit
    assert planned.ignored_code == (None if held != wanted else "nothing_to_close")


@pytest.mark.parametrize("word", ["sellshort", "sell_short", "short", "enter_short", "Sell To Open"])
def test_entry_words(word: str) -> None:
    """They open their side."""
    assert after(plan({"action": word, "quantity": "0.1"})) == D("-0.1")


@pytest.mark.parametrize(
    ("action", "held", "wanted"), [("buy", "-0.3", "0.1"), ("sell", "0.3", "-0.1"), ("buy", "0.3", "0.4")]
)
def test_reverse_closes_before_it_opens(action: str, held: str, wanted: str) -> None:
    """A webhook with --reverse trades swings: an entry against the position ends with its own full size."""
    planned = plan({"action": action, "quantity": "0.1"}, held, reverse=True)
    assert after(planned, held) == D(wanted)
    assert after(plan({"action": action, "quantity": "0.1"}, held), held) == D(held) + (
        D("0.1") if action == "buy" else D("-0.1")
    )
    exit_only = plan({"action": action, "quantity": "0.1", "reduceOnly": True}, held, reverse=True)
    assert abs(after(exit_only, held)) <= abs(D(held))


def test_dollars_at_risk() -> None:
    """The size loses this much between the entry and the stop."""
    planned = plan({"action": "buy", "quantity": "50", "quantityType": "risk_usd", "stopLoss": "64000"})
    assert after(planned) == D("0.05")


# ----------------------------------------------------------------------------------------------------------- close_all


def close_all(held: dict[str, str], limits: Limits | None = None, **fields: Any) -> Decision:
    alert = interpret(read_message(json.dumps({"action": "close_all", **fields}).encode()), WebhookSettings())
    chosen = webhook(limits)
    account = snapshot(held, marks={**MARKS, "PERP_GONE_USDC": D(1)})
    return decide(Usage(now=NOW), alert=alert, webhook=chosen, snapshot=account, policy=POLICY)


def test_close_all_closes_every_market() -> None:
    """No matter who opened the positions; no close waits for another."""
    decided = close_all({BTC: "0.01", ETH: "-0.2"})
    assert [(i.symbol, i.signed_quantity, i.reduce_only, i.after_leg) for i in decided.intents] == [
        (BTC, D("-0.01"), True, None),
        (ETH, D("0.2"), True, None),
    ]
    assert decided.is_exit


def test_close_all_with_a_strategys_position() -> None:
    """The account's emergency word: what the message says of its strategy limits nothing."""
    decided = close_all({BTC: "0.01", ETH: "-0.2"}, **FLAT)
    assert [intent.signed_quantity for intent in decided.intents] == [D("-0.01"), D("0.2")]
    assert {intent.part for intent in decided.intents} == {PositionPart.WHOLE}


def test_close_all_of_a_webhook_with_allowed_symbols() -> None:
    """It closes what the webhook may trade."""
    decided = close_all({BTC: "0.01", ETH: "-0.2"}, Limits(allowed_symbols=(ETH,)))
    assert [intent.symbol for intent in decided.intents] == [ETH]


def test_close_all_of_one_symbol_and_of_nothing() -> None:
    """With a symbol it is a close; with nothing open there is nothing to do, which counts as an exit."""
    assert [i.symbol for i in close_all({BTC: "0.01", ETH: "1"}, symbol="ETHUSDT.P").intents] == [ETH]
    nothing = close_all({})
    assert (nothing.status, nothing.code, nothing.is_exit) == ("ignored", "nothing_to_close", True)


def test_one_market_that_cannot_be_closed_keeps_no_other_open() -> None:
    """A position in a market that is not listed any more is reported, the others are closed."""
    decided = close_all({"PERP_GONE_USDC": "5", ETH: "-0.2"})
    assert [intent.symbol for intent in decided.intents] == [ETH]
    assert (decided.status, decided.code) == ("admitted", "symbol_unknown")
