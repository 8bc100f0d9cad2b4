"""Decide an alert: translate each step, judge each order, stop at the first refusal or denial.

Called inside the admission transaction with the usage read there, so that admitted orders never exceed a limit, however
many alerts arrive together. No I/O and no clock: every input is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Literal

from msgspec.structs import replace

from kekbridge.alerts.redaction import storable_text
from kekbridge.alerts.signal import Alert, Signal
from kekbridge.errors import RequestRefused
from kekbridge.model import (
    ZERO,
    AccountSnapshot,
    LimitBreach,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    OvertakenEntries,
    PositionPart,
    StrategyHistory,
    Usage,
    Verdict,
    Webhook,
)
from kekbridge.model.admission import RATE_LIMITED, Decision, Recheck
from kekbridge.planning.build_orders import resize
from kekbridge.planning.market_view import no_others, read_market, resolve_symbol
from kekbridge.planning.target import has_drifted, is_without_its_start, isolated_left
from kekbridge.planning.translate import KnownHistory, Plan, locate_step, translate
from kekbridge.risk import rules
from kekbridge.risk.account_exposure import AccountExposure
from kekbridge.risk.check import AccountPolicy, allow, deny, is_exit, with_order
from kekbridge.risk.drawdown import breach_of


def decide(
    usage: Usage,
    *,
    alert: Alert,
    webhook: Webhook,
    snapshot: AccountSnapshot,
    policy: AccountPolicy,
    fired_at: datetime | None = None,
    sums: AccountExposure | None = None,
    others: Callable[[str, Decimal], Decimal] = no_others,
) -> Decision:
    """Turn the steps of an alert into judged order intents. `fired_at`: None if the alert's age does not count, as in a replay.
    `sums`: the account's running sums, so that only what changed since their last use is computed; None: from scratch. `others`: what
    other webhooks hold of a symbol's signed position.

    Steps are translated in order; the first one that is refused or denied ends the list, except among the closes of a close_all. Orders
    before it are kept, so that a close is sent even if the entry after it is refused or denied. Later legs wait for the leg before them.
    """
    kept: list[OrderIntent] = []
    verdicts: list[Verdict] = []
    warnings: list[str] = list(alert.warnings)
    plans: list[Plan] = []
    denied: tuple[OrderIntent, Verdict] | None = None
    refusal: RequestRefused | None = None
    histories: dict[str, StrategyHistory] = {}
    sums = AccountExposure() if sums is None else sums
    if any(step.all_markets for step in alert.steps):
        for position in snapshot.other_positions:
            warnings += isolated_left(position.symbol, position.quantity)
    steps = _expanded(alert.steps, webhook, snapshot, usage)
    for number, (step, is_alone) in enumerate(steps):
        known = {**usage.strategy_histories, **histories} if histories else usage.strategy_histories
        try:
            plan = translate(
                step,
                settings=webhook.settings,
                snapshot=snapshot,
                pending=usage.pending,
                others=others,
                first_leg=len(kept),
                history=KnownHistory(fired_at and (step.fired_at or fired_at), known),
            )
        except RequestRefused as refused:
            refusal = refusal or refused
            if is_alone:
                continue  # one market that cannot be closed keeps no other open
            break
        plans.append(plan)
        if plan.symbol is not None and plan.strategy_history is not None:
            histories[plan.symbol] = plan.strategy_history
        warnings += (*plan.warnings, *plan.notes)
        for intent in plan.intents:
            leg, leg_verdicts = _judge_leg(
                intent,
                len(kept),
                intent is plan.intents[0] and not is_alone,
                webhook=webhook,
                snapshot=snapshot,
                usage=usage,
                policy=policy,
                sums=sums,
            )
            verdicts += leg_verdicts
            denial = rules.first_denial(leg_verdicts)
            if denial is not None:
                denied = leg, denial
                break
            kept.append(leg)
            if intent is not plan.intents[-1] or number < len(steps) - 1:
                usage = with_order(usage, leg)
        if denied is not None:
            break
        if plan.refusal is not None:
            refusal = refusal or plan.refusal
            break
    decision = _conclude(alert, plans, kept, denial=denied[1] if denied else None, refusal=refusal)
    return replace(
        decision,
        verdicts=tuple(verdicts),
        warnings=tuple(warnings),
        overtaken=_overtaken(alert, plans, is_denied=decision.status == "denied"),
        strategy_histories=tuple(histories.items()),
        breaches=_breaches(denied[1], denied[0].notional, webhook, usage, policy) if denied else (),
    )


def _expanded(
    steps: tuple[Signal, ...], webhook: Webhook, snapshot: AccountSnapshot, usage: Usage
) -> list[tuple[Signal, bool]]:
    """The steps, with a close of all markets as one close for each that the webhook may trade; True: no other step waits for this one.

    No matter who opened a position: a close_all is the account's emergency word.
    """
    expanded: list[tuple[Signal, bool]] = []
    allowed = webhook.settings.limits.allowed_symbols
    for step in steps:
        if not step.all_markets:
            expanded.append((step, False))
            continue
        everything = replace(step, exchange=None, all_markets=False, target=None, states_position=False)
        expanded += [
            (replace(everything, symbol=symbol), True)
            for symbol in sorted({*snapshot.positions, *usage.commitments, *usage.changed_commitments})
            if snapshot.position_quantity(symbol) + usage.pending(symbol) and (allowed is None or symbol in allowed)
        ]
    return expanded


def _judge_leg(
    intent: OrderIntent,
    number: int,
    starts_step: bool,
    *,
    webhook: Webhook,
    snapshot: AccountSnapshot,
    usage: Usage,
    policy: AccountPolicy,
    sums: AccountExposure,
) -> tuple[OrderIntent, tuple[Verdict, ...]]:
    """Return the order as it may be sent, chained to the legs before it, with its verdicts."""
    allowed = rules.apply_leverage_policy(intent, webhook=webhook, account_limits=policy.account_limits)
    verdicts = _check_rate(allowed, usage)
    verdicts += rules.check_rules(allowed, webhook=webhook, policy=policy, snapshot=snapshot, usage=usage, sums=sums)
    verdicts += _check_queue_length(allowed, usage.waiting_orders + number, policy)
    return _chain_to_previous_step(allowed, leg=number, starts_step=starts_step), verdicts


def may_be_out_of_order(
    *,
    alert: Alert,
    webhook: Webhook,
    snapshot: AccountSnapshot,
    others: Callable[[str, Decimal], Decimal] = no_others,
) -> bool:
    """Return whether is_out_of_order() is worth the usage it needs: False if the positions alone show that the alert is in order."""
    if alert.steps[0].target is None:
        return False
    if webhook.settings.follow == "position":
        return True
    usage = Usage(now=snapshot.taken_at)
    return is_out_of_order(usage, alert=alert, webhook=webhook, snapshot=snapshot, others=others)


def is_out_of_order(
    usage: Usage,
    *,
    alert: Alert,
    webhook: Webhook,
    snapshot: AccountSnapshot,
    others: Callable[[str, Decimal], Decimal] = no_others,
) -> bool:
    """Return whether an alert with a strategy's position may have overtaken another: it does not start from the known position.

    An alert that was itself overtaken has nothing to wait for. In signal mode the account may hold more than the strategy, so only an
    alert waits whose start is missing, or whose open finds the other side still open. `others`: as in `decide`.
    """
    step = alert.steps[0]
    if step.target is None:
        return False
    try:
        market = read_market(step, settings=webhook.settings, snapshot=snapshot, pending=usage.pending, others=others)
        if webhook.settings.follow != "position":
            return is_without_its_start(step.target, market.seen_as(PositionPart.OWN))
        _, newer = locate_step(step, webhook.settings, market, KnownHistory(alert.fired_at, usage.strategy_histories))
        return newer is None and has_drifted(step, market.seen_as(PositionPart.OWN))
    except RequestRefused:
        return False


def recheck(
    usage: Usage,
    webhook: Webhook | None,
    *,
    order: Order,
    snapshot: AccountSnapshot,
    policy: AccountPolicy,
    now: datetime,
    sums: AccountExposure | None = None,
    left_open: Decimal = ZERO,
    others: Decimal = ZERO,
) -> Recheck:
    """Apply the admission's rules to a queued order with current data, inside the transaction that claims it.

    `usage` must not include the order itself. `webhook`: None if it was deleted meanwhile; the account's own limits still hold.
    `sums`: as in `decide`; `left_open` and `others`: as in `resize`.
    """
    if order.code == "earlier_leg_failed":
        text = "an earlier step of this alert did not succeed"
        return Recheck(status=OrderStatus.DENIED, code="earlier_leg_failed", error=text)
    if now >= order.expires_at:
        waited = (now - order.created_at).total_seconds()
        text = f"the order waited {waited:.0f} s and is too old to be sent"
        return Recheck(status=OrderStatus.EXPIRED, code="alert_expired", error=text)
    intent = resize(order.intent, snapshot, left_open=left_open, others=others)
    if intent is None:
        text = f"{order.intent.symbol} has no position left to close"
        is_stated_exit = order.intent.reduce_only and order.intent.part is not PositionPart.WHOLE
        if is_stated_exit and snapshot.position_quantity(order.intent.symbol):
            text += ": what is open is not this webhook's"
        return Recheck(status=OrderStatus.DENIED, code="nothing_to_close", error=text)
    verdicts = rules.check_rules(
        intent,
        webhook=webhook or _stand_in_webhook(order),
        policy=policy,
        snapshot=snapshot,
        usage=usage,
        sums=sums,
    )
    denial = rules.first_denial(verdicts)
    if denial is not None:
        return Recheck(status=OrderStatus.DENIED, code=denial.rule, error=denial.message, verdicts=verdicts)
    return Recheck(status=OrderStatus.SUBMITTING, intent=intent, verdicts=verdicts)


def signal_prices(alert: Alert, *, webhook: Webhook, snapshot: AccountSnapshot) -> dict[str, Decimal]:
    """Signal prices of an alert's market orders by symbol; steps without a price or a known market are left out."""
    prices: dict[str, Decimal] = {}
    for step in alert.steps:
        if step.price is None or step.symbol is None or step.order_type is not OrderType.MARKET:
            continue
        try:
            market = read_market(step, settings=webhook.settings, snapshot=snapshot)
        except RequestRefused:
            continue
        price = market.price(step.price)
        if price is not None:
            prices[market.symbol] = price
    return prices


