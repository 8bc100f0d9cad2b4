"""Every rule of the risk book: what it denies, for webhook and account, and that exits pass all of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.codes import CODES
from kekbridge.model import (
    AccountSnapshot,
    Limits,
    Mark,
    OrderIntent,
    Position,
    Purpose,
    Reservation,
    Side,
    TradingState,
    Usage,
    Verdict,
)
from kekbridge.risk import rules
from kekbridge.risk.limits import account_limits
from tests.trading import (
    BTC,
    ETH,
    INSTRUMENTS,
    NOTHING,
    NOW,
    D,
    committed_by,
    entry,
    exit_of,
    instrument,
    reserved,
    snapshot,
    webhook,
)


def judged(
    *intents: OrderIntent,
    limits: Limits = NOTHING,
    account: Limits = NOTHING,
    held: dict[str, str] | None = None,
    state: AccountSnapshot | None = None,
    now: datetime = NOW,
    reservations: tuple[Reservation, ...] = (),
    **usage: Any,
) -> tuple[Verdict, ...]:
    return rules.check_rules(
        intents,
        webhook=webhook(limits),
        account_limits=account,
        snapshot=state or snapshot(held),
        usage=Usage(now=now, commitments=committed_by(*reservations), **usage),
        now=now,
        max_snapshot_age_s=30,
        max_mark_age_s=10,
    )


def denial(*intents: OrderIntent, **kwargs: Any) -> tuple[str, str] | None:
    """Rule and scope of the first no; every no is one line with words, and a published code."""
    verdicts = judged(*intents, **kwargs)
    for verdict in verdicts:
        assert verdict.rule in CODES or verdict.rule == "exit"
        assert bool(verdict.message) != verdict.passed
        assert "\n" not in verdict.message
    first = rules.first_denial(verdicts)
    return None if first is None else (first.rule, first.scope)


BREACHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "symbol_not_allowed": ({"allowed_symbols": (ETH,)}, {}),
    "order_too_small": ({"min_order_size": D("0.2")}, {}),
    "order_too_large": ({"max_order_size": D("0.05")}, {}),
    "position_too_large": ({"max_position_size": D("0.5")}, {"held": {BTC: "0.45"}}),
    "notional_too_large": ({"max_notional": D(6_499)}, {}),
    "daily_limit": ({"daily_limit": D(10_000)}, {"traded_today": D(4000), "account_traded_today": D(4000)}),
    "daily_orders": ({"daily_orders": 3}, {"orders_today": 3, "account_orders_today": 3}),
    "daily_loss": ({"max_daily_loss": D(500)}, {"realized_today": D(-500), "account_realized_today": D(-500)}),
    "drawdown": ({"max_drawdown": D("0.2")}, {"equity_peak": D(125_000)}),
    "leverage_too_high": ({"max_leverage": D(2)}, {"held": {BTC: "3"}}),
    "too_many_positions": ({"max_open_positions": 1}, {"held": {ETH: "1"}}),
    "stop_loss_required": ({"require_stop_loss": True}, {}),
    "cooldown": ({"cooldown_s": 60}, {"last_entry_at": {BTC: NOW - timedelta(seconds=59)}}),
    "outside_trading_hours": ({"trading_hours": "Mon-Fri 11:00-12:00 UTC"}, {}),
}


@pytest.mark.parametrize("code", BREACHES)
def test_each_limit_denies_for_the_webhook_and_for_the_account(code: str) -> None:
    """The tighter wins: whichever of the two has the limit says no, and without it the order passes."""
    limit, state = BREACHES[code]
    assert denial(entry(), limits=replace(NOTHING, **limit), **state) == (code, "webhook")
    assert denial(entry(), account=replace(NOTHING, **limit), **state) == (code, "account")
    assert denial(entry(), **state) is None


@pytest.mark.parametrize("code", BREACHES)
def test_an_exit_passes_every_limit(code: str) -> None:
    """Whatever is used up: getting out is always allowed, and the record says why."""
    limit, state = BREACHES[code]
    limits = replace(NOTHING, **limit)
    verdicts = judged(exit_of(), limits=limits, account=limits, **state)
    assert rules.first_denial(verdicts) is None
    assert [verdict.rule for verdict in verdicts] == ["trading_halted", "exit"]


@pytest.mark.parametrize(
    ("limit", "state", "fields"),
    [
        ({"min_order_size": D("0.1"), "max_order_size": D("0.1")}, {}, {}),
        ({"max_position_size": D("0.5")}, {"held": {BTC: "0.4"}}, {}),
        ({"max_notional": D(6_500)}, {}, {}),
        ({"daily_limit": D(6_500)}, {}, {}),
        ({"daily_orders": 1}, {}, {}),
        ({"max_daily_loss": D(500)}, {"realized_today": D("-499.99"), "account_realized_today": D("-499.99")}, {}),
        ({"max_leverage": D("0.065")}, {}, {}),
        ({"max_open_positions": 1}, {"held": {BTC: "0.3"}}, {}),
        ({"max_open_positions": 1}, {"held": {BTC: "0.3", ETH: "1"}}, {}),
        ({"require_stop_loss": True, "max_stop_distance": D("0.02")}, {}, {"stop_loss": D(63_700)}),
        ({"cooldown_s": 60}, {"last_entry_at": {BTC: NOW - timedelta(seconds=60), ETH: NOW}}, {}),
        ({"trading_hours": "Thu 10:30-10:31"}, {}, {}),
        ({"allowed_symbols": ("btc",)}, {}, {}),
    ],
)
def test_a_limit_that_is_just_met_passes(limit: dict[str, Any], state: dict[str, Any], fields: dict[str, Any]) -> None:
    """A limit of 10 allows 10."""
    limits = replace(NOTHING, **limit)
    assert denial(entry(**fields), limits=limits, account=limits, **state) is None


@pytest.mark.parametrize(
    ("state", "is_entry_allowed", "is_exit_allowed"),
    [
        (TradingState.RUNNING, True, True),
        (TradingState.EXITS_ONLY, False, True),
        (TradingState.HALTED, False, False),
    ],
)
def test_trading_states(state: TradingState, *, is_entry_allowed: bool, is_exit_allowed: bool) -> None:
    """halt stops everything, exits-only what opens."""
    code = "trading_halted" if state is TradingState.HALTED else "exits_only"
    assert denial(entry(), trading_state=state) == (None if is_entry_allowed else (code, "account"))
    assert denial(exit_of(), trading_state=state) == (None if is_exit_allowed else (code, "account"))


def test_old_knowledge_opens_nothing() -> None:
    """An account not heard of, or a mark not seen lately, is no ground to open on; it is to close."""
    old = snapshot(taken_at=NOW - timedelta(seconds=31))
    assert denial(entry(), state=old) == ("not_ready", "exchange")
    stale = replace(snapshot(), marks={BTC: Mark(D(65_000), NOW - timedelta(seconds=11))})
    assert denial(entry(), state=stale) == ("no_mark_price", "exchange")
    assert denial(entry(), state=snapshot(marks={})) == ("no_mark_price", "exchange")
    assert denial(exit_of(), state=snapshot(marks={}, taken_at=NOW - timedelta(days=1))) is None


def test_positions_of_open_orders_count_on_their_side() -> None:
    """0.3 held and 0.1 on its way leave 0.1 of 0.5; orders of the other side make no room."""
    limits = replace(NOTHING, max_position_size=D("0.5"))
    room = {"limits": limits, "held": {BTC: "0.3"}}
    assert denial(entry("0.1"), reservations=(reserved("0.1"),), **room) is None
    assert denial(entry("0.11"), reservations=(reserved("0.1"),), **room) == ("position_too_large", "webhook")
    assert denial(entry("0.3"), reservations=(reserved("-0.2"),), **room) == ("position_too_large", "webhook")
    assert denial(entry("0.3"), reservations=(reserved("-0.2", is_entry=False),), **room) == (
        "position_too_large",
        "webhook",
    )


def test_the_entry_of_a_reversal_is_measured_from_flat() -> None:
    """Its close goes first: long 0.4 to short 0.5 is a position of 0.5, not of 0.9 and not of 0.1."""
    limits = replace(NOTHING, max_position_size=D("0.5"))
    close, turn = exit_of("0.4"), entry("0.5", Side.SELL)
    assert denial(close, turn, limits=limits, held={BTC: "0.4"}) is None
    assert denial(close, entry("0.51", Side.SELL), limits=limits, held={BTC: "0.4"}) == (
        "position_too_large",
        "webhook",
    )


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
def test_exits_of_more_than_the_position_open_nothing(side: Side) -> None:
    """A close and a protective stop of the same position cannot both fill: reduce-only orders end at flat."""
    against = str(-side.sign)
    exits = tuple(reserved(str(D("0.4") * side.sign), name=f"kb-{leg}", is_entry=False) for leg in (1, 2))
    room: dict[str, Any] = {"limits": replace(NOTHING, max_position_size=D("0.5")), "reservations": exits}
    held = {BTC: str(D("0.4") * D(against))}
    assert denial(entry("0.5", side), held=held, **room) is None
    assert denial(entry("0.51", side), held=held, **room) == ("position_too_large", "webhook")


def test_orders_of_one_step_are_judged_one_after_the_other() -> None:
    """Two entries of half the limit fit, a third does not."""
    limits = replace(NOTHING, daily_limit=D(13_000), daily_orders=2)
    assert denial(entry(), entry(), limits=limits) is None
    assert denial(entry(), entry(), entry(), limits=limits) == ("daily_limit", "webhook")


def test_open_losses_count_into_the_day() -> None:
    """Realised 200 and 400 under water is a day's loss of 600, also where the position is isolated or of somebody else."""
    limits = replace(NOTHING, max_daily_loss=D(600))
    under_water = Position(symbol=BTC, quantity=D("0.2"), average_open_price=D(67_000))
    for place in ({"positions": {BTC: under_water}}, {"other_positions": (under_water,)}):
        state = snapshot(**place) if "other_positions" in place else replace(snapshot(), positions={BTC: under_water})
        kwargs: dict[str, Any] = {"limits": limits, "state": state}
        assert denial(entry(), realized_today=D(-200), **kwargs) == ("daily_loss", "webhook")
        assert denial(entry(), realized_today=D(-199), **kwargs) is None


