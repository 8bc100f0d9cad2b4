"""The account's picture: nothing old undoes anything newer, whatever order the messages come in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.exchange.orderly.account_state import READ_LAG_MS, AccountState, position_after
from kekbridge.exchange.orderly.parsing import milliseconds
from kekbridge.model import Fill, MarginMode, Position, Side

BTC = "PERP_BTC_USDC"
T0 = milliseconds(datetime(2026, 11, 22, 12, 0, tzinfo=UTC))
RULES = {
    "symbol": BTC, "quote_min": 0, "quote_max": 200000, "quote_tick": "0.1", "base_min": "0.00001", "base_max": 10,
    "base_tick": "0.00001", "min_notional": 10, "price_range": "0.01", "price_scope": "0.6", "base_mmr": "0.006", "base_imr": "0.01",
    "imr_factor": "0.000000375",
}  # fmt: skip


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)


class Clock:
    def __init__(self) -> None:
        self.now = at(T0)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(clock: Clock) -> AccountState:
    """A flat account with 10,000 USDC and the rules of one market, read at T0."""
    fresh = AccountState(clock)
    fresh.apply_instruments([RULES])
    fresh.apply_account(account(), answered_ms=T0)
    return fresh


def account(*rows: dict[str, Any], value: object = 10000, free: object = 10000) -> dict[str, Any]:
    return {"account_value": value, "free_collateral": free, "rows": list(rows)}


def row(quantity: object, changed_ms: int, *, seq: int | None = None, **fields: Any) -> dict[str, Any]:
    base = {
        "symbol": BTC,
        "position_qty": quantity,
        "average_open_price": 65000,
        "updated_time": changed_ms,
        "margin_mode": "CROSS",
    }
    return {**base, **({} if seq is None else {"seq": seq}), **fields}


def fill(trade_id: int, quantity: str, ms: int, *, side: Side = Side.BUY, price: str = "65000") -> Fill:
    return Fill(
        trade_id=str(trade_id), order_id="1", client_order_id=None, symbol=BTC, side=side, price=Decimal(price),
        quantity=Decimal(quantity), fee=Decimal("0.1"), realized_pnl=None, is_maker=False, executed_at=at(ms),
    )  # fmt: skip


def held(view: AccountState) -> Decimal:
    assert view.snapshot is not None
    return view.snapshot.position_quantity(BTC)


def test_no_snapshot_before_positions_and_rules(clock: Clock) -> None:
    """There is no picture until both the account and the markets were read."""
    view = AccountState(clock)
    assert view.snapshot is None
    view.apply_account(account(), answered_ms=T0)
    assert view.snapshot is None
    view.apply_instruments([RULES])
    assert view.snapshot is not None


def test_snapshot_is_immutable_and_stable(view: AccountState) -> None:
    """A snapshot handed out never changes; an unchanged account gives the same object."""
    before = view.snapshot
    assert before is view.snapshot
    view.apply_fill(fill(1, "0.5", T0 + 10))
    assert before is not None
    assert before.position_quantity(BTC) == 0
    assert held(view) == Decimal("0.5")
    with pytest.raises(TypeError):
        before.positions[BTC] = before.positions  # type: ignore[index]


def test_rest_answer_older_than_own_fill_does_not_undo_it(view: AccountState) -> None:
    """A list of positions made before our newest fill is not believed for that symbol, row or gap alike."""
    view.apply_fill(fill(1, "0.5", T0 + 1000))
    view.apply_account(account(), answered_ms=T0 + 900)
    assert held(view) == Decimal("0.5")
    view.apply_account(account(row("0.2", T0 + 500)), answered_ms=T0 + 1100)
    assert held(view) == Decimal("0.5")


def test_read_lag_after_a_fill_is_waited_out(view: AccountState) -> None:
    """An answer made shortly after a fill may still lack it; a later one is the truth."""
    view.apply_fill(fill(1, "0.5", T0 + 1000))
    view.apply_account(account(), answered_ms=T0 + 1000 + READ_LAG_MS)
    assert held(view) == Decimal("0.5")
    view.apply_account(account(), answered_ms=T0 + 1001 + READ_LAG_MS)
    assert held(view) == 0


def test_rest_answer_with_the_fill_is_believed_at_once(view: AccountState) -> None:
    """A row changed at or after the fill contains it."""
    view.apply_fill(fill(1, "0.5", T0 + 1000))
    view.apply_account(account(row("0.7", T0 + 1000)), answered_ms=T0 + 1001)
    assert held(view) == Decimal("0.7")


def test_fill_after_its_position_is_not_counted_twice(view: AccountState) -> None:
    """When the position message came first, the fill's own report adds nothing; the same fill never counts twice."""
    view.apply_positions([row("0.5", T0 + 10, seq=5)])
    assert view.apply_fill(fill(1, "0.5", T0 + 10)) is False
    assert held(view) == Decimal("0.5")
    assert view.apply_fill(fill(2, "0.1", T0 + 20)) is True
    assert view.apply_fill(fill(2, "0.1", T0 + 20)) is False
    assert held(view) == Decimal("0.6")


