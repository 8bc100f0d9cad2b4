"""Whether an order may be sent: every rule looks at one order and says what it found, what the limit is, and yes or no.

Asked twice for each order: when its alert is admitted and right before it leaves. Pure functions; the tighter of webhook and account wins
because both are asked and one no is enough. Exits pass every limit; only `halt` stops them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from kekbridge.risk import entry_rules, exposure
from kekbridge.risk.check import (
    NO_LIMIT,
    RuleInput,
    allow,
    at_most,
    committed_with,
    deny,
    fix_for,
    fresh,
    is_exit,
    with_order,
    within,
)
from kekbridge.risk.drawdown import drawdown_of, losses_of_day
from kekbridge.risk.limits import limit_number, percent, times, usdc

Rule = Callable[[RuleInput], Sequence[Verdict]]


def check_rules(
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
        case = RuleInput(
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
            verdicts += rule(case)
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


def _snapshot_age(case: RuleInput) -> Sequence[Verdict]:
    age = case.now - case.snapshot.taken_at
    return (fresh("not_ready", age, case.max_snapshot_age_s, "the account was last heard of"),)


def _mark_age(case: RuleInput) -> Sequence[Verdict]:
    symbol, limit_s = case.intent.symbol, case.max_mark_age_s
    mark = case.snapshot.marks.get(symbol)
    if mark is None:
        text = f"no mark price of {symbol} is known; send again in a moment"
        return (deny("no_mark_price", "exchange", "none", f"at most {limit_s:g} s old", text),)
    return (fresh("no_mark_price", case.now - mark.at, limit_s, f"the mark price of {symbol} was observed"),)


def _allowed_symbols(case: RuleInput) -> Sequence[Verdict]:
    symbol = case.intent.symbol
    verdicts = []
    for scope, limits in case.scopes:
        allowed = limits.allowed_symbols
        if allowed is None:
            verdicts.append(allow("symbol_not_allowed", scope, symbol, NO_LIMIT))
            continue
        names = ", ".join(allowed) or "none"
        if exposure.names_symbol(allowed, symbol):
            verdicts.append(allow("symbol_not_allowed", scope, symbol, names))
            continue
        text = f"{symbol} is not among the {scope}'s allowed symbols ({names}); {fix_for(scope, 'allowed_symbols', 'add it to')}"
        verdicts.append(deny("symbol_not_allowed", scope, symbol, names, text))
    return verdicts


# ---------------------------------------------------------------------------------------------------------- how much at once


def _order_size(case: RuleInput) -> Sequence[Verdict]:
    found = case.intent.quantity
    shown = limit_number(found)
    verdicts = []
    for scope, limits in case.scopes:
        low, high = limits.min_order_size, limits.max_order_size
        if low is not None:
            verdicts.append(_at_least(case, scope, found, low, shown))
        told = at_most(
            "order_too_large",
            scope,
            found,
            high,
            limit_number,
            lambda shown: f"the order of {shown} {case.base}",
            "max_order_size",
            shown=shown,
        )
        verdicts.append(told)
    return verdicts


def _at_least(case: RuleInput, scope: str, found: Decimal, low: Decimal, shown: str) -> Verdict:
    if found >= low:
        return allow("order_too_small", scope, shown, f"at least {limit_number(low)}")
    text = f"the order of {shown} {case.base} is under the {scope}'s smallest of {limit_number(low)}; "
    text += fix_for(scope, "min_order_size", "raise the quantity, or lower")
    return deny("order_too_small", scope, shown, f"at least {limit_number(low)}", text)


def _position_size(case: RuleInput) -> Sequence[Verdict]:
    return within(
        case,
        "position_too_large",
        "max_position_size",
        exposure.range_in(case.intent.symbol, case.snapshot, case.with_this).on(case.intent.side),
        limit_number,
        lambda shown: f"with this order and those on their way the position could be {shown} {case.base}, that",
    )


def _notional(case: RuleInput) -> Sequence[Verdict]:
    return within(
        case,
        "notional_too_large",
        "max_notional",
        case.intent.notional,
        usdc,
        lambda shown: f"the order's value of {shown}",
    )


# ------------------------------------------------------------------------------------------------------------ how much a day

_TOMORROW = "wait until 00:00 UTC"


def _daily_limit(case: RuleInput) -> Sequence[Verdict]:
    notional = case.intent.notional
    traded = (case.usage.traded_today, case.usage.account_traded_today)
    return [
        at_most(
            "daily_limit",
            scope,
            before + notional,
            limits.daily_limit,
            usdc,
            lambda shown: f"with this order {shown} would be traded today, that",
            "daily_limit",
            _TOMORROW,
        )
        for (scope, limits), before in zip(case.scopes, traded, strict=True)
    ]


def _daily_orders(case: RuleInput) -> Sequence[Verdict]:
    counted = (case.usage.orders_today, case.usage.account_orders_today)
    return [
        at_most(
            "daily_orders",
            scope,
            Decimal(before + 1),
            None if limits.daily_orders is None else Decimal(limits.daily_orders),
            limit_number,
            lambda shown: f"this would be order {shown} of the day, that",
            "daily_orders",
            _TOMORROW,
            shown=str(before + 1),
        )
        for (scope, limits), before in zip(case.scopes, counted, strict=True)
    ]


def _daily_loss(case: RuleInput) -> Sequence[Verdict]:
    losses = losses_of_day(case.usage, case.snapshot, *(limits for _, limits in case.scopes))
    verdicts = []
    for (scope, limits), loss in zip(case.scopes, losses, strict=True):
        limit, shown = limits.max_daily_loss, usdc(loss)
        if limit is None:
            verdicts.append(allow("daily_loss", scope, shown, NO_LIMIT))
        elif loss < limit:
            verdicts.append(allow("daily_loss", scope, shown, f"under {usdc(limit)}"))
        else:
            text = f"the day's loss of {shown} reached the {scope}'s cut-off of {usdc(limit)}; it resets at 00:00 UTC"
            verdicts.append(deny("daily_loss", scope, shown, f"under {usdc(limit)}", text))
    return verdicts


def _drawdown(case: RuleInput) -> Sequence[Verdict]:
    peak, value = case.usage.equity_peak, case.snapshot.account_value
    fallen = drawdown_of(peak, value)
    shown = percent(fallen)
    verdicts = []
    for scope, limits in case.scopes:
        limit = limits.max_drawdown
        if limit is None:
            verdicts.append(allow("drawdown", scope, shown, NO_LIMIT))
        elif fallen < limit:
            verdicts.append(allow("drawdown", scope, shown, f"under {percent(limit)}"))
        else:
            text = f"equity of {usdc(value)} is {shown} under its peak of {usdc(peak or ZERO)}, the {scope}'s limit is "
            text += f"{percent(limit)}; kekbridge resume --reset-peak"
            verdicts.append(deny("drawdown", scope, shown, f"under {percent(limit)}", text))
    return verdicts


# ------------------------------------------------------------------------------------------------------ how much in all


def _leverage(case: RuleInput) -> Sequence[Verdict]:
    requested, value = case.intent.leverage, case.snapshot.account_value
    gross = exposure.gross_notional(case.snapshot, case.with_this)
    effective = gross / value if value > 0 else ZERO
    shown = times(effective)
    verdicts = []
    for scope, limits in case.scopes:
        limit = limits.max_leverage
        if requested is not None:
            asked = at_most(
                "leverage_too_high",
                scope,
                requested,
                limit,
                times,
                lambda shown: f"the requested leverage of {shown}",
                "max_leverage",
                "ask for less",
            )
            verdicts.append(asked)
        if limit is not None and value <= 0:
            text = f"the account is worth {usdc(value)}: nothing can be opened on it; deposit first"
            verdicts.append(deny("leverage_too_high", scope, usdc(value), times(limit), text))
            continue
        told = at_most(
            "leverage_too_high",
            scope,
            effective,
            limit,
            times,
            lambda shown: f"with this order everything open would be worth {usdc(gross)}, {shown} the account, that",
            "max_leverage",
            shown=shown,
        )
        verdicts.append(told)
    if requested is not None:
        verdicts += _leverage_of_market(case, requested)
    return verdicts


def _leverage_of_market(case: RuleInput, requested: Decimal) -> Sequence[Verdict]:
    """Orderly: the leverage of a symbol is at most 1 / base_imr, docs/internals/orderly.md section 9."""
    instrument = case.snapshot.instruments.get(case.intent.symbol)
    if instrument is None or instrument.base_imr <= 0:
        return ()
    limit = (1 / instrument.base_imr).to_integral_value(rounding=ROUND_DOWN)
    found, bound, symbol = times(requested), times(limit), instrument.symbol
    if requested <= limit:
        return (allow("leverage_too_high", "exchange", found, bound),)
    text = f"the requested leverage of {found} is over the exchange's {bound} in {symbol}; lower it"
    return (deny("leverage_too_high", "exchange", found, bound, text),)


def _open_positions(case: RuleInput) -> Sequence[Verdict]:
    """Adding to a symbol that is open already passes: it opens nothing new."""
    held = exposure.open_symbols(case.snapshot, case.usage.commitments)
    is_new = case.intent.symbol not in held
    found = len(held) + 1 if is_new else len(held)
    shown = str(found)
    verdicts = []
    for scope, limits in case.scopes:
        limit = limits.max_open_positions
        if limit is None or not is_new:
            bound = NO_LIMIT if limit is None else f"at most {limit}"
            verdicts.append(allow("too_many_positions", scope, shown, bound))
            continue
        told = at_most(
            "too_many_positions",
            scope,
            Decimal(found),
            Decimal(limit),
            limit_number,
            lambda shown: f"this would be open position {shown}, that",
            "max_open_positions",
            "close one first",
            shown=shown,
        )
        verdicts.append(told)
    return verdicts


def _free_margin(case: RuleInput) -> Sequence[Verdict]:
    intent, snapshot, commitments = case.intent, case.snapshot, case.usage.commitments
    available = snapshot.free_collateral - exposure.margin_promised(intent.symbol, snapshot, commitments)
    before, after = commitments.get(intent.symbol, UNCOMMITTED), case.with_this[intent.symbol]
    needed = exposure.margin_needed(intent, snapshot, before, after)
    found, left = usdc(needed), usdc(available)
    if needed <= 0 or needed <= available:
        return (allow("margin_insufficient", "exchange", found, f"at most {left}"),)
    text = (
        f"the order needs {found} of margin and fees, {left} of free collateral is left; lower the quantity, or deposit"
    )
    return (deny("margin_insufficient", "exchange", found, f"at most {left}", text),)


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
    entry_rules.stop_loss,
    entry_rules.stop_distance,
    _free_margin,
    entry_rules.slippage,
    entry_rules.cooldown,
    entry_rules.trading_hours,
)
"""The rules for entries, in the order in which `explain` shows them; the first no is the answer the sender gets."""