def test_a_webhook_is_not_charged_with_positions_it_may_not_trade() -> None:
    """Its loss is that of its allowed symbols."""
    limits = replace(NOTHING, max_daily_loss=D(100), allowed_symbols=(BTC,))
    state = replace(snapshot(), positions={ETH: Position(symbol=ETH, quantity=D(1), average_open_price=D(2000))})
    assert denial(entry(), limits=limits, state=state) is None
    assert denial(entry(), account=replace(limits, allowed_symbols=None), state=state) == ("daily_loss", "account")


def test_requested_leverage_is_limited_also_by_the_market() -> None:
    """The webhook's ceiling, and 1/base_imr of the market (docs/internals/orderly.md section 9)."""
    assert denial(entry(leverage=D(6)), limits=replace(NOTHING, max_leverage=D(5))) == ("leverage_too_high", "webhook")
    assert denial(entry(leverage=D(5)), limits=replace(NOTHING, max_leverage=D(5))) is None
    ten = snapshot(instruments={BTC: instrument(base_imr=D("0.1"))})
    assert denial(entry(leverage=D(11)), state=ten) == ("leverage_too_high", "exchange")
    assert denial(entry(leverage=D(10)), state=ten) is None


def test_effective_leverage_counts_everything_open() -> None:
    """Positions, orders on their way, isolated positions and this order, at the mark, over the account's value."""
    limits = replace(NOTHING, max_leverage=D(1))
    foreign = (Position(symbol=ETH, quantity=D(-10), average_open_price=D(1800)),)
    state = snapshot({BTC: "0.5"}, other_positions=foreign)  # 32,500 + 18,000
    kwargs: dict[str, Any] = {"limits": limits, "state": state, "reservations": (reserved("20", ETH),)}  # + 36,000
    assert denial(entry("0.2"), **kwargs) is None  # + 13,000 = 99,500
    assert denial(entry("0.21"), **kwargs) == ("leverage_too_high", "webhook")
    broke = replace(state, account_value=D(0))
    assert denial(entry(), limits=limits, state=broke) == ("leverage_too_high", "webhook")


