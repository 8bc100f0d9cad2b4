"""The way of an alert, in two stories: receive() inside the request, send() behind the durable queue.

receive() touches no network: read, authenticate, draft (drafting.py), then one transaction that finds duplicates, decides (decision.py),
counts and stores. send() commits "submitting" before the request leaves, sends exactly once, and has the answer recorded (recording.py).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final, Protocol

from kekbridge.alerts import message as payload
from kekbridge.alerts.message import Message
from kekbridge.config import Settings
from kekbridge.errors import RequestRefused, StoreUnavailable
from kekbridge.exchange.base import Accepted, Exchange, Retryable, SubmitResult, Unknown
from kekbridge.exchange.orderly import requests
from kekbridge.exchange.orderly.rate_limiter import WindowPermit
from kekbridge.execution.recorder import Recorder
from kekbridge.execution.updates import OrderUpdates
from kekbridge.failpoints import hit
from kekbridge.ingress import dry_run, responses
from kekbridge.ingress.http import Sender, WebhookRequest, WebhookResponse
from kekbridge.ingress.receiver import Drafter, Reorder
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Order, OrderStatus, Usage, Webhook, client_order_id_of
from kekbridge.model.admission import Decision, NewAlert, Recheck
from kekbridge.planning import decide as decision
from kekbridge.planning.decide import AccountPolicy
from kekbridge.store import claims, order_lifecycle
from kekbridge.store.admissions import Admission
from kekbridge.store.claims import ClaimedOrders
from kekbridge.store.database import Database
from kekbridge.store.order_queue import NOT_TO_BE_SENT
from kekbridge.store.reservations import read_usage


class Dispatcher(Protocol):
    """The worker, as the request sees it."""

    @property
    def is_trading(self) -> bool:
        """Orders may leave: the bridge's view has equalled the exchange's, and nobody stops."""

    @property
    def passable(self) -> frozenset[str]:
        """Client order ids under way that another order may stand behind. Any thread."""

    def enter(self, order: Order) -> bool:
        """Put an order that is being claimed under way, if it may leave at once or in line. Any thread."""

    def leave(self, order: Order) -> None:
        """It does not leave after all. Any thread."""

    def take(self, admitted: Admission) -> None:
        """Orders or cancels were stored: send those already claimed, look at the queue for the others."""


@dataclass(frozen=True, slots=True)
class SendPermit:
    """What an order has when it may leave: its place in the rate window (None: it is only to be finished), or why it cannot be sent."""

    ticket: WindowPermit | None = None
    trouble: SubmitResult | None = None


@dataclass(frozen=True, slots=True)
class _Granted:
    """An order's permission to leave at once, given in the transaction that claims it."""

    order: Order
    ticket: WindowPermit


class SendPermits:
    """The turns of one daemon's orders."""

    def __init__(self, exchange: Exchange, departures: Dispatcher) -> None:
        self._exchange = exchange
        self._departures = departures
        self._leaves: dict[str, _Granted] = {}  # of orders claimed to leave at once

    def may_leave_now(self, order: Order) -> bool:
        """Asked on the writer thread: with a free lane and a place in the rate window an order is claimed.

        One that has to change its leverage first does not leave at once: only what does may be claimed.
        """
        if self._lacks_leverage(order) or not self._departures.enter(order):
            return False
        ticket = self._exchange.try_acquire_permit(order)
        if ticket is None:
            self._departures.leave(order)
            return False
        self._leaves[order.client_order_id] = _Granted(order, ticket)
        return True

    def take_back(self, name: str) -> None:
        """An order does not leave after all: its lane and its place in the rate window are free again."""
        leave = self._leaves.pop(name, None)
        if leave is not None:
            leave.ticket.release()
            self._departures.leave(leave.order)

    async def wait(self, order: Order, may_be_claimed: Callable[[Order], Awaitable[bool]]) -> SendPermit:
        """Its leverage, then its place in the rate window, or what it was given with its claim.

        `may_be_claimed` is asked before a leverage is changed: what may not be sent changes nothing.
        """
        leave = self._leaves.pop(order.client_order_id, None)
        if leave is not None:
            return SendPermit(leave.ticket)
        if order.code in NOT_TO_BE_SENT:
            return SendPermit()
        trouble = await self._set_leverage(order, may_be_claimed)
        return (
            SendPermit(trouble=trouble)
            if trouble is not None
            else SendPermit(await self._exchange.acquire_permit(order))
        )

    def _lacks_leverage(self, order: Order) -> bool:
        """True for an entry whose symbol is not at the leverage that it asks for. Any thread."""
        wanted = order.intent.leverage
        return wanted is not None and order.is_entry and self._exchange.leverage_of(order.intent.symbol) != wanted

    async def _set_leverage(
        self, order: Order, may_be_claimed: Callable[[Order], Awaitable[bool]]
    ) -> SubmitResult | None:
        """Bring the symbol to the leverage that the entry asks for; None when it is there, else why nothing is sent.

        Only a few changes a minute are allowed: it may take long, and what may not be sent by now (its claim will say why) changes nothing.
        """
        wanted = order.intent.leverage
        if wanted is None or not self._lacks_leverage(order):
            return None
        if not await may_be_claimed(order):
            return None
        answer = await self._exchange.set_leverage(order.intent.symbol, wanted)
        match answer:
            case Accepted():
                return None
            case Unknown(reason=reason):
                # The order itself was not sent, and setting a leverage twice does no harm: try again.
                return Retryable("leverage_not_set", f"leverage {wanted} could not be confirmed: {reason}")
            case _:
                return replace(answer, message=f"leverage {wanted} could not be set: {answer.message}")


