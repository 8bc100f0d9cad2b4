"""Whether an order may be sent: every rule looks at one order and says what it found, what the limit is, and yes or no.

Asked twice for each order: when its alert is admitted and right before it leaves. Pure functions; the tighter of webhook and account wins
because both are asked and one no is enough. Exits pass every limit; only `halt` stops them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Final

from kekbridge.errors import ConfigError
from kekbridge.model import ZERO, AccountSnapshot, Limits, OrderIntent, TradingState, Usage, Verdict, Webhook
from kekbridge.risk import exposure, hours
from kekbridge.risk.case import (
    NO_LIMIT,
    Case,
    allow,
    at_most,
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
        case = Case(
            intent=intent,
            webhook=webhook,
            account_limits=account_limits,
            snapshot=snapshot,
            usage=usage,
            now=now,
            max_snapshot_age_s=max_snapshot_age_s,
            max_mark_age_s=max_mark_age_s,
        )
        verdicts += _judge_one(case)
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


def _judge_one(case: Case) -> Iterator[Verdict]:
    yield from _trading_state(case)
    if is_exit(case.intent):
        yield allow("exit", "account", f"reduce-only {case.intent.side}", "exits pass every limit")
        return
    for rule in RULES:
        yield from rule(case)


# ------------------------------------------------------------------------------------------------------ may it trade at all


def _trading_state(case: Case) -> Iterator[Verdict]:
    state, reason = case.usage.trading_state, case.usage.trading_reason
    why = f" ({reason})" if reason else ""
    if state is TradingState.HALTED:
        yield deny("trading_halted", "account", state, "running", f"trading is halted{why}; kekbridge resume")
    elif state is TradingState.EXITS_ONLY and not is_exit(case.intent):
        yield deny("exits_only", "account", state, "running", f"only exits are allowed now{why}; kekbridge resume")
    else:
        yield allow("trading_halted", "account", state, "not halted")


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
    name = f"the mark price of {case.intent.symbol} was observed"
    yield fresh("no_mark_price", case.now - mark.at, case.max_mark_age_s, name)


def _allowed_symbols(case: Case) -> Iterator[Verdict]:
    symbol = case.intent.symbol
    for scope, limits in case.scopes:
        allowed = limits.allowed_symbols
        if allowed is None:
            yield allow("symbol_not_allowed", scope, symbol, NO_LIMIT)
            continue
        names = ", ".join(allowed) or "none"
        text = f"{symbol} is not among the {scope}'s allowed symbols ({names}); {fix_for(scope, 'allowed_symbols', 'add it to')}"
        yield verdict("symbol_not_allowed", scope, exposure.names_symbol(allowed, symbol), symbol, names, text)


# ---------------------------------------------------------------------------------------------------------- how much at once


def _order_size(case: Case) -> Iterator[Verdict]:
    found = case.intent.quantity
    for scope, limits in case.scopes:
        low, high = limits.min_order_size, limits.max_order_size
        if low is not None:
            text = f"the order of {number(found)} {case.base} is under the {scope}'s smallest of {number(low)}; "
            text += fix_for(scope, "min_order_size", "raise the quantity, or lower")
            yield verdict("order_too_small", scope, found >= low, number(found), f"at least {number(low)}", text)
        yield at_most(
            "order_too_large", scope, found, high, number, f"the order of {{found}} {case.base}", "max_order_size"
        )


def _position_size(case: Case) -> Iterator[Verdict]:
    found = exposure.reach_in(case.intent.symbol, case.snapshot, case.with_this).on(case.intent.side)
    subject = f"with this order and those on their way the position could be {{found}} {case.base}, that"
    for scope, limits in case.scopes:
        yield at_most(
            "position_too_large", scope, found, limits.max_position_size, number, subject, "max_position_size"
        )


def _notional(case: Case) -> Iterator[Verdict]:
    found = case.intent.notional
    for scope, limits in case.scopes:
        yield at_most(
            "notional_too_large",
            scope,
            found,
            limits.max_notional,
            usdc,
            "the order's value of {found}",
            "max_notional",
        )


# ------------------------------------------------------------------------------------------------------------ how much a day

_TOMORROW = "wait until 00:00 UTC"


def _daily_limit(case: Case) -> Iterator[Verdict]:
    traded = {"webhook": case.usage.traded_today, "account": case.usage.account_traded_today}
    for scope, limits in case.scopes:
        found = traded[scope] + case.intent.notional
        subject = "with this order {found} would be traded today, that"
        yield at_most("daily_limit", scope, found, limits.daily_limit, usdc, subject, "daily_limit", _TOMORROW)


def _daily_orders(case: Case) -> Iterator[Verdict]:
    counted = {"webhook": case.usage.orders_today, "account": case.usage.account_orders_today}
    for scope, limits in case.scopes:
        found = Decimal(counted[scope] + 1)
        limit = None if limits.daily_orders is None else Decimal(limits.daily_orders)
        subject = "this would be order {found} of the day, that"
        yield at_most("daily_orders", scope, found, limit, number, subject, "daily_orders", _TOMORROW)


def _daily_loss(case: Case) -> Iterator[Verdict]:
    for scope, limits in case.scopes:
        loss = loss_of_day(case.usage, case.snapshot, limits, scope)
        limit = limits.max_daily_loss
        if limit is None:
            yield allow("daily_loss", scope, usdc(loss), NO_LIMIT)
            continue
        text = f"the day's loss of {usdc(loss)} reached the {scope}'s cut-off of {usdc(limit)}; it resets at 00:00 UTC"
        yield verdict("daily_loss", scope, loss < limit, usdc(loss), f"under {usdc(limit)}", text)


def _drawdown(case: Case) -> Iterator[Verdict]:
    peak, value = case.usage.equity_peak, case.snapshot.account_value
    fallen = drawdown_of(peak, value)
    for scope, limits in case.scopes:
        limit = limits.max_drawdown
        if limit is None:
            yield allow("drawdown", scope, percent(fallen), NO_LIMIT)
            continue
        text = f"equity of {usdc(value)} is {percent(fallen)} under its peak of {usdc(peak or ZERO)}, the {scope}'s limit is "
        text += f"{percent(limit)}; kekbridge resume --reset-peak"
        yield verdict("drawdown", scope, fallen < limit, percent(fallen), f"under {percent(limit)}", text)


# ------------------------------------------------------------------------------------------------------ how much in all


def _leverage(case: Case) -> Iterator[Verdict]:
    requested, value = case.intent.leverage, case.snapshot.account_value
    gross = exposure.gross_notional(case.snapshot, case.with_this)
    for scope, limits in case.scopes:
        limit = limits.max_leverage
        if requested is not None:
            subject = "the requested leverage of {found}"
            yield at_most("leverage_too_high", scope, requested, limit, times, subject, "max_leverage", "ask for less")
        if limit is not None and value <= 0:
            text = f"the account is worth {usdc(value)}: nothing can be opened on it; deposit first"
            yield deny("leverage_too_high", scope, usdc(value), times(limit), text)
            continue
        effective = gross / value if value > 0 else ZERO
        subject = f"with this order everything open would be worth {usdc(gross)}, {{found}} the account, that"
        yield at_most("leverage_too_high", scope, effective, limit, times, subject, "max_leverage")
    yield from _leverage_of_market(case)


def _leverage_of_market(case: Case) -> Iterator[Verdict]:
    """Orderly: the leverage of a symbol is at most 1 / base_imr, orderly-api.md section 9."""
    instrument = case.snapshot.instruments.get(case.intent.symbol)
    requested = case.intent.leverage
    if requested is None or instrument is None or instrument.base_imr <= 0:
        return
    limit = (1 / instrument.base_imr).to_integral_value(rounding=ROUND_DOWN)
    text = f"the requested leverage of {times(requested)} is over the exchange's {times(limit)} in {instrument.symbol}; lower it"
    yield verdict("leverage_too_high", "exchange", requested <= limit, times(requested), times(limit), text)


def _open_positions(case: Case) -> Iterator[Verdict]:
    """Adding to a symbol that is open already passes: it opens nothing new."""
    held = exposure.open_symbols(case.snapshot, case.usage.commitments)
    is_new = case.intent.symbol not in held
    found = Decimal(len(held) + 1 if is_new else len(held))
    for scope, limits in case.scopes:
        limit = limits.max_open_positions
        if limit is None or not is_new:
            yield allow("too_many_positions", scope, number(found), NO_LIMIT if limit is None else f"at most {limit}")
            continue
        subject = "this would be open position {found}, that"
        yield at_most(
            "too_many_positions", scope, found, Decimal(limit), number, subject, "max_open_positions", "close one first"
        )


def _free_margin(case: Case) -> Iterator[Verdict]:
    promised = exposure.margin_promised(case.intent.symbol, case.snapshot, case.usage.commitments)
    available = case.snapshot.free_collateral - promised
    needed = exposure.margin_needed(case.intent, case.snapshot, case.usage.commitments)
    text = f"the order needs {usdc(needed)} of margin and fees, {usdc(available)} of free collateral is left; "
    text += "lower the quantity, or deposit"
    passed = needed <= 0 or needed <= available
    yield verdict("margin_insufficient", "exchange", passed, usdc(needed), f"at most {usdc(available)}", text)


# -------------------------------------------------------------------------------------------------------------- how and when


def _stop_loss(case: Case) -> Iterator[Verdict]:
    """A trailing stop does not count: it is an order of its own and cannot be placed together with the entry."""
    stop = case.intent.stop_loss
    for scope, limits in case.scopes:
        if limits.require_stop_loss:
            text = f"the {scope} requires a stop loss and the alert has none; add stopLoss as a price or a percent"
            found = "none" if stop is None else number(stop)
            yield verdict("stop_loss_required", scope, stop is not None, found, "required", text)
        else:
            yield allow("stop_loss_required", scope, "none" if stop is None else number(stop), "not required")


def _stop_distance(case: Case) -> Iterator[Verdict]:
    stop, entry = case.intent.stop_loss, case.intent.reference_price
    if stop is None or entry <= 0:
        return
    found = abs(entry - stop) / entry
    subject = f"the stop loss {number(stop)} is {{found}} from the entry {number(entry)}, that"
    for scope, limits in case.scopes:
        yield at_most(
            "stop_loss_too_far",
            scope,
            found,
            limits.max_stop_distance,
            percent,
            subject,
            "max_stop_distance",
            "move it nearer",
        )


def _slippage(case: Case) -> Iterator[Verdict]:
    """How much worse the mark is than the price the chart showed. A better price is no slippage."""
    signal, mark = case.intent.signal_price, case.snapshot.mark_price(case.intent.symbol)
    if signal is None or mark is None or signal <= 0:
        return
    found = max(ZERO, (mark - signal) * case.intent.side.sign / signal)
    subject = f"the mark {number(mark)} is {{found}} worse than the signal's {number(signal)}, that"
    for scope, limits in case.scopes:
        bounds = [limits.max_slippage, case.intent.slippage if scope == "webhook" else None]
        limit = min((bound for bound in bounds if bound is not None), default=None)
        yield at_most(
            "slippage_too_high",
            scope,
            found,
            limit,
            percent,
            subject,
            "max_slippage",
            "check the chart's venue, raise slippage",
        )


def _cooldown(case: Case) -> Iterator[Verdict]:
    last = case.usage.last_entry_at.get(case.intent.symbol)
    for scope, limits in case.scopes:
        pause = limits.cooldown_s
        if not pause or last is None:
            yield allow("cooldown", scope, "no entry yet" if last is None else "-", f"{pause} s" if pause else NO_LIMIT)
            continue
        passed_s = int((case.now - last).total_seconds())
        text = f"the last entry in {case.intent.symbol} was {passed_s} s ago, the {scope}'s cool-down is {pause} s; "
        text += f"wait {pause - passed_s} s, or {fix_for(scope, 'cooldown', 'lower')}"
        is_over = case.now - last >= timedelta(seconds=pause)
        yield verdict("cooldown", scope, is_over, f"{passed_s} s", f"at least {pause} s", text)


def _trading_hours(case: Case) -> Iterator[Verdict]:
    clock = f"{case.now:%a %H:%M} UTC"
    for scope, limits in case.scopes:
        text = limits.trading_hours
        if not text:
            yield allow("outside_trading_hours", scope, clock, NO_LIMIT)
            continue
        try:
            opens_at = hours.next_opening(text, case.now)
        except ConfigError as error:  # a limit that cannot be read must not become no limit
            yield deny("outside_trading_hours", scope, clock, text, error.message)
            continue
        opening = "never" if opens_at is None else f"{opens_at:%a %Y-%m-%d %H:%M} UTC"
        reason = f"it is {clock}, the {scope} opens positions {text} only; the next opening is {opening}"
        yield verdict("outside_trading_hours", scope, opens_at == case.now, clock, text, reason)


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
    _stop_loss,
    _stop_distance,
    _free_margin,
    _slippage,
    _cooldown,
    _trading_hours,
)
"""The rules for entries, in the order in which `explain` shows them; the first no is the answer the sender gets."""
