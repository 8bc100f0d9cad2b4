"""Account state: nothing old overwrites anything newer, in any order of arrival."""

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
def state(clock: Clock) -> AccountState:
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


def quantity_of(state: AccountState) -> Decimal:
    assert state.snapshot is not None
    return state.snapshot.position_quantity(BTC)


def test_no_snapshot_before_positions_and_rules(clock: Clock) -> None:
    """There is no snapshot until both the account and the trading rules were read."""
    state = AccountState(clock)
    assert state.snapshot is None
    state.apply_account(account(), answered_ms=T0)
    assert state.snapshot is None
    state.apply_instruments([RULES])
    assert state.snapshot is not None


def test_snapshot_is_immutable_and_stable(state: AccountState) -> None:
    """A snapshot handed out never changes; an unchanged account gives the same object."""
    before = state.snapshot
    assert before is state.snapshot
    state.apply_fill(fill(1, "0.5", T0 + 10))
    assert before is not None
    assert before.position_quantity(BTC) == 0
    assert quantity_of(state) == Decimal("0.5")
    with pytest.raises(TypeError):
        before.positions[BTC] = before.positions  # type: ignore[index]


def test_snapshots_share_what_did_not_change(state: AccountState, clock: Clock) -> None:
    """Running sums compare snapshots by identity: only what an update replaced is another object."""
    state.apply_marks({BTC: Decimal(65_000)}, clock.now)
    state.apply_account(account(row(1, T0 + 1)), answered_ms=T0 + 10_000)
    state.apply_leverage(BTC, Decimal(5))
    before = state.snapshot
    state.apply_leverage(BTC, Decimal(6))
    leveraged = state.snapshot
    state.apply_marks({"PERP_ETH_USDC": Decimal(1800)}, clock.now)
    after = state.snapshot
    assert before is not None
    assert leveraged is not None
    assert after is not None
    assert leveraged.leverage is not before.leverage
    assert leveraged.marks is before.marks
    assert after.marks is not leveraged.marks
    assert after.marks[BTC] is leveraged.marks[BTC]
    assert after.leverage is leveraged.leverage
    assert after.instruments is before.instruments
    assert after.positions[BTC] is before.positions[BTC]


def test_rest_reply_older_than_own_fill_is_ignored(state: AccountState) -> None:
    """A list of positions made before our newest fill is not believed for that symbol, whether it has a row or not."""
    state.apply_fill(fill(1, "0.5", T0 + 1000))
    state.apply_account(account(), answered_ms=T0 + 900)
    assert quantity_of(state) == Decimal("0.5")
    state.apply_account(account(row("0.2", T0 + 500)), answered_ms=T0 + 1100)
    assert quantity_of(state) == Decimal("0.5")


def test_read_lag_after_a_fill_is_waited_out(state: AccountState) -> None:
    """A reply made shortly after a fill may still lack it; a later one is believed."""
    state.apply_fill(fill(1, "0.5", T0 + 1000))
    state.apply_account(account(), answered_ms=T0 + 1000 + READ_LAG_MS)
    assert quantity_of(state) == Decimal("0.5")
    state.apply_account(account(), answered_ms=T0 + 1001 + READ_LAG_MS)
    assert quantity_of(state) == 0


def test_rest_reply_with_the_fill_is_believed_at_once(state: AccountState) -> None:
    """A row changed at or after the fill contains it."""
    state.apply_fill(fill(1, "0.5", T0 + 1000))
    state.apply_account(account(row("0.7", T0 + 1000)), answered_ms=T0 + 1001)
    assert quantity_of(state) == Decimal("0.7")


def test_fill_after_its_position_is_not_counted_twice(state: AccountState) -> None:
    """If the position message came first, the fill's own report adds nothing; the same fill never counts twice."""
    state.apply_positions([row("0.5", T0 + 10, seq=5)])
    assert state.apply_fill(fill(1, "0.5", T0 + 10)) is False
    assert quantity_of(state) == Decimal("0.5")
    assert state.apply_fill(fill(2, "0.1", T0 + 20)) is True
    assert state.apply_fill(fill(2, "0.1", T0 + 20)) is False
    assert quantity_of(state) == Decimal("0.6")


def test_old_fills_are_ignored(state: AccountState) -> None:
    """Fills queried while catching up after a crash do not create a position."""
    assert state.apply_fill(fill(1, "0.5", T0 - READ_LAG_MS - 1)) is False
    assert quantity_of(state) == 0


def test_stale_positions_are_dropped_by_seq(state: AccountState) -> None:
    """Stream messages that arrive in the wrong order end in the newest state."""
    state.apply_positions([row("0.5", T0 + 10, seq=5)])
    state.apply_positions([row("0.3", T0 + 10, seq=4)])
    assert quantity_of(state) == Decimal("0.5")
    state.apply_positions([row("0", T0 + 30, seq=9)])
    assert quantity_of(state) == 0
    state.apply_positions([row("0.5", T0 + 10, seq=5)])
    assert quantity_of(state) == 0


def test_stale_totals_are_dropped(state: AccountState) -> None:
    """Account value and free collateral follow the newest answer."""
    state.apply_account(account(value=12000, free=11000), answered_ms=T0 + 100)
    state.apply_account(account(value=9000, free=1000), answered_ms=T0 + 50)
    assert state.snapshot is not None
    assert state.snapshot.account_value == 12000
    assert state.snapshot.free_collateral == 11000


def test_isolated_positions_are_separate(state: AccountState) -> None:
    """A cross and an isolated position of one symbol never mix (trap 16)."""
    rows = [row("0.5", T0), row("-2", T0, margin_mode="ISOLATED")]
    state.apply_account(account(*rows), answered_ms=T0 + 1)
    assert quantity_of(state) == Decimal("0.5")
    assert state.snapshot is not None
    (other,) = state.snapshot.other_positions
    assert (other.quantity, other.margin_mode) == (Decimal(-2), MarginMode.ISOLATED)


