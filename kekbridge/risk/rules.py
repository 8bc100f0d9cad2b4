"""The risk rules: each judges one order and returns verdicts with what it found and what the limit is.

Applied twice to each order: when its alert is admitted and right before it is sent. Pure functions. The tighter of webhook and account
wins, because both are checked and one denial is enough. Exits pass every limit; only `halt` stops them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, Decimal
from typing import Final

from msgspec.structs import replace

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
    AccountPolicy,
    RuleInput,
    allow,
    check_age,
    check_maximum,
    check_scopes,
    committed_with,
    deny,
    fix_for,
    is_exit,
)
from kekbridge.risk.drawdown import drawdown_of, losses_of_day
from kekbridge.risk.limits import limit_number, percent, times, usdc

Rule = Callable[[RuleInput], Sequence[Verdict]]


def check_rules(
    intent: OrderIntent,
    *,
    webhook: Webhook,
    policy: AccountPolicy,
    snapshot: AccountSnapshot,
    usage: Usage,
) -> tuple[Verdict, ...]:
    """Return every rule's verdict on an order, in a fixed order. `usage` must not include the order itself."""
    state = _trading_state(usage, intent)
    if is_exit(intent):
        return state, allow("exit", "account", f"reduce-only {intent.side}", "exits pass every limit")
    checked = RuleInput(
        intent=intent,
        snapshot=snapshot,
        usage=usage,
        policy=policy,
        scopes=(("webhook", webhook.settings.limits), ("account", policy.account_limits)),
        with_this=committed_with(usage, intent),
    )
    verdicts = [state]
    for rule in RULES:
        verdicts += rule(checked)
    return tuple(verdicts)


def first_denial(verdicts: tuple[Verdict, ...]) -> Verdict | None:
    """The first verdict that did not pass, or None; its rule is the code of the denial."""
    return next((verdict for verdict in verdicts if not verdict.passed), None)


def apply_leverage_policy(intent: OrderIntent, *, webhook: Webhook, account_limits: Limits) -> OrderIntent:
    """Lower the requested leverage to the tighter limit if the webhook's policy is `lower`; a whole number, at least 1.

    The effective leverage of the position is judged either way.
    """
    limits = webhook.settings.limits
    if intent.leverage is None or is_exit(intent) or limits.leverage_policy != "lower":
        return intent
    bounds = [bound for bound in (limits.max_leverage, account_limits.max_leverage) if bound is not None]
    if not bounds or intent.leverage <= min(bounds):
        return intent
    lowered = max(min(bounds).to_integral_value(rounding=ROUND_DOWN), Decimal(1))
    return replace(intent, leverage=lowered)


# ----------------------------------------------------------------------------------- trading state, freshness, symbols


def _trading_state(usage: Usage, intent: OrderIntent) -> Verdict:
    state = usage.trading_state
    if state is TradingState.RUNNING or (state is TradingState.EXITS_ONLY and is_exit(intent)):
        return allow("trading_halted", "account", state, "not halted")
    why = f" ({usage.trading_reason})" if usage.trading_reason else ""
    if state is TradingState.HALTED:
        return deny("trading_halted", "account", state, "running", f"trading is halted{why}; kekbridge resume")
    return deny("exits_only", "account", state, "running", f"only exits are allowed{why}; kekbridge resume")


def _snapshot_age(checked: RuleInput) -> Sequence[Verdict]:
    age = checked.usage.now - checked.snapshot.taken_at
    return (check_age("not_ready", age, checked.policy.max_snapshot_age_s, "the account was last updated"),)


def _mark_age(checked: RuleInput) -> Sequence[Verdict]:
    symbol, limit_s = checked.intent.symbol, checked.policy.max_mark_age_s
    mark = checked.snapshot.marks.get(symbol)
    if mark is None:
        text = f"no mark price of {symbol} is known; send again in a moment"
        return (deny("no_mark_price", "exchange", "none", f"at most {limit_s:g} s old", text),)
    return (
        check_age("no_mark_price", checked.usage.now - mark.at, limit_s, f"the mark price of {symbol} was observed"),
    )


def _allowed_symbols(checked: RuleInput) -> Sequence[Verdict]:
    symbol = checked.intent.symbol
    verdicts = []
    for scope, limits in checked.scopes:
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


# ----------------------------------------------------------------------------------------------- order and position size


