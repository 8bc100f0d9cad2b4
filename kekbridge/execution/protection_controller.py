"""The protection controller: keeps the exits of every position as they should be, and takes away those without a position.

One for stop losses, take-profits and trailing stops. For each market it reads what its alerts asked for (store), what there is (exchange)
and acts until both are equal, without an end: protection_plan.py decides, this module queries, sends, cancels and records. Everything is
derived from store, book and exchange, so a restart at any point is safe.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final, Protocol

import msgspec

from kekbridge.config import Queue
from kekbridge.errors import ExchangeUnavailable, KekbridgeError
from kekbridge.exchange.base import Accepted, Exchange, Rejected, Retryable, SubmitResult
from kekbridge.execution import protection_plan, transitions
from kekbridge.execution.book import Book
from kekbridge.execution.protection_plan import (
    READ_LAG_S,
    Action,
    CancelExits,
    CancelOrder,
    Coverage,
    EntryExits,
    ExitOrder,
    ExitPlan,
    Market,
    Memory,
    Place,
    Role,
    Slot,
    Withdraw,
)
from kekbridge.failpoints import hit
from kekbridge.formatting import format_decimal
from kekbridge.log import get_logger
from kekbridge.model import ZERO, AccountSnapshot, Fill, MarginMode, Order, OrderIntent, OrderStatus, Purpose
from kekbridge.model.orders import ExitKind, OrderStatusReport
from kekbridge.planning.sizing import floor_quantity
from kekbridge.risk.exposure import went_flat
from kekbridge.store import fills, projector, protection
from kekbridge.store.database import Database
from kekbridge.store.protection import ProtectedEntry, ProtectionState

log = get_logger("kekbridge.execution.protection_controller")

_POLL_EVERY_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 5.0
# Until a position counts as unprotected for too long, it is looked at this often.
_PAUSE_WHILE_NAKED_S: Final = 0.5
_PLACING_SHARE: Final = 0.6  # share of protect_within_s spent on placing the stop; the rest is for closing the position
_LONGEST_BACKOFF_S: Final = {Role.STOP: 4.0, Role.CLOSE: 4.0, Role.FALLBACK: 4.0, Role.TRAILING: 15.0}
_OTHER_BACKOFF_S: Final = 15.0
# A fallback stop follows the price no more often: each move takes one of the exchange's few creates of algo orders.
_FOLLOW_EVERY_S: Final = 5.0
_PERMIT_S: Final = 5.0
# The exchange itself removes most exits with their position.
_LEFT_TO_EXCHANGE_S: Final = 2.0
_TRADES_KNOWN_S: Final = 2.0
_POSITIONS_KNOWN_S: Final = 1.0
_CANCEL_PAUSE_S: Final = 2.0
# Fills of one webhook may be taken for another's until their order has been queried.
_OWNER_KNOWN_S: Final = 10.0
# No position is closed for a price that is older.
_MARK_KNOWN_S: Final = 30.0
_MOST_NOTED: Final = 10_000
_STATES: Final = {
    Coverage.OWN: ProtectionState.LIVE,
    Coverage.REPLACED: ProtectionState.REPLACED,
    Coverage.MISSING: ProtectionState.WANTED,
    Coverage.DUST: ProtectionState.WANTED,
}


class Submit(Protocol):
    """OrderSubmitter.submit."""

    async def __call__(
        self, entry: Order, intent: OrderIntent, *, draft: Order | None = None, within_s: float | None = None
    ) -> tuple[Order, SubmitResult] | None: ...


class _MarketState:
    """What is remembered about one market while it has exits; forgotten by a restart."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.memories: dict[str, Memory] = {}  # by the entry's client order id
        self.not_before: dict[tuple[str, Slot], float] = {}  # loop time of the next try, by entry and slot
        self.sending: set[tuple[str, Slot]] = set()
        self.sent_count = 0  # orders whose result is known
        self.cancel_not_before: dict[str, float] = {}  # loop time, by client order id
        self.answered_at: float | None = None  # loop time of the last plan, if the exchange has answered since
        self.flat_since: dict[str, float] = {}  # loop time, by the entry's client order id
        self.closed_since: dict[str, float] = {}  # loop time, by the entry's client order id
        self.left_since: dict[str, float] = {}  # the same, for entries without a part of the open position
        self.trades: tuple[float, datetime, tuple[Fill, ...]] | None = (
            None  # loop time of the query, its start, the trades
        )
        self.refreshed_at = float("-inf")  # loop time of the last read of positions
        self.closed: set[str] = set()  # entries whose position was seen closed
        self.pause = _FIRST_PAUSE_S

    def on_outage(self) -> None:
        """The exchange does not answer: this time does not count, and the next try is made as soon as it does."""
        self.answered_at = None
        self.not_before = {key: at for key, at in self.not_before.items() if key[1][0] is Role.FALLBACK}
        self.memories = {name: protection_plan.after_outage(memory) for name, memory in self.memories.items()}


