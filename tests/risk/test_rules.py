"""Every risk rule: what it denies, for webhook and account, and that exits pass all of them."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

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
from kekbridge.risk.check import NO_LIMIT, NOT_CHECKED, AccountPolicy, with_order
from kekbridge.risk.limits import account_limits
from tests.trading import (
    BTC,
    ETH,
    INSTRUMENTS,
    NO_LIMITS,
    NOW,
    D,
    commitments_of,
    entry,
    exit_order,
    instrument,
    reservation,
    snapshot,
    webhook,
)


def check(
    *intents: OrderIntent,
    limits: Limits = NO_LIMITS,
    account: Limits = NO_LIMITS,
    held: dict[str, str] | None = None,
    state: AccountSnapshot | None = None,
    now: datetime = NOW,
    reservations: tuple[Reservation, ...] = (),
    **usage: Any,
) -> tuple[Verdict, ...]:
    """Verdicts on the orders of one alert: each is judged with those before it counted."""
    used = Usage(now=now, commitments=commitments_of(*reservations), **usage)
    verdicts: list[Verdict] = []
    for intent in intents:
        verdicts += rules.check_rules(
            intent, webhook=webhook(limits), policy=policy(account), snapshot=state or snapshot(held), usage=used
        )
        used = with_order(used, intent)
    return tuple(verdicts)


def policy(account: Limits) -> AccountPolicy:
    return AccountPolicy(account_limits=account, max_snapshot_age_s=30, max_mark_age_s=10)


def denial(*intents: OrderIntent, **kwargs: Any) -> tuple[str, str] | None:
    """Rule and scope of the first denial. Every denial has a message of one line and a published code."""
    verdicts = check(*intents, **kwargs)
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
    """Either scope's limit denies the order; without the limit it passes."""
    limit, state = BREACHES[code]
    assert denial(entry(), limits=dataclasses.replace(NO_LIMITS, **limit), **state) == (code, "webhook")
    assert denial(entry(), account=dataclasses.replace(NO_LIMITS, **limit), **state) == (code, "account")
    assert denial(entry(), **state) is None


@pytest.mark.parametrize("code", BREACHES)
def test_an_exit_passes_every_limit(code: str) -> None:
    """Even with every limit used up an exit passes, and the verdicts show why."""
    limit, state = BREACHES[code]
    limits = dataclasses.replace(NO_LIMITS, **limit)
    verdicts = check(exit_order(), limits=limits, account=limits, **state)
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
def test_an_order_exactly_at_the_limit_passes(
    limit: dict[str, Any], state: dict[str, Any], fields: dict[str, Any]
) -> None:
    """A limit of 10 allows 10."""
    limits = dataclasses.replace(NO_LIMITS, **limit)
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
    assert denial(exit_order(), trading_state=state) == (None if is_exit_allowed else (code, "account"))


def test_a_state_of_the_webhook_alone_names_its_own_resume() -> None:
    """`kekbridge resume` without a webhook would also open what else is closed."""
    of_webhook = check(entry(), trading_state=TradingState.EXITS_ONLY, trading_scope="webhook", trading_reason="loss")
    found = rules.first_denial(of_webhook)
    assert found is not None
    assert (found.scope, found.message) == (
        "webhook",
        "only exits are allowed (loss); kekbridge resume --webhook test",
    )


def test_stale_data_opens_no_position() -> None:
    """A stale snapshot or mark denies entries, but not exits."""
    old = snapshot(taken_at=NOW - timedelta(seconds=31))
    assert denial(entry(), state=old) == ("not_ready", "exchange")
    stale = replace(snapshot(), marks={BTC: Mark(D(65_000), NOW - timedelta(seconds=11))})
    assert denial(entry(), state=stale) == ("no_mark_price", "exchange")
    assert denial(entry(), state=snapshot(marks={})) == ("no_mark_price", "exchange")
    assert denial(exit_order(), state=snapshot(marks={}, taken_at=NOW - timedelta(days=1))) is None


def test_open_orders_count_towards_the_position_on_their_side() -> None:
    """0.3 held and 0.1 in open orders leave 0.1 of 0.5; orders of the other side free nothing."""
    limits = dataclasses.replace(NO_LIMITS, max_position_size=D("0.5"))
    room = {"limits": limits, "held": {BTC: "0.3"}}
    assert denial(entry("0.1"), reservations=(reservation("0.1"),), **room) is None
    assert denial(entry("0.11"), reservations=(reservation("0.1"),), **room) == ("position_too_large", "webhook")
    assert denial(entry("0.3"), reservations=(reservation("-0.2"),), **room) == ("position_too_large", "webhook")
    assert denial(entry("0.3"), reservations=(reservation("-0.2", is_entry=False),), **room) == (
        "position_too_large",
        "webhook",
    )