log = get_logger("kekbridge.execution.submitter")

# Turns of the loop: in the first an order is signed and given to its connection, which writes it in the second (before Python 3.12).
_TURNS_TO_LEAVE: Final = 2


class Authentication(Protocol):
    """Proves who sent a message; raises RequestRefused."""

    def authenticate(self, delivery: WebhookRequest, message: Message) -> Sender: ...


@dataclass(frozen=True, slots=True)
class SentOrder:
    """What the exchange answered, and the order as it stands once that is written down. `recorded` raises StoreUnavailable."""

    result: SubmitResult
    recorded: asyncio.Task[Order]


class Pipeline:
    """The two stories, with everything they need handed in by daemon.py."""

    def __init__(
        self,
        *,
        door: Authentication,
        database: Database,
        exchange: Exchange,
        outcomes: OrderUpdates,
        settings: Settings,
        terms: AccountPolicy,
        clock: Callable[[], datetime],
        departures: Dispatcher,
        tell_price: Callable[[str, Decimal], bool],
    ) -> None:
        self._door = door
        self._database = database
        self._exchange = exchange
        self._outcomes = outcomes
        self._settings = settings
        self._terms = terms
        self._clock = clock
        self._departures = departures
        self._drafter = Drafter(settings=settings.auth, terms=terms, clock=clock, tell_price=tell_price)
        self._recorder = Recorder(database=database, outcomes=outcomes, settings=settings.queue, clock=clock)
        self._reorder = Reorder()
        self._turns = SendPermits(exchange, departures)

    @property
    def being_sent(self) -> frozenset[str]:
        """Client order ids of orders claimed to be sent whose answer is not written down yet."""
        return frozenset(self._recorder.being_sent)

    async def drain(self) -> None:
        """Wait until every answer, given or received, is written down."""
        await self._recorder.drain()

    # ------------------------------------------------------------------------------------------------------ in the request

    async def receive(self, delivery: WebhookRequest) -> WebhookResponse:
        """Take one POST to its stored verdict and answer it.

        Raises RequestRefused for requests nobody vouches for, StoreUnavailable when nothing was stored.
        """
        started = time.perf_counter()
        message = payload.read_message(delivery.body)
        caller = dry_run.with_requested_limits(self._door.authenticate(delivery, message))
        if caller.webhook.settings.follow == "position" and not caller.is_dry_run:
            await self._wait_for_turn(message, caller.webhook)
        await self._outcomes.unrecorded_fills.wait()
        snapshot = self._known_account()
        draft, decide = self._drafter.prepare(delivery, message, caller, snapshot)
        if caller.is_dry_run:
            rates = self._settings.risk.rates
            return await dry_run.dry_run(self._database, draft, decide, caller.webhook, rates, now=draft.received_at)
        hit("W0")
        admitted = await self._admit(draft, decide, caller.webhook)
        hit("W1")
        stages = {"stored": _milliseconds_since(started)}
        self._tell_stored(admitted, stages["stored"])
        self._departures.take(admitted)
        for _ in range(_TURNS_TO_LEAVE):
            await asyncio.sleep(0)  # an order that may leave goes first: its price moves, the answer's does not
        self._reorder.moved(admitted.alert.webhook_id or "")
        answer = await self._answer(admitted, delivery)
        stages["answered"] = _milliseconds_since(started)
        self._recorder.note_answer(admitted, answer, stages)
        self._log_alert(admitted, answer, caller, stages)
        return answer

    def _tell_stored(self, admitted: Admission, milliseconds: float) -> None:
        """For the histograms; before the worker can tell of the order."""
        if admitted.kind not in ("duplicate", "conflict"):
            first = next((order.client_order_id for order in admitted.orders if order.leg == 0), None)
            alert = admitted.alert
            self._outcomes.latency.on_stored(alert.received_at, alert.fired_at, milliseconds, first)

    def _known_account(self) -> AccountSnapshot:
        snapshot = self._exchange.snapshot
        if snapshot is None:
            # Nothing was stored: TradingView sends again in 5 s, and by then the exchange may have answered.
            raise StoreUnavailable("not_ready", "the exchange has not been reached since the start; send again")
        return snapshot

    async def _wait_for_turn(self, message: Message, webhook: Webhook) -> None:
        """Let an alert wait a moment for the one it may have overtaken; whether it fits then is for its decision to say."""
        try:
            alert = payload.interpret(message, webhook.settings)
        except RequestRefused:
            return

        async def is_out_of_turn() -> bool:
            usage = await self._database.read(read_usage, webhook.id, now=self._clock(), cooldown_s=0)
            return decision.is_out_of_order(usage, alert=alert, webhook=webhook, snapshot=self._known_account())

        await self._reorder.wait_for_turn(webhook.id, is_out_of_turn, reorder_ms=webhook.settings.reorder_ms)

    async def _admit(self, draft: NewAlert, decide: Callable[[Usage], Decision], webhook: Webhook) -> Admission:
        max_age_s = max(self._settings.queue.max_age_s, webhook.settings.max_timestamp_age_s or 0)
        fired_at = min(draft.fired_at or draft.received_at, draft.received_at)
        self._outcomes.close_acceptances()
        # Decided by a view that has not been compared with the exchange's: queued, for the worker's second look.
        may_claim = self._turns.may_leave_now if self._departures.is_trading else _nobody_leaves
        try:
            return await self._database.write(
                claims.admit_and_claim,
                draft,
                decide,
                rates=webhook.settings.rates,
                account_rates=self._settings.risk.rates,
                now=draft.received_at,
                expires_at=fired_at + timedelta(seconds=max_age_s),
                cooldown_s=webhook.settings.limits.cooldown_s or 0,
                clock=self._clock,
                passable=lambda: self._departures.passable,
                may_claim=may_claim,
                request_text=request_text,
            )
        except Exception:
            self._turns.take_back(client_order_id_of(draft.id, 0))  # the claim was undone with everything else
            raise

    async def _answer(self, admitted: Admission, delivery: WebhookRequest) -> WebhookResponse:
        """The answer to a stored alert; waits a moment for the outcome of its orders."""
        known = responses.stored_response(admitted)
        if known is not None:
            return known
        alert = admitted.alert
        spent = (self._clock() - delivery.received_at).total_seconds()
        with self._outcomes.wait_for(alert.id, admitted.orders) as watch:
            settled = await watch.wait(self._settings.server.respond_within_s - max(spent, 0))
        return responses.order_response(
            settled,
            alert_id=alert.alert_id or alert.id,
            now=self._clock(),
            code=alert.code,
            error=alert.error,
            is_duplicate=admitted.kind == "duplicate",
        )

    def _log_alert(
        self, admitted: Admission, answer: WebhookResponse, caller: Sender, stages: Mapping[str, float]
    ) -> None:
        log.info(
            "alert",
            alert_id=admitted.alert.id,
            webhook=caller.webhook.name,
            kind=admitted.kind,
            http_status=answer.status,
            code=admitted.alert.code,
            orders=[order.client_order_id for order in admitted.orders],
            **{f"{name}_ms": round(value, 1) for name, value in stages.items()},
        )

    # ------------------------------------------------------------------------------------------------- behind the queue

    async def claim_next(self, *, entries_allowed: bool) -> ClaimedOrders:
        """Claim, with one flush, what stands in the queue and may leave this instant: `send` it at once, in the turn of `wait_turn`."""
        granted: list[str] = []

        def may_claim(order: Order) -> bool:
            if not self._turns.may_leave_now(order):
                return False
            granted.append(order.client_order_id)
            return True

        await self._outcomes.unrecorded_fills.wait()
        now = self._clock()
        # Taken in the moment in which the job is queued: what is stored before it runs is in the picture, what comes later is not.
        look = partial(decision.recheck, snapshot=self._known_account(), terms=self._terms, now=now)
        self._outcomes.close_acceptances()
        try:
            claimed = await self._database.write(
                claims.claim_heads,
                look,
                passable=lambda: self._departures.passable,
                entries_allowed=entries_allowed,
                may_claim=may_claim,
                request_text=request_text,
                now=now,
            )
        except Exception:
            for name in granted:
                self._turns.take_back(name)  # the claims were undone
            raise
        for order in claimed.finished:
            self._turns.take_back(order.client_order_id)
            self._tell_unsent(order)
        return claimed

    async def give_back(self, order: Order) -> None:
        """A claimed order that stood in line does not leave after all: back to the queue, in its old place. Raises StoreUnavailable."""
        self._turns.take_back(order.client_order_id)
        returned = await self._database.write(order_lifecycle.requeue_unsent, order.client_order_id, now=self._clock())
        self._outcomes.publish(returned)
        log.info("order_stepped_back", client_order_id=order.client_order_id)

    async def submit(self, order: Order, within_s: float | None = None) -> SubmitResult | None:
        """Take its turn, `send`, and wait until the answer is written down.

        Without a turn within `within_s` seconds (None: however long it takes) nothing is sent, and that is written down.
        """
        try:
            async with asyncio.timeout(within_s):
                turn = await self.wait_turn(order)
        except TimeoutError:
            late = Retryable(
                "exchange_busy", f"no place in the exchange's rate window came free within {within_s:.1f} s"
            )
            await asyncio.shield(self._recorder.record(order, late))
            return late
        sent = await self.send(order, turn)
        if sent is None:
            return None
        await asyncio.shield(sent.recorded)
        return sent.result

    async def wait_turn(self, order: Order) -> SendPermit:
        """Its leverage, and its place in the exchange's rate window, for `send`.

        Both come before the claim: whoever is stopped or killed while waiting for them finds the order queued, not perhaps sent.
        """
        return await self._turns.wait(order, self._may_be_claimed)

    async def send(self, order: Order, turn: SendPermit) -> SentOrder | None:
        """Check a queued order once more, commit "submitting", send it once in its turn and begin to record the answer.

        Returns None when it was not sent (expired, denied, or nothing left to close). Unknown is for recovery.py to resolve.
        """
        if turn.trouble is not None:
            return SentOrder(turn.trouble, self._recorder.record(order, turn.trouble, self._claiming(order)))
        try:
            return await self._send(order, turn.ticket)
        finally:
            if turn.ticket is not None:
                turn.ticket.release()  # no effect once it was used

    async def _send(self, order: Order, ticket: WindowPermit | None) -> SentOrder | None:
        claimed = await self._claim(order)
        if claimed is None:
            return None
        being_sent = self._recorder.being_sent
        being_sent.add(order.client_order_id)
        try:
            hit("W4")
            submission = await self._exchange.submit(claimed, ticket)
            hit("W6")
        except BaseException:
            being_sent.discard(order.client_order_id)
            raise
        return SentOrder(submission, self._recorder.record(claimed, submission))

    async def _claim(self, order: Order) -> Order | None:
        """The order as it will be sent, committed as submitting; None when it must not be sent any more."""
        if order.status is OrderStatus.SUBMITTING:
            return order  # claimed a moment ago, to leave at once
        hit("W2" if order.intent.after_leg is None else "W8")
        await self._outcomes.unrecorded_fills.wait()
        claimed = await self._database.write(self._claiming(order))
        if not claimed.status.is_final:
            return claimed
        self._tell_unsent(claimed)
        return None

    def _claiming(self, order: Order) -> Callable[[sqlite3.Connection], Order]:
        """The write that claims an order, or finishes it, by what is known now."""
        now = self._clock()
        look = self._second_look(order, now)
        self._outcomes.close_acceptances()
        return partial(claims.claim_if_allowed, order=order, recheck=look, request_text=request_text, now=now)

    async def _may_be_claimed(self, order: Order) -> bool:
        now = self._clock()
        return await self._database.read(claims.may_be_claimed, order, self._second_look(order, now), now=now)

    def _second_look(self, order: Order, now: datetime) -> Callable[[Usage, Webhook | None], Recheck]:
        return partial(decision.recheck, order=order, snapshot=self._known_account(), terms=self._terms, now=now)

    def _tell_unsent(self, order: Order) -> None:
        self._outcomes.publish(order)
        log.info("order_not_sent", client_order_id=order.client_order_id, status=order.status, code=order.code)


def _nobody_leaves(_order: Order) -> bool:
    return False


def request_text(order: Order) -> str | None:
    """The exact body that will be sent for an order; None when it cannot be expressed in one request, which `place` will refuse."""
    try:
        return requests.request_text(order)
    except RequestRefused:
        return None


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
