"""Operations on trading: halt, exits only, resume, flatten; the live state, lockouts, jobs and backups of a bridge."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta

from kekbridge.errors import KekbridgeError, StoreUnavailable
from kekbridge.execution.exit_watch import dropped, held_exits
from kekbridge.execution.flatten import FlattenResult, flatten
from kekbridge.formatting import to_jsonable
from kekbridge.ingress.lockout import read_address
from kekbridge.log import get_logger
from kekbridge.model import Order, Position, TradingState
from kekbridge.ops.operation import COMMAND_LINE, Operation, OperatorContext, bridge_of
from kekbridge.store import codec, equity, job_runs, lost_orders, orders, projector, settings, webhooks
from kekbridge.store.facts import OrderFact, order_entry

log = get_logger("kekbridge.ops.operations")

BY_HAND: Final = "by hand"


class Halt(Operation, frozen=True, kw_only=True):
    """Stop all trading at once: entries end, exits are held until `resume`. Returns the account's trading state."""

    operation: ClassVar[str] = "halt"
    writes: ClassVar[bool] = True

    #: For the history.
    reason: str = BY_HAND
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE

    async def run(self, context: OperatorContext) -> settings.TradingControl:
        return await _restrict(context, TradingState.HALTED, self.reason, self.by)


class ExitsOnly(Operation, frozen=True, kw_only=True):
    """Deny entries at once; exits still pass. Returns the account's trading state."""

    operation: ClassVar[str] = "exits-only"
    writes: ClassVar[bool] = True

    #: For the history.
    reason: str = BY_HAND
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE

    async def run(self, context: OperatorContext) -> settings.TradingControl:
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
        found = {"heldExits": [_held_data(order) for order in held]}
        return control | found | ({"equityPeak": peak} if self.reset_peak else {})


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
            fact = OrderFact(before=order, after=dropped(order, now=now), at=codec.truncate_to_ms(now))
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


async def _restrict(context: OperatorContext, state: TradingState, reason: str, by: str) -> settings.TradingControl:
    """Set the account's state: in the daemon's book, which the very next decision sees, or in the store while no daemon runs."""
    now = context.clock()
    if context.bridge is not None:
        context.bridge.book.set_state(settings.ACCOUNT, state, reason=reason, by=by, now=now)
        await context.database.flush()
    else:
        await context.database.write(settings.set_trading_state, state, reason=reason, by=by, now=now)
    return await context.database.read(settings.trading_control, now=context.clock())


class Flatten(Operation, frozen=True, kw_only=True):
    """Halt, cancel every order, close every position of the account. A command does it itself if no daemon answers."""

    operation: ClassVar[str] = "flatten"
    writes: ClassVar[bool] = True
    needs_daemon: ClassVar[bool] = True

    #: Give up after this many seconds.
    deadline_s: Annotated[int, Meta(ge=1, le=3600)] = 30
    #: Who asked for it, for the history.
    by: str = COMMAND_LINE

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        exchange = bridge_of(context).exchange
        try:
            # Halted first: a queued entry would reopen what is closed here.
            await _restrict(context, TradingState.HALTED, "flatten", self.by)
        except StoreUnavailable as error:
            log.error("not_halted", detail="closing positions anyway", error=error.message)
        result = await flatten(
            exchange,
            clock=context.clock,
            deadline_s=self.deadline_s,
            on_progress=lambda line: log.info("flatten", step=line),
        )
        return flatten_data(result)


def flatten_data(result: FlattenResult) -> dict[str, Any]:
    """The result of a flatten as JSON, however it was done."""
    return {
        "flat": result.is_flat,
        "positionsClosed": result.positions_closed,
        "ordersLeft": result.orders_left,
        "positionsLeft": [position_data(position) for position in result.positions_left],
        "isolatedPositions": [position_data(position) for position in result.isolated],
        "trouble": result.error,
    }


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
