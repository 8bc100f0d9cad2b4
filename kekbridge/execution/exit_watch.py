"""Watch exits and resting orders: each lives as long as what it is for.

An exit lives as long as the position that it was admitted against, however long it cannot be sent, or rests at the exchange. It ends as
superseded once that position was flat or changed sides, or, while it is queued, once a later alert of its webhook wants to keep the
position. Entries that an exit overtakes end when the exit is queued. What the exchange leaves open of a market exit (a thin book, the price
band) is queued again as an order of its own. While an exit waits, the trader hears that the position is still open.
A resting entry lives as long as its webhook may enter. Orders at the exchange end by a cancel request (canceller.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from kekbridge.exchange.base import Exchange
from kekbridge.execution import order_queue, transitions
from kekbridge.execution.book import Book
from kekbridge.execution.order_queue import SUPERSEDED
from kekbridge.formatting import amount
from kekbridge.log import get_logger
from kekbridge.model import (
    FIRST_RETRY_LEG,
    NEVER,
    ZERO,
    AccountSnapshot,
    Fill,
    MarginMode,
    Order,
    OrderStatus,
    OrderType,
    TradingState,
    client_order_id_of,
)
from kekbridge.risk.exposure import was_left

log = get_logger("kekbridge.execution.exit_watch")

#: Code of an entry that a later alert of its webhook ended.
OVERTAKEN: Final = "overtaken_by_exit"

# An exit that has waited for this time is notified, and again after an hour.
_STILL_OPEN_AFTER: Final = timedelta(seconds=10)
_STILL_OPEN_EVERY: Final = timedelta(hours=1)
# A position that a resting exit has closed itself may be reported before the exit is.
_REPORTED_WITHIN: Final = timedelta(seconds=1)
# Pause before an exit that the exchange canceled is sent again, doubled with each try: its book may be empty for long.
_FIRST_RETRY_S: Final = 0.5
_LONGEST_RETRY_S: Final = 30.0
_MOST_DOUBLINGS: Final = 10
_GONE: Final = "the position that it was to close was closed meanwhile"
_REOPENED: Final = _GONE + "; what is open now was opened later"


def held_exits(orders: Iterable[Order], state_of: Callable[[str], TradingState]) -> tuple[Order, ...]:
    """The exits among these orders that a halt holds in the queue. `state_of`: the trading state of a webhook by its id."""
    return tuple(
        order
        for order in orders
        if order.is_exit and order.status is OrderStatus.QUEUED and state_of(order.webhook_id) is TradingState.HALTED
    )


def resting_entries(orders: Iterable[Order]) -> tuple[Order, ...]:
    """The entries among these orders that rest at the exchange and are not to be cancelled yet."""
    return tuple(
        order
        for order in orders
        if order.is_entry and order_queue.is_resting(order) and order.cancel_requested_at is None
    )


def dropped(order: Order, *, now: datetime) -> Order:
    """A held exit that the trader does not want any more."""
    text = "the trader dropped it when trading was resumed"
    return transitions.denied(order, code=SUPERSEDED, error=text, now=now)


class ExitWatch:
    """Watches the exits and the resting orders of one daemon."""

    def __init__(
        self,
        *,
        book: Book,
        exchange: Exchange,
        clock: Callable[[], datetime],
        on_cancels: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_cancels` is called when orders are to be cancelled."""
        self._book = book
        self._exchange = exchange
        self._clock = clock
        self._on_cancels = on_cancels
        self._started_at = clock()
        self._seen_open: set[str] = set()  # client order ids of exits whose position was open since they were admitted
        self._gone_at: dict[str, datetime] = {}  # by client order id of resting exits: when their position was gone
        self._left_at: dict[str, datetime] = {}  # the same, by the fills: the position may be a moment behind them
        # By client order id of resting exits: `Book.fill_count` of the last check.
        self._fills_checked: dict[str, int] = {}
        # By alert and market: when the trader last heard that its exits wait.
        self._noted_at: dict[tuple[str, str], datetime] = {}
        exchange.listen_account(self._on_account)

    def position_of(self, symbol: str) -> Decimal:
        """Signed cross position in base units as last known; zero before the first snapshot."""
        snapshot = self._exchange.snapshot
        return ZERO if snapshot is None else snapshot.position_quantity(symbol)

    def _position_of_exit(self, order: Order) -> Decimal:
        """The position that an exit is to close: only one by hand may close an isolated one."""
        snapshot = self._exchange.snapshot
        return ZERO if snapshot is None else snapshot.position_quantity(order.intent.symbol, order.intent.margin_mode)

    def is_held(self, order: Order) -> bool:
        """True for an exit that a halt holds: it stays queued until the trader resumes."""
        if not order.is_exit:
            return False
        control = self._book.control(order.webhook_id, now=self._clock(), ignore_breaches=True)
        return bool(held_exits((order,), lambda _: control.state))

    # ---------------------------------------------------------------------------------------------------------- admission

    def on_admitted(self, orders: Iterable[Order], *, now: datetime) -> None:
        """End what the orders of a new alert replace: entries that an exit overtakes, exits of a position that is to stay."""
        for order in orders:
            if order.closes_position:
                self.end_overtaken_entries(order, now=now)
            elif order.is_entry and order.intent.target_quantity is not None:
                self._supersede_exits(order, order.intent.target_quantity, now=now)
            if order.is_exit:
                self._check_position(order, self._position_of_exit(order), now=now)

    def end_overtaken_entries(self, leaving: Order, *, now: datetime) -> None:
        """Deny queued entries that an exit of the whole position overtakes: sent later they would reopen what the strategy has left."""
        for order in list(self._book.queued.values()):
            is_before = order.sequence < self._admission(leaving) and order.webhook_id == leaving.webhook_id
            if is_before and order.is_entry and order.intent.symbol == leaving.intent.symbol:
                error = "a later alert closed the position before this entry could be sent"
                denied = transitions.denied(order, code=OVERTAKEN, error=error, now=now)
                self._book.change(order, denied, now=now)

    def _supersede_exits(self, entry: Order, target: Decimal, *, now: datetime) -> None:
        """A later alert of the webhook wants at least what is open to stay open: its earlier exits no longer apply."""
        position = self.position_of(entry.intent.symbol)
        if position * target <= 0 or abs(target) < abs(position):
            return
        for order in list(self._book.queued.values()):
            is_before = self._admission(order) < entry.sequence and order.webhook_id == entry.webhook_id
            is_same = order.intent.symbol == entry.intent.symbol and position * order.intent.side.sign < 0
            if is_before and is_same and order.is_exit:
                text = "a later alert of the same webhook keeps the position open"
                self._supersede(order, text, now=now)
                for leg in list(self._book.queued.values()):
                    if leg.alert_id == order.alert_id and leg.asked_leg > order.asked_leg:
                        self._supersede(leg, text, now=now)

    def _admission(self, order: Order) -> int:
        """The sequence of an order's admission; of a retry, that of the order which the alert asked for."""
        return order_queue.first_try(self._book, order).sequence

    # ------------------------------------------------------------------------------------------------- canceled by the exchange

    def continue_canceled(self, order: Order) -> Order:
        """Queue what an exit that the exchange has just canceled leaves open; returns it as it is to be recorded.

        To be called before the cancel is recorded: a crash in between finds the retry, which waits for it, never an exit that nothing
        continues. An exit with a bound of its own (slippage, a limit price) is not sent again; the trader hears what is still open.
        """
        now = self._clock()
        rest = order_queue.rest_of(order)
        # Before the first snapshot the position is not known; the claim of the retry looks at it again.
        is_open = self._exchange.snapshot is None or self._position_of_exit(order) * order.intent.side.sign < 0
        legs = self._book.legs.get(order.alert_id, {})
        leg = order.leg + FIRST_RETRY_LEG
        if not rest or not is_open or leg in legs:
            return order
        found = f"the exchange canceled the order with {amount(rest)} of {amount(order.intent.quantity)} not filled"
        if order.intent.order_type is not OrderType.MARKET or order.intent.slippage is not None:
            if any(self._takes_over(each, order) for each in legs.values()):
                return order
            bound = "slippage" if order.intent.order_type is OrderType.MARKET else "limit price"
            text = f"{found}, within the {bound} that the alert allows; it is not sent again"
            self._book.note("exit_canceled", order, now=now, data={"quantity": rest, "reason": text})
            log.warning("exit_canceled", client_order_id=order.client_order_id, left_open=rest)
            return transitions.left_open(order, error=text)
        doublings = min(order.leg // FIRST_RETRY_LEG, _MOST_DOUBLINGS)
        pause = min(_FIRST_RETRY_S * 2**doublings, _LONGEST_RETRY_S)
        retry = Order(
            client_order_id=client_order_id_of(order.alert_id, leg),
            alert_id=order.alert_id,
            webhook_id=order.webhook_id,
            leg=leg,
            sequence=self._book.next_sequence(),
            intent=order_queue.retry_of(order, rest),
            status=OrderStatus.QUEUED,
            created_at=now,
            expires_at=NEVER,
            next_attempt_at=now + timedelta(seconds=pause),
            error=found,
        )
        self._book.append_order(retry, now=now)
        log.warning("exit_canceled", client_order_id=order.client_order_id, left_open=rest, retry=retry.client_order_id)
        self._apply_later_targets(retry, now=now)
        return order

    def _takes_over(self, entry: Order, leaving: Order) -> bool:
        """True for the entry of a flip, which trades what the exit before it has left open (`order_queue.left_open`)."""
        leg = order_queue.leg_before(self._book, entry) if entry.is_entry and entry.finished_at is None else None
        is_same = entry.intent.symbol == leaving.intent.symbol and entry.intent.target_quantity is not None
        return is_same and leg is not None and leg.client_order_id == leaving.client_order_id

    def _apply_later_targets(self, retry: Order, *, now: datetime) -> None:
        """End a retry that an alert of its webhook has replaced which came while the order before it was at the exchange."""
        for entry in list(self._book.by_symbol.get(retry.intent.symbol, {}).values()):
            target = entry.intent.target_quantity
            if entry.is_entry and target is not None and entry.webhook_id == retry.webhook_id:
                self._supersede_exits(entry, target, now=now)

    # ------------------------------------------------------------------------------------------------------------ watching

    def _on_account(self, snapshot: AccountSnapshot) -> None:
        """A position changed."""
        now = self._clock()
        for order in list(self._book.orders.values()):
            if order.is_exit:
                position = snapshot.position_quantity(order.intent.symbol, order.intent.margin_mode)
                self._check_position(order, position, now=now)

    def check(self, order: Order, *, now: datetime) -> bool:
        """End a queued exit whose position is gone, else say now and then that it waits; True if it still waits."""
        position = self._position_of_exit(order)
        if self._check_position(order, position, now=now):
            return False
        if (order.attempt or order.created_at < self._started_at) and self._was_flat(order, position):
            self._supersede(order, _REOPENED, now=now)
            return False
        if now - order_queue.first_try(self._book, order).created_at >= _STILL_OPEN_AFTER:
            self.note_waiting(order, now=now)
        return True

    def _check_position(self, order: Order, position: Decimal, *, now: datetime) -> bool:
        """End a queued exit whose position is gone or on the other side; True if it ended. Of any other, note that it is gone."""
        name = order.client_order_id
        if position * order.intent.side.sign < 0:
            if name not in self._seen_open and not self._is_behind(order):
                self._seen_open.add(name)
            return False
        if name not in self._seen_open:
            return False  # it was admitted against what an order in flight will open
        if order.status is not OrderStatus.QUEUED:
            self._gone_at.setdefault(name, now)
            return False
        self._supersede(order, _GONE, now=now)
        return True

    def check_resting(self, *, now: datetime) -> None:
        """Request the cancel of resting orders whose purpose is over: entries that may not enter, exits of a position that is gone."""
        has_requested = False
        for order in list(self._book.orders.values()):
            if order.cancel_requested_at is not None or not order_queue.is_resting(order):
                continue
            ended = self._ended_entry(order, now=now) if order.is_entry else self._ended_exit(order, now=now)
            if ended is not None:
                code, reason = ended
                self._book.request_cancel(order, now=now, code=code, reason=reason)
                log.info("order_overtaken", client_order_id=order.client_order_id, code=code)
                has_requested = True
        if has_requested:
            self._on_cancels()

    def _ended_entry(self, order: Order, *, now: datetime) -> tuple[str, str] | None:
        """Code and reason why a resting entry may not enter any more; None if it may."""
        control = self._book.control_of_resting(order.webhook_id, now=now)
        if control.state is TradingState.RUNNING:
            return None
        return control.state.value, control.reason

    def _ended_exit(self, order: Order, *, now: datetime) -> tuple[str, str] | None:
        """Code and reason why a resting exit has nothing left to close; None while its position is open, and for protective orders."""
        if not order.is_exit:
            return None
        name = order.client_order_id
        position = self._position_of_exit(order)
        self._check_position(order, position, now=now)
        gone_at = self._gone_at.get(name) or self._left_by_fills(order, position, now=now)
        if gone_at is None or now - gone_at < _REPORTED_WITHIN:
            return None
        return SUPERSEDED, _GONE

    def _left_by_fills(self, order: Order, position: Decimal, *, now: datetime) -> datetime | None:
        """Since when the fills say that the position of a resting exit was flat meanwhile; None if they do not."""
        name = order.client_order_id
        if name not in self._left_at and self._fills_checked.get(name) == self._book.fill_count:
            return None
        self._fills_checked[name] = self._book.fill_count
        if self._was_flat(order, position):
            return self._left_at.setdefault(name, now)
        self._left_at.pop(name, None)
        return None

    def _is_behind(self, order: Order) -> bool:
        """True while orders of its market that were admitted before it may still trade: it was admitted against what they lead to."""
        for other in self._book.by_symbol.get(order.intent.symbol, {}).values():
            if other.sequence < self._admission(order) and not (other.is_settled or other.is_protective):
                leg = order_queue.leg_before(self._book, other)
                if leg is None or leg.finished_at is not None:
                    return True
        return False

    def _was_flat(self, order: Order, position: Decimal) -> bool:
        """True if the fills since an exit was admitted show that its position was flat meanwhile, perhaps while no daemon ran.

        Up to the last fill of an entry that was admitted before it, the position was not what it was admitted against.
        """
        side = order.intent.side.opposite
        if order.intent.margin_mode is not MarginMode.CROSS:
            return False
        fills = self._book.fills_since(order.intent.symbol, order.created_at)
        first = max(
            (number for number, fill in enumerate(fills, 1) if fill.side is side and self._is_earlier(fill, order)),
            default=0,
        )
        return was_left(side, position * side.sign, fills, first=first)

    def _is_earlier(self, fill: Fill, order: Order) -> bool:
        """True if a fill belongs to an order that was on its way when `order` was admitted: a resting one was not counted with."""
        name = fill.client_order_id
        if name is None:
            return False
        known = self._book.known(name)
        if known is not None:
            return known.sequence < order.sequence and not known.intent.may_rest
        return name < order.client_order_id  # both begin with the time of their alert

    def _supersede(self, order: Order, text: str, *, now: datetime) -> None:
        self._forget(order)
        if self._book.current(order).status is not OrderStatus.QUEUED:
            return
        self._book.change(order, transitions.denied(order, code=SUPERSEDED, error=text, now=now), now=now)
        log.info("order_not_sent", client_order_id=order.client_order_id, code=SUPERSEDED)

    def note_waiting(self, order: Order, *, now: datetime) -> None:
        """Say that an exit of an open position is not sent yet, and why; at most once an hour, and not while a halt holds it."""
        if self._position_of_exit(order) * order.intent.side.sign >= 0 or self.is_held(order):
            return
        key = (order.alert_id, order.intent.symbol)
        last = self._noted_at.get(key)
        if last is not None and now - last < _STILL_OPEN_EVERY:
            return
        self._noted_at[key] = now
        reason = " ".join(filter(None, (order.code, order.error))) or "it waits for an earlier order of its market"
        self._book.note("exit_waiting", order, now=now, data={"waiting_for": reason})
        log.warning("exit_waiting", client_order_id=order.client_order_id, code=order.code, reason=reason)

    def _forget(self, order: Order) -> None:
        self._seen_open.discard(order.client_order_id)
        self._noted_at.pop((order.alert_id, order.intent.symbol), None)

    def forget_ended(self) -> None:
        """Forget the exits that have ended."""
        self._seen_open &= self._book.orders.keys()
        for noted in (self._gone_at, self._left_at, self._fills_checked):
            for name in noted.keys() - self._book.orders.keys():
                del noted[name]
        for key in [key for key in self._noted_at if key[0] not in self._book.legs]:
            del self._noted_at[key]
