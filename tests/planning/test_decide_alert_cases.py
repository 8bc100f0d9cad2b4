"""Alerts as people really send them: what each is decided to be, with an account that fills every market order at the mark."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.alerts.identity import Identity, identity_of
from kekbridge.alerts.message import Message, allowed_age_s, fired_at, interpret, read_message, timestamp_missing
from kekbridge.alerts.signal import Alert
from kekbridge.alerts.timestamps import check_age
from kekbridge.codes import status_of
from kekbridge.errors import RequestRefused
from kekbridge.model import AccountSnapshot, OrderIntent, OrderType, Purpose, StrategyHistory, Usage, Webhook
from kekbridge.model.admission import Decision
from kekbridge.planning.build_orders import resize
from kekbridge.planning.decide import decide, is_out_of_order, refuse
from kekbridge.risk.check import AccountPolicy
from kekbridge.risk.limits import account_limits
from tests.alert_cases import (
    CASES,
    CaseAnswer,
    CaseResult,
    Delivery,
    PositionSet,
    deliveries,
    find_fault,
    prior_positions,
    settings_of,
)
from tests.trading import INSTRUMENTS, instrument, snapshot

NOW = datetime(2026, 1, 15, 10, 30, 5, 123_000, tzinfo=UTC)
MARKS = {
    "PERP_BTC_USDC": Decimal(65_000),
    "PERP_ETH_USDC": Decimal(1800),
    "PERP_SOL_USDC": Decimal(140),
    "PERP_1000PEPE_USDC": Decimal("0.0118"),
    "PERP_1000BONK_USDC": Decimal("0.02"),
    "PERP_XAU_USDC": Decimal(4000),
    "PERP_TSLA_USDC": Decimal(400),
}
MARKETS = {
    symbol: INSTRUMENTS.get(symbol) or instrument(symbol, base_min=Decimal(mark < 100) or Decimal("0.01"))
    for symbol, mark in MARKS.items()
}
POLICY = AccountPolicy(account_limits=account_limits(), max_snapshot_age_s=30, max_mark_age_s=60)
#: What the listener answers before anything is read as an alert; tests/system/test_alert_cases.py sends these over HTTP.
NEEDS_LISTENER = {"http-OPTIONS", "http-favicon", "http-HEAD"}


class Account:
    """An account and its webhooks: decides each message as the bridge does, and fills market orders at the mark at once."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.webhooks = [
            Webhook(id=f"W{number}", name=f"w{number}", enabled=True, created_at=NOW, settings=settings)
            for number, settings in enumerate(settings_of(case))
        ]
        self.keys = [f"wh_test_case{number}" for number in range(len(self.webhooks))]
        self.positions = prior_positions(case)
        self.protection: list[tuple[str, Decimal]] = []
        self.histories: dict[str, dict[str, StrategyHistory]] = defaultdict(dict)
        self.taken: dict[tuple[str, str], tuple[str, CaseAnswer]] = {}
        self.last_content: dict[tuple[str, str | None], tuple[str, CaseAnswer]] = {}

    @property
    def snapshot(self) -> AccountSnapshot:
        held = {symbol: str(size) for symbol, size in self.positions.items() if size}
        return snapshot(held, marks=MARKS, instruments=MARKETS, leverage=dict.fromkeys(MARKS, Decimal(10)))

    def usage(self, webhook: Webhook) -> Usage:
        return Usage(now=NOW, strategy_histories=self.histories[webhook.id])

    def waits(self, delivery: Delivery) -> bool:
        """Whether the alert waits for one that it may have overtaken."""
        webhook = self.webhooks[delivery.webhook]
        alert = interpret(read_message(delivery.body), webhook.settings)
        return is_out_of_order(self.usage(webhook), alert=alert, webhook=webhook, snapshot=self.snapshot)

    def send(self, delivery: Delivery) -> CaseAnswer:
        webhook = self.webhooks[delivery.webhook]
        try:
            message = read_message(delivery.body)
            if (message.api_key or delivery.headers.get("X-API-Key")) != self.keys[delivery.webhook]:
                return CaseAnswer(401, {"code": "unauthorized"})
            time = self._time(message, webhook)
        except RequestRefused as refusal:
            return _refusal(refusal)
        return self._take(message, webhook, time, delivery)

    def _time(self, message: Message, webhook: Webhook) -> datetime | None:
        time = fired_at(message, webhook.settings.profile)
        if time is None and webhook.settings.require_timestamp:
            raise timestamp_missing()
        if time is not None:
            age = allowed_age_s(message, webhook.settings, 60)
            check_age(time, now=NOW + timedelta(milliseconds=20), max_age_s=age, max_future_s=10)
        return time

    def _take(self, message: Message, webhook: Webhook, time: datetime | None, delivery: Delivery) -> CaseAnswer:
        try:
            alert = interpret(message, webhook.settings)
        except RequestRefused as refusal:
            return _answer(refuse(refusal))
        decided = decide(
            self.usage(webhook), alert=alert, webhook=webhook, snapshot=self.snapshot, policy=POLICY, fired_at=time
        )
        headers = {name.lower(): value for name, value in delivery.headers.items()}
        identity = identity_of(message, fired_at=time, markets=[decided.symbol or ""], headers=headers)
        repeated = self._repeated(webhook, identity, message, decided.symbol)
        if repeated is not None:
            return repeated
        answer = _answer(decided, alert)
        if answer.status < 300:
            self._remember(webhook, identity, message, decided.symbol, answer)
            self.histories[webhook.id].update(decided.strategy_histories)
            for intent in decided.intents:
                self._fill(intent)
        return answer

    def _repeated(
        self, webhook: Webhook, identity: Identity, message: Message, market: str | None
    ) -> CaseAnswer | None:
        """The first answer to a message that was taken before; a conflict if its content differs."""
        if identity.text is None:
            found = self.last_content.get((webhook.id, market))
            is_same = found is not None and found[0] == message.fingerprint()
            return CaseAnswer(200, {**found[1].body, "duplicate": True}) if found and is_same else None
        first = self.taken.get((webhook.id, identity.text))
        if first is None:
            return None
        if first[0] != message.fingerprint():
            return CaseAnswer(409, {"code": "alert_id_reused"})
        return CaseAnswer(200, {**first[1].body, "duplicate": True})

    def _remember(
        self, webhook: Webhook, identity: Identity, message: Message, market: str | None, answer: CaseAnswer
    ) -> None:
        content = message.fingerprint(), answer
        self.last_content[webhook.id, market] = content
        if identity.text is not None:
            self.taken[webhook.id, identity.text] = content

    def _fill(self, intent: OrderIntent) -> None:
        sized = resize(intent, self.snapshot)
        if sized is None:
            return
        if sized.purpose is Purpose.PROTECT:
            self.protection.append(("trailing_stop", Decimal(0)))
            return
        if sized.order_type is not OrderType.MARKET:
            return
        before = self.positions.get(sized.symbol, Decimal(0))
        self.positions[sized.symbol] = before + sized.signed_quantity
        if sized.stop_loss is not None:
            self.protection.append(("stop_loss", sized.stop_loss))
        self.protection += [("take_profit", each.trigger_price) for each in sized.take_profits]


