"""What an alert may do, decided in one pure function: translate each step, judge each order, stop at the first no.

Called inside the admission transaction with the usage read there, so that what is admitted can never exceed a limit, however
many alerts arrive together. No I/O and no clock: everything it looks at is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Literal

from kekbridge.alerts.redaction import storable_text
from kekbridge.alerts.signal import Alert, Signal
from kekbridge.errors import RequestRefused
from kekbridge.model import (
    AccountSnapshot,
    LimitBreach,
    Limits,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    StrategyHistory,
    Usage,
    Verdict,
    Webhook,
)
from kekbridge.model.admission import Decision, Recheck
from kekbridge.planning.build_orders import resize
from kekbridge.planning.market_view import read_market
from kekbridge.planning.target import has_drifted
from kekbridge.planning.translate import KnownHistory, Plan, locate_step, translate
from kekbridge.risk import rules
from kekbridge.risk.check import allow, deny, is_exit, with_order
from kekbridge.risk.drawdown import breach_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPolicy:
    """What holds for every alert: the account's own limits, and how old the bridge's knowledge may be."""

    account_limits: Limits
    max_snapshot_age_s: float
    max_mark_age_s: float
    max_waiting: int = 500


def decide(
    usage: Usage,
    *,
    alert: Alert,
    webhook: Webhook,
    snapshot: AccountSnapshot,
    policy: AccountPolicy,
    fired_at: datetime | None = None,
) -> Decision:
    """Turn the steps of an alert into judged order intents. `fired_at`: None when its age does not count, as in a replay.

    Steps are taken in order; the first step that is refused or denied ends the list. What stands before it is kept, so that a close
    goes through although the entry behind it may not. Later legs wait for the leg before them.
    """
    kept: list[OrderIntent] = []
    verdicts: list[Verdict] = []
    warnings: list[str] = list(alert.warnings)
    plans: list[Plan] = []
    denied: tuple[OrderIntent, Verdict] | None = None
    refusal: RequestRefused | None = None
    courses: dict[str, StrategyHistory] = {}
    read = partial(translate, settings=webhook.settings, snapshot=snapshot)
    judge_leg = partial(_judge_leg, webhook=webhook, snapshot=snapshot, policy=policy)
    for step in alert.steps:
        history = KnownHistory(fired_at, {**usage.strategy_histories, **courses})
        try:
            plan = read(step, pending=pending_quantities(usage), first_leg=len(kept), history=history)
        except RequestRefused as refused:
            refusal = refused
            break
        plans.append(plan)
        if plan.symbol is not None and plan.strategy_history is not None:
            courses[plan.symbol] = plan.strategy_history
        warnings += (*plan.warnings, *plan.notes)
        for intent in plan.intents:
            leg, judged = judge_leg(intent, len(kept), intent is plan.intents[0], usage=usage)
            verdicts += judged
            denial = rules.first_denial(judged)
            if denial is not None:
                denied = leg, denial
                break
            kept.append(leg)
            if intent is not plan.intents[-1] or step is not alert.steps[-1]:
                usage = with_order(usage, leg)
        if denied is not None:
            break
    trips = _trips(denied[1], denied[0].notional, webhook, usage, policy) if denied else ()
    denial, told = denied[1] if denied else None, tuple(courses.items())
    return _conclude(alert, plans, kept, verdicts, warnings, denial=denial, refusal=refusal, courses=told, trips=trips)


def _judge_leg(
    intent: OrderIntent,
    number: int,
    starts_step: bool,
    *,
    webhook: Webhook,
    snapshot: AccountSnapshot,
    usage: Usage,
    policy: AccountPolicy,
) -> tuple[OrderIntent, tuple[Verdict, ...]]:
    """One order as it may be sent, behind the legs before it, and what the rules say of it."""
    allowed = rules.apply_leverage_policy(intent, webhook=webhook, account_limits=policy.account_limits)
    judged = check_rules(allowed, webhook=webhook, snapshot=snapshot, usage=usage, policy=policy)
    judged += _room_in_queue(allowed, usage.waiting_orders + number, policy)
    return _after_the_leg_before(allowed, leg=number, starts_step=starts_step), judged


def is_out_of_order(usage: Usage, *, alert: Alert, webhook: Webhook, snapshot: AccountSnapshot) -> bool:
    """True when an alert of a webhook that follows a position does not start from the position we know: perhaps it overtook another.

    One that was itself overtaken has nothing to wait for.
    """
    if webhook.settings.follow != "position":
        return False
    step = alert.steps[0]
    try:
        market = read_market(step, settings=webhook.settings, snapshot=snapshot, pending=pending_quantities(usage))
        _, newer = locate_step(step, webhook.settings, market, KnownHistory(alert.fired_at, usage.strategy_histories))
        return newer is None and has_drifted(step, market)
    except RequestRefused:
        return False


def check_rules(
    intent: OrderIntent,
    *,
    webhook: Webhook,
    snapshot: AccountSnapshot,
    usage: Usage,
    policy: AccountPolicy,
) -> tuple[Verdict, ...]:
    """Every rule's verdict on one order, for the webhook and for the account."""
    return rules.check_rules(
        (intent,),
        webhook=webhook,
        account_limits=policy.account_limits,
        snapshot=snapshot,
        usage=usage,
        now=usage.now,
        max_snapshot_age_s=policy.max_snapshot_age_s,
        max_mark_age_s=policy.max_mark_age_s,
    )


