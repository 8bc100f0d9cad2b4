"""Reservations and the day's totals always equal their recomputation from the orders, for any sequence of events."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from msgspec.structs import replace

from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType, Purpose, Side
from kekbridge.store import alerts, codec, events, fills, order_lifecycle, orders, reservations
from kekbridge.store.admissions import admit
from kekbridge.store.database import Database
from kekbridge.store.order_journal import IllegalTransition
from tests.examples import examples
from tests.store.factories import NO_RATES, NOW, admitting, fill, new_alert, status_report
from tests.trading import commitments_of

AMOUNTS = st.decimals(min_value="0.0001", max_value="99999", places=4)
PRICES = st.decimals(min_value="0.000001", max_value="200000", places=6)
INTENTS = st.builds(
    OrderIntent,
    symbol=st.sampled_from(["PERP_BTC_USDC", "PERP_ETH_USDC"]),
    side=st.sampled_from(list(Side)),
    order_type=st.sampled_from([OrderType.MARKET, OrderType.LIMIT, OrderType.STOP]),
    quantity=AMOUNTS,
    purpose=st.sampled_from(list(Purpose)),
    reference_price=PRICES,
)
SHARES = st.sampled_from([Decimal(0), Decimal("0.3"), Decimal("0.7"), Decimal(1)])


class OrderMachine(RuleBasedStateMachine):
    """Random alerts, transitions, reports and fills across midnight; the sums are checked after each."""

    names: Bundle[str] = Bundle("names")

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.database = Database.open(Path(self.directory.name))
        self.context = self.database.transaction()
        self.connection = self.context.__enter__()
        self.now: datetime = NOW.replace(hour=23, minute=58)
        self.legs: set[tuple[str, int]] = set()

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)
        self.database.close_now()
        self.directory.cleanup()

    def step(self, verb: Any, name: str, *given: Any, **arguments: Any) -> None:
        """Try a transition; one that is not allowed must change nothing, which the invariants check."""
        try:
            verb(self.connection, name, *given, now=self.now, **arguments)
        except IllegalTransition:
            pass

    @rule(target=names, intents=st.lists(INTENTS, min_size=1, max_size=3), webhook=st.sampled_from(["a", "b"]))
    def alert(self, intents: list[OrderIntent], webhook: str) -> Any:
        alert = new_alert(webhook_id=webhook, received_at=self.now)
        admission = admit(
            self.connection,
            alert,
            admitting(*intents),
            rates=NO_RATES,
            now=self.now,
            expires_at=self.now + timedelta(seconds=60),
        )
        self.legs |= {(alert.id, leg) for leg in range(len(intents))}
        return multiple(*(order.client_order_id for order in admission.orders))

    @rule(seconds=st.sampled_from([0, 1, 50, 90]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(name=names)
    def claim(self, name: str) -> None:
        self.step(order_lifecycle.claim, name)

    @rule(name=names, quantity=AMOUNTS, price=PRICES)
    def claim_resized(self, name: str, quantity: Decimal, price: Decimal) -> None:
        """A recheck may change the size and its value, never symbol, side or type."""
        resized = replace(orders.get(self.connection, name).intent, quantity=quantity, reference_price=price)
        self.step(order_lifecycle.claim, name, intent=resized)

    @rule(name=names)
    def accept(self, name: str) -> None:
        self.step(order_lifecycle.mark_accepted, name, order_id=f"x-{name}")

    @rule(name=names, verb=st.sampled_from([order_lifecycle.mark_rejected, order_lifecycle.mark_denied]))
    def refuse(self, name: str, verb: Any) -> None:
        self.step(verb, name, code="x", error="x")

    @rule(name=names)
    def expire(self, name: str) -> None:
        self.step(order_lifecycle.mark_expired, name)

    @rule(name=names, verb=st.sampled_from([order_lifecycle.mark_unknown, order_lifecycle.close_unknown]))
    def lose(self, name: str, verb: Any) -> None:
        self.step(verb, name, reason="x")

    @rule(name=names)
    def defer(self, name: str) -> None:
        self.step(order_lifecycle.mark_deferred, name, next_attempt_at=self.now)

    @rule(
        name=names,
        status=st.sampled_from(
            [
                OrderStatus.ACCEPTED,
                OrderStatus.PARTIALLY_FILLED,
                OrderStatus.FILLED,
                OrderStatus.CANCELED,
                OrderStatus.REJECTED,
            ]
        ),
        share=SHARES,
        price=PRICES,
    )
    def report(self, name: str, status: OrderStatus, share: Decimal, price: Decimal) -> None:
        before = orders.get(self.connection, name)
        self.step(
            order_lifecycle.apply_report,
            name,
            status_report(
                name,
                status,
                before.intent.quantity * share,
                average_price=price if share else None,
                order_id=f"x-{name}",
            ),
        )
        after = orders.get(self.connection, name)
        assert after.executed_quantity >= before.executed_quantity
        assert after.status.is_final or not before.status.is_final

    @rule(name=consumes(names), pnl=st.none() | PRICES.map(lambda price: price - 100000), knows=st.booleans())
    def trade(self, name: str, pnl: Decimal | None, knows: bool) -> None:
        order_id = f"x-{name}" if knows else "foreign"
        reported = fill(trade_id=f"t-{name}", order_id=order_id, realized_pnl=None, executed_at=self.now)
        fills.record(self.connection, [reported])
        full = fill(trade_id=f"t-{name}", order_id=order_id, realized_pnl=pnl, executed_at=self.now)
        fills.record(self.connection, [full, full], order=orders.get(self.connection, name) if knows else None)

    # ------------------------------------------------------------------------------------------------------- invariants

    def all_orders(self) -> list[Order]:
        return list(orders.list_orders(self.connection, limit=10_000))

    @invariant()
    def totals_equal_their_recomputation(self) -> None:
        wanted: dict[tuple[str, str], tuple[Decimal, int, Decimal]] = {}

        def add(scope: str, day: str, notional: Decimal, count: int, pnl: Decimal) -> None:
            so_far = wanted.get((scope, day), (Decimal(0), 0, Decimal(0)))
            wanted[(scope, day)] = (so_far[0] + notional, so_far[1] + count, so_far[2] + pnl)

        for order in self.all_orders():
            intent = order.intent
            value = order.executed_quantity * (order.average_price or intent.reference_price)
            is_open = order.finished_at is None
            if order.is_entry and is_open:
                value += max(intent.quantity - order.executed_quantity, Decimal(0)) * intent.reference_price
            was_there = is_open or order.order_id is not None or order.executed_quantity > 0
            for scope in (order.webhook_id, "account"):
                add(scope, codec.day_of(order.created_at), value, int(order.is_entry and was_there), Decimal(0))
        for row in self.connection.execute("SELECT webhook_id, realized_pnl, executed_at FROM fills"):
            pnl = Decimal(row["realized_pnl"] or 0)
            for scope in {row["webhook_id"], "account"} - {None}:
                add(scope, row["executed_at"][:10], Decimal(0), 0, pnl)
        for scope, day in wanted:
            stored = reservations.day_totals(self.connection, scope, day)
            assert (stored.notional, stored.orders, stored.realized_pnl) == wanted[(scope, day)], (scope, day)

    @invariant()
    def reservations_are_exactly_the_open_orders(self) -> None:
        held = {one.client_order_id: one for one in reservations.open_reservations(self.connection)}
        still_open = {order.client_order_id: order for order in self.all_orders() if order.finished_at is None}
        assert held.keys() == still_open.keys()
        for name, order in still_open.items():
            rest = max(order.intent.quantity - order.executed_quantity, Decimal(0))
            assert held[name].quantity == rest * order.intent.side.sign
            assert held[name].notional == rest * order.intent.reference_price
            assert not order.status.is_final

    @invariant()
    def commitments_are_the_sums_of_the_reservations(self) -> None:
        """All together, and without one of them, to the last digit; the sum of no orders is exactly zero."""
        held = reservations.open_reservations(self.connection)
        assert reservations.open_commitments(self.connection) == commitments_of(*held)
        for one in held[-1:]:
            order = orders.get(self.connection, one.client_order_id)
            assert reservations.open_commitments(self.connection, excluding=order) == commitments_of(*held[:-1])
        left = self.connection.execute("SELECT quantity FROM commitments WHERE orders <= 0").fetchall()
        assert {quantity for (quantity,) in left} <= {"0"}

    @invariant()
    def there_is_one_order_per_leg_and_its_row_is_whole(self) -> None:
        found = self.all_orders()
        assert {(order.alert_id, order.leg) for order in found} == self.legs
        assert len(found) == len(self.legs)
        for order in found:
            assert order.finished_at is not None or not order.status.is_final
            assert alerts.get(self.connection, order.alert_id).status in {*OrderStatus, "ignored"}

    @invariant()
    def the_history_is_whole(self) -> None:
        assert events.verify(self.connection) is None


TestOrderMachine = OrderMachine.TestCase
TestOrderMachine.settings = settings(
    max_examples=examples(40), stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
