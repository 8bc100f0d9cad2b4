"""Admission: one alert, one verdict, stored or given back as a whole; duplicates, rate limits, and limits under concurrency."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kekbridge.errors import StoreUnavailable
from kekbridge.execution.admission import Admission, AlertAdmissions
from kekbridge.execution.book import Book
from kekbridge.execution.exit_watch import ExitWatch
from kekbridge.execution.key_watch import KeyWatch
from kekbridge.execution.load_book import load_recent
from kekbridge.execution.submitter import OrderSubmitter
from kekbridge.model import (
    UNCOMMITTED,
    CancelRequest,
    LimitBreach,
    Limits,
    OrderIntent,
    OrderStatus,
    PositionPart,
    RateLimits,
    StrategyHistory,
    TradingState,
    Usage,
    Verdict,
    Webhook,
    WebhookSettings,
    client_order_id_of,
)
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.store import alerts, cancels, conditions, journal, orders, projector, webhooks
from kekbridge.store.database import Database
from tests.bridge import BTC, Bridge
from tests.equality import assert_same, loaded_contents, table_rows
from tests.fresh_database import open_database
from tests.store.factories import NO_RATES, admitting, exit_intent, intent, new_alert
from tests.stored import shrink
from tests.waiting import until

S = OrderStatus
Decide = Callable[[Usage], Decision]


class Setup:
    """Admissions on a store of their own, in front of a real exchange; nothing is sent unless `submitter.is_dispatching`."""

    def __init__(self, bridge: Bridge, database: Database, rates: RateLimits, account_rates: RateLimits) -> None:
        trading = bridge.daemon.trading
        self.bridge = bridge
        self.database = database
        self.account_rates = account_rates
        self.now = datetime.now(UTC)
        self.book = Book(append=database.append_soon)
        self.exits = ExitWatch(book=self.book, exchange=bridge.daemon.exchange, clock=lambda: self.now)
        self.submitter = OrderSubmitter(
            book=self.book,
            database=database,
            exchange=bridge.daemon.exchange,
            exits=self.exits,
            keys=KeyWatch(book=self.book, exchange=bridge.daemon.exchange, clock=lambda: self.now),
            policy=trading.submitter._policy,
            settings=trading.submitter._settings,
            find_webhook=lambda _: self.webhook,
            clock=lambda: self.now,
        )
        self.woken: list[str] = []
        settings = WebhookSettings(rates=rates, limits=Limits(cooldown_s=60))
        with database.transaction() as connection:
            self.webhook = webhooks.create(connection, webhook_id="hook", name="main", settings=settings, now=self.now)
        self.admissions = self.another()

    def another(self) -> AlertAdmissions:
        """Admissions that know nothing of what others have on its way to the disk."""
        return AlertAdmissions(
            book=self.book,
            database=self.database,
            exchange=self.bridge.daemon.exchange,
            submitter=self.submitter,
            exits=self.exits,
            recent=self.database.read_now(load_recent, now=self.now),
            account_rates=self.account_rates,
            clock=lambda: self.now,
            on_queued=lambda: self.woken.append("queue"),
            on_cancels=lambda: self.woken.append("cancels"),
        )

    def alert(self, seconds: float = 0, **changes: Any) -> NewAlert:
        return new_alert(**{"received_at": self.now + timedelta(seconds=seconds), **changes})

    async def take(
        self, alert: NewAlert | None = None, decide: Decide | None = None, *, webhook: Webhook | None = None
    ) -> Admission:
        """Admit an alert as the receiver does."""
        alert = alert or self.alert()
        webhook = webhook or dataclasses.replace(self.webhook, id=alert.webhook_id)
        expires_at = alert.received_at + timedelta(seconds=60)
        begun = self.admissions.begin(alert, limited(decide or admitting()), webhook, expires_at=expires_at)
        if begun is not None and await self.admissions.finish(begun):
            return begun
        return await self.admissions.repeat(alert)

    def held(self) -> tuple[object, ...]:
        """All that an alert takes of the book."""
        usage = self.book.usage("hook", now=self.now)
        return (
            self.book.comparable(),
            usage,
            {key: list(times) for key, times in self.book.rates._times.items() if times},
        )

    async def count(self, table: str) -> int:
        found = await self.database.read(
            lambda connection: connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        )
        return int(found[0])


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database(tmp_path / "store")
    yield opened
    await opened.close()


@pytest.fixture
def setup(bridge: Bridge, database: Database) -> Setup:
    return Setup(bridge, database, NO_RATES, NO_RATES)


def limited(decide: Decide) -> Decide:
    """Deny entries beyond a rate limit, as `planning.decide` does."""

    def within_rates(usage: Usage) -> Decision:
        decision = decide(usage)
        is_entry = not decision.is_exit and decision.status in ("admitted", "denied")
        return Decision(status="denied", code="rate_limited") if usage.rate_excess and is_entry else decision

    return within_rates


def exits(**changes: Any) -> Decide:
    decide: Decide = admitting(exit_intent(), is_exit=True, **changes)
    return decide


# ---------------------------------------------------------------------------------------------------------- what is stored


async def test_an_admitted_alert_is_stored_with_all_that_follows(setup: Setup) -> None:
    """Alert, verdicts, orders, totals and history come from one row, and read back as they were answered."""
    verdict = Verdict(rule="order_too_large", scope="webhook", passed=True, found="0.01", limit="1")
    decide = admitting(exit_intent(), intent(after_leg=0), verdicts=(verdict,), symbol=BTC, warnings=("late",))
    alert = setup.alert(payload={"quantity": "0.01"})
    admission = await setup.take(alert, decide)
    assert admission.kind == "admitted"
    stored = await setup.database.read(alerts.get, alert.id)
    assert admission.alert == stored
    assert (stored.status, stored.symbol) == ("queued", BTC)
    assert (stored.verdicts, stored.warnings) == ((verdict,), ("late",))
    assert admission.orders == await setup.database.read(orders.of_alert, alert.id)
    assert [order.client_order_id for order in admission.orders] == [
        client_order_id_of(alert.id, leg) for leg in (0, 1)
    ]
    assert tuple(setup.book.orders.values()) == admission.orders
    assert [event.kind for event in await setup.database.read(journal.of_alert, alert.id)] == ["alert_admitted"]
    assert setup.woken == ["queue"]


@pytest.mark.parametrize("status", ["denied", "refused", "ignored"])
async def test_alert_that_is_not_admitted_is_stored_without_orders(setup: Setup, status: Any) -> None:
    """Every request ends in one stored verdict; a refused one takes no room, and always has a code."""
    alert = setup.alert()
    before = setup.book.comparable()

    def decide(usage: Usage) -> Decision:
        return Decision(status=status, error="too much", field="quantity", intents=(intent(),))

    admission = await setup.take(alert, decide)
    stored = await setup.database.read(alerts.get, alert.id)
    assert admission.kind == stored.status == status
    assert (stored.code, stored.error, stored.field) == (status, "too much", "quantity")
    assert admission.orders == ()
    assert (await setup.count("orders"), setup.book.comparable(), setup.woken) == (0, before, [])


async def test_cancel_steps_are_stored_and_announced(setup: Setup) -> None:
    """A crash after the response must not lose a cancel."""
    steps = (CancelRequest(symbol=BTC), CancelRequest(symbol=None, comment="c"))
    admission = await setup.take(decide=lambda usage: Decision(status="admitted", cancels=steps, is_exit=True))
    found = await setup.database.read(cancels.list_queued)
    assert [(each.alert_id, each.request) for each in found] == [(admission.alert.id, step) for step in steps]
    assert (admission.alert.status, setup.woken) == ("queued", ["cancels"])


async def test_text_that_utf_8_cannot_hold_is_stored_readably(setup: Setup) -> None:
    r"""Half a character in what names an alert must not make it unstorable (a 503 would repeat it)."""
    bad = "x\ud800y"
    alert = setup.alert(
        alert_id=bad, identity=f"id:{bad}", symbol=bad, payload={"comment": bad, "n": [Decimal("1E-9")]}
    )
    first = await setup.take(alert)
    again = await setup.take(replace(alert, id=new_alert().id))
    assert (first.kind, again.kind) == ("admitted", "duplicate")
    stored = await setup.database.read(alerts.get, alert.id)
    assert stored.alert_id == "x\\ud800y"
    assert stored.payload == {"comment": bad, "n": ["0.000000001"]}


async def test_breach_closes_the_webhook_with_the_alert(setup: Setup) -> None:
    """The next entry is denied by the state; it is one row per breach, not per denied alert."""
    breach = LimitBreach(scope="webhook", rule="daily_limit", reason="r", until=setup.now + timedelta(hours=1))
    for _ in range(2):
        await setup.take(decide=lambda usage: Decision(status="denied", breaches=(breach,)))
    assert setup.admissions.usage(setup.webhook, now=setup.now).trading_state is TradingState.EXITS_ONLY
    states = await setup.database.read(journal.latest, kinds=["trading_state"])
    assert len(states) == 1


# -------------------------------------------------------------------------------------------------------------- duplicates


async def test_duplicate_gets_the_first_outcome(setup: Setup) -> None:
    """A resend creates no second order and gets the orders of the first as they are now, however much later."""
    alert = setup.alert()
    first = await setup.take(alert)
    again = await setup.take(replace(alert, id=new_alert().id, received_at=setup.now + timedelta(days=400)))
    assert (again.kind, again.alert.id, again.orders) == ("duplicate", first.alert.id, first.orders)
    assert (await setup.count("alerts"), await setup.count("orders")) == (1, 1)
    events = await setup.database.read(journal.of_alert, alert.id)
    assert [event.kind for event in events] == ["alert_admitted", "alert_duplicate"]
    assert events[-1].data["remote"] == alert.remote


async def test_same_identity_with_other_content_is_a_conflict(setup: Setup) -> None:
    """A reused alertId is refused, never merged (409)."""
    alert = setup.alert()
    await setup.take(alert)
    again = await setup.take(replace(alert, id=new_alert().id, fingerprint="other"))
    assert (again.kind, again.alert.id, await setup.count("orders")) == ("conflict", alert.id, 1)


@pytest.mark.parametrize("has_identity", [True, False])
@pytest.mark.parametrize("status", ["denied", "refused"])
async def test_refused_and_denied_alerts_claim_no_identity(setup: Setup, status: Any, *, has_identity: bool) -> None:
    """The same words are judged again, once a limit was raised or a template elsewhere was mended; each is a row and counts."""
    alert = setup.alert() if has_identity else setup.alert(identity=None, window_s=60)

    def copy() -> NewAlert:
        return replace(alert, id=new_alert().id)

    for _ in range(2):
        assert (await setup.take(copy(), lambda usage: Decision(status=status, code="daily_limit"))).kind == status
    assert (await setup.take(copy())).kind == "admitted"
    assert (await setup.take(copy())).kind == "duplicate"
    assert (await setup.count("alerts"), await setup.count("orders")) == (3, 1)


async def test_what_changes_nothing_claims_its_identity(setup: Setup) -> None:
    """A close without a position was understood: its resend must not close a position that was opened meanwhile."""
    alert = setup.alert()
    await setup.take(alert, lambda usage: Decision(status="ignored", is_exit=True))
    assert (await setup.take(replace(alert, id=new_alert().id))).kind == "duplicate"


async def test_content_without_timestamp_is_remembered_across_a_start(setup: Setup) -> None:
    """TradingView sends again after 5 to 25 s, also when the bridge was killed in between."""
    alert = setup.alert(identity=None, window_s=60, alert_id=None)
    await setup.take(alert)
    assert await setup.count("alerts") == 1
    setup.admissions = setup.another()
    assert (await setup.take(replace(alert, id=new_alert().id))).kind == "duplicate"


async def test_identities_are_per_webhook(setup: Setup) -> None:
    """Two strategies may use the same alertIds."""
    alert = setup.alert()
    await setup.take(alert)
    assert (await setup.take(replace(alert, id=new_alert().id, webhook_id="other"))).kind == "admitted"


@pytest.mark.parametrize(
    ("seconds", "kind"), [(0, "duplicate"), (59.999, "duplicate"), (60, "admitted"), (3600, "admitted")]
)
async def test_without_identity_the_same_body_counts_once_within_its_window(
    setup: Setup, seconds: float, kind: str
) -> None:
    """A body without alertId and timestamp is a resend within 60 s of the first, and a new alert after that."""
    alert = setup.alert(identity=None, window_s=60, alert_id=None)
    await setup.take(alert)
    later = replace(alert, id=new_alert().id, received_at=setup.now + timedelta(seconds=seconds))
    assert (await setup.take(later)).kind == kind
    assert (await setup.take(replace(later, id=new_alert().id, fingerprint="other"))).kind == "admitted"


async def test_window_starts_with_the_first_copy(setup: Setup) -> None:
    """A sender that repeats itself every 40 s must not be ignored for ever."""
    alert = setup.alert(identity=None, window_s=60)
    kinds = [
        (await setup.take(replace(alert, id=new_alert().id, received_at=setup.now + timedelta(seconds=seconds)))).kind
        for seconds in (0, 40, 80, 120, 160)
    ]
    assert kinds == ["admitted", "duplicate", "admitted", "duplicate", "admitted"]


@pytest.mark.parametrize("has_identity", [True, False])
async def test_simultaneous_duplicates_create_one_order(setup: Setup, *, has_identity: bool) -> None:
    """Four copies that arrive before the first is on disk are one admission and three duplicates that refer to it."""
    alert = setup.alert() if has_identity else setup.alert(identity=None, window_s=60)
    outcomes = await asyncio.gather(*(setup.take(replace(alert, id=new_alert().id)) for _ in range(4)))
    assert sorted(outcome.kind for outcome in outcomes) == ["admitted", "duplicate", "duplicate", "duplicate"]
    assert len({outcome.alert.id for outcome in outcomes}) == 1
    assert {outcome.orders for outcome in outcomes} == {outcomes[0].orders}
    assert len(setup.book.orders) == 1


async def test_loser_of_an_identity_gives_everything_back(setup: Setup) -> None:
    """The unique index decides, also between two writers: the second gets its room back, and what it is a duplicate of."""
    alert = setup.alert()
    copy = replace(alert, id=new_alert().id)
    course = StrategyHistory(start=Decimal(1), steps=())
    other = setup.another()
    expires_at = setup.now + timedelta(seconds=60)
    first = setup.admissions.begin(alert, admitting(), setup.webhook, expires_at=expires_at)
    assert first is not None
    after_first = setup.held()
    second = other.begin(copy, admitting(strategy_histories=((BTC, course),)), setup.webhook, expires_at=expires_at)
    assert second is not None
    assert setup.held() != after_first
    assert await setup.admissions.finish(first)
    assert not await other.finish(second)
    assert setup.held() == after_first
    assert (await other.repeat(copy)).alert.id == alert.id
    assert await setup.count("alerts") == 1


# ----------------------------------------------------------------------------------------------------------- failed commits


async def test_failed_commit_gives_everything_back(setup: Setup) -> None:
    """Nothing was stored: room, day, rate, cool-down, history and identity are free, and the same alert succeeds later."""
    course = StrategyHistory(start=Decimal(1), steps=())
    await setup.take(decide=admitting(strategy_histories=((BTC, StrategyHistory(start=None, steps=())),)))
    before = setup.held()
    alert = setup.alert(payload={"comment": "x" * 200_000})
    decide = admitting(intent(), exit_intent(), strategy_histories=((BTC, course), ("PERP_ETH_USDC", course)))
    await setup.database.write(shrink)
    with pytest.raises(StoreUnavailable):
        await setup.take(alert, decide)
    assert setup.held() == before
    assert await setup.count("alerts") == 1
    assert (await setup.take(replace(alert, id=new_alert().id), decide)).kind == "admitted"


async def test_copies_of_an_alert_that_could_not_be_stored_are_no_duplicates(setup: Setup) -> None:
    """A resend that arrived while the first was on its way to the disk gets a 503 as well, and may be sent again."""
    alert = setup.alert(payload={"comment": "x" * 200_000})
    await setup.database.write(shrink)
    outcomes = await asyncio.gather(
        *(setup.take(replace(alert, id=new_alert().id)) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert setup.book.orders == {}
    assert (await setup.take(alert)).kind == "admitted"


async def test_failed_commit_returns_the_permit_and_sends_nothing(setup: Setup) -> None:
    """An order that was claimed with its alert leaves only once its row is on disk."""
    setup.submitter.is_dispatching = True
    await setup.database.write(shrink)
    for _ in range(20):  # more than a window of the exchange's limit holds, if none came back
        with pytest.raises(StoreUnavailable):
            await setup.take(setup.alert(payload={"comment": "x" * 200_000}))
        await setup.database.write(shrink)
    assert setup.book.orders == {}
    assert await setup.bridge.journal("order_accepted") == []
    await setup.database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
    sent = await setup.take()
    assert sent.orders[0].status is S.SUBMITTING
    await until(lambda: setup.submitter.in_flight_count == 0)
    assert len(await setup.bridge.journal("order_accepted")) == 1


async def test_closed_store_refuses_before_anything_is_reserved(setup: Setup) -> None:
    """A daemon that stops answers 503."""
    before = setup.held()
    await setup.database.close()
    with pytest.raises(StoreUnavailable):
        await setup.take()
    assert setup.held() == before


# -------------------------------------------------------------------------------------------------------------- rate limits


async def test_rate_limited_alert_claims_and_counts_nothing(bridge: Bridge, database: Database) -> None:
    """The same alert may be sent again later and then succeeds; repeating it does not prolong the wait."""
    setup = Setup(bridge, database, RateLimits(per_minute=1, per_hour=100, per_day=100), NO_RATES)
    await setup.take()
    alert = setup.alert(1)
    for _ in range(5):
        refused = await setup.take(replace(alert, id=new_alert().id))
        assert (refused.kind, refused.retry_after_s, refused.orders) == ("rate_limited", 59, ())
        stored = await setup.database.read(alerts.get, refused.alert.id)
        assert (stored.status, stored.code, stored.identity) == ("refused", "rate_limited", None)
        assert "than the webhook allows" in (stored.error or "")
    again = replace(alert, id=new_alert().id, received_at=setup.now + timedelta(seconds=60))
    assert (await setup.take(again)).kind == "admitted"
    assert await setup.count("alerts") == 7


async def test_webhooks_have_separate_limits_and_denied_alerts_count(bridge: Bridge, database: Database) -> None:
    """One noisy strategy does not block another; denied alerts are noise, too, but stale ones are not; exits count apart."""
    setup = Setup(bridge, database, RateLimits(per_minute=1, per_hour=100, per_day=100), NO_RATES)

    def stale(usage: Usage) -> Decision:
        return Decision(status="refused", code="timestamp_stale", is_counted=False)

    def deny(usage: Usage) -> Decision:
        return Decision(status="denied", code="daily_limit")

    kinds = [(await setup.take(decide=decide)).kind for decide in (stale, deny, deny, exits(), exits())]
    assert kinds == ["refused", "denied", "rate_limited", "admitted", "admitted"]
    assert (await setup.take(setup.alert(webhook_id="other"))).kind == "admitted"


async def test_all_webhooks_share_the_limit_of_the_account(bridge: Bridge, database: Database) -> None:
    """For entries only: exits neither count nor wait. A duplicate is still recognised."""
    setup = Setup(bridge, database, NO_RATES, RateLimits(per_minute=2, per_hour=0, per_day=0))
    first = setup.alert(webhook_id="one")
    kinds = [(await setup.take(first)).kind, (await setup.take(setup.alert(webhook_id="two"))).kind]
    third = await setup.take(setup.alert(webhook_id="three"))
    kinds += [third.kind, (await setup.take(decide=exits())).kind]
    kinds.append((await setup.take(replace(first, id=new_alert().id))).kind)
    assert kinds == ["admitted", "admitted", "rate_limited", "admitted", "duplicate"]
    assert "all webhooks together" in (third.alert.error or "")


# ------------------------------------------------------------------------------------------------------------------ preview


async def test_preview_gives_the_same_result_and_stores_nothing(bridge: Bridge, database: Database) -> None:
    """A dry run is judged and limited as the alert itself would be, and has not happened to limits or strategy."""
    setup = Setup(bridge, database, RateLimits(per_minute=2, per_hour=0, per_day=0), NO_RATES)
    decide = admitting(strategy_histories=((BTC, StrategyHistory(start=None, steps=())),))
    for _ in range(2):
        alert, before = setup.alert(), setup.held()
        seen = await setup.admissions.preview(alert, decide, setup.webhook)
        assert (seen.kind, setup.held()) == ("admitted", before)
        assert seen.decision is not None
        await setup.take(alert)
    again = await setup.admissions.preview(replace(alert, fingerprint="x"), decide, setup.webhook)
    assert (again.kind, again.first_id) == ("conflict", alert.id)
    excess = await setup.admissions.preview(setup.alert(), limited(decide), setup.webhook)
    assert (excess.kind, excess.retry_after_s) == ("rate_limited", 60)
    assert await setup.count("alerts") == 2


# -------------------------------------------------------------------------------------------------------- sending at once


async def test_order_that_nothing_holds_back_is_claimed_with_its_alert(setup: Setup) -> None:
    """One flush before the order is sent: `submitting`, its attempt and the exact request are in the alert's row."""
    setup.submitter.is_dispatching = True
    statements: list[str] = []
    await setup.database.write(lambda connection: connection.set_trace_callback(statements.append))
    statements.clear()
    admission = await setup.take(decide=admitting(intent(), exit_intent(after_leg=0)))
    assert statements.count("COMMIT") == 1
    assert [order.status for order in admission.orders] == [S.SUBMITTING, S.QUEUED]
    assert admission.alert.status == "submitting"
    assert admission.orders[0].submitted_at == setup.book.current(admission.orders[0]).submitted_at
    details = await setup.database.read(orders.details, admission.orders[0].client_order_id)
    assert details.request is not None
    assert admission.orders[0].client_order_id in details.request
    await until(lambda: setup.submitter.in_flight_count == 0)
    (accepted,) = await setup.bridge.journal("order_accepted")
    assert accepted["client_order_id"] == admission.orders[0].client_order_id


