"""Random histories of one account: alerts, orders in every state, fills, exits, cancels, halts; for what holds for any of them."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.execution.load_book import load_book
from kekbridge.model import (
    CancelRequest,
    LimitBreach,
    Limits,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Purpose,
    RateLimits,
    Side,
    StrategyHistory,
    StrategyStep,
    TradingState,
    Verdict,
    WebhookSettings,
)
from kekbridge.model.admission import Decision
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import cancels, codec, conditions, facts, journal, projector, protection, webhooks
from kekbridge.store.database import Database
from kekbridge.store.journal import Entry
from kekbridge.store.protection import ProtectionState
from kekbridge.store.settings import ACCOUNT, TradingControl
from kekbridge.store.transaction import Connection
from tests.store.factories import NOW, fill, new_alert
from tests.stored import REQUEST, add_protective, respond, store_alert

HOOKS: Final = ("one", "two")
SYMBOLS: Final = ("PERP_BTC_USDC", "PERP_ETH_USDC")
RATES: Final = RateLimits(per_minute=3, per_hour=5, per_day=9)
ACCOUNT_RATES: Final = RateLimits(per_minute=4, per_hour=0, per_day=12)
#: Shortly before midnight UTC, so that histories cross it.
START: Final = NOW.replace(hour=23, minute=57)


# ------------------------------------------------------------------------------------------------------------- in memory


@cache
def _schema() -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as directory:
        database = Database.open(Path(directory))
        with database.snapshot() as connection:
            rows = connection.execute(
                "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%sqlite%'"
            )
            statements = tuple(sql for (sql,) in rows)
        database.close_now()
    return statements


def memory_store() -> Connection:
    """An empty store in memory with two webhooks: opened in a millisecond, so that many histories can be tried."""
    connection = sqlite3.connect(":memory:", isolation_level=None, factory=Connection)
    connection.row_factory = sqlite3.Row
    connection.create_function("exact_sum", 2, codec.exact_sum, deterministic=True)
    connection.execute("PRAGMA foreign_keys = ON")
    for statement in _schema():
        connection.execute(statement)
    connection.execute("INSERT INTO projection VALUES (0)")
    settings = WebhookSettings(rates=RATES, limits=Limits(cooldown_s=90))
    for name in HOOKS:
        webhooks.create(connection, webhook_id=name, name=name, settings=settings, now=START)
    projector.skip(connection)
    return connection


# -------------------------------------------------------------------------------------------------------------- the account


class Account:
    """A book whose rows are projected one by one, as they happen, and kept for other ways to project them."""

    def __init__(self) -> None:
        self.connection = memory_store()
        self.first = journal.head(self.connection)[0]
        #: Every row, in order.
        self.entries: list[Entry] = []
        self.now: datetime = START
        self.restart()
        #: Every order as it is now, by admission.
        self.orders: dict[str, Order] = {}
        self.alerts: list[str] = []

    def restart(self) -> None:
        """Go on with a book that is loaded from the store."""
        self.book = Book(append=self._append)
        load_book(self.connection, self.book, account_rates=ACCOUNT_RATES, now=self.now)

    def close(self) -> None:
        self.connection.close()

    def _append(self, entry: Entry) -> None:
        self.entries.append(entry)
        projector.record(self.connection, entry)

    def play(self, step: Step) -> None:
        """One step of a history; a transition that the order's state does not allow changes nothing."""
        self.now += timedelta(milliseconds=1)
        name, number = step
        getattr(self, f"_{name}")(number, _GIVEN[name](Random(number)))

    def _order(self, number: int) -> Order | None:
        known = list(self.orders.values())
        return known[number % len(known)] if known else None

    def _change(self, number: int, change: Callable[[Order], Order], **given: Any) -> None:
        order = self._order(number)
        if order is None:
            return
        try:
            after = change(order)
        except transitions.IllegalTransition:
            return
        self.orders[order.client_order_id] = self.book.change(order, after, now=self.now, **given)

    # ------------------------------------------------------------------------------------------------------------- alerts

    def _alert(self, number: int, given: Any) -> None:
        alert = new_alert(
            webhook_id=HOOKS[number % 2],
            received_at=self.now,
            identity=None if number % 5 == 0 else f"id:{len(self.alerts)}",
            window_s=60 if number % 5 == 0 else None,
        )
        admission = store_alert(
            self.book,
            alert,
            lambda usage: given,
            rates=RATES,
            account_rates=ACCOUNT_RATES,
            expires_at=self.now + timedelta(seconds=60),
            is_claimed=number % 3 == 0,
        )
        self.alerts.append(alert.id)
        self.orders |= {order.client_order_id: order for order in admission.orders}

    def _unstored_alert(self, number: int, given: Any) -> None:
        """An alert whose row could not be stored: everything that it took is given back."""
        book, decision, kept = self.book, given, list(self.entries)
        webhook_id = HOOKS[number % 2]
        before = book.histories_of(webhook_id, (symbol for symbol, _ in decision.strategy_histories))
        append, book._append = book._append, lambda entry: None
        decision = replace(decision, breaches=())  # a breach is a row of its own, and stays
        admission = store_alert(
            book, new_alert(webhook_id=webhook_id, received_at=self.now, identity="id:x"), lambda usage: decision
        )
        book._append = append
        for order in reversed(admission.orders):
            book.remove(order)
        if admission.alert.counts_as_entry:
            book.rates.uncount(webhook_id, at=admission.alert.received_at)
        book.restore_histories(webhook_id, before)
        assert self.entries == kept

    def _response(self, number: int, given: Any) -> None:
        if self.alerts:
            alert_id = self.alerts[number % len(self.alerts)]
            respond(self.book, alert_id, status=200, body=given, stages={"stored": 1.25 * number}, now=self.now)

    def _repeat(self, number: int, given: Any) -> None:
        if self.alerts:
            data = {"remote": "192.0.2.7", "received_at": self.now, "fingerprint": "f", "webhook_id": HOOKS[number % 2]}
            kind = "alert_duplicate" if given else "alert_conflict"
            alert_id = self.alerts[number % len(self.alerts)]
            self.book.append(facts.plain_entry(kind, at=self.now, alert_id=alert_id, data=data))

    def _cancel(self, number: int, given: Any) -> None:
        for queued in cancels.list_queued(self.connection)[:1]:
            self.book.append(cancels.end_entry(queued, canceled=number % 3, error=given, now=self.now))

    # ------------------------------------------------------------------------------------------------------------- orders

    def _request_cancel(self, number: int, given: Any) -> None:
        order = self._order(number)
        if order is not None:
            self.orders[order.client_order_id] = self.book.request_cancel(order, now=self.now)

    def _claim(self, number: int, given: Any) -> None:
        """Perhaps resized, with the verdicts of the recheck."""
        self._change(
            number,
            lambda order: transitions.claimed(
                order, now=self.now, intent=None if given is None else replace(order.intent, quantity=given)
            ),
            request=REQUEST,
            verdicts=(Verdict(rule="r", scope="s", passed=True, found="", limit=""),) if given is not None else (),
        )

    def _failed_claim(self, number: int, given: Any) -> None:
        """A claim whose row could not be stored."""
        order = self._order(number)
        if order is None or order.status is not OrderStatus.QUEUED or self.now >= order.expires_at:
            return
        fact = self.book.apply(order, transitions.claimed(order, now=self.now), now=self.now, request=REQUEST)
        assert fact is not None
        self.book.revert(fact)

    def _accept(self, number: int, given: Any) -> None:
        order = self._order(number)
        if order is not None and number % 2:
            self.book.note_signed(order.client_order_id, self.now - timedelta(milliseconds=3))
        self._change(number, lambda order: transitions.accepted(order, order_id=f"x{order.sequence}", now=self.now))

    def _unsent(self, number: int, given: Any) -> None:
        match given:
            case "requeued":
                self._change(number, transitions.requeued_unsent)
            case "deferred":
                at = self.now + timedelta(seconds=2)
                self._change(number, lambda order: transitions.deferred(order, next_attempt_at=at, code="c", error="e"))
            case "rejected":
                self._change(number, lambda order: transitions.rejected(order, code="c", error="e", now=self.now))
            case "denied":
                self._change(number, lambda order: transitions.denied(order, code="c", error="e", now=self.now))
            case "nothing to close":
                code = "nothing_to_close"
                self._change(number, lambda order: transitions.denied(order, code=code, error="flat", now=self.now))
            case "expired":
                self._change(number, lambda order: transitions.expired(order, now=self.now))
            case "unknown":
                self._change(number, lambda order: transitions.unknown(order, reason="r", sent_at=self.now))
            case "closed unknown":
                self._change(number, lambda order: transitions.closed_unknown(order, reason="r", now=self.now))
            case "closed missing":
                self._change(number, lambda order: transitions.closed_missing(order, reason="r", now=self.now))
            case "requeued missing":
                self._change(number, lambda order: transitions.requeued_missing(order, reason="r", now=self.now))
            case "restored":
                self._change(number, lambda order: transitions.unknown_after_restore(order, reason="r", now=self.now))

    def _progress(self, number: int, given: Any) -> None:
        """What usually comes next for one of the unfinished orders."""
        names = list(self.book.orders)
        if not names:
            return
        index = list(self.orders).index(names[number % len(names)])
        match self.book.orders[names[number % len(names)]].status:
            case OrderStatus.QUEUED:
                self._claim(index, None)
            case OrderStatus.SUBMITTING | OrderStatus.UNKNOWN:
                self._accept(index, None)
            case _:
                self._report(index, given)

    def _report(self, number: int, given: Any) -> None:
        """Reports repeat, are late and arrive in any order."""
        status, share, price, has_later_exits = given
        order = self._order(number)
        if order is None:
            return
        executed = codec.EXACT.multiply(order.intent.quantity, share)
        found = replace(
            _report_of(order), status=status, executed_quantity=executed, average_price=price if share else None
        )
        self._change(
            number,
            lambda order: transitions.reported(order, found, now=self.now),
            has_later_exits=has_later_exits and bool(executed),
        )

    def _protective(self, number: int, given: Any) -> None:
        """A stop or take-profit of its own for an executed entry, while its alert's legs are known."""
        entry = self._order(number)
        if entry is None or not entry.is_entry or not entry.executed_quantity:
            return
        taken = [order.leg for order in self.orders.values() if order.alert_id == entry.alert_id]
        if max(taken) >= 54 or any(leg >= 50 and leg not in self.book.legs.get(entry.alert_id, {}) for leg in taken):
            return  # `add_protective` knows the legs of the book only
        wanted = replace(entry.intent, side=entry.intent.side.opposite, purpose=Purpose.PROTECT, stop_loss=None)
        added = add_protective(self.book, entry, wanted, now=self.now)
        self.orders[added.client_order_id] = added

    # -------------------------------------------------------------------------------------------------------- fills, exits

    def _fill(self, number: int, given: Any) -> None:
        """New, repeated or completed later; of an order of ours, of an exit or of neither."""
        whose, pnl, hours = given
        order = self._order(number)
        order_id = f"x{order.sequence}" if order is not None and whose == "ours" else f"foreign{number % 3}"
        reported = fill(
            trade_id=f"t{number}",
            order_id=order_id,
            symbol=SYMBOLS[number % 2] if order is None else order.intent.symbol,
            realized_pnl=pnl,
            executed_at=self.now - timedelta(hours=hours, microseconds=1),
        )
        if whose == "an exit":
            if order is not None and order.is_entry:
                self.book.record_exit(reported, entry=order)
        else:
            self.book.record_fill(reported, order=order if whose == "ours" else None)

    def _exits(self, number: int, given: Any) -> None:
        order = self._order(number)
        if order is not None and order.is_entry and order.executed_quantity:
            self.book.record_exits(order, given, now=self.now)

    def _protection(self, number: int, given: Any) -> None:
        for one in protection.open_protections(self.connection)[:1]:
            entry = protection.state_entry(self.connection, one.order, given, detail=str(number % 2), now=self.now)
            if entry is not None:
                self.book.append(entry)
        for found in protection.protected_entries(self.connection):
            if found.wants_take_profits and number % 2:
                self.book.append(protection.take_profits_entry(found.entry, detail="placed", now=self.now))

    # ------------------------------------------------------------------------------------------------------------- states

    def _state(self, number: int, given: Any) -> None:
        scope = (ACCOUNT, *HOOKS)[number % 3]
        until = self.now + timedelta(minutes=number % 7)
        match given:
            case "halted" | "exits_only" | "running":
                self.book.set_state(scope, TradingState(given), reason="r", by="b", now=self.now)
            case "until":
                control = TradingControl(
                    state=TradingState.HALTED, reason="r", by="b", since=self.now, until=until.replace(microsecond=0)
                )
                self.book.set_control(scope, control, now=self.now)
            case "breach":
                breach = LimitBreach(scope="webhook", rule="daily_loss", reason="r", until=until.replace(microsecond=0))
                self.book.close_for_breach(breach, webhook_id=HOOKS[number % 2], now=self.now)
            case "elapsed":
                self.book.resume_elapsed(now=self.now)
            case "all":
                self.book.resume_all(reason="r", by="b", now=self.now)
            case "key":
                self.book.close_for_entries(reason="r", by="kekbridge", now=self.now)

    def _job(self, number: int, given: Any) -> None:
        """Rows that jobs append, which no table follows from."""
        if given:
            conditions.begin(self.connection, "c", "stream_down", now=self.now)
        else:
            conditions.end(self.connection, "c", "stream_up", now=self.now)
        added = journal.list_events(self.connection, after=self.first + len(self.entries))
        self.entries += [Entry(kind=one.kind, at=one.at, data=codec.to_json(one.data)) for one in added]
        projector.skip(self.connection)

    def _nothing(self, number: int, given: Any) -> None:
        pass

    def _time(self, number: int, given: Any) -> None:
        self.now += timedelta(seconds=given)


