"""What a risk rule looks at, and the verdicts it returns. Shared by the rules in rules.py and entry_rules.py; decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kekbridge.model import UNCOMMITTED, AccountSnapshot, Commitment, Limits, OrderIntent, Usage, Verdict
from kekbridge.risk import exposure

NO_LIMIT: Final = "no limit"


class AccountPolicy(Struct, frozen=True, kw_only=True):
    """What applies to the orders of every webhook, from the configuration."""

    #: The account's own limits; they hold beside the webhook's.
    account_limits: Limits
    #: An account snapshot older than this (seconds) opens no position.
    max_snapshot_age_s: float
    #: A mark price older than this (seconds) opens no position.
    max_mark_age_s: float
    #: From this many queued orders on, further entries are denied.
    max_waiting: int = 500


class RuleInput(Struct, frozen=True, kw_only=True):
    """One order with everything that a rule may look at."""

    #: The order to be judged.
    intent: OrderIntent
    #: Account and markets.
    snapshot: AccountSnapshot
    #: What is used of each limit, without this order; `usage.now` is the time of the check.
    usage: Usage
    #: How old snapshot and mark may be.
    policy: AccountPolicy
    #: ("webhook", its limits) and ("account", its limits).
    scopes: tuple[tuple[str, Limits], ...]
    #: Commitments by symbol with this order included.
    with_this: Mapping[str, Commitment]

    @property
    def base(self) -> str:
        """Base currency of the order's symbol, such as BTC."""
        return self.intent.symbol.split("_")[1] if "_" in self.intent.symbol else self.intent.symbol


def is_exit(intent: OrderIntent) -> bool:
    """True for an order that can only make a position smaller: the exchange enforces it (reduce_only)."""
    return intent.reduce_only


@lru_cache(maxsize=1024)  # most of the thirty passed verdicts of an order equal those of the previous order
def allow(rule: str, scope: str, found: str, limit: str) -> Verdict:
    return Verdict(rule=rule, scope=scope, passed=True, found=found, limit=limit)


def deny(rule: str, scope: str, found: str, limit: str, message: str) -> Verdict:
    return Verdict(rule=rule, scope=scope, passed=False, found=found, limit=limit, message=message)


def check_maximum(
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
    """Return whether `found` is within `limit` (None: no limit).

    `subject` turns the formatted number into the beginning of the denial's sentence; `option` names the setting. `shown`: the
    formatted number, if the caller has it.
    """
    shown = shown or show(found)
    if limit is None:
        return allow(rule, scope, shown, NO_LIMIT)
    bound = _at_most(show, limit)
    if found <= limit:
        return allow(rule, scope, shown, bound)
    text = f"{subject(shown)} is over the {scope}'s limit of {show(limit)}; {first_fix}, or {fix_for(scope, option, 'raise')}"
    return deny(rule, scope, shown, bound, text)


@lru_cache(maxsize=256)  # there are few limits, and they rarely change
def _at_most(show: Callable[[Decimal], str], limit: Decimal) -> str:
    return f"at most {show(limit)}"


def check_scopes(
    checked: RuleInput,
    rule: str,
    option: str,
    found: Decimal,
    show: Callable[[Decimal], str],
    subject: Callable[[str], str],
    first_fix: str = "lower the quantity",
) -> list[Verdict]:
    """Apply `check_maximum` to each scope's limit named `option`."""
    shown = show(found)
    return [
        check_maximum(rule, scope, found, getattr(limits, option), show, subject, option, first_fix, shown=shown)
        for scope, limits in checked.scopes
    ]


def check_age(rule: str, age: timedelta, limit_s: float, subject: str) -> Verdict:
    """Return whether data of `age` is recent enough; `subject` begins the denial's sentence."""
    seconds = max(age.total_seconds(), 0.0)  # negative if it arrived after the alert
    found, limit = f"{seconds:.1f} s", _at_most_seconds(limit_s)
    if seconds <= limit_s:
        return allow(rule, "exchange", found, limit)
    return deny(rule, "exchange", found, limit, f"{subject} {found} ago, allowed is {limit}; see GET /readyz")


@lru_cache(maxsize=16)
def _at_most_seconds(limit_s: float) -> str:
    return f"at most {limit_s:g} s"


def fix_for(scope: str, option: str, verb: str) -> str:
    """Name the setting to change: an option of `kekbridge webhook edit`, or a key of the configuration's [risk]."""
    where = f"--{option.replace('_', '-')}" if scope == "webhook" else f"risk.{option} in the configuration"
    return f"{verb} {where}"


def committed_with(usage: Usage, intent: OrderIntent, *, is_resting: bool = False) -> Mapping[str, Commitment]:
    """Commitments by symbol with this order included."""
    before = usage.commitments.get(intent.symbol, UNCOMMITTED)
    return {**usage.commitments, intent.symbol: exposure.committed(before, intent, is_resting=is_resting)}


def with_order(usage: Usage, intent: OrderIntent) -> Usage:
    """Usage for the next order of the same alert: with this order counted."""
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