def test_the_entry_of_a_reversal_is_measured_from_flat() -> None:
    """Its close is sent first: long 0.4 to short 0.5 is a position of 0.5, neither 0.9 nor 0.1."""
    limits = dataclasses.replace(NO_LIMITS, max_position_size=D("0.5"))
    close, reverse = exit_order("0.4"), entry("0.5", Side.SELL)
    assert denial(close, reverse, limits=limits, held={BTC: "0.4"}) is None
    assert denial(close, entry("0.51", Side.SELL), limits=limits, held={BTC: "0.4"}) == (
        "position_too_large",
        "webhook",
    )


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
def test_exits_larger_than_the_position_open_nothing(side: Side) -> None:
    """A close and a protective stop of the same position cannot both fill: reduce-only orders end at flat."""
    against = str(-side.sign)
    exits = tuple(reservation(str(D("0.4") * side.sign), client_order_id=f"kb-{leg}", is_entry=False) for leg in (1, 2))
    room: dict[str, Any] = {"limits": dataclasses.replace(NO_LIMITS, max_position_size=D("0.5")), "reservations": exits}
    held = {BTC: str(D("0.4") * D(against))}
    assert denial(entry("0.5", side), held=held, **room) is None
    assert denial(entry("0.51", side), held=held, **room) == ("position_too_large", "webhook")


def test_earlier_orders_of_an_alert_count_against_the_limits() -> None:
    """Two entries of half the limit fit, a third does not."""
    limits = dataclasses.replace(NO_LIMITS, daily_limit=D(13_000), daily_orders=2)
    assert denial(entry(), entry(), limits=limits) is None
    assert denial(entry(), entry(), entry(), limits=limits) == ("daily_limit", "webhook")


def test_unrealised_losses_count_towards_the_daily_loss() -> None:
    """200 realised and 400 unrealised make a daily loss of 600, also for an isolated position."""
    limits = dataclasses.replace(NO_LIMITS, max_daily_loss=D(600))
    losing = Position(symbol=BTC, quantity=D("0.2"), average_open_price=D(67_000))
    for place in ({"positions": {BTC: losing}}, {"other_positions": (losing,)}):
        state = snapshot(**place) if "other_positions" in place else replace(snapshot(), positions={BTC: losing})
        kwargs: dict[str, Any] = {"limits": limits, "state": state}
        assert denial(entry(), realized_today=D(-200), **kwargs) == ("daily_loss", "webhook")
        assert denial(entry(), realized_today=D(-199), **kwargs) is None


def test_a_webhook_is_not_charged_with_positions_it_may_not_trade() -> None:
    """A webhook's loss is that of its allowed symbols."""
    limits = dataclasses.replace(NO_LIMITS, max_daily_loss=D(100), allowed_symbols=(BTC,))
    state = replace(snapshot(), positions={ETH: Position(symbol=ETH, quantity=D(1), average_open_price=D(2000))})
    assert denial(entry(), limits=limits, state=state) is None
    assert denial(entry(), account=dataclasses.replace(limits, allowed_symbols=None), state=state) == (
        "daily_loss",
        "account",
    )


def test_requested_leverage_is_also_limited_by_the_market() -> None:
    """By the webhook's maximum, and by 1/base_imr of the market (docs/internals/orderly.md section 9)."""
    assert denial(entry(leverage=D(6)), limits=dataclasses.replace(NO_LIMITS, max_leverage=D(5))) == (
        "leverage_too_high",
        "webhook",
    )
    assert denial(entry(leverage=D(5)), limits=dataclasses.replace(NO_LIMITS, max_leverage=D(5))) is None
    ten = snapshot(instruments={BTC: instrument(base_imr=D("0.1"))})
    assert denial(entry(leverage=D(11)), state=ten) == ("leverage_too_high", "exchange")
    assert denial(entry(leverage=D(10)), state=ten) is None


def test_effective_leverage_counts_all_exposure() -> None:
    """Positions, open orders, isolated positions and this order, at the mark, divided by the account value."""
    limits = dataclasses.replace(NO_LIMITS, max_leverage=D(1))
    isolated = (Position(symbol=ETH, quantity=D(-10), average_open_price=D(1800)),)
    state = snapshot({BTC: "0.5"}, other_positions=isolated)  # 32,500 + 18,000
    kwargs: dict[str, Any] = {"limits": limits, "state": state, "reservations": (reservation("20", ETH),)}  # + 36,000
    assert denial(entry("0.2"), **kwargs) is None  # + 13,000 = 99,500
    assert denial(entry("0.21"), **kwargs) == ("leverage_too_high", "webhook")
    empty = replace(state, account_value=D(0))
    assert denial(entry(), limits=limits, state=empty) == ("leverage_too_high", "webhook")