def _report_of(order: Order) -> Any:
    from tests.store.factories import status_report

    return status_report(
        order.client_order_id,
        OrderStatus.ACCEPTED,
        Decimal(0),
        order_id=f"x{order.sequence}",
        symbol=order.intent.symbol,
        side=order.intent.side,
        fee=Decimal("0.1") * order.sequence,
        realized_pnl=Decimal(order.sequence),
    )


# -------------------------------------------------------------------------------------------------------------------- steps

_VERDICTS = (Verdict(rule="order_too_large", scope="webhook", passed=False, found="1", limit="ü\ud800", message="m"),)
_BREACH = LimitBreach(scope=ACCOUNT, rule="daily_orders", reason="r", until=START + timedelta(minutes=4))
_CANCEL = CancelRequest(symbol=None, comment="ü")
_REPORTED: Final = (
    OrderStatus.ACCEPTED,
    *[OrderStatus.PARTIALLY_FILLED] * 2,
    *[OrderStatus.FILLED] * 3,
    OrderStatus.CANCELED,
    OrderStatus.REJECTED,
)
_UNSENT: Final = (
    *("requeued", "deferred", "rejected", "denied", "nothing to close", "expired"),
    *("unknown", "closed unknown", "restored", "closed missing", "requeued missing"),
)
_STATES: Final = ("halted", "exits_only", "running", "until", "breach", "elapsed", "all", "key")