def markets_of(alert: Alert, *, webhook: Webhook, snapshot: AccountSnapshot) -> tuple[str, ...]:
    """The markets that an alert is about: exchange symbols, or the sender's spelling of one that is not listed."""
    return tuple({_market_of(step, webhook, snapshot): None for step in alert.steps if step.symbol is not None})


def _market_of(step: Signal, webhook: Webhook, snapshot: AccountSnapshot) -> str:
    try:
        return resolve_symbol(step, settings=webhook.settings, snapshot=snapshot).symbol
    except RequestRefused:
        return storable_text(step.symbol or "").upper()


def refuse(refusal: RequestRefused, alert: Alert | None = None) -> Decision:
    """Build the decision for an authenticated message that cannot be read as an order."""
    step = alert.steps[0] if alert and alert.steps else None
    return Decision(
        status="refused",
        code=refusal.code,
        error=refusal.message,
        field=refusal.field,
        verdicts=(),
        intents=(),
        is_counted=refusal.status != 401,
        is_exit=False,
        action=step.action.value if step else None,
        symbol=storable_text(step.symbol) if step and step.symbol else None,
        warnings=(),
    )


def _check_rate(intent: OrderIntent, usage: Usage) -> tuple[Verdict, ...]:
    """The denial of an entry beyond a rate limit; exits always pass. The first of its verdicts: what it would break else does not matter.

    Not part of the recheck: that order was counted when it was admitted.
    """
    excess = usage.rate_excess
    if excess is None or is_exit(intent):
        return ()
    scope = "account" if excess.is_of_account else "webhook"
    return (deny(RATE_LIMITED, scope, "no room", excess.numbers, excess.describe()),)


