"""The way of an alert, in two stories: receive() inside the request, submit() behind the durable queue.

receive() touches no network: read, authenticate, interpret, then one transaction that finds duplicates, decides, counts and stores.
submit() commits "submitting" before the request leaves, sends exactly once, and records one of four answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Protocol

import structlog
from ulid import ULID

from kekbridge import answers, decision, rehearsal
from kekbridge.alerts import payload
from kekbridge.alerts.payload import Message
from kekbridge.alerts.redaction import storable_text
from kekbridge.alerts.signal import Alert
from kekbridge.alerts.translate import resize
from kekbridge.config import Settings
from kekbridge.crashpoints import reach
from kekbridge.decision import Terms
from kekbridge.delivery import Answer, Caller, Delivery
from kekbridge.errors import RateLimited, RequestRefused, StoreUnavailable
from kekbridge.exchange import bodies
from kekbridge.exchange.pacing import Ticket
from kekbridge.exchange.protocol import Accepted, Deferred, Exchange, Refused, Submission, Unknown
from kekbridge.model import AccountSnapshot, Mark, Order, OrderStatus, Purpose, Usage, Webhook, client_order_id_of
from kekbridge.outcomes import Outcomes
from kekbridge.reorder import Reorder
from kekbridge.risk import rules
from kekbridge.store import alerts, claiming, orders, sweeping
from kekbridge.store.admission import Admission, AlertDraft, Decision
from kekbridge.store.claiming import Recheck
from kekbridge.store.database import Database
from kekbridge.store.order_queue import NOT_TO_BE_SENT
from kekbridge.store.usage import read_usage

log = structlog.get_logger("kekbridge.pipeline")

# An exit does not sleep through the exchange's return; asking this often is far below every rate limit.
_LONGEST_EXIT_PAUSE_S = 4.0
BODY_WINDOW_S = 60  # TradingView's resends come within 25 s; without a timestamp a longer memory would eat real alerts


class Door(Protocol):
    """Proves who sent a message; raises RequestRefused."""

    def authenticate(self, delivery: Delivery, message: Message) -> Caller: ...


class Departures(Protocol):
    """The worker, as the request sees it."""

    @property
    def under_way(self) -> frozenset[str]:
        """Names of the orders being sent. Any thread."""

    def enter(self, order: Order) -> bool:
        """Put an order under way, if it may leave at once. Any thread."""

    def leave(self, order: Order) -> None:
        """It does not leave after all. Any thread."""

    def take(self, admitted: Admission) -> None:
        """Orders or cancels were stored: send those already claimed, look at the queue for the others."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the exchange answered, and the order as it stands once that is written down. `recorded` raises StoreUnavailable."""

    submission: Submission
    recorded: asyncio.Task[Order]


@dataclass(frozen=True, slots=True)
class _Leave:
    """An order's permission to leave at once, given in the transaction that admits it."""

    order: Order
    turn: Ticket