def test_leverage_is_lowered_if_the_policy_is_lower() -> None:
    """`lower` applies the tighter maximum in whole numbers; `refuse` and exits leave the order unchanged."""
    lower = webhook(dataclasses.replace(NO_LIMITS, leverage_policy="lower", max_leverage=D("7.5")))
    five = dataclasses.replace(NO_LIMITS, max_leverage=D(5))
    requested = entry(leverage=D(20))
    assert rules.apply_leverage_policy(requested, webhook=lower, account_limits=NO_LIMITS).leverage == 7
    assert rules.apply_leverage_policy(requested, webhook=lower, account_limits=five).leverage == 5
    assert rules.apply_leverage_policy(entry(leverage=D(3)), webhook=lower, account_limits=five).leverage == 3
    assert rules.apply_leverage_policy(requested, webhook=webhook(five), account_limits=five) is requested
    close = exit_order(leverage=D(20))
    assert rules.apply_leverage_policy(close, webhook=lower, account_limits=five) is close


def test_isolated_positions_and_open_entries_count_as_positions() -> None:
    """A position counts whatever its margin mode, and so does one that an open entry will create."""
    limits = dataclasses.replace(NO_LIMITS, max_open_positions=2)
    isolated = (Position(symbol=ETH, quantity=D(1), average_open_price=D(1800)),)
    opening = (reservation("100", "PERP_1000PEPE_USDC"),)
    assert denial(entry(), limits=limits, state=snapshot(other_positions=isolated)) is None
    both: dict[str, Any] = {"state": snapshot(other_positions=isolated), "reservations": opening}
    assert denial(entry(), limits=limits, **both) == ("too_many_positions", "webhook")


def test_a_mandatory_stop_has_a_farthest_distance() -> None:
    """20 percent unless the webhook says otherwise, also more; a stop that is not required may be anywhere."""
    far, near = entry(stop_loss=D(51_900)), entry(stop_loss=D(52_100))
    required = Limits(require_stop_loss=True)
    assert denial(far, limits=required) == ("stop_loss_too_far", "webhook")
    assert denial(near, limits=required) is None
    assert denial(far, limits=Limits(require_stop_loss=True, max_stop_distance=D("0.5"))) is None
    assert denial(near, limits=Limits(require_stop_loss=True, max_stop_distance=D("0.05"))) == (
        "stop_loss_too_far",
        "webhook",
    )
    assert denial(far, limits=Limits()) is None


def test_a_stop_loss_must_not_be_too_far_away() -> None:
    """max_stop_distance is a fraction of the entry price; an order without a stop is left to require_stop_loss."""
    limits = dataclasses.replace(NO_LIMITS, max_stop_distance=D("0.02"))
    assert denial(entry(stop_loss=D("63699.9")), limits=limits) == ("stop_loss_too_far", "webhook")
    assert denial(entry(side=Side.SELL, stop_loss=D(66_301)), limits=limits) == ("stop_loss_too_far", "webhook")
    assert denial(entry(), limits=limits) is None


def test_free_collateral_must_cover_margin_and_fee() -> None:
    """0.1 BTC at 10x needs 650 USDC of margin and 3.25 for the fee (0.05 %)."""
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


def test_margin_of_open_orders_is_not_available() -> None:
    """Margin of orders that the exchange does not know yet is subtracted; what it knows is in its own figure."""
    kwargs: dict[str, Any] = {"state": snapshot(free_collateral=D(1299))}
    assert denial(entry(), reservations=(reservation("0.1"),), **kwargs) == ("margin_insufficient", "exchange")
    eth = D(650) / D(180)
    other = reservation(str(round(eth, 4)), ETH)
    assert denial(entry(), reservations=(other,), **kwargs) == ("margin_insufficient", "exchange")
    # A limit order in our queue: the exchange does not reserve its margin yet.
    unsent = reservation("0.1", is_resting=True)
    assert denial(entry(), reservations=(unsent,), **kwargs) == ("margin_insufficient", "exchange")
    for seen in (reservation("0.1", is_margined=True), replace(other, is_margined=True)):
        assert denial(entry(), reservations=(seen,), **kwargs) is None


def test_a_reversal_to_the_same_size_needs_no_new_margin() -> None:
    """The margin that the close frees is enough for the entry."""
    state = snapshot({BTC: "1"}, free_collateral=D(0))
    assert denial(exit_order("1"), entry("1", Side.SELL), state=state) is None
    assert denial(exit_order("1"), entry("1.1", Side.SELL), state=state) == ("margin_insufficient", "exchange")


