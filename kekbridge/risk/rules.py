"""Whether an order may be sent: every rule looks at one order and says what it found, what the limit is, and yes or no.

Asked twice for each order: when its alert is admitted and right before it leaves. Pure functions; the tighter of webhook and account wins
because both are asked and one no is enough. Exits pass every limit; only `halt` stops them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from decimal import ROUND_DOWN, Decimal
from typing import Final

from kekbridge.model import (
    UNCOMMITTED,
    ZERO,
    AccountSnapshot,
    Limits,
    OrderIntent,
    TradingState,
    Usage,
    Verdict,
    Webhook,
)
from kekbridge.risk import exposure, terms
from kekbridge.risk.case import (
    NO_LIMIT,
    Case,
    allow,
    at_most,
    committed_with,
    deny,
    fix_for,
    fresh,
    is_exit,
    verdict,
    with_order,
)
from kekbridge.risk.equity import drawdown_of, loss_of_day
from kekbridge.risk.limits import number, percent, times, usdc

Rule = Callable[[Case], Iterator[Verdict]]


def judge(
    intents: tuple[OrderIntent, ...],
    *,
    webhook: Webhook,
    account_limits: Limits,
    snapshot: AccountSnapshot,
    usage: Usage,
    now: datetime,
    max_snapshot_age_s: float,
    max_mark_age_s: float,
) -> tuple[Verdict, ...]:
    """Every rule's verdict on every order, in a fixed order; of several orders each is judged as if those before it were sent.

    `usage` leaves them all out, also an order that is looked at once more before it leaves.
    """
    verdicts: list[Verdict] = []
    for index, intent in enumerate(intents):
        if index:
            usage = with_order(usage, intents[index - 1])
        verdicts.append(_trading_state(usage, intent))
        if is_exit(intent):
            verdicts.append(allow("exit", "account", f"reduce-only {intent.side}", "exits pass every limit"))
            continue
        case = Case(
            intent=intent,
            snapshot=snapshot,
            usage=usage,
            now=now,
            max_snapshot_age_s=max_snapshot_age_s,
            max_mark_age_s=max_mark_age_s,
            scopes=(("webhook", webhook.settings.limits), ("account", account_limits)),
            with_this=committed_with(usage, intent),
        )
        for rule in RULES:
            verdicts.extend(rule(case))
    return tuple(verdicts)


def first_denial(verdicts: tuple[Verdict, ...]) -> Verdict | None:
    """The first no, whose rule is the code of the denial; None when all said yes."""
    return next((verdict for verdict in verdicts if not verdict.passed), None)


def apply_leverage_policy(intent: OrderIntent, *, webhook: Webhook, account_limits: Limits) -> OrderIntent:
    """The order with its leverage lowered to the tighter limit, when the webhook's policy is `lower`; whole numbers, at least 1.

    Only the requested leverage can be lowered; what the position itself amounts to is judged either way.
    """
    limits = webhook.settings.limits
    if intent.leverage is None or is_exit(intent) or limits.leverage_policy != "lower":
        return intent
    bounds = [bound for bound in (limits.max_leverage, account_limits.max_leverage) if bound is not None]
    if not bounds or intent.leverage <= min(bounds):
        return intent
    lowered = max(min(bounds).to_integral_value(rounding=ROUND_DOWN), Decimal(1))
    return replace(intent, leverage=lowered)


# ------------------------------------------------------------------------------------------------------ may it trade at all


def _trading_state(usage: Usage, intent: OrderIntent) -> Verdict:
    state = usage.trading_state
    if state is TradingState.RUNNING or (state is TradingState.EXITS_ONLY and is_exit(intent)):
        return allow("trading_halted", "account", state, "not halted")
    why = f" ({usage.trading_reason})" if usage.trading_reason else ""
    if state is TradingState.HALTED:
        return deny("trading_halted", "account", state, "running", f"trading is halted{why}; kekbridge resume")
    return deny("exits_only", "account", state, "running", f"only exits are allowed now{why}; kekbridge resume")


def _snapshot_age(case: Case) -> Iterator[Verdict]:
    yield fresh(
        "not_ready",
        case.now - case.snapshot.taken_at,
        case.max_snapshot_age_s,
        "the account was last heard of",
    )


def _mark_age(case: Case) -> Iterator[Verdict]:
    mark = case.snapshot.marks.get(case.intent.symbol)
    if mark is None:
        text = f"no mark price of {case.intent.symbol} is known; send again in a moment"
        yield deny("no_mark_price", "exchange", "none", f"at most {case.max_mark_age_s:g} s old", text)
        return
    yield fresh(
        "no_mark_price", case.now - mark.at, case.max_mark_age_s, f"the mark price of {case.intent.symbol} was observed"
    )


def _allowed_symbols(case: Case) -> Iterator[Verdict]:
    symbol = case.intent.symbol
    for scope, limits in case.scopes:
        allowed = limits.allowed_symbols
        if allowed is None:
            yield allow("symbol_not_allowed", scope, symbol, NO_LIMIT)
            continue
        names = ", ".join(allowed) or "none"
        if exposure.names_symbol(allowed, symbol):
            yield allow("symbol_not_allowed", scope, symbol, names)
            continue
        text = f"{symbol} is not among the {scope}'s allowed symbols ({names}); {fix_for(scope, 'allowed_symbols', 'add it to')}"
        yield deny("symbol_not_allowed", scope, symbol, names, text)


# ---------------------------------------------------------------------------------------------------------- how much at once


def _order_size(case: Case) -> Iterator[Verdict]:
    found = case.intent.quantity
    shown = number(found)
    for scope, limits in case.scopes:
        low, high = limits.min_order_size, limits.max_order_size
        if low is not None and found >= low:
            yield allow("order_too_small", scope, shown, f"at least {number(low)}")
        elif low is not None:
            text = f"the order of {shown} {case.base} is under the {scope}'s smallest of {number(low)}; "
            text += fix_for(scope, "min_order_size", "raise the quantity, or lower")
            yield deny("order_too_small", scope, shown, f"at least {number(low)}", text)
        yield at_most(
            "order_too_large",
            scope,
            found,
            high,
            number,
            lambda shown: f"the order of {shown} {case.base}",
            "max_order_size",
            shown=shown,
        )


def _position_size(case: Case) -> Iterator[Verdict]:
    found = exposure.reach_in(case.intent.symbol, case.snapshot, case.with_this).on(case.intent.side)
    shown = number(found)
    for scope, limits in case.scopes:
        yield at_most(
            "position_too_large",
            scope,
            found,
            limits.max_position_size,
            number,
            lambda shown: f"with this order and those on their way the position could be {shown} {case.base}, that",
            "max_position_size",
            shown=shown,
        )


def _notional(case: Case) -> Iterator[Verdict]:
    found = case.intent.notional
    shown = usdc(found)
    for scope, limits in case.scopes:
        yield at_most(
            "notional_too_large",
            scope,
            found,
            limits.max_notional,
            usdc,
            lambda shown: f"the order's value of {shown}",
            "max_notional",
            shown=shown,
        )


# ------------------------------------------------------------------------------------------------------------ how much a day

_TOMORROW = "wait until 00:00 UTC"


def _daily_limit(case: Case) -> Iterator[Verdict]:
    traded = (case.usage.traded_today, case.usage.account_traded_today)
    for (scope, limits), before in zip(case.scopes, traded, strict=True):
        yield at_most(
            "daily_limit",
            scope,
            before + case.intent.notional,
            limits.daily_limit,
            usdc,
            lambda shown: f"with this order {shown} would be traded today, that",
            "daily_limit",
            _TOMORROW,
        )


def _daily_orders(case: Case) -> Iterator[Verdict]:
    counted = (case.usage.orders_today, case.usage.account_orders_today)
    for (scope, limits), before in zip(case.scopes, counted, strict=True):
        yield at_most(
            "daily_orders",
            scope,
            Decimal(before + 1),
            None if limits.daily_orders is None else Decimal(limits.daily_orders),
            number,
            lambda shown: f"this would be order {shown} of the day, that",
            "daily_orders",
            _TOMORROW,
            shown=str(before + 1),
        )


def _daily_loss(case: Case) -> Iterator[Verdict]:
    for scope, limits in case.scopes:
        loss = loss_of_day(case.usage, case.snapshot, limits, scope)
        limit, shown = limits.max_daily_loss, usdc(loss)
        if limit is None:
            yield allow("daily_loss", scope, shown, NO_LIMIT)
        elif loss < limit:
            yield allow("daily_loss", scope, shown, f"under {usdc(limit)}")
        else:
            text = f"the day's loss of {shown} reached the {scope}'s cut-off of {usdc(limit)}; it resets at 00:00 UTC"
            yield deny("daily_loss", scope, shown, f"under {usdc(limit)}", text)


def _drawdown(case: Case) -> Iterator[Verdict]:
    peak, value = case.usage.equity_peak, case.snapshot.account_value
    fallen = drawdown_of(peak, value)
    shown = percent(fallen)
    for scope, limits in case.scopes:
        limit = limits.max_drawdown
        if limit is None:
            yield allow("drawdown", scope, shown, NO_LIMIT)
        elif fallen < limit:
            yield allow("drawdown", scope, shown, f"under {percent(limit)}")
        else:
            text = f"equity of {usdc(value)} is {shown} under its peak of {usdc(peak or ZERO)}, the {scope}'s limit is "
            text += f"{percent(limit)}; kekbridge resume --reset-peak"
            yield deny("drawdown", scope, shown, f"under {percent(limit)}", text)


# ------------------------------------------------------------------------------------------------------ how much in all


def _leverage(case: Case) -> Iterator[Verdict]:
    requested, value = case.intent.leverage, case.snapshot.account_value
    gross = exposure.gross_notional(case.snapshot, case.with_this)
    effective = gross / value if value > 0 else ZERO
    shown = times(effective)
    for scope, limits in case.scopes:
        limit = limits.max_leverage
        if requested is not None:
            yield at_most(
                "leverage_too_high",
                scope,
                requested,
                limit,
                times,
                lambda shown: f"the requested leverage of {shown}",
                "max_leverage",
                "ask for less",
            )
        if limit is not None and value <= 0:
            text = f"the account is worth {usdc(value)}: nothing can be opened on it; deposit first"
            yield deny("leverage_too_high", scope, usdc(value), times(limit), text)
            continue
        yield at_most(
            "leverage_too_high",
            scope,
            effective,
            limit,
            times,
            lambda shown: f"with this order everything open would be worth {usdc(gross)}, {shown} the account, that",
            "max_leverage",
            shown=shown,
        )
    if requested is not None:
        yield from _leverage_of_market(case, requested)


def _leverage_of_market(case: Case, requested: Decimal) -> Iterator[Verdict]:
    """Orderly: the leverage of a symbol is at most 1 / base_imr, orderly-api.md section 9."""
    instrument = case.snapshot.instruments.get(case.intent.symbol)
    if instrument is None or instrument.base_imr <= 0:
        return
    limit = (1 / instrument.base_imr).to_integral_value(rounding=ROUND_DOWN)
    found, bound, symbol = times(requested), times(limit), instrument.symbol
    yield verdict(
        "leverage_too_high",
        "exchange",
        requested <= limit,
        found,
        bound,
        lambda: f"the requested leverage of {found} is over the exchange's {bound} in {symbol}; lower it",
    )


def _open_positions(case: Case) -> Iterator[Verdict]:
    """Adding to a symbol that is open already passes: it opens nothing new."""
    held = exposure.open_symbols(case.snapshot, case.usage.commitments)
    is_new = case.intent.symbol not in held
    found = len(held) + 1 if is_new else len(held)
    for scope, limits in case.scopes:
        limit = limits.max_open_positions
        if limit is None or not is_new:
            yield allow("too_many_positions", scope, str(found), NO_LIMIT if limit is None else f"at most {limit}")
            continue
        yield at_most(
            "too_many_positions",
            scope,
            Decimal(found),
            Decimal(limit),
            number,
            lambda shown: f"this would be open position {shown}, that",
            "max_open_positions",
            "close one first",
            shown=str(found),
        )


def _free_margin(case: Case) -> Iterator[Verdict]:
    intent, snapshot, commitments = case.intent, case.snapshot, case.usage.commitments
    available = snapshot.free_collateral - exposure.margin_promised(intent.symbol, snapshot, commitments)
    before, after = commitments.get(intent.symbol, UNCOMMITTED), case.with_this[intent.symbol]
    needed = exposure.margin_needed(intent, snapshot, before, after)
    found, left = usdc(needed), usdc(available)
    yield verdict(
        "margin_insufficient",
        "exchange",
        needed <= 0 or needed <= available,
        found,
        f"at most {left}",
        lambda: (
            f"the order needs {found} of margin and fees, {left} of free collateral is left; lower the quantity, or deposit"
        ),
    )


RULES: Final[tuple[Rule, ...]] = (
    _snapshot_age,
    _mark_age,
    _allowed_symbols,
    _order_size,
    _position_size,
    _notional,
    _daily_limit,
    _daily_orders,
    _daily_loss,
    _drawdown,
    _leverage,
    _open_positions,
    terms.stop_loss,
    terms.stop_distance,
    _free_margin,
    terms.slippage,
    terms.cooldown,
    terms.trading_hours,
)
"""The rules for entries, in the order in which `explain` shows them; the first no is the answer the sender gets."""