def test_leverage_is_lowered_when_the_policy_says_so() -> None:
    """`lower` takes the tighter ceiling, in whole numbers; `refuse` and exits leave the order alone."""
    lower = webhook(replace(NOTHING, leverage_policy="lower", max_leverage=D("7.5")))
    five = replace(NOTHING, max_leverage=D(5))
    ask = entry(leverage=D(20))
    assert rules.apply_leverage_policy(ask, webhook=lower, account_limits=NOTHING).leverage == 7
    assert rules.apply_leverage_policy(ask, webhook=lower, account_limits=five).leverage == 5
    assert rules.apply_leverage_policy(entry(leverage=D(3)), webhook=lower, account_limits=five).leverage == 3
    assert rules.apply_leverage_policy(ask, webhook=webhook(five), account_limits=five) is ask
    way_out = exit_of(leverage=D(20))
    assert rules.apply_leverage_policy(way_out, webhook=lower, account_limits=five) is way_out


def test_positions_are_counted_with_foreign_ones_and_those_on_their_way() -> None:
    """Whoever opened them."""
    limits = replace(NOTHING, max_open_positions=2)
    foreign = (Position(symbol=ETH, quantity=D(1), average_open_price=D(1800)),)
    on_its_way = (reserved("100", "PERP_1000PEPE_USDC"),)
    assert denial(entry(), limits=limits, state=snapshot(other_positions=foreign)) is None
    both: dict[str, Any] = {"state": snapshot(other_positions=foreign), "reservations": on_its_way}
    assert denial(entry(), limits=limits, **both) == ("too_many_positions", "webhook")