class ProtectionController:
    """Protects every position of one daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        settings: Queue,
        clock: Callable[[], datetime],
        submit: Submit,
        cancel: Callable[[str], Awaitable[str | None]],
    ) -> None:
        """`submit` is OrderSubmitter.submit; `cancel` cancels an order by its client order id and returns None, or why that failed."""
        self._book = book
        self._database = database
        self._exchange = exchange
        self._settings = settings
        self._clock = clock
        self._submit = submit
        self._cancel = cancel
        self._wake_event = asyncio.Event()
        self._woken: set[str] | None = set()  # symbols in which something changed; None: any
        self._protected: set[str] = set()  # symbols with exits
        self._markets: dict[str, _MarketState] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by symbol
        self._group: asyncio.TaskGroup | None = None
        self._noted: dict[str, None] = {}  # exits whose execution was published
        exchange.listen_reports(self._on_report)

    # -------------------------------------------------------------------------------------------------------- listeners

    def wake(self, symbol: str | None = None) -> None:
        """An entry executed or an exit may have changed in this market; None: compare all."""
        if symbol is None:
            self._woken = None
        elif self._woken is not None:
            self._woken.add(symbol)
        self._wake_event.set()

    def on_order(self, order: Order) -> None:
        """An order changed. Called for every change, so it must be quick."""
        intent = order.intent
        if intent.purpose is Purpose.PROTECT:
            self.wake(intent.symbol)
        elif order.executed_quantity or order.finished_at is not None:
            legs = self._book.legs.get(order.alert_id, {}).values()
            if order.is_entry and (intent.is_bracket or any(leg.intent.purpose is Purpose.PROTECT for leg in legs)):
                self._protected.add(intent.symbol)
            if intent.symbol in self._protected:
                self.wake(intent.symbol)

    def _note_once(self, key: str, kind: str, order: Order, data: Mapping[str, object]) -> None:
        if key in self._noted:
            return
        self._noted[key] = None
        if len(self._noted) > _MOST_NOTED:
            self._noted.pop(next(iter(self._noted)))
        self._book.note(kind, order, now=self._clock(), data=data)

    def _on_report(self, report: OrderStatusReport) -> None:
        """An exit that the exchange keeps apart from its entry (for the whole position) is known by its report only."""
        if (
            not report.is_algo
            or report.client_order_id
            or not report.exits
            or report.margin_mode is MarginMode.ISOLATED
        ):
            return
        for leg in report.exits:
            if not leg.status.is_final or not leg.executed_quantity:
                continue
            entry = self._newest_entry(report)
            if entry is not None:
                kind = "stop_fired" if leg.kind is ExitKind.STOP_LOSS else "take_profit_fired"
                data = {
                    "side": report.side.value.lower(),
                    "quantity": leg.executed_quantity,
                    "average_price": leg.average_price or leg.trigger_price,
                    "trigger_price": leg.trigger_price,
                }
                if (snapshot := self._exchange.snapshot) is not None:
                    data["position"] = snapshot.position_quantity(report.symbol)
                self._note_once(f"{report.order_id} {leg.kind}", kind, entry, data)
        self.wake(report.symbol)

    def _newest_entry(self, report: OrderStatusReport) -> Order | None:
        """The last entry with a stop on the other side of an exit's market."""
        found = [
            each.entry
            for each in self._database.read_now(protection.protected_entries)
            if each.wants_stop
            and each.entry.intent.symbol == report.symbol
            and each.entry.intent.side is report.side.opposite
        ]
        return found[-1] if found else None

    # --------------------------------------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Until cancelled: compare every market with exits whenever something changed, and those with open exits every second."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            while True:
                woken = await self._wait()
                try:
                    for symbol in await self._symbols(woken):
                        self._start(symbol, group)
                except KekbridgeError as error:
                    log.error("protections_not_readable", error=error.message)
                    self.wake()
                    await asyncio.sleep(_FIRST_PAUSE_S)

    async def _wait(self) -> set[str] | None:
        """Wait for a change, at most a second; the symbols in which there was one (None: any)."""
        try:
            async with asyncio.timeout(_POLL_EVERY_S):
                await self._wake_event.wait()
        except TimeoutError:
            return set()
        self._wake_event.clear()
        woken, self._woken = self._woken, set()
        return woken

    async def _symbols(self, woken: set[str] | None) -> set[str]:
        """Markets to be compared: those with exits in which something changed, else those with an order whose position may be gone."""
        if woken is None or woken:
            entries = await self._database.read(protection.protected_entries, self._alerts_with_exits())
            found = {each.entry.intent.symbol for each in entries if woken is None or each.entry.intent.symbol in woken}
            self._protected = found if woken is None else (self._protected - woken) | found
            return found
        snapshot = self._exchange.snapshot
        if snapshot is None:
            return set()
        found = set()
        for order in [order for order in self._book.orders.values() if order.intent.purpose is Purpose.PROTECT]:
            if order.intent.symbol not in found | self._tasks.keys() and await self._may_be_gone(order, snapshot):
                found.add(order.intent.symbol)
        return found

    async def _may_be_gone(self, order: Order, snapshot: AccountSnapshot) -> bool:
        """True if the position that an order protects is flat, reversed, or was closed and opened again."""
        side = order.intent.side.opposite
        held = snapshot.position_quantity(order.intent.symbol) * side.sign
        if held <= 0:
            return True
        since = order.accepted_at or order.created_at
        later = await self._database.read(fills.list_fills, symbol=order.intent.symbol, since=since)
        return went_flat(side, held, _cross(later))

    def _alerts_with_exits(self) -> frozenset[str]:
        """Our ids of the alerts with an unfinished protective order."""
        return frozenset(
            order.alert_id for order in self._book.orders.values() if order.intent.purpose is Purpose.PROTECT
        )

    def _start(self, symbol: str, group: asyncio.TaskGroup) -> None:
        market = self._markets.setdefault(symbol, _MarketState())
        market.changed.set()
        if symbol not in self._tasks:
            task = group.create_task(self._converge(symbol, market))
            self._tasks[symbol] = task
            task.add_done_callback(lambda _: self._tasks.pop(symbol, None))

    # ----------------------------------------------------------------------------------------------------------- one market

    async def _converge(self, symbol: str, market: _MarketState) -> None:
        """Compare and act until the exits of a market are as wanted. Errors of the exchange are retried without an end."""
        while True:
            if market.changed.is_set():
                market.changed.clear()
                market.pause = _FIRST_PAUSE_S
            try:
                pause = await self._step(symbol, market)
            except ExchangeUnavailable as error:
                log.warning("protection_not_readable", symbol=symbol, error=error.message)
                market.on_outage()
                pause = min(market.pause, 2.0)
            except KekbridgeError as error:
                log.error("protection_stuck", symbol=symbol, error=error.message)
                pause = market.pause
            except Exception:
                log.exception("protection_failed", symbol=symbol)
                pause = _LONGEST_PAUSE_S
            if pause is None:
                if market.changed.is_set():
                    continue
                return
            market.pause = min(market.pause * 1.5, _LONGEST_PAUSE_S)
            try:
                async with asyncio.timeout(pause):
                    await market.changed.wait()
            except TimeoutError:
                pass  # compared again, though nothing is known to have changed

    async def _step(self, symbol: str, market: _MarketState) -> float | None:
        """Compare once and do the next things; seconds until the next comparison, None if everything is as wanted."""
        sent_count = market.sent_count
        entries = [
            each
            for each in await self._database.read(protection.protected_entries, self._alerts_with_exits())
            if each.entry.intent.symbol == symbol
            and (each.entry.executed_quantity or protection_plan.has_ended(each.entry))
        ]
        if not entries:
            if not market.sending:
                self._markets.pop(symbol, None)
            return None
        snapshot = self._exchange.snapshot
        instrument = snapshot.instruments.get(symbol) if snapshot else None
        if snapshot is None or instrument is None:
            raise ExchangeUnavailable("not_ready", "the account or the market has not been read since the start")
        if self._exchange.health.is_maintenance:
            raise ExchangeUnavailable("exchange_busy", "the exchange is in maintenance")
        views = [await self._observe(each, market) for each in entries]
        if market.sent_count != sent_count:
            return (
                0.0  # an order was sent meanwhile that these views lack: look again before another is sent in its place
            )
        now = asyncio.get_running_loop().time()
        elapsed_s = 0.0 if market.answered_at is None else now - market.answered_at
        market.answered_at = now
        snapshot = self._exchange.snapshot or snapshot
        shares = self._book.holdings.shares(symbol, position=snapshot.position_quantity(symbol))
        held = _held(views, snapshot.position_quantity(symbol), shares)
        has_left = {name for name, quantity in held.items() if quantity == ZERO} if shares is not None else set()
        views = [self._without_left(view, market, has_left) for view in views]
        market.left_since = {name: since for name, since in market.left_since.items() if name in has_left}
        plans = self._plan(symbol, views, market, snapshot, held, elapsed_s, is_known=shares is not None)
        for protected, view, plan in zip(entries, views, plans, strict=True):
            actions = plan.actions
            if any(isinstance(action, Place) for action in actions):
                try:
                    if await self._was_closed(view, market):
                        market.changed.set()  # planned again, as closed
                        continue
                except ExchangeUnavailable as error:
                    log.warning("trades_not_readable", symbol=symbol, error=error.message)
                    # A stop too many does less harm than none, a close too many closes what is not this entry's.
                    for each in actions:
                        if isinstance(each, Place) and not each.rests:
                            market.not_before[view.entry.client_order_id, each.slot] = now + _TRADES_KNOWN_S
                    actions = tuple(each for each in actions if not isinstance(each, Place) or each.rests)
            market.memories[view.entry.client_order_id] = plan.memory
            await self._record(protected, plan)
            for action in actions:
                await self._act(symbol, view, action, market)
        return self._pause_after(plans, market)

    def _plan(
        self,
        symbol: str,
        views: list[EntryExits],
        market: _MarketState,
        snapshot: AccountSnapshot,
        held: Mapping[str, Decimal],
        elapsed_s: float,
        *,
        is_known: bool,
    ) -> list[ExitPlan]:
        """`held`: what is left of each entry; `is_known`: by the fills of all webhooks, which add up to the position."""
        now = asyncio.get_running_loop().time()
        position = snapshot.position_quantity(symbol)
        mark = snapshot.marks.get(symbol)
        if mark is not None and (self._clock() - mark.at).total_seconds() > _MARK_KNOWN_S:
            mark = None
        plans: list[ExitPlan] = []
        for view in views:
            name = view.entry.client_order_id
            waiting = {slot for (of, slot), at in market.not_before.items() if of == name and at > now}
            plans.append(
                protection_plan.plan_exits(
                    view,
                    Market(
                        instrument=snapshot.instruments[symbol],
                        position=held.get(name, ZERO),
                        mark=None if mark is None else mark.price,
                        is_flat=position * view.entry.intent.side.sign <= 0,
                        is_shared=is_known and position * view.entry.intent.side.sign > held.get(name, ZERO),
                    ),
                    market.memories.get(name, Memory()),
                    elapsed_s=elapsed_s,
                    place_within_s=self._settings.protect_within_s * _PLACING_SHARE,
                    busy=waiting | {slot for of, slot in market.sending if of == name},
                )
            )
        return plans

    def _without_left(self, view: EntryExits, market: _MarketState, has_left: Collection[str]) -> EntryExits:
        """The entry, as closed if it `has_left` a position that other entries or webhooks hold: its exits would close what is theirs."""
        entry, now = view.entry, asyncio.get_running_loop().time()
        name, snapshot = entry.client_order_id, self._exchange.snapshot
        is_open = snapshot is not None and snapshot.position_quantity(entry.intent.symbol) * entry.intent.side.sign > 0
        is_unclosed = entry.status.is_final and protection_plan.unclosed_quantity(view) > ZERO
        if view.is_closed or not (is_open and is_unclosed and name in has_left):
            market.left_since.pop(name, None)
            return view
        if now - market.left_since.setdefault(name, now) <= _OWNER_KNOWN_S:
            return view
        market.closed.add(name)
        return msgspec.structs.replace(view, is_closed=True)

    def _pause_after(self, plans: list[ExitPlan], market: _MarketState) -> float | None:
        if all(plan.is_settled or plan.is_over for plan in plans) and not market.sending and not market.left_since:
            return None
        if market.left_since and all(plan.is_settled or plan.is_over for plan in plans):
            return _POLL_EVERY_S
        deadline = self._settings.protect_within_s * _PLACING_SHARE
        is_naked = any(plan.stop is Coverage.MISSING and plan.memory.naked_s < deadline for plan in plans)
        follows = any(plan.trailing is not None and plan.trailing is not Coverage.OWN for plan in plans)
        return min(market.pause, _PAUSE_WHILE_NAKED_S) if is_naked or follows else market.pause

    # ----------------------------------------------------------------------------------------------------------- observing

    async def _observe(self, protected: ProtectedEntry, market: _MarketState) -> EntryExits:
        """Query an entry and its exits. Raises ExchangeUnavailable."""
        entry = self._book.current(protected.entry)
        if protected.wants_stop:
            hit("W7")  # the entry executed, its stop is not verified yet
        has_own_exits = entry.intent.is_bracket and bool(entry.executed_quantity)
        report, *found = await asyncio.gather(
            self._find(entry, is_wanted=has_own_exits),
            *(self._find(order, is_wanted=_is_open(order)) for order in map(self._book.current, protected.orders)),
        )
        exits: list[ExitOrder] = []
        for stored, each in zip(protected.orders, found, strict=True):
            order = self._book.current(stored)  # later news is newer than the answer
            exits.append(ExitOrder(order=order, report=each, age_s=self._age_s(order)))
        trailing = protected.trailing
        snapshot = self._exchange.snapshot
        instrument = snapshot.instruments.get(entry.intent.symbol) if snapshot else None
        later: tuple[OrderIntent, ...] = ()
        if protected.wants_take_profits and instrument is not None:
            later = self._exchange.exits_after_fill(entry.intent, entry.executed_quantity, instrument)
        return EntryExits(
            entry=entry,
            report=report,
            orders=tuple(exits),
            wants_stop=protected.wants_stop,
            trailing=trailing.intent if trailing and (protected.wants_trailing or not trailing.finished_at) else None,
            take_profits=later,
            is_closed=await self._is_closed(entry, market),
        )

    async def _find(self, order: Order, *, is_wanted: bool) -> OrderStatusReport | None:
        return await self._exchange.find(order, is_urgent=True) if is_wanted else None

    def _age_s(self, order: Order) -> float:
        since = order.accepted_at or order.submitted_at or order.created_at
        return max((self._clock() - since).total_seconds(), 0.0)

    async def _is_closed(self, entry: Order, market: _MarketState) -> bool:
        """True if the entry's position is gone: flat for longer than a read may lag, or closed and opened again by known fills.

        Raises ExchangeUnavailable.
        """
        name, sign = entry.client_order_id, entry.intent.side.sign
        snapshot = self._exchange.snapshot
        if snapshot is None or not entry.status.is_final or name in market.closed:
            return name in market.closed
        now = asyncio.get_running_loop().time()
        held = max(snapshot.position_quantity(entry.intent.symbol) * sign, ZERO)
        if held == ZERO:
            if now - market.flat_since.setdefault(name, now) <= READ_LAG_S:
                return False
            if now - market.refreshed_at > _POSITIONS_KNOWN_S:
                await self._exchange.refresh()  # what is known may be old
                market.refreshed_at = asyncio.get_running_loop().time()
            snapshot = self._exchange.snapshot or snapshot
            held = max(snapshot.position_quantity(entry.intent.symbol) * sign, ZERO)
            if held == ZERO:
                market.closed.add(name)
                return True
        market.flat_since.pop(name, None)
        own, later = await self._database.read(_fills_since, entry)
        if own and went_flat(entry.intent.side, held, later):
            market.closed.add(name)
        return name in market.closed

    async def _was_closed(self, view: EntryExits, market: _MarketState) -> bool:
        """The same by the exchange's own trades, before anything is sent: a stop for a position that is gone would close another one.

        Raises ExchangeUnavailable.
        """
        entry = view.entry
        snapshot = self._exchange.snapshot
        if not entry.status.is_final or snapshot is None:
            return False
        own, _ = await self._database.read(_fills_since, entry)
        if not own:
            return False
        known = {fill.trade_id for fill in own}
        since, now = own[-1].executed_at, asyncio.get_running_loop().time()
        if market.trades is None or now - market.trades[0] > _TRADES_KNOWN_S or market.trades[1] > since:
            market.trades = now, since, await self._exchange.trades_since(since)
        later = [
            fill
            for fill in _cross(market.trades[2])
            if fill.symbol == entry.intent.symbol and fill.executed_at >= since and fill.trade_id not in known
        ]
        held = max(snapshot.position_quantity(entry.intent.symbol) * entry.intent.side.sign, ZERO)
        if not went_flat(entry.intent.side, held, later):
            return False
        market.closed.add(entry.client_order_id)
        return True

    # -------------------------------------------------------------------------------------------------------------- acting

    async def _act(self, symbol: str, view: EntryExits, action: Action, market: _MarketState) -> None:
        match action:
            case Place():
                if action.is_last_resort:
                    sized = await self._without_covered(view, action)
                    if sized is None:
                        return
                    action = sized
                market.sending.add((view.entry.client_order_id, action.slot))
                self._spawn(self._send(view.entry, action, market))
            case CancelOrder(order=order):
                self._cancel_soon(view, order, market)
            case CancelExits(report=report):
                self._cancel_exits_soon(view, report, market)
            case Withdraw(order=order):
                self._withdraw(view.entry, order)

    async def _without_covered(self, view: EntryExits, action: Place) -> Place | None:
        """The close of what no stop of the market covers, no matter who placed it; None if nothing is left to close."""
        symbol, side = action.intent.symbol, action.intent.side
        snapshot = self._exchange.snapshot
        instrument = snapshot.instruments.get(symbol) if snapshot else None
        if snapshot is None or instrument is None:
            return None
        stops = await self._exchange.live_stops(symbol, side)
        if any(stop.quantity == ZERO for stop in stops):
            return None
        covered = sum((stop.quantity - stop.executed_quantity for stop in stops), ZERO)
        open_quantity = max(snapshot.position_quantity(symbol) * view.entry.intent.side.sign, ZERO)
        quantity = floor_quantity(min(action.intent.quantity, max(open_quantity - covered, ZERO)), instrument)
        if quantity == ZERO:
            return None
        return msgspec.structs.replace(action, intent=msgspec.structs.replace(action.intent, quantity=quantity))

    async def _send(self, entry: Order, action: Place, market: _MarketState) -> None:
        """Send one order and note when its slot may be tried again."""
        name, slot = entry.client_order_id, action.slot
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_S
        try:
            sent = await self._submit(entry, action.intent, draft=action.draft, within_s=_PERMIT_S)
            if sent is not None:
                order, result = sent
                pause = self._pause_of(slot[0], order, result)
                await self._on_result(entry, action, result, market)
        except KekbridgeError as error:
            log.error("exit_not_sent", client_order_id=name, role=slot[0].value, error=error.message)
        except Exception:
            log.exception("exit_failed", client_order_id=name, role=slot[0].value)
            pause = _LONGEST_PAUSE_S
        finally:
            market.sending.discard((name, slot))
            market.sent_count += 1
        market.not_before[name, slot] = loop.time() + pause
        market.changed.set()

    def _pause_of(self, role: Role, order: Order, result: SubmitResult) -> float:
        """Seconds until the slot may be tried again: longer with each failure, at most a few seconds for what protects."""
        if isinstance(result, Accepted):
            return _FOLLOW_EVERY_S if role is Role.FALLBACK else 0.0
        longest = _LONGEST_BACKOFF_S.get(role, _OTHER_BACKOFF_S)
        pause = min(_FIRST_PAUSE_S * float(2 ** min(order.attempt - 1, 10)), longest)
        if isinstance(result, Retryable) and result.retry_after_s is not None:
            pause = max(pause, min(result.retry_after_s, longest))
        return pause

    async def _on_result(self, entry: Order, action: Place, result: SubmitResult, market: _MarketState) -> None:
        name, role = entry.client_order_id, action.slot[0]
        if isinstance(result, Retryable) and (
            result.code == "exchange_unreachable" or self._exchange.health.is_maintenance
        ):
            market.on_outage()
            return
        if role is Role.STOP and not isinstance(result, Accepted) and name in market.memories:
            market.memories[name] = protection_plan.after_failed_stop(market.memories[name])
        if role is not Role.CLOSE:
            return
        quantity = action.intent.quantity
        if isinstance(result, Accepted):
            reason = "no stop could be placed" if action.is_last_resort else "the price had passed its stop"
            await self._database.write(
                _record_state, entry, ProtectionState.FLATTENED, f"closed {quantity}: {reason}", now=self._clock()
            )
            await self._exchange.refresh()
        elif isinstance(result, Rejected | Retryable):
            data = {"open": quantity, "code": result.code, "error": result.message}
            hour = self._clock().strftime("%Y-%m-%dT%H")
            self._note_once(f"{name} close {hour}", "protection_failed", entry, data)

    def _cancel_soon(self, view: EntryExits, order: Order, market: _MarketState) -> None:
        name, now = order.client_order_id, asyncio.get_running_loop().time()
        if view.is_closed or protection_plan.unclosed_quantity(view) == ZERO:
            since = market.closed_since.setdefault(view.entry.client_order_id, now)
            if now - since < _LEFT_TO_EXCHANGE_S:
                return
        if market.cancel_not_before.get(name, 0.0) > now:
            return
        market.cancel_not_before[name] = float("inf")
        self._spawn(self._cancel_order(order, market))

    def _cancel_exits_soon(self, view: EntryExits, report: OrderStatusReport, market: _MarketState) -> None:
        name, now = f"{view.entry.client_order_id} exits", asyncio.get_running_loop().time()
        if market.cancel_not_before.get(name, 0.0) > now:
            return
        market.cancel_not_before[name] = float("inf")
        self._spawn(self._cancel_exits(view.entry, report, name, market))

    async def _cancel_exits(self, entry: Order, report: OrderStatusReport, name: str, market: _MarketState) -> None:
        """Cancel the exits that an entry's own request carried; tried again until they have ended."""
        try:
            result = await self._exchange.cancel_exits(report)
            log.info("exits_canceled", client_order_id=entry.client_order_id, result=type(result).__name__)
            if isinstance(result, Accepted):
                data = {
                    "symbol": entry.intent.symbol,
                    "detail": "its exits would close what another entry or webhook holds",
                }
                self._note_once(name, "leftover_canceled", entry, data)
        except Exception:
            log.exception("exits_not_canceled", client_order_id=entry.client_order_id)
        market.cancel_not_before[name] = asyncio.get_running_loop().time() + _CANCEL_PAUSE_S
        market.changed.set()

    async def _cancel_order(self, order: Order, market: _MarketState) -> None:
        """Cancel an exit that nothing needs any more; tried again until it has ended."""
        try:
            error = await self._cancel(order.client_order_id)
            if error is None:
                data = {
                    "symbol": order.intent.symbol,
                    "detail": "the position it protected is gone, or another exit has its place",
                }
                self._book.note("leftover_canceled", order, now=self._clock(), data=data)
                log.info("leftover_canceled", alert_id=order.alert_id, client_order_id=order.client_order_id)
            else:
                log.warning("leftover_not_canceled", client_order_id=order.client_order_id, error=error)
        except KekbridgeError as error:
            log.warning("leftover_not_canceled", client_order_id=order.client_order_id, error=error.message)
        except Exception:
            log.exception("leftover_not_canceled", client_order_id=order.client_order_id)
        market.cancel_not_before[order.client_order_id] = asyncio.get_running_loop().time() + _CANCEL_PAUSE_S
        market.changed.set()

    def _withdraw(self, entry: Order, order: Order) -> None:
        """End a draft; the trailing stop of an entry that did not execute as one whose earlier leg failed."""
        order, now = self._book.current(order), self._clock()
        if order.status is not OrderStatus.QUEUED or order.finished_at is not None:
            return
        if order.attempt == 0 and not entry.executed_quantity:
            text = "an earlier step of this alert did not succeed"
            after = transitions.denied(order, code="earlier_leg_failed", error=text, now=now)
        else:
            after = transitions.withdrawn(order, reason="nothing needs it any more", now=now)
        self._book.change(order, after, now=now)

    def _spawn(self, work: Awaitable[None]) -> None:
        assert self._group is not None  # noqa: S101 - set by run(), which alone leads here
        self._group.create_task(_run(work))

    # ----------------------------------------------------------------------------------------------------------- recording

    async def _record(self, protected: ProtectedEntry, plan: ExitPlan) -> None:
        """Store the states that changed."""
        now, entry = self._clock(), protected.entry
        detail = _detail(plan, entry.intent)
        trailing = protected.trailing if protected.wants_trailing else None
        if plan.is_over:
            for order in (entry if protected.wants_stop else None, trailing):
                if order is not None:
                    await self._database.write(_record_state, order, ProtectionState.OVER, "", now=now)
            if protected.wants_take_profits:
                ended = protection.take_profits_entry(entry, detail="the position is gone", now=now)
                await self._database.write(projector.record, ended)
            return
        for order, coverage in ((entry, plan.stop), (trailing, plan.trailing)):
            if order is None or coverage is None:
                continue
            if coverage is Coverage.MISSING and not plan.uncovered:
                continue
            await self._database.write(_record_state, order, _STATES[coverage], detail, now=now)


