"""What a risk rule looks at, and the verdicts it returns. Shared by the rules in rules.py and entry_rules.py; decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from kekbridge.model import AccountSnapshot, Commitment, Limits, OrderIntent, Usage, Verdict
from kekbridge.risk import exposure
from kekbridge.risk.account_exposure import AccountExposure, Exposure
from kekbridge.risk.exposure import PositionRange

NO_LIMIT: Final = "no limit"
#: `found` of a limit that is not set: nothing was computed for it.
NOT_CHECKED: Final = "not checked"
_Limit = TypeVar("_Limit")
#: A limit by scope, `webhook` or `account`.
Bounds = Sequence[tuple[str, _Limit]]


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
    scopes: Bounds[Limits]
    #: Commitment of the order's symbol without this order, and with it.
    before: Commitment
    after: Commitment
    #: Position that can result in the order's symbol.
    range: PositionRange
    #: The account's sums over all symbols.
    sums: AccountExposure
    #: Worst case of all symbols but the order's.
    others: Exposure

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


@lru_cache(maxsize=64)
def no_limit(rule: str, scope: str, limit: str = NO_LIMIT) -> Verdict:
    """The verdict on a limit that is not set."""
    return allow(rule, scope, NOT_CHECKED, limit)


def deny(rule: str, scope: str, found: str, limit: str, message: str) -> Verdict:
    return Verdict(rule=rule, scope=scope, passed=False, found=found, limit=limit, message=message)


def check_maxima(
    bounds: Bounds[Decimal | None],
    rule: str,
    option: str,
    found: Decimal,
    show: Callable[[Decimal], str],
    subject: Callable[[str], str],
    first_fix: str = "lower the quantity",
) -> list[Verdict]:
    """Return a verdict for each scope: whether `found` is within its limit (None: no limit).

    `subject` turns the formatted number into the beginning of the denial's sentence; `option` names the setting.
    """
    shown = ""
    verdicts = []
    for scope, limit in bounds:
        if limit is None:
            verdicts.append(no_limit(rule, scope))
            continue
        shown = shown or show(found)
        bound = _at_most(show, limit)
        if found <= limit:
            verdicts.append(allow(rule, scope, shown, bound))
            continue
        fix = f"{first_fix}, or {fix_for(scope, option, 'raise')}"
        text = f"{subject(shown)} is over the {scope}'s limit of {show(limit)}; {fix}"
        verdicts.append(deny(rule, scope, shown, bound, text))
    return verdicts


@lru_cache(maxsize=256)  # there are few limits, and they rarely change
def _at_most(show: Callable[[Decimal], str], limit: Decimal) -> str:
    return f"at most {show(limit)}"


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


def with_order(usage: Usage, intent: OrderIntent) -> Usage:
    """Usage for the next order of the same alert: with this order counted."""
    symbol = intent.symbol
    after = exposure.committed(usage.commitment(symbol), intent, is_resting=intent.may_rest)
    changed = {**usage.changed_commitments, symbol: after}
    if is_exit(intent):
        return replace(usage, changed_commitments=changed)
    return replace(
        usage,
        changed_commitments=changed,
        traded_today=usage.traded_today + intent.notional,
        account_traded_today=usage.account_traded_today + intent.notional,
        orders_today=usage.orders_today + 1,
        account_orders_today=usage.account_orders_today + 1,
    )
