"""Operations on trading: halt, exits only, resume, flatten, close, cancel; the live state, lockouts, jobs and backups of a bridge."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta

from kekbridge.alerts.symbols import SymbolMatch
from kekbridge.errors import ConfigError, ExchangeUnavailable, KekbridgeError, NotFound, StoreUnavailable
from kekbridge.exchange.base import Exchange
from kekbridge.execution.direct_orders import SendCloses, send_directly
from kekbridge.execution.exit_watch import dropped, held_exits, resting_entries
from kekbridge.execution.flatten import FlattenResult, flatten
from kekbridge.execution.manual_cancel import (
    CanceledOrder,
    cancel_listed,
    canceled_order,
    denied_by_hand,
    find_order,
    is_waiting_entry,
    overtaken_by_hand,
)
from kekbridge.execution.manual_close import CloseRequest, CloseResult, close_by_hand, plan_close
from kekbridge.formatting import format_decimal, market, to_jsonable
from kekbridge.ingress.lockout import read_address
from kekbridge.log import get_logger
from kekbridge.model import ZERO, AccountSnapshot, MarginMode, Order, OrderIntent, OrderStatus, Position, TradingState
from kekbridge.model.check import Check
from kekbridge.ops import known_names
from kekbridge.ops.operation import COMMAND_LINE, Operation, OperatorContext, bridge_of
from kekbridge.reports.states import close_again_text
from kekbridge.store import codec, equity, job_runs, lost_orders, orders, projector, settings, webhooks
from kekbridge.store.facts import OrderFact, order_entry
from kekbridge.webhooks import registry

log = get_logger("kekbridge.ops.operations")

BY_HAND: Final = "by hand"
_WHOLE: Final = Decimal(100)


class Halt(Operation, frozen=True, kw_only=True):
    """Stop all trading at once: entries end, also those that rest at the exchange; exits are held until `resume`.

    Returns the account's trading state, and as `restingEntries` how many orders at the exchange are cancelled for it.
    """

    operation: ClassVar[str] = "halt"
    writes: ClassVar[bool] = True

    #: For the history.
    reason: str = BY_HAND
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        return await _restrict(context, TradingState.HALTED, self.reason, self.by)


class ExitsOnly(Operation, frozen=True, kw_only=True):
    """Deny entries at once and cancel those that rest at the exchange; exits still pass. Returns what `Halt` does."""

    operation: ClassVar[str] = "exits-only"
    writes: ClassVar[bool] = True

    #: For the history.
    reason: str = BY_HAND
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        return await _restrict(context, TradingState.EXITS_ONLY, self.reason, self.by)


class Resume(Operation, frozen=True, kw_only=True):
    """Resume trading of the account and all webhooks, or of one webhook. Returns its trading state."""

    operation: ClassVar[str] = "resume"
    writes: ClassVar[bool] = True

    #: For the history.
    reason: str = BY_HAND
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE
    #: Name or id of a webhook that one of its limits closed; None: everything.
    webhook: str | None = None
    #: Also set the equity peak to the current equity, so that drawdown restarts at zero; `equityPeak` is then part of the result.
    reset_peak: bool = False
    #: What becomes of the exits that a halt has held, which `heldExits` of the result lists: they are sent, or they end unsent.
    held_exits: Literal["send", "drop"] = "send"

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        database, now = context.database, context.clock()
        if self.webhook is None:
            await database.write(lost_orders.accept, now=now)
        peak = await database.write(equity.reset_peak, by=self.by, now=now) if self.reset_peak else None
        scope = settings.ACCOUNT
        if self.webhook is not None:
            scope = (await database.read(webhooks.find, self.webhook)).id
        held = await _held_exits(context, scope)
        if self.held_exits == "drop":
            await _drop(context, held)
        if context.bridge is None:
            await database.write(_resume, scope, reason=self.reason, by=self.by, now=now)
        elif self.webhook is None:
            context.bridge.book.resume_all(reason=self.reason, by=self.by, now=now)
        else:
            context.bridge.book.set_state(scope, TradingState.RUNNING, reason=self.reason, by=self.by, now=now)
        await database.flush()
        control: dict[str, Any] = to_jsonable(
            await database.read(settings.trading_control, now=context.clock(), scope=scope)
        )
        again = [] if self.reset_peak else await _closes_again(context, self.webhook)
        found = {"heldExits": [_held_data(order) for order in held], "closesAgain": again}
        return control | found | ({"equityPeak": peak} if self.reset_peak else {})


async def _closes_again(context: OperatorContext, name: str | None) -> list[dict[str, Any]]:
    """The limits that are still exceeded, and that close what was resumed again."""
    from kekbridge.reports.limits import still_exceeded  # late: only after a limit

    now = context.clock()
    exceeded = await context.database.read(still_exceeded, context.settings, name, at=now)
    return [
        to_jsonable({"scope": scope, "name": name, "rule": rule, "until": until})
        | {"text": close_again_text(rule, until, now, scope=scope, name=name)}
        for scope, name, rule, until in exceeded
    ]


class ListHeldExits(Operation, frozen=True, kw_only=True):
    """The exits that a halt holds and that `resume` would send."""

    operation: ClassVar[str] = "held-exits"

    #: Name or id of a webhook; None: those that resuming everything would send.
    webhook: str | None = None

    async def run(self, context: OperatorContext) -> list[dict[str, Any]]:
        scope = settings.ACCOUNT
        if self.webhook is not None:
            scope = (await context.database.read(webhooks.find, self.webhook)).id
        return [_held_data(order) for order in await _held_exits(context, scope)]


async def _held_exits(context: OperatorContext, scope: str) -> tuple[Order, ...]:
    """The exits that resuming a scope would send: the account with every webhook, or one webhook, if only that is halted."""
    if context.bridge is None:
        return await context.database.read(_held_in_store, scope, now=context.clock())
    book, now = context.bridge.book, context.clock()
    found = held_exits(
        book.queued.values(), lambda webhook_id: book.control(webhook_id, now=now, ignore_breaches=True).state
    )
    return _of_scope(found, scope, book.control(settings.ACCOUNT, now=now).state)


def _held_in_store(connection: sqlite3.Connection, scope: str, *, now: datetime) -> tuple[Order, ...]:
    controls = settings.stored_controls(connection)
    found = held_exits(
        orders.unfinished(connection),
        lambda webhook_id: settings.strictest(controls, webhook_id, now=now, ignore_breaches=True).state,
    )
    return _of_scope(found, scope, settings.strictest(controls, settings.ACCOUNT, now=now).state)


def _of_scope(found: tuple[Order, ...], scope: str, account: TradingState) -> tuple[Order, ...]:
    if scope == settings.ACCOUNT:
        return found
    return tuple(order for order in found if order.webhook_id == scope) if account is not TradingState.HALTED else ()


async def _drop(context: OperatorContext, held: tuple[Order, ...]) -> None:
    """End held exits: in the daemon's book, or in the store while no daemon runs."""
    now = context.clock()
    for order in held:
        if context.bridge is not None:
            context.bridge.book.change(order, dropped(order, now=now), now=now)
        else:
            await _end(context, order, dropped(order, now=now), now=now)