def _amount(rng: Random) -> Decimal:
    """With one to nine digits, some of them behind the point."""
    return Decimal(rng.randrange(1, 10 ** rng.randrange(1, 10))).scaleb(-rng.randrange(5))


def _maybe(rng: Random, make: Callable[[Random], Any]) -> Any:
    return make(rng) if rng.random() < 0.5 else None


def _intent(rng: Random, leg: int) -> OrderIntent:
    later = [Purpose.PROTECT] if leg else []  # a trailing stop follows its entry
    return OrderIntent(
        symbol=rng.choice(SYMBOLS),
        side=rng.choice(list(Side)),
        order_type=rng.choice([OrderType.MARKET, OrderType.LIMIT, OrderType.STOP]),
        quantity=_amount(rng),
        purpose=rng.choice([Purpose.ENTRY, Purpose.ENTRY, Purpose.EXIT, *later]),
        reference_price=_amount(rng),
        stop_loss=_maybe(rng, _amount),
        after_leg=_maybe(rng, lambda rng: 0),
    )


def _history(rng: Random) -> StrategyHistory:
    steps = [
        StrategyStep(fired_at=START, before=_maybe(rng, _amount), now=_amount(rng)) for _ in range(rng.randrange(3))
    ]
    return StrategyHistory(start=_maybe(rng, _amount), steps=tuple(steps))