def recheck(
    usage: Usage,
    webhook: Webhook | None,
    *,
    order: Order,
    snapshot: AccountSnapshot,
    policy: AccountPolicy,
    now: datetime,
) -> Recheck:
    """The same rules as at admission on a queued order, with what is known now; for the transaction that claims it.

    `usage` leaves the order itself out. `webhook`: None when it was deleted meanwhile; the account's own limits still hold.
    """
    if order.code == "earlier_leg_failed":
        text = "an earlier step of this alert did not succeed"
        return Recheck(status=OrderStatus.DENIED, code="earlier_leg_failed", error=text)
    if now >= order.expires_at:
        waited = (now - order.created_at).total_seconds()
        text = f"waited {waited:.0f} s and may not be sent any more"
        return Recheck(status=OrderStatus.EXPIRED, code="alert_expired", error=text)
    intent = resize(order.intent, snapshot)
    if intent is None:
        text = f"{order.intent.symbol} has no position left to close"
        return Recheck(status=OrderStatus.DENIED, code="nothing_to_close", error=text)
    verdicts = check_rules(
        intent,
        webhook=webhook or _deleted(order),
        snapshot=snapshot,
        usage=usage,
        policy=policy,
    )
    denial = rules.first_denial(verdicts)
    if denial is not None:
        return Recheck(status=OrderStatus.DENIED, code=denial.rule, error=denial.message, verdicts=verdicts)
    return Recheck(status=OrderStatus.SUBMITTING, intent=intent, verdicts=verdicts)


def signal_prices(alert: Alert, *, webhook: Webhook, snapshot: AccountSnapshot) -> dict[str, Decimal]:
    """The prices by symbol at which an alert says that its market trades; steps that name none, or no market, are left out."""
    prices: dict[str, Decimal] = {}
    for step in alert.steps:
        if step.price is None or step.symbol is None or step.order_type is not OrderType.MARKET:
            continue
        try:
            market = read_market(step, settings=webhook.settings, snapshot=snapshot, pending={})
        except RequestRefused:
            continue
        price = market.price(step.price)
        if price is not None:
            prices[market.symbol] = price
    return prices


def refuse(refusal: RequestRefused, alert: Alert | None = None) -> Decision:
    """The decision for a message that its webhook vouches for, but that cannot be read as an order."""
    step = alert.steps[0] if alert and alert.steps else None
    return Decision(
        status="refused",
        code=refusal.code,
        error=refusal.message,
        field=refusal.field,
        verdicts=(),
        intents=(),
        claims_identity=refusal.status != 401,
        is_exit=False,
        action=step.action.value if step else None,
        symbol=storable_text(step.symbol) if step and step.symbol else None,
        warnings=(),
    )


def pending_quantities(usage: Usage) -> Mapping[str, Decimal]:
    """Signed quantity per symbol of our orders that are on their way and will surely trade; resting ones are left out."""
    return {symbol: commitment.sure for symbol, commitment in usage.commitments.items() if commitment.sure}


def _room_in_queue(intent: OrderIntent, waiting: int, policy: AccountPolicy) -> tuple[Verdict, ...]:
    """Whether the queue takes one more entry; exits always find room. Not asked again for an order that is in the queue."""
    if is_exit(intent):
        return ()
    most = policy.max_waiting
    found, limit = str(waiting), f"under {most}"
    if waiting < most:
        return (allow("queue_full", "account", found, limit),)
    text = f"{waiting} orders are waiting to be sent, at most {most} may; send less, or raise queue.max_waiting"
    return (deny("queue_full", "account", found, limit, text),)


def _trips(
    denial: Verdict, notional: Decimal, webhook: Webhook, usage: Usage, policy: AccountPolicy
) -> tuple[LimitBreach, ...]:
    """The scope that a denial closes for further entries, if it was a day's limit or the drawdown that said no."""
    limits = policy.account_limits if denial.scope == "account" else webhook.settings.limits
    tripped = breach_of(denial, notional=notional, limits=limits, now=usage.now)
    return () if tripped is None else (tripped,)


def _after_the_leg_before(intent: OrderIntent, *, leg: int, starts_step: bool) -> OrderIntent:
    """Chain a step's first order to the last order of the step before it; orders within a step are chained by translate."""
    if leg == 0 or not starts_step or intent.after_leg is not None:
        return intent
    return replace(intent, after_leg=leg - 1)


def _conclude(
    alert: Alert,
    plans: list[Plan],
    kept: list[OrderIntent],
    verdicts: list[Verdict],
    warnings: list[str],
    *,
    denial: Verdict | None,
    refusal: RequestRefused | None,
    courses: tuple[tuple[str, StrategyHistory], ...],
    trips: tuple[LimitBreach, ...],
) -> Decision:
    first: Signal = alert.steps[0]
    symbol = next((plan.symbol for plan in plans if plan.symbol), None) or storable_text(first.symbol or "") or None
    cancels = tuple(plan.cancel for plan in plans if plan.cancel is not None)
    code = error = field = None
    status: Literal["admitted", "denied", "refused", "ignored"] = "admitted"
    if refusal is not None:
        code, error, field = refusal.code, refusal.message, refusal.field
        status = "admitted" if kept else "refused"
    elif denial is not None:
        code, error = denial.rule, denial.message
        status = "admitted" if kept else "denied"
    elif not kept and not cancels:
        status = "ignored"
        code = next((plan.ignored_code for plan in plans if plan.ignored_code), "nothing_to_close")
    return Decision(
        status=status,
        code=code,
        error=error,
        field=field,
        verdicts=tuple(verdicts),
        intents=tuple(kept),
        is_exit=bool(plans) and all(plan.is_exit for plan in plans),
        action=first.action.value,
        symbol=symbol,
        warnings=tuple(warnings),
        cancels=cancels,
        strategy_histories=courses,
        breaches=trips,
    )


def _deleted(order: Order) -> Webhook:
    """Stands for a webhook that was deleted while its order waited: no limits of its own, the account's still hold."""
    return Webhook(id=order.webhook_id, name="(deleted)", enabled=False, created_at=order.created_at)