async def _end(context: OperatorContext, before: Order, after: Order, *, now: datetime) -> None:
    """Store the end of a queued order while no daemon runs."""
    fact = OrderFact(before=before, after=after, at=codec.truncate_to_ms(now))
    await context.database.write(projector.record, order_entry(fact))


def _held_data(order: Order) -> dict[str, Any]:
    intent = order.intent
    data: dict[str, Any] = to_jsonable(
        {"symbol": intent.symbol, "side": intent.side.value, "quantity": intent.quantity, "createdAt": order.created_at}
    )
    return {"clientOrderId": order.client_order_id, "alertId": order.alert_id} | data


def _resume(connection: sqlite3.Connection, scope: str, *, reason: str, by: str, now: datetime) -> None:
    """Resume one webhook, or the account with every webhook, while no daemon runs."""
    if scope == settings.ACCOUNT:
        settings.resume_all(connection, reason=reason, by=by, now=now)
    else:
        settings.set_trading_state(connection, TradingState.RUNNING, reason=reason, by=by, now=now, scope=scope)


class NoteLostOrdersShown(Operation, frozen=True, kw_only=True):
    """Record that `kekbridge doctor` has listed the orders that the database does not know, so that trading may be resumed."""

    operation: ClassVar[str] = "lost-orders-shown"
    writes: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        return {"shown": await context.database.write(lost_orders.mark_shown, now=context.clock())}