def _decision(rng: Random) -> Decision:
    kind = rng.choice(["orders", "orders", "orders", "cancels", "denied", "refused", "ignored"])
    match kind:
        case "orders":
            return Decision(
                status="admitted",
                intents=tuple(_intent(rng, leg) for leg in range(rng.randrange(1, 4))),
                is_exit=rng.random() < 0.3,
                warnings=rng.choice([(), ("late 😀",)]),
                verdicts=rng.choice([(), _VERDICTS]),
                strategy_histories=tuple((symbol, _history(rng)) for symbol in SYMBOLS[: rng.randrange(3)]),
                cancels=rng.choice([(), (_CANCEL,)]),
            )
        case "cancels":
            return Decision(status="admitted", cancels=(CancelRequest(symbol=SYMBOLS[0]), _CANCEL), is_exit=True)
        case "denied" | "refused" | "ignored":
            return Decision(
                status=kind,
                code=rng.choice([None, "daily_limit"]),
                error=rng.choice([None, "too much \ud800"]),
                field=rng.choice([None, "quantity"]),
                verdicts=_VERDICTS,
                is_counted=rng.random() < 0.7,
                breaches=rng.choice([(), (), (_BREACH,)]),
            )
    raise AssertionError(kind)


def _report_values(rng: Random) -> tuple[OrderStatus, Decimal, Decimal, bool]:
    shares = [Decimal(0), Decimal("0.3"), Decimal("0.7"), Decimal(1), Decimal(1)]
    return rng.choice(_REPORTED), rng.choice(shares), _amount(rng), rng.random() < 0.3


