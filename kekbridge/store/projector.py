"""The projector: turns rows of the journal into the tables of alerts, orders, fills and what depends on them.

The only writer of these tables. While the daemon runs the writer thread projects in batches, after the orders have left; a command that
opens the database of a stopped daemon projects what is left. A batch is folded first: an alert that was stored, filled and answered in one
batch is inserted once, in its last state. `projection` holds how far the tables are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from kekbridge.model import Order, OrderStatus
from kekbridge.store import (
    alerts,
    cancels,
    codec,
    equity,
    facts,
    fills,
    incomplete_orders,
    orders,
    protection,
    settings,
    strategy_positions,
)
from kekbridge.store.codec import EXACT
from kekbridge.store.facts import AlertFact, ExitsFact, Fact, FillFact, OrderFact, OwnedFill, PlainFact, ResponseFact
from kekbridge.store.journal import Entry
from kekbridge.store.reservations import ACCOUNT, DayTotals, daily_share, read_day, write_day

# Rows read back at a time when a crash left some unprojected.
_CATCH_UP_ROWS: Final = 500
_ALERT_KINDS: Final = (
    "alert_admitted",
    "alert_denied",
    "alert_refused",
    "alert_ignored",
    "alert_rate_limited",
)
# Kinds of rows that other tables follow from, by what they begin with: the journal has further kinds that begin like them.
_ORDER_KINDS: Final = frozenset(f"order_{status}" for status in OrderStatus)
_PROTECTION_KINDS: Final = frozenset(f"protection_{state}" for state in protection.ProtectionState)
# Tables that hold nothing but what the journal says, children first.
TABLES: Final = (
    *("protections", "ladders", "exits", "cancels", "incomplete_orders", "fills", "results", "orders", "alerts"),
    *("day_results", "daily_usage", "courses", "tallies", "funding", "transfers"),
)


class _AlertRow(msgspec.Struct):
    """An alert of the batch, and how its headline and response ended."""

    fact: AlertFact
    #: Its orders, as they are after the batch.
    names: list[str]
    #: When it, its response or one of its orders changed last.
    updated_at: datetime
    has_changed: bool = False
    response: ResponseFact | None = None


class _OrderRow(msgspec.Struct):
    """An order of the batch, and what is kept of it if later facts do not replace it."""

    order: Order
    at: datetime
    #: Inserted by this batch.
    is_new: bool
    request: str | None = None
    verdicts: tuple[Any, ...] = ()
    signed_at: datetime | None = None


# -------------------------------------------------------------------------------------------------------------- projecting


def project(connection: sqlite3.Connection, entries: Iterable[Entry], *, last: int) -> None:
    """Write what these rows say into the tables, inside a transaction. `last`: the sequence of the last of them."""
    batch = _Batch()
    for entry in entries:
        if entry.fact is not None:
            batch.add(entry.fact)
    batch.write(connection)
    connection.execute("UPDATE projection SET sequence = ?", (last,))


def record(connection: sqlite3.Connection, entry: Entry) -> None:
    """Append a row and project it at once, inside a transaction of a job or a command; everything before it is projected already."""
    from kekbridge.store import journal

    sequence = journal.insert(connection, entry)
    if sequence is not None:
        project(connection, [entry], last=sequence)


def skip(connection: sqlite3.Connection) -> None:
    """Note that the tables hold everything up to the head of the journal. Call it at the end of a transaction that appended rows itself."""
    connection.execute(
        "UPDATE projection SET sequence = coalesce((SELECT max(sequence) FROM journal), 0)"
        " WHERE sequence <> coalesce((SELECT max(sequence) FROM journal), 0)"
    )


class _Batch:
    """The facts of one batch, folded by alert and order."""

    def __init__(self) -> None:
        self._alerts: dict[str, _AlertRow] = {}
        self._orders: dict[str, _OrderRow] = {}
        self._days: dict[tuple[str, str], DayTotals] = {}
        self._headlines: dict[
            str, datetime
        ] = {}  # of alerts stored before whose orders changed: when they changed last
        self._others: list[Fact] = []  # in their order, once alerts and orders are written
        self._executed: set[str] = set()  # orders whose executed quantity or fills changed
        self._exits: set[str] = set()  # entries whose exits, or the fills of these, changed

    def add(self, fact: Fact) -> None:
        match fact:
            case AlertFact():
                self._add_alert(fact)
            case OrderFact():
                self._add_order(fact)
            case ResponseFact():
                self._add_response(fact)
            case FillFact():
                self._add_realized(fact)
                self._others.append(fact)
                if fact.after.fill.client_order_id is not None:
                    self._executed.add(fact.after.fill.client_order_id)
                if fact.after.exit_of is not None:
                    self._exits.add(fact.after.exit_of)
            case ExitsFact():
                self._exits.add(fact.client_order_id)
                self._others.append(fact)
            case PlainFact(kind="funding"):
                for scope, day, paid in funding_moves(fact.data):
                    self._add_to_day(scope, day, DayTotals(funding=paid))
                self._others.append(fact)
            case _:
                self._others.append(fact)

    def _add_alert(self, fact: AlertFact) -> None:
        names = [order.client_order_id for order in fact.orders]
        self._alerts[fact.alert.id] = _AlertRow(fact, names, fact.alert.updated_at)
        for order in fact.orders:
            request = fact.request if order.leg == 0 else None
            self._orders[order.client_order_id] = _OrderRow(order, order.created_at, is_new=True, request=request)
            self._add_share(None, order)

    def _add_order(self, fact: OrderFact) -> None:
        after = fact.after
        row = self._orders.get(after.client_order_id)
        if row is None:
            row = _OrderRow(after, fact.at, is_new=fact.before is None)
            self._orders[after.client_order_id] = row
            if row.is_new and after.alert_id in self._alerts:
                self._alerts[after.alert_id].names.append(after.client_order_id)
        row.order, row.at = after, fact.at
        row.request = fact.request if fact.request is not None else row.request
        row.verdicts = fact.verdicts or row.verdicts
        row.signed_at = fact.signed_at or row.signed_at
        alert = self._alerts.get(after.alert_id)
        if alert is None:
            self._headlines[after.alert_id] = fact.at
        else:
            alert.has_changed, alert.updated_at = True, fact.at
        self._add_share(fact.before, after)
        if after.executed_quantity != (fact.before.executed_quantity if fact.before is not None else 0):
            self._executed.add(after.client_order_id)
        if _begins_protection(fact) or fact.has_later_exits:
            self._others.append(fact)

    def _add_response(self, fact: ResponseFact) -> None:
        row = self._alerts.get(fact.alert_id)
        if row is not None and (row.names or not row.fact.cancels):  # else cancel steps may end before it
            row.response, row.updated_at = fact, fact.at
            return
        if fact.alert_id in self._headlines:
            self._headlines[fact.alert_id] = fact.at
        self._others.append(fact)

    def _add_share(self, before: Order | None, after: Order) -> None:
        old, new = daily_share(before), daily_share(after)
        if old != new:
            change = DayTotals(EXACT.subtract(new.notional, old.notional), new.orders - old.orders)
            day = codec.day_of(after.created_at)
            self._add_to_day(after.webhook_id, day, change)
            self._add_to_day(ACCOUNT, day, change)

    def _add_realized(self, fact: FillFact) -> None:
        day = codec.day_of(fact.after.fill.executed_at)
        for scope, amount in realized_moves(fact):
            self._add_to_day(scope, day, DayTotals(realized_pnl=amount))

    def _add_to_day(self, scope: str, day: str, change: DayTotals) -> None:
        self._days[scope, day] = self._days.get((scope, day), DayTotals()).plus(change)

    # ------------------------------------------------------------------------------------------------------------- writing

    def write(self, connection: sqlite3.Connection) -> None:
        if self._alerts:
            alerts.insert_all(connection, [self._finished_alert(row) for row in self._alerts.values()])
        new = [row for row in self._orders.values() if row.is_new]
        if new:
            orders.insert_all(connection, [_stored(row) for row in new])
        changed = [row for row in self._orders.values() if not row.is_new]
        if changed:
            orders.update_all(connection, [_stored(row) for row in changed])
        for row in self._alerts.values():
            cancels.queue(connection, row.fact.alert.id, row.fact.cancels, now=row.fact.alert.updated_at)
            strategy_positions.save(
                connection, row.fact.alert.webhook_id or "", row.fact.histories, now=row.fact.alert.updated_at
            )
        for (scope, day), change in self._days.items():
            write_day(connection, scope, day, read_day(connection, scope, day).plus(change))
        fills.store_all(connection, [fact for fact in self._others if isinstance(fact, FillFact)])
        for fact in self._others:
            _apply(connection, fact)
        incomplete_orders.update(connection, self._executed)
        incomplete_orders.update_exits(connection, self._exits)
        for alert_id, at in self._headlines.items():
            alerts.refresh_headline(connection, alert_id, now=at)

    def _finished_alert(self, row: _AlertRow) -> tuple[alerts.StoredAlert, str | None, str | None]:
        """The alert with the headline of its orders, its message, and its response, as they are after the batch."""
        alert, response = row.fact.alert, row.response
        changes: dict[str, Any] = {}
        if row.has_changed:
            states = [alerts.HeadlineOrder.of(self._orders[name].order) for name in row.names]
            headline = alerts.headline(states)
            if headline is not None:
                changes["status"], changes["code"], changes["error"] = headline
        if response is not None:
            changes["answer_status"], changes["stages"] = response.status, response.stages
        if row.updated_at != alert.updated_at:
            changes["updated_at"] = row.updated_at
        finished = msgspec.structs.replace(alert, **changes) if changes else alert
        return finished, row.fact.message, None if response is None else response.body


def _begins_protection(fact: OrderFact) -> bool:
    """True if an entry with a stop loss executes first, or a trailing stop of an alert is sent first."""
    before, after = fact.before, fact.after
    if after.is_trailing_leg:
        return after.attempt > 0 and (before is None or before.attempt == 0)
    return after.needs_stop and not (before is not None and before.needs_stop)


def _stored(row: _OrderRow) -> orders.StoredOrder:
    return orders.StoredOrder(row.order, row.at, row.request, row.verdicts, row.signed_at)


def _apply(connection: sqlite3.Connection, fact: Fact) -> None:
    """Write what only a few alerts need: protection, exits, cancels, trading states, late responses."""
    match fact:
        case OrderFact():
            if fact.after.needs_stop or (fact.after.is_trailing_leg and fact.after.attempt):
                protection.require_stop(connection, fact.after, now=fact.at)
            if fact.has_later_exits:
                protection.require_take_profits(connection, fact.after, now=fact.at)
        case ExitsFact():
            protection.store_exits(connection, fact.client_order_id, fact.legs, now=fact.at)
        case ResponseFact():
            alerts.set_response(
                connection, fact.alert_id, status=fact.status, body=fact.body, stages=fact.stages, now=fact.at
            )
        case PlainFact():
            _apply_plain(connection, fact)
        case _:
            pass  # alerts and fills are written already


def _apply_plain(connection: sqlite3.Connection, fact: PlainFact) -> None:
    if fact.kind == "trading_state":
        settings.store_state(connection, fact.data, now=fact.at)
    elif fact.kind in _PROTECTION_KINDS:
        protection.store_state(connection, fact.client_order_id or "", fact.kind, fact.data["detail"], now=fact.at)
    elif fact.kind == "take_profits_placed":
        protection.store_take_profits_over(connection, fact.client_order_id or "", fact.data["detail"], now=fact.at)
    elif fact.kind == "cancel_requested":
        orders.set_cancel_requested(connection, fact.client_order_id or "", now=fact.at)
    elif fact.kind in ("cancel_done", "cancel_failed"):
        cancels.store_end(connection, fact.alert_id or "", fact.data, now=fact.at)
    elif fact.kind in ("alert_duplicate", "alert_conflict"):
        _count_repeat(connection, fact.kind, fact.data.get("webhook_id") or "", now=fact.at)
    elif fact.kind == "funding":
        equity.store_funding(connection, fact.data)
    elif fact.kind == "transfer":
        equity.store_transfer(connection, fact.data)
    elif fact.kind == "webhook_deleted":
        strategy_positions.remove(connection, fact.data["webhook_id"])


def _count_repeat(connection: sqlite3.Connection, kind: str, webhook_id: str, *, now: datetime) -> None:
    """Count a duplicate or conflict, which has no row in alerts."""
    connection.execute(
        "INSERT INTO tallies VALUES ('event', ?, ?, ?, '', 1)"
        " ON CONFLICT (kind, hour, webhook_id, status, code) DO UPDATE SET count = count + 1",
        (codec.time_text(now)[:13], webhook_id, kind),
    )


def realized_moves(fact: FillFact) -> tuple[tuple[str, Decimal], ...]:
    """Scope and USDC of each day total of realized P&L that a fill changes."""
    moves: list[tuple[str, Decimal]] = []
    for owned, sign in ((fact.before, -1), (fact.after, 1)):
        if owned is not None and owned.fill.realized_pnl:
            amount = EXACT.multiply(owned.fill.realized_pnl, sign)
            moves += [(scope, amount) for scope in _scopes(owned)]
    return tuple(moves)


def _scopes(owned: OwnedFill) -> tuple[str, ...]:
    return (ACCOUNT,) if owned.webhook_id is None else (ACCOUNT, owned.webhook_id)


def funding_moves(data: Mapping[str, Any]) -> tuple[tuple[str, str, Decimal], ...]:
    """Scope, day and USDC paid of each day total that a row `funding` changes."""
    webhook_id, day = data["webhook_id"], str(data["at"])[:10]
    scopes = (ACCOUNT,) if webhook_id is None else (ACCOUNT, webhook_id)
    return tuple((scope, day, Decimal(data["fee"])) for scope in scopes)


# ------------------------------------------------------------------------------------------------------------- catching up


def position(connection: sqlite3.Connection) -> int:
    """Sequence of the last row that is projected."""
    return int(connection.execute("SELECT sequence FROM projection").fetchone()[0])


def is_behind(connection: sqlite3.Connection) -> bool:
    """True if the journal has rows that are not projected."""
    return bool(
        connection.execute(
            "SELECT coalesce((SELECT max(sequence) FROM journal), 0) > (SELECT sequence FROM projection)"
        ).fetchone()[0]
    )


def catch_up(connection: sqlite3.Connection) -> int:
    """Project the rows that a process which is gone left; returns their number. Inside a transaction."""
    done = 0
    while True:
        start = position(connection)
        rows = connection.execute(
            "SELECT sequence, at, kind, alert_id, client_order_id, identity, data, message, request FROM journal"
            " WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (start, _CATCH_UP_ROWS),
        ).fetchall()
        if not rows:
            return done
        project(connection, _read_back(connection, rows), last=rows[-1]["sequence"])
        done += len(rows)


def rebuild(connection: sqlite3.Connection) -> None:
    """Empty the projected tables and project the whole journal. For tests and repairs, on a database whose journal is complete.

    Trading states are kept: commands and jobs set them beside other settings.
    """
    connection.execute("PRAGMA defer_foreign_keys = ON")
    for table in TABLES:
        kept = " WHERE kind <> 'refusal'" if table == "tallies" else ""
        connection.execute(f"DELETE FROM {table}{kept}")
    connection.execute("UPDATE projection SET sequence = 0")
    catch_up(connection)


def _read_back(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[Entry]:
    """The rows with their facts. What they change is what earlier rows left: in these rows, else in the tables."""
    changed_orders: dict[str, Order] = {}
    changed_fills: dict[str, OwnedFill] = {}
    entries: list[Entry] = []
    for row in rows:
        fact = _fact_of(connection, row, changed_orders, changed_fills)
        entries.append(Entry(kind=row["kind"], at=codec.parse_time(row["at"]), fact=fact))
    return entries


def _fact_of(
    connection: sqlite3.Connection,
    row: sqlite3.Row,
    changed_orders: dict[str, Order],
    changed_fills: dict[str, OwnedFill],
) -> Fact | None:
    kind, at, data = row["kind"], row["at"], row["data"]
    alert_id, name = row["alert_id"] or "", row["client_order_id"]
    if kind in _ALERT_KINDS:
        alert = facts.read_alert(at, alert_id, row["identity"], data, row["message"], row["request"])
        changed_orders |= {order.client_order_id: order for order in alert.orders}
        return alert
    if kind in _ORDER_KINDS:
        before = changed_orders.get(name) or orders.find(connection, name)
        order = facts.read_order(kind, at, before, alert_id, data, row["request"])
        changed_orders[name] = order.after
        return order
    if kind in ("fill", "fill_completed"):
        trade_id = codec.from_json(data)["trade_id"]
        known = changed_fills.get(trade_id) or fills.find(connection, trade_id)
        fill = facts.read_fill(name, known, data)
        changed_fills[trade_id] = fill.after
        return fill
    if kind == "exits":
        return facts.read_exits(name, at, data)
    if kind == "alert_answered":
        return facts.read_response(alert_id, at, data)
    return PlainFact(
        kind=kind,
        at=codec.parse_time(at),
        alert_id=row["alert_id"],
        client_order_id=name,
        data=codec.from_json(data),
    )