@pytest.mark.parametrize("reason", ["behind another", "expired", "after a leg", "circuit breaker", "not dispatching"])
async def test_order_that_has_to_wait_is_queued(setup: Setup, reason: str) -> None:
    """Too old to claim must not mean too old to store: that would be a 503, and the alert would be sent again and again."""
    setup.submitter.is_dispatching = reason != "not dispatching"
    alert, wanted = setup.alert(), intent()
    if reason == "behind another":
        setup.submitter.is_dispatching = False
        await setup.take()
        setup.submitter.is_dispatching = True
    elif reason == "expired":
        alert = setup.alert(-60)
    elif reason == "after a leg":
        wanted = intent(after_leg=0)
    elif reason == "circuit breaker":
        for _ in range(5):
            setup.submitter.breaker.record(was_unknown=True)
    admission = await setup.take(alert, admitting(wanted))
    assert [order.status for order in admission.orders] == [S.QUEUED]
    assert setup.woken[-1] == "queue"
    assert await setup.bridge.journal("order_accepted") == []


async def test_order_is_looked_at_again_if_something_overtook_its_decision(setup: Setup) -> None:
    """A halt between decision and flush: the claimed order is denied and never sent, and its permit is free."""
    setup.submitter.is_dispatching = True
    begun = setup.admissions.begin(
        setup.alert(), admitting(), setup.webhook, expires_at=setup.now + timedelta(seconds=60)
    )
    assert begun is not None
    assert begun.orders[0].status is S.SUBMITTING
    setup.book.set_state("hook", TradingState.HALTED, reason="r", by="b", now=setup.now)
    assert await setup.admissions.finish(begun)
    order = setup.book.current(begun.orders[0])
    assert (order.status, order.code) == (S.DENIED, "trading_halted")
    assert setup.submitter.in_flight_count == 0
    assert await setup.bridge.journal("order_accepted") == []