def _fill_values(rng: Random) -> tuple[str, Decimal | None, int]:
    whose = rng.choice(["ours", "ours", "an exit", "foreign"])
    return whose, _maybe(rng, lambda rng: _amount(rng) - 100), rng.choice([0, 0, 0, 5])


def _legs(rng: Random) -> tuple[ExitStatus, ...]:
    return tuple(
        ExitStatus(
            kind=rng.choice(list(ExitKind)),
            trigger_price=_maybe(rng, _amount),
            status=rng.choice([OrderStatus.ACCEPTED, OrderStatus.FILLED, OrderStatus.CANCELED]),
            executed_quantity=_amount(rng),
            average_price=_maybe(rng, _amount),
        )
        for _ in range(rng.randrange(1, 3))
    )


_GIVEN: Final[dict[str, Callable[[Random], Any]]] = {
    "nothing": lambda rng: None,
    "alert": _decision,
    "unstored_alert": _decision,
    "response": lambda rng: rng.choice([{}, {"status": "filled", "ü": ["\ud800", 1]}]),
    "repeat": lambda rng: rng.random() < 0.5,
    "cancel": lambda rng: rng.choice([None, "no answer"]),
    "request_cancel": lambda rng: None,
    "claim": lambda rng: _maybe(rng, _amount),
    "failed_claim": lambda rng: None,
    "accept": lambda rng: None,
    "unsent": lambda rng: rng.choice(_UNSENT),
    "progress": _report_values,
    "report": _report_values,
    "protective": lambda rng: None,
    "fill": _fill_values,
    "exits": _legs,
    "protection": lambda rng: rng.choice(list(ProtectionState)),
    "state": lambda rng: rng.choice(_STATES),
    "job": lambda rng: rng.random() < 0.5,
    "time": lambda rng: rng.choice([1, 50, 90, 200]),
}
# What happens most.
_OFTEN: Final = ("alert", "alert", *["progress"] * 10, "report", "fill", "unsent")
#: A kind of step, and a number from which everything else about it follows.
Step = tuple[str, int]
HISTORY: Final[st.SearchStrategy[list[Step]]] = st.lists(
    st.tuples(st.sampled_from([*_GIVEN, *_OFTEN]), st.integers(0, 2**16)), min_size=40, max_size=80
)
