"""One order before the rules, and how a rule says yes or no. The vocabulary of rules.py; decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from kekbridge.model import UNCOMMITTED, AccountSnapshot, Commitment, Limits, OrderIntent, Usage, Verdict, Webhook
from kekbridge.risk import exposure

NO_LIMIT: Final = "no limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One order before the rules, with everything they may look at. `usage` leaves the order itself out."""

    intent: OrderIntent
    webhook: Webhook
    account_limits: Limits
    snapshot: AccountSnapshot
    usage: Usage
    now: datetime
    max_snapshot_age_s: float
    max_mark_age_s: float

    @property
    def scopes(self) -> tuple[tuple[str, Limits], ...]:
        return (("webhook", self.webhook.settings.limits), ("account", self.account_limits))

    @property
    def with_this(self) -> Mapping[str, Commitment]:
        """What is committed by symbol once this order is, too."""
        before = self.usage.commitments
        symbol = self.intent.symbol
        return {**before, symbol: exposure.committed(before.get(symbol, UNCOMMITTED), self.intent)}

    @property
    def base(self) -> str:
        return self.intent.symbol.split("_")[1] if "_" in self.intent.symbol else self.intent.symbol


def is_exit(intent: OrderIntent) -> bool:
    """True for an order that can only make a position smaller: the exchange holds it to that (reduce_only)."""
    return intent.reduce_only


def allow(rule: str, scope: str, found: str, limit: str) -> Verdict:
    return Verdict(rule=rule, scope=scope, passed=True, found=found, limit=limit)


def deny(rule: str, scope: str, found: str, limit: str, message: str) -> Verdict:
    return Verdict(rule=rule, scope=scope, passed=False, found=found, limit=limit, message=message)


def verdict(rule: str, scope: str, passed: bool, found: str, limit: str, message: str) -> Verdict:
    """A yes without words, or a no with the message."""
    return allow(rule, scope, found, limit) if passed else deny(rule, scope, found, limit, message)


def at_most(
    rule: str,
    scope: str,
    found: Decimal,
    limit: Decimal | None,
    show: Callable[[Decimal], str],
    subject: str,
    option: str,
    first_fix: str = "lower the quantity",
) -> Verdict:
    """Whether `found` is within `limit` (None: no limit).

    `subject` begins the sentence of a no, with `{found}` where the number stands; `option` names the setting.
    """
    if limit is None:
        return allow(rule, scope, show(found), NO_LIMIT)
    if found <= limit:
        return allow(rule, scope, show(found), f"at most {show(limit)}")
    text = subject.format(found=show(found))
    text += f" is over the {scope}'s limit of {show(limit)}; {first_fix}, or {fix_for(scope, option, 'raise')}"
    return deny(rule, scope, show(found), f"at most {show(limit)}", text)


def fresh(rule: str, age: timedelta, limit_s: float, subject: str) -> Verdict:
    """Whether knowledge of `age` is young enough."""
    seconds = max(age.total_seconds(), 0.0)  # learnt after the alert came in: as fresh as can be
    text = f"{subject} {seconds:.1f} s ago, at most {limit_s:g} s are allowed; GET /readyz says more"
    return verdict(rule, "exchange", seconds <= limit_s, f"{seconds:.1f} s", f"at most {limit_s:g} s", text)


def fix_for(scope: str, option: str, verb: str) -> str:
    """Which setting to change: an option of `kekbridge webhook edit`, or a key of the configuration's [risk]."""
    where = f"--{option.replace('_', '-')}" if scope == "webhook" else f"risk.{option} in the configuration"
    return f"{verb} {where}"


def with_order(usage: Usage, intent: OrderIntent) -> Usage:
    """The usage as the next order of the same alert meets it."""
    before = usage.commitments.get(intent.symbol, UNCOMMITTED)
    taken = exposure.committed(before, intent, is_resting=intent.may_rest)
    commitments = {**usage.commitments, intent.symbol: taken}
    if is_exit(intent):
        return replace(usage, commitments=commitments)
    return replace(
        usage,
        commitments=commitments,
        traded_today=usage.traded_today + intent.notional,
        account_traded_today=usage.account_traded_today + intent.notional,
        orders_today=usage.orders_today + 1,
        account_orders_today=usage.account_orders_today + 1,
    )