def _order_size(checked: RuleInput) -> Sequence[Verdict]:
    found = checked.intent.quantity
    shown = limit_number(found)
    verdicts = []
    for scope, limits in checked.scopes:
        low, high = limits.min_order_size, limits.max_order_size
        if low is not None:
            verdicts.append(_at_least(checked, scope, found, low, shown))
        verdict = check_maximum(
            "order_too_large",
            scope,
            found,
            high,
            limit_number,
            lambda shown: f"the order of {shown} {checked.base}",
            "max_order_size",
            shown=shown,
        )
        verdicts.append(verdict)
    return verdicts


def _at_least(checked: RuleInput, scope: str, found: Decimal, low: Decimal, shown: str) -> Verdict:
    if found >= low:
        return allow("order_too_small", scope, shown, f"at least {limit_number(low)}")
    text = f"the order of {shown} {checked.base} is under the {scope}'s minimum of {limit_number(low)}; "
    text += fix_for(scope, "min_order_size", "raise the quantity, or lower")
    return deny("order_too_small", scope, shown, f"at least {limit_number(low)}", text)


def _position_size(checked: RuleInput) -> Sequence[Verdict]:
    return check_scopes(
        checked,
        "position_too_large",
        "max_position_size",
        exposure.range_in(checked.intent.symbol, checked.snapshot, checked.with_this).on(checked.intent.side),
        limit_number,
        lambda shown: f"with this order and the open ones the position could reach {shown} {checked.base}, which",
    )


def _notional(checked: RuleInput) -> Sequence[Verdict]:
    return check_scopes(
        checked,
        "notional_too_large",
        "max_notional",
        checked.intent.notional,
        usdc,
        lambda shown: f"the order's value of {shown}",
    )


# ----------------------------------------------------------------------------------------------------- limits of the day

_TOMORROW = "wait until 00:00 UTC"


def _daily_limit(checked: RuleInput) -> Sequence[Verdict]:
    notional = checked.intent.notional
    traded = (checked.usage.traded_today, checked.usage.account_traded_today)
    return [
        check_maximum(
            "daily_limit",
            scope,
            before + notional,
            limits.daily_limit,
            usdc,
            lambda shown: f"with this order {shown} would be traded today, which",
            "daily_limit",
            _TOMORROW,
        )
        for (scope, limits), before in zip(checked.scopes, traded, strict=True)
    ]


def _daily_orders(checked: RuleInput) -> Sequence[Verdict]:
    counted = (checked.usage.orders_today, checked.usage.account_orders_today)
    return [
        check_maximum(
            "daily_orders",
            scope,
            Decimal(before + 1),
            None if limits.daily_orders is None else Decimal(limits.daily_orders),
            limit_number,
            lambda shown: f"this would be order {shown} of the day, which",
            "daily_orders",
            _TOMORROW,
            shown=str(before + 1),
        )
        for (scope, limits), before in zip(checked.scopes, counted, strict=True)
    ]


def _daily_loss(checked: RuleInput) -> Sequence[Verdict]:
    losses = losses_of_day(checked.usage, checked.snapshot, *(limits for _, limits in checked.scopes))
    verdicts = []
    for (scope, limits), loss in zip(checked.scopes, losses, strict=True):
        limit, shown = limits.max_daily_loss, usdc(loss)
        if limit is None:
            verdicts.append(allow("daily_loss", scope, shown, NO_LIMIT))
        elif loss < limit:
            verdicts.append(allow("daily_loss", scope, shown, f"under {usdc(limit)}"))
        else:
            text = f"the day's loss of {shown} reached the {scope}'s limit of {usdc(limit)}; it resets at 00:00 UTC"
            verdicts.append(deny("daily_loss", scope, shown, f"under {usdc(limit)}", text))
    return verdicts


def _drawdown(checked: RuleInput) -> Sequence[Verdict]:
    peak, value = checked.usage.equity_peak, checked.snapshot.account_value
    fallen = drawdown_of(peak, value)
    shown = percent(fallen)
    verdicts = []
    for scope, limits in checked.scopes:
        limit = limits.max_drawdown
        if limit is None:
            verdicts.append(allow("drawdown", scope, shown, NO_LIMIT))
        elif fallen < limit:
            verdicts.append(allow("drawdown", scope, shown, f"under {percent(limit)}"))
        else:
            text = f"equity of {usdc(value)} is {shown} below its peak of {usdc(peak or ZERO)}, the {scope}'s limit is "
            text += f"{percent(limit)}; kekbridge resume --reset-peak"
            verdicts.append(deny("drawdown", scope, shown, f"under {percent(limit)}", text))
    return verdicts


