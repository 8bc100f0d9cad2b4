"""The book: everything that decisions need of the past, in memory, changed on the event loop's thread only.

It owns the orders that have not ended, the room they hold, totals of days, rates, cool-downs, strategy histories, trading states and
known fills. Deciding and reserving happen in one turn of the loop, so limits are exact however many alerts arrive together. Every change is
also a row of the journal; at a start the book is rebuilt from the tables, and equals what it was.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

from msgspec.structs import replace

from kekbridge.exchange.base import FundingPayment
from kekbridge.model import (
    UNCOMMITTED,
    ZERO,
    Commitment,
    Fill,
    LimitBreach,
    MarginMode,
    Order,
    OrderStatus,
    Purpose,
    Reservation,
    StrategyHistory,
    TradingState,
    Usage,
    Verdict,
)
from kekbridge.model.orders import ExitStatus
from kekbridge.risk.account_exposure import AccountExposure
from kekbridge.risk.holdings import NOBODY, Holdings
from kekbridge.risk.rates import RateWindows
from kekbridge.store import codec, facts, settings
from kekbridge.store.codec import EXACT
from kekbridge.store.facts import ExitsFact, FillFact, OrderFact, OwnedFill
from kekbridge.store.journal import Entry
from kekbridge.store.projector import funding_moves, realized_moves
from kekbridge.store.reservations import DayTotals, daily_share, reservation_of
from kekbridge.store.settings import ACCOUNT, TradingControl

# Ended orders remembered: news of one may have been on their way when it ended.
_MOST_ENDED: Final = 1_000
#: Fills remembered, so that the same trade from the stream and from a query counts once; older ones are looked up.
MOST_FILLS: Final = 2_000
_NEVER_REACHED: Final = (OrderStatus.DENIED, OrderStatus.EXPIRED, OrderStatus.REJECTED)
_TIMES: Final = ("created_at", "expires_at", "next_attempt_at", "submitted_at", "accepted_at", "finished_at")
_Kind = tuple[bool, bool, bool, bool]  # of a sum: is_entry, is_buy, is_resting, is_margined


def _ignore(_order: Order) -> None:
    pass


class Book:
    """The state of one account; `loading.load_book` fills it."""

    def __init__(
        self, append: Callable[[Entry], None] = lambda _: None, publish: Callable[[Order], None] = _ignore
    ) -> None:
        """`append` gets the row of every change, `publish` every changed order."""
        self._append = append
        self._publish = publish
        #: Unfinished orders by client order id, in order of admission.
        self.orders: dict[str, Order] = {}
        #: The same by symbol.
        self.by_symbol: dict[str, dict[str, Order]] = {}
        #: Queued orders among them that the dispatcher sends: all but protective ones (protection_controller.py).
        self.queued: dict[str, Order] = {}
        #: Every leg of alerts with an unfinished order, by our id of the alert.
        self.legs: dict[str, dict[int, Order]] = {}
        #: The open orders' reservations summed by symbol; symbols without any are left out.
        self.commitments: dict[str, Commitment] = {}
        #: Running sums of what the account may come to hold, for `decide` and `recheck`.
        self.exposure = AccountExposure()
        #: Which webhook holds how much of each position, by the recorded fills.
        self.holdings = Holdings()
        #: Alerts in each sliding window.
        self.rates = RateWindows()
        #: Grows with every change that may make a decision look different: a trading state, a limit, a fill.
        self.version = 0
        #: USDC; None before the first mark.
        self.equity_peak: Decimal | None = None
        self.sequence = 0  # of the order admitted last
        #: Grows with every fill that is recorded.
        self.fill_count = 0
        self._sums: dict[str, dict[_Kind, list[Any]]] = {}
        self._prices: dict[str, dict[str, Decimal]] = {}
        self._days: dict[tuple[str, str], DayTotals] = {}
        self._first_day = ""  # totals of earlier days are not kept
        self._entries: dict[str, dict[str, dict[str, datetime]]] = {}  # for cool-downs: by webhook, symbol and order
        self._histories: dict[str, dict[str, StrategyHistory]] = {}
        self._controls: dict[str, TradingControl] = {}
        self._fills: OrderedDict[str, OwnedFill] = OrderedDict()
        self._recorded: dict[str, Decimal] = {}  # quantity of the recorded fills, of unfinished and incomplete orders
        #: Orders, open or ended, whose recorded fills do not add up to what they have executed, by client order id.
        self.incomplete: dict[str, Order] = {}
        self._fills_since: datetime | None = None  # every fill executed from this time on is remembered
        self._entrants: dict[str, str] = {}  # by symbol: webhook whose entry the exchange accepted last
        self._by_order_id: dict[str, str] = {}  # the exchange's id of unfinished orders
        self._ended: OrderedDict[str, Order] = OrderedDict()  # those that ended last
        self._signed: dict[str, datetime] = {}  # when the request of an order was signed, until its next row says so

    # ------------------------------------------------------------------------------------------------------------- deciding

    def usage(
        self, webhook_id: str, *, now: datetime, cooldown_s: int = 86_400, excluding: Order | None = None
    ) -> Usage:
        """What a webhook and the account have used of their limits at `now`.

        `cooldown_s`: how far back `last_entry_at` goes. `excluding`: an order that is rechecked before it is sent. Its own reservation and
        daily share are left out, and so are breaches: it had room when it was admitted, and the limits are checked again.
        """
        day = codec.day_of(now)
        own, account = self.day(webhook_id, day), self.day(ACCOUNT, day)
        is_recheck = excluding is not None
        control = settings.strictest(self._controls, webhook_id, now=now, ignore_breaches=is_recheck)
        is_own = control.state is not TradingState.RUNNING and webhook_id == settings.closing_scope(
            self._controls, webhook_id, now=now, ignore_breaches=is_recheck
        )
        share = daily_share(excluding if excluding is not None and codec.day_of(excluding.created_at) == day else None)
        return Usage(
            now=now,
            trading_state=control.state,
            trading_reason=control.reason,
            trading_scope="webhook" if is_own and webhook_id != ACCOUNT else "account",
            waiting_orders=len(self.queued),
            traded_today=own.notional - share.notional,
            orders_today=own.orders - share.orders,
            account_traded_today=account.notional - share.notional,
            account_orders_today=account.orders - share.orders,
            commitments=self.commitments,
            changed_commitments={} if excluding is None else self._commitment_without(excluding),
            last_entry_at=self._last_entries(webhook_id, now, cooldown_s, excluding) if cooldown_s > 0 else {},
            realized_today=own.result,
            account_realized_today=account.result,
            equity_peak=self.equity_peak,
            strategy_histories=self._histories.get(webhook_id, {}),
        )

    def day(self, scope: str, day: str) -> DayTotals:
        """Totals of a scope (a webhook's id, or `account`) on a UTC day `YYYY-MM-DD`, yesterday or later."""
        return self._days.get((scope, day)) or DayTotals()

    def control(self, scope: str, *, now: datetime, ignore_breaches: bool = False) -> TradingControl:
        """The stricter trading state of the account and a webhook (or `account`) at a time."""
        return settings.strictest(self._controls, scope, now=now, ignore_breaches=ignore_breaches)

    def control_of_resting(self, webhook_id: str, *, now: datetime) -> TradingControl:
        """The trading state that orders of a webhook which rest at the exchange are subject to: they count in the day's totals already."""
        return settings.strictest(self._controls, webhook_id, now=now, ignored=settings.BY_TOTALS)

    def _commitment_without(self, order: Order) -> Mapping[str, Commitment]:
        """What the other orders of an order's symbol hold, by that symbol."""
        symbol = order.intent.symbol
        held = reservation_of(order)
        if held is None or order.client_order_id not in self.orders:
            return {}
        self._add(held, -1)
        without = self._summed(symbol) or UNCOMMITTED
        self._add(held, 1)
        return {symbol: without}

    def _last_entries(
        self, webhook_id: str, now: datetime, cooldown_s: int, excluding: Order | None
    ) -> dict[str, datetime]:
        since = now - timedelta(seconds=cooldown_s)
        skipped = excluding and excluding.client_order_id
        found: dict[str, datetime] = {}
        for symbol, entries in self._entries.get(webhook_id, {}).items():
            times = [at for name, at in entries.items() if name != skipped]
            if times and (last := max(times)) > since:
                found[symbol] = last
        return found

    # --------------------------------------------------------------------------------------------------------------- orders

    def next_sequence(self) -> int:
        """The sequence of the next order to be admitted."""
        self.sequence += 1
        return self.sequence

    def add(self, order: Order) -> None:
        """Reserve room for a new order. Its row is appended by the caller."""
        self._move(None, order)

    def append_order(self, order: Order, *, now: datetime) -> None:
        """Reserve room for a new order, append its row and publish it."""
        fact = self.apply(None, order, now=now)
        assert fact is not None  # noqa: S101 - a new order is a change
        self._append(facts.order_entry(fact))
        self._publish(fact.after)

    def remove(self, order: Order) -> None:
        """Undo `add`: the row of the order could not be stored."""
        name, symbol = order.client_order_id, order.intent.symbol
        current = self.orders.pop(name)
        self.by_symbol[symbol].pop(name)
        if not self.by_symbol[symbol]:
            del self.by_symbol[symbol]
        self.queued.pop(name, None)
        legs = self.legs.get(order.alert_id, {})
        legs.pop(order.leg, None)
        if not legs:
            self.legs.pop(order.alert_id, None)
        self._entries.get(order.webhook_id, {}).get(symbol, {}).pop(name, None)
        held = reservation_of(current)
        if held is not None:
            self._add(held, -1)
            self._sum_up(symbol)
        share = daily_share(current)
        self._add_share(current, DayTotals(-share.notional, -share.orders))

    def change(
        self,
        before: Order,
        after: Order,
        *,
        now: datetime,
        verdicts: tuple[Verdict, ...] = (),
        request: str | None = None,
        has_later_exits: bool = False,
        position: Decimal | None = None,
    ) -> Order:
        """Apply a transition (transitions.py), append its row and publish the order; returns it as stored. No row if nothing changed.

        `position`: in its market after its execution, for the history.
        """
        fact = self.apply(
            before,
            after,
            now=now,
            verdicts=verdicts,
            request=request,
            has_later_exits=has_later_exits,
            position=position,
        )
        if fact is None:
            return before
        self._append(facts.order_entry(fact))
        self._publish(fact.after)
        return fact.after

    def apply(
        self,
        before: Order | None,
        after: Order,
        *,
        now: datetime,
        verdicts: tuple[Verdict, ...] = (),
        request: str | None = None,
        has_later_exits: bool = False,
        position: Decimal | None = None,
    ) -> OrderFact | None:
        """`change` without appending and publishing, for a caller that does both when the row is on disk; None if nothing changed."""
        after = with_ms_times(after)
        signed_at = self._signed.pop(after.client_order_id, None)
        if after == before and signed_at is None:
            return None
        self._move(before, after)
        self._remember_ended(after)
        return OrderFact(
            before=before,
            after=after,
            at=codec.truncate_to_ms(now),
            request=request,
            verdicts=verdicts,
            signed_at=None if signed_at is None else codec.truncate_to_ms(signed_at),
            has_later_exits=has_later_exits,
            position=position,
        )

    def revert(self, fact: OrderFact) -> None:
        """Undo `apply`: the row could not be stored."""
        assert fact.before is not None  # noqa: S101 - added orders are removed
        requested_at = self.current(fact.after).cancel_requested_at  # perhaps meanwhile
        self._move(fact.after, replace(fact.before, cancel_requested_at=requested_at))

    def request_cancel(self, order: Order, *, now: datetime, code: str | None = None, reason: str = "") -> Order:
        """Note that an order is to be cancelled (canceller.py), unless it is noted already or the order has ended; returns the order.

        `code`, `reason`: why, for the history; None: an alert or the trader asked for it.
        """
        order = self.current(order)
        if order.cancel_requested_at is not None or order.finished_at is not None:
            return order
        at = codec.truncate_to_ms(now)
        after = replace(order, cancel_requested_at=at)
        self._move(order, after)
        name, alert_id = after.client_order_id, after.alert_id
        data = {} if code is None else {"code": code, "reason": reason}
        self._append(facts.plain_entry("cancel_requested", at=at, data=data, alert_id=alert_id, client_order_id=name))
        self._publish(after)
        return after

    def note_signed(self, client_order_id: str, at: datetime) -> None:
        """Note when the request of an order was signed: the next row of the order says so."""
        if client_order_id in self.orders:
            self._signed[client_order_id] = at

    def current(self, order: Order) -> Order:
        """An order as it is now: it may have changed or ended since it was read. Apply transitions to this one only."""
        name = order.client_order_id
        return self.orders.get(name) or self._ended.get(name) or self.incomplete.get(name) or order

    def known(self, client_order_id: str) -> Order | None:
        """The order of a client order id, if it is open or ended lately."""
        return self.orders.get(client_order_id) or self._ended.get(client_order_id)

    def order_of(self, order_id: str) -> Order | None:
        """The unfinished or incomplete order with this id of the exchange."""
        name = self._by_order_id.get(order_id)
        return None if name is None else self.orders.get(name) or self.incomplete.get(name)

    def _move(self, before: Order | None, after: Order) -> None:
        """Bring everything that depends on an order from `before` to `after`."""
        name, symbol = after.client_order_id, after.intent.symbol
        is_open = after.finished_at is None
        if is_open:
            self.orders[name] = after
            self.by_symbol.setdefault(symbol, {})[name] = after
        elif self.orders.pop(name, None) is not None:
            of_symbol = self.by_symbol[symbol]
            del of_symbol[name]
            if not of_symbol:
                del self.by_symbol[symbol]
        if is_open and after.status is OrderStatus.QUEUED and after.intent.purpose is not Purpose.PROTECT:
            self.queued[name] = after
        else:
            self.queued.pop(name, None)
        self._move_leg(after, is_open=is_open)
        if before is not None and before.order_id is not None and before.order_id != after.order_id:
            self._by_order_id.pop(before.order_id, None)  # it is sent again
        if after.order_id is not None and (before is None or before.order_id is None):
            self._on_order_id(after)
        self._note_completeness(before, after)
        self._move_entry(before, after)
        if before is None or not _holds_same_room(before, after):
            self._move_room(before, after)

    def _note_completeness(self, before: Order | None, after: Order) -> None:
        """Keep whether the recorded fills of an order add up to what it has executed; of complete ended orders nothing is kept."""
        name = after.client_order_id
        if (
            before is not None
            and before.finished_at is not None
            and name not in self._recorded.keys() | self.incomplete
        ):
            self._recorded[name] = before.executed_quantity  # it had ended completely
        if after.executed_quantity > self._recorded.get(name, ZERO):
            self.incomplete[name] = after
            if after.order_id is not None:
                self._by_order_id[after.order_id] = name
            return
        self.incomplete.pop(name, None)
        if after.finished_at is not None:
            self._recorded.pop(name, None)
            if after.order_id is not None:
                self._by_order_id.pop(after.order_id, None)

    def _remember_ended(self, order: Order) -> None:
        if order.finished_at is None:
            self._ended.pop(order.client_order_id, None)
            return
        self._ended[order.client_order_id] = order
        if len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)

    def _move_leg(self, order: Order, *, is_open: bool) -> None:
        legs = self.legs.get(order.alert_id)
        if legs is None:
            if is_open:
                self.legs[order.alert_id] = {order.leg: order}
            return
        legs[order.leg] = order
        if not is_open and all(each.finished_at is not None for each in legs.values()):
            del self.legs[order.alert_id]

    def _on_order_id(self, order: Order) -> None:
        if order.finished_at is None and order.order_id is not None:
            self._by_order_id[order.order_id] = order.client_order_id
        if order.is_entry:
            self._entrants[order.intent.symbol] = order.webhook_id
            entries = self._entries.get(order.webhook_id, {}).get(order.intent.symbol, {})
            for name in [name for name, at in entries.items() if at < order.created_at]:
                del entries[name]  # no earlier one can be the last again

    def _move_entry(self, before: Order | None, after: Order) -> None:
        """Keep when entries were admitted, for cool-downs; those that never reached the exchange start none."""
        if not after.is_entry:
            return
        if _never_reached(after):
            self._entries.get(after.webhook_id, {}).get(after.intent.symbol, {}).pop(after.client_order_id, None)
        elif before is None or _never_reached(before):
            of_webhook = self._entries.setdefault(after.webhook_id, {})
            of_webhook.setdefault(after.intent.symbol, {})[after.client_order_id] = after.created_at

    def _move_room(self, before: Order | None, after: Order) -> None:
        held = None if before is None else reservation_of(before)
        holds = reservation_of(after)
        if held != holds:
            if held is not None:
                self._add(held, -1)
            if holds is not None:
                self._add(holds, 1)
            self._sum_up(after.intent.symbol)
        old, new = daily_share(before), daily_share(after)
        if old != new:
            self._add_share(after, DayTotals(EXACT.subtract(new.notional, old.notional), new.orders - old.orders))

    def _add(self, held: Reservation, change: int) -> None:
        """Add a reservation to its sum (`change` 1) or subtract it (-1). The sum of no orders is exactly zero."""
        sums = self._sums.setdefault(held.symbol, {})
        kind = (held.is_entry, held.quantity > 0, held.is_resting, held.is_margined)
        total = sums.setdefault(kind, [ZERO, 0])
        total[0] = EXACT.add(total[0], held.quantity) if change > 0 else EXACT.subtract(total[0], held.quantity)
        total[1] += change
        if not total[1]:
            del sums[kind]
        prices = self._prices.setdefault(held.symbol, {})
        if change > 0:
            prices[held.client_order_id] = held.price
        else:
            prices.pop(held.client_order_id, None)

    def _sum_up(self, symbol: str) -> None:
        summed = self._summed(symbol)
        if summed is None:
            self.commitments.pop(symbol, None)
        else:
            self.commitments[symbol] = summed

    def _summed(self, symbol: str) -> Commitment | None:
        sums = self._sums.get(symbol)
        if not sums:
            return None
        price = max(self._prices[symbol].values(), default=ZERO)
        found = UNCOMMITTED
        for (is_entry, _, is_resting, is_margined), (quantity, _) in sorted(sums.items()):
            found = found.plus(quantity, is_entry=is_entry, is_resting=is_resting, is_margined=is_margined, price=price)
        return found

    def _add_share(self, order: Order, change: DayTotals) -> None:
        day = codec.day_of(order.created_at)
        self._add_to_day(order.webhook_id, day, change)
        self._add_to_day(ACCOUNT, day, change)

    def _add_to_day(self, scope: str, day: str, change: DayTotals) -> None:
        if day >= self._first_day:
            self._days[scope, day] = self.day(scope, day).plus(change)

    # ------------------------------------------------------------------------------------------------- alerts and their rest

    def set_histories(self, webhook_id: str, histories: Iterable[tuple[str, StrategyHistory]]) -> None:
        """Replace the strategy's histories of these symbols."""
        for symbol, history in histories:
            self._histories.setdefault(webhook_id, {})[symbol] = history

    def histories_of(self, webhook_id: str, symbols: Iterable[str]) -> tuple[tuple[str, StrategyHistory | None], ...]:
        """The present histories of these symbols, to be put back if what replaces them cannot be stored."""
        known = self._histories.get(webhook_id, {})
        return tuple((symbol, known.get(symbol)) for symbol in symbols)

    def restore_histories(self, webhook_id: str, before: Iterable[tuple[str, StrategyHistory | None]]) -> None:
        """Undo `set_histories`."""
        known = self._histories.setdefault(webhook_id, {})
        for symbol, history in before:
            if history is None:
                known.pop(symbol, None)
            else:
                known[symbol] = history

    def close_for_breach(self, breach: LimitBreach, *, webhook_id: str, now: datetime) -> bool:
        """Close the breach's scope for entries; False if it is closed as long already. One row per breach, not per denied alert."""
        scope = ACCOUNT if breach.scope == ACCOUNT else webhook_id
        control = settings.breach_control(self._controls.get(scope), breach, now=codec.truncate_to_ms(now))
        if control is None:
            return False
        self.set_control(scope, control, now=now)
        return True

    def close_for_entries(self, *, reason: str, by: str, now: datetime) -> None:
        """Restrict the account to exits until the trader resumes; nothing changes if it is restricted as strictly already."""
        current = self._controls.get(ACCOUNT)
        control = settings.closed_for_entries(current, reason=reason, by=by, now=codec.truncate_to_ms(now))
        if control is not None:
            self.set_control(ACCOUNT, control, now=now)

    def set_control(self, scope: str, control: TradingControl, *, now: datetime) -> None:
        """Set the trading state of a scope and append its row."""
        self._controls[scope] = control
        self.version += 1
        at = codec.truncate_to_ms(now)
        self._append(facts.plain_entry("trading_state", at=at, data=settings.state_data(scope, control)))

    def resume_elapsed(self, *, now: datetime) -> tuple[str, ...]:
        """Resume every scope (a webhook's id, or `account`) whose stop has ended, with a row each; return those scopes.

        Decisions ignore an ended stop anyway; this makes the stored state and the notifications say so.
        """
        ended = [
            (scope, control)
            for scope, control in sorted(self._controls.items())
            if control.state is not TradingState.RUNNING and control.until is not None and control.until <= now
        ]
        for scope, control in ended:
            self.set_state(scope, TradingState.RUNNING, reason=f"{control.reason} (over)", by=control.by, now=now)
        return tuple(scope for scope, _ in ended)

    def resume_all(self, *, reason: str, by: str, now: datetime) -> tuple[str, ...]:
        """Resume the account and every webhook that is not running; return the ids of those webhooks."""
        closed = tuple(
            scope
            for scope in sorted(self._controls)
            if scope != ACCOUNT and settings.control_at(self._controls[scope], now).state is not TradingState.RUNNING
        )
        for scope in (ACCOUNT, *closed):
            self.set_state(scope, TradingState.RUNNING, reason=reason, by=by, now=now)
        return closed

    def set_state(self, scope: str, state: TradingState, *, reason: str, by: str, now: datetime) -> None:
        """Halt, restrict to exits, or resume the account or one webhook (`scope` = its id). Applies to the next decision."""
        at = codec.truncate_to_ms(now)
        self.set_control(scope, TradingControl(state=state, reason=reason, by=by, since=at), now=at)

    def note(self, kind: str, order: Order, *, now: datetime, data: Mapping[str, object] | None = None) -> None:
        """Append a row about an order that no table follows from."""
        at = codec.truncate_to_ms(now)
        text = codec.to_json(data or {})
        entry = Entry(kind=kind, at=at, alert_id=order.alert_id, client_order_id=order.client_order_id, data=text)
        self._append(entry)

    def append(self, entry: Entry) -> None:
        """Append the row of something that the book does not hold."""
        self._append(entry)

    # ---------------------------------------------------------------------------------------------------------------- fills

    def fill(self, trade_id: str) -> OwnedFill | None:
        """The fill of a trade, if it is remembered."""
        return self._fills.get(trade_id)

    def fills_since(self, symbol: str, since: datetime) -> tuple[Fill, ...]:
        """The remembered fills of a symbol's cross position executed after `since`, oldest first."""
        found = (
            owned.fill
            for owned in self._fills.values()
            if owned.fill.symbol == symbol and owned.fill.margin_mode is MarginMode.CROSS
        )
        return tuple(
            sorted(
                (fill for fill in found if fill.executed_at > since),
                key=lambda fill: (fill.executed_at, len(fill.trade_id), fill.trade_id),
            )
        )

    def lacks_fills(self, order: Order, executed: Decimal) -> bool:
        """True if the recorded fills of an order do not add up to what it has executed, in base units."""
        name = order.client_order_id
        if name not in self.orders and name not in self.incomplete:
            return executed > order.executed_quantity
        return executed > self._recorded.get(name, ZERO)

    def unknown_trades(self, fills: Iterable[Fill]) -> tuple[str, ...]:
        """Trade ids that may have been stored before the oldest fill that is remembered: look them up, and `remember` what is found."""
        since = self._fills_since
        return tuple(
            fill.trade_id
            for fill in fills
            if fill.trade_id not in self._fills and (since is None or fill.executed_at < since)
        )

    def remember(self, fills: Iterable[OwnedFill], *, since: datetime | None = None) -> None:
        """Remember stored fills. `since`: every stored fill executed from this time on is among them."""
        for owned in fills:
            self._fills[owned.fill.trade_id] = owned
        if since is not None:
            self._fills_since = since
        self._forget_fills()

    def entrant(self, symbol: str) -> str | None:
        """Id of the webhook whose entry in the symbol the exchange accepted last; None if it is not known here."""
        return self._entrants.get(symbol)

    def set_entrant(self, symbol: str, webhook_id: str) -> None:
        """Set what `entrant` returns, from the store."""
        self._entrants.setdefault(symbol, webhook_id)

    def record_fill(self, fill: Fill, *, order: Order | None) -> bool:
        """Record a fill by its trade id; True if it is new. `order`: ours that it belongs to; None: not one of ours.

        A fill reported again can add what was missing (its order, its realized P&L), never a second one. Realized P&L counts on the UTC day
        of execution for the account and for the webhook whose order, or whose last entry in the symbol, it belongs to: an exit executed by
        the exchange itself (a triggered stop) is the result of the webhook that entered. Isolated positions are no webhook's.
        """
        fill = _with_ms_time(fill)
        known = self._fills.get(fill.trade_id)
        if known is None:
            entrant = self.entrant(fill.symbol) if fill.margin_mode is MarginMode.CROSS else None
            owner = entrant if order is None else order.webhook_id
            after = OwnedFill(
                fill=replace(fill, client_order_id=None if order is None else order.client_order_id), webhook_id=owner
            )
        else:
            name, owner = known.fill.client_order_id, known.webhook_id
            if name is None and order is not None and known.exit_of is None:
                name, owner = order.client_order_id, order.webhook_id
            realized = known.fill.realized_pnl if fill.realized_pnl is None else fill.realized_pnl
            after = replace(
                known, fill=replace(known.fill, client_order_id=name, realized_pnl=realized), webhook_id=owner
            )
        self._store_fill(known, after, order.alert_id if order is not None else None, order)
        return known is None

    def record_exit(self, fill: Fill, *, entry: Order) -> bool:
        """Record an execution of an entry's own stop loss or take-profit; True if it is new.

        It belongs to no order of ours, but its P&L counts for the entry's webhook, and a row of the entry's alert says so.
        """
        fill = _with_ms_time(fill)
        known = self._fills.get(fill.trade_id)
        if known is not None and known.exit_of is not None:
            return False
        realized = known.fill.realized_pnl if known is not None and fill.realized_pnl is None else fill.realized_pnl
        after = OwnedFill(
            fill=replace(fill if known is None else known.fill, client_order_id=None, realized_pnl=realized),
            webhook_id=entry.webhook_id,
            exit_of=entry.client_order_id,
        )
        self._store_fill(known, after, None)
        data = {"trade_id": fill.trade_id, "side": fill.side, "price": fill.price, "quantity": fill.quantity}
        self.note("exit_fill", entry, now=fill.executed_at, data=data)
        return known is None

    def record_exits(self, entry: Order, legs: tuple[ExitStatus, ...], *, now: datetime) -> None:
        """Append the row of the reported state of an entry's own exits."""
        fact = ExitsFact(client_order_id=entry.client_order_id, legs=legs, at=codec.truncate_to_ms(now))
        self._append(facts.exits_entry(fact, entry.alert_id))

    def _store_fill(
        self, before: OwnedFill | None, after: OwnedFill, alert_id: str | None, ended: Order | None = None
    ) -> None:
        """`ended`: the order that it belongs to, which may have ended."""
        if after == before:
            return
        self._fills[after.fill.trade_id] = after
        self.fill_count += 1
        self._forget_fills()
        name = after.fill.client_order_id
        if name is not None and (before is None or before.fill.client_order_id != name):
            order = self.orders.get(name) or self.incomplete.get(name)
            if order is not None:
                self._recorded[name] = EXACT.add(self._recorded.get(name, ZERO), after.fill.quantity)
                self._note_completeness(order, order)
            elif ended is not None:  # its report, which follows, says what it has executed with this fill
                recorded = self._recorded.get(name, ended.executed_quantity)
                self._recorded[name] = EXACT.add(recorded, after.fill.quantity)
        signed = after.fill.quantity * after.fill.side.sign
        if after.fill.margin_mode is not MarginMode.CROSS:
            pass  # webhooks hold parts of cross positions only
        elif before is None:
            self.holdings.record(after.fill.symbol, after.webhook_id or NOBODY, signed, after.foreign_id)
        elif (before.webhook_id, before.foreign_id) != (after.webhook_id, after.foreign_id):
            source, target = before.webhook_id or NOBODY, after.webhook_id or NOBODY
            self.holdings.move(after.fill.symbol, signed, source=source, target=target, foreign_id=before.foreign_id)
        fact = FillFact(before=before, after=after)
        day = codec.day_of(after.fill.executed_at)
        for scope, amount in realized_moves(fact):
            self._add_to_day(scope, day, DayTotals(realized_pnl=amount))
        if alert_id is None or after.fill.realized_pnl:
            self.version += 1  # not only what an order of ours was reserved for
        self._append(facts.fill_entry(fact, alert_id))

    def record_funding(self, payment: FundingPayment, at: datetime) -> None:
        """Record a funding payment that is not stored yet; it counts on its UTC day for the account and for the webhook that entered."""
        at = codec.truncate_to_ms(at)
        data = {
            "symbol": payment.symbol,
            "margin_mode": payment.margin_mode,
            "at": at,
            "fee": payment.fee,
            "rate": payment.rate,
            "mark_price": payment.mark_price,
            "webhook_id": self.entrant(payment.symbol) if payment.margin_mode is MarginMode.CROSS else None,
        }
        entry = facts.plain_entry("funding", at=at, data=data)
        for scope, day, paid in funding_moves(entry.fact.data):
            self._add_to_day(scope, day, DayTotals(funding=paid))
        self.version += 1
        self._append(entry)

    def _forget_fills(self) -> None:
        while len(self._fills) > MOST_FILLS:
            _, oldest = self._fills.popitem(last=False)
            later = oldest.fill.executed_at + timedelta(milliseconds=1)
            self._fills_since = later if self._fills_since is None else max(self._fills_since, later)

    # --------------------------------------------------------------------------------------------------------------- loading

    def load_orders(self, orders: Iterable[Order], *, sequence: int) -> None:
        """Take over the unfinished orders of the store, in order of admission; the days have counted them. `sequence`: the last used."""
        days, first_day = self._days, self._first_day
        self._days, self._first_day = {}, "~"
        for order in orders:
            self._move(None, order)
        self._days, self._first_day = days, first_day
        self.sequence = max(self.sequence, sequence)

    def held_by_others(self, webhook_id: str, symbol: str, position: Decimal) -> Decimal:
        """Signed quantity that other webhooks hold of a position, as the exchange shows it, and what their orders in flight will add."""
        others = self.holdings.of_others(symbol, webhook_id, position=position)
        for order in self.by_symbol.get(symbol, {}).values():
            if order.webhook_id != webhook_id and not order.intent.may_rest:
                held = reservation_of(order)
                others += ZERO if held is None else held.quantity
        return others

    def kept_from(self, order: Order, position: Decimal) -> Decimal:
        """Signed quantity that an order which is about to be sent must leave of a position, as the exchange shows it.

        That is what other webhooks hold and, beside them, what sent exits of its own webhook may still close. Where it is alone, the
        exchange bounds all exits by the position.
        """
        symbol = order.intent.symbol
        others = self.holdings.of_others(symbol, order.webhook_id, position=position)
        if others == 0:
            return ZERO
        leaving = ZERO
        for other in self.by_symbol.get(symbol, {}).values():
            is_sent = other.status is not OrderStatus.QUEUED and other.client_order_id != order.client_order_id
            is_exit = other.intent.reduce_only and not other.intent.may_rest and other.webhook_id == order.webhook_id
            if is_sent and is_exit:
                known = max(other.executed_quantity, self._recorded.get(other.client_order_id, ZERO))
                leaving += max(other.intent.quantity - known, ZERO) * other.intent.side.sign
        return others - leaving

    def load_recorded(self, order: Order, quantity: Decimal) -> None:
        """Take over the quantity of the recorded fills of an unfinished or incomplete order."""
        self._recorded[order.client_order_id] = quantity
        self._note_completeness(order, order)

    def load_legs(self, orders: Iterable[Order]) -> None:
        """Take over the ended legs of alerts with unfinished orders."""
        for order in orders:
            legs = self.legs.get(order.alert_id)
            if legs is not None:
                legs.setdefault(order.leg, order)

    def load_days(self, totals: Mapping[tuple[str, str], DayTotals], *, since: str) -> None:
        """Take over the totals of the days from `since` on."""
        self._days, self._first_day = dict(totals), since

    def load_controls(self, controls: Mapping[str, TradingControl]) -> None:
        """Take over the trading states."""
        self._controls = dict(controls)

    def load_histories(self, histories: Mapping[str, Mapping[str, StrategyHistory]]) -> None:
        """Take over the strategies' histories."""
        self._histories = {webhook_id: dict(of_webhook) for webhook_id, of_webhook in histories.items()}

    def load_entries(self, webhook_id: str, entries: Iterable[tuple[str, datetime, str]]) -> None:
        """Take over the last entries of a webhook: symbol, time and client order id of each."""
        of_webhook = self._entries.setdefault(webhook_id, {})
        for symbol, at, name in entries:
            of_webhook.setdefault(symbol, {}).setdefault(name, at)

    def comparable(self) -> dict[str, object]:
        """Everything that decisions depend on, without what only remembers longer: equal for a live book and one rebuilt from the store."""
        return {
            "orders": dict(sorted(self.orders.items())),
            "queued": sorted(self.queued),
            "incomplete": dict(sorted(self.incomplete.items())),
            "legs": {order.alert_id: dict(sorted(self.legs[order.alert_id].items())) for order in self.queued.values()},
            "commitments": dict(sorted(self.commitments.items())),
            "days": {key: totals for key, totals in sorted(self._days.items()) if totals != DayTotals()},
            "histories": {key: found for key, found in sorted(self._histories.items()) if found},
            "controls": dict(sorted(self._controls.items())),
            "equity_peak": self.equity_peak,
        }


