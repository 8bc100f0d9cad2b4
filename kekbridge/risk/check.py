"""One order before the rules, and how a rule says yes or no. The vocabulary of rules.py; decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

from kekbridge.model import UNCOMMITTED, AccountSnapshot, Commitment, Limits, OrderIntent, Usage, Verdict
from kekbridge.risk import exposure

NO_LIMIT: Final = "no limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleInput:
    """One order before the rules, with everything they may look at. `usage` leaves the order itself out."""

    intent: OrderIntent
    snapshot: AccountSnapshot
    usage: Usage
    now: datetime
    max_snapshot_age_s: float
    max_mark_age_s: float
    scopes: tuple[tuple[str, Limits], ...]  # the webhook's and the account's
    with_this: Mapping[str, Commitment]  # what is committed by symbol once this order is, too

    @property
    def base(self) -> str:
        return self.intent.symbol.split("_")[1] if "_" in self.intent.symbol else self.intent.symbol


def is_exit(intent: OrderIntent) -> bool:
    """True for an order that can only make a position smaller: the exchange holds it to that (reduce_only)."""
    return intent.reduce_only


@lru_cache(maxsize=1024)  # most of the thirty yeses to an order are those of the order before
def allow(rule: str, scope: str, found: str, limit: str) -> Verdict:
    return Verdict(rule=rule, scope=scope, passed=True, found=found, limit=limit)


def deny(rule: str, scope: str, found: str, limit: str, message: str) -> Verdict:
    return Verdict(rule=rule, scope=scope, passed=False, found=found, limit=limit, message=message)


def at_most(
    rule: str,
    scope: str,
    found: Decimal,
    limit: Decimal | None,
    show: Callable[[Decimal], str],
    subject: Callable[[str], str],
    option: str,
    first_fix: str = "lower the quantity",
    *,
    shown: str = "",
) -> Verdict:
    """Whether `found` is within `limit` (None: no limit).

    `subject` makes the beginning of the sentence of a no from the number as it is shown; `option` names the setting. `shown`: the
    number as text, where it is known already.
    """
    shown = shown or show(found)
    if limit is None:
        return allow(rule, scope, shown, NO_LIMIT)
    bound = _at_most(show, limit)
    if found <= limit:
        return allow(rule, scope, shown, bound)
    text = f"{subject(shown)} is over the {scope}'s limit of {show(limit)}; {first_fix}, or {fix_for(scope, option, 'raise')}"
    return deny(rule, scope, shown, bound, text)


@lru_cache(maxsize=256)  # limits are few and stay
def _at_most(show: Callable[[Decimal], str], limit: Decimal) -> str:
    return f"at most {show(limit)}"


def within(
    case: RuleInput,
    rule: str,
    option: str,
    found: Decimal,
    show: Callable[[Decimal], str],
    subject: Callable[[str], str],
    first_fix: str = "lower the quantity",
) -> list[Verdict]:
    """`at_most` for each scope, with the limit that is called `option`."""
    shown = show(found)
    return [
        at_most(rule, scope, found, getattr(limits, option), show, subject, option, first_fix, shown=shown)
        for scope, limits in case.scopes
    ]


def fresh(rule: str, age: timedelta, limit_s: float, subject: str) -> Verdict:
    """Whether knowledge of `age` is young enough; `subject` begins the sentence of a no."""
    seconds = max(age.total_seconds(), 0.0)  # learnt after the alert came in: as fresh as can be
    found, limit = f"{seconds:.1f} s", _at_most_seconds(limit_s)
    if seconds <= limit_s:
        return allow(rule, "exchange", found, limit)
    return deny(rule, "exchange", found, limit, f"{subject} {found} ago, {limit} are allowed; GET /readyz says more")


@lru_cache(maxsize=16)
def _at_most_seconds(limit_s: float) -> str:
    return f"at most {limit_s:g} s"


def fix_for(scope: str, option: str, verb: str) -> str:
    """Which setting to change: an option of `kekbridge webhook edit`, or a key of the configuration's [risk]."""
    where = f"--{option.replace('_', '-')}" if scope == "webhook" else f"risk.{option} in the configuration"
    return f"{verb} {where}"


def committed_with(usage: Usage, intent: OrderIntent, *, is_resting: bool = False) -> Mapping[str, Commitment]:
    """What is committed by symbol once this order is, too."""
    before = usage.commitments.get(intent.symbol, UNCOMMITTED)
    return {**usage.commitments, intent.symbol: exposure.committed(before, intent, is_resting=is_resting)}


def with_order(usage: Usage, intent: OrderIntent) -> Usage:
    """The usage as the next order of the same alert meets it."""
    commitments = committed_with(usage, intent, is_resting=intent.may_rest)
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
