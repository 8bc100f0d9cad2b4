"""Plan an entry's exits: which stop, take-profits and trailing stop it should have at the exchange, and what to do about the rest. Pure.

`plan_exits` compares what is wanted with what the exchange reports, and returns the next actions; protection_controller.py executes them
and asks again until there are none. Nothing is counted: a try that failed is repeated for as long as the position is open.

How much of an entry is open is what it executed, less what its exits closed, at most what is left of the position. Sizes are rounded down
to the exchange's grid as it is now, prices towards less risk; a remainder below the smallest order can neither be covered nor closed.

Where more of the position is open than this entry, no exit may be larger than what is left of the entry: it would close what belongs to
another entry or webhook. One that is larger is replaced: a stop goes once its successor is live, a take-profit before that is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kekbridge.model import ZERO, Instrument, Order, OrderIntent, OrderStatus, OrderType, Purpose, TakeProfit
from kekbridge.model.orders import ExitKind, OrderStatusReport
from kekbridge.planning.prices import ceil_price, floor_price
from kekbridge.planning.sizing import floor_quantity

#: A position or an order may be visible to queries this many seconds after its fill or its acceptance.
READ_LAG_S: Final = 4.0
# An exit that has fired is matched within milliseconds; one that is not after this long is replaced.
_FIRING_S: Final = 3.0
# A stop without an answer for this long is sent again: two stops do less harm than none. Others wait until it is resolved.
_UNANSWERED_STOP_S: Final = 1.0
# An entry whose bracket cannot be found has most likely just filled: its stop is there, only not visible.
_INVISIBLE_S: Final = 1.5


class Role(StrEnum):
    """What an added order is for."""

    #: In place of the entry's own stop loss.
    STOP = "stop"
    TRAILING = "trailing"
    #: A plain stop in place of a trailing stop that cannot be placed.
    FALLBACK = "fallback"
    TAKE_PROFIT = "take_profit"
    #: Closes what no stop covers.
    CLOSE = "close"


#: Role of an order, and for take-profits their trigger price in USDC.
Slot = tuple[Role, Decimal | None]


class Coverage(StrEnum):
    """What protects an entry."""

    #: The order that the alert asked for.
    OWN = "own"
    #: Another order in its place.
    REPLACED = "replaced"
    #: Nothing, or not all of it.
    MISSING = "missing"
    #: Nothing, and what is left of it is too small for an order.
    DUST = "dust"


class ExitOrder(Struct, frozen=True, kw_only=True):
    """An order that kekbridge added to protect an entry."""

    order: Order
    #: What the exchange reports; None: it is not there, or not visible yet.
    report: OrderStatusReport | None
    #: Seconds since it was sent.
    age_s: float

    @property
    def role(self) -> Role:
        return role_of(self.order.intent)

    @property
    def slot(self) -> Slot:
        return slot_of(self.order.intent)

    @property
    def executed(self) -> Decimal:
        """Base units."""
        known = self.order.executed_quantity
        return known if self.report is None else max(known, self.report.executed_quantity)

    @property
    def is_draft(self) -> bool:
        """True if it is proven not to be at the exchange and may be sent, again or for the first time."""
        return self.order.status is OrderStatus.QUEUED

    @property
    def is_live(self) -> bool:
        """True if it is open at the exchange."""
        if self.order.status.is_final or self.order.finished_at is not None or self.is_draft:
            return False
        if self.report is not None:
            return not self.report.status.is_final
        was_accepted = self.order.status in (OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED)
        return was_accepted and self.age_s < READ_LAG_S

    @property
    def is_pending(self) -> bool:
        """True if it was sent and its outcome is not known."""
        is_sent = self.order.status in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)
        return is_sent and self.order.finished_at is None and self.report is None

    @property
    def remaining(self) -> Decimal:
        """What it still covers, in base units."""
        return max(self.order.intent.quantity - self.executed, ZERO) if self.is_live else ZERO


class EntryExits(Struct, frozen=True, kw_only=True):
    """An executed entry, and everything that is known about its exits."""

    #: The entry, as last known.
    entry: Order
    #: The entry with the exits that its own request carried, as the exchange reports it; None: not found.
    report: OrderStatusReport | None
    #: The orders that were added for it, oldest first; its trailing stop among them.
    orders: tuple[ExitOrder, ...]
    #: It has a stop loss that must be live.
    wants_stop: bool = False
    #: The trailing stop that its alert asked for; None: none.
    trailing: OrderIntent | None = None
    #: The take-profits that its own request could not carry, each with its whole quantity.
    take_profits: tuple[OrderIntent, ...] = ()
    #: Its position is closed: what may be open now was opened later.
    is_closed: bool = False


class Market(Struct, frozen=True, kw_only=True):
    """The entry's market now."""

    instrument: Instrument
    #: Open position in the entry's direction that newer entries do not claim, in base units, unsigned.
    position: Decimal
    #: USDC; None while unknown.
    mark: Decimal | None
    #: No position is open in the entry's direction.
    is_flat: bool = False
    #: Other entries or webhooks hold part of the position: an exit larger than what is left of its entry would close what is theirs.
    is_shared: bool = False