def test_a_stop_loss_may_not_be_too_far() -> None:
    """max_stop_distance is a share of the entry; an order without a stop is the business of require_stop_loss."""
    limits = replace(NOTHING, max_stop_distance=D("0.02"))
    assert denial(entry(stop_loss=D("63699.9")), limits=limits) == ("stop_loss_too_far", "webhook")
    assert denial(entry(side=Side.SELL, stop_loss=D(66_301)), limits=limits) == ("stop_loss_too_far", "webhook")
    assert denial(entry(), limits=limits) is None


def test_free_collateral_must_cover_margin_and_fee() -> None:
    """0.1 BTC at 10x is 650 USDC of margin and 3.25 of fee (0.05 %)."""
    fee: dict[str, Any] = {"taker_fee_rate": D("0.0005")}
    assert denial(entry(), state=snapshot(free_collateral=D("653.25"), **fee)) is None
    assert denial(entry(), state=snapshot(free_collateral=D("653.24"), **fee)) == ("margin_insufficient", "exchange")


@pytest.mark.parametrize(
    ("rules_of_market", "leverage", "margin"),
    [({}, 10, "650"), ({}, 100, "65"), ({"base_imr": D("0.2")}, 10, "1300"), ({"imr_factor": D("0.01")}, 10, "72987")],
)
def test_the_initial_margin_ratio_is_the_exchanges(rules_of_market: dict[str, Any], leverage: int, margin: str) -> None:
    """IMR = max(1/leverage, base_imr, imr_factor * notional^0.8), docs/internals/orderly.md section 10."""
    market = {BTC: instrument(**rules_of_market)}
    for free, expected in ((D(margin) + 1, None), (D(margin) - 1, ("margin_insufficient", "exchange"))):
        state = snapshot(instruments=market, leverage={BTC: D(leverage)}, free_collateral=free)
        assert denial(entry(), state=state) == expected