async def _restrict(context: OperatorContext, state: TradingState, reason: str, by: str) -> dict[str, Any]:
    """Set the account's state: in the daemon's book, which the very next decision sees, or in the store while no daemon runs.

    A daemon cancels the entries at the exchange (execution/exit_watch.py), at its start if none runs.
    """
    now = context.clock()
    if context.bridge is not None:
        resting = resting_entries(context.bridge.book.orders.values())
        context.bridge.book.set_state(settings.ACCOUNT, state, reason=reason, by=by, now=now)
        await context.database.flush()
    else:
        resting = resting_entries(await context.database.read(orders.unfinished))
        await context.database.write(settings.set_trading_state, state, reason=reason, by=by, now=now)
    control: dict[str, Any] = to_jsonable(await context.database.read(settings.trading_control, now=context.clock()))
    return control | {"restingEntries": len(resting)}


class Flatten(Operation, frozen=True, kw_only=True):
    """Halt, cancel what may open, close every position, then cancel every order."""

    operation: ClassVar[str] = "flatten"
    writes: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True

    #: Give up after this many seconds.
    deadline_s: Annotated[int, Meta(ge=1, le=3600)] = 30
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        if context.may_write:
            try:
                # Halted first: a queued entry would reopen what is closed here.
                await _restrict(context, TradingState.HALTED, "flatten", self.by)
            except StoreUnavailable as error:
                context.report(f"Trading could not be halted ({error.message}); positions are closed anyway.")
        if context.bridge is not None:
            send = context.bridge.manual_orders.sender({"action": "flatten", "by": self.by})
            result = await self._flatten(context, context.bridge.exchange, send)
        else:
            async with context.open_exchange() as exchange:
                result = await self._flatten(context, exchange, send_directly(exchange, context.clock))
        return flatten_data(result) | {"halted": await self._is_halted(context)}

    async def _is_halted(self, context: OperatorContext) -> bool:
        """True if trading is halted, by this or before; beside a bridge that does not answer, as it has stored."""
        if context.bridge is not None:
            return context.bridge.book.control(settings.ACCOUNT, now=context.clock()).state is TradingState.HALTED
        control = await context.database.read(settings.trading_control, now=context.clock())
        return control.state is TradingState.HALTED

    async def _flatten(self, context: OperatorContext, exchange: Exchange, send: SendCloses) -> FlattenResult:
        return await flatten(exchange, send=send, deadline_s=self.deadline_s, on_progress=context.report)


def flatten_data(result: FlattenResult) -> dict[str, Any]:
    """The result of a flatten as JSON, however it was done."""
    return {
        "flat": result.is_flat,
        "positionsClosed": result.positions_closed,
        "ordersLeft": result.orders_left,
        "positionsLeft": [position_data(position) for position in result.positions_left],
        "isolatedPositions": [
            position_data(position) for position in result.positions_left if position.margin_mode is MarginMode.ISOLATED
        ],
        "dust": to_jsonable(result.dust),
        "trouble": result.error,
    }