def test_fills_of_long_ago_are_already_known(view: AccountState) -> None:
    """Fills fetched while catching up after a crash make no position out of the past."""
    assert view.apply_fill(fill(1, "0.5", T0 - READ_LAG_MS - 1)) is False
    assert held(view) == 0


def test_stale_positions_are_dropped_by_seq(view: AccountState) -> None:
    """Stream messages that arrive in the wrong order end in the newest state."""
    view.apply_positions([row("0.5", T0 + 10, seq=5)])
    view.apply_positions([row("0.3", T0 + 10, seq=4)])
    assert held(view) == Decimal("0.5")
    view.apply_positions([row("0", T0 + 30, seq=9)])
    assert held(view) == 0
    view.apply_positions([row("0.5", T0 + 10, seq=5)])
    assert held(view) == 0


def test_stale_totals_are_dropped(view: AccountState) -> None:
    """Account value and free collateral follow the newest answer."""
    view.apply_account(account(value=12000, free=11000), answered_ms=T0 + 100)
    view.apply_account(account(value=9000, free=1000), answered_ms=T0 + 50)
    assert view.snapshot is not None
    assert view.snapshot.account_value == 12000
    assert view.snapshot.free_collateral == 11000


def test_isolated_positions_stand_apart(view: AccountState) -> None:
    """A cross and an isolated position of one symbol never mix (trap 16)."""
    rows = [row("0.5", T0), row("-2", T0, margin_mode="ISOLATED")]
    view.apply_account(account(*rows), answered_ms=T0 + 1)
    assert held(view) == Decimal("0.5")
    assert view.snapshot is not None
    (other,) = view.snapshot.other_positions
    assert (other.quantity, other.margin_mode) == (Decimal(-2), MarginMode.ISOLATED)


def test_zero_rows_are_no_positions(view: AccountState) -> None:
    """A symbol may stay listed with quantity 0 while PnL is unsettled; that is flat."""
    view.apply_account(account(row("0", T0, unsettled_pnl=5)), answered_ms=T0 + 1)
    assert view.snapshot is not None
    assert not view.snapshot.positions


def test_a_growing_fill_takes_free_collateral_at_once(view: AccountState) -> None:
    """Between a fill and the next totals the room shrinks by the initial margin and the fee, so that two entries cannot share it."""
    view.apply_leverage(BTC, Decimal(10))
    view.apply_fill(fill(1, "0.1", T0 + 10))
    assert view.snapshot is not None
    assert view.snapshot.free_collateral == Decimal(10000) - Decimal(650) - Decimal("0.1")
    before = view.snapshot.free_collateral
    view.apply_fill(fill(2, "0.1", T0 + 20, side=Side.SELL))
    assert view.snapshot is not None
    assert view.snapshot.free_collateral == before - Decimal("0.1")


def test_fee_rates_are_basis_points(view: AccountState) -> None:
    """4.5 in the answer is 0.045 %."""
    view.apply_info({"futures_taker_fee_rate": Decimal("4.5"), "taker_fee_rate": 5, "max_leverage": 20})
    assert view.snapshot is not None
    assert view.snapshot.taker_fee_rate == Decimal("0.00045")
    assert view.snapshot.max_leverage == 20


