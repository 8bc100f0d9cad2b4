"""Send orders exactly once: recheck and claim, one request once the claim is on disk, record the result in the book.

Whatever may take long (leverage, permit) comes before the claim, so that an order which a stop or a crash interrupts there is still
queued, not perhaps sent. What an answer means is classified by the exchange client; when a queued order goes is the dispatcher's matter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from msgspec.structs import replace

from kekbridge.config import Queue
from kekbridge.errors import ExchangeUnavailable, StoreUnavailable
from kekbridge.exchange.base import (
    Accepted,
    Exchange,
    Permit,
    Rejected,
    Retryable,
    SubmitResult,
    Unknown,
    known_snapshot,
    request_text,
)
from kekbridge.execution import order_queue, transitions
from kekbridge.execution.book import Book
from kekbridge.execution.exit_watch import ExitWatch
from kekbridge.execution.key_watch import KeyWatch
from kekbridge.failpoints import hit
from kekbridge.log import get_logger
from kekbridge.model import (
    FIRST_PROTECTIVE_LEG,
    FIRST_RETRY_LEG,
    NEVER,
    LimitBreach,
    Order,
    OrderIntent,
    OrderStatus,
    PositionPart,
    Purpose,
    TradingState,
    Webhook,
    client_order_id_of,
)
from kekbridge.model.admission import Recheck
from kekbridge.planning import decide
from kekbridge.risk import rules
from kekbridge.risk.check import AccountPolicy
from kekbridge.store import facts, orders
from kekbridge.store.database import Database
from kekbridge.store.journal import Entry

log = get_logger("kekbridge.execution.submitter")

# An exit must go soon after the exchange is back; trying this often is far below every rate limit.
_LONGEST_EXIT_PAUSE_S: Final = 4.0
# Long enough for the position that the exchange judged by, and we have not seen yet, to arrive.
_EXIT_RETRY_S: Final = 0.2
_CLAIM_RETRY_S: Final = 1.0
# How long an order waits for the market's rules, which are being read, before it is sent as it is.
_RULES_WITHIN_S: Final = 30.0
_RULES_RETRY_S: Final = 0.25


class CircuitBreaker:
    """Holds entries back once the exchange stops answering: after 5 unknown results in a row, or half of the last 20.

    One answered query closes it again; no order is risked to find out. Exits always pass.
    """

    _IN_A_ROW = 5
    _WINDOW = 20

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=self._WINDOW)
        self._is_open = False

    @property
    def is_open(self) -> bool:
        return self._is_open

    def record(self, *, was_unknown: bool) -> None:
        self._recent.append(was_unknown)
        if not was_unknown:
            return
        recent = list(self._recent)
        in_a_row = len(recent) >= self._IN_A_ROW and all(recent[-self._IN_A_ROW :])
        by_half = len(recent) == self._WINDOW and sum(recent) * 2 >= self._WINDOW
        self._is_open = self._is_open or in_a_row or by_half

    def close(self) -> None:
        """A query was answered: the exchange is back."""
        self._is_open = False
        self._recent.clear()


class OrderSubmitter:
    """Sends the orders of one daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        exits: ExitWatch,
        keys: KeyWatch,
        policy: AccountPolicy,
        settings: Queue,
        find_webhook: Callable[[str], Webhook | None],
        clock: Callable[[], datetime],
        on_signed: Callable[[str, datetime], None] = lambda _name, _at: None,
        lacks_executions: Callable[[], bool] = lambda: False,
    ) -> None:
        """`find_webhook` returns the webhook with an id as it is now; None: it was deleted. `on_signed` gets the client order id of every
        request and when it was signed. `lacks_executions`: as in OrderTracker."""
        self._lacks_executions = lacks_executions
        self._book = book
        self._database = database
        self._exchange = exchange
        self._exits = exits
        self._keys = keys
        self._policy = policy
        self._settings = settings
        self._find_webhook = find_webhook
        self._clock = clock
        self._on_signed = on_signed
        self._awaited: dict[str, asyncio.Future[SubmitResult | None]] = {}  # results that `submit` waits for
        self._in_flight: dict[str, asyncio.Future[SubmitResult]] = {}  # by client order id, requests without a result
        self._claiming: set[str] = set()  # client order ids whose claim is not on disk yet
        self._awaiting_rules: set[str] = set()  # client order ids of queued orders that broke a market's rules
        self._refitted: set[str] = set()  # those whose market's rules were read since
        self._reading_rules: asyncio.Task[None] | None = None
        self.breaker = CircuitBreaker()
        #: True while orders may be claimed and sent: our view has equalled the exchange's, and the daemon is not stopping.
        self.is_dispatching = False
        #: Called with every order whose result was recorded, and the result.
        self.on_result: Callable[[Order, SubmitResult], None] = lambda _order, _result: None
        #: Called when orders that were deferred may be sent before their time.
        self.on_due: Callable[[], None] = lambda: None

    def stop(self) -> None:
        """Claim and send nothing more, and read no rules."""
        self.is_dispatching = False
        self._keys.stop()
        if self._reading_rules is not None:
            self._reading_rules.cancel()

    def is_handling(self, client_order_id: str) -> bool:
        """True while an order is claimed or sent here and its result is not recorded."""
        return client_order_id in self._in_flight or client_order_id in self._claiming

    @property
    def in_flight_count(self) -> int:
        """Requests without a result."""
        return len(self._in_flight)

    async def drain(self, longest_s: float) -> bool:
        """Wait until every request has its result, at most `longest_s` seconds; False if some have none by then."""
        deadline = asyncio.get_running_loop().time() + longest_s
        while self._in_flight or self._claiming:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, 0.01))
        return True

    # ------------------------------------------------------------------------------------------------------------- sending

    def try_permit(self, order: Order, *, now: datetime) -> Permit | None:
        """A permit for a new order that may be sent at once; None if it has to wait in the queue."""
        if not self.is_dispatching or (order.is_entry and self.breaker.is_open) or self.lacks_leverage(order):
            return None
        if self.awaits_fills(order):
            return None
        if order.intent.after_leg is not None or now >= order.expires_at:
            return None
        settings = self._settings
        if not order_queue.is_symbol_free(
            self._book,
            order,
            now=now,
            settle_within_s=settings.outcome_timeout_s,
            concurrency=settings.concurrency,
        ):
            return None
        return self._exchange.try_acquire_permit(order)

    def send(self, order: Order, permit: Permit, *, version: int | None = None) -> None:
        """Send an order whose claim is on disk. `version`: the book's at the decision; if it has changed since, the order is rechecked."""
        self._claiming.discard(order.client_order_id)
        order = self._book.current(order)
        if version is not None and version != self._book.version and not self._is_still_allowed(order):
            permit.release()
            return
        if order.status is not OrderStatus.SUBMITTING:
            permit.release()  # ended between its claim and the flush
            return
        if order.cancel_requested_at is not None:
            permit.release()
            now = self._clock()
            self._book.change(order, transitions.canceled_unsent(order, now=now), now=now)
            return
        hit("W4")  # claimed, not sent yet
        self._note_signed(order.client_order_id, self._clock())  # its report may be faster than its response
        request = self._exchange.submit_now(order, permit)
        self._in_flight[order.client_order_id] = request
        request.add_done_callback(partial(self._on_done, order.client_order_id))

    def claim(self, order: Order, permit: Permit) -> bool:
        """Recheck a queued order and claim it; it is sent once the claim is on disk. False if it must not be sent any more."""
        hit("W2" if order.intent.after_leg is None else "W8")  # W8: between two legs of an alert
        now = self._clock()
        if order.cancel_requested_at is not None:
            permit.release()
            self._book.change(order, transitions.canceled_unsent(order, now=now), now=now)
            return False
        if order.is_exit and not self._exits.check(order, now=now):
            permit.release()
            return False
        decided = self.recheck(order, now=now)
        if decided.status is not OrderStatus.SUBMITTING:
            permit.release()
            self.finish_unsent(order, decided, now=now)
            return False
        if order.closes_position:
            self._exits.end_overtaken_entries(order, now=now)  # those that came back to the queue meanwhile
        claimed = transitions.claimed(order, now=now, intent=decided.intent)
        fact = self._book.apply(
            order, claimed, now=now, verdicts=decided.verdicts, request=request_text(self._exchange, claimed)
        )
        assert fact is not None  # noqa: S101 - a claim always changes the status
        version = self._book.version
        self._claiming.add(order.client_order_id)

        def on_flushed(result: bool | StoreUnavailable) -> None:
            if isinstance(result, StoreUnavailable):
                self._on_claim_failed(fact, permit, result)
            else:
                self.send(fact.after, permit, version=version)

        try:
            self._database.append(facts.order_entry(fact), on_flushed)
        except StoreUnavailable as error:
            self._on_claim_failed(fact, permit, error)
        return True

    async def submit(
        self, entry: Order, intent: OrderIntent, *, draft: Order | None = None, within_s: float | None = None
    ) -> tuple[Order, SubmitResult] | None:
        """Store a protective order for an entry, beside the queue, send it and wait until the result is recorded.

        `draft`: a queued protective order that is sent again with this intent, under its client order id; None: a new one. Returns None if
        nothing was stored or sent: no permit came within `within_s` seconds (None: however long it takes), or the draft has ended. Raises
        StoreUnavailable if it could not be stored.
        """
        order = draft or self._new_protective(entry, intent, leg=FIRST_PROTECTIVE_LEG)
        try:
            async with asyncio.timeout(within_s):
                permit = await self._exchange.acquire_permit(replace(order, intent=intent))
        except TimeoutError:
            return None
        try:
            order = await self._claim_protective(entry, intent, draft)
        except BaseException:
            permit.release()
            raise
        name = order.client_order_id
        if order.status is not OrderStatus.SUBMITTING:
            permit.release()
            return None
        waiting: asyncio.Future[SubmitResult | None] = asyncio.get_running_loop().create_future()
        self._awaited[name] = waiting
        self.send(order, permit)
        if name not in self._in_flight and not waiting.done():
            self._awaited.pop(name, None)
            return None
        result = await waiting
        return None if result is None else (self._book.current(order), result)

    async def _claim_protective(self, entry: Order, intent: OrderIntent, draft: Order | None) -> Order:
        """Store a protective order as `submitting`, new or again; the draft as it is if it may not be sent any more."""
        if draft is None:
            taken = await self._legs_of(entry)
            leg = max(FIRST_PROTECTIVE_LEG, *(each + 1 for each in taken if each < FIRST_RETRY_LEG))
            before, after = None, self._new_protective(entry, intent, leg=leg)
        else:
            before = self._book.orders.get(draft.client_order_id)
            if before is None or before.status is not OrderStatus.QUEUED:
                return before or draft
            after = transitions.claimed(before, now=self._clock(), intent=intent)
        fact = self._book.apply(before, after, now=self._clock(), request=request_text(self._exchange, after))
        assert fact is not None  # noqa: S101 - a claim always changes something
        flushed: asyncio.Future[bool | StoreUnavailable] = asyncio.get_running_loop().create_future()

        def on_flushed(result: bool | StoreUnavailable) -> None:
            if not flushed.done():
                flushed.set_result(result)

        self._claiming.add(after.client_order_id)
        try:
            self._database.append(facts.order_entry(fact), on_flushed)
            result = await asyncio.shield(flushed)
        except StoreUnavailable as error:
            result = error
        if isinstance(result, StoreUnavailable):
            self._claiming.discard(after.client_order_id)
            if fact.before is None:
                self._book.remove(after)
            else:
                self._book.revert(fact)
            raise result
        return fact.after

    def _new_protective(self, entry: Order, intent: OrderIntent, *, leg: int) -> Order:
        now = self._clock()
        return Order(
            client_order_id=client_order_id_of(entry.alert_id, leg),
            alert_id=entry.alert_id,
            webhook_id=entry.webhook_id,
            leg=leg,
            sequence=self._book.next_sequence(),
            intent=intent,
            status=OrderStatus.SUBMITTING,
            created_at=now,
            expires_at=NEVER,
            attempt=1,
            submitted_at=now,
        )

    async def submit_new(self, orders: Sequence[Order], row: Entry, *, within_s: float) -> None:
        """Append the row of new orders that are in the book as `submitting`, send them beside the queue, and wait until each result is
        recorded.

        For orders by hand. One without a permit within `within_s` seconds is not sent, and that is recorded. Raises StoreUnavailable if the
        row could not be stored; the orders are then no longer in the book.
        """
        flushed: asyncio.Future[bool | StoreUnavailable] = asyncio.get_running_loop().create_future()

        def on_flushed(result: bool | StoreUnavailable) -> None:
            if not flushed.done():
                flushed.set_result(result)

        self._claiming.update(order.client_order_id for order in orders)
        try:
            self._database.append(row, on_flushed)
            stored = await asyncio.shield(flushed)
        except StoreUnavailable as error:
            stored = error
        if isinstance(stored, StoreUnavailable):
            for order in reversed(orders):
                self._claiming.discard(order.client_order_id)
                self._book.remove(order)
            raise stored
        await asyncio.gather(*(self._send_new(order, within_s) for order in orders))

    async def _send_new(self, order: Order, within_s: float) -> None:
        name = order.client_order_id
        try:
            async with asyncio.timeout(within_s):
                permit = await self._exchange.acquire_permit(order)
        except TimeoutError:
            text = f"the exchange's rate limit left no room for this order within {within_s:.1f} s"
            self._record(order, Retryable("exchange_busy", text))
            return
        except BaseException:
            self._claiming.discard(name)  # the daemon stops: the next start finds that it was never sent
            raise
        waiting: asyncio.Future[SubmitResult | None] = asyncio.get_running_loop().create_future()
        self._awaited[name] = waiting
        self.send(order, permit)
        if name not in self._in_flight and not waiting.done():
            self._awaited.pop(name, None)  # it ended before it was sent
            return
        await waiting

    async def _legs_of(self, entry: Order) -> set[int]:
        """The legs of an alert that are taken."""
        stored = {order.leg for order in await self._database.read(orders.of_alert, entry.alert_id)}
        return stored | self._book.legs.get(entry.alert_id, {}).keys() | {entry.leg}

    def _on_claim_failed(self, fact: facts.OrderFact, permit: Permit, error: StoreUnavailable) -> None:
        """The claim is not on disk: the order is queued as before, and was not sent."""
        self._claiming.discard(fact.after.client_order_id)
        permit.release()
        assert fact.before is not None  # noqa: S101 - a claimed order was queued
        due = self._clock() + timedelta(seconds=_CLAIM_RETRY_S)
        self._book.revert(replace(fact, before=replace(fact.before, next_attempt_at=due)))
        log.error("order_not_claimed", client_order_id=fact.after.client_order_id, error=error.message)

    # ------------------------------------------------------------------------------------------------------------ rechecking

    def recheck(self, order: Order, *, now: datetime) -> Recheck:
        """Decide about a queued order by what is known now."""
        webhook = self._find_webhook(order.webhook_id)
        cooldown_s = (webhook.settings.limits.cooldown_s if webhook else None) or 0
        usage = self._book.usage(order.webhook_id, now=now, cooldown_s=cooldown_s, excluding=order)
        snapshot = known_snapshot(self._exchange)
        return decide.recheck(
            usage,
            webhook,
            order=order_queue.limited_to_rest(self._book, order),
            snapshot=snapshot,
            policy=self._policy,
            now=now,
            sums=self._book.exposure,
            left_open=order_queue.left_open(self._book, order),
            others=self._book.kept_from(order, snapshot.position_quantity(order.intent.symbol)),
        )

    def finish_unsent(self, order: Order, decided: Recheck, *, now: datetime) -> None:
        """End an order that must not be sent, as a recheck decided; an exit under a halt stays queued until the trader resumes."""
        if self._exits.is_held(order):
            if order.status is OrderStatus.SUBMITTING:
                self._book.change(order, transitions.requeued_unsent(order), now=now)
            return
        if decided.status is OrderStatus.EXPIRED:
            after = transitions.expired(order, now=now, code=decided.code, error=decided.error)
        else:
            after = transitions.denied(order, code=decided.code, error=decided.error, now=now)
        self._book.change(order, after, now=now, verdicts=decided.verdicts)
        log.info("order_not_sent", client_order_id=order.client_order_id, status=after.status, code=after.code)

    def _is_still_allowed(self, order: Order) -> bool:
        """The second look at an order that was claimed by a decision which something has overtaken: a halt, a fill from elsewhere.

        An exit of the webhook's own part that has become smaller, such as by its stop, goes back to the queue, which sizes it.
        """
        if order.status is not OrderStatus.SUBMITTING:
            return False
        now = self._clock()
        decided = self.recheck(order, now=now)
        if decided.status is OrderStatus.SUBMITTING:
            intent = order.intent
            has_shrunk = decided.intent is not None and decided.intent.quantity < intent.quantity
            if not (intent.reduce_only and intent.part is not PositionPart.WHOLE and has_shrunk):
                return True
            self._book.change(order, transitions.requeued_unsent(order), now=now)
            self.on_due()
            return False
        self.finish_unsent(order, decided, now=now)
        return False

    def awaits_fills(self, order: Order) -> bool:
        """True for an entry under a limit of the daily loss while executions are not recorded that may have lost money."""
        if not order.is_entry or not self._lacks_executions():
            return False
        webhook = self._find_webhook(order.webhook_id)
        limits = (self._policy.account_limits, None if webhook is None else webhook.settings.limits)
        return any(one is not None and one.max_daily_loss is not None for one in limits)

    def loss_breaches(self, order: Order, *, now: datetime) -> tuple[LimitBreach, ...]:
        """The limits of losses that the webhook of a resting entry, or the account, has reached meanwhile."""
        webhook = self._find_webhook(order.webhook_id)
        if webhook is None or self._exchange.snapshot is None or self.awaits_fills(order):
            return ()
        return rules.loss_breaches(
            order.intent,
            webhook=webhook,
            policy=self._policy,
            snapshot=self._exchange.snapshot,
            usage=self._book.usage(order.webhook_id, now=now, cooldown_s=0, excluding=order),
            sums=self._book.exposure,
        )

    # -------------------------------------------------------------------------------------------------------------- leverage

    def lacks_leverage(self, order: Order) -> bool:
        """True for an entry whose symbol is not at the leverage that it asks for."""
        wanted = order.intent.leverage
        return wanted is not None and order.is_entry and self._exchange.leverage_of(order.intent.symbol) != wanted

    async def ensure_leverage(self, order: Order) -> SubmitResult | None:
        """Set the symbol's leverage as the entry asks; None once it is set, else why nothing is sent.

        Only a few changes a minute are allowed, so this may take long; an order that may not be sent by now changes nothing, and its claim
        records why.
        """
        wanted = order.intent.leverage
        if wanted is None or not self.lacks_leverage(order):
            return None
        if self.recheck(order, now=self._clock()).status is not OrderStatus.SUBMITTING:
            return None
        result = await self._exchange.set_leverage(order.intent.symbol, wanted)
        match result:
            case Accepted():
                return None
            case Unknown(reason=reason):
                # The order itself was not sent, and setting a leverage twice does no harm: try again.
                return Retryable("leverage_not_set", f"leverage {wanted} could not be confirmed: {reason}")
            case _:
                return replace(result, message=f"leverage {wanted} could not be set: {result.message}")

    def record_unsent(self, order: Order, result: SubmitResult) -> None:
        """Record why a queued order was not sent although it may be, such as a leverage that could not be set."""
        now = self._clock()
        decided = self.recheck(order, now=now)
        if decided.status is not OrderStatus.SUBMITTING:
            self.finish_unsent(order, decided, now=now)
            return
        claimed = transitions.claimed(order, now=now, intent=decided.intent)
        self._record(self._book.change(order, claimed, now=now, verdicts=decided.verdicts), result)

    # --------------------------------------------------------------------------------------------------------------- results

    def _on_done(self, name: str, request: asyncio.Future[SubmitResult]) -> None:
        """The request has its result, on the loop."""
        self._in_flight.pop(name, None)
        order = self._book.orders.get(name)
        waiting = self._awaited.pop(name, None)
        if request.cancelled():
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
            return  # the daemon stops: the next start asks for the order
        hit("W6")  # answered, not stored yet
        error = request.exception()
        result = Unknown(f"{type(error).__name__}: {error}") if error is not None else request.result()
        if error is not None:
            log.error("order_failed", client_order_id=name, error=str(error))
        if order is not None:
            self._record(order, result)
        else:
            self.breaker.record(was_unknown=False)  # the stream has reported its end already
        if waiting is not None and not waiting.done():
            waiting.set_result(result)

    def _record(self, order: Order, result: SubmitResult) -> None:
        """Bring an order to what its result says, and tell who waits."""
        now = self._clock()
        self.breaker.record(was_unknown=isinstance(result, Unknown))
        self._claiming.discard(order.client_order_id)
        try:
            after = self._after(order, result, now)
        except transitions.IllegalTransition:
            log.exception("result_not_recorded", client_order_id=order.client_order_id)
            return
        sent_at = getattr(result, "sent_at", None)
        if sent_at is not None:
            self._note_signed(order.client_order_id, sent_at)
        recorded = self._book.change(order, after, now=now)
        if isinstance(result, Rejected) and result.is_key_rejected and recorded.status is OrderStatus.QUEUED:
            self._exits.note_waiting(recorded, now=now)
        hit("W9")  # recorded, not logged yet
        write = log.debug if isinstance(result, Accepted) else log.info  # the line of the alert names its orders
        write(
            "order",
            alert_id=order.alert_id,
            client_order_id=order.client_order_id,
            outcome=type(result).__name__.lower(),
            status=recorded.status.value,
            code=recorded.code,
        )
        self.on_result(recorded, result)

    def _note_signed(self, client_order_id: str, at: datetime) -> None:
        self._book.note_signed(client_order_id, at)
        self._on_signed(client_order_id, at)

    def _after(self, order: Order, result: SubmitResult, now: datetime) -> Order:
        """The order after a result."""
        match result:
            case Accepted(order_id=order_id):
                return transitions.accepted(order, order_id=order_id, now=now)
            case Rejected():
                return self._after_rejection(order, result, now)
            case Retryable(code=code, message=message, retry_after_s=retry_after_s):
                return self._deferred(order, code, message, retry_after_s, now)
            case Unknown(reason=reason, sent_at=sent_at):
                return transitions.unknown(order, reason=reason, sent_at=sent_at)

    def _after_rejection(self, order: Order, result: Rejected, now: datetime) -> Order:
        """A definite rejection: nothing is at the exchange, and the same request would be rejected again (docs/internals/reliability.md
        section 5).

        An order that breaks the market's rules is sent once more after they were read again, an exit once more whatever the reason, each
        with size and price as they are then. A rejected key ends entries and closes the account for them; exits are tried until the key is
        known to be gone.
        """
        name, code, error = order.client_order_id, result.code, result.message
        is_exit = order.intent.purpose is Purpose.EXIT
        if result.is_key_rejected:
            self._keys.check_soon()
            if is_exit:
                return self._deferred(order, code, error, None, now)
            reason = f"the exchange rejected the API key ({code}): run `kekbridge keys check`, then `kekbridge resume`"
            self._book.close_for_entries(reason=reason, by="kekbridge", now=now)
        elif result.breaks_rules and name not in self._refitted:
            self._await_rules(name)
            if order.intent.purpose is not Purpose.PROTECT:
                due = now + timedelta(seconds=_RULES_WITHIN_S)
                return transitions.deferred(order, code=code, error=error, next_attempt_at=due)
        elif is_exit:
            if order.attempt <= 1:
                due = now + timedelta(seconds=_EXIT_RETRY_S)
                return transitions.deferred(order, code=code, error=error, next_attempt_at=due)
            self._book.note("exit_refused", order, now=now)
        if order.intent.purpose is Purpose.PROTECT:
            return self._deferred(order, code, error, None, now)
        return transitions.rejected(order, code=code, error=error, now=now)

    def _await_rules(self, name: str) -> None:
        """Have the markets' rules read; then the order is sent again with numbers that fit them."""
        self._awaiting_rules.add(name)
        if self._reading_rules is None or self._reading_rules.done():
            self._reading_rules = asyncio.get_running_loop().create_task(self._read_rules())

    async def _read_rules(self) -> None:
        attempt = 0
        while waiting := self._awaiting_rules & self._book.orders.keys():
            self._awaiting_rules &= waiting
            try:
                await self._exchange.refresh_rules()
            except ExchangeUnavailable as error:
                attempt += 1
                log.warning("rules_not_readable", error=error.message)
                await asyncio.sleep(min(backoff_s(_RULES_RETRY_S, attempt), _LONGEST_EXIT_PAUSE_S))
                continue
            now = self._clock()
            self._awaiting_rules -= waiting
            self._refitted = (self._refitted | waiting) & self._book.orders.keys()
            for order in [self._book.queued[name] for name in waiting if name in self._book.queued]:
                self._book.change(order, transitions.due_at(order, next_attempt_at=now), now=now)
            self.on_due()

    def _deferred(self, order: Order, code: str, message: str, retry_after_s: float | None, now: datetime) -> Order:
        """Requeue the order while its attempts allow it; the schedule is stored, so a restart keeps it.

        The protection controller decides itself when a protective order is sent again, and with what size.
        """
        if order.intent.purpose is Purpose.PROTECT:
            return transitions.deferred(order, code=code, error=message, next_attempt_at=now)
        if order.attempt >= self._settings.attempts and order.is_entry:
            known = code if code in ("exchange_unreachable", "leverage_not_set") else "exchange_busy"
            text = message if known == code else f"{code}: {message}"
            return transitions.rejected(order, code=known, error=text, now=now)
        pause = retry_after_s if retry_after_s is not None else backoff_s(self._settings.backoff_s, order.attempt)
        if not order.is_entry:
            pause = min(pause, _LONGEST_EXIT_PAUSE_S)
        due = now + timedelta(seconds=pause)
        return transitions.deferred(order, code=code, error=message, next_attempt_at=due)


def forbidden_by(state: TradingState, purpose: Purpose) -> tuple[str, str] | None:
    """Code and reason if a trading state forbids sending an order of this purpose, else None.

    Protective orders always pass: a halt leaves positions and their stops as they are.
    """
    if purpose is Purpose.PROTECT:
        return None
    if state is TradingState.HALTED:
        return "trading_halted", "trading was halted before the order was sent"
    if state is TradingState.EXITS_ONLY and purpose is Purpose.ENTRY:
        return "exits_only", "entries were stopped before the order was sent"
    return None


def backoff_s(base: float, attempt: int, jitter: float = 0.0) -> float:
    """Seconds before the next attempt: `base`, doubled with each attempt, at most a minute; `jitter` adds a fraction of that."""
    return float(min(base * 2 ** max(attempt - 1, 0), 60.0) * (1 + jitter))