class Close(Operation, frozen=True, kw_only=True):
    """Close the position of a market, or a part of it; also while trading is halted."""

    operation: ClassVar[str] = "close"
    writes: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True

    #: A base (`BTC`), the exchange's name (`PERP_BTC_USDC`), or a ticker as alerts have it (`BTCUSDT.P`).
    symbol: str
    #: Base units, at most all of it is closed; None: all, or `share`.
    quantity: Decimal | None = None
    #: Percent of the position, above 0 and at most 100; None: all, or `quantity`.
    share: Decimal | None = None
    #: Of which position; None: the one that is open, or both.
    margin_mode: MarginMode | None = None
    #: Only return the orders that would be sent, as `orders` with status `planned`.
    dry_run: bool = False
    #: Give up after this many seconds.
    deadline_s: Annotated[int, Meta(ge=1, le=3600)] = 30
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE

    def __post_init__(self) -> None:
        """Raises ConfigError for amounts that cannot be closed."""
        if self.quantity is not None and self.share is not None:
            raise ConfigError("found a quantity and a share, expected at most one of them")
        if self.quantity is not None and not (self.quantity.is_finite() and self.quantity > 0):
            raise ConfigError(f"quantity: found {self.quantity}, expected a number of coins above 0")
        if self.share is not None and not (self.share.is_finite() and 0 < self.share <= _WHOLE):
            raise ConfigError(f"share: found {self.share}, expected a percentage above 0 and at most 100")

    async def _request(self, exchange: Exchange) -> CloseRequest:
        """What is to be closed. Raises NotFound, ConfigError."""
        found = await _market_at(exchange, self.symbol)
        if self.quantity is not None and found.unit_factor != 1:
            raise ConfigError(
                f"symbol: found {self.symbol[:40]!r} with a quantity, whose unit would not be clear; write {market(found.symbol)}"
            )
        return CloseRequest(symbol=found.symbol, quantity=self.quantity, share=self.share, margin_mode=self.margin_mode)

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        async with context.open_exchange() as exchange:
            request = await self._request(exchange)
            if self.dry_run:
                intents = await plan_close(exchange, request)
                return plan_data(request.symbol, intents) | {"limitedTo": _limited_to(request, exchange.snapshot)}
            manual = None if context.bridge is None else context.bridge.manual_orders
            send = send_directly(exchange, context.clock) if manual is None else manual.sender(self._message(request))
            ended: list[Order] = []

            async def end_entries_and_send(intents: Sequence[OrderIntent]) -> Sequence[Order]:
                # Before the first order: an entry that is sent after it would open again what is closed here.
                if request.is_whole and request.margin_mode is not MarginMode.ISOLATED:
                    ended.extend(await self._end_waiting_entries(context, request.symbol))
                return await send(intents)

            result = await close_by_hand(exchange, request, send=end_entries_and_send, deadline_s=self.deadline_s)
            left = 0 if manual is None else manual.open_entries(request.symbol)
            done = sum((order.executed_quantity for order in result.orders), ZERO)
            is_open = any(request.margin_mode in (None, one.margin_mode) for one in result.positions_left)
            limited = result.is_closed and not is_open and self.quantity is not None and done < self.quantity
            return close_data(result, ended, entries_left=left) | {
                "limitedTo": format_decimal(done) if limited else None
            }

    async def _end_waiting_entries(self, context: OperatorContext, symbol: str) -> Sequence[Order]:
        """End the market's entries that were not sent yet: in the daemon's book, or in the store while no daemon runs."""
        if context.bridge is not None:
            return context.bridge.manual_orders.end_waiting_entries(symbol, by=self.by)
        if not context.may_write:
            return ()
        now = context.clock()
        waiting = [order for order in await context.database.read(orders.unfinished) if is_waiting_entry(order, symbol)]
        ended = [overtaken_by_hand(order, by=self.by, now=now) for order in waiting]
        for before, after in zip(waiting, ended, strict=True):
            await _end(context, before, after, now=now)
        return ended

    def _message(self, request: CloseRequest) -> dict[str, object]:
        """What was asked for, as the stored alert shows it."""
        message = {
            "action": "close",
            "symbol": request.symbol,
            "quantity": request.quantity,
            "share": request.share,
            "marginMode": request.margin_mode,
            "by": self.by,
        }
        return {name: value for name, value in message.items() if value is not None}