def test_zero_rows_are_no_positions(state: AccountState) -> None:
    """A symbol may stay listed with quantity 0 while PnL is unsettled; it is flat."""
    state.apply_account(account(row("0", T0, unsettled_pnl=5)), answered_ms=T0 + 1)
    assert state.snapshot is not None
    assert not state.snapshot.positions


def test_a_fill_that_enlarges_uses_free_collateral_at_once(state: AccountState) -> None:
    """Until the next totals, free collateral shrinks by initial margin and fee, so that two entries cannot use it twice."""
    state.apply_leverage(BTC, Decimal(10))
    state.apply_fill(fill(1, "0.1", T0 + 10))
    assert state.snapshot is not None
    assert state.snapshot.free_collateral == Decimal(10000) - Decimal(650) - Decimal("0.1")
    before = state.snapshot.free_collateral
    state.apply_fill(fill(2, "0.1", T0 + 20, side=Side.SELL))
    assert state.snapshot is not None
    assert state.snapshot.free_collateral == before - Decimal("0.1")


def test_fee_rates_are_basis_points(state: AccountState) -> None:
    """4.5 in the answer is 0.045 %."""
    state.apply_info({"futures_taker_fee_rate": Decimal("4.5"), "taker_fee_rate": 5, "max_leverage": 20})
    assert state.snapshot is not None
    assert state.snapshot.taker_fee_rate == Decimal("0.00045")
    assert state.snapshot.max_leverage == 20


def test_mark_prices(state: AccountState, clock: Clock) -> None:
    """Older observations and invalid prices do not replace a mark price; open positions are valued at it."""
    state.apply_marks({BTC: Decimal(65000)}, clock.now)
    state.apply_marks({BTC: Decimal(60000)}, clock.now - timedelta(seconds=1))
    state.apply_marks({BTC: Decimal(0)}, clock.now + timedelta(seconds=1))
    state.apply_positions([row("1", T0 + 1, seq=1, mark_price=64000)])
    assert state.snapshot is not None
    assert state.snapshot.mark_price(BTC) == 65000
    assert state.snapshot.positions[BTC].unrealized_pnl == 0


def test_builder_markets_and_broken_rules_are_left_out(state: AccountState) -> None:
    """Community listings and rows without steps are left out; a reply without any keeps the old rules."""
    listed = state.apply_instruments(
        [RULES, {**RULES, "symbol": "PERP_X_USDC_b", "broker_id": "b"}, {"symbol": "PERP_Y_USDC"}, {}]
    )
    assert listed == 1
    state.apply_instruments([])
    assert state.snapshot is not None
    assert set(state.snapshot.instruments) == {BTC}


def test_a_market_that_is_missing_twice_is_delisted(state: AccountState) -> None:
    """One list without it may be a fault of the exchange. Its rules stay, and it is as before once it is listed again."""
    other = {**RULES, "symbol": "PERP_ETH_USDC"}
    for rows, status in (
        ([RULES, other], "ACTIVE"),
        ([other], "ACTIVE"),
        ([RULES, other], "ACTIVE"),
        ([other], "ACTIVE"),
        ([other], "DELISTED"),
        ([other], "DELISTED"),
        ([RULES, other], "ACTIVE"),
    ):
        state.apply_instruments(rows)
        found = {symbol: (each.status, each.base_max) for symbol, each in state.instruments.items()}
        assert found == {BTC: (status, Decimal(10)), "PERP_ETH_USDC": ("ACTIVE", Decimal(10))}


def test_age_counts_from_the_last_confirmation(state: AccountState, clock: Clock) -> None:
    """A mark price confirms nothing about the account; a frame of the private stream does."""
    clock.now += timedelta(seconds=20)
    state.apply_marks({BTC: Decimal(65000)}, clock.now)
    assert state.snapshot is not None
    assert state.snapshot.taken_at == at(T0)
    state.mark_alive()
    assert state.snapshot.taken_at == clock.now


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
def test_any_order_of_arrival_ends_in_the_same_position(trades: list[tuple[Side, Decimal, int]], chance: Any) -> None:
    """Fills and position messages, shuffled and repeated: after all of them the quantity is the exchange's."""
    clock = Clock()
    state = AccountState(clock)
    state.apply_instruments([RULES])
    state.apply_account(account(), answered_ms=T0)
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
            state.apply_fill(message)
        else:
            state.apply_positions([message])
    assert quantity_of(state) == total


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Side), st.decimals(min_value="0.001", max_value=5, places=3), st.integers(1, 100_000)
        ),
        max_size=20,
    )
)
def test_position_arithmetic(trades: list[tuple[Side, Decimal, int]]) -> None:
    """Quantity and cost add up exactly; reducing never changes the average, flat has none (docs/internals/orderly.md section 10)."""
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


def test_a_snapshot_never_changes(state: AccountState, clock: Clock) -> None:
    """Later mark prices and leverages are in the next snapshot only."""
    state.apply_marks({BTC: Decimal(65000)}, clock.now)
    state.apply_leverage(BTC, Decimal(10))
    before = state.snapshot
    assert before is not None
    state.apply_marks({BTC: Decimal(66000)}, clock.now)
    state.apply_leverage(BTC, Decimal(5))
    after = state.snapshot
    assert after is not None
    assert (before.marks[BTC].price, before.leverage[BTC]) == (Decimal(65000), Decimal(10))
    assert (after.marks[BTC].price, after.leverage[BTC]) == (Decimal(66000), Decimal(5))