def test_margin_of_orders_on_their_way_is_taken_already() -> None:
    """The exchange does not know them yet; those it has are in its own figure."""
    kwargs: dict[str, Any] = {"state": snapshot(free_collateral=D(1299))}
    assert denial(entry(), reservations=(reserved("0.1"),), **kwargs) == ("margin_insufficient", "exchange")
    eth = D(650) / D(180)
    other = reserved(str(round(eth, 4)), ETH)
    assert denial(entry(), reservations=(other,), **kwargs) == ("margin_insufficient", "exchange")
    unsent = reserved("0.1", is_resting=True)  # a limit order in our queue: nobody holds its margin back yet
    assert denial(entry(), reservations=(unsent,), **kwargs) == ("margin_insufficient", "exchange")
    for seen in (reserved("0.1", is_margined=True), replace(other, is_margined=True)):
        assert denial(entry(), reservations=(seen,), **kwargs) is None


def test_a_reversal_to_the_same_size_needs_no_new_margin() -> None:
    """What the close frees, the entry takes."""
    state = snapshot({BTC: "1"}, free_collateral=D(0))
    assert denial(exit_of("1"), entry("1", Side.SELL), state=state) is None
    assert denial(exit_of("1"), entry("1.1", Side.SELL), state=state) == ("margin_insufficient", "exchange")


def test_lower_leverage_needs_more_margin() -> None:
    """The leverage that the order asks for is the one that will be in force."""
    state = snapshot(free_collateral=D(1000))
    assert denial(entry(), state=state) is None
    assert denial(entry(leverage=D(5)), state=state) == ("margin_insufficient", "exchange")


@pytest.mark.parametrize(
    ("side", "signal", "bound", "is_denied"),
    [
        (Side.BUY, "64676", None, True),
        (Side.BUY, "64677", None, False),
        (Side.BUY, "70000", None, False),
        (Side.SELL, "65327", None, True),
        (Side.SELL, "65326", None, False),
        (Side.BUY, "64900", "0.001", True),
        (Side.BUY, "64900", "0.009", False),
    ],
)
def test_the_market_may_not_be_much_worse_than_the_signal(
    side: Side, signal: str, bound: str | None, *, is_denied: bool
) -> None:
    """max_slippage 0.5 % of the signal's price, or the alert's own bound if tighter; a better price passes."""
    limits = replace(NOTHING, max_slippage=D("0.005"))
    intent = entry(side=side, signal_price=D(signal), slippage=None if bound is None else D(bound))
    assert denial(intent, limits=limits) == (("slippage_too_high", "webhook") if is_denied else None)


def test_unreadable_trading_hours_close_the_market() -> None:
    """A limit that cannot be read must not become no limit."""
    assert denial(entry(), limits=replace(NOTHING, trading_hours="office hours")) == (
        "outside_trading_hours",
        "webhook",
    )


def test_the_record_is_complete_and_in_a_fixed_order() -> None:
    """explain shows every rule, passed or not, with what was found and what the limit is."""
    limits = Limits(max_stop_distance=D("0.1"), max_slippage=D("0.01"))
    verdicts = judged(entry(stop_loss=D(64_000), signal_price=D(65_000)), limits=limits, account=account_limits())
    names = list(dict.fromkeys(verdict.rule for verdict in verdicts))
    assert names == [
        "trading_halted",
        "not_ready",
        "no_mark_price",
        "symbol_not_allowed",
        "order_too_small",
        "order_too_large",
        "position_too_large",
        "notional_too_large",
        "daily_limit",
        "daily_orders",
        "daily_loss",
        "drawdown",
        "leverage_too_high",
        "too_many_positions",
        "stop_loss_required",
        "stop_loss_too_far",
        "margin_insufficient",
        "slippage_too_high",
        "cooldown",
        "outside_trading_hours",
    ]
    assert all(verdict.found and verdict.limit for verdict in verdicts)
    assert rules.first_denial(verdicts) is None