class Pipeline:
    """The two stories, with everything they need handed in by daemon.py."""

    def __init__(
        self,
        *,
        door: Door,
        database: Database,
        exchange: Exchange,
        outcomes: Outcomes,
        settings: Settings,
        terms: Terms,
        clock: Callable[[], datetime],
        departures: Departures,
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
        self._tell_price = tell_price  # True when the venue takes the price for its mark
        self.being_sent: set[str] = set()  # claimed here, no answer recorded yet
        self._reorder = Reorder()
        self._leaves: dict[str, _Leave] = {}  # of orders claimed with their admission
        self._notes: set[asyncio.Task[Any]] = set()  # what is being written down after the fact

    # ------------------------------------------------------------------------------------------------------ in the request

    async def receive(self, delivery: Delivery) -> Answer:
        """Take one POST to its stored verdict and answer it.

        Raises RequestRefused for requests nobody vouches for, StoreUnavailable when nothing was stored.
        """
        started = time.perf_counter()
        message = payload.read_message(delivery.body)
        caller = rehearsal.as_asked(self._door.authenticate(delivery, message))
        if caller.webhook.settings.follow == "position" and not caller.is_dry_run:
            await self._wait_for_turn(message, caller.webhook)
        snapshot = self._known_account()
        draft, decide = self._prepare(delivery, message, caller, snapshot)
        if caller.is_dry_run:
            rates = self._settings.risk.rates
            return await rehearsal.rehearse(self._database, draft, decide, caller.webhook, rates, now=draft.received_at)
        reach("W0")
        admitted = await self._admit(draft, decide, caller.webhook)
        reach("W1")
        stages = {"stored": _milliseconds_since(started)}
        self._tell_stored(admitted, stages["stored"])
        self._departures.take(admitted)
        await asyncio.sleep(0)  # an order that may leave goes first: its price moves, the answer's does not
        self._reorder.moved(admitted.alert.webhook_id or "")
        answer = await self._answer(admitted, delivery)
        stages["answered"] = _milliseconds_since(started)
        self._note_answer(admitted, answer, stages)
        self._log_alert(admitted, answer, caller, stages)
        return answer

    def _tell_stored(self, admitted: Admission, milliseconds: float) -> None:
        """For the histograms; before the worker can tell of the order."""
        if admitted.kind not in ("duplicate", "conflict"):
            first = next((order.client_order_id for order in admitted.orders if order.leg == 0), None)
            alert = admitted.alert
            self._outcomes.stages.stored(alert.received_at, alert.fired_at, milliseconds, first)

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
            return decision.is_out_of_turn(usage, alert=alert, webhook=webhook, snapshot=self._known_account())

        await self._reorder.wait_for_turn(webhook.id, is_out_of_turn, reorder_ms=webhook.settings.reorder_ms)

    def _prepare(
        self, delivery: Delivery, message: Message, caller: Caller, snapshot: AccountSnapshot
    ) -> tuple[AlertDraft, Callable[[Usage], Decision]]:
        """The row to be stored and the pure function that decides it, inside the transaction."""
        identifier = str(ULID.from_datetime(delivery.received_at))
        fired_at: datetime | None = None
        alert: Alert | None = None
        try:
            if caller.dry_run is None or not caller.dry_run.is_replay:
                fired_at = self._check_age(message, caller.webhook, delivery.received_at)
            alert = payload.interpret(message, caller.webhook.settings)
            if not caller.is_dry_run:
                snapshot = self._with_signal_prices(alert, caller.webhook, snapshot)
            decide: Callable[[Usage], Decision] = partial(
                decision.decide,
                alert_id=identifier,
                alert=alert,
                webhook=caller.webhook,
                snapshot=snapshot,
                terms=self._terms,
                fired_at=fired_at,
            )
        except RequestRefused as refusal:
            refused = decision.refuse(refusal, alert)
            decide = lambda usage: refused  # noqa: E731 - the same shape as the partial above
        step = alert.steps[0] if alert else None
        return (
            AlertDraft(
                id=identifier,
                webhook_id=caller.webhook.id,
                webhook_name=caller.webhook.name,
                alert_id=message.sender_id,
                identity=_identity(message, fired_at),
                window_s=None if message.sender_id or fired_at else BODY_WINDOW_S,
                fingerprint=message.fingerprint(),
                received_at=delivery.received_at,
                fired_at=fired_at,
                remote=delivery.remote,
                proof=caller.proof,
                payload=message.redacted(),
                action=step.action.value if step else None,
                symbol=storable_text(step.symbol) if step and step.symbol else None,
            ),
            decide,
        )

    def _with_signal_prices(self, alert: Alert, webhook: Webhook, snapshot: AccountSnapshot) -> AccountSnapshot:
        """The account as it looks when the venue believes the alert's own prices, which only the paper exchange may do."""
        told = decision.signal_prices(alert, webhook=webhook, snapshot=snapshot)
        believed = {
            symbol: Mark(price, self._clock()) for symbol, price in told.items() if self._tell_price(symbol, price)
        }
        return replace(snapshot, marks={**snapshot.marks, **believed}) if believed else snapshot

    def _check_age(self, message: Message, webhook: Webhook, now: datetime) -> datetime | None:
        fired_at = payload.fired_at(message, webhook.settings.profile)
        if fired_at is None:
            if webhook.settings.require_timestamp:
                raise payload.timestamp_missing()
            return None
        payload.check_age(
            fired_at,
            now=now,
            max_age_s=webhook.settings.max_timestamp_age_s or self._settings.auth.max_timestamp_age_s,
            max_future_s=self._settings.auth.max_future_s,
        )
        return fired_at

    async def _admit(self, draft: AlertDraft, decide: Callable[[Usage], Decision], webhook: Webhook) -> Admission:
        max_age_s = max(self._settings.queue.max_age_s, webhook.settings.max_timestamp_age_s or 0)
        fired_at = min(draft.fired_at or draft.received_at, draft.received_at)
        try:
            return await self._database.write(
                claiming.admit_and_claim,
                draft,
                decide,
                rates=webhook.settings.rates,
                account_rates=self._settings.risk.rates,
                now=draft.received_at,
                expires_at=fired_at + timedelta(seconds=max_age_s),
                cooldown_s=webhook.settings.limits.cooldown_s or 0,
                under_way=lambda: self._departures.under_way,
                may_claim=self._may_leave_now,
                request_text=request_text,
            )
        except Exception:
            leave = self._leaves.pop(client_order_id_of(draft.id, 0), None)
            if leave is not None:  # the claim was undone with everything else
                leave.turn.give_back()
                self._departures.leave(leave.order)
            raise

    def _may_leave_now(self, order: Order) -> bool:
        """Asked on the writer thread: with a free lane and a place in the rate window an order is claimed with its admission."""
        if not self._departures.enter(order):
            return False
        turn = self._exchange.take_turn(order)
        if turn is None:
            self._departures.leave(order)
            return False
        self._leaves[order.client_order_id] = _Leave(order, turn)
        return True

    async def _answer(self, admitted: Admission, delivery: Delivery) -> Answer:
        """The answer to a stored alert; waits a moment for the outcome of its orders."""
        alert = admitted.alert
        public_id = alert.alert_id or alert.id
        is_duplicate = admitted.kind == "duplicate"
        if admitted.kind == "rate_limited":
            limited = RateLimited("rate_limited", alert.error or "", retry_after_s=admitted.retry_after_s or 1)
            return answers.refusal_answer(limited, alert_id=public_id)
        if admitted.kind == "conflict":
            reused = RequestRefused("alert_id_reused", alert_id_reused_text(public_id))
            return answers.refusal_answer(reused, alert_id=public_id)
        if not admitted.orders and alert.status in ("queued", "done", "failed"):
            return answers.cancel_answer(
                alert_id=public_id, status=alert.status, error=alert.error, is_duplicate=is_duplicate
            )
        if not admitted.orders:
            return answers.refused_alert_answer(
                alert_id=public_id,
                status=alert.status,
                code=alert.code or alert.status,
                error=alert.error,
                field=alert.field,
                is_duplicate=is_duplicate,
            )
        spent = (self._clock() - delivery.received_at).total_seconds()
        with self._outcomes.watch(alert.id, admitted.orders) as watch:
            settled = await watch.wait(self._settings.server.respond_within_s - max(spent, 0))
        return answers.order_answer(
            settled,
            alert_id=public_id,
            now=self._clock(),
            code=alert.code,
            error=alert.error,
            is_duplicate=is_duplicate,
        )

    def _note_answer(self, admitted: Admission, answer: Answer, stages: Mapping[str, float]) -> None:
        """Write down what was answered. Not waited for: the sender must not pay for our diary."""
        if admitted.kind in ("duplicate", "conflict"):
            return

        self._outcomes.stages.answered(stages["answered"])

        async def note() -> None:
            try:
                await self._database.write_soon(
                    alerts.set_answer,
                    admitted.alert.id,
                    status=answer.status,
                    answer=answer.body,
                    stages=stages,
                    now=self._clock(),
                )
            except StoreUnavailable as error:
                log.warning("answer_not_noted", alert_id=admitted.alert.id, error=error.message)

        self._keep(asyncio.create_task(note()))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def drain(self) -> None:
        """Wait until every answer, given or received, is written down."""
        while self._notes:
            await asyncio.gather(*self._notes, return_exceptions=True)

    def _log_alert(self, admitted: Admission, answer: Answer, caller: Caller, stages: Mapping[str, float]) -> None:
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

    async def submit(self, order: Order) -> Submission | None:
        """`send`, and wait until the answer is written down."""
        sent = await self.send(order)
        if sent is None:
            return None
        await asyncio.shield(sent.recorded)
        return sent.submission

    async def send(self, order: Order) -> Sent | None:
        """Wait for its turn, check a queued order once more, commit "submitting", send it once and begin to record the answer.

        Returns None when it was not sent (expired, denied, or nothing left to close). Unknown is for recovery.py to resolve.
        """
        # The turn comes first: whoever is killed while waiting for it finds the order queued, not perhaps sent.
        leave = self._leaves.pop(order.client_order_id, None)
        turn = None if leave is None else leave.turn
        if turn is None and order.code not in NOT_TO_BE_SENT:
            turn = await self._exchange.wait_turn(order)
        try:
            return await self._send(order, turn)
        finally:
            if turn is not None:
                turn.give_back()  # no effect once it was used

    async def _send(self, order: Order, turn: Ticket | None) -> Sent | None:
        claimed = await self._claim(order)
        if claimed is None:
            return None
        self.being_sent.add(order.client_order_id)
        try:
            reach("W4")
            submission = await self._set_leverage(claimed, turn) or await self._place(claimed, turn)
            reach("W6")
        except BaseException:
            self.being_sent.discard(order.client_order_id)
            raise
        # A task of its own: neither a shutdown nor whoever waits may stop an answer from being written down.
        recorded = asyncio.create_task(self._write_down(claimed, submission))
        self._keep(recorded)
        return Sent(submission, recorded)

    async def _write_down(self, order: Order, submission: Submission) -> Order:
        try:
            recorded = await self._record(order, submission)
            reach("W9")
        finally:
            self.being_sent.discard(order.client_order_id)
        self._outcomes.publish(recorded)
        log.info(
            "order",
            alert_id=order.alert_id,
            client_order_id=order.client_order_id,
            outcome=type(submission).__name__.lower(),
            status=recorded.status.value,
            code=recorded.code,
        )
        return recorded

    async def _place(self, order: Order, turn: Ticket | None) -> Submission:
        """Send it in its turn. An entry that changed the leverage first waits for a new one, and trading may have been stopped since."""
        if turn is not None and turn.is_held:
            return await self._exchange.place(order, turn)
        turn = await self._exchange.wait_turn(order)
        try:
            why = self._database.read_now(sweeping.forbidden, order, now=self._clock())
            return Refused(*why) if why else await self._exchange.place(order, turn)
        finally:
            turn.give_back()

    async def _set_leverage(self, order: Order, turn: Ticket | None) -> Submission | None:
        """Bring the symbol to the leverage that the entry asks for; None when it is there, else why nothing was sent."""
        wanted = order.intent.leverage
        if wanted is None or not order.is_entry or self._known_account().leverage.get(order.intent.symbol) == wanted:
            return None
        if turn is not None:
            turn.give_back()  # only a few changes a minute are allowed: waiting for one must not hold back other orders
        answer = await self._exchange.set_leverage(order.intent.symbol, wanted)
        match answer:
            case Accepted():
                return None
            case Unknown(reason=reason):
                # The order itself was not sent, and setting a leverage twice does no harm: try again.
                return Deferred("leverage_not_set", f"leverage {wanted} could not be confirmed: {reason}")
            case _:
                return replace(answer, message=f"leverage {wanted} could not be set: {answer.message}")

    async def _claim(self, order: Order) -> Order | None:
        """The order as it will be sent, committed as submitting; None when it must not be sent any more."""
        if order.status is OrderStatus.SUBMITTING:
            return order  # claimed in the transaction that admitted it, a moment ago
        reach("W2" if order.intent.after_leg is None else "W8")
        now = self._clock()
        recheck = partial(self._recheck, order=order, snapshot=self._known_account(), now=now)
        claimed = await self._database.write(claiming.claim_if_allowed, order, recheck, now=now)
        if not claimed.status.is_final:
            return claimed
        self._outcomes.publish(claimed)
        log.info("order_not_sent", client_order_id=order.client_order_id, status=claimed.status, code=claimed.code)
        return None

    def _recheck(
        self, usage: Usage, webhook: Webhook | None, *, order: Order, snapshot: AccountSnapshot, now: datetime
    ) -> Recheck:
        """The same rules as at admission, on what is known now, in the transaction that claims the order."""
        if order.code == "earlier_leg_failed":
            text = "an earlier step of this alert did not succeed"
            return Recheck(status=OrderStatus.DENIED, code="earlier_leg_failed", error=text)
        if now >= order.expires_at:
            waited = (now - order.created_at).total_seconds()
            text = f"waited {waited:.0f} s and may not be sent any more"
            return Recheck(status=OrderStatus.EXPIRED, code="alert_expired", error=text)
        intent = resize(order.intent, snapshot)
        if intent is None:
            text = f"{order.intent.symbol} has no position left to close"
            return Recheck(status=OrderStatus.DENIED, code="nothing_to_close", error=text)
        verdicts = decision.judge(
            intent,
            webhook=webhook or _deleted(order),
            snapshot=snapshot,
            usage=usage,
            terms=self._terms,
            ignore=frozenset({order.client_order_id}),
        )
        denial = rules.first_denial(verdicts)
        if denial is not None:
            return Recheck(status=OrderStatus.DENIED, code=denial.rule, error=denial.message, verdicts=verdicts)
        body = request_text(replace(order, intent=intent))
        return Recheck(status=OrderStatus.SUBMITTING, intent=intent, verdicts=verdicts, request=body)

    async def _record(self, order: Order, submission: Submission) -> Order:
        """Commit what the exchange said."""
        now = self._clock()
        name = order.client_order_id
        match submission:
            case Accepted(order_id=order_id, sent_at=sent_at):
                self._outcomes.stages.signed(name, sent_at)
                # Until it is flushed a crash leaves the order "submitting", and the next start asks for it by its name.
                write = self._database.write_soon(
                    orders.mark_accepted, name, order_id=order_id, now=now, signed_at=sent_at
                )
            case Refused(code=code, message=message) if code in sweeping.STOPPED:
                write = self._database.write(orders.mark_denied, name, code=code, error=message, now=now)
            case Refused(code=code, message=message):
                write = self._database.write(orders.mark_rejected, name, code=code, error=message, now=now)
            case Deferred(code=code, message=message, retry_after_s=retry_after_s):
                write = self._defer(order, code, message, retry_after_s, now)
            case Unknown(reason=reason, sent_at=sent_at):
                write = self._database.write(orders.mark_unknown, name, reason=reason, now=now, sent_at=sent_at)
        return await write

    async def _defer(self, order: Order, code: str, message: str, retry_after_s: float | None, now: datetime) -> Order:
        """Back to the queue while attempts and age allow it; the schedule is columns, so a restart forgets nothing.

        Protective orders do not wait: the position they were made for may be another one by then, and the guard looks again anyway.
        """
        is_tired = order.attempt >= self._settings.queue.attempts and order.is_entry
        if is_tired or order.intent.purpose is Purpose.PROTECT:
            known = code if code in ("exchange_unreachable", "leverage_not_set") else "exchange_busy"
            text = message if known == code else f"{code}: {message}"
            return await self._database.write(
                orders.mark_rejected, order.client_order_id, code=known, error=text, now=now
            )
        pause = retry_after_s if retry_after_s is not None else backoff_s(self._settings.queue.backoff_s, order.attempt)
        if not order.is_entry:
            pause = min(pause, _LONGEST_EXIT_PAUSE_S)
        return await self._database.write(
            orders.mark_deferred,
            order.client_order_id,
            code=code,
            error=message,
            now=now,
            next_attempt_at=now + timedelta(seconds=pause),
        )


def backoff_s(base: float, attempt: int, jitter: float = 0.0) -> float:
    """Seconds before the next attempt: base, doubled per attempt, at most a minute; jitter is a fraction added."""
    return float(min(base * 2 ** max(attempt - 1, 0), 60.0) * (1 + jitter))


def request_text(order: Order) -> str | None:
    """The exact body that will be sent for an order; None when it cannot be expressed in one request, which `place` will refuse."""
    try:
        return bodies.request_text(order)
    except RequestRefused:
        return None


def alert_id_reused_text(alert_id: str) -> str:
    return f"alertId {alert_id} came before with another content; give every alert its own alertId"


def _identity(message: Message, fired_at: datetime | None) -> str | None:
    """What makes a second message the same alert for ever: the sender's id, else the body when it carries a timestamp."""
    if message.sender_id:
        return f"id:{message.sender_id}"
    return f"body:{message.body_digest}" if fired_at else None


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _deleted(order: Order) -> Webhook:
    """Stands for a webhook that was deleted while its order waited: no limits of its own, the account's still hold."""
    return Webhook(id=order.webhook_id, name="(deleted)", enabled=False, created_at=order.created_at)
