"""What the rules said about an order: the deciding one in a sentence, all of them in a table that is folded away."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import htpy as h
from htpy import Renderable

from kekbridge.admin.elements import status, table
from kekbridge.formatting import counted, used_share
from kekbridge.model import Verdict
from kekbridge.risk.check import NO_LIMIT
from kekbridge.risk.rules import first_denial

_TITLES = ("Rule", "Scope", "Found", "Limit", "Verdict")


def verdicts_element(verdicts: Sequence[Verdict]) -> Renderable:
    """The deciding rule, and all that were checked: denied ones first, then those with a limit."""
    if not verdicts:
        return h.p(class_="dim")["No rule was checked: the alert was refused before, or asks for no order."]
    ordered = sorted(verdicts, key=lambda one: (one.passed, one.limit == NO_LIMIT))
    rows = [
        (one.rule, one.scope, one.found, one.limit, status("passed" if one.passed else "denied")) for one in ordered
    ]
    return h.details(class_="deciding")[h.summary[deciding_rule(verdicts)], table(_TITLES, rows, empty="")]


def deciding_rule(verdicts: Sequence[Verdict]) -> str:
    """The first denial; if all passed, the rule that was closest to its limit."""
    denial = first_denial(tuple(verdicts))
    if denial is not None:
        return f"Denied by {denial.rule} ({denial.scope}): found {denial.found}, limit {denial.limit}"
    passed = f"All {counted(len(verdicts), 'rule')} passed"
    shares = [(share, one) for one in verdicts if (share := _share_of(one)) is not None]
    if not shares:
        return passed
    share, closest = max(shares, key=lambda item: item[0])
    used = f"{closest.found}, limit {closest.limit} ({share * 100:.0f} %)"
    return f"{passed}; closest to its limit: {closest.rule} ({closest.scope}), found {used}"


def _share_of(verdict: Verdict) -> Decimal | None:
    """The used fraction of a limit of the trader's; None where there is no upper limit."""
    if verdict.scope == "exchange" or verdict.limit == NO_LIMIT:
        return None
    share = used_share(verdict.found, verdict.limit.removeprefix("at most "))
    return share if share is not None and 0 <= share <= 1 else None