async def _market_at(exchange: Exchange, text: str) -> SymbolMatch:
    """The market that the operator names, among those of the exchange. Raises NotFound, ConfigError.

    While the exchange does not answer, a base or the exchange's own name is believed: the close is tried until its deadline.
    """
    snapshot = exchange.snapshot
    if snapshot is None:
        try:
            snapshot = await exchange.refresh()
        except ExchangeUnavailable:
            return SymbolMatch(registry.perp_symbol(text))
    try:
        return known_names.find_market(text, snapshot.instruments)
    except NotFound:  # a market that was delisted, or listed since the rules were read
        held = {position.symbol for position in (await exchange.refresh()).open_positions()}
        return known_names.find_market(text, frozenset({*snapshot.instruments, *held}))


def _limited_to(request: CloseRequest, snapshot: AccountSnapshot | None) -> str | None:
    """What is open, as text, if more was asked for; else None."""
    if request.quantity is None or snapshot is None:
        return None
    modes = tuple(MarginMode) if request.margin_mode is None else (request.margin_mode,)
    held = sum(
        (
            abs(one.quantity)
            for one in snapshot.open_positions()
            if one.symbol == request.symbol and one.margin_mode in modes
        ),
        ZERO,
    )
    return format_decimal(held) if held < request.quantity else None


class FindMarket(Operation, frozen=True, kw_only=True):
    """The exchange's symbol for a market as the operator writes it. Raises NotFound with the nearest market, ConfigError."""

    operation: ClassVar[str] = "market"
    is_logged: ClassVar[bool] = False

    #: As of a close.
    symbol: str

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        if context.bridge is not None:
            return {"symbol": (await _market_at(context.bridge.exchange, self.symbol)).symbol}
        return {"symbol": await context.database.read(known_names.symbol, self.symbol, "symbol")}


def close_data(result: CloseResult, ended: Sequence[Order], *, entries_left: int) -> dict[str, Any]:
    """The result of a close as JSON, however it was done. `ended`: entries that it ended; `entries_left`: those that may still open."""
    return {
        "symbol": result.symbol,
        "closed": result.is_closed,
        "dryRun": False,
        "orders": [_order_data(order) for order in result.orders],
        "positionsLeft": [position_data(position) for position in result.positions_left],
        "dust": to_jsonable(result.dust),
        "trouble": result.trouble,
        "entriesEnded": [order.client_order_id for order in ended],
        "entriesLeft": entries_left,
    }


def plan_data(symbol: str, intents: Sequence[OrderIntent]) -> dict[str, Any]:
    """The orders that a close would send, as JSON with the same keys."""
    planned = [{**_intent_data(intent), **dict.fromkeys(_OF_SENT_ORDERS), "status": "planned"} for intent in intents]
    return {
        "symbol": symbol,
        "closed": False,
        "dryRun": True,
        "orders": planned,
        "positionsLeft": [],
        "dust": [],
        "entriesEnded": [],
        "entriesLeft": 0,
        "trouble": "" if planned else "nothing can be closed: it is below the exchange's smallest order",
    }


_OF_SENT_ORDERS: Final = ("clientOrderId", "orderId", "executedQuantity", "averagePrice", "code", "error")


def _order_data(order: Order) -> dict[str, Any]:
    of_order = {
        "clientOrderId": order.client_order_id,
        "orderId": order.order_id,
        "executedQuantity": format_decimal(order.executed_quantity),
        "averagePrice": None if order.average_price is None else format_decimal(order.average_price),
        "code": order.code,
        "error": order.error,
        "status": order.status,
    }
    return _intent_data(order.intent) | of_order


def _intent_data(intent: OrderIntent) -> dict[str, Any]:
    return {
        "symbol": intent.symbol,
        "marginMode": intent.margin_mode,
        "side": intent.side,
        "quantity": format_decimal(intent.quantity),
    }