def _check_queue_length(intent: OrderIntent, waiting: int, policy: AccountPolicy) -> tuple[Verdict, ...]:
    """Return whether the queue takes one more entry; exits are always taken. Not part of the recheck: that order is queued already."""
    if is_exit(intent):
        return ()
    found, limit = str(waiting), f"under {policy.max_waiting}"
    if waiting < policy.max_waiting:
        return (allow("queue_full", "account", found, limit),)
    text = f"{waiting} orders are waiting to be sent, the maximum is {policy.max_waiting}; send fewer, or raise queue.max_waiting"
    return (deny("queue_full", "account", found, limit, text),)


def _breaches(
    denial: Verdict, notional: Decimal, webhook: Webhook, usage: Usage, policy: AccountPolicy
) -> tuple[LimitBreach, ...]:
    """Return the scope that a denial closes for further entries, if the rule is a daily limit or the drawdown."""
    limits = policy.account_limits if denial.scope == "account" else webhook.settings.limits
    breach = breach_of(denial, notional=notional, limits=limits, now=usage.now)
    return () if breach is None else (breach,)


def _chain_to_previous_step(intent: OrderIntent, *, leg: int, starts_step: bool) -> OrderIntent:
    """Make a step's first order wait for the last order of the step before it; translate chains the orders within a step."""
    if leg == 0 or not starts_step or intent.after_leg is not None:
        return intent
    return replace(intent, after_leg=leg - 1)