def test_lower_leverage_needs_more_margin() -> None:
    """The requested leverage is the one that will be in force."""
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
def test_the_mark_must_not_be_much_worse_than_the_signal_price(
    side: Side, signal: str, bound: str | None, *, is_denied: bool
) -> None:
    """At most max_slippage (0.5 %) worse than the signal, or the alert's own bound if tighter; a better price passes."""
    limits = dataclasses.replace(NO_LIMITS, max_slippage=D("0.005"))
    intent = entry(side=side, signal_price=D(signal), slippage=None if bound is None else D(bound))
    assert denial(intent, limits=limits) == (("slippage_too_high", "webhook") if is_denied else None)


def test_unreadable_trading_hours_deny_entries() -> None:
    """An unreadable limit must not become no limit."""
    assert denial(entry(), limits=dataclasses.replace(NO_LIMITS, trading_hours="office hours")) == (
        "outside_trading_hours",
        "webhook",
    )


def test_verdicts_are_complete_and_in_a_fixed_order() -> None:
    """`explain` shows every rule, passed or not, with what was found and what the limit is."""
    limits = Limits(max_stop_distance=D("0.1"), max_slippage=D("0.01"))
    verdicts = check(entry(stop_loss=D(64_000), signal_price=D(65_000)), limits=limits, account=account_limits())
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


SHOWN_IF_THEY_APPLY = {"stop_loss_too_far", "slippage_too_high"}  # only to an order with a stop loss, or a signal price


def test_a_limit_that_is_not_set_is_not_checked() -> None:
    """Its verdict is the same for every order, so that nothing has to be computed for it; `explain` still lists it in both scopes."""
    plain = check(entry("0.1"), limits=NO_LIMITS, account=NO_LIMITS)
    other = check(entry("0.7", symbol=ETH, leverage=D(3)), limits=NO_LIMITS, account=NO_LIMITS, held={BTC: "2"})
    unset = [one for one in plain if one.found == NOT_CHECKED]
    assert unset == [one for one in other if one.found == NOT_CHECKED]
    assert {(one.rule, one.scope) for one in unset} == {
        (rule, scope) for rule in BREACHES for scope in ("webhook", "account")
    }
    assert all(one.passed and one.limit == ("not required" if "required" in one.rule else NO_LIMIT) for one in unset)
    levels = check(entry(stop_loss=D(1), signal_price=D(1)), limits=NO_LIMITS, account=NO_LIMITS)
    assert {one.rule for one in levels if one.found == NOT_CHECKED} == BREACHES.keys() | SHOWN_IF_THEY_APPLY


@pytest.mark.parametrize("code", BREACHES)
def test_a_limit_of_one_scope_is_checked_in_that_scope_only(code: str) -> None:
    """The scope with the limit has its verdict with the value found, the other one stays unchecked."""
    limit, _ = BREACHES[code]
    for scope in ("webhook", "account"):
        set_in: dict[str, Any] = {
            "limits" if scope == "webhook" else "account": dataclasses.replace(NO_LIMITS, **limit)
        }
        found = {one.scope: one.found for one in check(entry(), **set_in) if one.rule == code}
        assert found.pop(scope) != NOT_CHECKED
        assert set(found.values()) == {NOT_CHECKED}


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
def test_a_burst_of_orders_never_exceeds_a_limit(
    orders: list[tuple[str, Side, Decimal]], held: dict[str, str], size: Decimal, daily: Decimal, fills: list[bool]
) -> None:
    """Each order is judged with the earlier ones reserved: whichever of the admitted orders fill, no limit is exceeded."""
    limits = dataclasses.replace(NO_LIMITS, max_position_size=size, daily_limit=daily, daily_orders=6)
    usage = Usage(now=NOW)
    positions = {symbol: D(text) for symbol, text in held.items()}
    admitted: list[OrderIntent] = []
    reservations: list[Reservation] = []
    for symbol, side, quantity in orders:
        intent = entry(str(quantity), side, symbol)
        verdicts = rules.check_rules(
            intent, webhook=webhook(limits), policy=policy(limits), snapshot=snapshot(held), usage=usage
        )
        if rules.first_denial(verdicts) is None:
            admitted.append(intent)
            reservations.append(reservation(str(intent.signed_quantity), symbol))
            usage = replace(
                usage,
                commitments=commitments_of(*reservations),
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
    """For any size, data age and limit: reduce-only orders pass unless trading is halted."""
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
    verdicts = check(
        exit_order(str(quantity), leverage=D(100))
        if purpose is Purpose.EXIT
        else replace(exit_order(str(quantity)), purpose=purpose),
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