def _held(
    views: Iterable[EntryExits], position: Decimal, shares: Mapping[str, Decimal] | None
) -> Mapping[str, Decimal]:
    """What is left of each entry in a signed position, in base units, by its client order id. `shares`: Holdings.shares."""
    held: dict[str, Decimal] = {}
    for sign in (1, -1):
        unclosed = [
            (view.entry.client_order_id, view.entry.webhook_id, protection_plan.unclosed_quantity(view))
            for view in views
            if view.entry.intent.side.sign == sign and not view.is_closed
        ]
        of_webhooks = None if shares is None else {name: quantity * sign for name, quantity in shares.items()}
        held |= protection_plan.share_position(unclosed, position * sign, of_webhooks)
    return held


def _is_open(order: Order) -> bool:
    """True if the order is or may be open at the exchange."""
    return order.finished_at is None and order.status is not OrderStatus.QUEUED


async def _run(work: Awaitable[None]) -> None:
    await work


def _detail(plan: ExitPlan, intent: OrderIntent) -> str:
    """What the state of an entry's exits means in figures."""
    parts = (
        [f"{format_decimal(plan.uncovered)} of {format_decimal(plan.held)} without a stop"] if plan.uncovered else []
    )
    if plan.dust and not (plan.stop is Coverage.OWN or plan.trailing is Coverage.OWN):
        base = intent.symbol.split("_")[1]
        parts.append(
            f"{format_decimal(plan.dust)} {base} of it is dust: below the smallest order, it can be neither covered nor closed"
        )
    return "; ".join(parts)


def _fills_since(connection: sqlite3.Connection, entry: Order) -> tuple[tuple[Fill, ...], tuple[Fill, ...]]:
    """An entry's own fills, and what was traded in its market since the last of them."""
    own = fills.of_order(connection, entry.client_order_id)
    if not own:
        return (), ()
    known = {fill.trade_id for fill in own}
    found = fills.list_fills(connection, symbol=entry.intent.symbol, since=own[-1].executed_at)
    return own, tuple(fill for fill in _cross(found) if fill.trade_id not in known)


def _cross(found: Iterable[Fill]) -> tuple[Fill, ...]:
    """Those of cross positions, which alone are protected: an isolated one was opened by hand."""
    return tuple(fill for fill in found if fill.margin_mode is MarginMode.CROSS)


def _record_state(
    connection: sqlite3.Connection, order: Order, state: ProtectionState, detail: str, *, now: datetime
) -> None:
    """Append and store a new state of a stop; nothing if it is unchanged."""
    entry = protection.state_entry(connection, order, state, detail=detail, now=now)
    if entry is not None:
        projector.record(connection, entry)