# ------------------------------------------------------------------------------------------------------- account exposure


def _leverage(checked: RuleInput) -> Sequence[Verdict]:
    requested, value = checked.intent.leverage, checked.snapshot.account_value
    gross = exposure.gross_notional(checked.snapshot, checked.with_this)
    effective = gross / value if value > 0 else ZERO
    shown = times(effective)
    verdicts = []
    for scope, limits in checked.scopes:
        limit = limits.max_leverage
        if requested is not None:
            verdict = check_maximum(
                "leverage_too_high",
                scope,
                requested,
                limit,
                times,
                lambda shown: f"the requested leverage of {shown}",
                "max_leverage",
                "request less",
            )
            verdicts.append(verdict)
        if limit is not None and value <= 0:
            text = f"the account is worth {usdc(value)}, no position can be opened; deposit first"
            verdicts.append(deny("leverage_too_high", scope, usdc(value), times(limit), text))
            continue
        verdict = check_maximum(
            "leverage_too_high",
            scope,
            effective,
            limit,
            times,
            lambda shown: (
                f"with this order the total exposure would be {usdc(gross)}, {shown} the account value, which"
            ),
            "max_leverage",
            shown=shown,
        )
        verdicts.append(verdict)
    if requested is not None:
        verdicts += _leverage_of_market(checked, requested)
    return verdicts


def _leverage_of_market(checked: RuleInput, requested: Decimal) -> Sequence[Verdict]:
    """Orderly: the leverage of a symbol is at most 1 / base_imr, docs/internals/orderly.md section 9."""
    instrument = checked.snapshot.instruments.get(checked.intent.symbol)
    if instrument is None or instrument.base_imr <= 0:
        return ()
    limit = (1 / instrument.base_imr).to_integral_value(rounding=ROUND_DOWN)
    found, bound, symbol = times(requested), times(limit), instrument.symbol
    if requested <= limit:
        return (allow("leverage_too_high", "exchange", found, bound),)
    text = f"the requested leverage of {found} is over the exchange's {bound} in {symbol}; lower it"
    return (deny("leverage_too_high", "exchange", found, bound, text),)


def _open_positions(checked: RuleInput) -> Sequence[Verdict]:
    """Pass an entry in a symbol that is open already: it adds no position."""
    held = exposure.open_symbols(checked.snapshot, checked.usage.commitments)
    is_new = checked.intent.symbol not in held
    found = len(held) + 1 if is_new else len(held)
    shown = str(found)
    verdicts = []
    for scope, limits in checked.scopes:
        limit = limits.max_open_positions
        if limit is None or not is_new:
            bound = NO_LIMIT if limit is None else f"at most {limit}"
            verdicts.append(allow("too_many_positions", scope, shown, bound))
            continue
        verdict = check_maximum(
            "too_many_positions",
            scope,
            Decimal(found),
            Decimal(limit),
            limit_number,
            lambda shown: f"this would be open position {shown}, which",
            "max_open_positions",
            "close one first",
            shown=shown,
        )
        verdicts.append(verdict)
    return verdicts


def _free_margin(checked: RuleInput) -> Sequence[Verdict]:
    intent, snapshot, commitments = checked.intent, checked.snapshot, checked.usage.commitments
    available = snapshot.free_collateral - exposure.margin_promised(intent.symbol, snapshot, commitments)
    before, after = commitments.get(intent.symbol, UNCOMMITTED), checked.with_this[intent.symbol]
    needed = exposure.margin_needed(intent, snapshot, before, after)
    found, left = usdc(needed), usdc(available)
    if needed <= 0 or needed <= available:
        return (allow("margin_insufficient", "exchange", found, f"at most {left}"),)
    text = f"the order needs {found} for margin and fees, the free collateral is {left}; lower the quantity, or deposit"
    return (deny("margin_insufficient", "exchange", found, f"at most {left}", text),)


# The rules for entries, in the order in which `explain` shows them; the first denial is the one in the response.
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
    entry_rules.check_stop_loss,
    entry_rules.check_stop_distance,
    _free_margin,
    entry_rules.check_slippage,
    entry_rules.check_cooldown,
    entry_rules.check_trading_hours,
)