orders = st.lists(
    st.tuples(
        st.sampled_from([BTC, ETH]),
        st.sampled_from(list(Side)),
        st.decimals(min_value="0.001", max_value=1, places=3),
    ),
    min_size=1,
    max_size=12,
)


@given(
    orders=orders,
    held=st.dictionaries(st.sampled_from([BTC, ETH]), st.decimals(-1, 1, places=3).map(str)),
    size=st.decimals("0.1", 2, places=2),
    daily=st.decimals(1000, 100_000, places=0),
    fills=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_no_burst_gets_past_a_limit(
    orders: list[tuple[str, Side, Decimal]], held: dict[str, str], size: Decimal, daily: Decimal, fills: list[bool]
) -> None:
    """Each order is judged with those before it reserved: whichever of the admitted ones fill, no limit is exceeded."""
    limits = replace(NOTHING, max_position_size=size, daily_limit=daily, daily_orders=6)
    usage = Usage(now=NOW)
    positions = {symbol: D(text) for symbol, text in held.items()}
    admitted: list[OrderIntent] = []
    taken: list[Reservation] = []
    for symbol, side, quantity in orders:
        intent = entry(str(quantity), side, symbol)
        verdicts = rules.check_rules(
            (intent,),
            webhook=webhook(limits),
            account_limits=limits,
            snapshot=snapshot(held),
            usage=usage,
            now=NOW,
            max_snapshot_age_s=30,
            max_mark_age_s=10,
        )
        if rules.first_denial(verdicts) is None:
            admitted.append(intent)
            taken.append(reserved(str(intent.signed_quantity), symbol))
            usage = replace(
                usage,
                commitments=committed_by(*taken),
                traded_today=usage.traded_today + intent.notional,
                account_traded_today=usage.account_traded_today + intent.notional,
                orders_today=usage.orders_today + 1,
                account_orders_today=usage.account_orders_today + 1,
            )
    assert len(admitted) <= 6
    assert sum(intent.notional for intent in admitted) <= daily
    for intent, is_filled in zip(admitted, fills, strict=False):
        if is_filled:
            before = abs(positions.get(intent.symbol, D(0)))
            positions[intent.symbol] = positions.get(intent.symbol, D(0)) + intent.signed_quantity
            assert abs(positions[intent.symbol]) <= max(size, before)


@given(
    state=st.sampled_from([TradingState.RUNNING, TradingState.EXITS_ONLY]),
    used=st.decimals(0, 10**9, places=2),
    quantity=st.decimals("0.00001", 10**6, places=5),
    purpose=st.sampled_from([Purpose.EXIT, Purpose.PROTECT]),
    age_s=st.integers(0, 10**6),
)
def test_exits_always_pass(state: TradingState, used: Decimal, quantity: Decimal, purpose: Purpose, age_s: int) -> None:
    """Any size, any age of knowledge, any limit: reduce-only orders pass unless trading is halted."""
    nothing_allowed = Limits(
        allowed_symbols=(),
        max_order_size=D(0),
        max_position_size=D(0),
        max_notional=D(0),
        daily_limit=D(0),
        daily_orders=0,
        max_daily_loss=D(0),
        max_drawdown=D(0),
        max_leverage=D(0),
        max_open_positions=0,
        require_stop_loss=True,
        cooldown_s=10**6,
        trading_hours="Mon 00:00-00:01",
    )
    verdicts = judged(
        exit_of(str(quantity), leverage=D(100))
        if purpose is Purpose.EXIT
        else replace(exit_of(str(quantity)), purpose=purpose),
        limits=nothing_allowed,
        account=nothing_allowed,
        state=snapshot(
            instruments=INSTRUMENTS, account_value=D(-1), free_collateral=-used, taken_at=NOW - timedelta(seconds=age_s)
        ),
        trading_state=state,
        traded_today=used,
        account_traded_today=used,
        realized_today=-used,
    )
    assert rules.first_denial(verdicts) is None
