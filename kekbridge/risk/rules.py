"""The risk rules: each judges one order and returns verdicts with what it found and what the limit is.

Applied twice to each order: when its alert is admitted and right before it is sent. Pure functions. The tighter of webhook and account
wins, because both are checked and one denial is enough. Exits pass every limit; only `halt` stops them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, Decimal
from functools import lru_cache, partial
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from kekbridge.model import (
    ZERO,
    AccountSnapshot,
    LimitBreach,
    Limits,
    MarginMode,
    OrderIntent,
    TradingState,
    Usage,
    Verdict,
    Webhook,
)
from kekbridge.risk import entry_rules, exposure
from kekbridge.risk.account_exposure import AccountExposure
from kekbridge.risk.check import (
    NO_LIMIT,
    AccountPolicy,
    Bounds,
    RuleInput,
    allow,
    check_age,
    check_maxima,
    deny,
    fix_for,
    is_exit,
    no_limit,
)
from kekbridge.risk.drawdown import breach_of, drawdown_of, loss_of_day
from kekbridge.risk.limits import limit_number, percent, times, usdc

_T = TypeVar("_T")
_Check = Callable[[RuleInput], Sequence[Verdict]]


class LimitRule(Struct, Generic[_T], frozen=True):
    """A rule whose limit is a setting. Nothing is computed for a scope in which it is not set: that verdict is constant."""

    #: Code of the verdict on a limit that is not set.
    code: str
    #: The limit in the settings of a scope; None: not set.
    limit_of: Callable[[Limits], _T | None]
    #: The verdicts of the scopes in which it is set.
    check: Callable[[Bounds[_T], RuleInput], Sequence[Verdict]]
    #: Text of a limit that is not set.
    not_set: str = NO_LIMIT


def check_rules(
    intent: OrderIntent,
    *,
    webhook: Webhook,
    policy: AccountPolicy,
    snapshot: AccountSnapshot,
    usage: Usage,
    sums: AccountExposure | None = None,
) -> tuple[Verdict, ...]:
    """Return every rule's verdict on an order, in a fixed order. `usage` must not include the order itself.

    `sums`: the account's running sums, so that only what changed since their last use is computed; None: from scratch.
    """
    state = _trading_state(usage, intent, webhook)
    if is_exit(intent):
        return state, allow("exit", "account", f"reduce-only {intent.side}", "exits pass every limit")
    limits, account_limits = webhook.settings.limits, policy.account_limits
    sums = AccountExposure() if sums is None else sums
    before = usage.commitment(intent.symbol)
    after = exposure.committed(before, intent)
    checked = RuleInput(
        intent=intent,
        snapshot=snapshot,
        usage=usage,
        policy=policy,
        scopes=(("webhook", limits), ("account", account_limits)),
        before=before,
        after=after,
        range=exposure.range_of(snapshot.position_quantity(intent.symbol), after.open),
        sums=sums,
        others=sums.total(snapshot, usage, excluding=intent.symbol),
    )
    verdicts = [state]
    for check, constant in _applicable_rules(limits, account_limits):
        verdicts += check(checked)
        verdicts += constant
    return tuple(verdicts)


def loss_breaches(
    intent: OrderIntent,
    *,
    webhook: Webhook,
    policy: AccountPolicy,
    snapshot: AccountSnapshot,
    usage: Usage,
    sums: AccountExposure | None = None,
) -> tuple[LimitBreach, ...]:
    """The limits of the daily loss and the drawdown that close a scope for an entry that rests at the exchange.

    None while account or mark are not known well enough to say. Arguments as for `check_rules`.
    """
    limits = (webhook.settings.limits, policy.account_limits)
    if all(each.max_daily_loss is None and each.max_drawdown is None for each in limits):
        return ()
    found = check_rules(intent, webhook=webhook, policy=policy, snapshot=snapshot, usage=usage, sums=sums)
    denials = [verdict for verdict in found if not verdict.passed]
    if any(denial.rule in ("not_ready", "no_mark_price") for denial in denials):
        return ()
    breaches = (
        breach_of(denial, notional=intent.notional, limits=limits[denial.scope == "account"], now=usage.now)
        for denial in denials
        if denial.rule in ("daily_loss", "drawdown")
    )
    return tuple(breach for breach in breaches if breach is not None)


@lru_cache(maxsize=256)
def _applicable_rules(webhook: Limits, account: Limits) -> tuple[tuple[_Check, tuple[Verdict, ...]], ...]:
    """The rules to check under these limits, each with the constant verdicts that follow it: on the limits that are not set."""
    checks: list[_Check] = []
    constants: list[list[Verdict]] = []
    for rule in RULES:
        if not isinstance(rule, LimitRule):
            checks.append(rule)
            constants.append([])
            continue
        limits = [("webhook", rule.limit_of(webhook)), ("account", rule.limit_of(account))]
        if bounds := [(scope, limit) for scope, limit in limits if limit is not None]:
            checks.append(partial(rule.check, bounds))
            constants.append([])
        constants[-1] += [no_limit(rule.code, scope, rule.not_set) for scope, limit in limits if limit is None]
    return tuple(zip(checks, map(tuple, constants), strict=True))


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


def _trading_state(usage: Usage, intent: OrderIntent, webhook: Webhook) -> Verdict:
    state = usage.trading_state
    if state is TradingState.RUNNING or (state is TradingState.EXITS_ONLY and is_exit(intent)):
        return allow("trading_halted", "account", state, "not halted")
    why = f" ({usage.trading_reason})" if usage.trading_reason else ""
    fix = "kekbridge resume" if usage.trading_scope == "account" else f"kekbridge resume --webhook {webhook.name}"
    if state is TradingState.HALTED:
        return deny("trading_halted", usage.trading_scope, state, "running", f"trading is halted{why}; {fix}")
    return deny("exits_only", usage.trading_scope, state, "running", f"only exits are allowed{why}; {fix}")


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


def _allowed_symbols(bounds: Bounds[tuple[str, ...]], checked: RuleInput) -> Sequence[Verdict]:
    symbol = checked.intent.symbol
    verdicts = []
    for scope, allowed in bounds:
        names = ", ".join(allowed) or "none"
        if exposure.names_symbol(allowed, symbol):
            verdicts.append(allow("symbol_not_allowed", scope, symbol, names))
            continue
        text = f"{symbol} is not among the {scope}'s allowed symbols ({names}); {fix_for(scope, 'allowed_symbols', 'add it to')}"
        verdicts.append(deny("symbol_not_allowed", scope, symbol, names, text))
    return verdicts


# ----------------------------------------------------------------------------------------------- order and position size


def _smallest_order(bounds: Bounds[Decimal], checked: RuleInput) -> Sequence[Verdict]:
    found = checked.intent.quantity
    shown = limit_number(found)
    verdicts = []
    for scope, low in bounds:
        if found >= low:
            verdicts.append(allow("order_too_small", scope, shown, f"at least {limit_number(low)}"))
            continue
        text = f"the order of {shown} {checked.base} is under the {scope}'s minimum of {limit_number(low)}; "
        text += fix_for(scope, "min_order_size", "raise the quantity, or lower")
        verdicts.append(deny("order_too_small", scope, shown, f"at least {limit_number(low)}", text))
    return verdicts


def _largest_order(bounds: Bounds[Decimal], checked: RuleInput) -> Sequence[Verdict]:
    return check_maxima(
        bounds,
        "order_too_large",
        "max_order_size",
        checked.intent.quantity,
        limit_number,
        lambda shown: f"the order of {shown} {checked.base}",
    )


def _position_size(bounds: Bounds[Decimal], checked: RuleInput) -> Sequence[Verdict]:
    return check_maxima(
        bounds,
        "position_too_large",
        "max_position_size",
        checked.range.on(checked.intent.side),
        limit_number,
        lambda shown: f"with this order and the open ones the position could reach {shown} {checked.base}, which",
    )


def _notional(bounds: Bounds[Decimal], checked: RuleInput) -> Sequence[Verdict]:
    return check_maxima(
        bounds,
        "notional_too_large",
        "max_notional",
        checked.intent.notional,
        usdc,
        lambda shown: f"the order's value of {shown}",
    )


# ----------------------------------------------------------------------------------------------------- limits of the day

_TOMORROW = "wait until 00:00 UTC"


def _daily_limit(bounds: Bounds[Decimal], checked: RuleInput) -> Sequence[Verdict]:
    usage, verdicts = checked.usage, []
    for scope, limit in bounds:
        before = usage.account_traded_today if scope == "account" else usage.traded_today
        verdicts += check_maxima(
            [(scope, limit)],
            "daily_limit",
            "daily_limit",
            before + checked.intent.notional,
            usdc,
            lambda shown: f"with this order {shown} would be traded today, which",
            _TOMORROW,
        )
    return verdicts


def _daily_orders(bounds: Bounds[int], checked: RuleInput) -> Sequence[Verdict]:
    usage, verdicts = checked.usage, []
    for scope, limit in bounds:
        before = usage.account_orders_today if scope == "account" else usage.orders_today
        verdicts += check_maxima(
            [(scope, Decimal(limit))],
            "daily_orders",
            "daily_orders",
            Decimal(before + 1),
            limit_number,
            lambda shown: f"this would be order {shown} of the day, which",
            _TOMORROW,
        )
    return verdicts


def _loss_limit(limits: Limits) -> tuple[Decimal, tuple[str, ...] | None] | None:
    return None if limits.max_daily_loss is None else (limits.max_daily_loss, limits.allowed_symbols)


def _daily_loss(bounds: Bounds[tuple[Decimal, tuple[str, ...] | None]], checked: RuleInput) -> Sequence[Verdict]:
    verdicts = []
    for scope, (limit, allowed_symbols) in bounds:
        loss = loss_of_day(checked.sums, checked.usage, checked.snapshot, allowed_symbols, scope)
        shown = usdc(loss)
        if loss < limit:
            verdicts.append(allow("daily_loss", scope, shown, f"under {usdc(limit)}"))
            continue
        text = f"the day's loss of {shown} reached the {scope}'s limit of {usdc(limit)}; it resets at 00:00 UTC"
        verdicts.append(deny("daily_loss", scope, shown, f"under {usdc(limit)}", text))
    return verdicts


def _drawdown(bounds: Bounds[Decimal], checked: RuleInput) -> Sequence[Verdict]:
    peak, value = checked.usage.equity_peak, checked.snapshot.account_value
    fallen = drawdown_of(peak, value)
    shown = percent(fallen)
    verdicts = []
    for scope, limit in bounds:
        if fallen < limit:
            verdicts.append(allow("drawdown", scope, shown, f"under {percent(limit)}"))
            continue
        text = f"equity of {usdc(value)} is {shown} below its peak of {usdc(peak or ZERO)}, the {scope}'s limit is "
        text += f"{percent(limit)}; kekbridge resume --reset-peak"
        verdicts.append(deny("drawdown", scope, shown, f"under {percent(limit)}", text))
    return verdicts


# ------------------------------------------------------------------------------------------------------- account exposure


def _leverage(bounds: Bounds[Decimal], checked: RuleInput) -> Sequence[Verdict]:
    requested, value = checked.intent.leverage, checked.snapshot.account_value
    symbol, snapshot = checked.intent.symbol, checked.snapshot
    own = checked.range.largest * exposure.price_of(symbol, snapshot, checked.after)
    gross = checked.others.notional + own + exposure.isolated_notional(symbol, snapshot)
    verdicts = []
    for scope, limit in bounds:
        if requested is not None:
            verdicts += check_maxima(
                [(scope, limit)],
                "leverage_too_high",
                "max_leverage",
                requested,
                times,
                lambda shown: f"the requested leverage of {shown}",
                "request less",
            )
        if value <= 0:
            text = f"the account is worth {usdc(value)}, no position can be opened; deposit first"
            verdicts.append(deny("leverage_too_high", scope, usdc(value), times(limit), text))
            continue
        verdicts += check_maxima(
            [(scope, limit)],
            "leverage_too_high",
            "max_leverage",
            gross / value,
            times,
            lambda shown: (
                f"with this order the total exposure would be {usdc(gross)}, {shown} the account value, which"
            ),
        )
    return verdicts


def _leverage_of_market(checked: RuleInput) -> Sequence[Verdict]:
    """Orderly: the leverage of a symbol is at most 1 / base_imr, docs/internals/orderly.md section 9."""
    requested = checked.intent.leverage
    instrument = checked.snapshot.instruments.get(checked.intent.symbol)
    if requested is None or instrument is None or instrument.base_imr <= 0:
        return ()
    limit = (1 / instrument.base_imr).to_integral_value(rounding=ROUND_DOWN)
    found, bound, symbol = times(requested), times(limit), instrument.symbol
    if requested <= limit:
        return (allow("leverage_too_high", "exchange", found, bound),)
    text = f"the requested leverage of {found} is over the exchange's {bound} in {symbol}; lower it"
    return (deny("leverage_too_high", "exchange", found, bound, text),)


def _leverage_of_isolated_position(checked: RuleInput) -> Sequence[Verdict]:
    """An isolated position has a leverage of its own, and alerts trade cross positions: the trader may mean one and get the other."""
    symbol = checked.intent.symbol
    isolated = checked.snapshot.position_quantity(symbol, MarginMode.ISOLATED)
    if checked.intent.leverage is None or not isolated:
        return ()
    found = f"{limit_number(isolated)} isolated"
    text = (
        f"leverage {times(checked.intent.leverage)} would be set for the cross position, but {symbol} has an isolated one of"
        f" {limit_number(isolated)}; remove leverage, or close that with `kekbridge close {symbol.split('_')[1]} --margin-mode isolated`"
    )
    return (deny("isolated_position", "exchange", found, "no isolated position", text),)


def _open_positions(bounds: Bounds[int], checked: RuleInput) -> Sequence[Verdict]:
    """Pass an entry in a symbol that is open already: it adds no position."""
    found = checked.others.open_symbols + 1
    if exposure.is_open(checked.intent.symbol, checked.snapshot, checked.before):
        return [allow("too_many_positions", scope, str(found), f"at most {limit}") for scope, limit in bounds]
    return check_maxima(
        [(scope, Decimal(limit)) for scope, limit in bounds],
        "too_many_positions",
        "max_open_positions",
        Decimal(found),
        limit_number,
        lambda shown: f"this would be open position {shown}, which",
        "close one first",
    )


def _free_margin(checked: RuleInput) -> Sequence[Verdict]:
    available = checked.snapshot.free_collateral - checked.others.margin_promised
    needed = exposure.margin_needed(checked.intent, checked.snapshot, checked.before, checked.range.largest)
    found, left = usdc(needed), usdc(available)
    if needed <= 0 or needed <= available:
        return (allow("margin_insufficient", "exchange", found, f"at most {left}"),)
    text = f"the order needs {found} for margin and fees, the free collateral is {left}; lower the quantity, or deposit"
    return (deny("margin_insufficient", "exchange", found, f"at most {left}", text),)


# The rules for entries, in the order in which `explain` shows them; the first denial is the one in the response.
RULES: Final[tuple[_Check | LimitRule[Any], ...]] = (
    _snapshot_age,
    _mark_age,
    LimitRule("symbol_not_allowed", lambda limits: limits.allowed_symbols, _allowed_symbols),
    LimitRule("order_too_small", lambda limits: limits.min_order_size, _smallest_order),
    LimitRule("order_too_large", lambda limits: limits.max_order_size, _largest_order),
    LimitRule("position_too_large", lambda limits: limits.max_position_size, _position_size),
    LimitRule("notional_too_large", lambda limits: limits.max_notional, _notional),
    LimitRule("daily_limit", lambda limits: limits.daily_limit, _daily_limit),
    LimitRule("daily_orders", lambda limits: limits.daily_orders, _daily_orders),
    LimitRule("daily_loss", _loss_limit, _daily_loss),
    LimitRule("drawdown", lambda limits: limits.max_drawdown, _drawdown),
    LimitRule("leverage_too_high", lambda limits: limits.max_leverage, _leverage),
    _leverage_of_market,
    _leverage_of_isolated_position,
    LimitRule("too_many_positions", lambda limits: limits.max_open_positions, _open_positions),
    LimitRule(
        "stop_loss_required",
        lambda limits: limits.require_stop_loss or None,
        entry_rules.check_stop_loss,
        not_set="not required",
    ),
    entry_rules.check_stop_distance,
    _free_margin,
    entry_rules.check_slippage,
    LimitRule("cooldown", lambda limits: limits.cooldown_s or None, entry_rules.check_cooldown),
    LimitRule("outside_trading_hours", lambda limits: limits.trading_hours or None, entry_rules.check_trading_hours),
)