class Memory(Struct, frozen=True, kw_only=True):
    """What has to be remembered about an entry between two plans. A restart may forget it."""

    #: Seconds for which its mandatory stop has been missing while the exchange answered.
    naked_s: float = 0.0
    #: Seconds for which a stop is tried once more after the exchange answered again, before anything is closed.
    grace_s: float = 0.0
    #: Its own stop was live when it was last looked at.
    was_live: bool = False
    #: Seconds for which an exit has looked fired without an end.
    firing_s: float = 0.0
    #: Seconds for which a stop more than needed has been live.
    surplus_s: float = 0.0
    #: Best mark price for the position since the entry, in USDC.
    best: Decimal | None = None
    #: The same since a trailing stop of the right size was seen live.
    trailing_best: Decimal | None = None


class Place(Struct, frozen=True):
    """Send an order."""

    #: What it is to be, in size and prices that fit the market now.
    intent: OrderIntent
    #: A stored order that is sent again with this intent; None: a new one.
    draft: Order | None
    #: It closes what has had no stop for too long, as far as no other stop of the market covers it.
    is_last_resort: bool = False

    @property
    def slot(self) -> Slot:
        return slot_of(self.intent)

    @property
    def rests(self) -> bool:
        """True for an order that waits at the exchange for its price."""
        return self.intent.order_type is not OrderType.MARKET or bool(self.intent.take_profits)


class CancelOrder(Struct, frozen=True):
    """Cancel an order at the exchange."""

    order: Order


class CancelExits(Struct, frozen=True):
    """Cancel the exits that an entry's own request carried."""

    #: The entry as reported.
    report: OrderStatusReport


class Withdraw(Struct, frozen=True):
    """End a draft: nothing needs it any more."""

    order: Order


Action = Place | CancelOrder | CancelExits | Withdraw


class ExitPlan(Struct, frozen=True, kw_only=True):
    """What to do about an entry's exits now."""

    #: What to remember until the next one.
    memory: Memory
    #: What to do now, the most urgent first.
    actions: tuple[Action, ...] = ()
    #: What covers its stop loss; None if it has none, or if that is not known yet.
    stop: Coverage | None = None
    #: What covers its trailing stop; None if it has none.
    trailing: Coverage | None = None
    #: Base units without a stop that should have one.
    uncovered: Decimal = ZERO
    #: Base units of the entry that are open.
    held: Decimal = ZERO
    #: Base units of them that no order can be made of.
    dust: Decimal = ZERO
    #: Nothing of it is open, and nothing of it is left at the exchange.
    is_over: bool = False
    #: Everything wanted is live, and nothing else.
    is_settled: bool = False