def _conclude(
    alert: Alert,
    plans: list[Plan],
    kept: list[OrderIntent],
    *,
    denial: Verdict | None,
    refusal: RequestRefused | None,
) -> Decision:
    """Derive status, code and description of the decision from the plans and the order that ended the list."""
    first: Signal = alert.steps[0]
    symbol = next((plan.symbol for plan in plans if plan.symbol), None) or storable_text(first.symbol or "") or None
    cancels = tuple(plan.cancel for plan in plans if plan.cancel is not None)
    code = error = field = None
    status: Literal["admitted", "denied", "refused", "ignored"] = "admitted"
    has_effect = bool(kept or cancels)
    if refusal is not None:
        code, error, field = refusal.code, refusal.message, refusal.field
        status = "admitted" if has_effect else "refused"
    elif denial is not None:
        code, error = denial.rule, denial.message
        status = "admitted" if has_effect else "denied"
    elif not has_effect:
        status = "ignored"
        code = next((plan.ignored_code for plan in plans if plan.ignored_code), "nothing_to_close")
    return Decision(
        status=status,
        code=code,
        error=error,
        field=field,
        intents=tuple(kept),
        is_exit=code == RATE_LIMITED or ((bool(plans) or first.all_markets) and all(plan.is_exit for plan in plans)),
        action=first.action.value,
        symbol=symbol,
        cancels=cancels,
    )


def _overtaken(alert: Alert, plans: list[Plan], *, is_denied: bool) -> tuple[OvertakenEntries, ...]:
    """The earlier entries that the alert ends. One that is denied replaces none, it only ends what would open the other side."""
    if any(step.all_markets for step in alert.steps):
        return (OvertakenEntries(symbol=None),)
    found = (each for plan in plans for each in plan.overtaken)
    return tuple(each for each in found if each.side is not None or not is_denied)


def _stand_in_webhook(order: Order) -> Webhook:
    """Replace a webhook that was deleted while its order waited: default limits; the account's own still hold."""
    return Webhook(id=order.webhook_id, name="(deleted)", enabled=False, created_at=order.created_at)