def test_marks(view: AccountState, clock: Clock) -> None:
    """Older observations and prices that are none do not replace a mark; held positions carry it."""
    view.apply_marks({BTC: Decimal(65000)}, clock.now)
    view.apply_marks({BTC: Decimal(60000)}, clock.now - timedelta(seconds=1))
    view.apply_marks({BTC: Decimal(0)}, clock.now + timedelta(seconds=1))
    view.apply_positions([row("1", T0 + 1, seq=1, mark_price=64000)])
    assert view.snapshot is not None
    assert view.snapshot.mark_price(BTC) == 65000
    assert view.snapshot.positions[BTC].unrealized_pnl == 0


def test_builder_markets_and_broken_rules_are_left_out(view: AccountState) -> None:
    """Community listings and rows without steps are no markets; an answer with none keeps the old rules."""
    listed = view.apply_instruments(
        [RULES, {**RULES, "symbol": "PERP_X_USDC_b", "broker_id": "b"}, {"symbol": "PERP_Y_USDC"}, {}]
    )
    assert listed == 1
    view.apply_instruments([])
    assert view.snapshot is not None
    assert set(view.snapshot.instruments) == {BTC}


def test_age_follows_what_was_heard(view: AccountState, clock: Clock) -> None:
    """A mark says nothing of the account; a sign of life of the private stream does."""
    clock.now += timedelta(seconds=20)
    view.apply_marks({BTC: Decimal(65000)}, clock.now)
    assert view.snapshot is not None
    assert view.snapshot.taken_at == at(T0)
    view.mark_alive()
    assert view.snapshot.taken_at == clock.now


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Side), st.decimals(min_value="0.001", max_value=5, places=3), st.integers(1, 100_000)
        ),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_any_order_of_arrival_ends_in_the_truth(trades: list[tuple[Side, Decimal, int]], chance: Any) -> None:
    """Fills and position messages, shuffled and repeated: once all have come the quantity is the exchange's own."""
    clock = Clock()
    view = AccountState(clock)
    view.apply_instruments([RULES])
    view.apply_account(account(), answered_ms=T0)
    total = Decimal(0)
    messages: list[Fill | dict[str, Any]] = []
    for index, (side, quantity, price) in enumerate(trades, start=1):
        total += quantity * side.sign
        moment = T0 + index
        messages.append(fill(index, str(quantity), moment, side=side, price=str(price)))
        messages.append(row(total, moment, seq=index))
    messages += chance.sample(messages, len(messages) // 2)
    chance.shuffle(messages)
    for message in messages:
        if isinstance(message, Fill):
            view.apply_fill(message)
        else:
            view.apply_positions([message])
    assert held(view) == total


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Side), st.decimals(min_value="0.001", max_value=5, places=3), st.integers(1, 100_000)
        ),
        max_size=20,
    )
)
def test_ledger_arithmetic(trades: list[tuple[Side, Decimal, int]]) -> None:
    """Quantity and cost add up exactly; reducing never moves the average, flat has none (docs/internals/orderly.md section 10)."""
    position = Position(BTC, Decimal(0), Decimal(0))
    quantity = cost = Decimal(0)
    for index, (side, size, price) in enumerate(trades):
        one = fill(index, str(size), T0 + index, side=side, price=str(price))
        after = position_after(position, one)
        quantity += size * side.sign
        cost += size * side.sign * price + one.fee
        assert (after.quantity, after.cost_position) == (quantity, cost)
        if after.quantity == 0:
            assert after.average_open_price == 0
        elif abs(after.quantity) < abs(position.quantity) and (after.quantity > 0) == (position.quantity > 0):
            assert after.average_open_price == position.average_open_price
        elif position.quantity == 0 or (after.quantity > 0) != (position.quantity > 0):
            assert after.average_open_price == price
        position = after


def test_a_snapshot_stays_as_it_was_made(view: AccountState, clock: Clock) -> None:
    """What was decided on does not change under the decision: marks and leverages that come later are in the next snapshot only."""
    view.apply_marks({BTC: Decimal(65000)}, clock.now)
    view.apply_leverage(BTC, Decimal(10))
    before = view.snapshot
    assert before is not None
    view.apply_marks({BTC: Decimal(66000)}, clock.now)
    view.apply_leverage(BTC, Decimal(5))
    after = view.snapshot
    assert after is not None
    assert (before.marks[BTC].price, before.leverage[BTC]) == (Decimal(65000), Decimal(10))
    assert (after.marks[BTC].price, after.leverage[BTC]) == (Decimal(66000), Decimal(5))