async def test_exit_whose_own_part_shrank_is_queued_again(setup: Setup) -> None:
    """The webhook's stop fires between decision and flush: the claimed exit is not sent at its size, the queue sizes it."""
    await setup.bridge.set_positions(BTC="0.05")
    setup.submitter.is_dispatching = True
    setup.book.holdings.record(BTC, "hook", Decimal("0.01"))
    setup.book.holdings.record(BTC, "other", Decimal("0.04"))
    wanted = exit_intent(quantity=Decimal("0.04"), close_fraction=Decimal(1), part=PositionPart.OWN)
    begun = setup.admissions.begin(
        setup.alert(), admitting(wanted, is_exit=True), setup.webhook, expires_at=setup.now + timedelta(seconds=60)
    )
    assert begun is not None
    assert begun.orders[0].status is S.SUBMITTING
    setup.book.version += 1  # as by the fill
    assert await setup.admissions.finish(begun)
    order = setup.book.current(begun.orders[0])
    assert (order.status, order.attempt) == (S.QUEUED, 0)
    assert setup.submitter.in_flight_count == 0
    decided = setup.submitter.recheck(order, now=setup.now)
    assert decided.intent is not None
    assert decided.intent.quantity == Decimal("0.01")


# ---------------------------------------------------------------------------------------------------------------------- drift