def _refusal(refusal: RequestRefused) -> CaseAnswer:
    if refusal.status == 401:
        return CaseAnswer(401, {"code": "unauthorized"})
    return CaseAnswer(refusal.status, {"code": refusal.code, "error": refusal.message, "field": refusal.field})


def _answer(decided: Decision, alert: Alert | None = None) -> CaseAnswer:
    status = 200 if decided.status == "admitted" else status_of(decided.code or "")
    body = {"code": decided.code, "error": decided.error, "field": decided.field, "warnings": decided.warnings}
    return CaseAnswer(status, {name: value for name, value in body.items() if value})


def play(case: dict[str, Any]) -> CaseResult:
    """Send a case's messages; one that may have overtaken another is decided after it, if both are on their way."""
    account = Account(case)
    overlaps = case.get("send", {}).get("overlap", False)
    answers: dict[int, CaseAnswer] = {}
    waiting: list[tuple[int, Delivery]] = []
    for number, each in enumerate(deliveries(case, account.keys, now=NOW)):
        if isinstance(each, PositionSet):
            account.positions = dict(each.positions)
            continue
        if overlaps and account.waits(each):
            waiting.append((number, each))
            continue
        answers[number] = account.send(each)
        for late in [late for late in waiting if not account.waits(late[1])]:
            waiting.remove(late)
            answers[late[0]] = account.send(late[1])
    for number, each in waiting:
        answers[number] = account.send(each)
    held = {symbol: size for symbol, size in account.positions.items() if size}
    return CaseResult([answers[number] for number in sorted(answers)], held, account.protection)


@pytest.mark.parametrize("case_id", sorted(CASES.keys() - NEEDS_LISTENER))
def test_case(case_id: str) -> None:
    """The message means what its sender meant: the right position, protection and answer; or an error that names the cause."""
    case = CASES[case_id]
    assert find_fault(case, play(case)) is None, case["why"]


def test_a_waiting_alert_is_decided_in_its_order() -> None:
    """The pair of one bar ends right in either order, and nobody waits who is in order."""
    swapped, in_order = CASES["seed-swapped-close-open"], CASES["seed-inorder-close-open"]
    assert play(swapped).positions == play(in_order).positions
    account = Account(in_order)
    first = deliveries(in_order, account.keys, now=NOW)[0]
    assert isinstance(first, Delivery)
    assert not account.waits(first)
    assert Account({**in_order, "prior": {}}).waits(first)


def test_the_cases_are_whole() -> None:
    """Each needs an id of its own, a reason and an expectation."""
    assert len(CASES) == 230
    assert all(case["why"] and case["expect"] for case in CASES.values())
