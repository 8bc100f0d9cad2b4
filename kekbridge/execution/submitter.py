"""Send queued orders exactly once: leverage, rate-limit permit, recheck and claim, one request, record.

Whatever may take long (leverage, permit) comes before the claim, so that an order which a stop or a crash interrupts there is still
queued, not perhaps sent. The claim commits "submitting" before the request is written. What an answer means is classified by the exchange
client; how it is stored is the recorder's part; when an order goes is the dispatcher's.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from msgspec.structs import replace

from kekbridge.exchange.base import (
    Accepted,
    Exchange,
    Permit,
    Retryable,
    SubmitResult,
    Unknown,
    known_snapshot,
    request_text,
)
from kekbridge.execution.in_flight import InFlightOrders
from kekbridge.execution.recorder import Recorder
from kekbridge.execution.updates import OrderUpdates
from kekbridge.failpoints import hit
from kekbridge.log import get_logger
from kekbridge.model import Order, OrderStatus, Usage, Webhook
from kekbridge.model.admission import Recheck
from kekbridge.planning import decide
from kekbridge.risk.check import AccountPolicy
from kekbridge.store import claims, order_lifecycle
from kekbridge.store.claims import ClaimedOrders
from kekbridge.store.database import Database
from kekbridge.store.order_queue import NOT_TO_BE_SENT

log = get_logger("kekbridge.execution.submitter")


@dataclass(frozen=True, slots=True)
class SendPermit:
    """What an order needs before it may be claimed and sent, or why it cannot be sent now."""

    #: Slot of the exchange's rate-limit window. None without a `failure`: the order is only to be finished, not sent.
    permit: Permit | None = None
    #: Why nothing can be sent now, such as a leverage that could not be set.
    failure: SubmitResult | None = None


@dataclass(frozen=True, slots=True)
class SentOrder:
    """What the exchange answered to one order."""

    #: Accepted, rejected, retryable or unknown.
    result: SubmitResult
    #: The order as stored once the answer is written. Raises StoreUnavailable.
    recorded: asyncio.Task[Order]


@dataclass(frozen=True, slots=True)
class _Granted:
    """A permit to send an order at once, acquired inside the transaction that claims it."""

    order: Order
    permit: Permit


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
        recent = list(self._recent)
        in_a_row = len(recent) >= self._IN_A_ROW and all(recent[-self._IN_A_ROW :])
        by_half = len(recent) == self._WINDOW and sum(recent) * 2 >= self._WINDOW
        self._is_open = self._is_open or in_a_row or by_half

    def close(self) -> None:
        """A query was answered: the exchange is back."""
        self._is_open = False
        self._recent.clear()


class OrderSubmitter:
    """Sends the orders of one daemon. `try_claim`, `cancel_claim` and `overlappable_ids` may be called on any thread."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        recorder: Recorder,
        updates: OrderUpdates,
        policy: AccountPolicy,
        in_flight: InFlightOrders,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._recorder = recorder
        self._updates = updates
        self._policy = policy
        self._in_flight = in_flight
        self._clock = clock
        self._granted: dict[str, _Granted] = {}  # by client order id, of orders claimed to be sent at once
        self._request_text = partial(request_text, exchange)
        self.breaker = CircuitBreaker()
        #: True while orders may be claimed and sent: our view has equalled the exchange's, and the daemon is not stopping.
        self.is_dispatching = False

    @property
    def submitting_ids(self) -> frozenset[str]:
        """Client order ids of orders claimed for sending whose answer is not recorded yet."""
        return frozenset(self._recorder.submitting_ids)

    @property
    def overlappable_ids(self) -> frozenset[str]:
        """Client order ids in flight beside which another order may be sent."""
        return self._in_flight.overlappable_ids

    # ------------------------------------------------------------------------------------------ claiming, on the writer thread

    def try_claim(self, order: Order) -> bool:
        """Called inside the transaction that would claim an order: True with a free symbol and a permit for the rate window.

        An order that has to change its symbol's leverage first is not claimed: only what is sent at once may be.
        """
        if not self.is_dispatching or (order.is_entry and self.breaker.is_open):
            return False
        if self._lacks_leverage(order) or not self._in_flight.try_add(order, pipelined=True):
            return False
        permit = self._exchange.try_acquire_permit(order)
        if permit is None:
            self._in_flight.remove(order)
            return False
        self._granted[order.client_order_id] = _Granted(order, permit)
        return True

    def cancel_claim(self, client_order_id: str) -> None:
        """A claim was undone, or its order is not sent after all: remove it from the orders in flight and release its permit."""
        granted = self._granted.pop(client_order_id, None)
        if granted is not None:
            granted.permit.release()
            self._in_flight.remove(granted.order)

    # ------------------------------------------------------------------------------------------------------ behind the queue

    async def claim_ready(self, *, entries_allowed: bool) -> ClaimedOrders:
        """Claim, with one flush, the heads of the queue that may be sent this instant: `send` them at once, with `acquire_permit`."""
        granted: list[str] = []

        def try_claim(order: Order) -> bool:
            if not self.try_claim(order):
                return False
            granted.append(order.client_order_id)
            return True

        await self._updates.unrecorded_fills.wait()
        now = self._clock()
        # Bound when the job is queued: what is stored before it runs is in this snapshot, what comes later is not.
        recheck = partial(decide.recheck, snapshot=known_snapshot(self._exchange), policy=self._policy, now=now)
        self._updates.close_acceptances()
        try:
            claimed = await self._database.write(
                claims.claim_heads,
                recheck,
                overlappable_ids=lambda: self._in_flight.overlappable_ids,
                entries_allowed=entries_allowed,
                try_claim=try_claim,
                request_text=self._request_text,
                now=now,
            )
        except Exception:
            for client_order_id in granted:
                self.cancel_claim(client_order_id)  # the transaction was rolled back
            raise
        for order in claimed.finished:
            self.cancel_claim(order.client_order_id)
            self._publish_unsent(order)
        return claimed

    async def requeue(self, order: Order) -> None:
        """Requeue a claimed order that was not sent, with its old position in the queue. Raises StoreUnavailable."""
        self.cancel_claim(order.client_order_id)
        requeued = await self._database.write(order_lifecycle.requeue_unsent, order.client_order_id, now=self._clock())
        self._updates.publish(requeued)
        log.info("order_stepped_back", client_order_id=order.client_order_id)

    async def submit(self, order: Order, within_s: float | None = None) -> SubmitResult | None:
        """Send a queued order exactly once and wait until the answer is recorded; None if it must not be sent any more.

        Without a permit within `within_s` seconds (None: however long it takes) nothing is sent, and that is recorded.
        """
        try:
            async with asyncio.timeout(within_s):
                permit = await self.acquire_permit(order)
        except TimeoutError:
            late = Retryable(
                "exchange_busy", f"the exchange's rate limit left no room for this order within {within_s:.1f} s"
            )
            await asyncio.shield(self._recorder.record(order, late))
            return late
        sent = await self.send(order, permit)
        if sent is None:
            return None
        await asyncio.shield(sent.recorded)
        return sent.result

    async def acquire_permit(self, order: Order) -> SendPermit:
        """Set the order's leverage and wait for the exchange's rate window; what a claim was granted is returned at once."""
        granted = self._granted.pop(order.client_order_id, None)
        if granted is not None:
            return SendPermit(granted.permit)
        if order.code in NOT_TO_BE_SENT:
            return SendPermit()
        failure = await self._ensure_leverage(order)
        if failure is not None:
            return SendPermit(failure=failure)
        return SendPermit(await self._exchange.acquire_permit(order))

    async def send(self, order: Order, permit: SendPermit) -> SentOrder | None:
        """Recheck and claim a queued order, send its one request and begin to record the answer.

        None if it was not sent: expired, denied, or nothing left to close. An Unknown result is for the reconciler to resolve.
        """
        if permit.failure is not None:
            return SentOrder(permit.failure, self._recorder.record(order, permit.failure, self._claim_step(order)))
        try:
            return await self._send(order, permit.permit)
        finally:
            if permit.permit is not None:
                permit.permit.release()  # no effect once it was used

    async def _send(self, order: Order, permit: Permit | None) -> SentOrder | None:
        claimed = await self._claim(order)
        if claimed is None:
            return None
        submitting_ids = self._recorder.submitting_ids
        submitting_ids.add(order.client_order_id)
        try:
            hit("W4")  # claimed, not sent yet
            result = await self._exchange.submit(claimed, permit)
            hit("W6")  # answered, not stored yet
        except BaseException:
            submitting_ids.discard(order.client_order_id)
            raise
        return SentOrder(result, self._recorder.record(claimed, result))

    async def _claim(self, order: Order) -> Order | None:
        """Commit "submitting"; the order as it will be sent, or None if it must not be sent any more."""
        if order.status is OrderStatus.SUBMITTING:
            return order  # claimed a moment ago, to be sent at once
        hit("W2" if order.intent.after_leg is None else "W8")  # W8: between two legs of an alert
        await self._updates.unrecorded_fills.wait()
        claimed = await self._database.write(self._claim_step(order))
        if not claimed.status.is_final:
            return claimed
        self._publish_unsent(claimed)
        return None

    def _claim_step(self, order: Order) -> Callable[[sqlite3.Connection], Order]:
        """The write that claims an order, or finishes it, by what is known now."""
        now = self._clock()
        recheck = self._recheck(order, now)
        self._updates.close_acceptances()
        return partial(claims.claim_if_allowed, order=order, recheck=recheck, request_text=self._request_text, now=now)

    def _recheck(self, order: Order, now: datetime) -> Callable[[Usage, Webhook | None], Recheck]:
        return partial(
            decide.recheck, order=order, snapshot=known_snapshot(self._exchange), policy=self._policy, now=now
        )

    def _lacks_leverage(self, order: Order) -> bool:
        """True for an entry whose symbol is not at the leverage that it asks for. Any thread."""
        wanted = order.intent.leverage
        return wanted is not None and order.is_entry and self._exchange.leverage_of(order.intent.symbol) != wanted

    async def _ensure_leverage(self, order: Order) -> SubmitResult | None:
        """Set the symbol's leverage as the entry asks; None once it is set, else why nothing is sent.

        Only a few changes a minute are allowed, so this may take long; an order that may not be sent by now changes nothing, and its claim
        records why.
        """
        wanted = order.intent.leverage
        if wanted is None or not self._lacks_leverage(order):
            return None
        now = self._clock()
        if not await self._database.read(claims.would_claim, order, self._recheck(order, now), now=now):
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

    def _publish_unsent(self, order: Order) -> None:
        self._updates.publish(order)
        log.info("order_not_sent", client_order_id=order.client_order_id, status=order.status, code=order.code)