def with_ms_times(order: Order) -> Order:
    """The order as it would be read back: its times in whole milliseconds."""
    changes: dict[str, datetime] = {}
    for name, moment in zip(_TIMES, _times_of(order), strict=True):
        if moment is not None and moment.microsecond % 1000:
            changes[name] = codec.truncate_to_ms(moment)
    return replace(order, **changes) if changes else order


def _never_reached(order: Order) -> bool:
    """True for an order that ended without reaching the exchange; it may turn out later that it did."""
    return order.finished_at is not None and order.order_id is None and order.status in _NEVER_REACHED


def _with_ms_time(fill: Fill) -> Fill:
    moment = fill.executed_at
    return replace(fill, executed_at=codec.truncate_to_ms(moment)) if moment.microsecond % 1000 else fill


_times_of: Final = attrgetter(*_TIMES)


def _holds_same_room(before: Order, after: Order) -> bool:
    """True if the transition certainly changes no room, such as a claim: true for most, so it is checked before computing anything."""
    return (
        before.finished_at is None
        and after.finished_at is None
        and (before.intent is after.intent or before.intent == after.intent)
        and before.executed_quantity == after.executed_quantity
        and before.average_price == after.average_price
        and (before.status in _MARGINED) == (after.status in _MARGINED)
    )


_MARGINED: Final = frozenset({OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED})