class Cancel(Operation, frozen=True, kw_only=True):
    """Cancel one open order, also one placed elsewhere."""

    operation: ClassVar[str] = "cancel"
    writes: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 30.0

    #: Client order id, the exchange's id, our id of its alert, or the beginning of one.
    order: str
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        if context.bridge is not None:
            return cancel_data(await context.bridge.manual_orders.cancel(self.order, by=self.by))
        unfinished = await context.database.read(orders.unfinished)
        async with context.open_exchange() as exchange:
            found = await find_order(exchange, self.order, unfinished)
            if found.report is not None:
                return cancel_data(await cancel_listed(exchange, found.report))
        order = found.own
        if order.status is not OrderStatus.QUEUED:
            raise ConfigError(
                f"{order.client_order_id} is {order.status}, and the exchange does not list it; `kekbridge serve` finds out"
                " what became of it"
            )
        now = context.clock()
        denied = denied_by_hand(order, by=self.by, now=now)
        await _end(context, order, denied, now=now)
        return cancel_data(canceled_order(denied, ""))


def cancel_data(canceled: CanceledOrder) -> dict[str, Any]:
    """The result of a cancel as JSON, however it was done."""
    data: dict[str, Any] = to_jsonable(canceled)
    amounts = {
        "quantity": format_decimal(canceled.quantity),
        "executedQuantity": format_decimal(canceled.executed_quantity),
    }
    return data | amounts | {"canceled": canceled.is_canceled}


def position_data(position: Position) -> dict[str, Any]:
    """A position as JSON, with unrealized P&L at the mark price."""
    data: dict[str, Any] = to_jsonable(position)
    return data | {"unrealizedPnl": to_jsonable(position.unrealized_pnl)}


class ShowState(Operation, frozen=True, kw_only=True):
    """The live state that the dashboard shows."""

    operation: ClassVar[str] = "state"
    needs_daemon: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        return await bridge_of(context).state()


class Examine(Operation, frozen=True, kw_only=True):
    """Check the whole installation, where its vault is open."""

    operation: ClassVar[str] = "doctor"
    needs_daemon: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 120.0

    async def run(self, context: OperatorContext) -> tuple[Check, ...]:
        return await bridge_of(context).examine()


class ListLockouts(Operation, frozen=True, kw_only=True):
    """Addresses that are locked out after failed authentications."""

    operation: ClassVar[str] = "lockouts-list"
    needs_daemon: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> tuple[Any, ...]:
        return bridge_of(context).lockout.locked(context.clock())


class LiftLockout(Operation, frozen=True, kw_only=True):
    """Accept requests from an address again. `lifted` is false when it was not locked out."""

    operation: ClassVar[str] = "lockouts-lift"
    needs_daemon: ClassVar[bool] = True

    #: As `lockouts list` shows it.
    address: str

    def __post_init__(self) -> None:
        read_address(self.address)

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        address = read_address(self.address)
        is_lifted = bridge_of(context).lockout.release(address)
        log.info("lockout_lifted", remote=str(address), lifted=is_lifted)
        return {"address": str(address), "lifted": is_lifted}


class RunJob(Operation, frozen=True, kw_only=True):
    """Run a scheduled job now and wait for it. Returns the job's record."""

    operation: ClassVar[str] = "jobs-run"
    writes: ClassVar[bool] = True
    needs_daemon: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 3660.0  # the longest job may take an hour

    #: As `kekbridge jobs` lists it.
    job: str

    async def run(self, context: OperatorContext) -> job_runs.JobRun:
        await bridge_of(context).run_job(self.job)
        runs = await context.database.read(job_runs.list_runs)
        found = next((run for run in runs if run.name == self.job), None)
        if found is None:  # the run could not be recorded
            raise KekbridgeError(
                "store_unavailable", f"{self.job} was run, but the store did not record it; see the log"
            )
        return found


class RecordBackup(Operation, frozen=True, kw_only=True):
    """Record when the last backup was made, for `doctor`."""

    operation: ClassVar[str] = "backup-record"
    writes: ClassVar[bool] = True

    #: Instant of the copy.
    made_at: datetime

    async def run(self, context: OperatorContext) -> None:
        from kekbridge.ops.backup import record  # late: commands that change trading need no zip files

        await context.database.write(record, self.made_at)