def role_of(intent: OrderIntent) -> Role:
    """What a protective order is for, from its stored intent.

    A fallback has the best price that it was measured from as its signal price, a take-profit that is closed at once its trigger.
    """
    if intent.trailing_callback_rate is not None or intent.trailing_callback_value is not None:
        return Role.TRAILING
    if intent.take_profits or (intent.order_type is OrderType.MARKET and intent.signal_price is not None):
        return Role.TAKE_PROFIT
    if intent.order_type is OrderType.STOP:
        return Role.STOP if intent.signal_price is None else Role.FALLBACK
    return Role.CLOSE


def slot_of(intent: OrderIntent) -> Slot:
    """The place among an entry's exits that an order fills."""
    role = role_of(intent)
    if role is not Role.TAKE_PROFIT:
        return role, None
    return role, intent.take_profits[0].trigger_price if intent.take_profits else intent.signal_price


def has_ended(entry: Order) -> bool:
    """True if nothing more of an entry can execute, as far as is known."""
    return entry.status.is_final or entry.finished_at is not None


def unclosed_quantity(view: EntryExits) -> Decimal:
    """What the entry executed and none of its exits has closed, in base units."""
    closed = sum((each.executed for each in view.orders), ZERO)
    if view.report is not None:
        closed += sum((leg.executed_quantity for leg in view.report.exits), ZERO)
    return max(view.entry.executed_quantity - closed, ZERO)


def after_outage(memory: Memory) -> Memory:
    """The exchange did not answer: its time does not count, and the stop is tried first once it answers again."""
    return replace(memory, grace_s=_UNANSWERED_STOP_S + 0.5)


def after_failed_stop(memory: Memory) -> Memory:
    """The exchange refused a stop."""
    return replace(memory, grace_s=0.0)


def plan_exits(
    view: EntryExits,
    market: Market,
    memory: Memory,
    *,
    elapsed_s: float,
    place_within_s: float,
    busy: Collection[Slot] = (),
) -> ExitPlan:
    """What to do next. `elapsed_s`: seconds since the last plan in which the exchange answered. `busy`: slots in which an order is being
    sent, or that wait for their next try. `place_within_s`: after how many seconds without a mandatory stop the rest is closed.
    """
    planner = _Planner(view, market, memory, elapsed_s, place_within_s, frozenset(busy))
    return planner.plan()