async def test_drift_begins_and_ends_with_an_alert_each(setup: Setup) -> None:
    """Ten alerts that find the same difference append one event; alerts without any cost no write."""
    warning = ("drift: the strategy held 1 BTC before this alert, the account 0; only its own step counts",)
    for warnings in ((), warning, warning, warning, (), ()):
        await setup.take(decide=admitting(symbol=BTC, warnings=warnings))
    await setup.database.flush()
    found = await setup.database.read(journal.latest, kinds=["position_drift", "position_in_step"])
    assert [event.kind for event in found] == ["position_drift", "position_in_step"]
    assert await setup.database.read(conditions.drifting) == ()


# -------------------------------------------------------------------------------------------------------- under concurrency


async def test_200_alerts_at_once_with_room_for_10_admit_exactly_10(setup: Setup) -> None:
    """Every decision sees the reservations of all those before it, so a limit holds at every instant; afterwards everything agrees."""
    limit = Decimal(6500)

    def decide(usage: Usage) -> Decision:
        order: OrderIntent = intent()
        if usage.account_traded_today + order.notional > limit:
            return Decision(status="denied", code="daily_limit")
        waiting = usage.commitments.get(order.symbol, UNCOMMITTED).open.entry_buys
        assert waiting * order.reference_price == usage.account_traded_today
        return Decision(status="admitted", intents=(order,))

    outcomes = await asyncio.gather(*(setup.take(decide=decide) for _ in range(200)))
    kinds = [outcome.kind for outcome in outcomes]
    assert (kinds.count("admitted"), kinds.count("denied")) == (10, 190)
    assert [order.sequence for outcome in outcomes for order in outcome.orders] == list(range(1, 11))
    assert setup.book.usage("hook", now=setup.now).account_traded_today == limit

    def look(connection: sqlite3.Connection) -> tuple[object, ...]:
        return journal.verify(connection), table_rows(connection), loaded(connection)

    def loaded(connection: sqlite3.Connection) -> dict[str, Any]:
        return loaded_contents(connection, account_rates=NO_RATES, now=setup.now)

    broken, rows, contents = await setup.database.read(look)
    assert broken is None
    assert isinstance(contents, dict)
    assert contents["commitments"] == setup.book.commitments
    assert contents["orders"] == setup.book.orders
    with setup.database.transaction() as connection:
        projector.rebuild(connection)
        assert isinstance(rows, dict)
        assert_same(table_rows(connection), rows)


async def test_200_at_once_from_many_webhooks_admit_exactly_the_limit(bridge: Bridge, database: Database) -> None:
    """Alerts are counted in the turn that decides them: no two alerts both see the last room."""
    setup = Setup(bridge, database, NO_RATES, RateLimits(per_minute=17, per_hour=0, per_day=0))
    outcomes = await asyncio.gather(
        *(setup.take(setup.alert(webhook_id=f"hook-{number % 20}")) for number in range(200))
    )
    kinds = [outcome.kind for outcome in outcomes]
    assert (kinds.count("admitted"), kinds.count("rate_limited")) == (17, 183)