class _Planner:
    """One plan of one entry."""

    def __init__(
        self,
        view: EntryExits,
        market: Market,
        memory: Memory,
        elapsed_s: float,
        place_within_s: float,
        busy: frozenset[Slot],
    ) -> None:
        self._view = view
        self._market = market
        self._memory = memory
        self._elapsed_s = elapsed_s
        self._place_within_s = place_within_s
        self._busy = busy
        self._entry = view.entry
        self._sign = view.entry.intent.side.sign
        self._held = min(market.position, unclosed_quantity(view))
        self._actions: list[Action] = []
        self._used: set[str] = set()  # client order ids of drafts that are wanted
        self._to_close = ZERO
        self._is_last_resort = False
        self._has_gaps = False  # something wanted is not live

    def plan(self) -> ExitPlan:
        view = self._view
        if view.is_closed or (unclosed_quantity(view) == ZERO and has_ended(view.entry)):
            return self._clear()
        if self._held == ZERO:
            return ExitPlan(memory=self._memory, is_settled=not self._market.is_flat)
        self._follow_price()
        stop = self._plan_stop()
        trailing = self._plan_trailing()
        self._plan_take_profits()
        self._plan_close()
        self._withdraw_unused()
        uncovered = ZERO
        if Coverage.MISSING in (stop, trailing):
            uncovered = self._grid(
                self._held - self._covered_by(Role.STOP, Role.TRAILING, Role.FALLBACK) - self._own_stop()
            )
        is_quiet = not any(each.is_pending for each in view.orders)
        return ExitPlan(
            memory=self._memory,
            actions=tuple(self._actions),
            stop=stop,
            trailing=trailing,
            uncovered=uncovered,
            held=self._held,
            dust=self._held - self._grid(self._held),
            is_settled=not self._actions and not self._has_gaps and is_quiet,
        )

    def _clear(self) -> ExitPlan:
        """Take away every exit of an entry whose position is gone."""
        live = [each for each in self._view.orders if each.is_live or each.is_pending]
        self._actions += [CancelOrder(each.order) for each in live]
        if not self._market.is_flat:  # else the exchange removes them itself
            self._cancel_own_exits()
        self._withdraw_unused()
        return ExitPlan(memory=self._memory, actions=tuple(self._actions), is_over=not self._actions)

    # --------------------------------------------------------------------------------------------------------------- stop

    def _plan_stop(self) -> Coverage | None:
        stop_loss = self._entry.intent.stop_loss
        is_oversized = self._has_oversized_exits()
        if not self._view.wants_stop or stop_loss is None:
            if is_oversized:
                self._drop_oversized_exits()
            return None
        own, added = self._own_stop(), self._covered_by(Role.STOP)
        live = self._live(Role.STOP)
        covered, spare = self._fit(live, self._held, ZERO if is_oversized else own)
        missing = self._grid(self._held - covered)
        if missing == ZERO:
            self._remember(naked_s=0.0, firing_s=0.0, was_live=own > ZERO)
            is_visible = all(each.report is not None for each in live if each not in spare)
            if is_oversized and is_visible:
                self._drop_oversized_exits()
            self._plan_surplus(spare, is_visible=is_visible)
            if covered == ZERO:
                return Coverage.DUST
            return Coverage.OWN if self._grid(self._held - own) == ZERO and not is_oversized else Coverage.REPLACED
        self._has_gaps = True
        self._keep_drafts(Role.STOP, Role.CLOSE)
        if self._is_firing():
            self._remember(firing_s=self._memory.firing_s + self._elapsed_s)
            return Coverage.OWN
        # Whatever else is a stop keeps it from being naked; it is replaced all the same.
        naked = self._grid(self._held - own - added - self._covered_by(Role.FALLBACK, Role.TRAILING))
        waited = self._memory.naked_s + self._elapsed_s if naked else 0.0
        self._remember(naked_s=waited, grace_s=max(self._memory.grace_s - self._elapsed_s, 0.0))
        state = Coverage.MISSING
        if (is_oversized or spare) and not naked:
            state = Coverage.OWN if own else Coverage.REPLACED  # the larger one, until its successor is live
        if self._view.report is None and naked and waited < _INVISIBLE_S and self._entry.intent.is_bracket:
            return None
        if self._has_passed(stop_loss):
            self._to_close = max(self._to_close, naked)
            return state
        is_late = waited >= self._place_within_s and self._memory.grace_s <= 0.0
        if is_late and naked > ZERO and (Role.CLOSE, None) not in self._busy:
            self._to_close, self._is_last_resort = max(self._to_close, naked), True
            return state
        if not self._is_unresolved(Role.CLOSE):
            self._place(self._stop_at(stop_loss, missing))
        return state

    def _has_oversized_exits(self) -> bool:
        """True if the exits of the entry's own request would close more than is left of it; while it executes, they follow its fills."""
        report = self._view.report
        if report is None or not self._market.is_shared or not has_ended(self._entry):
            return False
        return max(report.live_stop_quantity, report.live_take_profit_quantity) > self._held

    def _drop_oversized_exits(self) -> None:
        """Cancel the exits of the entry's own request, unless its take-profit fires: what that has closed is reported in a moment."""
        self._has_gaps = True
        for leg in self._view.report.exits if self._view.report else ():
            is_open = leg.kind is ExitKind.TAKE_PROFIT and not leg.status.is_final
            if is_open and leg.trigger_price is not None and self._has_gained(leg.trigger_price):
                return
        self._cancel_own_exits()

    def _cancel_own_exits(self) -> None:
        report = self._view.report
        if report is not None and any(not leg.status.is_final for leg in report.exits):
            self._has_gaps = True
            self._actions.append(CancelExits(report))

    def _own_stop(self) -> Decimal:
        """What the stop that the entry's own request carried covers, in base units."""
        report = self._view.report
        if report is None or not report.stop_is_live:
            return ZERO
        return report.live_stop_quantity or self._held

    def _is_firing(self) -> bool:
        """True if one of the entry's own exits seems to have fired a moment ago, and what it closes is not reported yet."""
        report = self._view.report
        if report is None or report.stop_is_live or self._memory.firing_s >= _FIRING_S:
            return False
        stop_loss = self._entry.intent.stop_loss
        if self._memory.was_live and stop_loss is not None and self._has_passed(stop_loss):
            return True
        for leg in report.exits:
            if leg.status.is_final or leg.trigger_price is None:
                continue
            is_reached = self._has_passed(leg.trigger_price)
            if is_reached if leg.kind is ExitKind.STOP_LOSS else self._has_gained(leg.trigger_price):
                return True
        return False

    def _plan_surplus(self, spare: list[ExitOrder], *, is_visible: bool) -> None:
        """Cancel the stops that are not needed beside the others.

        One larger than what is left of the entry goes as soon as the others are visible, another after longer than a read may lag: one of
        them was only invisible when the other was placed.
        """
        if not spare:
            self._remember(surplus_s=0.0)
            return
        self._has_gaps = True
        self._remember(surplus_s=self._memory.surplus_s + self._elapsed_s)
        large = [each for each in spare if each.remaining > self._held and is_visible and self._market.is_shared]
        self._actions += [CancelOrder(each.order) for each in large]
        if self._memory.surplus_s > READ_LAG_S and spare[-1] not in large:
            self._actions.append(CancelOrder(spare[-1].order))
            self._remember(surplus_s=0.0)

    # ------------------------------------------------------------------------------------------------------ trailing stop

    def _follow_price(self) -> None:
        """Remember the best price since the entry, and since the trailing stop follows it itself."""
        if self._view.trailing is None:
            return
        stored = [each.order.intent.signal_price for each in self._view.orders if each.role is Role.FALLBACK]
        reported = [each.report.extreme_price for each in self._live(Role.TRAILING) if each.report is not None]
        seen = (self._memory.best, self._view.trailing.reference_price, self._market.mark, *stored, *reported)
        covered, _ = self._fit(self._live(Role.TRAILING), self._held)
        is_live = covered > ZERO and self._grid(self._held - covered) == ZERO
        since_live = self._best(self._memory.trailing_best, self._market.mark) if is_live else None
        self._remember(best=self._best(*seen), trailing_best=since_live)

    def _plan_trailing(self) -> Coverage | None:
        wanted = self._view.trailing
        if wanted is None or not self._entry.status.is_final:
            return None
        covered, spare = self._fit(self._live(Role.TRAILING), self._held)
        missing = self._grid(self._held - covered)
        if missing == ZERO:
            self._drop_larger(spare)
            return Coverage.OWN if covered else Coverage.DUST
        self._has_gaps = True
        if not self._is_unresolved(Role.TRAILING):
            self._place(replace(wanted, quantity=missing, after_leg=self._entry.leg))
        self._keep_drafts(Role.FALLBACK, Role.CLOSE)
        own = [each for each in self._view.orders if each.role is Role.TRAILING]
        has_failed = any(each.order.attempt and not each.is_live and not each.is_pending for each in own)
        is_late = any(each.is_pending and each.age_s > _UNANSWERED_STOP_S for each in own)
        level = self._trailing_level(self._memory.best)
        if spare:
            return Coverage.OWN  # the larger one, until its successor is live
        if level is None or not (has_failed or is_late):
            return Coverage.MISSING
        return self._plan_fallback(level, missing)

    def _plan_fallback(self, level: Decimal, missing: Decimal) -> Coverage:
        """A plain stop where the trailing stop would be; if the price has passed it, a close."""
        live, tight = self._live(Role.FALLBACK), self._tight_fallbacks(level)
        covered, extra = self._fit(tight, missing)
        uncovered = self._grid(missing - covered)
        if uncovered == ZERO:
            self._actions += [CancelOrder(each.order) for each in live if each in extra or each not in tight]
            return Coverage.REPLACED
        if self._has_passed(level):
            self._to_close, self._is_last_resort = max(self._to_close, missing), False
            return Coverage.MISSING
        best = self._memory.best
        self._place(replace(self._stop_at(level, uncovered), signal_price=best))
        looser = self._covered_by(Role.FALLBACK)
        return Coverage.REPLACED if self._grid(missing - looser) == ZERO else Coverage.MISSING

    def _drop_larger(self, spare: list[ExitOrder]) -> None:
        """Cancel the trailing stops that others have replaced, and the fallback stops that are not needed any more.

        A new trailing stop starts from the mark as it is now. Until it has caught up, a plain stop stays where the old one would fire.
        """
        level, reached = self._trailing_level(self._memory.best), self._trailing_level(self._memory.trailing_best)
        is_behind = level is not None and (reached is None or (level - reached) * self._sign > 0)
        if level is not None and is_behind and (spare or self._fit(self._live(Role.FALLBACK), self._held)[1]):
            self._has_gaps = True
            if self._has_passed(level):
                return  # the old one fires
            self._plan_fallback(level, self._held)
            covered, _ = self._fit(self._tight_fallbacks(level), self._held)
            if self._grid(self._held - covered) > ZERO:
                return
        for each in spare:
            self._has_gaps = True
            self._actions.append(CancelOrder(each.order))
        self._drop_fallbacks_behind(reached)

    def _drop_fallbacks_behind(self, level: Decimal | None) -> None:
        """Cancel the fallback stops that the trailing stop has caught up with; a tighter one stays beside it until then."""
        for each in self._live(Role.FALLBACK):
            trigger = each.order.intent.trigger_price
            if level is not None and trigger is not None and (level - trigger) * self._sign >= 0:
                self._actions.append(CancelOrder(each.order))
            else:
                self._has_gaps = True

    def _tight_fallbacks(self, level: Decimal) -> list[ExitOrder]:
        """The live fallback stops that are not looser than a stop at this level."""
        found = [(each, each.order.intent.trigger_price) for each in self._live(Role.FALLBACK)]
        return [each for each, trigger in found if trigger is not None and (trigger - level) * self._sign >= 0]

    def _trailing_level(self, best: Decimal | None) -> Decimal | None:
        """Where a trailing stop that has seen `best` would fire, on the grid, in USDC."""
        wanted = self._view.trailing
        if wanted is None or best is None:
            return None
        rate, value = wanted.trailing_callback_rate, wanted.trailing_callback_value
        distance = best * rate if rate is not None else value or ZERO
        return self._tighter(best - distance * self._sign)

    def _best(self, *prices: Decimal | None) -> Decimal | None:
        known = [price for price in prices if price is not None]
        if not known:
            return None
        return max(known) if self._sign > 0 else min(known)

    # ------------------------------------------------------------------------------------------------------- take-profits

    def _plan_take_profits(self) -> None:
        for trigger, wanted in self._wanted_take_profits().items():
            same = [each for each in self._view.orders if self._slot(each) == (Role.TAKE_PROFIT, trigger)]
            left = max(wanted.quantity - sum((each.executed for each in same), ZERO), ZERO)
            limit = min(left, self._held)
            live = [each for each in same if each.is_live]
            covered, spare = self._fit(live, limit if self._market.is_shared else left, is_strict=True)
            missing = self._grid(limit - covered)
            if missing == ZERO and not spare:
                continue
            self._has_gaps = True
            # One more beside those would close too much.
            self._actions += [CancelOrder(each.order) for each in spare if each.report is not None]
            if missing == ZERO or spare or any(each.is_pending for each in same):
                self._keep_drafts(Role.TAKE_PROFIT)
                continue
            sized = replace(wanted, quantity=missing, after_leg=self._entry.leg)
            if self._has_gained(trigger):
                # A trigger order would be refused: its share is closed now.
                self._place(replace(sized, take_profits=(), signal_price=trigger))
            else:
                self._place(replace(sized, take_profits=(TakeProfit(trigger, missing),)))

    def _wanted_take_profits(self) -> Mapping[Decimal, OrderIntent]:
        """By trigger price on the grid as it is now; levels of the same price are one order of their whole quantity."""
        wanted: dict[Decimal, OrderIntent] = {}
        for each in (*self._view.take_profits, *self._lost_take_profits()):
            trigger = self._sooner(each.take_profits[0].trigger_price)
            same = wanted.get(trigger)
            wanted[trigger] = each if same is None else replace(same, quantity=same.quantity + each.quantity)
        return wanted

    def _lost_take_profits(self) -> tuple[OrderIntent, ...]:
        """Take-profits of the entry's own request that ended without trading although their position is open."""
        report = self._view.report
        if report is None or self._is_firing():
            return ()
        lost: list[OrderIntent] = []
        for leg in report.exits:
            is_lost = leg.status in (OrderStatus.REJECTED, OrderStatus.CANCELED) and leg.executed_quantity == ZERO
            if leg.kind is not ExitKind.TAKE_PROFIT or leg.trigger_price is None or not is_lost:
                continue
            if any(other.kind is ExitKind.STOP_LOSS and other.executed_quantity for other in report.exits):
                continue  # the stop has fired, which cancels it
            lost.append(
                replace(
                    self._exit(OrderType.MARKET, self._entry.executed_quantity),
                    reference_price=leg.trigger_price,
                    take_profits=(TakeProfit(leg.trigger_price, self._entry.executed_quantity),),
                )
            )
        return tuple(lost)

    # --------------------------------------------------------------------------------------------------------------- close

    def _plan_close(self) -> None:
        quantity = min(self._grid(self._to_close), self._held)
        if quantity == ZERO:
            return
        self._has_gaps = True
        # One more before the first is resolved could close a position that is not this entry's.
        if not self._is_unresolved(Role.CLOSE):
            self._place(self._exit(OrderType.MARKET, quantity))

    # ------------------------------------------------------------------------------------------------------------- helpers

    def _place(self, intent: OrderIntent) -> None:
        """Send an order of this intent, at most of the largest size, unless one of its slot is being sent."""
        slot = slot_of(intent)
        draft = self._draft(slot)
        if draft is not None:
            self._used.add(draft.client_order_id)
        if slot in self._busy:
            return
        if slot[0] in (Role.STOP, Role.FALLBACK) and any(
            each.slot == slot and each.is_pending and each.age_s < _UNANSWERED_STOP_S for each in self._view.orders
        ):
            return
        largest = floor_quantity(self._market.instrument.base_max, self._market.instrument)
        if intent.quantity > largest > ZERO:
            parts = tuple(TakeProfit(each.trigger_price, largest) for each in intent.take_profits)
            intent = replace(intent, quantity=largest, take_profits=parts)
        is_last_resort = self._is_last_resort and slot[0] is Role.CLOSE
        self._actions.append(Place(intent, draft, is_last_resort))

    def _draft(self, slot: Slot) -> Order | None:
        return next((each.order for each in self._view.orders if self._slot(each) == slot and each.is_draft), None)

    def _slot(self, each: ExitOrder) -> Slot:
        """Its slot by the grid as it is now."""
        role, trigger = each.slot
        return role, None if trigger is None else self._sooner(trigger)

    def _keep_drafts(self, *roles: Role) -> None:
        """Keep the drafts of these roles, though perhaps nothing is sent now."""
        drafts = (each for each in self._view.orders if each.is_draft and each.role in roles)
        self._used.update(each.order.client_order_id for each in drafts)

    def _withdraw_unused(self) -> None:
        for each in self._view.orders:
            is_waiting_leg = not each.order.is_protective and not has_ended(self._entry)
            if each.is_draft and each.order.client_order_id not in self._used and not is_waiting_leg:
                self._actions.append(Withdraw(each.order))

    def _exit(self, order_type: OrderType, quantity: Decimal) -> OrderIntent:
        intent = self._entry.intent
        return OrderIntent(
            symbol=intent.symbol,
            side=intent.side.opposite,
            order_type=order_type,
            quantity=quantity,
            purpose=Purpose.PROTECT,
            reference_price=self._market.mark or intent.reference_price,
            reduce_only=True,
            after_leg=self._entry.leg,
        )

    def _stop_at(self, price: Decimal, quantity: Decimal) -> OrderIntent:
        trigger = self._tighter(price)
        return replace(self._exit(OrderType.STOP, quantity), reference_price=trigger, trigger_price=trigger)

    def _tighter(self, price: Decimal) -> Decimal:
        """A stop's price on the grid, never looser."""
        return (ceil_price if self._sign > 0 else floor_price)(price, self._market.instrument)

    def _sooner(self, price: Decimal) -> Decimal:
        """A take-profit's price on the grid, never farther away."""
        return (floor_price if self._sign > 0 else ceil_price)(price, self._market.instrument)

    def _live(self, role: Role) -> list[ExitOrder]:
        return [each for each in self._view.orders if each.role is role and each.is_live]

    def _fit(
        self, live: list[ExitOrder], wanted: Decimal, covered: Decimal = ZERO, *, is_strict: bool | None = None
    ) -> tuple[Decimal, list[ExitOrder]]:
        """What these orders cover of `wanted` beside what is `covered` already, in base units, and those that are too many or too large.

        If strict, they cover no more than `wanted`; by default where others hold part of the position. Alone, a larger one is left: the
        exchange cuts it to the position.
        """
        is_strict = self._market.is_shared if is_strict is None else is_strict
        spare: list[ExitOrder] = []
        for each in sorted(live, key=lambda order: -order.remaining):
            room = wanted - covered
            if each.remaining <= room if is_strict else self._grid(room) > ZERO or covered == ZERO:
                covered += each.remaining
            else:
                spare.append(each)
        return covered, spare

    def _covered_by(self, *roles: Role) -> Decimal:
        return sum((each.remaining for each in self._view.orders if each.role in roles), ZERO)

    def _is_unresolved(self, role: Role) -> bool:
        """True if an order of this role was sent and is not known to have ended; stops may rest, closes may not."""
        return any(
            each.role is role and (each.is_pending or (role is Role.CLOSE and each.is_live))
            for each in self._view.orders
        )

    def _has_passed(self, price: Decimal) -> bool:
        """True if the mark has reached a stop at this price."""
        mark = self._market.mark
        return mark is not None and (mark - price) * self._sign <= 0

    def _has_gained(self, price: Decimal) -> bool:
        """True if the mark has reached a take-profit at this price."""
        mark = self._market.mark
        return mark is not None and (mark - price) * self._sign >= 0

    def _grid(self, quantity: Decimal) -> Decimal:
        return floor_quantity(quantity, self._market.instrument)

    def _remember(self, **changes: float | bool | Decimal | None) -> None:
        self._memory = replace(self._memory, **changes)


def share_position(
    unclosed: Iterable[tuple[str, str, Decimal]], position: Decimal, of_webhooks: Mapping[str, Decimal] | None = None
) -> Mapping[str, Decimal]:
    """How much of a position is left for each entry, by its client order id; newer entries come last and are served first.

    `unclosed`: client order id, webhook and unclosed quantity in base units of each entry. `of_webhooks`: what each webhook holds of the
    position; None: not known. Together they never get more than the position, those of a webhook no more than it holds.
    """
    left = max(position, ZERO)
    left_of = None if of_webhooks is None else dict(of_webhooks)
    shares: dict[str, Decimal] = {}
    for name, webhook, quantity in reversed(list(unclosed)):
        room = left if left_of is None else min(left, max(left_of.get(webhook, ZERO), ZERO))
        taken = min(quantity, room)
        shares[name] = taken
        left -= taken
        if left_of is not None:
            left_of[webhook] = left_of.get(webhook, ZERO) - taken
    return shares
